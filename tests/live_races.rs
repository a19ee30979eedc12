//! Promise: an acknowledged write is never missed by a later fetch, whoever writes, reads, publishes and rolls back at the same time. That
//! the single steps hold is shown without luck in the store's own tests, `never_stale.rs`.

use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use larder_store::{Status, Store, TenantId, ViewConfig};

use crate::support::store::{Row, config, of_tenant, plan, profile, profile_row, publish_as_of, upsert};

/// A profile without a time to live.
fn points() -> ViewConfig {
    ViewConfig { ttl_s: None, ..profile() }
}

/// Writers number their rows upwards; each notes what is acknowledged, and no reader may see less than was noted before it asked.
struct Race {
    store: Store,
    names: Vec<String>,
    acknowledged: Vec<AtomicI64>,
    /// Event times, and at the same time what is written.
    clock: AtomicI64,
    /// Held alone to take a snapshot of a moment in which no write is under way.
    writing: RwLock<()>,
    over: AtomicBool,
    reads: AtomicU64,
}

impl Race {
    fn write(&self, writer: usize, writers: usize) {
        let mut turn = writer;
        while !self.over.load(Ordering::Relaxed) {
            let _writing = self.writing.read().unwrap();
            let indices: Vec<_> = (0..3).map(|step| (turn + step * writers) % self.names.len()).collect();
            let number = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
            let row = |index: &usize| profile_row(&self.names[*index], number, number);
            upsert(&self.store, &points(), 1, &indices.iter().map(row).collect::<Vec<_>>());
            for index in indices {
                self.acknowledged[index].fetch_max(number, Ordering::SeqCst);
            }
            turn += writers;
        }
    }

    fn read(&self, seed: usize) {
        let plan = plan(&self.store, &["profile:points"]);
        let mut start = seed * 7;
        while !self.over.load(Ordering::Relaxed) {
            start += 11;
            let indices: Vec<_> = (0..8).map(|step| (start + step * 5) % self.names.len()).collect();
            let least: Vec<_> = indices.iter().map(|index| self.acknowledged[*index].load(Ordering::SeqCst)).collect();
            let asked: Vec<_> = indices.iter().map(|index| &*self.names[*index]).collect();
            let fetched = self.store.fetch(&plan, &of_tenant(1, &asked), 0).unwrap();
            let view = &fetched.views[0];
            let numbers = view.columns[0].as_primitive::<Int64Type>();
            for (row, least) in least.into_iter().enumerate() {
                assert_eq!(view.status[row], Status::Present, "{}", asked[row]);
                let seen = numbers.value(row);
                assert!(seen >= least, "{} is {seen}, {least} was acknowledged, from {:?}", asked[row], view.tier[row]);
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The state of now, as a snapshot.
    fn snapshot(&self) -> (i64, Vec<Row>) {
        let _alone = self.writing.write().unwrap();
        let numbers = self.acknowledged.iter().map(|number| number.load(Ordering::SeqCst));
        let rows = self.names.iter().zip(numbers).map(|(name, number)| profile_row(name, number, number)).collect();
        (self.clock.load(Ordering::SeqCst), rows)
    }

    fn publish(&self, folder: &Path, until: Instant) -> u32 {
        let mut generation = 1;
        while Instant::now() < until {
            generation += 1;
            let (as_of_ms, rows) = self.snapshot();
            publish_as_of(&self.store, folder, &points(), 1, generation, as_of_ms, rows).unwrap();
            for _ in 0..2 * (generation % 3) {
                self.store.rollback(TenantId(1), "profile").unwrap();
            }
        }
        generation
    }
}

#[test]
fn no_fetch_misses_a_write_that_was_acknowledged_before_it() {
    let seconds = if std::env::var_os("LARDER_LONG").is_some() { 120 } else { 2 };
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..40).map(|number| format!("user-{number:02}")).collect();
    let race = Race {
        store: Store::open(&config(folder.path()), &[points()]).unwrap(),
        acknowledged: names.iter().map(|_| AtomicI64::new(0)).collect(),
        clock: AtomicI64::new(0),
        writing: RwLock::new(()),
        over: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        names,
    };
    let first = race.snapshot().1;
    publish_as_of(&race.store, folder.path(), &points(), 1, 1, 0, first).unwrap();
    let swaps = thread::scope(|scope| {
        let race = &race;
        let others: Vec<_> = (0..2)
            .map(|writer| scope.spawn(move || race.write(writer, 2)))
            .chain((0..3).map(|reader| scope.spawn(move || race.read(reader))))
            .collect();
        let publisher = scope.spawn(|| race.publish(folder.path(), Instant::now() + Duration::from_secs(seconds)));
        let published = publisher.join();
        race.over.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|other| other.join().unwrap());
        published.unwrap()
    });
    let (writes, reads) = (race.clock.load(Ordering::SeqCst), race.reads.load(Ordering::SeqCst));
    assert!(writes > 20 && reads > 100 && swaps > 3, "{writes} writes, {reads} reads, {swaps} swaps prove nothing");
}
