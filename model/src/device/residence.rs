//! An encoder at home on the devices: which of them encodes a batch, and who does it again when one fails.
//!
//! A device fails a job when it panics, reports an error, is silent for long or returns what are not unit vectors, and the job is done again
//! elsewhere, so that a caller sees a failure only when every device has failed the same job. What becomes of the device is in `rest`. A
//! failure counts against a CPU only once another device has done the job: one that fails everywhere is likely at fault itself, and must not
//! take the last device with it. Then, and only then, a panic goes on to the caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::device::rehearsal::Flaw;
use crate::device::schedule::Job;
use crate::device::status::{Failure, FailureKind};
use crate::device::{Devices, Place};
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::text::Tokens;

/// Where an encoder's weights lie. Dropping it frees them.
pub(crate) struct Residence {
    devices: Devices,
    id: u64,
}

/// An encoder's way through the CPU.
pub(crate) type OnCpu<'a> = dyn Fn(&Tokens) -> Embeddings + Sync + 'a;

/// A job that came to nothing.
enum Attempt {
    /// The device has no time; nobody's fault.
    Busy,
    Failed(Failure, Option<Box<dyn Any + Send>>),
}

impl Residence {
    pub(crate) fn new(devices: Devices, id: u64) -> Residence {
        Residence { devices, id }
    }

    /// One unit vector per text, in the order of `tokens`, from the device that the schedule chooses; `on_cpu` is the encoder's way there.
    /// The tokens must have been checked: what the network cannot take looks like a failure of the device.
    ///
    /// # Errors
    /// `ReportFault` when no device is left, or every one failed.
    ///
    /// # Panics
    /// When every device failed, and a CPU by a panic.
    pub(crate) fn encode(&self, tokens: &Tokens, on_cpu: &OnCpu<'_>) -> Result<Embeddings, Error> {
        let job = Job::of(tokens);
        let (mut tried, mut suspects) = (Vec::new(), Vec::new());
        let mut problem = Error::fault("encoding", "every device rests or is broken; the log says why");
        let mut panic = None;
        loop {
            let chosen = self.devices.schedule().begin(&job, &tried, Instant::now());
            let Some(device) = chosen else {
                return match panic {
                    Some(panic) => resume_unwind(panic),
                    None => Err(suspects.pop().map_or(problem, |(_, failure): (_, Failure)| failure.error)),
                };
            };
            let attempt = self.attempt(device, tokens, on_cpu);
            match attempt {
                Ok((embeddings, took)) => {
                    self.devices.schedule().finished(device, &job, took, Instant::now());
                    suspects.iter().for_each(|(suspect, failure)| self.devices.failed(*suspect, failure));
                    return Ok(embeddings);
                }
                Err(Attempt::Busy) => {
                    self.devices.schedule().abandoned(device, Instant::now());
                    problem = Error::fault("encoding", "the last device has no time");
                }
                Err(Attempt::Failed(failure, caught)) => {
                    self.devices.schedule().abandoned(device, Instant::now());
                    if self.is_cpu(device) {
                        suspects.push((device, failure));
                        panic = caught;
                    } else {
                        self.devices.failed(device, &failure);
                        problem = failure.error;
                    }
                }
            }
            tried.push(device);
        }
    }

    fn attempt(&self, device: usize, tokens: &Tokens, on_cpu: &OnCpu<'_>) -> Result<(Embeddings, Duration), Attempt> {
        let failed = |failure: Failure| Attempt::Failed(failure, None);
        if self.devices.inner().faults.strike() {
            return Err(failed(Failure::injected()));
        }
        let (embeddings, took) = match &self.devices.inner().places[device] {
            Place::Cpu(pool, flaw) => {
                let began = Instant::now();
                let work = AssertUnwindSafe(|| {
                    let embeddings = on_cpu(tokens);
                    let mut flaw = flaw.as_ref().map(|flaw| flaw.lock().unwrap_or_else(PoisonError::into_inner));
                    Flaw::strike(flaw.as_deref_mut(), embeddings)
                });
                let outcome = catch_unwind(AssertUnwindSafe(|| pool.install(work)));
                let outcome = outcome.map_err(|panic| Attempt::Failed(Failure::panicked(&*panic), Some(panic)))?;
                (outcome.map_err(failed)?, began.elapsed())
            }
            Place::Accelerator(accelerator) => {
                let pending = accelerator.encode(self.id, tokens).map_err(failed)?;
                pending.ok_or(Attempt::Busy)?.answer().map_err(failed)?
            }
            Place::Nowhere => return Err(failed(Failure::new(FailureKind::Absent, "it never opened"))),
        };
        if embeddings.len() != tokens.len() || !embeddings.are_unit_vectors() {
            return Err(failed(Failure::new(FailureKind::BadVectors, "what it returned are not unit vectors")));
        }
        Ok((embeddings, took))
    }

    fn is_cpu(&self, device: usize) -> bool {
        matches!(self.devices.inner().places[device], Place::Cpu(..))
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        for (device, place) in self.devices.inner().places.iter().enumerate() {
            if let Place::Accelerator(accelerator) = place
                && !self.devices.schedule().is_broken(device)
            {
                accelerator.forget(self.id);
            }
        }
    }
}
