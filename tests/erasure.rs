//! Promise: who asks to be forgotten is forgotten: invisible at once and for good, and, after a compaction, not in any file of the store. Whatever
//! is known of others stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use larder_store::{Compacted, Status, Store, TenantId, ViewConfig, Written};

use crate::support::child::{self, Said, say};
use crate::support::store::{
    NOW_MS, Row, Value, config, delete, of_tenant, order_row, orders, plan, profile, profile_row, publish_as_of, upsert,
};

/// Set for a child process: the folder it works in.
const CHILD_FOLDER: &str = "LARDER_TEST_ERASURE_FOLDER";

/// Who is to be forgotten. No key beside it starts alike, so that it stands in the files as it is here.
const NAME: &str = "Q7-vXw2-forgotten-K9pLz";

fn points() -> ViewConfig {
    ViewConfig { ttl_s: None, ..profile() }
}

fn history() -> ViewConfig {
    ViewConfig { ttl_s: None, ..orders() }
}

fn open(folder: &Path) -> Store {
    Store::open(&config(folder), &[points(), history()]).unwrap()
}

/// A text that no compression shortens, so that it stands in a file as it is here.
fn mark(mut state: u64) -> String {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 58) as u8)
    };
    (0..40).map(next).collect()
}

fn marked_profile(entity: &str, event_time_ms: i64, seed: u64) -> Row {
    let mut row = profile_row(entity, event_time_ms, seed as i64);
    row.values[8] = Some(Value::Text(mark(seed)));
    row
}

fn marked_order(entity: &str, event_time_ms: i64, order: &str, seed: u64) -> Row {
    let mut row = order_row(entity, event_time_ms, order, 1.0);
    row.values[2] = Some(Value::Text(mark(seed)));
    row
}

/// The files of a store in which a text is found.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        // A file that RocksDB deletes meanwhile is one that holds nothing.
        } else if fs::read(&path).unwrap_or_default().windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}

fn others() -> impl Iterator<Item = String> {
    (0..500).map(|number| format!("user-{number:04}"))
}

/// Two generations of each view with live rows over them; what is known of `NAME` is marked 1 to 8.
fn fill(folder: &Path) {
    let store = open(folder);
    for (generation, as_of_ms) in [(1, 100), (2, 200)] {
        let profiles = others().map(|name| profile_row(&name, 50, i64::from(generation)));
        let known = marked_profile(NAME, 50, u64::from(generation));
        let profiles = profiles.chain([known]).collect();
        publish_as_of(&store, folder, &points(), 1, generation, as_of_ms, profiles).unwrap();
        let histories = others().map(|name| order_row(&name, 50, "a", 1.0));
        let known = marked_order(NAME, 50, "a", u64::from(generation) + 2);
        let histories = histories.chain([known]).collect();
        publish_as_of(&store, folder, &history(), 1, generation, as_of_ms, histories).unwrap();
    }
    // These go into a file when the store is opened again.
    upsert(&store, &points(), 1, &[marked_profile(NAME, 300, 5), profile_row("user-0001", 300, 77)]);
    upsert(&store, &history(), 1, &[marked_order(NAME, 300, "b", 6), order_row("user-0001", 300, "b", 1.0)]);
    drop(store);
    let store = open(folder);
    // These stay in the log.
    upsert(&store, &history(), 1, &[marked_order(NAME, 310, "c", 7)]);
    upsert(&store, &points(), 1, &[marked_profile(NAME, 310, 8), profile_row("user-0002", 310, 78)]);
}

fn status_of(store: &Store, entity: &str) -> [Status; 2] {
    let plan = plan(store, &["profile:city", "orders:order_id"]);
    let fetched = store.fetch(&plan, &of_tenant(1, &[entity]), NOW_MS).unwrap();
    [fetched.views[0].status[0], fetched.views[1].status[0]]
}

/// Everybody else is as they were, in both generations.
fn check_others(store: &Store) {
    let plan = plan(store, &["profile:points", "orders:order_id"]);
    let names: Vec<_> = others().collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for generation in [2, 1] {
        let fetched = store.fetch(&plan, &of_tenant(1, &names), NOW_MS).unwrap();
        let points = fetched.views[0].columns[0].as_primitive::<Int64Type>();
        let orders = fetched.views[1].columns[0].as_list::<i32>();
        for (row, name) in names.iter().enumerate() {
            let (points, orders) = (points.value(row), orders.value(row).len());
            let expected = match row {
                1 => (77, 2),
                2 => (78, 1),
                _ => (generation, 1),
            };
            assert_eq!((points, orders), expected, "{name} in generation {generation}");
            assert!(fetched.views.iter().all(|view| view.status[row] == Status::Present));
        }
        for view in ["profile", "orders"] {
            store.rollback(TenantId(1), view).unwrap();
        }
    }
}

#[test]
fn what_is_erased_is_invisible_at_once_and_after_compacting_in_no_file() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let store = open(folder.path());
    let path = folder.path().join("store");
    // Opening has written the log's rows into files; one more row is in the log.
    upsert(&store, &history(), 1, &[marked_order(NAME, 320, "d", 9)]);
    for seed in 1..=9 {
        assert!(!files_with(&path, &mark(seed)).is_empty(), "mark {seed} cannot be found, so nothing would be proven");
    }
    assert!(!files_with(&path, NAME).is_empty());
    assert_eq!(status_of(&store, NAME), [Status::Present; 2]);

    store.erase(TenantId(1), NAME, 400).unwrap();
    assert_eq!(status_of(&store, NAME), [Status::Erased; 2]);
    check_others(&store);
    let compacted = store.compact_erased().unwrap();
    assert_eq!(compacted, Compacted { rows: 4, live: 2, files: 4 });
    for seed in 1..=9 {
        assert_eq!(files_with(&path, &mark(seed)), [] as [PathBuf; 0], "mark {seed}");
    }
    assert_eq!(status_of(&store, NAME), [Status::Erased; 2]);
    check_others(&store);
    assert_eq!(store.compact_erased().unwrap(), Compacted::default(), "there is nothing left to do");

    drop(store);
    let store = open(folder.path());
    assert_eq!(files_with(&path, NAME), [] as [PathBuf; 0]);
    assert_eq!(status_of(&store, NAME), [Status::Erased; 2]);
    check_others(&store);
    assert_eq!(store.compact_erased().unwrap(), Compacted::default());
}

#[test]
fn what_happened_after_an_erasure_counts_and_what_comes_late_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let published = vec![profile_row("ada", 10, 1), profile_row("bob", 10, 1)];
    publish_as_of(&store, folder.path(), &points(), 1, 1, 100, published.clone()).unwrap();
    publish_as_of(&store, folder.path(), &points(), 2, 1, 100, published.clone()).unwrap();
    store.erase(TenantId(1), "ada", 200).unwrap();
    let late = upsert(&store, &points(), 1, &[profile_row("ada", 200, 2), profile_row("bob", 200, 2)]);
    assert_eq!(late, Written { rows: 1, deletions: 0, late: 0, erased: 1 });
    assert_eq!(delete(&store, &points(), 1, &[("ada", 150, None)]), Written { erased: 1, ..Written::default() });
    assert_eq!(status_of(&store, "ada")[0], Status::Erased);
    // An older snapshot brings nothing back.
    publish_as_of(&store, folder.path(), &points(), 1, 2, 150, published).unwrap();
    assert_eq!(status_of(&store, "ada")[0], Status::Erased);
    assert_eq!(store.compact_erased().unwrap().rows, 2, "of both generations");

    upsert(&store, &points(), 1, &[profile_row("ada", 201, 3)]);
    assert_eq!(status_of(&store, "ada"), [Status::Present, Status::Erased], "views of which nothing is known yet");
    store.erase(TenantId(1), "ada", 100).unwrap();
    assert_eq!(status_of(&store, "ada")[0], Status::Present, "an erasure of before");
    store.erase(TenantId(1), "ada", 201).unwrap();
    assert_eq!(status_of(&store, "ada")[0], Status::Erased);
    let other = store.fetch(&plan(&store, &["profile:points"]), &of_tenant(2, &["ada"]), 0).unwrap();
    assert_eq!(other.views[0].status, [Status::Present], "of the other tenant nobody is erased");
}

fn orders_of(store: &Store, entity: &str) -> Vec<String> {
    let fetched = store.fetch(&plan(store, &["orders:order_id"]), &of_tenant(1, &[entity]), 0).unwrap();
    let orders = fetched.views[0].columns[0].as_list::<i32>().value(0);
    orders.as_string::<i32>().iter().map(|order| order.unwrap().to_string()).collect()
}

/// Does something between all that must change no answer.
fn through_compaction(folder: &Path, store: Store, check: impl Fn(&Store)) {
    check(&store);
    store.compact_erased().unwrap();
    check(&store);
    drop(store);
    let store = open(folder);
    check(&store);
    store.hot_usage();
    check(&store);
}

#[test]
fn a_history_keeps_its_newer_elements() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let known = vec![marked_order("ada", 10, "a", 1), marked_order("ada", 30, "b", 2), order_row("bob", 10, "z", 1.0)];
    publish_as_of(&store, folder.path(), &history(), 1, 1, 40, known).unwrap();
    upsert(&store, &history(), 1, &[marked_order("ada", 15, "c", 3), marked_order("ada", 50, "d", 4)]);
    store.erase(TenantId(1), "ada", 20).unwrap();
    let path = folder.path().join("store");
    through_compaction(folder.path(), store, |store| assert_eq!(orders_of(store, "ada"), ["d", "b"]));
    for (seed, stays) in [(1, false), (2, true), (3, false), (4, true)] {
        assert_eq!(files_with(&path, &mark(seed)).is_empty(), !stays, "mark {seed}");
    }
}

#[test]
fn a_deletion_from_after_the_erasure_is_not_forgotten_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let known = vec![order_row("ada", 10, "a", 1.0), order_row("ada", 30, "b", 1.0), order_row("ada", 70, "c", 1.0)];
    publish_as_of(&store, folder.path(), &history(), 1, 1, 40, known).unwrap();
    delete(&store, &history(), 1, &[("ada", 60, None)]);
    store.erase(TenantId(1), "ada", 20).unwrap();
    through_compaction(folder.path(), store, |store| assert_eq!(orders_of(store, "ada"), ["c"]));
}

#[test]
fn a_live_row_is_weighed_as_if_the_erased_row_had_never_been() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.erase(TenantId(1), "ada", 50).unwrap();
    // The snapshot comes from a source that has not forgotten yet.
    publish_as_of(&store, folder.path(), &points(), 1, 1, 100, vec![profile_row("ada", 30, 1)]).unwrap();
    upsert(&store, &points(), 1, &[profile_row("ada", 60, 2)]);
    let status =
        |store: &Store| assert_eq!(status_of(store, "ada")[0], Status::Erased, "the snapshot has no newer row");
    through_compaction(folder.path(), store, status);
    let store = open(folder.path());
    upsert(&store, &points(), 1, &[profile_row("ada", 101, 3)]);
    through_compaction(folder.path(), store, |store| assert_eq!(status_of(store, "ada")[0], Status::Present));
}

#[test]
fn views_that_are_no_longer_declared_are_compacted_too() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let store = Store::open(&config(folder.path()), &[points()]).unwrap();
    store.erase(TenantId(1), NAME, 400).unwrap();
    assert_eq!(store.compact_erased().unwrap(), Compacted { rows: 4, live: 2, files: 4 });
    drop(store);
    let store = open(folder.path());
    let path = folder.path().join("store");
    (1..=8).for_each(|seed| assert_eq!(files_with(&path, &mark(seed)), [] as [PathBuf; 0], "mark {seed}"));
    assert_eq!(files_with(&path, NAME), [] as [PathBuf; 0]);
    check_others(&store);
}

#[test]
fn nobody_is_erased_by_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for entity in [String::new(), "x".repeat(257)] {
        let refused = store.erase(TenantId(1), &entity, 1).unwrap_err().to_string();
        assert_eq!(refused, format!("an entity of {} bytes, allowed are 1 to 256", entity.len()));
    }
    assert_eq!(store.compact_erased().unwrap(), Compacted::default());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Not a test by itself: the next one runs it in a process of its own, and kills it.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let store = open(Path::new(&folder));
    store.erase(TenantId(1), NAME, 400).unwrap();
    say("erased");
    store.compact_erased().unwrap();
    say("compacted");
}

#[test]
fn a_killed_compaction_leaves_a_store_that_shows_nothing_and_can_be_compacted() {
    let rounds: u64 = if std::env::var_os("LARDER_LONG").is_some() { 60 } else { 8 };
    let filled = tempfile::tempdir().unwrap();
    fill(filled.path());
    let mut cut_short = 0;
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        copy(&filled.path().join("store"), &folder.path().join("store"));
        let child = Said::start(child::command(module_path!()).env(CHILD_FOLDER, folder.path()));
        assert_eq!(child.next(), "erased");
        let strike = Duration::from_micros(round * 7919 % 40 * 1000);
        let done = child.next_within(strike).is_some();
        cut_short += u32::from(child.kill().is_empty() && !done);

        let store = open(folder.path());
        assert_eq!(status_of(&store, NAME), [Status::Erased; 2], "round {round}");
        check_others(&store);
        store.compact_erased().unwrap();
        let path = folder.path().join("store");
        for seed in 1..=8 {
            assert_eq!(files_with(&path, &mark(seed)), [] as [PathBuf; 0], "round {round}, mark {seed}");
        }
        drop(store);
        let store = open(folder.path());
        assert_eq!(files_with(&path, NAME), [] as [PathBuf; 0], "round {round}");
        check_others(&store);
    }
    assert!(cut_short > 0, "no compaction was cut short, so nothing was proven");
}
