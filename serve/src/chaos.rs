//! Chaos: faults that a running node has on purpose, so that its operators can see what its callers will.
//!
//! Off by default, and refused unless the process was started with `--allow-chaos`: nobody who reaches the Admin service of a node in
//! production can turn it on. What is slow or fails belongs to others (the store, the devices) and is only told so here; what concerns
//! calls, late replies and cut connections, is decided here. `larder chaos` sets it while the node runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use larder_store::StoreFaults;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::metrics;

/// The longest latency, in milliseconds.
const MAX_LATENCY_MS: u64 = 10_000;

/// `[chaos]`: which faults the node has on purpose. 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChaosConfig {
    /// Every fetch of features takes up to this much longer, at random.
    pub store_latency_ms: u64,
    /// Every read of the cold tier takes up to this much longer, at random.
    pub cold_latency_ms: u64,
    /// Share of the reads of the cold tier that fail, 0 to 1.
    pub cold_error_rate: f64,
    /// Share of the jobs that a device fails, 0 to 1.
    pub device_failure_rate: f64,
    /// Every reply waits this long before it is sent, as if its client were slow.
    pub reply_latency_ms: u64,
    /// Share of the questions whose connection is cut, 0 to 1; other calls on that connection go with it.
    pub drop_connection_rate: f64,
    /// Decides which of them are struck.
    pub seed: u64,
}

impl ChaosConfig {
    /// Checks every value against its range; `section` begins each name in a message.
    pub(crate) fn validate(&self, section: &str) -> Result<(), String> {
        for (name, value) in self.latencies() {
            if value > MAX_LATENCY_MS {
                return Err(format!("{section}{name} = {value}: must be 0 to {MAX_LATENCY_MS}"));
            }
        }
        for (name, value) in self.rates() {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{section}{name} = {value}: must be 0 to 1"));
            }
        }
        Ok(())
    }

    /// What is on, in words: "cold_latency_ms = 1000, drop_connection_rate = 0.1"; empty when nothing is.
    pub(crate) fn faults(&self) -> String {
        let latencies = self.latencies().into_iter().filter(|(_, value)| *value > 0);
        let rates = self.rates().into_iter().filter(|(_, value)| *value > 0.0);
        let latencies = latencies.map(|(name, value)| format!("{name} = {value}"));
        latencies.chain(rates.map(|(name, value)| format!("{name} = {value}"))).collect::<Vec<_>>().join(", ")
    }

    fn latencies(&self) -> [(&'static str, u64); 3] {
        [
            ("store_latency_ms", self.store_latency_ms),
            ("cold_latency_ms", self.cold_latency_ms),
            ("reply_latency_ms", self.reply_latency_ms),
        ]
    }

    fn rates(&self) -> [(&'static str, f64); 3] {
        [
            ("cold_error_rate", self.cold_error_rate),
            ("device_failure_rate", self.device_failure_rate),
            ("drop_connection_rate", self.drop_connection_rate),
        ]
    }
}

/// The faults of a node.
#[derive(Debug)]
pub(crate) struct Chaos {
    allowed: bool,
    /// Held while the faults are told to those who have them, so that two calls cannot leave a mixture.
    config: Mutex<ChaosConfig>,
    /// Whether a call has to look further.
    on: AtomicBool,
    draws: AtomicU64,
    late: AtomicU64,
    cut: AtomicU64,
}

impl Chaos {
    /// The faults of larder.toml, not yet told to anybody.
    pub(crate) fn new(config: ChaosConfig, allowed: bool) -> Result<Chaos, Error> {
        let faults = config.faults();
        if !allowed && !faults.is_empty() {
            return Err(Error::ChaosNotAllowed { faults });
        }
        let (draws, zero) = (AtomicU64::new(config.seed), AtomicU64::default);
        Ok(Chaos { allowed, config: Mutex::new(config), on: false.into(), draws, late: zero(), cut: zero() })
    }

    /// Whether the process was started with `--allow-chaos`.
    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed
    }

    pub(crate) fn config(&self) -> ChaosConfig {
        *self.lock()
    }

    /// Replaces all faults. Without an engine they wait until there is one.
    pub(crate) fn set(&self, config: ChaosConfig, engine: Option<&Engine>) -> Result<(), Refusal> {
        if !self.allowed {
            return Err(Refusal::NotAllowed(
                "this node was started without --allow-chaos, so it has no faults on purpose; start one for tests with \
                 `larder serve --allow-chaos`"
                    .to_owned(),
            ));
        }
        config.validate("").map_err(Refusal::Invalid)?;
        *self.lock() = config;
        if let Some(engine) = engine {
            self.apply(engine);
        }
        Ok(())
    }

    /// Tells everybody which faults they have.
    pub(crate) fn apply(&self, engine: &Engine) {
        let config = self.lock();
        engine.store.set_faults(StoreFaults {
            fetch_latency_ms: config.store_latency_ms,
            cold_latency_ms: config.cold_latency_ms,
            cold_error_rate: config.cold_error_rate,
            seed: config.seed,
        });
        engine.devices.set_failure_rate(config.device_failure_rate, config.seed);
        self.draws.store(config.seed, Ordering::Relaxed);
        self.on.store(config.reply_latency_ms > 0 || config.drop_connection_rate > 0.0, Ordering::Relaxed);
        let faults = config.faults();
        if !faults.is_empty() {
            tracing::warn!(faults, "CHAOS IS ON: this node has faults on purpose; `larder chaos --off` ends them");
        } else if self.allowed {
            tracing::info!("chaos is allowed and off");
        }
    }

    /// What an operator must know while any fault is on.
    pub(crate) fn warning(&self) -> Option<String> {
        let faults = self.config().faults();
        let warn = || format!("chaos is on, this node has faults on purpose: {faults}; `larder chaos --off` ends them");
        (!faults.is_empty()).then(warn)
    }

    /// Whether the connection of the question that just came is to be cut.
    pub(crate) fn cuts(&self) -> bool {
        if !self.on.load(Ordering::Relaxed) {
            return false;
        }
        let cuts = self.random() < self.config().drop_connection_rate;
        self.cut.fetch_add(u64::from(cuts), Ordering::Relaxed);
        cuts
    }

    /// Waits for as long as a reply is held back.
    pub(crate) async fn before_reply(&self) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let latency_ms = self.config().reply_latency_ms;
        if latency_ms > 0 {
            self.late.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(latency_ms)).await;
        }
    }

    /// Brings the count of faults that struck up to date.
    pub(crate) fn observe(&self, engine: &Engine) {
        if !self.allowed {
            return;
        }
        let store = engine.store.injected_faults();
        metrics::set_chaos_injected("store_latency", store.fetch_latency);
        metrics::set_chaos_injected("cold_latency", store.cold_latency);
        metrics::set_chaos_injected("cold_error", store.cold_error);
        metrics::set_chaos_injected("device_failure", engine.devices.injected_failures());
        metrics::set_chaos_injected("reply_latency", self.late.load(Ordering::Relaxed));
        metrics::set_chaos_injected("drop_connection", self.cut.load(Ordering::Relaxed));
    }

    /// A number in [0, 1), by SplitMix64.
    fn random(&self) -> f64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut mixed = self.draws.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ChaosConfig> {
        // Replaced whole.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_refused_with_the_way_to_allow_it() {
        let config = ChaosConfig { cold_latency_ms: 1000, drop_connection_rate: 0.1, ..ChaosConfig::default() };
        let message = Chaos::new(config, false).unwrap_err().to_string();
        assert!(message.contains("cold_latency_ms = 1000, drop_connection_rate = 0.1"), "{message}");
        assert!(message.contains("--allow-chaos"), "{message}");
        let seeded = ChaosConfig { seed: 7, ..ChaosConfig::default() };
        let calm = Chaos::new(seeded, false).unwrap();
        let refusal = calm.set(config, None).unwrap_err();
        assert!(refusal.to_string().contains("--allow-chaos"), "{refusal}");
        assert_eq!((calm.config(), calm.warning()), (seeded, None));
    }

    #[test]
    fn every_value_has_a_range() {
        let chaos = Chaos::new(ChaosConfig::default(), true).unwrap();
        for (config, says) in [
            (
                ChaosConfig { store_latency_ms: 10_001, ..Default::default() },
                "store_latency_ms = 10001: must be 0 to 10000",
            ),
            (ChaosConfig { cold_error_rate: 1.5, ..Default::default() }, "cold_error_rate = 1.5: must be 0 to 1"),
            (ChaosConfig { device_failure_rate: f64::NAN, ..Default::default() }, "device_failure_rate = NaN"),
        ] {
            let message = chaos.set(config, None).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
            assert_eq!(chaos.config(), ChaosConfig::default());
        }
        let config = ChaosConfig { reply_latency_ms: 5, ..Default::default() };
        chaos.set(config, None).unwrap();
        assert!(chaos.warning().unwrap().contains("reply_latency_ms = 5"));
        assert!(!chaos.cuts(), "it strikes once the node serves");
    }
}
