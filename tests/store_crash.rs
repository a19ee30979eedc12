//! Promise: an acknowledged write, publish or erasure survives a crash of the process and a loss of power; what was not acknowledged is there
//! whole or not at all; and nothing unfinished stays on disk.
//!
//! A child process lives through a random history and says what was acknowledged, until it is killed. Then the store is opened and compared. For a loss
//! of power it is opened from a copy that holds only what had been synced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use larder_store::Store;
use tempfile::TempDir;

use crate::support::child::{self, Said, say};
use crate::support::disk::{NOT_SYNCED, NOTED_IN, PowerCut, Unsynced};
use crate::support::history::{
    self, Expected, FIRST, Step, check_left, generations_on_disk, open, read_uniform, uniform, uniform_number,
};
use crate::support::{Random, long};

/// Set for a child process: the folder it works in.
const FOLDER: &str = "LARDER_TEST_CHILD_FOLDER";
/// Set for a child process: the history's seed and the first step of each thread.
const HISTORY: &str = "LARDER_TEST_CHILD_HISTORY";

/// Threads of the child: the first lives the history, the others write batches of tenants of their own.
const THREADS: usize = 3;

/// Not a test by itself: the other tests run it in a process of its own.
#[test]
fn child_process() {
    let (Ok(folder), Ok(history)) = (std::env::var(FOLDER), std::env::var(HISTORY)) else {
        return;
    };
    let numbers: Vec<usize> = history.split(' ').map(|number| number.parse().unwrap()).collect();
    let [seed, starts @ ..] = &numbers[..] else { panic!("{history}") };
    let (folder, seed) = (PathBuf::from(folder), *seed as u64);
    say("started");
    let store = open(&folder).unwrap();
    say("opened");
    thread::scope(|scope| {
        for (thread, start) in starts.iter().enumerate() {
            let (store, folder) = (&store, &folder);
            scope.spawn(move || {
                for number in *start.. {
                    say(&format!("begin {thread} {number}"));
                    if thread == 0 {
                        Step::of(seed, number).perform(store, folder, seed, number).unwrap();
                    } else {
                        history::write(store, tenant(thread), &uniform(number), number as i64).unwrap();
                    }
                    say(&format!("done {thread} {number}"));
                }
            });
        }
    });
}

fn tenant(thread: usize) -> u32 {
    thread as u32 + 1
}

/// What a test knows of a history.
#[derive(Clone)]
struct Known {
    seed: u64,
    expected: Expected,
    /// By thread the next step that is not known to be done, and whether it was begun.
    next: [(usize, bool); THREADS],
    /// What was being done when the process died.
    interrupted: Vec<&'static str>,
}

impl Known {
    fn new(seed: u64) -> Known {
        Known {
            seed,
            expected: Expected::new(),
            next: [(FIRST, false), (1, false), (1, false)],
            interrupted: Vec::new(),
        }
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = child::command(module_path!());
        let history = self.next.map(|(number, _)| number.to_string()).join(" ");
        command.env(FOLDER, folder).env(HISTORY, format!("{} {history}", self.seed));
        command
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let [word, thread, number] = words[..] else { return };
        let (thread, number): (usize, usize) = (thread.parse().unwrap(), number.parse().unwrap());
        assert_eq!(number, self.next[thread].0, "{line}");
        if word == "begin" {
            self.next[thread].1 = true;
            return;
        }
        if thread == 0 {
            self.expected.apply(self.seed, number, &Step::of(self.seed, number));
        }
        self.next[thread] = (number + 1, false);
    }

    fn acknowledged(&self) -> usize {
        self.next.iter().map(|(number, _)| number).sum::<usize>() - FIRST - (THREADS - 1)
    }

    /// Compares with a store that was opened again: says what is lost or half done. What was in the middle is now known to be done or not.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        let (number, begun) = self.next[0];
        let without = self.expected.check(store);
        if begun {
            let step = Step::of(self.seed, number);
            let mut after = self.expected.clone();
            after.apply(self.seed, number, &step);
            // What was not done is done again, as a client would; so is what cannot be seen, and may have been done.
            self.next[0] = (number, false);
            if let Err(without) = without {
                after.check(store).map_err(|with| format!("{without}; and if {step:?} was done: {with}"))?;
                self.expected = after;
                self.next[0] = (number + 1, false);
            }
            self.interrupted.push(match step {
                Step::Write(_) => "write",
                Step::Publish(_) => "publish",
                Step::Rollback(_) => "rollback",
                Step::Erase(_) => "erase",
                Step::CompactErased => "compact_erased",
            });
        } else {
            without?;
        }
        for thread in 1..THREADS {
            let (number, begun) = self.next[thread];
            let found = read_uniform(store, tenant(thread))?;
            let known = if number == 1 { None } else { uniform_number(number - 1) };
            if found != known && !(begun && found == uniform_number(number)) {
                return Err(format!("tenant {} shows {found:?}, {} was acknowledged", tenant(thread), number - 1));
            }
            // A number is not used twice, so that what is found is never mistaken for something else.
            self.next[thread] = (number + usize::from(begun && found == uniform_number(number)), false);
        }
        Ok(())
    }

    /// Opens the store in `folder` and compares.
    fn check_folder(&mut self, folder: &Path) -> Result<(), String> {
        let store = open(folder).map_err(|error| error.to_string())?;
        self.check(&store)?;
        drop(store);
        check_left(folder)?;
        let (found, kept) = (generations_on_disk(folder), self.expected.kept());
        match found.iter().all(|number| kept.contains(number)) {
            true => Ok(()),
            false => Err(format!("files of generations {found:?} are on disk, kept are {kept:?}")),
        }
    }
}

/// Lets a child live for a random while, mostly after it has opened the store.
fn live_and_die(command: &mut Command, known: &mut Known, random: &mut Random, longest_ms: usize) {
    let child = Said::start(command);
    let mark = if random.below(4) == 0 { "started" } else { "opened" };
    while child.next() != mark {}
    let end = Instant::now() + Duration::from_micros(random.below(longest_ms * 1000) as u64);
    while let Some(line) = child.next_within(end.saturating_duration_since(Instant::now())) {
        known.hear(&line);
    }
    child.kill().iter().for_each(|line| known.hear(line));
}

#[test]
fn a_killed_store_keeps_what_it_acknowledged() {
    let rounds = if long() { 600 } else { 20 };
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let mut known = Known::new(1);
    for round in 0..rounds {
        live_and_die(&mut known.command(folder.path()), &mut known, &mut random, 80);
        known.check_folder(folder.path()).unwrap_or_else(|wrong| panic!("kill {round}: {wrong}"));
    }
    let count = |what| known.interrupted.iter().filter(|step| **step == what).count();
    let counts = ["write", "publish", "rollback", "erase", "compact_erased"].map(|what| (what, count(what)));
    println!("{rounds} kills, {} acknowledged, interrupted: {counts:?}", known.acknowledged());
    assert!(known.acknowledged() > rounds * 10, "the child did too little to mean anything");
    assert!(counts.iter().all(|(_, count)| *count > 0) || !long(), "not everything was interrupted: {counts:?}");
}

/// Lets a child die in a folder whose power then fails. Returns what is left of the folder, in both ways, and what must be there.
fn lose_power(
    root: &TempDir,
    folder: &Path,
    round: usize,
    known: &mut Known,
    random: &mut Random,
    more: &[(&str, &str)],
) -> [PathBuf; 2] {
    let notes = root.path().join(format!("notes-{round}"));
    let power = PowerCut::begin(folder, &notes);
    let mut command = known.command(folder);
    command.env(NOTED_IN, &notes).envs(more.iter().copied());
    live_and_die(&mut command, known, random, 150);
    let copies = [(Unsynced::Lost, "lost"), (Unsynced::Partly, "partly")].map(|(unsynced, name)| {
        let copy = root.path().join(format!("{name}-{round}"));
        power.copy(&copy, unsynced, random);
        copy
    });
    fs::remove_dir_all(folder).unwrap();
    fs::remove_dir_all(notes).unwrap();
    copies
}

#[test]
fn a_store_keeps_what_it_acknowledged_when_the_power_fails() {
    let rounds = if long() { 150 } else { 6 };
    let root = tempfile::tempdir().unwrap();
    let mut folder = root.path().join("begin");
    fs::create_dir(&folder).unwrap();
    let mut random = Random::new(2);
    let mut known = Known::new(2);
    for round in 0..rounds {
        let copies = lose_power(&root, &folder, round, &mut known, &mut random, &[]);
        let mut after = Vec::new();
        for copy in &copies {
            let mut known = known.clone();
            known.check_folder(copy).unwrap_or_else(|wrong| panic!("{}: {wrong}", copy.display()));
            after.push(known);
        }
        // The history goes on from one of the two.
        let kept = random.below(2);
        known = after.swap_remove(kept);
        folder = copies[kept].clone();
        fs::remove_dir_all(&copies[1 - kept]).unwrap();
    }
    println!("{rounds} power losses, {} acknowledged", known.acknowledged());
    assert!(known.acknowledged() > rounds * 10, "the child did too little to mean anything");
}

#[test]
fn a_store_that_does_not_sync_its_log_loses_what_it_acknowledged() {
    // The same once more with a disk that lies: the check above must notice.
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("begin");
    fs::create_dir(&folder).unwrap();
    let mut known = Known::new(3);
    let mut random = Random::new(3);
    let mut rounds = 0..20;
    let [lost, _] = loop {
        let copies =
            lose_power(&root, &folder, rounds.next().unwrap(), &mut known, &mut random, &[(NOT_SYNCED, "log")]);
        if known.acknowledged() > 20 {
            break copies;
        }
        known = Known::new(3);
        fs::create_dir(&folder).unwrap();
    };
    let wrong = known.check_folder(&lost).unwrap_err();
    println!("{wrong}");
}
