//! The store itself: opening, fetching, publishing. `fetch` is the request path, whole and in order.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::batch::{Batch, EntityRef};
use crate::breaker::{Breaker, BreakerStatus};
use crate::cold::ColdFolder;
use crate::cold::lookup::ColdTier;
use crate::cold::pool::ColdPool;
use crate::compact::{self, Compacted};
use crate::config::StoreConfig;
use crate::decode::{Moment, decode};
use crate::erasure::Erasures;
use crate::faults::{Faults, InjectedFaults, StoreFaults};
use crate::fetched::{FetchStats, Fetched};
use crate::generation::{GenerationInfo, Generations};
use crate::hot::{Hot, HotUsage};
use crate::live::{self, Live, Write, Written};
use crate::log::LogLocks;
use crate::lookup::{Reading, check_bytes, damaged_row, look_up};
use crate::meta::Records;
use crate::metrics::FetchMetrics;
use crate::placement::Placement;
use crate::plan::{FeatureRef, Plan, View};
use crate::publish::{self, Published};
use crate::readers::Readers;
use crate::shard::Shard;
use crate::stream::{StreamSpan, Streams};
use crate::view::{TenantId, ViewConfig, validate_views};
use crate::warm::Warm;
use crate::writer::WriterLimits;
use crate::{Error, checkpoint, files, meta, replace, restoring, staging};

/// An open store. Clones are handles to the same store; it closes when the last one goes.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("path", &self.0.warm.path()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) views: Vec<Arc<View>>,
    pub(crate) warm: Arc<Warm>,
    pub(crate) live: Live,
    /// Replaced whole by each swap; a fetch looks at one table from start to end.
    pub(crate) generations: ArcSwap<Generations>,
    pub(crate) erasures: Erasures,
    pub(crate) streams: Streams,
    pub(crate) hot: Hot,
    pub(crate) cold_folder: ColdFolder,
    /// See [`meta::name`].
    pub(crate) name: String,
    /// The names of the stores that it was restored from.
    pub(crate) former_names: Vec<String>,
    pub(crate) readers: Readers,
    pub(crate) cold: ColdTier,
    pub(crate) cold_budget: Duration,
    pub(crate) shard: Shard,
    /// Made by the first fetch, when whoever records has been installed.
    metrics: OnceLock<FetchMetrics>,
    max_fetch_keys: usize,
    /// Held by whoever changes meta.
    changing_meta: Mutex<()>,
    pub(crate) log_locks: LogLocks,
    faults: Arc<Faults>,
}

impl Store {
    /// Opens the store in `config.path`, creating it when there is none, and drops what an interrupted publish left there.
    ///
    /// # Errors
    /// [`Error::FixConfig`] for a setting or view that is not allowed or that contradicts the stored rows, [`Error::CloseOtherProcess`]
    /// when the folder is open elsewhere, [`Error::RestoreStore`] when its files are damaged, [`Error::CheckDisk`] when the folder
    /// cannot be used.
    pub fn open(config: &StoreConfig, views: &[ViewConfig]) -> Result<Store, Error> {
        config.validate()?;
        validate_views(views)?;
        files::create_dir(&config.path)?;
        restoring::check(&config.path)?;
        let warm = Arc::new(Warm::open(config)?);
        staging::clear(warm.path())?;
        staging::settle(warm.path())?;
        replace::clear(warm.path())?;
        let views: Vec<_> = views.iter().map(|view| Arc::new(View::new(view))).collect();
        let records = Records::read(&warm)?;
        let name = meta::name(&warm, &records)?;
        let cold_folder = ColdFolder::open(&config.cold_path, &name)?;
        restoring::clear(&cold_folder)?;
        meta::recover_shard(config.shard, &records.generations)?;
        checkpoint::clear(warm.path(), &cold_folder)?;
        let generations = meta::recover(&warm, &cold_folder, &views, records.generations)?;
        let (live, stored_schemas) = Live::open(&warm, config.live_filter_mib)?;
        meta::recover_schemas(&warm, &views, &records.schemas, &stored_schemas)?;
        let thread = |error| Error::disk("start a thread for", &config.path)(error);
        let hot = Hot::start(config, views.len()).map_err(thread)?;
        let faults = Arc::<Faults>::default();
        let seed = RandomState::new().hash_one("cold");
        let breaker = Breaker::new("cold", config.cold_breaker(), seed);
        let cold = ColdTier {
            pool: ColdPool::start(config.cold_threads, config.cold_queue, breaker, Arc::clone(&faults))
                .map_err(thread)?,
            hot: hot.shards(),
            active: Arc::default(),
        };
        Ok(Store(Arc::new(Inner {
            live,
            generations: ArcSwap::from_pointee(generations),
            erasures: Erasures::new(records.erasures),
            streams: Streams::new(records.streams),
            hot,
            cold_folder,
            name,
            former_names: records.former_names,
            readers: Readers::start(config.read_threads).map_err(std::io::Error::other).map_err(thread)?,
            cold,
            cold_budget: Duration::from_millis(config.cold_budget_ms),
            shard: config.shard,
            metrics: OnceLock::new(),
            max_fetch_keys: config.max_fetch_keys,
            changing_meta: Mutex::new(()),
            views,
            warm,
            log_locks: LogLocks::default(),
            faults,
        })))
    }

    /// Resolves a list of features into a plan; do it once per list, not per request.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for an unknown view or feature, a repeated feature or an empty list.
    pub fn compile(&self, features: &[FeatureRef]) -> Result<Plan, Error> {
        Plan::compile(&self.0.views, features)
    }

    /// Reads the plan's features of many entities at once: each distinct key is looked up once, all that the hot tier does not hold in
    /// one read of the warm tier, and all rows of a view and tenant come from one generation. An entity that is empty or longer than
    /// [`MAX_ENTITY_BYTES`](crate::MAX_ENTITY_BYTES) cannot be stored and is answered "not found".
    ///
    /// `now_ms` (Unix milliseconds UTC) decides what is expired.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for more than `max_fetch_keys` keys or [`MAX_FETCH_BYTES`](crate::MAX_FETCH_BYTES) bytes of rows,
    /// [`Error::RestoreStore`] for a damaged row.
    pub fn fetch(&self, plan: &Plan, entities: &[EntityRef<'_>], now_ms: i64) -> Result<Fetched, Error> {
        let started = Instant::now();
        let inner = &*self.0;
        inner.faults.before_fetch();
        let mut stats = FetchStats { keys: inner.check_size(plan, entities.len())?, ..FetchStats::default() };
        // The order matters. A row that is hot is never older than `read_at`; a live row that the filter or the snapshot does not show any
        // more was pruned, and then the table read after them names the generations that cover it.
        let read_at = inner.hot.clock();
        let filter = inner.live.filter();
        let snapshot = inner.warm.snapshot();
        let live = inner.generations.load();
        let batch = Batch::new(plan, entities, &live);
        let erased = inner.erasures.erased_of(batch.entities.iter().map(|asked| (asked.tenant, asked.entity)));
        let deadline = started + inner.cold_budget;
        let Inner { hot, readers, cold, .. } = inner;
        let (snapshot, filter, erased) = (&snapshot, &*filter, &*erased);
        let reading = Reading { read_at, filter, snapshot, hot, erased, readers, cold, deadline };
        let found = look_up(plan, &batch, &reading, &mut stats)?;
        check_bytes(&batch, &found)?;
        let moment = Moment { now_ms, erased };
        let mut views = Vec::with_capacity(plan.views.len());
        for (index, planned) in plan.views.iter().enumerate() {
            let view = decode(planned, index, &batch, &found, &moment, &mut stats);
            let view = view.map_err(|damaged| damaged_row(snapshot, &planned.view, damaged))?;
            planned.view.metrics().record(&view, now_ms);
            views.push(view);
        }
        inner.metrics.get_or_init(FetchMetrics::new).record(&stats, started.elapsed());
        Ok(Fetched { views, stats })
    }

    /// Writes live rows and deletions, all of them or none. When this returns they are on disk, and every fetch that starts afterwards sees
    /// them. Of rows of one entity (in a `last_n` view of one element) the one with the greatest event time stands, in whichever order
    /// they arrive; against a published snapshot a row stands when it is newer than the snapshot's row, or, where the snapshot has
    /// none, newer than the snapshot.
    ///
    /// `now_ms` (Unix milliseconds UTC) bounds event times: [`MAX_AHEAD_MS`](crate::MAX_AHEAD_MS).
    ///
    /// # Errors
    /// [`Error::FixRequest`] for an unknown view or too many rows, [`Error::FixInput`] says which row breaks which rule,
    /// [`Error::FreeSpace`] or [`Error::RestartStore`] when the disk does not take them: whether they will be there after a restart is then
    /// unknown, and until the error's advice is followed all further writes are refused in the same way.
    pub fn write(&self, writes: &[Write<'_>], now_ms: i64) -> Result<Written, Error> {
        let written = live::write(&self.0, writes, None, now_ms)?;
        Ok(written.into_iter().fold(Written::default(), Written::add))
    }

    /// The same, and tells what each of the writes did, in their order: what several callers wrote together can be told to each of them.
    ///
    /// # Errors
    /// Those of [`write`](Store::write).
    pub fn write_each(&self, writes: &[Write<'_>], now_ms: i64) -> Result<Vec<Written>, Error> {
        live::write(&self.0, writes, None, now_ms)
    }

    /// Whether [`write`](Store::write) would take this. Nothing is written: it tells which of several callers' writes is at fault when all of them
    /// together were refused.
    ///
    /// # Errors
    /// Those of `write` that are about the rows.
    pub fn check(&self, writes: &[Write<'_>], now_ms: i64) -> Result<(), Error> {
        live::check(&self.0, writes, now_ms)
    }

    /// [`write`](Store::write) of what a part of a stream of changes brought, with the stream's new position in the same step: after a crash
    /// either the rows are there and the stream stands behind them, or neither. A part without rows moves the position alone.
    ///
    /// # Errors
    /// Those of `write`; [`Error::FixRequest`] too when the stream stands elsewhere than where the part begins, which says that somebody
    /// else has written from it meanwhile.
    pub fn write_from(&self, span: &StreamSpan<'_>, writes: &[Write<'_>], now_ms: i64) -> Result<Written, Error> {
        let written = live::write(&self.0, writes, Some(span), now_ms)?;
        Ok(written.into_iter().fold(Written::default(), Written::add))
    }

    /// Where a stream of changes stands: the position behind the last message of which the rows are in the store. None of a stream that nothing
    /// was written from.
    pub fn stream_position(&self, stream: &str) -> Option<u64> {
        self.0.streams.position(stream)
    }

    /// Every stream of changes that was written from, by name, and where it stands.
    pub fn stream_positions(&self) -> Vec<(String, u64)> {
        self.0.streams.positions()
    }

    /// Has a stream of changes stand at another position, in either direction, whatever was written from it: what comes next is written from
    /// there. Returns where it stood. Rows that are written once more change nothing, because newer event times stand.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for a name that no stream can have, [`Error::FreeSpace`] or [`Error::RestartStore`] when the disk does not take it.
    pub fn move_stream(&self, stream: &str, to: u64) -> Result<Option<u64>, Error> {
        live::move_stream(&self.0, stream, to)
    }

    /// Forgets an entity in all views of its tenant: every row and live row with an event time up to `now_ms` (Unix milliseconds UTC) is
    /// invisible as soon as this returns, and stays so, whatever snapshot or late row comes. [`compact_erased`](Store::compact_erased) takes
    /// the bytes out of the files.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for an entity that cannot exist, [`Error::FreeSpace`] or [`Error::RestartStore`] when the record cannot be
    /// written.
    pub fn erase(&self, tenant: TenantId, entity: &str, now_ms: i64) -> Result<(), Error> {
        let _changing = self.lock();
        compact::erase(&self.0, tenant, entity, now_ms)
    }

    /// Up to which event time an entity is erased, Unix milliseconds UTC; none where it never was. For those who keep something of entities
    /// beside the views.
    pub fn erased_until(&self, tenant: TenantId, entity: &str) -> Option<i64> {
        self.0.erasures.erased_ms(tenant, entity)
    }

    /// Takes the bytes of erased entities out of every file of the store. This rewrites the files that hold them; fetches go on meanwhile.
    ///
    /// # Errors
    /// [`Error::FreeSpace`] or [`Error::RestartStore`] when a file cannot be rewritten; calling again goes on where this stopped.
    pub fn compact_erased(&self) -> Result<Compacted, Error> {
        let _changing = self.lock();
        compact::compact_erased(&self.0)
    }

    /// Makes the generation built in `dir` live. The files are checked against their manifest and linked (copied where the file system
    /// cannot link); `dir` itself stays as it is and may be deleted afterwards, but its files must never be changed in place. The
    /// generation that was live stays for [`rollback`](Store::rollback), the one before it is dropped after its last reader. Publishing
    /// the live generation again changes nothing and says so.
    ///
    /// Of a delta snapshot (see [`DeltaWriter`](crate::DeltaWriter)) the changes are applied to the live generation; what comes of it is published as
    /// the generation of the delta's number. That reads and writes the whole generation, and needs room on the store's disk for it.
    ///
    /// # Errors
    /// [`Error::RebuildGeneration`] names the file and what is wrong with it, [`Error::ChooseGeneration`] says why this generation may
    /// not follow the live one. In each case what was live still is.
    pub fn publish(&self, dir: &Path) -> Result<Published, Error> {
        let _changing = self.lock();
        let published = publish::publish(&self.0, dir)?;
        tracing::info!(
            view = %published.view, tenant = published.tenant.0, generation = published.generation, entities = published.entities,
            already_live = published.already_live, "published"
        );
        Ok(published)
    }

    /// Makes the previous generation of a view live again; a second rollback undoes the first.
    ///
    /// # Errors
    /// [`Error::ChooseGeneration`] when there is no previous generation, [`Error::FixRequest`] for an unknown view.
    pub fn rollback(&self, tenant: TenantId, view: &str) -> Result<Published, Error> {
        let _changing = self.lock();
        let published = publish::rollback(&self.0, tenant, view)?;
        tracing::info!(view = %published.view, tenant = published.tenant.0, generation = published.generation, "rolled back");
        Ok(published)
    }

    /// Lets go of the generation that is kept for [`rollback`](Store::rollback): its files are deleted after its last reader, and live rows that
    /// were kept for it alone are pruned.
    ///
    /// # Errors
    /// [`Error::ChooseGeneration`] when `generation` is not the previous one, [`Error::FixRequest`] for an unknown view.
    pub fn drop_previous(&self, tenant: TenantId, view: &str, generation: u32) -> Result<Published, Error> {
        let _changing = self.lock();
        publish::drop_previous(&self.0, tenant, view, generation)
    }

    /// Divides the live generation's rows between the warm and the cold tier anew: by age, and by who was asked for. They become a new
    /// generation of the same time, and the one they come from is kept for [`rollback`](Store::rollback). Erased rows stay out of it.
    ///
    /// # Errors
    /// [`Error::ChooseGeneration`] when nothing is live, [`Error::FixRequest`] for an unknown view, [`Error::CheckDisk`] when the files cannot
    /// be written; what was live still is.
    pub fn replace(
        &self,
        tenant: TenantId,
        view: &str,
        placement: &Placement,
        limits: WriterLimits,
    ) -> Result<Published, Error> {
        let _changing = self.lock();
        replace::replace(&self.0, tenant, view, placement, limits)
    }

    /// All published generations, ordered by view, tenant and state.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.0.generations.load().describe()
    }

    /// What the hot tier holds, after all that earlier fetches read has entered it. This waits, so it is not for the request path.
    pub fn hot_usage(&self) -> HotUsage {
        self.0.hot.usage()
    }

    /// The breaker over the cold tier: while it is open, what lies there is answered "not in time" at once.
    pub fn cold_breaker(&self) -> BreakerStatus {
        self.0.cold.pool.breaker().status(Instant::now())
    }

    /// Gives the store faults on purpose, in place of those that it had; the default is none. A test instrument.
    pub fn set_faults(&self, faults: StoreFaults) {
        self.0.faults.set(faults);
    }

    /// How often the faults on purpose struck since the store was opened.
    pub fn injected_faults(&self) -> InjectedFaults {
        self.0.faults.injected()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data that a panic could have left half changed: meta is written whole.
        self.0.changing_meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(crate) fn check_size(&self, plan: &Plan, entities: usize) -> Result<u64, Error> {
        let keys = entities.saturating_mul(plan.views.len());
        if keys > self.max_fetch_keys {
            return Err(Error::FixRequest(format!(
                "{entities} entities of {} views are {keys} keys, store.max_fetch_keys is {}: ask in parts",
                plan.views.len(),
                self.max_fetch_keys
            )));
        }
        Ok(keys as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{publish_points, view};
    use crate::{StoreConfig, Tier};

    #[test]
    fn a_dropped_generation_lives_until_its_last_reader_ends() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), hot_capacity_mib: 0, ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        publish_points(&store, folder.path(), 1, 1);
        // What a fetch holds from its first step to its last.
        let (filter, snapshot) = (store.0.live.filter(), store.0.warm.snapshot());
        let reading = store.0.generations.load();
        let plan = store.compile(&[FeatureRef::parse("view:points").unwrap()]).unwrap();
        let asked = [EntityRef { tenant: TenantId(1), entity: "ada" }];
        let batch = Batch::new(&plan, &asked, &reading);
        let tier = || {
            let Inner { hot, readers, cold, .. } = &*store.0;
            let (read_at, deadline) = (hot.clock(), Instant::now());
            let reading =
                Reading { read_at, filter: &filter, snapshot: &snapshot, hot, erased: &[], readers, cold, deadline };
            look_up(&plan, &batch, &reading, &mut FetchStats::default()).unwrap()[0].tier
        };

        publish_points(&store, folder.path(), 1, 2);
        let dropped = publish_points(&store, folder.path(), 1, 3).dropped;
        assert_eq!(dropped, Some(1));
        assert_eq!(tier(), Tier::Warm, "the reader still finds its row");
        assert_eq!(store.0.warm.base_files().unwrap().len(), 3);
        drop(reading);
        assert_eq!(store.0.warm.base_files().unwrap().len(), 2, "and then the files go");
    }

    #[test]
    fn one_batch_reads_each_view_and_tenant_from_one_table() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        for tenant in [1, 2] {
            publish_points(&store, folder.path(), tenant, 1);
        }
        let before = store.0.generations.load_full();
        publish_points(&store, folder.path(), 2, 2);
        assert_eq!(before.live(1, TenantId(2)).unwrap().manifest.generation, 1);
        let after = store.0.generations.load_full();
        assert_eq!(after.live(1, TenantId(2)).unwrap().manifest.generation, 2);
        assert_eq!(after.live(1, TenantId(1)).unwrap().manifest.generation, 1);
    }
}
