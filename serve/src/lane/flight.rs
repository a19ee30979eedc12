//! One question of the lane in the node: in through the node's ordinary door, as bulk, and back to the writer with what became of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use larder_store::TenantId;

use crate::context::{Class, RequestContext};
use crate::engine::Engine;
use crate::error::Refusal;
use crate::lane::order::Waiting;
use crate::lane::record::StoredQuestion;
use crate::lane::wire::{Times, answered};
use crate::lane::writer::Command;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::question::Question;
use crate::rung::{Choice, Source, Why};

/// When a question is tried again that the node had only a fallback text for.
const FALLBACK_RETRY: Duration = Duration::from_millis(500);

/// A question that went into the node. However it ends, it lands: the writer is told when this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    commands: Sender<Command>,
    landing: Option<Landing>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) tenant: TenantId,
    pub(crate) waiting: Waiting,
    /// The caller's own name for the question.
    pub(crate) request_id: String,
    /// The bytes to keep of the answer, or why there is none.
    pub(crate) outcome: Result<Vec<u8>, Refusal>,
}

/// Whether the node has so little to do that a question of the lane delays nobody: the one place that judges it. Nobody of a higher class waits,
/// and all that was let in takes less than `limit`; the lane's own questions count, so that they do not pile up in front of who comes next.
pub(crate) fn has_spare_capacity(engine: &Engine, limit: Duration) -> bool {
    let backlog = engine.queue.backlog();
    let somebody_waits = [Class::Vip, Class::Normal].iter().any(|class| backlog.waiting[*class as usize] > 0);
    !somebody_waits && backlog.cost < limit
}

/// Whether an answer is worth keeping. Who cannot wait is better off with a fallback text than with nothing; a question of the lane can wait.
fn worth_keeping(choice: Choice) -> Result<(), Refusal> {
    match choice {
        Choice { source: Source::Fallback, why: Why::Failed } => {
            Err(Refusal::Internal("no model could answer the question; the node's log says why".to_owned()))
        }
        Choice { source: Source::Fallback, .. } => Err(Refusal::QueueFull { retry_after: FALLBACK_RETRY }),
        Choice { source: Source::Model(_) | Source::Cached(_), .. } => Ok(()),
    }
}

/// Starts a question on the node's runtime.
pub(crate) fn start(
    node: Arc<Shared>,
    commands: Sender<Command>,
    runtime: &tokio::runtime::Handle,
    (tenant, tenant_id): (Arc<str>, TenantId),
    waiting: Waiting,
    stored: StoredQuestion,
) {
    let StoredQuestion { ticket, user, session, dedup_key, text, .. } = stored;
    let times = Times { submitted_ms: waiting.submitted_ms, settled_ms: 0 };
    let lost = Refusal::Internal("the question was lost on its way through the node".to_owned());
    let landing = Landing { tenant: tenant_id, waiting, request_id: dedup_key.clone(), outcome: Err(lost) };
    let mut flight = Flight { commands, landing: Some(landing) };
    let deadline = Instant::now() + Duration::from_millis(node.config.lane.deadline_ms);
    let context = RequestContext { tenant, tenant_id, user, session, class: Class::Bulk };
    let question = Question { text, request_id: dedup_key, deadline, notes: Vec::new() };
    runtime.spawn(async move {
        let outcome = node.answer(context, question).await;
        // Before the landing: whoever waits for it may close the store next.
        drop(node);
        let outcome = outcome.and_then(|answer| {
            worth_keeping(answer.choice)?;
            Ok(answered(ticket, Times { settled_ms: now_ms(), ..times }, answer))
        });
        if let Some(landing) = &mut flight.landing {
            landing.outcome = outcome;
        }
    });
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(landing) = self.landing.take() {
            // Nobody listens once the lane is closed; the question waits on disk.
            let _ = self.commands.send(Command::Landed(Box::new(landing)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rung::Rung;

    #[test]
    fn a_question_that_can_wait_is_not_put_off_with_a_fallback_text() {
        let choice = |source, why| worth_keeping(Choice { source, why });
        assert_eq!(choice(Source::Model(Rung::Light), Why::Busy), Ok(()));
        assert_eq!(choice(Source::Cached(Rung::Full), Why::Busy), Ok(()));
        let busy = choice(Source::Fallback, Why::Busy).unwrap_err();
        assert_eq!(busy.code().1, "queue_full", "it comes again");
        let failed = choice(Source::Fallback, Why::Failed).unwrap_err();
        assert_eq!(failed.code().1, "internal", "it is counted");
    }
}
