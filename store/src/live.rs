//! The live family's state in RAM: which entities have live rows, which schemas these have, and who may write. What a write does is in `write.rs`.

mod filter;
mod late;
mod write;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arc_swap::ArcSwap;

use crate::Error;
use crate::batch::NO_GENERATION;
use crate::delta::Delta;
use crate::key::{self, GenerationId, LIVE_PREFIX_BYTES};
use crate::row;
use crate::store::Inner;
use crate::view::TenantId;
use crate::warm::Warm;

pub(crate) use filter::LiveFilter;
pub use write::{MAX_AHEAD_MS, MAX_WRITE_BYTES, MAX_WRITE_ROWS, Write, WriteKind, Written};
pub(crate) use write::{check, move_stream, write};

/// The state of the live family that is kept in RAM.
pub(crate) struct Live {
    filters: ArcSwap<Filters>,
    /// Given to changes; tells those of equal event time apart.
    sequence: AtomicU64,
    /// Shared by writers, alone for whoever replaces live values: a merge between its read and its write would be lost.
    writers: RwLock<()>,
}

#[derive(Clone)]
struct Filters {
    current: Arc<LiveFilter>,
    /// The one that takes its place when a pruning ends.
    next: Option<Arc<LiveFilter>>,
}

/// The schemas that stored live rows have, by view and fingerprint.
pub(crate) type StoredSchemas = BTreeSet<(u16, u32)>;

impl Live {
    /// Reads the whole live family once, to know which entities have live rows and which schemas those have.
    pub(crate) fn open(warm: &Warm, filter_mib: u64) -> Result<(Live, StoredSchemas), Error> {
        let filter = LiveFilter::new(filter_mib);
        let mut sequence = warm.sequence();
        let mut schemas = StoredSchemas::new();
        for entry in warm.scan_live(&[], &[0xFF; LIVE_PREFIX_BYTES + 1])? {
            let (key, value) = entry?;
            let damaged = |reason: &str| Error::damaged(warm.path(), format!("a live row: {reason}"));
            let (view, tenant, entity) = read_key(&key).ok_or_else(|| damaged("its key is not one"))?;
            filter.insert(key::key_hash(view, tenant, entity.as_bytes()));
            for change in Delta::decode(&value).map_err(|broken| damaged(broken.0))?.changes {
                sequence = sequence.max(change.sequence);
                if let Some(row) = change.row {
                    schemas.insert((view, row::fingerprint(row).map_err(|broken| damaged(broken.0))?));
                }
            }
        }
        let filters = Filters { current: Arc::new(filter), next: None };
        let live = Live {
            filters: ArcSwap::from_pointee(filters),
            sequence: AtomicU64::new(sequence.saturating_add(1)),
            writers: RwLock::new(()),
        };
        Ok((live, schemas))
    }

    /// The filter of now.
    pub(crate) fn filter(&self) -> Arc<LiveFilter> {
        Arc::clone(&self.filters.load().current)
    }

    /// Keeps whoever replaces values out, for as long as it is held.
    fn write_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.writers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps all writers out.
    pub(crate) fn write_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.writers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a filter of what is there now, so that entities whose live rows were pruned cost no read any more. Writes go on meanwhile and are
    /// noted in both.
    pub(crate) fn rebuild_filter(&self, warm: &Warm) -> Result<(), Error> {
        let next = {
            let _alone = self.write_alone();
            let current = self.filter();
            let next = Arc::new(LiveFilter::new(current.mib()));
            self.filters.store(Arc::new(Filters { current, next: Some(Arc::clone(&next)) }));
            next
        };
        let noted = warm.scan_live(&[], &[0xFF; LIVE_PREFIX_BYTES + 1])?.try_for_each(|entry| {
            let (key, _) = entry?;
            if let Some((view, tenant, entity)) = read_key(&key) {
                next.insert(key::key_hash(view, tenant, entity.as_bytes()));
            }
            Ok(())
        });
        let _alone = self.write_alone();
        let current = if noted.is_ok() { next } else { self.filter() };
        self.filters.store(Arc::new(Filters { current, next: None }));
        noted
    }

    fn note(&self, hash: u64) {
        let filters = self.filters.load();
        filters.current.insert(hash);
        if let Some(next) = &filters.next {
            next.insert(hash);
        }
    }
}

/// The parts of a live key; `None` when it is not one.
pub(crate) fn read_key(key: &[u8]) -> Option<(u16, TenantId, String)> {
    let (prefix, entity) = key.split_first_chunk::<LIVE_PREFIX_BYTES>()?;
    let [a, b, c, d, e, f] = *prefix;
    Some((u16::from_be_bytes([a, b]), TenantId(u32::from_be_bytes([c, d, e, f])), key::read_entity(entity)?))
}

/// An entity whose live rows change.
pub(crate) struct Touched {
    pub(crate) view: u16,
    pub(crate) tenant: TenantId,
    pub(crate) entity: String,
    pub(crate) hash: u64,
}

impl Touched {
    pub(crate) fn new(view: u16, tenant: TenantId, entity: &str) -> Touched {
        Touched { view, tenant, entity: entity.to_string(), hash: key::key_hash(view, tenant, entity.as_bytes()) }
    }

    fn live_key(&self) -> Vec<u8> {
        let mut key = key::live_prefix(self.view, self.tenant).to_vec();
        key::push_entity(&mut key, self.entity.as_bytes());
        key
    }
}

/// Drops what the hot tier knew of the entities, under every generation that a fetch can ask for. The order matters: what a fetch inserts after
/// the first step is dropped there; what it inserted before is under a generation that the table names in the second.
pub(crate) fn tell_hot(inner: &Inner, touched: &[Touched]) {
    if !inner.hot.is_on() {
        return;
    }
    inner.hot.note_written(touched.iter().map(|touched| touched.hash));
    let table = inner.generations.load();
    let mut key = Vec::new();
    for Touched { view, tenant, entity, hash } in touched {
        let stored = table.pair(*view, *tenant).into_iter().flat_map(|pair| pair.readable());
        for generation in stored.chain([NO_GENERATION]) {
            key.clear();
            key.extend_from_slice(&GenerationId { view: *view, tenant: *tenant, generation }.prefix());
            key::push_entity(&mut key, entity.as_bytes());
            inner.hot.forget(&key, *hash);
        }
    }
}
