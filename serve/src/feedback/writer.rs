//! The thread that changes the logs of the feedback: keeps answers, many to a write, and puts to them what is said of them.
//!
//! One thread and one channel, so that everything happens in the order in which it was sent: feedback finds the answer it is about, however soon
//! it comes, and forgetting a user forgets the answers that were on their way.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use larder_model::FeedbackRecord;
use larder_store::{Error, Store, TenantId};
use tokio::sync::oneshot;

use crate::error::Refusal;
use crate::feedback::record::{AnswerId, KeptAnswer, Verdict, encode_answer, encode_feedback};
use crate::feedback::store::{Entry, FeedbackStore};
use crate::metrics;
use crate::pipeline::now_ms;

/// Answers that share a write, and about how many bytes; below what the store takes in one call.
const MAX_GROUP: usize = 256;
const MAX_GROUP_BYTES: usize = 4 << 20;
/// How long an answer may lie in memory until it is written, so that a few answers a second cost the disk a few writes and not one each.
const GATHER: Duration = Duration::from_millis(200);

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Keep(Box<Keeping>),
    Give(Box<Giving>),
    Erase {
        tenant: TenantId,
        users: Vec<String>,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The thread ends once it has written what came before.
    Close,
}

/// An answer to be kept.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) tenant: TenantId,
    pub(crate) id: AnswerId,
    pub(crate) kept: KeptAnswer,
}

/// What a user says of an answer.
#[derive(Debug)]
pub(crate) struct Giving {
    pub(crate) tenant: TenantId,
    pub(crate) user: String,
    pub(crate) answer: AnswerId,
    pub(crate) verdict: Verdict,
    pub(crate) reply: oneshot::Sender<Result<Outcome, Refusal>>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Recorded,
    /// The same was said before.
    Repeated,
    /// Something else was said before.
    Changed,
}

/// The thread's own.
pub(crate) struct Writer {
    /// Knows who was erased.
    store: Store,
    logs: FeedbackStore,
    commands: Receiver<Command>,
    gathered: Vec<Entry>,
    bytes: usize,
    /// When what is gathered goes to the disk at the latest.
    due: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(store: Store, logs: FeedbackStore, commands: Receiver<Command>) -> Writer {
        Writer { store, logs, commands, gathered: Vec::new(), bytes: 0, due: None }
    }

    /// Until it is closed, or nobody can tell it anything any more.
    pub(crate) fn run(mut self) {
        while let Some(command) = self.next() {
            match command {
                Command::Keep(keeping) => self.gather(*keeping),
                Command::Give(giving) => {
                    self.write();
                    let Giving { tenant, user, answer, verdict, reply } = *giving;
                    // Whoever asked may have gone.
                    let _ = reply.send(self.give(tenant, &user, answer, verdict));
                }
                Command::Erase { tenant, users, reply } => {
                    self.write();
                    let erased = self.logs.erase(tenant, &users, now_ms());
                    let _ = reply.send(erased.map_err(|error| refused(&error)));
                }
                Command::Close => break,
            }
        }
        self.write();
    }

    /// The next command. Writes what is gathered while it waits, once that is due.
    fn next(&mut self) -> Option<Command> {
        loop {
            let Some(due) = self.due else { return self.commands.recv().ok() };
            match self.commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Timeout) => self.write(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn gather(&mut self, keeping: Keeping) {
        let Keeping { tenant, id, kept } = keeping;
        let bytes = encode_answer(&kept).filter(|bytes| bytes.len() <= self.logs.max_answer_bytes());
        let Some(bytes) = bytes else {
            metrics::feedback_answers("too_large", 1);
            return;
        };
        // It was made from what was known before the user was erased, and was on its way meanwhile.
        let user = kept.answer.user;
        if self.store.erased_until(tenant, &user).is_some_and(|erased_ms| kept.answer.asked_at_ms <= erased_ms) {
            metrics::feedback_answers("erased", 1);
            return;
        }
        self.bytes += bytes.len();
        self.gathered.push(Entry { tenant, user, answer: id, bytes });
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        let most = MAX_GROUP.min(self.logs.max_answers_at_once());
        if self.gathered.len() >= most || self.bytes >= MAX_GROUP_BYTES {
            self.write();
        }
    }

    /// Writes what is gathered. What the disk does not take is lost and counted: answers are worth no second try.
    fn write(&mut self) {
        let entries = std::mem::take(&mut self.gathered);
        (self.bytes, self.due) = (0, None);
        if entries.is_empty() {
            return;
        }
        let kept = FeedbackStore::keep(&self.logs.answers, &entries, now_ms());
        let outcome = if kept.is_ok() { "kept" } else { "failed" };
        metrics::feedback_answers(outcome, entries.len() as u64);
        if let Err(error) = kept {
            tracing::error!(%error, answers = entries.len(), "answers could not be kept for feedback");
        }
    }

    fn give(&self, tenant: TenantId, user: &str, answer: AnswerId, verdict: Verdict) -> Result<Outcome, Refusal> {
        let now_ms = now_ms();
        let before = self.logs.feedback(tenant, user, answer, now_ms).map_err(|error| refused(&error))?;
        if before.as_ref().is_some_and(|record| verdict.is_of(record)) {
            return Ok(Outcome::Repeated);
        }
        // An answer whose feedback is changed may have gone from those that wait.
        let waiting = self.logs.answer(tenant, user, answer, now_ms).map_err(|error| refused(&error))?;
        let changes = before.is_some();
        let Some(kept) = waiting.or(before.map(|record| record.answer)) else { return Err(unknown()) };
        check(&verdict, &kept.answered)?;
        let rung = kept.rung.clone();
        let Verdict { helped, right_intent } = verdict;
        let record = FeedbackRecord::new(answer.to_string(), kept, helped, right_intent, now_ms);
        let bytes = encode_feedback(&record);
        let bytes = bytes.ok_or_else(|| Refusal::Internal("the feedback cannot be written down".to_owned()))?;
        let entry = Entry { tenant, user: user.to_owned(), answer, bytes };
        let written = || {
            if changes {
                // A crash before the next line loses feedback that nobody was told is there.
                self.logs.take_back(tenant, user, answer)?;
            }
            FeedbackStore::keep(&self.logs.given, &[entry], now_ms)
        };
        written().map_err(|error| refused(&error))?;
        metrics::feedback_verdict(&rung, helped);
        Ok(if changes { Outcome::Changed } else { Outcome::Recorded })
    }
}

/// What helped cannot have been wrong.
fn check(verdict: &Verdict, answered: &str) -> Result<(), Refusal> {
    match &verdict.right_intent {
        Some(right) if verdict.helped && !answered.is_empty() && right != answered => Err(Refusal::Invalid(format!(
            "the answer helped, and was {answered:?}; right_intent = {right:?} says that it was wrong. Leave it out, or say that it did not help"
        ))),
        _ => Ok(()),
    }
}

fn unknown() -> Refusal {
    Refusal::NotFound(
        "no such answer of this user is kept: answers are kept by lot ([feedback] share), for [feedback] max_answer_age_s, and the oldest go \
         first; only the replies of those that are have an answer_id"
            .to_owned(),
    )
}

/// What a store that does not write means for the caller.
fn refused(error: &Error) -> Refusal {
    match error {
        Error::FreeSpace { .. } => Refusal::TryAgain { what: error.to_string(), retry_after: Duration::from_secs(1) },
        _ => Refusal::Internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{SyncSender, sync_channel};

    use larder_store::StoreConfig;

    use super::*;
    use crate::feedback::config::FeedbackConfig;
    use crate::feedback::record::tests::answer;

    const SHOP: TenantId = TenantId(1);

    fn writer(folder: &Path, config: &FeedbackConfig) -> (Writer, SyncSender<Command>) {
        let store = StoreConfig {
            path: folder.join("store"),
            cold_path: folder.join("cold"),
            hot_capacity_mib: 0,
            block_cache_mib: 8,
            ..StoreConfig::default()
        };
        let store = Store::open(&store, &[]).unwrap();
        let (commands, told) = sync_channel(16);
        (Writer::new(store.clone(), FeedbackStore::open(&store, config).unwrap(), told), commands)
    }

    fn keeping(id: u128, user: &str, text: &str, asked_at_ms: i64) -> Command {
        let id = AnswerId(id);
        let answer = larder_model::AnsweredQuestion { asked_at_ms, ..answer(user, text) };
        Command::Keep(Box::new(Keeping { tenant: SHOP, id, kept: KeptAnswer { answer_id: id.to_string(), answer } }))
    }

    /// The ids of the answers that wait, of those up to ten.
    fn kept(logs: &FeedbackStore, user: &str) -> Vec<u128> {
        (0..10).filter(|id| logs.answer(SHOP, user, AnswerId(*id), now_ms()).unwrap().is_some()).collect()
    }

    #[test]
    fn an_answer_that_was_on_its_way_while_its_user_was_erased_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, commands) = writer(folder.path(), &FeedbackConfig::default());
        let (logs, store, erased_ms) = (writer.logs.clone(), writer.store.clone(), now_ms());
        store.erase(SHOP, "ada", erased_ms).unwrap();
        for (id, user, asked_at_ms) in [(1, "ada", erased_ms - 5), (2, "ada", erased_ms), (3, "bob", erased_ms - 5)] {
            commands.send(keeping(id, user, "where is it?", asked_at_ms)).unwrap();
        }
        commands.send(keeping(4, "ada", "I am back", erased_ms + 1)).unwrap();
        drop(commands);
        writer.run();
        assert_eq!((kept(&logs, "ada"), kept(&logs, "bob")), (vec![4], vec![3]));
    }

    #[test]
    fn one_that_is_too_large_is_left_out_and_the_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, commands) =
            writer(folder.path(), &FeedbackConfig { max_entry_bytes: 1_024, ..Default::default() });
        let logs = writer.logs.clone();
        commands.send(keeping(1, "ada", &"x".repeat(1_024), now_ms())).unwrap();
        commands.send(keeping(2, "ada", "where is it?", now_ms())).unwrap();
        drop(commands);
        writer.run();
        assert_eq!(kept(&logs, "ada"), [2]);
    }

    #[test]
    fn a_small_log_keeps_the_latest_of_a_crowd() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, commands) = writer(folder.path(), &FeedbackConfig { max_answers: 128, ..Default::default() });
        let logs = writer.logs.clone();
        (0..7).for_each(|id| commands.send(keeping(id, "ada", "where is it?", now_ms())).unwrap());
        drop(commands);
        writer.run();
        assert_eq!(kept(&logs, "ada"), [5, 6]);
    }

    #[test]
    fn feedback_finds_an_answer_that_came_just_before() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, commands) = writer(folder.path(), &FeedbackConfig::default());
        let give = |helped, right_intent: Option<&str>| {
            let (reply, outcome) = oneshot::channel();
            let verdict = Verdict { helped, right_intent: right_intent.map(str::to_owned) };
            let giving = Giving { tenant: SHOP, user: "ada".to_owned(), answer: AnswerId(1), verdict, reply };
            commands.send(Command::Give(Box::new(giving))).unwrap();
            outcome
        };
        let early = give(true, None);
        commands.send(keeping(1, "ada", "where is it?", now_ms())).unwrap();
        let said = [
            give(true, None),
            give(true, None),
            give(false, Some("refund")),
            give(true, Some("refund")),
            give(true, Some("order_delayed")),
        ];
        drop(commands);
        let logs = writer.logs.clone();
        writer.run();
        assert!(matches!(early.blocking_recv().unwrap(), Err(Refusal::NotFound(_))));
        let said = said.map(|outcome| outcome.blocking_recv().unwrap());
        let [recorded, repeated, changed, contradicted, again] = said;
        let all = [recorded, repeated, changed, again].map(Result::unwrap);
        assert_eq!(all, [Outcome::Recorded, Outcome::Repeated, Outcome::Changed, Outcome::Changed]);
        let why = contradicted.unwrap_err().to_string();
        assert!(why.contains("\"order_delayed\"") && why.contains("\"refund\""), "{why}");
        let record = logs.feedback(SHOP, "ada", AnswerId(1), now_ms()).unwrap().unwrap();
        assert_eq!((record.helped, record.intent.as_deref()), (true, Some("order_delayed")));
    }
}
