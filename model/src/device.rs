//! Where models run: the devices of a node, opened once and shared by all of its encoders.
//!
//! The CPU device has a thread pool of its own: Burn's parallel loops run in the pool of the thread that calls them, and two models
//! sharing the global pool would steal each other's work. Callers enter that pool themselves, so that the CPU costs no queue; an
//! accelerator is driven by its own thread (`accelerator`). `schedule` says which device takes a job, `residence` what happens when it
//! fails, `rest` when it is tried again.
//!
//! The CPU is always there, on standby where larder.toml does not list it, and has every encoder's weights from the start: they are
//! needed to check what the other devices compute, and a reserve that must first read 90 MB from a disk is none.

pub(crate) mod name;
pub(crate) mod plan;
pub(crate) mod status;
pub(crate) mod schedule;
pub(crate) mod rest;
pub(crate) mod residence;
pub(crate) mod accelerator;
pub(crate) mod accelerator_thread;
pub(crate) mod padded_bert;
pub(crate) mod bucket;
pub(crate) mod self_check;
pub(crate) mod rehearsal;
pub(crate) mod faults;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::bert::config::BertConfig;
use crate::bert::weights::BertWeights;
use crate::config::ModelConfig;
use crate::device::accelerator::Accelerator;
use crate::device::accelerator_thread::Placement;
use crate::device::bucket::Bucket;
use crate::device::faults::Faults;
use crate::device::plan::{DevicePlan, Planned};
use crate::device::rehearsal::{Flaw, Rehearsal};
use crate::device::residence::{OnCpu, Residence};
use crate::device::rest::RestRule;
use crate::device::schedule::Schedule;
use crate::device::self_check::Reference;
use crate::device::status::{DeviceState, DeviceStatus};
use crate::error::Error;
use crate::metrics;

/// The devices of a node; clones share them.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

pub(crate) struct Inner {
    /// In the order of the schedule.
    pub(crate) places: Vec<Place>,
    /// The place of the CPU that other model work runs on.
    cpu: usize,
    schedule: Mutex<Schedule>,
    micro_batch_tokens: usize,
    encoders: AtomicU64,
    pub(crate) faults: Faults,
}

/// What a device is made of.
pub(crate) enum Place {
    /// A pool that callers enter.
    Cpu(ThreadPool, Option<Mutex<Flaw>>),
    /// A thread that takes jobs.
    Accelerator(Accelerator),
    /// Nothing: it was broken when it was opened.
    Nowhere,
}

impl Devices {
    /// Opens the devices that the configuration names. One that does not open or fails its self-check is broken from the start and
    /// is no error: the CPU answers, and `states` says so.
    ///
    /// # Errors
    /// `FixConfig` for a value in `config`, `ReportFault` when threads cannot be started.
    pub fn open(config: &ModelConfig) -> Result<Devices, Error> {
        config.validate()?;
        Devices::build(DevicePlan::of_config(config)?, config)
    }

    /// Opens devices for tests in place of those that the configuration names, and a CPU on standby where none is among them.
    ///
    /// # Errors
    /// As `open`.
    #[doc(hidden)]
    pub fn rehearse(config: &ModelConfig, devices: Vec<Rehearsal>) -> Result<Devices, Error> {
        config.validate()?;
        Devices::build(DevicePlan::of_rehearsal(devices, config.threads), config)
    }

    fn build(plans: Vec<DevicePlan>, config: &ModelConfig) -> Result<Devices, Error> {
        let rest = Duration::from_millis(config.device_rest_ms);
        let rule = RestRule { failures: config.device_failures, rest };
        let mut schedule = Schedule::new(plans.iter().map(|plan| (plan.name.clone(), plan.state)), rule);
        let mut places = Vec::with_capacity(plans.len());
        for (device, plan) in plans.into_iter().enumerate() {
            places.push(match plan.kind {
                Planned::Cpu { threads, flaw } => Place::Cpu(pool(threads)?, flaw.map(Mutex::new)),
                Planned::Accelerator { source, dtype } => match Accelerator::start(&plan.name, source, dtype) {
                    Ok(accelerator) => {
                        tracing::info!(device = plan.name, ?dtype, "device opened, its operations are right");
                        Place::Accelerator(accelerator)
                    }
                    Err(failure) => {
                        schedule.give_up(device, &failure);
                        Place::Nowhere
                    }
                },
            });
        }
        let cpu = places.iter().position(|place| matches!(place, Place::Cpu(..)));
        let cpu = cpu.ok_or_else(|| Error::fault("opening the devices", "there is no CPU among them"))?;
        let encoders = AtomicU64::new(0);
        let schedule = Mutex::new(schedule);
        let (micro_batch_tokens, faults) = (config.micro_batch_tokens, Faults::none());
        Ok(Devices(Arc::new(Inner { places, cpu, schedule, micro_batch_tokens, encoders, faults })))
    }

    /// How each device is; in the order of larder.toml, a CPU on standby last.
    pub fn states(&self) -> Vec<DeviceStatus> {
        self.schedule().statuses(Instant::now())
    }

    /// How many jobs can run at once: one on each ready device, and at least 1 for the CPU on standby.
    pub fn parallel_jobs(&self) -> usize {
        self.states().iter().filter(|device| device.state == DeviceState::Ready).count().max(1)
    }

    /// Sets the gauges of the devices' states and speeds, which are read when somebody asks.
    pub fn observe(&self) {
        self.states().iter().for_each(metrics::observe_device);
    }

    /// Lets this share of the jobs, 0 to 1, fail on the device that takes them, and of the self-checks too, until it is set to 0: a test
    /// instrument. Of equal seeds the same ones fail.
    pub fn set_failure_rate(&self, rate: f64, seed: u64) {
        self.0.faults.set(rate, seed);
    }

    /// How many failed on purpose so far.
    pub fn injected_failures(&self) -> u64 {
        self.0.faults.injected()
    }

    /// Tokens that go through a network together.
    pub(crate) fn micro_batch_tokens(&self) -> usize {
        self.0.micro_batch_tokens
    }

    /// Runs model work in the CPU's pool.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0.places[self.0.cpu] {
            Place::Cpu(pool, _) => pool.install(work),
            // `build` saw to it that this is a CPU.
            Place::Accelerator(_) | Place::Nowhere => work(),
        }
    }

    /// Makes an encoder at home on every accelerator, whose weights `weights` reads and which `on_cpu` runs on the CPU. Returns once
    /// every bucket is warm and checked; a device that fails at it is broken.
    ///
    /// # Errors
    /// Those of `weights`.
    pub(crate) fn place(
        &self,
        encoder: &str,
        bert: &BertConfig,
        max_tokens: usize,
        weights: impl FnOnce() -> Result<BertWeights, Error>,
        on_cpu: &OnCpu<'_>,
    ) -> Result<Residence, Error> {
        let id = self.0.encoders.fetch_add(1, Ordering::Relaxed);
        let residence = Residence::new(self.clone(), id);
        let whole = |device: &usize| !self.schedule().is_broken(*device);
        let accelerators = self.0.places.iter().enumerate().filter_map(|(device, place)| match place {
            Place::Accelerator(accelerator) => Some((device, accelerator)),
            Place::Cpu(..) | Place::Nowhere => None,
        });
        let accelerators: Vec<_> = accelerators.filter(|(device, _)| whole(device)).collect();
        if accelerators.is_empty() {
            return Ok(residence);
        }
        let reference = Reference::new(bert.vocab_size, max_tokens, |tokens| {
            let began = Instant::now();
            let vectors = self.install(|| on_cpu(tokens));
            self.schedule().measured(self.0.cpu, Bucket::of_job(tokens), tokens.total(), began.elapsed());
            vectors
        });
        let placement = Placement {
            id,
            encoder: encoder.to_owned(),
            weights: Arc::new(weights()?),
            max_tokens,
            reference: Arc::new(reference),
        };
        // All devices at once; then the answers one after the other.
        let placing: Vec<_> = accelerators
            .into_iter()
            .map(|(device, accelerator)| (device, accelerator.place(placement.clone())))
            .collect();
        drop(placement);
        for (device, pending) in placing {
            match pending.and_then(|pending| pending.wait(None)) {
                Ok(measured) => {
                    let mut schedule = self.schedule();
                    measured
                        .into_iter()
                        .for_each(|(bucket, tokens, took)| schedule.measured(device, bucket, tokens, took));
                }
                Err(failure) => self.schedule().give_up(device, &failure),
            }
        }
        Ok(residence)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // What it holds is changed in single steps, none of which panics halfway.
        self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool(threads: usize) -> Result<ThreadPool, Error> {
    let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("model-{index}"));
    builder.build().map_err(|error| Error::fault("starting the model's threads", error))
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.states().into_iter().map(|device| device.name).collect();
        formatter.debug_struct("Devices").field("names", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(devices: &[&str]) -> Vec<(String, DeviceState, String)> {
        let devices = devices.iter().map(|name| (*name).to_owned()).collect();
        let devices = Devices::open(&ModelConfig { devices, threads: 1, ..ModelConfig::default() }).unwrap();
        assert_eq!(devices.parallel_jobs(), 1);
        assert_eq!(devices.install(rayon::current_num_threads), 1, "the CPU is there whatever is listed");
        devices.states().into_iter().map(|device| (device.name, device.state, device.reason)).collect()
    }

    #[test]
    fn the_cpu_alone_is_ready() {
        assert_eq!(open(&["cpu"]), [("cpu".to_owned(), DeviceState::Ready, String::new())]);
    }

    /// No machine has 64 GPUs; most that run this test have no driver either.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_that_is_not_there_is_broken_and_the_cpu_stands_by() {
        let states = open(&["cuda:63"]);
        assert_eq!((states[0].0.as_str(), states[0].1), ("cuda:63", DeviceState::Broken));
        assert!(states[0].2.contains("the NVIDIA driver shows"), "{states:?}");
        assert_eq!((states[1].0.as_str(), states[1].1), ("cpu", DeviceState::Standby));
        let states = open(&["cuda:63", "cpu"]);
        assert_eq!((states[0].1, states[1].1), (DeviceState::Broken, DeviceState::Ready));
    }
}
