//! The lane's part of the store: a log of questions that wait, one key for each tenant, and a log of answers, one key for each user.
//!
//! A question's ticket is its dedup key in both logs, so that neither a retried write nor a crash between the two doubles anything. An answer
//! is written before its question is removed; what a crash leaves in both logs is put right when the lane opens.

use std::collections::HashSet;
use std::sync::Arc;

use larder_store::{Error, Log, LogAppend, LogConfig, LogEntry, LogName, LogRecord, MAX_LOG_ENTRIES, Store, TenantId};

use crate::lane::config::LaneConfig;
use crate::lane::order::{Order, Waiting};
use crate::lane::record::StoredQuestion;
use crate::lane::ticket::Ticket;
use crate::logs::{LANE_ANSWERS, LANE_QUESTIONS};

/// The key of a tenant's questions.
const QUESTIONS_KEY: &str = "waiting";
/// Largest stored question or answer.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// How much longer than max_wait_s the log keeps a question, so that the lane can say that its time is over.
const GRACE_S: u64 = 3_600;
/// Questions read at once when the lane opens.
const PAGE: usize = 256;

/// The two logs.
#[derive(Debug, Clone)]
pub(crate) struct LaneStore {
    questions: Log,
    pub(crate) answers: Log,
}

/// A question or an answer to be kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) tenant: TenantId,
    pub(crate) user: Arc<str>,
    pub(crate) ticket: Ticket,
    pub(crate) bytes: Vec<u8>,
}

impl LaneStore {
    pub(crate) fn open(store: &Store, config: &LaneConfig) -> Result<LaneStore, Error> {
        let log = |name: &str, id, max_entries, max_age_s| {
            store.log(LogConfig {
                name: name.to_owned(),
                id,
                max_entries,
                max_age_s,
                max_entry_bytes: MAX_BYTES as u32,
            })
        };
        Ok(LaneStore {
            questions: log("lane_questions", LANE_QUESTIONS, MAX_LOG_ENTRIES, config.max_wait_s + GRACE_S)?,
            answers: log("lane_answers", LANE_ANSWERS, config.max_answers_per_user, config.max_answer_age_s)?,
        })
    }

    /// The questions of a tenant that wait, into `order`. Those that have an answer already are removed.
    pub(crate) fn load(&self, tenant: TenantId, order: &mut Order, now_ms: i64) -> Result<(), Error> {
        let mut answered = Vec::new();
        self.each_question(tenant, now_ms, |position, submitted_ms, question| {
            if self.answer(tenant, &question.user, question.ticket, now_ms)?.is_some() {
                answered.push(question.ticket);
                return Ok(());
            }
            let StoredQuestion { ticket, answer_by_ms, user, .. } = question;
            order.insert(tenant, position, Waiting::new(ticket, user.into(), submitted_ms, answer_by_ms));
            Ok(())
        })?;
        self.remove_questions(answered.into_iter().map(|ticket| (tenant, ticket)))
    }

    /// Visits a tenant's questions that are not expired, with their positions and the times when they came. One that cannot be read is
    /// left where it is, for a program that can.
    fn each_question(
        &self,
        tenant: TenantId,
        now_ms: i64,
        mut visit: impl FnMut(u64, i64, StoredQuestion) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut from = 0;
        loop {
            let page = self.questions.read(tenant, QUESTIONS_KEY, from.., PAGE, now_ms)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.position + 1;
            for LogRecord { position, appended_at_ms, payload } in page {
                match StoredQuestion::decode(&payload) {
                    Some(question) => visit(position, appended_at_ms, question)?,
                    None => tracing::error!(tenant = tenant.0, position, "a stored question cannot be read"),
                }
            }
        }
    }

    /// Keeps questions durably and returns their positions.
    pub(crate) fn keep_questions(&self, questions: &[Kept], now_ms: i64) -> Result<Vec<u64>, Error> {
        append(&self.questions, questions, |_| QUESTIONS_KEY, now_ms)
    }

    /// Keeps answers durably.
    pub(crate) fn keep_answers(&self, answers: &[Kept], now_ms: i64) -> Result<(), Error> {
        append(&self.answers, answers, |kept| &kept.user, now_ms).map(drop)
    }

    pub(crate) fn question(&self, tenant: TenantId, ticket: Ticket, now_ms: i64) -> Result<Option<LogRecord>, Error> {
        self.questions.find(LogName { tenant, key: QUESTIONS_KEY, dedup: &ticket.to_string() }, now_ms)
    }

    pub(crate) fn answer(
        &self,
        tenant: TenantId,
        user: &str,
        ticket: Ticket,
        now_ms: i64,
    ) -> Result<Option<LogRecord>, Error> {
        self.answers.find(LogName { tenant, key: user, dedup: &ticket.to_string() }, now_ms)
    }

    pub(crate) fn remove_questions(&self, tickets: impl Iterator<Item = (TenantId, Ticket)>) -> Result<(), Error> {
        remove(&self.questions, tickets.map(|(tenant, ticket)| (tenant, QUESTIONS_KEY, ticket.to_string()))).map(drop)
    }

    /// Removes answers of a user and returns how many there were.
    pub(crate) fn remove_answers(&self, tenant: TenantId, user: &str, tickets: &[Ticket]) -> Result<usize, Error> {
        remove(&self.answers, tickets.iter().map(|ticket| (tenant, user, ticket.to_string())))
    }

    /// Removes all that is kept of these users, and returns the tickets of their questions that waited.
    pub(crate) fn erase(&self, tenant: TenantId, users: &[String], now_ms: i64) -> Result<Vec<Ticket>, Error> {
        let erased: HashSet<&str> = users.iter().map(String::as_str).collect();
        let mut waited = Vec::new();
        self.each_question(tenant, now_ms, |_, _, question| {
            if erased.contains(question.user.as_str()) {
                waited.push(question.ticket);
            }
            Ok(())
        })?;
        self.remove_questions(waited.iter().map(|ticket| (tenant, *ticket)))?;
        for user in erased {
            // What is expired leaves the files by itself.
            if !self.answers.read_last(tenant, user, 1, now_ms)?.is_empty() {
                self.answers.remove(tenant, user)?;
            }
        }
        Ok(waited)
    }
}

fn append<'a>(log: &Log, kept: &'a [Kept], key: impl Fn(&'a Kept) -> &'a str, now_ms: i64) -> Result<Vec<u64>, Error> {
    let tickets: Vec<_> = kept.iter().map(|kept| kept.ticket.to_string()).collect();
    let entries = kept.iter().zip(&tickets);
    let entries: Vec<_> =
        entries.map(|(kept, ticket)| [LogEntry { dedup: Some(ticket), payload: &kept.bytes }]).collect();
    let appends = kept.iter().zip(&entries);
    let appends: Vec<_> =
        appends.map(|(kept, entries)| LogAppend { tenant: kept.tenant, key: key(kept), entries }).collect();
    let positions = log.append_many(&appends, now_ms)?;
    Ok(positions.into_iter().flatten().collect())
}

fn remove<'a>(log: &Log, names: impl Iterator<Item = (TenantId, &'a str, String)>) -> Result<usize, Error> {
    let names: Vec<_> = names.collect();
    let names: Vec<_> = names.iter().map(|(tenant, key, dedup)| LogName { tenant: *tenant, key, dedup }).collect();
    log.remove_many(&names)
}

#[cfg(test)]
mod tests {
    use larder_store::StoreConfig;

    use super::*;
    use crate::context::Class;

    const SHOP: TenantId = TenantId(1);
    const NOW_MS: i64 = 4_102_444_800_000;

    fn open(folder: &std::path::Path) -> LaneStore {
        let config = StoreConfig {
            path: folder.join("store"),
            cold_path: folder.join("cold"),
            hot_capacity_mib: 0,
            block_cache_mib: 8,
            ..StoreConfig::default()
        };
        LaneStore::open(&Store::open(&config, &[]).unwrap(), &LaneConfig::default()).unwrap()
    }

    fn question(number: u128, user: &str) -> Kept {
        let (ticket, text) = (Ticket(number), "where is it?".to_owned());
        let (session, dedup_key) = (String::new(), String::new());
        let stored = StoredQuestion {
            ticket,
            answer_by_ms: NOW_MS + 9,
            class: Class::Normal,
            user: user.to_owned(),
            session,
            dedup_key,
            text,
        };
        Kept { tenant: SHOP, user: user.into(), ticket, bytes: stored.encode() }
    }

    /// The tickets that wait, in their order.
    fn loaded(store: &LaneStore) -> Vec<u128> {
        let mut order = Order::new(99, 99);
        store.load(SHOP, &mut order, NOW_MS).unwrap();
        std::iter::from_fn(|| order.take(NOW_MS)).map(|(_, waiting)| waiting.ticket.0).collect()
    }

    #[test]
    fn what_a_crash_left_between_answer_and_question_is_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let questions = [question(5, "ada"), question(3, "bob"), question(4, "ada")];
        store.keep_questions(&questions, NOW_MS).unwrap();
        let answer = |ticket, user: &str| Kept { ticket, bytes: b"answer".to_vec(), ..question(0, user) };
        store.keep_answers(&[answer(Ticket(3), "bob")], NOW_MS).unwrap();
        drop(store);
        let store = open(folder.path());
        assert_eq!(loaded(&store), [5, 4]);
        assert!(store.question(SHOP, Ticket(3), NOW_MS).unwrap().is_none(), "it has its answer");
        // Made again, it is the same answer.
        store.keep_answers(&[answer(Ticket(3), "bob")], NOW_MS).unwrap();
        assert_eq!(store.answers.read(SHOP, "bob", .., 9, NOW_MS).unwrap().len(), 1);
        store.keep_questions(&questions[..1], NOW_MS).unwrap();
        assert_eq!(loaded(&store), [5, 4]);
        store.remove_questions([(SHOP, Ticket(5))].into_iter()).unwrap();
        assert_eq!(loaded(&store), [4]);
    }

    #[test]
    fn a_question_that_cannot_be_read_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let odd = Kept { bytes: b"from the future".to_vec(), ..question(1, "ada") };
        store.keep_questions(&[odd, question(2, "ada")], NOW_MS).unwrap();
        assert_eq!(loaded(&store), [2]);
    }
}
