//! What the writing thread does with questions that come and go: keeps new ones, knows those that came before, and forgets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use larder_store::TenantId;

use crate::error::Refusal;
use crate::lane::bells::Owner;
use crate::lane::order::Waiting;
use crate::lane::store::Kept;
use crate::lane::ticket::Ticket;
use crate::lane::writer::{Submission, Submitted, Writer};
use crate::metrics;

/// A full lane empties by the minute.
const FULL_RETRY: Duration = Duration::from_secs(5);

impl Writer {
    /// Keeps those questions that are new and for which there is room, and replies to all.
    pub(crate) fn keep(&mut self, submissions: Vec<Submission>, now_ms: i64) {
        let (mut accepted, mut new) = (Vec::new(), HashSet::new());
        for submission in submissions {
            match self.known(&submission, &new, now_ms) {
                Ok(false) => {
                    new.insert((submission.tenant, submission.question.ticket));
                    accepted.push(submission);
                }
                Ok(true) => {
                    let waiting = self.state.order().len(submission.tenant);
                    let _ = submission.reply.send(Ok(Submitted { already: true, waiting }));
                }
                Err(refusal) => drop(submission.reply.send(Err(refusal))),
            }
        }
        if accepted.is_empty() {
            return;
        }
        let kept = |Submission { tenant, question, .. }: &Submission| {
            let (tenant, user, ticket) = (*tenant, Arc::from(question.user.as_str()), question.ticket);
            Kept { tenant, user, ticket, bytes: question.encode() }
        };
        let kept: Vec<_> = accepted.iter().map(kept).collect();
        let positions = match self.store.keep_questions(&kept, now_ms) {
            Ok(positions) => positions,
            Err(error) => {
                tracing::error!(%error, questions = kept.len(), "questions of the lane could not be kept");
                let refusal = Refusal::Internal(format!("the question could not be kept: {error}"));
                return accepted.into_iter().for_each(|one| drop(one.reply.send(Err(refusal.clone()))));
            }
        };
        for ((submission, kept), position) in accepted.into_iter().zip(kept).zip(positions) {
            let answer_by_ms = submission.question.answer_by_ms;
            let mut order = self.state.order();
            let fresh = order.insert(kept.tenant, position, Waiting::new(kept.ticket, kept.user, now_ms, answer_by_ms));
            let submitted = Submitted { already: !fresh, waiting: order.len(kept.tenant) };
            drop(order);
            let _ = submission.reply.send(Ok(submitted));
            drop(submission.room);
        }
    }

    /// Whether a question waits already or has an answer. One that is neither must find room, beside those of `new`, which come with it.
    fn known(&self, submission: &Submission, new: &HashSet<(TenantId, Ticket)>, now_ms: i64) -> Result<bool, Refusal> {
        let Submission { tenant, question, .. } = submission;
        if self.state.order().get(*tenant, question.ticket).is_some() {
            return Ok(true);
        }
        if !question.dedup_key.is_empty() {
            let answer = self.store.answer(*tenant, &question.user, question.ticket, now_ms);
            if answer.map_err(|error| Refusal::Internal(error.to_string()))?.is_some() {
                return Ok(true);
            }
        }
        if new.contains(&(*tenant, question.ticket)) {
            return Ok(false);
        }
        let of_tenant = new.iter().filter(|(other, _)| other == tenant).count();
        match self.state.order().full(*tenant, of_tenant + 1, new.len() - of_tenant) {
            Some(what) => Err(Refusal::LaneFull { what, retry_after: FULL_RETRY }),
            None => Ok(false),
        }
    }

    pub(crate) fn forget(&self, owner: &Owner, tickets: &[Ticket]) -> Result<usize, Refusal> {
        let refused = |error: larder_store::Error| Refusal::Internal(error.to_string());
        let order = self.state.order();
        let waiting: Vec<_> =
            tickets.iter().copied().filter(|ticket| order.is_of(owner.tenant, &owner.user, *ticket)).collect();
        drop(order);
        self.store.remove_questions(waiting.iter().map(|ticket| (owner.tenant, *ticket))).map_err(refused)?;
        let answers = self.store.remove_answers(owner.tenant, &owner.user, tickets).map_err(refused)?;
        let mut order = self.state.order();
        let withdrawn = waiting.iter().filter(|ticket| order.remove(owner.tenant, **ticket).is_some()).count();
        (0..withdrawn).for_each(|_| metrics::lane_settled("withdrawn"));
        Ok(withdrawn + answers)
    }

    pub(crate) fn erase(&self, tenant: TenantId, users: &[String], now_ms: i64) -> Result<(), Refusal> {
        let waited = self.store.erase(tenant, users, now_ms).map_err(|error| Refusal::Internal(error.to_string()))?;
        let mut order = self.state.order();
        for ticket in waited {
            order.remove(tenant, ticket);
            metrics::lane_settled("withdrawn");
        }
        Ok(())
    }
}
