//! `[lane]`: how much the async lane keeps, for how long, and how much of the node it may use.

use serde::{Deserialize, Serialize};

use crate::config_check::within;

/// Most questions of a tenant that may wait: half of what a log keeps under one key, so that the log never has to drop one.
pub(crate) const MAX_WAITING_PER_TENANT: usize = larder_store::MAX_LOG_ENTRIES as usize / 2;

/// `[lane]`: questions that nobody waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaneConfig {
    /// Most questions that wait, of all tenants; one more is refused. 0 = none is taken.
    pub max_waiting: usize,
    /// Most questions of one tenant that wait.
    pub max_waiting_per_tenant: usize,
    /// A question that is not answered in this time fails.
    pub max_wait_s: u64,
    /// How long an answer is kept, unless its user forgets it before.
    pub max_answer_age_s: u64,
    /// Most answers kept for one user; the oldest go first.
    pub max_answers_per_user: u32,
    /// Most of its questions in the node at once. 0 = questions are kept and none is answered.
    pub max_in_flight: usize,
    /// One goes into the node only while less predicted work than this is in it.
    pub max_backlog_ms: u64,
    /// How long one that went in may take; after that it is tried again.
    pub deadline_ms: u64,
    /// After so many internal errors a question fails.
    pub max_attempts: u32,
    /// Most Submit and Forget calls that wait for the disk; one more is refused.
    pub max_unwritten: usize,
    /// Longest wait of one GetAnswer.
    pub max_long_poll_ms: u64,
    /// Most GetAnswer calls that wait and WatchAnswers calls that are open; one more is refused.
    pub max_listeners: usize,
}

impl Default for LaneConfig {
    fn default() -> Self {
        LaneConfig {
            max_waiting: 200_000,
            max_waiting_per_tenant: 100_000,
            max_wait_s: 86_400,
            max_answer_age_s: 604_800,
            max_answers_per_user: 1_000,
            max_in_flight: 16,
            max_backlog_ms: 20,
            deadline_ms: 10_000,
            max_attempts: 5,
            max_unwritten: 1_024,
            max_long_poll_ms: 30_000,
            max_listeners: 1_024,
        }
    }
}

impl LaneConfig {
    /// Checks every value against its range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        within("lane.max_waiting", self.max_waiting, 0, 1 << 24)?;
        within("lane.max_waiting_per_tenant", self.max_waiting_per_tenant, 1, MAX_WAITING_PER_TENANT)?;
        within("lane.max_wait_s", self.max_wait_s, 1, 90 * 86_400)?;
        within("lane.max_answer_age_s", self.max_answer_age_s, 1, 3_660 * 86_400)?;
        // A user's answers of one write must fit.
        within("lane.max_answers_per_user", self.max_answers_per_user, 256, larder_store::MAX_LOG_ENTRIES)?;
        within("lane.max_in_flight", self.max_in_flight, 0, 4_096)?;
        within("lane.max_backlog_ms", self.max_backlog_ms, 1, 60_000)?;
        within("lane.deadline_ms", self.deadline_ms, 1, 3_600_000)?;
        within("lane.max_attempts", self.max_attempts, 1, 1_000)?;
        within("lane.max_unwritten", self.max_unwritten, 1, 1 << 16)?;
        within("lane.max_long_poll_ms", self.max_long_poll_ms, 1, 3_600_000)?;
        within("lane.max_listeners", self.max_listeners, 1, 1 << 20)
    }
}
