//! An encoder at home on the devices: which of them encodes a batch, and who does it again when one fails.
//!
//! A device fails a job when it panics, reports an error, is silent for long or returns what are not unit vectors. It is then broken for
//! good and the job is done again elsewhere, so that a caller sees a failure only when every device has failed the same job. A CPU
//! that is the last one left is not given up: it has nobody to hand over to, and a job that fails everywhere is likely the job's own
//! fault. There, and only there, a panic goes on to the caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::device::{Devices, Place};
use crate::device_status::{Failure, FailureKind};
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::rehearsal::Flaw;
use crate::schedule::Job;
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
    /// The device has no room; nobody's fault.
    Full,
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
    /// `ReportFault` when no device is left, or the last one failed.
    ///
    /// # Panics
    /// When the last CPU does.
    pub(crate) fn encode(&self, tokens: &Tokens, on_cpu: &OnCpu<'_>) -> Result<Embeddings, Error> {
        let job = Job::of(tokens);
        let mut tried = Vec::new();
        let mut problem =
            Error::fault("encoding", "every device is broken; the log says why, a restart opens them again");
        loop {
            let began = Instant::now();
            let Some(device) = self.devices.schedule().begin(&job, &tried, began) else { return Err(problem) };
            let attempt = self.attempt(device, tokens, on_cpu);
            let mut schedule = self.devices.schedule();
            match attempt {
                Ok((embeddings, took)) => {
                    schedule.finished(device, &job, took, Instant::now());
                    return Ok(embeddings);
                }
                Err(attempt) => {
                    schedule.abandoned(device, Instant::now());
                    tried.push(device);
                    let Attempt::Failed(failure, panic) = attempt else {
                        problem = Error::fault("encoding", "the queue of the last device is full");
                        continue;
                    };
                    let last_cpu = self.is_cpu(device) && !schedule.another_answers(device);
                    if !last_cpu {
                        schedule.give_up(device, &failure);
                    } else if let Some(panic) = panic {
                        drop(schedule);
                        resume_unwind(panic);
                    }
                    problem = failure.error;
                }
            }
        }
    }

    fn attempt(&self, device: usize, tokens: &Tokens, on_cpu: &OnCpu<'_>) -> Result<(Embeddings, Duration), Attempt> {
        let failed = |failure: Failure| Attempt::Failed(failure, None);
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
                pending.ok_or(Attempt::Full)?.answer().map_err(failed)?
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
