//! `[feedback]`: how many answers are kept until somebody says whether they helped, and for how long.

use larder_store::{MAX_LOG_ENTRIES, MAX_LOG_ENTRY_BYTES};
use serde::{Deserialize, Serialize};

use crate::config_check::within;

/// Parts of each log; a user's entries are all in one, so that whoever erases a user reads that part alone.
pub(crate) const PARTS: u32 = 64;
const MAX_ENTRIES: u32 = MAX_LOG_ENTRIES * PARTS;
const MAX_AGE_S: u64 = 10 * 366 * 86_400;

/// `[feedback]`: answers that are kept for feedback, and the feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackConfig {
    /// Share of the answers that are kept, drawn by lot; 0 = none.
    pub share: f64,
    /// Most answers of a tenant that wait for feedback; the oldest go first.
    pub max_answers: u32,
    /// How long an answer waits for feedback.
    pub max_answer_age_s: u64,
    /// Most answers of a tenant that are kept with their feedback; the oldest go first.
    pub max_feedback: u32,
    /// How long feedback is kept.
    pub max_feedback_age_s: u64,
    /// Largest answer with its question and its features; a larger one is not kept.
    pub max_entry_bytes: u32,
    /// Answers and feedback that wait for the disk; one more answer is not kept, one more call is refused.
    pub max_unwritten: usize,
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        FeedbackConfig {
            share: 0.0,
            max_answers: 64_000,
            max_answer_age_s: 604_800,
            max_feedback: 256_000,
            max_feedback_age_s: 7_776_000,
            max_entry_bytes: 16_384,
            max_unwritten: 1_024,
        }
    }
}

impl FeedbackConfig {
    /// Checks every value against its range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        within("feedback.share", self.share, 0.0, 1.0)?;
        within("feedback.max_answers", self.max_answers, PARTS, MAX_ENTRIES)?;
        within("feedback.max_answer_age_s", self.max_answer_age_s, 60, MAX_AGE_S)?;
        within("feedback.max_feedback", self.max_feedback, PARTS, MAX_ENTRIES)?;
        within("feedback.max_feedback_age_s", self.max_feedback_age_s, 60, MAX_AGE_S)?;
        within("feedback.max_entry_bytes", self.max_entry_bytes, 1_024, MAX_LOG_ENTRY_BYTES)?;
        within("feedback.max_unwritten", self.max_unwritten, 1, 65_536)
    }
}
