//! Promise: whatever happens to the process or to the files, a store opens with one whole generation or says what is wrong, and a generation
//! that is not whole never takes the live one's place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use larder_store::{
    Error, FeatureType, GenerationState, MANIFEST_FILE, Status, Store, TenantId, ViewConfig, ViewKind, WriterLimits,
};

use crate::support::child::{self, Said, say};
use crate::support::store::{
    Row, Value, build, build_within, config, feature, of_tenant, orders, plan, profile, profile_row, publish,
};

/// Set for a child process: the folder it works in.
const CHILD_FOLDER: &str = "LARDER_TEST_CHILD_FOLDER";
/// Set for a child process: the first generation it builds; 0 only opens the store.
const CHILD_GENERATION: &str = "LARDER_TEST_CHILD_GENERATION";

const ENTITIES: usize = 3000;

fn open(folder: &Path) -> Result<Store, Error> {
    Store::open(&config(folder), &[profile(), orders()])
}

/// A generation in which every row says the generation's number.
fn rows(number: u32) -> Vec<Row> {
    (0..ENTITIES).map(|entity| profile_row(&format!("user-{entity:05}"), 0, i64::from(number))).collect()
}

/// Checks that the live generation is whole and returns its number.
fn check_whole(store: &Store) -> u32 {
    let plan = plan(store, &["profile:points"]);
    let names: Vec<_> = (0..ENTITIES).map(|entity| format!("user-{entity:05}")).collect();
    let mut numbers = BTreeSet::new();
    for part in names.chunks(1000) {
        let part: Vec<_> = part.iter().map(String::as_str).collect();
        let fetched = store.fetch(&plan, &of_tenant(1, &part), 0).unwrap();
        let view = &fetched.views[0];
        assert!(view.status.iter().all(|status| *status == Status::Present), "a row is missing");
        numbers.extend(view.columns[0].as_primitive::<Int64Type>().values().iter().copied());
        numbers.extend(view.generation.iter().map(|generation| i64::from(*generation)));
    }
    assert_eq!(numbers.len(), 1, "rows of several generations: {numbers:?}");
    numbers.pop_first().unwrap() as u32
}

/// Runs `child_process` below in a process of its own.
fn start_child(folder: &Path, generation: u32) -> Said {
    let mut command = child::command(module_path!());
    Said::start(command.env(CHILD_FOLDER, folder).env(CHILD_GENERATION, generation.to_string()))
}

/// Not a test by itself: the other tests run it in a process of its own, which builds and publishes generations until it is killed.
#[test]
fn child_process() {
    let (Ok(folder), Ok(first)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_GENERATION)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let store = match open(&folder) {
        Ok(store) => store,
        Err(error) => return say(&format!("{error}")),
    };
    let first: u32 = first.parse().unwrap();
    if first == 0 {
        return say("opened");
    }
    for number in first.. {
        say(&format!("build {number}"));
        let dir = folder.join(format!("built-{number}"));
        let _ = fs::remove_dir_all(&dir);
        build(&dir, &profile(), 1, number, rows(number));
        say(&format!("publish {number}"));
        store.publish(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_killed_publisher_leaves_the_old_generation_or_the_new_one() {
    const ROUNDS: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    publish(&open(folder.path()).unwrap(), folder.path(), &profile(), 1, 1, rows(1));
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut live = 1;
    let mut published = 0;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let child = start_child(folder.path(), live + 1);
        // Half of the rounds strike within a publish, the others anywhere in the second generation's life.
        let mark = if round % 2 == 0 { format!("publish {}", live + 1) } else { format!("build {}", live + 2) };
        let mut last = live;
        let mut note = |line: &str| {
            let (step, number) = line.split_once(' ').unwrap();
            let number: u32 = number.parse().unwrap();
            // Generation `number - 1` was published before `number` was begun.
            last = if step == "build" { number - 1 } else { last };
            line == mark
        };
        while !note(&child.next()) {}
        let strike = Duration::from_micros((random >> 33) % 30_000);
        if round % 2 == 1 {
            let end = Instant::now() + strike;
            while let Some(line) = child.next_within(end.saturating_duration_since(Instant::now())) {
                note(&line);
            }
        } else {
            let _ = child.next_within(strike).map(|line| note(&line));
        }
        for line in child.kill() {
            note(&line);
        }

        let store = open(folder.path()).unwrap();
        let found = check_whole(&store);
        assert!(found == last || found == last + 1, "round {round}: {last} was acknowledged, {found} is live");
        let kept: Vec<_> = store.generations().iter().map(|info| (info.generation, info.state)).collect();
        assert_eq!(kept[0], (found, GenerationState::Live));
        assert_eq!(kept.len(), if found > 1 { 2 } else { 1 });
        assert!(!folder.path().join("store/incoming").exists(), "staged files were left");
        drop(store);
        assert_eq!(base_files(folder.path()), kept.len(), "round {round}: files of unfinished generations were left");
        published += found - live;
        live = found;
    }
    assert!(published >= 3, "the rounds ended too early to mean anything");
}

/// SST files of generations in the store's folder.
fn base_files(folder: &Path) -> usize {
    store_files(folder, "sst")
        .iter()
        .filter(|path| fs::read(path).unwrap().windows(5).any(|bytes| bytes == b"user-"))
        .count()
}

fn store_files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("store")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

#[test]
fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let expected = format!(
        "the store folder {} is open elsewhere: only one process at a time may open a store, stop the other one or use another path",
        folder.path().join("store").display()
    );
    let handle = open(folder.path()).err().unwrap();
    assert!(matches!(handle, Error::CloseOtherProcess { .. }));
    assert_eq!(handle.to_string(), expected);
    let other_process = |expected: &str| {
        assert_eq!(start_child(folder.path(), 0).finish(), [expected]);
    };
    other_process(&expected);
    drop(store);
    other_process("opened");
}

#[test]
fn reopening_keeps_the_live_and_the_previous_generation() {
    let folder = tempfile::tempdir().unwrap();
    let state = |store: &Store| store.generations().iter().map(|info| info.generation).collect::<Vec<_>>();
    {
        let store = open(folder.path()).unwrap();
        for number in 1..=3 {
            publish(&store, folder.path(), &profile(), 1, number, rows(number));
        }
        assert_eq!(state(&store), [3, 2]);
    }
    {
        let store = open(folder.path()).unwrap();
        assert_eq!((state(&store), check_whole(&store)), (vec![3, 2], 3));
        let back = store.rollback(TenantId(1), "profile").unwrap();
        assert_eq!((back.generation, back.previous), (2, Some(3)));
        assert_eq!(check_whole(&store), 2);
    }
    let store = open(folder.path()).unwrap();
    assert_eq!((state(&store), check_whole(&store)), (vec![2, 3], 2));
    store.rollback(TenantId(1), "profile").unwrap();
    assert_eq!(check_whole(&store), 3);
}

#[test]
fn publishing_is_idempotent_and_never_goes_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let refused = |dir: &Path, reason: &str| {
        let error = store.publish(dir).unwrap_err();
        assert!(matches!(error, Error::ChooseGeneration(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    let nothing = store.rollback(TenantId(1), "profile").unwrap_err();
    assert_eq!(nothing.to_string(), "view profile of tenant 1 has no live generation");
    let second = publish(&store, folder.path(), &profile(), 1, 2, rows(2));
    let again = store.publish(&second).unwrap();
    assert!(again.already_live && again.generation == 2 && again.dropped.is_none());
    assert!(store.rollback(TenantId(1), "profile").unwrap_err().to_string().contains("no previous generation"));

    let other = folder.path().join("other");
    build(&other, &profile(), 1, 2, rows(7));
    refused(&other, "it is live with other content");
    let first = folder.path().join("first");
    build(&first, &profile(), 1, 1, rows(1));
    refused(&first, "generation 2 was published before");
    let fourth = folder.path().join("fourth");
    build(&fourth, &profile(), 1, 4, rows(4));
    assert_eq!(store.publish(&fourth).unwrap().previous, Some(2));
    refused(&second, "roll back to return to it");
    store.rollback(TenantId(1), "profile").unwrap();
    assert_eq!(check_whole(&store), 2);
    let third = folder.path().join("third");
    build(&third, &profile(), 1, 3, rows(3));
    refused(&third, "generation 4 was published before");
    let fifth = folder.path().join("fifth");
    build(&fifth, &profile(), 1, 5, rows(5));
    let published = store.publish(&fifth).unwrap();
    assert_eq!((published.generation, published.previous, published.dropped), (5, Some(2), Some(4)));
    assert_eq!(check_whole(&store), 5);
}

#[test]
fn a_generation_that_is_not_whole_is_refused_and_the_old_one_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    publish(&store, folder.path(), &profile(), 1, 1, rows(1));
    let mut number = 1;
    let mut check = |spoil: &dyn Fn(&Path), file: &str, reason: &str| {
        number += 1;
        let dir = folder.path().join(format!("spoilt-{number}"));
        build(&dir, &profile(), 1, number, rows(number));
        spoil(&dir);
        let error = store.publish(&dir).unwrap_err();
        let Error::RebuildGeneration { path, reason: found } = &error else { panic!("{error:?}") };
        assert_eq!(path, &dir.join(file).components().collect::<PathBuf>(), "{error}");
        assert!(found.contains(reason), "{error}");
        assert_eq!(check_whole(&store), 1);
        assert!(!folder.path().join("store/incoming").exists());
    };
    const SST: &str = "000001.sst";
    let edit = |dir: &Path, file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        // A new file: linked ones must not be changed in place.
        let path = dir.join(file);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    let replace = |dir: &Path, from: &str, to: &str| {
        edit(dir, MANIFEST_FILE, &|bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        });
    };
    check(&|dir| edit(dir, SST, &|bytes| bytes[1000] ^= 1), SST, "its content was changed");
    check(&|dir| edit(dir, SST, &|bytes| bytes.truncate(1000)), SST, "1000 bytes, the manifest says");
    check(&|dir| edit(dir, SST, &|bytes| bytes.push(0)), SST, "bytes, the manifest says");
    check(&|dir| fs::remove_file(dir.join(SST)).unwrap(), SST, "it is not there");
    check(&|dir| fs::remove_file(dir.join(MANIFEST_FILE)).unwrap(), "", "never finished");
    check(&|dir| edit(dir, MANIFEST_FILE, &|bytes| bytes.truncate(40)), MANIFEST_FILE, "not a manifest");
    check(&|dir| edit(dir, MANIFEST_FILE, &|bytes| bytes.clear()), MANIFEST_FILE, "not a manifest");
    check(&|dir| replace(dir, "\"tenant\": 1", "\"tenant\": 2"), MANIFEST_FILE, "it was changed");
    check(
        &|dir| replace(dir, "\"format\": 1", "\"format\": 9"),
        MANIFEST_FILE,
        "format 9, this program reads format 1",
    );
    check(&|dir| replace(dir, "\"crc32\": ", "\"crc32\": 1"), MANIFEST_FILE, "");
    check(&|dir| replace(dir, SST, "../../store/CURRENT"), MANIFEST_FILE, "it was changed");
}

#[test]
fn a_generation_of_another_declaration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    publish(&store, folder.path(), &profile(), 1, 1, rows(1));
    let mut number = 1;
    let mut check = |change: &dyn Fn(&mut ViewConfig), reason: &str| {
        number += 1;
        let mut view = ViewConfig { features: vec![feature("points", FeatureType::I64)], ..profile() };
        change(&mut view);
        let dir = folder.path().join(format!("other-{number}"));
        let batch_view = view.clone();
        let values = view.features.iter().map(|_| None).collect::<Vec<_>>();
        let mut row = Row { entity: "ada".to_string(), event_time_ms: 0, values };
        if view.kind == ViewKind::LastN {
            row.values[0] = Some(Value::I64(1));
        }
        build(&dir, &batch_view, 1, number, vec![row]);
        let error = store.publish(&dir).unwrap_err();
        assert!(matches!(error, Error::RebuildGeneration { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(check_whole(&store), 1);
    };
    check(&|view| view.name = "basket".to_string(), "it is of view basket, which is not declared");
    check(&|view| view.id = 9, "view profile has id 9 there and is declared with id 1");
    check(&|view| view.features[0].data_type = FeatureType::F64, "feature points is stored as f64 and declared as i64");
    check(
        &|view| (view.kind, view.n, view.element_key) = (ViewKind::LastN, Some(2), Some("points".to_string())),
        "its rows are of kind LastN",
    );
}

#[test]
fn a_declaration_that_stored_rows_contradict_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    publish(&open(folder.path()).unwrap(), folder.path(), &profile(), 1, 1, rows(1));
    let refused = |view: ViewConfig, reason: &str| {
        let error = Store::open(&config(folder.path()), &[view]).err().unwrap();
        assert!(matches!(error, Error::FixConfig { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    let mut changed = profile();
    changed.features[1].data_type = FeatureType::Utf8;
    refused(changed, "feature points is stored as i64 and declared as utf8");
    refused(ViewConfig { name: "customer".to_string(), ..profile() }, "this id belongs to the stored view profile");
    refused(ViewConfig { id: 1, ..orders() }, "view orders: id = 1");
    // A view that is no longer declared keeps its rows.
    drop(Store::open(&config(folder.path()), &[orders()]).unwrap());
    assert_eq!(check_whole(&open(folder.path()).unwrap()), 1);
}

#[test]
fn files_that_cannot_be_linked_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let dir = folder.path().join("linked");
    build(&dir, &profile(), 1, 1, rows(1));
    let elsewhere = folder.path().join("elsewhere.sst");
    fs::rename(dir.join("000001.sst"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.join("000001.sst")).unwrap();
    store.publish(&dir).unwrap();
    fs::write(&elsewhere, b"changed after publishing").unwrap();
    drop(store);
    assert_eq!(check_whole(&open(folder.path()).unwrap()), 1);
}

/// Publishes one generation, closes the store, spoils it and returns what opening says.
fn open_spoilt(spoil: impl Fn(&Path)) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    publish(&open(folder.path()).unwrap(), folder.path(), &profile(), 1, 1, rows(1));
    // Once more, so that the record has moved from the log into a file of the meta family.
    drop(open(folder.path()).unwrap());
    spoil(folder.path());
    let store = open(folder.path())?;
    assert_eq!(check_whole(&store), 1);
    Ok(())
}

#[test]
fn a_damaged_store_says_what_is_wrong() {
    let check = |spoil: &dyn Fn(&Path), reason: &str| {
        let error = open_spoilt(spoil).unwrap_err();
        assert!(matches!(error, Error::RestoreStore { .. } | Error::CheckDisk { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    let base = |folder: &Path| {
        let files = store_files(folder, "sst");
        files.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    };
    let meta = |folder: &Path| {
        let files = store_files(folder, "sst");
        files.into_iter().min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    open_spoilt(|_| ()).unwrap();
    check(&|folder| fs::write(folder.join("store/CURRENT"), b"nonsense").unwrap(), "CURRENT");
    check(&|folder| fs::remove_file(base(folder)).unwrap(), ".sst");
    check(&|folder| cut(&base(folder)), ".sst");
    check(&|folder| cut(&meta(folder)), ".sst");
    check(&|folder| flip(&meta(folder), 60), "the meta family cannot be read");
}

#[test]
fn a_damaged_block_is_an_error_and_never_a_wrong_answer() {
    let folder = tempfile::tempdir().unwrap();
    publish(&open(folder.path()).unwrap(), folder.path(), &profile(), 1, 1, rows(1));
    let base = store_files(folder.path(), "sst");
    let base = base.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(base).unwrap();
    bytes[100] ^= 1;
    fs::remove_file(base).unwrap();
    fs::write(base, bytes).unwrap();

    let store = open(folder.path()).unwrap();
    let plan = plan(&store, &["profile:points"]);
    let error = store.fetch(&plan, &of_tenant(1, &["user-00000"]), 0).unwrap_err();
    assert!(matches!(error, Error::RestoreStore { .. }), "{error:?}");
    assert!(error.to_string().contains("checksum"), "{error}");
    let fine = store.fetch(&plan, &of_tenant(1, &["user-02999"]), 0).unwrap();
    assert_eq!(fine.views[0].columns[0].as_primitive::<Int64Type>().value(0), 1);
}

/// A text of 16 KiB that no compression shortens much.
fn noise(mut state: u64) -> String {
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'!' + (state >> 57) as u8 % 90)
    };
    (0..16 << 10).map(next).collect()
}

#[test]
fn a_generation_of_many_files_is_published_reopened_and_dropped_whole() {
    const ROWS: u64 = 700;
    let folder = tempfile::tempdir().unwrap();
    let limits = WriterLimits { file_mib: 1, ..WriterLimits::default() };
    let rows = |generation: u32| -> Vec<Row> {
        let row = |entity: u64| Row {
            values: vec![Some(Value::Text(noise(entity + 1))), Some(Value::I64(i64::from(generation)))],
            ..profile_row(&format!("user-{entity:05}"), 0, 0)
        };
        (0..ROWS).map(row).collect()
    };
    let view = ViewConfig {
        features: vec![feature("text", FeatureType::Utf8), feature("points", FeatureType::I64)],
        ..profile()
    };
    let open = || Store::open(&config(folder.path()), std::slice::from_ref(&view)).unwrap();
    let names: Vec<String> = (0..ROWS).map(|entity| format!("user-{entity:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut files = Vec::new();
    for generation in 1..=4 {
        let dir = folder.path().join(format!("built-{generation}"));
        let manifest = build_within(limits.clone(), &dir, &view, 1, generation, rows(generation));
        assert!(manifest.files.len() >= 8, "only {} files", manifest.files.len());
        files.push(manifest.files.len());
        // Each publish finds a store that was closed and opened again.
        let store = open();
        store.publish(&dir).unwrap();
        drop(store);
        let store = open();
        let fetched =
            store.fetch(&plan(&store, &["profile:text", "profile:points"]), &of_tenant(1, &names), 0).unwrap();
        let (texts, points) =
            (fetched.views[0].columns[0].as_string::<i32>(), fetched.views[0].columns[1].as_primitive::<Int64Type>());
        for row in 0..ROWS as usize {
            assert_eq!(points.value(row), i64::from(generation), "row {row}");
            assert!(texts.value(row) == noise(row as u64 + 1), "row {row} is not what was written");
        }
        let kept: usize = store.generations().iter().map(|info| info.files).sum();
        assert_eq!(kept, files.iter().rev().take(2).sum::<usize>(), "the live generation and the previous one");
    }
    let on_disk = fs::read_dir(config(folder.path()).path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "sst"));
    // Meta has a few files of its own; a generation that had stayed would be more.
    let (found, kept) = (on_disk.count(), files[2] + files[3]);
    assert!((kept..kept + files[1]).contains(&found), "{found} SST files on disk for {kept} of two generations");
}
