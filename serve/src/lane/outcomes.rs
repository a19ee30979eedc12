//! What the writing thread does with questions that are done: their outcomes go to the disk first, then the questions leave it, then whoever
//! waits is told. In this order a crash loses no answer, and at worst leaves a question whose answer is there already.

use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_store::TenantId;

use crate::error::Refusal;
use crate::lane::bells::Owner;
use crate::lane::flight::Landing;
use crate::lane::order::Waiting;
use crate::lane::record::StoredQuestion;
use crate::lane::store::{Kept, MAX_BYTES};
use crate::lane::verdict::{Verdict, judge};
use crate::lane::wire::{Times, failed};
use crate::lane::writer::{MAX_GROUP, STORE_PAUSE_MS, Writer};
use crate::metrics;

/// A question with its outcome, on the way to the disk.
pub(crate) struct Settling {
    waiting: Waiting,
    kept: Kept,
    /// The label in the metrics.
    outcome: &'static str,
}

impl Writer {
    /// What follows from a question's flight: an outcome to be kept, or the question waits again.
    pub(crate) fn land(&mut self, landing: Landing, now_ms: i64) -> Option<Settling> {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        let Landing { tenant, mut waiting, request_id, outcome } = landing;
        // Withdrawn or erased meanwhile: nobody may see the answer.
        if !self.state.order().is_wanted(tenant, &waiting) {
            return None;
        }
        let refusal = match outcome {
            Ok(bytes) if bytes.len() <= MAX_BYTES => {
                let kept = Kept { tenant, user: waiting.user.clone(), ticket: waiting.ticket, bytes };
                return Some(Settling { waiting, kept, outcome: "answered" });
            }
            Ok(bytes) => Refusal::Invalid(format!("the answer has {} bytes; {MAX_BYTES} can be kept", bytes.len())),
            Err(refusal) => refusal,
        };
        match judge(&refusal, &mut waiting, self.config.max_attempts) {
            Verdict::Failed => Some(self.failure(tenant, waiting, request_id, &refusal, "failed", now_ms)),
            Verdict::Again { delay, pause } => {
                metrics::lane_put_back(&refusal);
                let later = |time: Duration| now_ms.saturating_add(time.as_millis() as i64);
                self.paused_until_ms = self.paused_until_ms.max(later(pause));
                self.state.order().put_back(tenant, waiting, later(delay));
                None
            }
        }
    }

    pub(crate) fn failure(
        &self,
        tenant: TenantId,
        waiting: Waiting,
        request_id: String,
        refusal: &Refusal,
        outcome: &'static str,
        now_ms: i64,
    ) -> Settling {
        let times = Times { submitted_ms: waiting.submitted_ms, settled_ms: now_ms };
        let bytes = failed(waiting.ticket, times, request_id, refusal);
        let kept = Kept { tenant, user: waiting.user.clone(), ticket: waiting.ticket, bytes };
        Settling { waiting, kept, outcome }
    }

    /// Keeps outcomes, then removes their questions, then tells who waits.
    pub(crate) fn settle(&mut self, settling: Vec<Settling>, now_ms: i64) {
        if settling.is_empty() {
            return;
        }
        let (outcomes, kept): (Vec<_>, Vec<_>) =
            settling.into_iter().map(|settling| ((settling.waiting, settling.outcome), settling.kept)).unzip();
        if let Err(error) = self.store.keep_answers(&kept, now_ms) {
            tracing::error!(%error, answers = kept.len(), "answers of the lane could not be kept; they are made again");
            for (kept, (waiting, _)) in kept.iter().zip(outcomes) {
                self.state.order().put_back(kept.tenant, waiting, now_ms + STORE_PAUSE_MS);
            }
            self.paused_until_ms = now_ms + STORE_PAUSE_MS;
            return;
        }
        if let Err(error) = self.store.remove_questions(kept.iter().map(|kept| (kept.tenant, kept.ticket))) {
            // They have their answers: the next start removes them.
            tracing::error!(%error, questions = kept.len(), "answered questions of the lane could not be removed");
        }
        let mut order = self.state.order();
        for (kept, (_, outcome)) in kept.iter().zip(&outcomes) {
            order.remove(kept.tenant, kept.ticket);
            metrics::lane_settled(outcome);
        }
        drop(order);
        for kept in kept {
            self.state.bells.ring(&Owner { tenant: kept.tenant, user: kept.user });
        }
    }

    /// Questions that waited too long fail.
    pub(crate) fn settle_overdue(&mut self, now_ms: i64) {
        let overdue = self.state.order().overdue(now_ms, MAX_GROUP);
        if overdue.is_empty() || now_ms < self.paused_until_ms {
            return;
        }
        let refusal = Refusal::Expired { retry_after: Duration::ZERO };
        let expired = |(tenant, waiting): (TenantId, Waiting)| {
            let record = self.store.question(tenant, waiting.ticket, now_ms).ok().flatten();
            let stored = record.and_then(|record| StoredQuestion::decode(&record.payload));
            let request_id = stored.map(|stored| stored.dedup_key).unwrap_or_default();
            self.failure(tenant, waiting, request_id, &refusal, "expired", now_ms)
        };
        let settling = overdue.into_iter().map(expired).collect();
        self.settle(settling, now_ms);
    }
}
