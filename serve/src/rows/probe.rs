//! The freshness probe: fetches a row that was just written, as a question would, and tells how long after its arrival a fetch had it.
//!
//! That every later fetch sees an acknowledged row is a promise; this looks whether it is kept, and tells an operator how old what comes in is before
//! answers are made of it. One row each rows.probe_interval_ms is a sample. A thread of its own fetches it, so that neither a write nor
//! a question waits for it, and while it is busy no other is taken. A probe is a fetch like any other: it makes its row hot and
//! counts among the store's reads, which at one a second changes no figure.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::TimestampMillisecondType;
use larder_store::{EntityRef, FeatureRef, Plan, Status, Store, TenantId, ViewConfig, WriteKind};

use crate::engine::Engine;
use crate::metrics;
use crate::pipeline::now_ms;
use crate::rows::Batch;

/// Where the writing threads leave samples.
#[derive(Debug)]
pub(super) struct Probe {
    interval: Duration,
    started: Instant,
    /// When the next sample is due, in milliseconds since the start.
    due_ms: AtomicU64,
    samples: SyncSender<Sample>,
}

/// A row that is on disk and that nothing newer than itself stood before.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    tenant: TenantId,
    view: String,
    entity: String,
    event_time_ms: i64,
    arrived: Instant,
}

impl Probe {
    /// The probe, and what its thread works on; none where larder.toml wants none.
    pub(super) fn new(interval: Duration) -> Option<(Arc<Probe>, Receiver<Sample>)> {
        let (samples, receiver) = sync_channel(1);
        let probe = Probe { interval, started: Instant::now(), due_ms: AtomicU64::new(0), samples };
        (!interval.is_zero()).then(|| (Arc::new(probe), receiver))
    }

    /// Takes a sample of a batch that was acknowledged, if one is due and the batch has a row.
    pub(super) fn offer(&self, tenant: TenantId, batch: &Batch, arrived: Instant) {
        if self.is_due(Instant::now())
            && let Some((view, entity, event_time_ms)) = newest(batch)
        {
            let sample = Sample { tenant, view: view.to_owned(), entity: entity.to_owned(), event_time_ms, arrived };
            // The thread may be busy with the last one.
            let _ = self.samples.try_send(sample);
        }
    }

    /// Of several threads that ask when one is due, one is told so.
    fn is_due(&self, now: Instant) -> bool {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now_ms = millis(now.saturating_duration_since(self.started));
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        let next_ms = now_ms.saturating_add(millis(self.interval));
        now_ms >= due_ms && self.due_ms.compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// View, entity and event time of a batch's newest row.
fn newest(batch: &Batch) -> Option<(&str, &str, i64)> {
    let rows = batch.changes.iter().filter(|changes| changes.kind == WriteKind::Upsert).flat_map(|changes| {
        let entities = changes.rows.column(0).as_string::<i32>().iter();
        let times = changes.rows.column(1).as_primitive::<TimestampMillisecondType>().iter();
        entities.zip(times).filter_map(|(entity, time)| Some((changes.view.as_str(), entity?, time?)))
    });
    rows.max_by_key(|(_, _, event_time_ms)| *event_time_ms)
}

/// The probe's thread: until nobody can leave a sample any more.
pub(super) fn run(engine: &Engine, views: &[ViewConfig], samples: &Receiver<Sample>) {
    engine.cores.fetch.pin();
    let plans = plans(&engine.store, views);
    for sample in samples {
        let Some(plan) = plans.get(&sample.view) else { continue };
        let now_ms = now_ms();
        let found = look(&engine.store, plan, &sample, now_ms);
        let since_event_ms = u64::try_from(now_ms.saturating_sub(sample.event_time_ms)).ok();
        metrics::rows_probed(found.label());
        if found == Found::Seen {
            metrics::rows_seen(sample.arrived.elapsed(), since_event_ms.map(Duration::from_millis));
        }
    }
}

/// For each view a plan that reads one of its features.
fn plans(store: &Store, views: &[ViewConfig]) -> HashMap<String, Plan> {
    let plan = |view: &ViewConfig| {
        let feature = FeatureRef { view: view.name.clone(), feature: view.features.first()?.name.clone() };
        Some((view.name.clone(), store.compile(&[feature]).ok()?))
    };
    views.iter().filter_map(plan).collect()
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The row, or something newer.
    Seen,
    /// Neither: deleted, erased or replaced by a snapshot without it at this very moment, or else a fault.
    NotSeen,
    /// What a snapshot knows of the entity lies cold, and the cold tier was slower than a fetch waits.
    NotInTime,
    /// The store could not be read; its log says why.
    Failed,
}

impl Found {
    fn label(self) -> &'static str {
        match self {
            Found::Seen => "seen",
            Found::NotSeen => "not_seen",
            Found::NotInTime => "not_in_time",
            Found::Failed => "failed",
        }
    }
}

fn look(store: &Store, plan: &Plan, sample: &Sample, now_ms: i64) -> Found {
    let entity = EntityRef { tenant: sample.tenant, entity: &sample.entity };
    let fetched = match store.fetch(plan, &[entity], now_ms) {
        Ok(fetched) => fetched,
        Err(error) => {
            tracing::warn!(%error, "the freshness probe could not read a row");
            return Found::Failed;
        }
    };
    let Some(view) = fetched.views.first() else { return Found::NotSeen };
    match (view.status.first(), view.event_time_ms.first()) {
        (Some(Status::NotInTime), _) => Found::NotInTime,
        (Some(Status::Present | Status::Expired), Some(time)) if *time >= sample.event_time_ms => Found::Seen,
        _ => Found::NotSeen,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
    use larder_store::{FeatureConfig, FeatureType, StoreConfig, ViewKind, Write};

    use super::*;
    use larder_ingest::Changes;

    const TENANT: TenantId = TenantId(1);
    const NOW_MS: i64 = 1_800_000_000_000;

    fn view() -> ViewConfig {
        ViewConfig {
            name: "profile".to_owned(),
            id: 1,
            kind: ViewKind::Latest,
            entity_key: "user_id".to_owned(),
            event_time: "updated_at".to_owned(),
            ttl_s: Some(60),
            n: None,
            element_key: None,
            features: vec![FeatureConfig::new("name", FeatureType::Utf8)],
        }
    }

    fn upsert(rows: &[(&str, i64)]) -> Changes {
        let entities: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(entity, _)| *entity)));
        let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|(_, time)| *time));
        let columns = vec![entities.clone(), Arc::new(times.with_timezone("UTC")), entities];
        let rows = RecordBatch::try_new(view().arrow_schema(), columns).unwrap();
        Changes { view: "profile".to_owned(), kind: WriteKind::Upsert, rows }
    }

    fn sample(entity: &str, event_time_ms: i64) -> Sample {
        let (view, entity) = ("profile".to_owned(), entity.to_owned());
        Sample { tenant: TENANT, view, entity, event_time_ms, arrived: Instant::now() }
    }

    #[test]
    fn a_row_is_seen_once_it_is_written_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            path: folder.path().join("store"),
            cold_path: folder.path().join("cold"),
            ..StoreConfig::default()
        };
        let store = Store::open(&config, &[view()]).unwrap();
        let plans = plans(&store, &[view()]);
        let look = |entity, event_time_ms| look(&store, &plans["profile"], &sample(entity, event_time_ms), NOW_MS);
        assert_eq!(look("ada", NOW_MS), Found::NotSeen);
        let expired = NOW_MS - 100_000;
        let Changes { view, kind, rows } = upsert(&[("ada", NOW_MS), ("bob", expired)]);
        store.write(&[Write { tenant: TENANT, view: &view, kind, rows: &rows }], NOW_MS).unwrap();
        assert_eq!(look("ada", NOW_MS), Found::Seen);
        assert_eq!(look("ada", NOW_MS - 1), Found::Seen, "something newer");
        assert_eq!(look("ada", NOW_MS + 1), Found::NotSeen, "what stands is older than the sample");
        assert_eq!(look("bob", expired), Found::Seen, "too old to be shown, and there");
        assert_eq!(look("cy", NOW_MS), Found::NotSeen);
        store.erase(TENANT, "ada", NOW_MS).unwrap();
        assert_eq!(look("ada", NOW_MS), Found::NotSeen);
    }

    #[test]
    fn one_row_is_a_sample_in_each_interval_and_none_waits_for_it() {
        let (probe, samples) = Probe::new(Duration::from_secs(3_600)).unwrap();
        let gone = Changes { kind: WriteKind::Delete, ..upsert(&[("dora", 9)]) };
        let batch = Batch { changes: vec![gone, upsert(&[("ada", 3), ("bob", 7)]), upsert(&[("cy", 5)])] };
        let arrived = Instant::now();
        (0..3).for_each(|_| probe.offer(TENANT, &batch, arrived));
        assert_eq!(samples.try_iter().collect::<Vec<_>>(), [Sample { arrived, ..sample("bob", 7) }], "the newest row");

        let hour = Duration::from_secs(3_600);
        assert!(!probe.is_due(probe.started + hour / 2));
        assert!(probe.is_due(probe.started + 2 * hour) && !probe.is_due(probe.started + 2 * hour));
        assert!(Probe::new(Duration::ZERO).is_none(), "turned off");

        // The thread is busy with the last sample: this one is let go.
        let (probe, samples) = Probe::new(Duration::from_nanos(1)).unwrap();
        (0..3).for_each(|_| probe.offer(TENANT, &batch, arrived));
        assert_eq!(samples.try_iter().count(), 1);
    }
}
