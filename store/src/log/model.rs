//! Random histories of a log against a model of plain lists: appends with and without dedup keys, passing time, trims, removals of keys and
//! of single entries, compaction
//! and reopening, with all ways of reading compared after each step. Also the smallest log, for the other tests.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use crate::{Log, LogAppend, LogConfig, LogEntry, LogName, LogRecord, Store, StoreConfig, TenantId};

/// A time in the year 2100: what expires after it is not yet expired by the clock of the machine, so compaction keeps it.
pub(crate) const NOW_MS: i64 = 4_102_444_800_000;

const MAX_AGE_MS: i64 = 60_000;
const MAX_ENTRIES: u64 = 6;

pub(crate) fn config(folder: &Path) -> StoreConfig {
    StoreConfig { path: folder.to_path_buf(), hot_capacity_mib: 0, block_cache_mib: 8, ..StoreConfig::default() }
}

pub(crate) fn open(folder: &Path) -> Store {
    Store::open(&config(folder), &[]).unwrap()
}

/// A log whose entries live for a minute.
pub(crate) fn turns(max_entries: u32) -> LogConfig {
    LogConfig { name: "turns".into(), id: 7, max_entries, max_age_s: 60, max_entry_bytes: 2000 }
}

pub(crate) fn entries<const N: usize>(payloads: [&str; N]) -> Vec<LogEntry<'_>> {
    payloads.map(|payload| LogEntry { dedup: None, payload: payload.as_bytes() }).into()
}

pub(crate) fn payloads(records: &[LogRecord]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.payload).unwrap()).collect()
}

/// How many rows of any kind the log family holds.
pub(crate) fn rows(store: &Store) -> usize {
    let mut scan = store.0.warm.scan_log().unwrap();
    let mut row = scan.seek(&[]).unwrap().is_some();
    let mut rows = 0;
    while row {
        rows += 1;
        row = scan.forward().unwrap().is_some();
    }
    rows
}

/// A key and the dedup keys of its new entries.
type Slot = (usize, Vec<Option<&'static str>>);

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Slot>),
    Pass(i64),
    /// Up to the key's first position and so many more.
    Trim(usize, u64),
    Remove(usize),
    RemoveMany(Vec<(usize, &'static str)>),
    Compact,
    Reopen,
}

const KEYS: [(TenantId, &str); 4] = [(TenantId(1), "a"), (TenantId(1), "a\0"), (TenantId(1), "b"), (TenantId(2), "a")];

const DEDUPS: [&str; 4] = ["p", "q", "r", "s"];

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    let dedup = || prop::sample::select(&DEDUPS[..]);
    let dedups = prop::collection::vec(prop::option::of(dedup()), 0..4);
    prop_oneof![
        12 => prop::collection::vec((key(), dedups), 1..3).prop_map(Step::Append),
        6 => prop_oneof![Just(1), Just(20_000), Just(MAX_AGE_MS)].prop_map(Step::Pass),
        3 => (key(), 0u64..8).prop_map(|(key, count)| Step::Trim(key, count)),
        1 => key().prop_map(Step::Remove),
        3 => prop::collection::vec((key(), dedup()), 1..4).prop_map(Step::RemoveMany),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct ModelEntry {
    dedup: Option<&'static str>,
    record: LogRecord,
}

/// The entries of one key that were not trimmed, and the next position.
#[derive(Debug, Default)]
struct ModelKey {
    next: Option<u64>,
    entries: Vec<ModelEntry>,
    /// For which entry each dedup key stands.
    marks: BTreeMap<&'static str, u64>,
    /// Whether entries were removed one by one, so that the key may be listed without having any.
    removed: bool,
}

impl ModelKey {
    fn visible(&self, now_ms: i64) -> Vec<LogRecord> {
        let fresh = self.entries.iter().filter(|entry| is_visible(entry, now_ms));
        fresh.map(|entry| entry.record.clone()).collect()
    }

    /// A head, the entries, and the marks.
    fn rows(&self) -> usize {
        usize::from(self.next.is_some()) + self.entries.len() + self.marks.len()
    }

    fn find(&self, dedup: &str, now_ms: i64) -> Option<LogRecord> {
        let position = self.marks.get(dedup)?;
        let named = self.entries.iter().find(|entry| entry.record.position == *position);
        named.filter(|entry| is_visible(entry, now_ms)).map(|entry| entry.record.clone())
    }

    fn keep(&mut self, kept: impl Fn(u64) -> bool) {
        self.entries.retain(|entry| kept(entry.record.position));
        self.marks.retain(|_, position| kept(*position));
    }

    fn remove(&mut self, dedup: &str) -> usize {
        let Some(&position) = self.marks.get(dedup) else { return 0 };
        self.keep(|kept| kept != position);
        self.removed = true;
        1
    }

    fn append(&mut self, dedup: Option<&'static str>, payload: &[u8], now_ms: i64) -> u64 {
        let known = self.entries.iter().find(|old| dedup.is_some() && old.dedup == dedup && is_visible(old, now_ms));
        if let Some(known) = known {
            return known.record.position;
        }
        let position = self.next.unwrap_or(now_ms as u64 * 1000);
        self.next = Some(position + 1);
        let record = LogRecord { position, appended_at_ms: now_ms, payload: payload.to_vec() };
        self.entries.push(ModelEntry { dedup, record });
        if let Some(dedup) = dedup {
            self.marks.insert(dedup, position);
        }
        position
    }

    /// What one append leaves: only after all its entries are placed does the limit count.
    fn limit(&mut self) {
        let next = self.next.unwrap_or_default();
        self.keep(|position| position + MAX_ENTRIES >= next);
    }
}

fn is_visible(entry: &ModelEntry, now_ms: i64) -> bool {
    now_ms < entry.record.appended_at_ms + MAX_AGE_MS
}

fn check(log: &Log, model: &BTreeMap<usize, ModelKey>, now_ms: i64) {
    let expected: Vec<_> =
        (0..KEYS.len()).map(|key| model.get(&key).map_or_else(Vec::new, |entries| entries.visible(now_ms))).collect();
    for n in [0, 1, 3, 100] {
        let last: Vec<_> = expected.iter().map(|records| records[records.len().saturating_sub(n)..].to_vec()).collect();
        assert_eq!(log.read_last_many(&KEYS, n, now_ms).unwrap(), last);
    }
    for ((tenant, key), records) in KEYS.iter().zip(&expected) {
        assert_eq!(&log.read(*tenant, key, .., 100, now_ms).unwrap(), records);
        if let [_, second, ..] = records.as_slice() {
            let read = log.read(*tenant, key, second.position.., 2, now_ms).unwrap();
            assert_eq!(read, records[1..].iter().take(2).cloned().collect::<Vec<_>>());
        }
    }
    let listed = log.keys(TenantId(1), None, 100, now_ms).unwrap();
    for key in (0..3).filter(|key| !expected[*key].is_empty() || !model.get(key).is_some_and(|key| key.removed)) {
        assert_eq!(listed.iter().any(|listed| listed == KEYS[key].1), !expected[key].is_empty(), "{listed:?}");
    }
    for (at, (tenant, key)) in KEYS.into_iter().enumerate() {
        for dedup in DEDUPS {
            let known = model.get(&at).and_then(|entries| entries.find(dedup, now_ms));
            assert_eq!(log.find(LogName { tenant, key, dedup }, now_ms).unwrap(), known);
        }
    }
    assert_eq!(
        rows(&log.store),
        1 + model.values().map(ModelKey::rows).sum::<usize>(),
        "rows are missing or left behind"
    );
}

fn run(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let declare = || open(folder.path()).log(turns(MAX_ENTRIES as u32)).unwrap();
    let mut log = declare();
    let mut model = BTreeMap::<usize, ModelKey>::new();
    let mut now_ms = NOW_MS;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Append(slots) => {
                let payload = number.to_le_bytes();
                let entry = |dedup: &Option<&'static str>| LogEntry { dedup: *dedup, payload: &payload };
                let entries: Vec<Vec<_>> = slots.iter().map(|(_, dedups)| dedups.iter().map(entry).collect()).collect();
                let place = |((key, _), entries): (&Slot, _)| {
                    let (tenant, key) = KEYS[*key];
                    LogAppend { tenant, key, entries }
                };
                let entries = entries.iter().map(Vec::as_slice);
                let appends: Vec<_> = slots.iter().zip(entries).map(place).collect();
                let expected: Vec<Vec<u64>> = slots
                    .iter()
                    .map(|(key, dedups)| {
                        let entries = model.entry(*key).or_default();
                        dedups.iter().map(|dedup| entries.append(*dedup, &payload, now_ms)).collect()
                    })
                    .collect();
                model.values_mut().for_each(ModelKey::limit);
                assert_eq!(log.append_many(&appends, now_ms).unwrap(), expected);
            }
            Step::Pass(ms) => now_ms += ms,
            Step::Trim(key, count) => {
                let entries = model.entry(*key).or_default();
                let up_to = entries.entries.first().map_or(0, |first| first.record.position) + count;
                entries.keep(|position| position > up_to);
                log.trim(KEYS[*key].0, KEYS[*key].1, up_to).unwrap();
            }
            Step::Remove(key) => {
                // Positions start at the time: a millisecond later they are greater.
                now_ms += 1;
                model.remove(key);
                log.remove(KEYS[*key].0, KEYS[*key].1).unwrap();
            }
            Step::RemoveMany(names) => {
                let removed =
                    names.iter().map(|(key, dedup)| model.entry(*key).or_default().remove(dedup)).sum::<usize>();
                let name =
                    |&(key, dedup): &(usize, &'static str)| LogName { tenant: KEYS[key].0, key: KEYS[key].1, dedup };
                let names: Vec<_> = names.iter().map(name).collect();
                assert_eq!(log.remove_many(&names).unwrap(), removed);
            }
            Step::Compact => log.store.0.warm.compact_log().unwrap(),
            Step::Reopen => {
                drop(log);
                log = declare();
            }
        }
        check(&log, &model, now_ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LARDER_LONG").is_some() { 500 } else { 24 }))]

    #[test]
    fn a_log_does_what_its_model_does(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps);
    }
}
