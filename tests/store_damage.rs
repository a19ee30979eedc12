//! Promise: a file that is damaged or gone is a clear error that names it and says what to do; what does not need it serves on, and no answer is
//! ever wrong.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use larder_store::{Error, MANIFEST_FILE, Store};

use crate::support::closed::{Closed, SEED, check_message};
use crate::support::history::{Step, open};
use crate::support::long;

/// Changes one bit of a file that others may have open.
fn flip(path: &Path, at: u64, bit: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
}

/// A byte and a bit of it.
type Place = (u64, usize);

/// Places all over a file, so many in the normal run.
fn spread(path: &Path, count: u64) -> Vec<Place> {
    let length = fs::metadata(path).unwrap().len();
    let step = (length / if long() { 400 } else { count }).max(1);
    (0..length).step_by(step as usize).map(|at| (at, (at / step % 8) as usize)).collect()
}

/// Every bit of the lengths and types of RocksDB's log records: of one in the middle, in the long run of all.
fn lengths_and_types(path: &Path) -> Vec<Place> {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.len() < 32 << 10, "more than one block");
    let mut records = vec![0];
    while let Some(header) = bytes.get(records[records.len() - 1]..).filter(|rest| rest.len() >= 7) {
        let length = u16::from_le_bytes([header[4], header[5]]);
        records.push(records[records.len() - 1] + 7 + usize::from(length));
    }
    assert_eq!(records.pop(), Some(bytes.len()));
    let chosen = if long() { 0..records.len() } else { records.len() / 2..records.len() / 2 + 1 };
    let places = |record: &usize| (record + 4..record + 7).flat_map(|at| (0..8).map(move |bit| (at as u64, bit)));
    records[chosen].iter().flat_map(places).collect()
}

/// Flips bits of a file, each in a copy of the store: opening and fetching either fail with a clear error or show exactly what is expected, or else
/// what is `allowed`. Returns how many were noticed.
fn flip_each(closed: &Closed, path: &Path, places: &[Place], allowed: impl Fn(&Store) -> Result<(), String>) -> usize {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut noticed = 0;
    for (at, bit) in places {
        let copy = closed.copy();
        flip(&copy.path().join("store").join(name), *at, *bit);
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let store = open(copy.path()).map_err(|error| {
                check_message(&error, copy.path());
                error.to_string()
            })?;
            match closed.expected.check(&store) {
                Ok(()) => Ok(()),
                Err(wrong) if wrong.contains("is damaged") => Err(wrong),
                Err(wrong) if allowed(&store).is_err() => panic!("a wrong answer: {wrong}"),
                Err(_) => Ok(()),
            }
        }));
        let result = tried.unwrap_or_else(|_| panic!("{name}, byte {at}, bit {bit}"));
        noticed += usize::from(result.is_err());
    }
    println!("{name}: {noticed} of {} noticed", places.len());
    noticed
}

#[test]
fn a_changed_bit_is_an_error_or_changes_nothing() {
    // A store all of whose rows are in files, and then one more write in the log.
    let mut closed = Closed::new(60);
    drop(open(closed.path()).unwrap());
    let store = open(closed.path()).unwrap();
    let mut before = closed.expected.clone();
    for _ in 0..12 {
        let (number, step) = closed.find(|step| matches!(step, Step::Write(_)));
        closed.perform(&store, number, &step).unwrap();
        before = closed.expected.clone();
        closed.expected.apply(SEED, number, &step);
        closed.next = number + 1;
    }
    drop(store);
    let mut files = closed.files("sst");
    assert!(files.len() >= 4, "{files:?}");
    for entry in fs::read_dir(closed.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if ["MANIFEST-", "OPTIONS-", "CURRENT", "IDENTITY"].iter().any(|prefix| name.starts_with(prefix)) {
            files.push(path);
        }
    }
    for path in files {
        let is = |name: &str| path.display().to_string().contains(name);
        let more = if is("MANIFEST") { lengths_and_types(&path) } else { Vec::new() };
        let places = [spread(&path, 6), more].concat();
        let noticed = flip_each(&closed, &path, &places, |_| Err(String::new()));
        let unread = is("OPTIONS") || is("IDENTITY");
        assert!(noticed > 0 || unread, "{}", path.display());
    }
    let logs: Vec<_> = closed.files("log").into_iter().filter(|path| fs::metadata(path).unwrap().len() > 0).collect();
    assert_eq!(logs.len(), 1);
    let places = [spread(&logs[0], 30), lengths_and_types(&logs[0])].concat();
    // What cannot be told from a crash in the middle of the last write loses that one.
    let noticed = flip_each(&closed, &logs[0], &places, |store| before.check(store));
    assert!(noticed > places.len() / 2);
}

#[test]
fn a_bit_that_changes_under_an_open_store_is_an_error_and_the_rest_serves_on() {
    let mut closed = Closed::new(60);
    drop(open(closed.path()).unwrap());
    let store = open(closed.path()).unwrap();
    let mut noticed = 0;
    for path in closed.files("sst") {
        // The store may still be deleting a file that it did not need any more when it was opened.
        let Ok(length) = fs::metadata(&path).map(|metadata| metadata.len()) else { continue };
        for at in (0..length).step_by((length / 10) as usize) {
            flip(&path, at, 3);
        }
        if let Err(wrong) = closed.expected.check(&store) {
            assert!(wrong.contains("is damaged") && wrong.contains("checksum"), "{wrong}");
            assert!(wrong.contains("restore it, or remove it and publish the snapshots again"), "{wrong}");
            noticed += 1;
        }
    }
    assert!(noticed > 0);
    // Writes go on, unless a compaction has met one of the files: then they are refused, and the file is named.
    let (number, step) = closed.find(|step| matches!(step, Step::Write(_)));
    match closed.perform(&store, number, &step) {
        Err(error @ Error::RestartStore { .. }) => {
            check_message(&error, closed.path());
            assert!(error.to_string().contains(".sst"), "{error}");
        }
        other => other.unwrap(),
    }
    closed.next = number + 1;
}

#[test]
fn a_missing_file_is_named() {
    let closed = Closed::new(60);
    drop(open(closed.path()).unwrap());
    for path in closed.files("sst") {
        let copy = closed.copy();
        let name = path.file_name().unwrap();
        fs::remove_file(copy.path().join("store").join(name)).unwrap();
        let error = open(copy.path()).unwrap_err();
        assert!(matches!(error, Error::RestoreStore { .. }), "{error:?}");
        check_message(&error, copy.path());
        assert!(error.to_string().contains(name.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_changed_manifest_of_a_generation_is_refused() {
    let closed = Closed::new(30);
    let store = open(closed.path()).unwrap();
    let (number, step) = closed.find(|step| matches!(step, Step::Publish(_)));
    let built = closed.path().join("built");
    closed.perform(&store, number, &step).unwrap();
    let after = closed.after(number, &step);
    let manifest = built.join(MANIFEST_FILE);
    let whole = fs::read(&manifest).unwrap();
    for at in (0..whole.len()).step_by(if long() { 1 } else { 7 }) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&manifest, bytes).unwrap();
        match store.publish(&built) {
            // White space.
            Ok(published) => assert!(published.already_live, "byte {at}"),
            Err(error) => {
                assert!(matches!(error, Error::RebuildGeneration { .. }), "byte {at}: {error:?}");
                check_message(&error, &built);
            }
        }
    }
    after.check(&store).unwrap();
}
