//! What a question costs on each rung, predicted before any work is spent on it.

use std::time::Duration;

/// Questions that are assumed to share what a batch costs in any case, when a queue's length is turned into time. A full batch
/// holds more; so the time is rather overestimated.
const SHARING: u32 = 16;

/// Predictions are off by about so much: a question is in time when so many times its predicted time is left.
pub(crate) const SAFETY: f64 = 1.1;

/// A question's part in the cost of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    /// The encoder's number in the node. The questions of one encoder share its base.
    pub(crate) encoder: usize,
    /// Estimated, as this encoder reads it.
    pub(crate) tokens: usize,
    /// What every forward of the encoder takes, however small the batch.
    pub(crate) base: Duration,
    /// What this question adds to it.
    pub(crate) marginal: Duration,
    /// The encoder is a table: its questions are answered by the fetch thread, as soon as they are fetched, and wait for no scorer.
    pub(crate) at_hand: bool,
}

impl Cost {
    /// Alone in a batch.
    pub(crate) fn alone(self) -> Duration {
        self.base + self.marginal
    }

    /// Among others.
    pub(crate) fn shared(self) -> Duration {
        self.base / SHARING + self.marginal
    }
}

/// A question's cost on every rung that may answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Price {
    /// None while the full model is not asked because it fails.
    pub(crate) full: Option<Cost>,
    /// None where the tenant has no light rung, or it is switched off.
    pub(crate) light: Option<Cost>,
    /// The full model's scores of this question are there already.
    pub(crate) cached: bool,
}

impl Price {
    /// Of the cheapest rung with a model; nothing where no model can be asked.
    pub(crate) fn cheapest(&self) -> Option<Cost> {
        if self.cached { None } else { self.light.or(self.full) }
    }

    /// Among others, on the best rung.
    pub(crate) fn best_shared(&self) -> Duration {
        if self.cached { Duration::ZERO } else { self.full.or(self.light).map_or(Duration::ZERO, Cost::shared) }
    }

    /// Among others, on the cheapest rung.
    pub(crate) fn cheapest_shared(&self) -> Duration {
        self.cheapest().map_or(Duration::ZERO, Cost::shared)
    }
}
