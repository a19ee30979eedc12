//! A device that failed several times in a row rests, and comes back once it passes its self-check.
//!
//! This is the breaker of a device. A failure that says what the device is, a panic or vectors that are none, is final; an error it reports
//! or a silence may pass. `schedule` counts them and says for how long the device rests; here is the thread that waits for the end of the
//! rest and asks the device for the self-check. There is one for each resting device, and it ends with the rest, or with the node.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device};

use crate::device::accelerator_thread::caught;
use crate::device::rehearsal::Flaw;
use crate::device::self_check::check_operations;
use crate::device::status::{Failure, FailureKind};
use crate::device::{Devices, Place};
use crate::embeddings::Embeddings;

/// The longest rest, unless the first one is set longer.
const MAX_REST: Duration = Duration::from_secs(300);

/// When a device rests, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestRule {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// The first rest; each failed self-check doubles it.
    pub(crate) rest: Duration,
}

impl RestRule {
    /// The rest after so many others in a row.
    pub(crate) fn rest_after(&self, rests: u32) -> Duration {
        let doubled = self.rest.saturating_mul(1_u32.checked_shl(rests).unwrap_or(u32::MAX));
        doubled.min(MAX_REST.max(self.rest))
    }
}

impl Devices {
    /// Notes that a device failed a job, and lets it rest where that was one time too often.
    pub(crate) fn failed(&self, device: usize, failure: &Failure) {
        let rest = self.schedule().failed(device, failure, Instant::now());
        let Some(rest) = rest else { return };
        let node = Arc::downgrade(&self.0);
        let until_it_is_well = move || {
            let mut rest = rest;
            loop {
                std::thread::sleep(rest);
                let Some(devices) = node.upgrade().map(Devices) else { return };
                let outcome = devices.check(device);
                match devices.schedule().checked(device, &outcome, Instant::now()) {
                    Some(next) => rest = next,
                    None => return,
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("model-rest".to_owned()).spawn(until_it_is_well) {
            let failure = Failure::new(FailureKind::Absent, format_args!("nobody can wake it: {error}"));
            self.schedule().give_up(device, &failure);
        }
    }

    /// Whether the device computes what the CPU computes.
    fn check(&self, device: usize) -> Result<(), Failure> {
        if self.0.faults.strike() {
            return Err(Failure::injected());
        }
        match &self.0.places[device] {
            Place::Cpu(pool, flaw) => caught(|| {
                let checked = pool.install(|| check_operations(&Device::flex(), DType::F32));
                checked.map_err(|problem| Failure::new(FailureKind::SelfCheck, problem))?;
                let mut flaw = flaw.as_ref().map(|flaw| flaw.lock().unwrap_or_else(PoisonError::into_inner));
                Flaw::strike(flaw.as_deref_mut(), Embeddings::zeros(1, 0)).map(|_| ())
            }),
            Place::Accelerator(accelerator) => accelerator.check()?.answer(),
            Place::Nowhere => Err(Failure::new(FailureKind::Absent, "it never opened")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_bound() {
        let rule = RestRule { failures: 5, rest: Duration::from_secs(30) };
        let rests: Vec<u64> = [0, 1, 2, 3, 4, 40].iter().map(|rests| rule.rest_after(*rests).as_secs()).collect();
        assert_eq!(rests, [30, 60, 120, 240, 300, 300]);
        let long = RestRule { failures: 5, rest: Duration::from_secs(3000) };
        assert_eq!(long.rest_after(3), long.rest);
    }
}
