//! Tests of one promise: after an acknowledged write no fetch sees what was known before it, however a fetch, a publisher and a writer
//! overtake each other. A gate in front of the hot tier stops whoever has read the database and is about to make rows hot; what
//! happens meanwhile is then no matter of luck.

use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::batch::Batch;
use crate::lookup::{Reading, look_up};
use crate::store::Inner;
use crate::test_rows::{build_points, points_rows, publish_points, view};
use crate::{EntityRef, FeatureRef, FetchStats, Status, Store, StoreConfig, TenantId, Tier, Write, WriteKind};

/// Stands in front of every insert into the hot tier; open unless a test closes it.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// How many may pass although it is closed.
    passes: usize,
    waiting: usize,
}

impl Gate {
    /// Waits here while the gate is closed.
    pub(crate) fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        if state.passes > 0 {
            state.passes -= 1;
            return;
        }
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.closed).unwrap();
        state.waiting -= 1;
    }

    fn close_after(&self, passes: usize) {
        let mut state = self.state.lock().unwrap();
        (state.closed, state.passes) = (true, passes);
    }

    fn open(&self) {
        let mut state = self.state.lock().unwrap();
        (state.closed, state.passes) = (false, 0);
        self.changed.notify_all();
    }

    /// Returns when somebody waits at the closed gate.
    fn wait_for_somebody(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.waiting == 0).unwrap());
    }
}

/// Closes the gate, starts `work`, does `meanwhile` when it has come to the gate, opens the gate and waits for the work to end.
fn held_up<T: Send>(store: &Store, work: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> T {
    held_up_after(0, store, work, meanwhile)
}

/// The same when so many inserts have passed.
fn held_up_after<T: Send>(
    inserts: usize,
    store: &Store,
    work: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> T {
    // What earlier fetches read is not to be what waits at the gate.
    store.hot_usage();
    let gate = store.0.hot.gate();
    gate.close_after(inserts);
    thread::scope(|scope| {
        let work = scope.spawn(work);
        gate.wait_for_somebody();
        meanwhile();
        gate.open();
        work.join().unwrap()
    })
}

fn store(folder: &Path) -> Store {
    let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
    Store::open(&config, &[view()]).unwrap()
}

/// What a fetch says of an entity: its points, if it has any, and where they were found.
fn fetch(store: &Store, entity: &str) -> (Option<i64>, Tier) {
    let plan = store.compile(&[FeatureRef::parse("view:points").unwrap()]).unwrap();
    let fetched = store.fetch(&plan, &[EntityRef { tenant: TenantId(1), entity }], 0).unwrap();
    let found = &fetched.views[0];
    let points = found.columns[0].as_primitive::<Int64Type>().value(0);
    ((found.status[0] == Status::Present).then_some(points), found.tier[0])
}

/// The same after all that was read has entered the hot tier.
fn fetch_again(store: &Store, entity: &str) -> (Option<i64>, Tier) {
    store.hot_usage();
    fetch(store, entity)
}

fn write(store: &Store, entity: &str, event_time_ms: i64, points: i64) {
    let rows = points_rows(&[entity], event_time_ms, points);
    let write = Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows };
    store.write(&[write], event_time_ms).unwrap();
}

#[test]
fn a_fetch_that_read_before_a_write_makes_nothing_stale() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    publish_points(&store, folder.path(), 1, 1);
    // A row, and the absence of one.
    for (entity, before) in [("ada", Some(1)), ("eve", None)] {
        let read = || assert_eq!(fetch(&store, entity).0, before);
        held_up(&store, read, || write(&store, entity, 5, 50));
        assert_eq!(fetch_again(&store, entity), (Some(50), Tier::Warm), "what the held-up fetch had read is hot");
        assert_eq!(fetch_again(&store, entity), (Some(50), Tier::Hot));
    }
}

#[test]
fn a_fetch_that_read_before_a_first_live_row_makes_nothing_stale() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    // Nothing is published, so only entities with live rows are worth a place.
    write(&store, "ada", 5, 50);
    held_up(&store, || assert_eq!(fetch(&store, "ada").0, Some(50)), || write(&store, "ada", 6, 60));
    assert_eq!(fetch_again(&store, "ada"), (Some(60), Tier::Warm));
}

#[test]
fn a_publisher_that_read_before_a_write_makes_nothing_stale() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    publish_points(&store, folder.path(), 1, 1);
    for entity in ["ada", "bob", "eve"] {
        fetch(&store, entity);
    }
    let next = build_points(folder.path(), 1, 2);
    let publish = || assert!(store.publish(&next).is_ok());
    held_up(&store, publish, || {
        write(&store, "ada", 5, 50);
        write(&store, "eve", 5, 51);
        assert_eq!((fetch(&store, "ada").0, fetch(&store, "eve").0), (Some(50), Some(51)), "before the swap");
    });
    assert_eq!((fetch(&store, "ada"), fetch(&store, "eve").0), ((Some(50), Tier::Warm), Some(51)));
    assert_eq!(fetch(&store, "bob"), (Some(2), Tier::Hot), "who was not written to is carried over");

    store.hot_usage();
    let rollback = || assert!(store.rollback(TenantId(1), "view").is_ok());
    held_up(&store, rollback, || write(&store, "ada", 6, 60));
    assert_eq!(fetch(&store, "ada"), (Some(60), Tier::Warm));
    assert_eq!(fetch(&store, "bob"), (Some(1), Tier::Hot));
}

#[test]
fn what_a_publisher_has_made_hot_before_the_swap_is_known_to_writers() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    publish_points(&store, folder.path(), 1, 1);
    // More keys than are carried at a time; most of them are known to be absent.
    fetch(&store, "ada");
    for number in 0..300 {
        fetch_again(&store, &format!("nobody {number:03}"));
    }
    let next = build_points(folder.path(), 1, 2);
    let publish = || assert!(store.publish(&next).is_ok());
    held_up_after(1, &store, publish, || write(&store, "ada", 5, 50));
    assert_eq!(fetch(&store, "ada").0, Some(50));
}

#[test]
fn a_fetch_that_started_before_a_swap_leaves_nothing_that_is_stale_after_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    publish_points(&store, folder.path(), 1, 1);
    // What a fetch holds from its first step on.
    let inner = &store.0;
    let (read_at, filter, snapshot) = (inner.hot.clock(), inner.live.filter(), inner.warm.snapshot());
    let table = inner.generations.load_full();
    publish_points(&store, folder.path(), 1, 2);

    let plan = store.compile(&[FeatureRef::parse("view:points").unwrap()]).unwrap();
    let batch = Batch::new(&plan, &[EntityRef { tenant: TenantId(1), entity: "ada" }], &table);
    let Inner { hot, readers, cold, .. } = &**inner;
    let (snapshot, filter, erased, deadline) = (&snapshot, &*filter, &[], Instant::now());
    let reading = Reading { read_at, filter, snapshot, hot, erased, readers, cold, deadline };
    look_up(&plan, &batch, &reading, &mut FetchStats::default()).unwrap();
    store.hot_usage();
    // Its row is hot under the first generation, which is the previous one by now.
    write(&store, "ada", 6, 60);
    store.rollback(TenantId(1), "view").unwrap();
    assert_eq!(fetch(&store, "ada").0, Some(60));
}

#[test]
fn a_fetch_that_read_before_an_erasure_shows_nothing_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    publish_points(&store, folder.path(), 1, 1);
    held_up(&store, || assert_eq!(fetch(&store, "ada").0, Some(1)), || store.erase(TenantId(1), "ada", 9).unwrap());
    assert_eq!(fetch_again(&store, "ada"), (None, Tier::None));
    write(&store, "ada", 10, 100);
    assert_eq!(fetch_again(&store, "ada").0, Some(100));
}
