//! A question on its way: as it was asked, as it was let in, and the answer that goes back. A new type at each stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_store::{Status, Tier};
use tokio::sync::oneshot;

use crate::context::RequestContext;
use crate::error::Refusal;
use crate::feedback::AnswerId;
use crate::rung::Choice;
use crate::schedule::admission::Permit;
use crate::schedule::closing::ClosedBy;
use crate::scores::Scores;
use crate::tenant::Tenant;

/// A question as it was asked, checked by the wire layer.
#[derive(Debug)]
pub(crate) struct Question {
    /// Not empty, within node.max_text_chars.
    pub(crate) text: String,
    /// The caller's own name for it.
    pub(crate) request_id: String,
    /// When the answer must have left the node.
    pub(crate) deadline: Instant,
    /// What the caller should know already: a deadline that was cut.
    pub(crate) notes: Vec<String>,
}

/// A question that was let in. Dropping it gives its room back and tells the caller that nobody answers.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) question: Question,
    pub(crate) context: RequestContext,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) arrived: Instant,
    /// Estimated tokens, in which the cost model learns.
    pub(crate) estimated_tokens: usize,
    /// What its words say on the full rung, if they were asked before.
    pub(crate) scores: Option<Arc<Scores>>,
    pub(crate) permit: Permit,
    pub(crate) reply: oneshot::Sender<Result<Answer, Refusal>>,
}

impl Admitted {
    /// Whether working on it would be in vain.
    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        self.reply.is_closed() || now >= self.question.deadline
    }

    /// Ends it with an answer or a refusal. A caller who has gone is no error.
    pub(crate) fn finish(self, outcome: Result<Answer, Refusal>) {
        // Room first: a caller who asks again at once must find it.
        drop(self.permit);
        let _ = self.reply.send(outcome);
    }
}

/// A question of a batch, with the rung that was chosen for it when the batch closed.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) question: Admitted,
    pub(crate) choice: Choice,
}

/// What goes back to the caller.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) request_id: String,
    /// By which feedback names it; none where it is not kept.
    pub(crate) id: Option<AnswerId>,
    pub(crate) text: String,
    /// The intent's name; empty when handed over.
    pub(crate) intent: String,
    pub(crate) confidence: f32,
    pub(crate) handed_over: bool,
    pub(crate) candidates: Vec<Candidate>,
    /// What made it, and why.
    pub(crate) choice: Choice,
    pub(crate) views: Vec<Provenance>,
    pub(crate) notes: Vec<String>,
    pub(crate) timings: Timings,
    pub(crate) batch: BatchInfo,
}

#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) intent: String,
    pub(crate) title: String,
    pub(crate) probability: f32,
}

/// What one view knew about the user.
#[derive(Debug, Clone)]
pub(crate) struct Provenance {
    pub(crate) view: String,
    pub(crate) status: Status,
    pub(crate) tier: Tier,
    pub(crate) event_time_ms: i64,
    pub(crate) age_ms: i64,
    pub(crate) generation: u32,
}

/// The batch an answer was made in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchInfo {
    pub(crate) id: u64,
    pub(crate) size: usize,
    pub(crate) closed_by: ClosedBy,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    pub(crate) queue: Duration,
    pub(crate) tokenize: Duration,
    pub(crate) fetch: Duration,
    pub(crate) ready: Duration,
    pub(crate) score: Duration,
    pub(crate) render: Duration,
    pub(crate) total: Duration,
}
