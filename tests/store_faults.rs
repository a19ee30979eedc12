//! Promise: a disk that is full, that fails or that may not be written is a clear error that names the file or folder and says what to do; reads go
//! on, and no step is ever half done.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_store::{Error, Store, WriterLimits};

use crate::support::child::{self, Said, say};
use crate::support::closed::{Closed, SEED, check_message};
use crate::support::disk::{Call, break_disk};
use crate::support::history::{FIRST, Step, check_left, open, views};
use crate::support::store::{Row, Value, build_within, profile_row};
use crate::support::{Random, long};

/// Set for a child process: the folder it works in.
const FOLDER: &str = "LARDER_TEST_CHILD_FOLDER";
/// Set for a child process: what it does there.
const TASK: &str = "LARDER_TEST_CHILD_TASK";

#[test]
fn a_broken_disk_breaks_what_the_store_calls() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("file")).unwrap();
    file.write_all(b"whole").unwrap();
    let broken = break_disk(folder.path(), Call::Sync, libc::EIO, 1);
    file.sync_all().unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(broken.calls(), 3);
    drop(broken);
    file.sync_all().unwrap();
    let broken = break_disk(folder.path(), Call::Write, libc::ENOSPC, 0);
    assert_eq!(file.write_all(b" or half").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    drop(broken);
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"whole or ");
}

/// Does the same step until the store takes it.
fn perform_until_taken(closed: &Closed, store: &Store, number: usize, step: &Step) {
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = closed.perform(store, number, step) {
        assert!(matches!(error, Error::FreeSpace { .. }), "{error}");
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_again() {
    let mut closed = Closed::new(30);
    let store = open(closed.path()).unwrap();
    let folder = closed.path().join("store");
    let steps = [
        closed.find(|step| matches!(step, Step::Publish(_))),
        closed.find(|step| matches!(step, Step::Write(_))),
        closed.find(|step| matches!(step, Step::Erase(_))),
    ];
    let full = break_disk(&folder, Call::Write, libc::ENOSPC, 0);
    for (number, step) in steps.iter().chain(&steps) {
        let error = closed.perform(&store, *number, step).unwrap_err();
        assert!(matches!(error, Error::FreeSpace { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with(&format!("the disk of {} is full", folder.display())), "{message}");
        assert!(message.contains("free space there, and writing goes on by itself"), "{message}");
        closed.expected.check(&store).unwrap();
    }
    drop(full);
    for (number, step) in &steps {
        perform_until_taken(&closed, &store, *number, step);
        closed.expected.apply(SEED, *number, step);
        closed.expected.check(&store).unwrap();
    }
    drop(store);
    closed.expected.check(&open(closed.path()).unwrap()).unwrap();
}

#[test]
fn a_failed_sync_refuses_writes_until_the_store_is_opened_again() {
    let closed = Closed::new(30);
    let store = open(closed.path()).unwrap();
    let (number, step) = closed.find(|step| matches!(step, Step::Write(_)));
    let folder = closed.path().join("store");
    let broken = break_disk(&folder, Call::Sync, libc::EIO, 0);
    let refused = || {
        let error = closed.perform(&store, number, &step).unwrap_err();
        assert!(matches!(error, Error::RestartStore { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.starts_with(&format!("the store folder {} takes no more writes", folder.display())),
            "{message}"
        );
        assert!(message.contains("see that its disk is well, then start again"), "{message}");
        closed.expected.check(&store).unwrap();
    };
    refused();
    drop(broken);
    // The disk is well again, but what it holds of the log is unknown: a sync that succeeds now would prove nothing.
    refused();
    drop(store);
    let store = open(closed.path()).unwrap();
    let after = closed.after(number, &step);
    closed.expected.check(&store).or_else(|_| after.check(&store)).unwrap();
    closed.perform(&store, number, &step).unwrap();
    after.check(&store).unwrap();
}

#[test]
fn a_disk_that_fails_at_any_moment_leaves_a_step_done_or_not_done() {
    let closed = Closed::new(40);
    let kinds = ["Write", "Publish", "Rollback", "Erase", "CompactErased"];
    let mut tried = 0;
    for name in kinds {
        let (number, step) = closed.find(|step| format!("{step:?}").starts_with(name));
        let after = closed.after(number, &step);
        let calls = [(Call::Write, libc::ENOSPC), (Call::Sync, libc::EIO), (Call::Any, libc::EIO)];
        for (call, errno) in calls.into_iter().take(if long() { 3 } else { 2 }) {
            let mut spared = 0;
            loop {
                let copy = closed.copy();
                let folder = copy.path().join("store");
                let store = open(copy.path()).unwrap();
                let broken = break_disk(&folder, call, errno, spared);
                let result = copy.perform(&store, number, &step);
                let at = format!("{name}, {call:?} {spared}: {result:?}");
                let now = if result.is_ok() { &after } else { &closed.expected };
                now.check(&store).unwrap_or_else(|wrong| panic!("{at}: {wrong}"));
                if let Err(error) = &result {
                    check_message(error, copy.path());
                }
                let struck = broken.calls() > spared;
                // Erased bytes are gone when this says so, and a disk that takes nothing cannot let them go.
                assert!(name != "CompactErased" || call == Call::Sync || struck == result.is_err(), "{at}");
                drop(store);
                drop(broken);
                let store = open(copy.path()).unwrap_or_else(|error| panic!("{at}: {error}"));
                let whole = after.check(&store).or_else(|wrong| match result {
                    Ok(()) => Err(wrong),
                    Err(_) => closed.expected.check(&store),
                });
                whole.unwrap_or_else(|wrong| panic!("{at}, opened again: {wrong}"));
                tried += 1;
                if !struck {
                    break;
                }
                // RocksDB pauses for a second after each compaction that failed.
                spared += if long() { 1 } else { 1 + 2 * spared };
            }
        }
    }
    println!("{tried} failures");
}

#[test]
fn a_generation_of_many_files_whose_linking_fails_is_not_missed() {
    // Texts that no compression shortens, so that the generation has several files.
    let text = |random: &mut Random| (0..64 << 10).map(|_| char::from(b'!' + random.below(90) as u8)).collect();
    let mut random = Random::new(5);
    let row = |user: usize| {
        let row = profile_row(&format!("user-{user:02}"), FIRST as i64 + 999, user as i64);
        let values = [Some(Value::Text(text(&mut random)))].into_iter().chain(row.values.into_iter().skip(1));
        Row { values: values.collect(), ..row }
    };
    let rows: Vec<_> = (0..60).map(row).collect();
    let built = tempfile::tempdir().unwrap();
    let limits = WriterLimits { file_mib: 1, ..WriterLimits::default() };
    let manifest = build_within(limits, &built.path().join("built"), &views()[0], 1, FIRST as u32 + 999, rows);
    assert!(manifest.files.len() > 2);
    let closed = Closed::new(20);
    for spared in 0.. {
        let copy = closed.copy();
        let store = open(copy.path()).unwrap();
        let broken = break_disk(&copy.path().join("store"), Call::Sync, libc::EIO, spared);
        let result = store.publish(&built.path().join("built"));
        // Once more, in vain.
        let again = store.publish(&built.path().join("built"));
        let struck = broken.calls() > spared;
        drop(store);
        drop(broken);
        let store = open(copy.path()).unwrap_or_else(|error| panic!("{spared}: {result:?}: {error}"));
        let live = store.generations().iter().any(|info| info.generation == FIRST as u32 + 999);
        assert!(live || (result.is_err() && again.is_err()), "{spared}");
        assert_eq!(check_left(copy.path()), Ok(()), "{spared}");
        if !live {
            closed.expected.check(&store).unwrap();
        }
        if !struck {
            return assert!(spared > 3);
        }
    }
}

#[test]
fn a_disk_that_fails_while_a_store_opens_costs_nothing() {
    let closed = Closed::new(40);
    for (call, errno) in [(Call::Write, libc::ENOSPC), (Call::Sync, libc::EIO)] {
        let mut spared = 0;
        loop {
            let copy = closed.copy();
            let folder = copy.path().join("store");
            let broken = break_disk(&folder, call, errno, spared);
            match open(copy.path()) {
                Ok(store) => closed.expected.check(&store).unwrap(),
                Err(error) => check_message(&error, copy.path()),
            }
            let struck = broken.calls() > spared;
            drop(broken);
            closed.expected.check(&open(copy.path()).unwrap()).unwrap();
            if !struck {
                break;
            }
            spared += if long() { 1 } else { 1 + spared };
        }
    }
}

#[test]
fn a_full_disk_while_a_generation_is_built_is_an_error_that_names_its_file() {
    let closed = Closed::new(0);
    let store = open(closed.path()).unwrap();
    let (number, step) = closed.find(|step| matches!(step, Step::Publish(_)));
    let built = closed.path().join("built");
    let mut spared = 0;
    loop {
        let full = break_disk(&built, Call::Write, libc::ENOSPC, spared);
        let result = closed.perform(&store, number, &step);
        if full.calls() <= spared {
            result.unwrap();
            break;
        }
        let error = result.unwrap_err();
        check_message(&error, &built);
        assert!(error.to_string().contains("No space left on device"), "{error}");
        closed.expected.check(&store).unwrap();
        spared += 1;
    }
    assert!(spared > 1);
    closed.after(number, &step).check(&store).unwrap();
}

/// Not a test by itself: other tests run it in a process of its own, under limits or as somebody else.
#[test]
fn child_process() {
    let (Ok(folder), Ok(task)) = (std::env::var(FOLDER), std::env::var(TASK)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let store = match open(&folder) {
        Ok(store) => store,
        Err(error) => return say(&error.to_string()),
    };
    say("opened");
    for number in task.split_whitespace() {
        let number = number.parse().unwrap();
        match Step::of(SEED, number).perform(&store, &folder, SEED, number) {
            Ok(()) => say(&format!("done {number}")),
            Err(error) => say(&error.to_string()),
        }
    }
}

#[test]
fn a_limit_of_the_operating_system_is_a_full_disk() {
    // Unlike the disks above this one is real: no file may grow beyond 64 KiB.
    let closed = Closed::new(30);
    let numbers: Vec<_> =
        (closed.next..).filter(|number| matches!(Step::of(SEED, *number), Step::Write(_))).take(600).collect();
    let task = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let plain = child::command(module_path!());
    let mut command = child::piped("bash");
    command.args(["-c", limited]).arg(plain.get_program()).args(plain.get_args());
    let said = Said::start(command.env(FOLDER, closed.path()).env(TASK, task)).finish();
    assert_eq!(said[0], "opened");
    let mut expected = closed.expected.clone();
    let done = said.iter().filter(|line| line.starts_with("done")).count();
    assert!((1..numbers.len()).contains(&done), "the limit was not met");
    for number in &numbers[..done] {
        expected.apply(SEED, *number, &Step::of(SEED, *number));
    }
    let store = closed.path().join("store");
    for line in &said[1 + done..] {
        assert!(line.starts_with(&format!("the store folder {} takes no more writes", store.display())), "{line}");
        assert!(line.contains("File too large"), "{line}");
    }
    let store = open(closed.path()).unwrap();
    let next = numbers[done];
    let mut after = expected.clone();
    after.apply(SEED, next, &Step::of(SEED, next));
    expected.check(&store).or_else(|_| after.check(&store)).unwrap();
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let closed = Closed::new(30);
    let nobody = 65534;
    // Rights bind everybody but root, who becomes somebody else.
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let run = |folder: &Path| {
        let mut command = child::command_of_anybody(module_path!());
        if root {
            command.uid(nobody).gid(nobody);
        }
        Said::start(command.current_dir("/").env(FOLDER, folder).env(TASK, "")).finish()
    };
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let give = |path: &Path| {
        if root {
            std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).unwrap();
        }
    };
    let store = closed.path().join("store");
    give(closed.path());
    give(&store);
    for entry in fs::read_dir(&store).unwrap() {
        give(&entry.unwrap().path());
    }
    assert_eq!(run(closed.path()), ["opened"]);
    allow(&store, 0o500);
    let said = run(closed.path());
    assert!(said[0].starts_with(&format!("cannot open {}: ", store.display())), "{said:?}");
    assert!(
        said[0].contains("Permission denied")
            && said[0].ends_with("check the disk there: its space, rights and health"),
        "{said:?}"
    );
    allow(&store, 0o700);

    let empty = tempfile::tempdir().unwrap();
    give(empty.path());
    allow(empty.path(), 0o500);
    let said = run(empty.path());
    assert!(
        said[0].starts_with(&format!("cannot create {}: Permission denied", empty.path().join("store").display())),
        "{said:?}"
    );
    allow(empty.path(), 0o700);
    closed.expected.check(&open(closed.path()).unwrap()).unwrap();
}
