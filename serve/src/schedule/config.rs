//! What larder.toml says of the schedule: what is let in, how questions become batches, and when one takes a lower rung.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::context::Class;

/// `[admission]`: what is let in, and how the classes share the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// Most questions let in and not yet answered.
    pub max_questions: usize,
    /// The adaptive limit of the same goes no lower than this, however many answers are late.
    pub least_concurrency: usize,
    /// Most predicted work let in and not yet done, in milliseconds of the scorers on the cheapest rungs.
    pub max_backlog_ms: u64,
    /// When the least wait for a batch stays above this, the queue stands, and what would wait twice as long is refused; 0 = never.
    pub standing_target_ms: u64,
    /// The classes' shares of the scorer when there is more to do than can be done.
    pub vip_weight: u32,
    /// See `vip_weight`.
    pub normal_weight: u32,
    /// See `vip_weight`.
    pub bulk_weight: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig {
            max_questions: 1_024,
            least_concurrency: 16,
            max_backlog_ms: 2_000,
            standing_target_ms: 40,
            vip_weight: 8,
            normal_weight: 3,
            bulk_weight: 1,
        }
    }
}

impl AdmissionConfig {
    /// The share of a class.
    pub fn weight(&self, class: Class) -> u32 {
        match class {
            Class::Vip => self.vip_weight,
            Class::Normal => self.normal_weight,
            Class::Bulk => self.bulk_weight,
        }
    }
}

/// `[batcher]`: how questions become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatcherConfig {
    /// Most questions in a batch.
    pub max_questions: usize,
    /// Most predicted scoring time of a batch; a single question may exceed it.
    pub max_cost_ms: u64,
    /// While the scorer is busy, the longest a question waits for others before its batch closes and is fetched ahead.
    pub max_wait_us: u64,
}

impl BatcherConfig {
    /// The most that a batch may cost: a quarter of the least time that one of its questions had, so that who comes next is not late for it.
    pub(crate) fn limit(&self, least_allowance: Duration) -> Duration {
        self.max_cost().min(least_allowance / 4)
    }

    pub(crate) fn max_cost(&self) -> Duration {
        Duration::from_millis(self.max_cost_ms)
    }
}

impl Default for BatcherConfig {
    fn default() -> Self {
        BatcherConfig { max_questions: 128, max_cost_ms: 75, max_wait_us: 25_000 }
    }
}

/// `[rungs]`: what answers a question beside the full model, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RungsConfig {
    /// The light encoder, for tenants that have one, when the full one is too slow or fails.
    pub light: bool,
    /// Scores that the model gave the same words before.
    pub cached: bool,
    /// The tenant's text for questions that a person takes over; without it a question that no model can answer is refused.
    pub fallback: bool,
    /// Scores that are held for `cached`.
    pub cache_mib: usize,
    /// A VIP's question takes the light rung when what waits before it needs more than this part of the time between its arrival and its
    /// deadline on the full one.
    pub full_until_vip: f64,
    /// See `full_until_vip`.
    pub full_until_normal: f64,
    /// See `full_until_vip`.
    pub full_until_bulk: f64,
    /// A tenant's questions that took the light rung return to the full one below this part of `full_until`.
    pub full_again_below: f64,
}

impl Default for RungsConfig {
    fn default() -> Self {
        RungsConfig {
            light: true,
            cached: true,
            fallback: true,
            cache_mib: 64,
            full_until_vip: 0.6,
            full_until_normal: 0.4,
            full_until_bulk: 0.25,
            full_again_below: 0.5,
        }
    }
}

impl RungsConfig {
    /// Bytes of the answer cache; 0 = there is none.
    pub(crate) fn cache_bytes(&self) -> usize {
        if self.cached { self.cache_mib << 20 } else { 0 }
    }

    /// The part of its time up to which a class keeps the full rung.
    pub fn full_until(&self, class: Class) -> f64 {
        match class {
            Class::Vip => self.full_until_vip,
            Class::Normal => self.full_until_normal,
            Class::Bulk => self.full_until_bulk,
        }
    }
}
