//! The two logs of the feedback: answers that wait for it, and answers that have it.
//!
//! Each log is divided into a fixed number of keys, and a user's entries all lie under one of them. So a tenant's entries are bounded as a
//! whole, whoever asks how much, and forgetting a user reads one part and not the log. An answer's id is its dedup key in both logs.

use std::collections::{BTreeMap, HashSet};

use larder_model::{AnsweredQuestion, FeedbackRecord};
use larder_store::{
    Error, Log, LogAppend, LogConfig, LogEntry, LogName, LogRecord, MAX_LOG_ENTRY_BYTES, Store, TenantId,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Refusal;
use crate::feedback::config::{FeedbackConfig, PARTS};
use crate::feedback::record::{AnswerId, decode_answer, decode_feedback};
use crate::logs::{FEEDBACK_ANSWERS, FEEDBACK_GIVEN};
use crate::pipeline::now_ms;

/// Entries, and bytes of them, that are read at once.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 4 << 20;
/// An answer becomes longer by what is said of it: at most this much.
const VERDICT_BYTES: u32 = 1_024;

/// The two logs.
#[derive(Debug, Clone)]
pub(crate) struct FeedbackStore {
    pub(crate) answers: Log,
    pub(crate) given: Log,
    /// Entries read at once.
    page: usize,
    max_answer_bytes: usize,
    max_answers_of_part: usize,
}

/// An entry to be kept.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tenant: TenantId,
    pub(crate) user: String,
    pub(crate) answer: AnswerId,
    pub(crate) bytes: Vec<u8>,
}

/// Some of a tenant's feedback, oldest first within each part of the log.
#[derive(Debug)]
pub struct FeedbackPage {
    /// The records.
    pub records: Vec<FeedbackRecord>,
    /// Where the next page begins; none where this is the last.
    pub cursor: Option<String>,
}

impl FeedbackStore {
    pub(crate) fn open(store: &Store, config: &FeedbackConfig) -> Result<FeedbackStore, Error> {
        let log = |name: &str, id, most: u32, max_age_s, max_entry_bytes| {
            let max_entries = most.div_ceil(PARTS);
            store.log(LogConfig { name: name.to_owned(), id, max_entries, max_age_s, max_entry_bytes })
        };
        let bytes = config.max_entry_bytes;
        let with_verdict = bytes.saturating_add(VERDICT_BYTES).min(MAX_LOG_ENTRY_BYTES);
        let FeedbackConfig { max_answers, max_answer_age_s, max_feedback, max_feedback_age_s, .. } = *config;
        Ok(FeedbackStore {
            answers: log("feedback_answers", FEEDBACK_ANSWERS, max_answers, max_answer_age_s, bytes)?,
            given: log("feedback_given", FEEDBACK_GIVEN, max_feedback, max_feedback_age_s, with_verdict)?,
            page: (PAGE_BYTES / with_verdict as usize).clamp(1, PAGE),
            // With its feedback it must still fit.
            max_answer_bytes: bytes.min(with_verdict - VERDICT_BYTES) as usize,
            max_answers_of_part: max_answers.div_ceil(PARTS) as usize,
        })
    }

    /// Largest answer that is kept.
    pub(crate) fn max_answer_bytes(&self) -> usize {
        self.max_answer_bytes
    }

    /// Most answers that one write may keep: all of them may be of one part, which takes no more at once than it keeps.
    pub(crate) fn max_answers_at_once(&self) -> usize {
        self.max_answers_of_part
    }

    /// Keeps entries durably, in one write.
    pub(crate) fn keep(log: &Log, entries: &[Entry], now_ms: i64) -> Result<(), Error> {
        let names: Vec<_> = entries.iter().map(|entry| (part(&entry.user), entry.answer.to_string())).collect();
        let payloads = entries.iter().zip(&names);
        let payloads: Vec<_> =
            payloads.map(|(entry, (_, id))| [LogEntry { dedup: Some(id), payload: &entry.bytes }]).collect();
        let appends = entries.iter().zip(&names).zip(&payloads);
        let appends: Vec<_> = appends
            .map(|((entry, (part, _)), entries)| LogAppend { tenant: entry.tenant, key: part, entries })
            .collect();
        log.append_many(&appends, now_ms).map(drop)
    }

    /// A user's answer that waits.
    pub(crate) fn answer(
        &self,
        tenant: TenantId,
        user: &str,
        answer: AnswerId,
        now_ms: i64,
    ) -> Result<Option<AnsweredQuestion>, Error> {
        let found = find(&self.answers, tenant, user, answer, now_ms)?;
        Ok(found.and_then(|bytes| decode_answer(&bytes)).map(|kept| kept.answer).filter(|answer| answer.user == user))
    }

    /// What a user said of an answer.
    pub(crate) fn feedback(
        &self,
        tenant: TenantId,
        user: &str,
        answer: AnswerId,
        now_ms: i64,
    ) -> Result<Option<FeedbackRecord>, Error> {
        let found = find(&self.given, tenant, user, answer, now_ms)?;
        Ok(found.and_then(|bytes| decode_feedback(&bytes)).filter(|record| record.answer.user == user))
    }

    /// Takes back what a user said of an answer.
    pub(crate) fn take_back(&self, tenant: TenantId, user: &str, answer: AnswerId) -> Result<(), Error> {
        let (key, dedup) = (part(user), answer.to_string());
        self.given.remove_many(&[LogName { tenant, key: &key, dedup: &dedup }]).map(drop)
    }

    /// Removes all that is kept of these users.
    pub(crate) fn erase(&self, tenant: TenantId, users: &[String], now_ms: i64) -> Result<(), Error> {
        let mut parts: BTreeMap<String, HashSet<&str>> = BTreeMap::new();
        for user in users {
            parts.entry(part(user)).or_default().insert(user);
        }
        let of_answer = |bytes: &[u8]| decode_answer(bytes).map(|kept| (kept.answer.user, kept.answer_id));
        let of_record = |bytes: &[u8]| decode_feedback(bytes).map(|record| (record.answer.user, record.answer_id));
        for (key, users) in &parts {
            erase_from(&self.answers, tenant, (key, users), now_ms, of_answer)?;
            erase_from(&self.given, tenant, (key, users), now_ms, of_record)?;
        }
        Ok(())
    }

    /// A page of a tenant's feedback, from where a cursor stands.
    pub(crate) fn page(
        &self,
        (tenant, name): (TenantId, &str),
        cursor: &str,
        now_ms: i64,
    ) -> Result<FeedbackPage, Refusal> {
        let failed = |error: Error| Refusal::Internal(error.to_string());
        let (first, mut from) = parse_cursor(cursor)?;
        for number in first..PARTS {
            let found = self.given.read(tenant, &part_key(number), from.., self.page, now_ms).map_err(failed)?;
            if let Some(last) = found.last() {
                let cursor = Some(format!("{number}.{}", last.position + 1));
                return Ok(FeedbackPage { records: records(&found, name), cursor });
            }
            from = 0;
        }
        Ok(FeedbackPage { records: Vec::new(), cursor: None })
    }
}

/// A page of the feedback of a tenant of a closed node, from where a cursor stands; an empty one is the beginning.
///
/// # Errors
/// [`Refusal::Invalid`] for a cursor that no page had, [`Refusal::Internal`] with what the store says.
pub fn read_feedback(
    store: &Store,
    config: &FeedbackConfig,
    tenant: (TenantId, &str),
    cursor: &str,
) -> Result<FeedbackPage, Refusal> {
    let opened = FeedbackStore::open(store, config).map_err(|error| Refusal::Internal(error.to_string()))?;
    opened.page(tenant, cursor, now_ms())
}

/// The part of the logs that has a user's entries. Entries are found by it again: it may never change.
fn part(user: &str) -> String {
    part_key((xxh3_64(user.as_bytes()) % u64::from(PARTS)) as u32)
}

fn part_key(number: u32) -> String {
    format!("part-{number}")
}

fn parse_cursor(cursor: &str) -> Result<(u32, u64), Refusal> {
    if cursor.is_empty() {
        return Ok((0, 0));
    }
    let parsed = cursor.split_once('.').and_then(|(part, from)| Some((part.parse().ok()?, from.parse().ok()?)));
    let known = parsed.filter(|(part, _): &(u32, u64)| *part < PARTS);
    known.ok_or_else(|| Refusal::Invalid(format!("the cursor {cursor:?} is none that a page of feedback had")))
}

/// One that cannot be read is left where it is, for a program that can.
fn records(found: &[LogRecord], tenant: &str) -> Vec<FeedbackRecord> {
    let record = |found: &LogRecord| {
        let record = decode_feedback(&found.payload);
        if record.is_none() {
            tracing::error!(tenant, position = found.position, "stored feedback cannot be read");
        }
        let record = record?;
        let answer = AnsweredQuestion { tenant: tenant.to_owned(), ..record.answer };
        Some(FeedbackRecord { answer, ..record })
    };
    found.iter().filter_map(record).collect()
}

fn find(log: &Log, tenant: TenantId, user: &str, answer: AnswerId, now_ms: i64) -> Result<Option<Vec<u8>>, Error> {
    let (key, dedup) = (part(user), answer.to_string());
    Ok(log.find(LogName { tenant, key: &key, dedup: &dedup }, now_ms)?.map(|record| record.payload))
}

/// Removes the entries of users from one part of a log. `read` says of an entry's bytes whose it is and what it is called.
fn erase_from(
    log: &Log,
    tenant: TenantId,
    (key, users): (&str, &HashSet<&str>),
    now_ms: i64,
    read: impl Fn(&[u8]) -> Option<(String, String)>,
) -> Result<(), Error> {
    let (mut from, mut theirs) = (0, Vec::new());
    loop {
        let page = log.read(tenant, key, from.., PAGE, now_ms)?;
        let Some(last) = page.last() else { break };
        from = last.position + 1;
        for entry in &page {
            let Some((user, id)) = read(&entry.payload) else {
                // It may be theirs, and is training data at most: to forget too much is the lesser fault.
                tracing::warn!(
                    tenant = tenant.0,
                    part = key,
                    "stored feedback cannot be read; its part of the log is removed"
                );
                return log.remove(tenant, key);
            };
            if users.contains(user.as_str()) {
                theirs.push(id);
            }
        }
    }
    // What is expired leaves the files by itself.
    for ids in theirs.chunks(PAGE) {
        log.remove_many(&ids.iter().map(|dedup| LogName { tenant, key, dedup }).collect::<Vec<_>>())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use larder_store::StoreConfig;

    use super::*;
    use crate::feedback::record::tests::answer;
    use crate::feedback::record::{KeptAnswer, encode_answer, encode_feedback};

    const SHOP: TenantId = TenantId(1);
    const NOW_MS: i64 = 4_102_444_800_000;

    fn open(folder: &Path, config: &FeedbackConfig) -> FeedbackStore {
        let store = StoreConfig {
            path: folder.join("store"),
            cold_path: folder.join("cold"),
            hot_capacity_mib: 0,
            block_cache_mib: 8,
            ..StoreConfig::default()
        };
        FeedbackStore::open(&Store::open(&store, &[]).unwrap(), config).unwrap()
    }

    fn waiting(id: u128, user: &str) -> Entry {
        let kept = KeptAnswer { answer_id: AnswerId(id).to_string(), answer: answer(user, "where is it?") };
        let bytes = encode_answer(&kept).unwrap();
        Entry { tenant: SHOP, user: user.to_owned(), answer: AnswerId(id), bytes }
    }

    fn judged(id: u128, user: &str) -> Entry {
        let record = FeedbackRecord::new(AnswerId(id).to_string(), answer(user, "where is it?"), true, None, NOW_MS);
        Entry { bytes: encode_feedback(&record).unwrap(), ..waiting(id, user) }
    }

    /// The ids of all feedback, by the pages in which it is read.
    fn read_all(store: &FeedbackStore) -> Vec<Vec<u128>> {
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = store.page((SHOP, "shop"), &cursor, NOW_MS).unwrap();
            let Some(next) = page.cursor else { return pages };
            assert!(page.records.iter().all(|record| record.answer.tenant == "shop"));
            let id = |record: &FeedbackRecord| u128::from_str_radix(&record.answer_id, 16).unwrap();
            pages.push(page.records.iter().map(id).collect());
            cursor = next;
        }
    }

    #[test]
    fn an_answer_is_known_to_its_user_and_a_part_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), &FeedbackConfig::default());
        FeedbackStore::keep(&store.answers, &[waiting(7, "ada"), waiting(8, "bob")], NOW_MS).unwrap();
        let found = |tenant, user, id| store.answer(TenantId(tenant), user, AnswerId(id), NOW_MS).unwrap();
        assert_eq!(found(1, "ada", 7).unwrap(), answer("ada", "where is it?"));
        assert_eq!((found(1, "bob", 7), found(2, "ada", 7), found(1, "ada", 9)), (None, None, None));
        // Two users of one part: the id alone is not enough.
        let other = (0..).map(|number| format!("user-{number}")).find(|user| part(user) == part("ada")).unwrap();
        assert_eq!(found(1, &other, 7), None);
        assert_eq!(part("ada"), "part-47", "stored entries are found by it");
    }

    #[test]
    fn erasing_users_leaves_the_others_of_their_part() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), &FeedbackConfig::default());
        let together: Vec<String> =
            (0..).map(|number| format!("user-{number}")).filter(|user| part(user) == part("ada")).take(2).collect();
        let users = ["ada", &together[0], &together[1]];
        let entries = |make: fn(u128, &str) -> Entry| -> Vec<Entry> {
            (0..600).map(|id| make(id, users[id as usize % 3])).collect()
        };
        FeedbackStore::keep(&store.answers, &entries(waiting), NOW_MS).unwrap();
        FeedbackStore::keep(&store.given, &entries(judged), NOW_MS).unwrap();
        store.erase(SHOP, &["ada".to_owned(), together[0].clone(), "nobody".to_owned()], NOW_MS).unwrap();
        let left: Vec<u128> = read_all(&store).concat();
        assert_eq!(left, (0..600).filter(|id| id % 3 == 2).collect::<Vec<_>>());
        let waits = |id: u128| store.answer(SHOP, users[id as usize % 3], AnswerId(id), NOW_MS).unwrap().is_some();
        assert_eq!((0..6).map(waits).collect::<Vec<_>>(), [false, false, true, false, false, true]);
    }

    #[test]
    fn an_entry_that_cannot_be_read_goes_with_its_part_when_a_user_is_erased() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), &FeedbackConfig::default());
        let odd = Entry { bytes: b"from the future".to_vec(), ..judged(1, "ada") };
        FeedbackStore::keep(&store.given, &[odd, judged(2, "ada")], NOW_MS).unwrap();
        assert_eq!(read_all(&store), [[2]], "it holds up no other");
        store.erase(SHOP, &["ada".to_owned()], NOW_MS).unwrap();
        assert_eq!(store.given.keys(SHOP, None, 9, NOW_MS).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn all_is_read_page_by_page_and_a_foreign_cursor_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = FeedbackConfig { max_entry_bytes: 1 << 20, ..FeedbackConfig::default() };
        let store = open(folder.path(), &config);
        let entries: Vec<Entry> = (0..40).map(|id| judged(id, &format!("user-{}", id % 20))).collect();
        FeedbackStore::keep(&store.given, &entries, NOW_MS).unwrap();
        let pages = read_all(&store);
        assert!(pages.iter().all(|page| page.len() <= store.page), "{pages:?}");
        let mut ids = pages.concat();
        ids.sort_unstable();
        assert_eq!(ids, (0..40).collect::<Vec<_>>());
        for cursor in ["x", "64.0", "1.-1", "1"] {
            let refusal = store.page((SHOP, "shop"), cursor, NOW_MS).unwrap_err();
            assert!(matches!(&refusal, Refusal::Invalid(why) if why.contains(cursor)), "{refusal}");
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), &FeedbackConfig { max_answers: PARTS * 2, ..FeedbackConfig::default() });
        for id in 0..3 {
            FeedbackStore::keep(&store.answers, &[waiting(id, "ada")], NOW_MS).unwrap();
        }
        let waits = |id| store.answer(SHOP, "ada", AnswerId(id), NOW_MS).unwrap().is_some();
        assert_eq!([0, 1, 2].map(waits), [false, true, true]);
    }
}
