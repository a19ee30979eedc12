//! Our side: a store with the two views of all users, opened with or without a hot tier, and the fetch that is measured.

use std::path::{Path, PathBuf};

use larder_benches::{
    Answer, Batch, GENERATION, LIVE_EVERY, NOW_MS, ORDERS, ORDERS_PER_USER, Outcome, PROFILE, SNAPSHOT_MS, TENANT,
    is_live, name, orders_batch, orders_view, profile_batch, profile_view, sum,
};
use larder_store::{
    EntityRef, FeatureRef, Fetched, GenerationWriter, Plan, Store, StoreConfig, ViewConfig, Write, WriteKind,
    WriterLimits,
};
use tempfile::TempDir;

/// Uncompressed blocks in RAM: room for all rows of a million users.
pub(crate) const BLOCK_CACHE_MIB: u64 = 3072;
/// Bytes that the hot tier may take for each user: two rows of together 1.5 KB, with their bookkeeping.
const HOT_BYTES_PER_USER: usize = 4096;
/// How often all rows are read at most until all are hot.
const MAX_PASSES: usize = 5;
/// Users whose rows are made at a time.
const USERS_AT_ONCE: usize = 5000;

/// The store's folder with both views published, and how many users there are.
pub(crate) struct Shop {
    pub(crate) users: usize,
    folder: TempDir,
}

impl Shop {
    /// Builds and publishes the rows of `users` users.
    pub(crate) fn build(users: usize) -> Outcome<Shop> {
        let shop = Shop { users, folder: tempfile::tempdir()? };
        let store = Store::open(&config(shop.path(), 0, 256), &[profile_view(), orders_view()])?;
        for view in [profile_view(), orders_view()] {
            let dir = shop.folder.path().join(&view.name);
            build(&dir, &view, users)?;
            store.publish(&dir)?;
            std::fs::remove_dir_all(&dir)?;
        }
        add_live_rows(&store, users, LiveHalf::Flushed)?;
        // Opening the store again flushes them.
        Ok(shop)
    }

    /// The store's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Opens the store without a hot tier, all blocks in the cache and half of the live rows in the memtable.
    pub(crate) fn open_warm(&self) -> Outcome<Reader> {
        let reader = Reader::open(&config(self.path(), 0, BLOCK_CACHE_MIB))?;
        add_live_rows(&reader.store, self.users, LiveHalf::InMemory)?;
        reader.read_all(self.users)?;
        Ok(reader)
    }

    /// Opens the store and brings all rows into the hot tier. To be called after `open_warm`, which writes the last rows.
    pub(crate) fn open_hot(&self) -> Outcome<Reader> {
        let hot_mib = (self.users * HOT_BYTES_PER_USER) >> 20;
        let reader = Reader::open(&config(self.path(), hot_mib as u64 + 64, 64))?;
        // The tier may leave rows out when many arrive at once; it takes them when they are asked for again.
        for _ in 0..MAX_PASSES {
            if reader.read_all(self.users)? == 0 {
                return Ok(reader);
            }
        }
        Err("the hot tier does not hold all rows, though it has room for them".into())
    }
}

/// One user in twenty has live rows: half of these users in a file, half in the memtable.
#[derive(Clone, Copy, PartialEq)]
enum LiveHalf {
    Flushed,
    InMemory,
}

/// Writes newer rows of one half of the live users, as an application would: the profile whole, of the orders the newest.
fn add_live_rows(store: &Store, users: usize, half: LiveHalf) -> Outcome<()> {
    let in_half =
        |user: &usize| is_live(*user) && (user % (2 * LIVE_EVERY) < LIVE_EVERY) == (half == LiveHalf::Flushed);
    let users: Vec<_> = (0..users).filter(in_half).collect();
    for some in users.chunks(USERS_AT_ONCE) {
        let profiles = profile_batch(some.iter().copied(), true)?;
        let orders = orders_batch(some.iter().copied(), true, 1)?;
        let write = |view, rows| Write { tenant: TENANT, view, kind: WriteKind::Upsert, rows };
        store.write(&[write(PROFILE, &profiles), write(ORDERS, &orders)], NOW_MS)?;
    }
    Ok(())
}

/// The settings of a store in `path`.
pub(crate) fn config(path: PathBuf, hot_capacity_mib: u64, block_cache_mib: u64) -> StoreConfig {
    StoreConfig {
        cold_path: path.with_extension("cold"),
        path,
        hot_capacity_mib,
        block_cache_mib,
        ..StoreConfig::default()
    }
}

/// An open store with the plan of all features.
pub(crate) struct Reader {
    pub(crate) store: Store,
    plan: Plan,
}

impl Reader {
    pub(crate) fn open(config: &StoreConfig) -> Outcome<Reader> {
        let views = [profile_view(), orders_view()];
        let store = Store::open(config, &views)?;
        let plan = plan_of(&store, &views)?;
        Ok(Reader { store, plan })
    }

    /// One fetch, nothing done with what it returns.
    pub(crate) fn fetch(&self, names: &[String]) -> Outcome<Fetched> {
        Ok(self.store.fetch(&self.plan, &entities(names), NOW_MS)?)
    }

    /// One fetch of a batch, all values touched.
    pub(crate) fn fetch_and_sum(&self, batch: &Batch) -> Outcome<f64> {
        sum(&Answer::of(self.fetch(&batch.names)?))
    }

    /// Asks for every user once, and returns how many keys the hot tier did not hold.
    pub(crate) fn read_all(&self, users: usize) -> Outcome<u64> {
        let mut missed = 0;
        for start in (0..users).step_by(super::USERS_PER_BATCH) {
            let names: Vec<_> = (start..users.min(start + super::USERS_PER_BATCH)).map(name).collect();
            let stats = self.fetch(&names)?.stats;
            if stats.not_found > 0 {
                return Err("a user of the snapshot was not found".into());
            }
            missed += stats.unique_keys - stats.hot_hits;
            self.store.hot_usage();
        }
        Ok(missed)
    }
}

/// A plan of all features of some views.
pub(crate) fn plan_of(store: &Store, views: &[ViewConfig]) -> Outcome<Plan> {
    let features = views.iter().flat_map(|view| {
        view.features.iter().map(|feature| FeatureRef { view: view.name.clone(), feature: feature.name.clone() })
    });
    Ok(store.compile(&features.collect::<Vec<_>>())?)
}

/// Users as a fetch wants them.
pub(crate) fn entities(names: &[String]) -> Vec<EntityRef<'_>> {
    names.iter().map(|entity| EntityRef { tenant: TENANT, entity }).collect()
}

fn build(dir: &Path, view: &ViewConfig, users: usize) -> Outcome<()> {
    let mut writer = GenerationWriter::create(dir, view, TENANT, GENERATION, SNAPSHOT_MS, WriterLimits::default())?;
    for start in (0..users).step_by(USERS_AT_ONCE) {
        let some = start..users.min(start + USERS_AT_ONCE);
        let rows =
            if view.name == PROFILE { profile_batch(some, false) } else { orders_batch(some, false, ORDERS_PER_USER) };
        writer.append(&rows?)?;
    }
    writer.finish()?;
    Ok(())
}
