//! Failures on purpose, so that a running node can be seen to go on without its devices. Off, a job pays one load for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::random::Random;

/// Which share of the jobs fails.
#[derive(Debug)]
pub(crate) struct Faults {
    on: AtomicBool,
    /// 0 to 1, and the numbers that decide.
    set: Mutex<(f64, Random)>,
    injected: AtomicU64,
}

impl Faults {
    /// None.
    pub(crate) fn none() -> Faults {
        Faults { on: false.into(), set: Mutex::new((0.0, Random::new(0))), injected: AtomicU64::new(0) }
    }

    /// From now on this share of the jobs fails; of equal seeds the same ones do.
    pub(crate) fn set(&self, rate: f64, seed: u64) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = (rate, Random::new(seed));
        self.on.store(rate > 0.0, Ordering::Relaxed);
    }

    /// Whether this job fails.
    pub(crate) fn strike(&self) -> bool {
        if !self.on.load(Ordering::Relaxed) {
            return false;
        }
        let (rate, random) = &mut *self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let strikes = ((random.next() >> 11) as f64 / (1_u64 << 53) as f64) < *rate;
        self.injected.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }

    /// Failures so far.
    pub(crate) fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_setting_and_the_seed_decides_which() {
        let struck = |rate, seed| {
            let faults = Faults::none();
            faults.set(rate, seed);
            let struck: Vec<bool> = (0..1000).map(|_| faults.strike()).collect();
            assert_eq!(faults.injected(), struck.iter().filter(|struck| **struck).count() as u64);
            struck
        };
        let count = |struck: Vec<bool>| struck.into_iter().filter(|struck| *struck).count();
        assert_eq!((count(struck(0.0, 1)), count(struck(1.0, 1))), (0, 1000));
        assert!((150..250).contains(&count(struck(0.2, 1))));
        assert_eq!(struck(0.5, 7), struck(0.5, 7));
        assert_ne!(struck(0.5, 7), struck(0.5, 8));
    }
}
