//! Promise: what is placed in the cold tier answers like everything else, within the time a fetch has for it, and is hot afterwards; its files
//! come and go with their generations; a damaged one costs its own rows only.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use larder_store::{
    EntityRef, Error, FetchedView, GenerationWriter, Placement, Status, Store, StoreConfig, TenantId, Tier, ViewConfig,
    Write, WriteKind, WriterLimits,
};

use crate::support::store::{Row, Value, batch, config, of_tenant, order_row, orders, plan, profile, profile_row};

/// The profile view without a time to live.
fn lasting() -> ViewConfig {
    ViewConfig { ttl_s: None, ..profile() }
}

fn views() -> [ViewConfig; 2] {
    [lasting(), ViewConfig { ttl_s: None, ..orders() }]
}

/// Time enough for the cold tier, however busy the machine is.
fn patient(folder: &Path) -> StoreConfig {
    StoreConfig { cold_budget_ms: 30_000, ..config(folder) }
}

fn open(config: &StoreConfig) -> Store {
    Store::open(config, &views()).unwrap()
}

fn name(number: usize) -> String {
    format!("user-{number:05}")
}

/// Builds profiles of `users`, user 0 oldest, whose points are generation times a thousand plus their number. Those before `cold` are placed cold.
fn build(folder: &Path, generation: u32, users: usize, cold: usize, active: &[usize]) -> PathBuf {
    let dir = folder.join(format!("built-{generation}"));
    let view = lasting();
    let limits = WriterLimits::default();
    let as_of = users as i64;
    let writer = GenerationWriter::create(&dir, &view, TenantId(1), generation, as_of, limits).unwrap();
    let active = active.iter().map(|&number| name(number)).collect();
    let mut writer = writer.place(Placement { cold_before_ms: Some(cold as i64), active });
    let row = |number: usize| profile_row(&name(number), number as i64, i64::from(generation) * 1000 + number as i64);
    writer.append(&batch(&view, &(0..users).map(row).collect::<Vec<_>>())).unwrap();
    writer.finish().unwrap();
    dir
}

fn cold_files(config: &StoreConfig) -> Vec<PathBuf> {
    let entries = fs::read_dir(&config.cold_path).map(|entries| entries.map(|entry| entry.unwrap().path()));
    let mut files: Vec<_> = entries.into_iter().flatten().collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    files.sort();
    files
}

fn fetch(store: &Store, users: &[usize]) -> FetchedView {
    let names: Vec<_> = users.iter().map(|&number| name(number)).collect();
    let asked: Vec<_> = names.iter().map(|name| EntityRef { tenant: TenantId(1), entity: name }).collect();
    let fetched = store.fetch(&plan(store, &["profile:points"]), &asked, 0).unwrap();
    fetched.views.into_iter().next().unwrap()
}

fn points(view: &FetchedView) -> Vec<Option<i64>> {
    view.columns[0].as_primitive::<Int64Type>().iter().collect()
}

fn upsert(store: &Store, rows: &[Row]) {
    let rows = batch(&lasting(), rows);
    let write = Write { tenant: TenantId(1), view: "profile", kind: WriteKind::Upsert, rows: &rows };
    store.write(&[write], 0).unwrap();
}

/// Asks until the hot tier answers.
fn wait_until_hot(store: &Store, user: usize) -> FetchedView {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        store.hot_usage();
        let view = fetch(store, &[user]);
        if view.tier[0] == Tier::Hot {
            return view;
        }
        assert!(Instant::now() < until, "{:?}", view.status);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn cold_entities_answer_and_are_hot_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient(folder.path());
    let store = open(&config);
    store.publish(&build(folder.path(), 1, 300, 200, &[7])).unwrap();
    let info = &store.generations()[0];
    assert_eq!((info.entities, info.cold_entities, info.files, info.cold_files), (300, 199, 1, 1));
    let view = fetch(&store, &[7, 8, 250, 999, 199]);
    assert_eq!(points(&view), [Some(1007), Some(1008), Some(1250), None, Some(1199)]);
    assert_eq!(view.event_time_ms, [7, 8, 250, 0, 199]);
    assert_eq!(view.status[3], Status::NotFound);
    assert_eq!(view.tier, [Tier::Warm, Tier::Cold, Tier::Warm, Tier::None, Tier::Cold]);
    store.hot_usage();
    assert_eq!(fetch(&store, &[7, 8, 250, 199]).tier, [Tier::Hot; 4]);
    drop(store);
    let store = open(&config);
    assert_eq!(fetch(&store, &[8, 199]).tier, [Tier::Cold; 2], "what was hot is gone, what was cold is still there");
}

#[test]
fn of_somebody_erased_who_came_back_a_late_row_is_late_and_not_erased() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&StoreConfig { cold_budget_ms: 0, ..config(folder.path()) });
    store.publish(&build(folder.path(), 1, 300, 200, &[])).unwrap();
    store.erase(TenantId(1), &name(8), 7).unwrap();
    assert_eq!(fetch(&store, &[8]).status, [Status::NotInTime]);
    let view = wait_until_hot(&store, 8);
    assert_eq!((view.status[0], points(&view)[0]), (Status::Present, Some(1008)));
}

#[test]
fn what_is_not_in_time_is_hot_when_it_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { cold_budget_ms: 0, ..config(folder.path()) };
    let store = open(&config);
    store.publish(&build(folder.path(), 1, 300, 200, &[])).unwrap();
    let view = fetch(&store, &[8, 250]);
    assert_eq!(view.status, [Status::NotInTime, Status::Present]);
    assert_eq!(view.tier, [Tier::None, Tier::Warm]);
    assert_eq!((view.event_time_ms[0], points(&view)[0]), (0, None));
    let view = wait_until_hot(&store, 8);
    assert_eq!((view.status[0], points(&view)[0]), (Status::Present, Some(1008)));
    // Absent, and no filter says so of everybody: whatever becomes of it, never a wrong answer.
    assert!(matches!(fetch(&store, &[999]).status[0], Status::NotFound | Status::NotInTime));
}

#[test]
fn live_rows_stand_over_cold_ones() {
    let folder = tempfile::tempdir().unwrap();
    for budget_ms in [0, 30_000] {
        let folder = folder.path().join(budget_ms.to_string());
        let config = StoreConfig { cold_budget_ms: budget_ms, ..config(&folder) };
        let store = open(&config);
        store.publish(&build(&folder, 1, 300, 200, &[])).unwrap();
        // Newer than everything in the generation: no cold read is needed to know that it stands.
        upsert(&store, &[profile_row(&name(8), 1000, 77)]);
        let view = fetch(&store, &[8]);
        assert_eq!((points(&view)[0], view.tier[0]), (Some(77), Tier::Warm));
        // Newer than the row and older than the snapshot: the row must be read to know, and then the live one stands.
        upsert(&store, &[profile_row(&name(9), 50, 99), profile_row(&name(20), 10, 1)]);
        let (newer, older) = (wait_until_hot(&store, 9), wait_until_hot(&store, 20));
        assert_eq!((points(&newer)[0], points(&older)[0]), (Some(99), Some(1020)));
        // A write while a cold row is hot takes its place.
        upsert(&store, &[profile_row(&name(20), 60, 2)]);
        assert_eq!(points(&wait_until_hot(&store, 20))[0], Some(2));
    }
}

#[test]
fn cold_files_come_and_go_with_their_generations() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient(folder.path());
    let store = open(&config);
    for generation in 1..=3 {
        let dir = build(folder.path(), generation, 300, 200, &[]);
        store.publish(&dir).unwrap();
        fs::remove_dir_all(dir).unwrap();
        assert_eq!(points(&fetch(&store, &[8]))[0], Some(i64::from(generation) * 1000 + 8));
        assert_eq!(cold_files(&config).len(), 2.min(generation as usize), "the live one's and the previous one's");
    }
    store.rollback(TenantId(1), "profile").unwrap();
    assert_eq!(points(&fetch(&store, &[8]))[0], Some(2008));
    // All warm again: the generation that has no cold file lets the others' go as they go.
    let dir = build(folder.path(), 4, 300, 0, &[]);
    store.publish(&dir).unwrap();
    assert_eq!(cold_files(&config).len(), 1);
    drop(store);
    fs::write(config.cold_path.join("profile-1-9-000001.parquet"), b"left by a publish that was killed").unwrap();
    let store = open(&config);
    assert_eq!(cold_files(&config).len(), 1, "what no record names is deleted at the start");
    assert_eq!(points(&fetch(&store, &[8]))[0], Some(4008));
}

#[test]
fn a_folder_of_another_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = patient(folder.path());
    let store = open(&first);
    store.publish(&build(folder.path(), 1, 300, 200, &[])).unwrap();
    let second = StoreConfig { path: folder.path().join("second"), ..first.clone() };
    let error = Store::open(&second, &views()).err().unwrap();
    assert!(matches!(error, Error::FixConfig { .. }), "{error:?}");
    assert!(error.to_string().contains("belongs to another store"), "{error}");
    assert_eq!(cold_files(&first).len(), 1);
    assert_eq!(fetch(&store, &[8]).status, [Status::Present]);
}

#[test]
fn a_damaged_cold_file_is_named_and_costs_its_own_rows_only() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient(folder.path());
    let dir = build(folder.path(), 1, 300, 200, &[]);
    // In the folder it was built in: refused by name, and nothing of it stays.
    let spoilt = folder.path().join("spoilt");
    fs::create_dir(&spoilt).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), spoilt.join(entry.file_name())).unwrap();
    }
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        // A new file: the old one has other names.
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    flip(&spoilt.join("000001.parquet"), 300);
    let store = open(&config);
    let error = store.publish(&spoilt).unwrap_err();
    assert!(matches!(error, Error::RebuildGeneration { .. }), "{error:?}");
    assert!(error.to_string().contains("000001.parquet"), "{error}");
    assert_eq!(cold_files(&config), [] as [PathBuf; 0]);
    assert_eq!(store.generations(), []);

    store.publish(&dir).unwrap();
    drop(store);
    let file = cold_files(&config).remove(0);
    flip(&file, 300);
    let store = open(&config);
    let view = fetch(&store, &[8, 250]);
    assert_eq!(view.status, [Status::NotInTime, Status::Present], "the other rows are served on");
    drop(store);
    fs::remove_file(&file).unwrap();
    let error = Store::open(&config, &views()).err().unwrap().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}

#[test]
fn erased_rows_leave_the_cold_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient(folder.path());
    let store = open(&config);
    let view = &views()[1];
    let dir = folder.path().join("orders");
    let writer = GenerationWriter::create(&dir, view, TenantId(1), 1, 100, WriterLimits::default()).unwrap();
    let mut writer = writer.place(Placement { cold_before_ms: Some(100), active: HashSet::new() });
    let marker =
        |text: &str| Row { values: vec![Some(Value::Text(text.to_string())), None, None], ..order_row("", 0, "", 0.0) };
    let row =
        |entity: &str, time: i64, order: &str| Row { entity: entity.into(), event_time_ms: time, ..marker(order) };
    let rows = [row("ada", 20, "93qk+LAPUTA=two"), row("ada", 5, "xy17-Zorro-first"), row("bob", 5, "order-of-bob")];
    writer.append(&batch(view, &rows)).unwrap();
    writer.finish().unwrap();
    store.publish(&dir).unwrap();
    let holds = |marker: &str| {
        let in_file = |path: &PathBuf| fs::read(path).unwrap().windows(marker.len()).any(|w| w == marker.as_bytes());
        cold_files(&config).iter().any(in_file)
    };
    let shown = |store: &Store| {
        let fetched =
            store.fetch(&plan(store, &["orders:order_id"]), &of_tenant(1, &["ada", "bob"]), 0).unwrap().views.remove(0);
        let counts: Vec<_> = (0..2).map(|row| fetched.columns[0].as_list::<i32>().value_length(row)).collect();
        (fetched.status, counts)
    };
    assert!(holds("xy17-Zorro-first") && holds("93qk+LAPUTA=two"));
    assert_eq!(shown(&store), (vec![Status::Present; 2], vec![2, 1]));
    store.erase(TenantId(1), "ada", 10).unwrap();
    assert_eq!(shown(&store), (vec![Status::Present; 2], vec![1, 1]), "the order after the erasure stays");
    let compacted = store.compact_erased().unwrap();
    assert_eq!((compacted.rows, compacted.files), (1, 1));
    assert!(!holds("xy17-Zorro-first") && holds("93qk+LAPUTA=two") && holds("order-of-bob"));
    assert_eq!(shown(&store), (vec![Status::Present; 2], vec![1, 1]));

    store.erase(TenantId(1), "ada", 30).unwrap();
    assert_eq!(shown(&store), (vec![Status::Erased, Status::Present], vec![0, 1]));
    store.compact_erased().unwrap();
    assert!(!holds("93qk+LAPUTA=two") && holds("order-of-bob"));
    assert_eq!(store.compact_erased().unwrap().rows, 0, "nothing is left to do");
    drop(store);
    let store = open(&config);
    assert_eq!(shown(&store), (vec![Status::Erased, Status::Present], vec![0, 1]));
    assert_eq!(cold_files(&config).len(), 1);
}

#[test]
fn rows_can_be_placed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let config = patient(folder.path());
    let store = open(&config);
    store.publish(&build(folder.path(), 5, 300, 200, &[7])).unwrap();
    let place = |cold: i64, active: &[usize]| {
        let active = active.iter().map(|&number| name(number)).collect();
        let placement = Placement { cold_before_ms: Some(cold), active };
        let published = store.replace(TenantId(1), "profile", &placement, WriterLimits::default()).unwrap();
        let info = store.generations().remove(0);
        assert_eq!((published.entities, published.rows), (info.entities, info.rows));
        (published.generation, info.entities, info.cold_entities)
    };
    let all: Vec<_> = (0..300).collect();
    let expected = points(&fetch(&store, &all));
    assert_eq!(place(250, &[7, 8, 9]), (6, 300, 247));
    assert_eq!(points(&fetch(&store, &all)), expected);
    store.hot_usage();
    assert_eq!(place(0, &[]), (7, 300, 0), "all warm");
    assert_eq!(points(&fetch(&store, &all)), expected);
    store.erase(TenantId(1), &name(3), 0).unwrap();
    store.erase(TenantId(1), &name(4), 1000).unwrap();
    assert_eq!(place(i64::MAX, &[]), (8, 299, 299), "all cold, but who was erased");
    let mut expected = expected;
    expected[4] = None;
    assert_eq!(points(&fetch(&store, &all)), expected);
    assert_eq!(store.rollback(TenantId(1), "profile").unwrap().generation, 7);
    assert_eq!(points(&fetch(&store, &all)), expected);
    let nothing = store.replace(TenantId(2), "profile", &Placement::default(), WriterLimits::default()).unwrap_err();
    assert!(matches!(nothing, Error::ChooseGeneration(_)), "{nothing:?}");
}
