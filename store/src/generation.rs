//! The generations a store serves: which one is live for each view and tenant, and which one could come back. The whole table is replaced
//! at once, never changed, so whoever holds it sees one generation of everything for as long as they hold it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cold::ColdPart;
use crate::manifest::{Manifest, StoredSchema};
use crate::metrics;
use crate::schema::RowSchema;
use crate::view::TenantId;
use crate::warm::Warm;

/// One published generation. When it is retired, its files are dropped as the last holder lets go of it: the publisher, or the last fetch
/// that started before the swap.
pub(crate) struct Generation {
    pub(crate) manifest: Manifest,
    pub(crate) schema: RowSchema,
    /// The files of its cold entities, in order.
    pub(crate) cold: Vec<Arc<ColdPart>>,
    retired: AtomicBool,
    warm: Arc<Warm>,
}

impl Generation {
    pub(crate) fn new(manifest: Manifest, cold: Vec<Arc<ColdPart>>, warm: &Arc<Warm>) -> Arc<Generation> {
        Arc::new(Generation {
            schema: RowSchema::new(&manifest.schema.features),
            manifest,
            cold,
            retired: AtomicBool::new(false),
            warm: Arc::clone(warm),
        })
    }

    /// The cold file that may hold an entity.
    pub(crate) fn cold_part(&self, entity: &str) -> Option<&Arc<ColdPart>> {
        let index = self.cold.partition_point(|part| part.file.last_key() < entity.as_bytes());
        self.cold.get(index).filter(|part| part.may_contain(entity))
    }

    /// Marks the generation, with its files, as no longer named by meta.
    pub(crate) fn retire(&self) {
        self.cold.iter().for_each(|part| part.retire());
        self.retired.store(true, Ordering::Release);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.retired.load(Ordering::Acquire) {
            return;
        }
        let id = self.manifest.id();
        match self.warm.drop_generation(id) {
            Ok(()) => tracing::info!(view = %self.manifest.view, generation = id.generation, "generation dropped"),
            Err(error) => {
                metrics::record_drop_failure();
                tracing::warn!(
                    view = %self.manifest.view, generation = id.generation, %error,
                    "generation not dropped, it goes at the next start"
                );
            }
        }
    }
}

/// The live generation of a view and tenant, and the one before it.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) live: Arc<Generation>,
    pub(crate) previous: Option<Arc<Generation>>,
    /// The number of a generation that is about to become live: it is being made hot, so live writes must know of it.
    pub(crate) incoming: Option<u32>,
}

impl Pair {
    /// The numbers under which the hot tier may hold rows that a fetch can ask for, now or after a swap.
    pub(crate) fn readable(&self) -> impl Iterator<Item = u32> {
        let stored = std::iter::once(&self.live).chain(&self.previous);
        stored.map(|generation| generation.manifest.generation).chain(self.incoming)
    }
}

/// All pairs of a store.
#[derive(Clone, Default)]
pub(crate) struct Generations(HashMap<(u16, TenantId), Pair>);

impl Generations {
    pub(crate) fn pair(&self, view: u16, tenant: TenantId) -> Option<&Pair> {
        self.0.get(&(view, tenant))
    }

    pub(crate) fn live(&self, view: u16, tenant: TenantId) -> Option<&Arc<Generation>> {
        self.pair(view, tenant).map(|pair| &pair.live)
    }

    /// Every generation that can be read.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Generation>> {
        self.0.values().flat_map(|pair| std::iter::once(&pair.live).chain(&pair.previous))
    }

    /// The views, and tenants of each, that have a generation.
    pub(crate) fn views(&self) -> impl Iterator<Item = (u16, TenantId)> {
        self.0.keys().copied()
    }

    pub(crate) fn insert(&mut self, pair: Pair) {
        let manifest = &pair.live.manifest;
        self.0.insert((manifest.view_id, manifest.tenant), pair);
    }

    /// A description of each generation, ordered by view, tenant and state.
    pub(crate) fn describe(&self) -> Vec<GenerationInfo> {
        let mut infos: Vec<_> = self
            .0
            .values()
            .flat_map(|pair| {
                let live = GenerationInfo::new(&pair.live.manifest, GenerationState::Live);
                let previous = pair.previous.as_ref();
                let previous = previous.map(|g| GenerationInfo::new(&g.manifest, GenerationState::Previous));
                [Some(live), previous]
            })
            .flatten()
            .collect();
        infos.sort_by(|a, b| (&a.view, a.tenant, a.state).cmp(&(&b.view, b.tenant, b.state)));
        infos
    }
}

/// Whether a generation answers fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GenerationState {
    /// It answers.
    Live,
    /// It is kept for [`Store::rollback`](crate::Store::rollback).
    Previous,
}

/// What an operator wants to know about a published generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationInfo {
    /// The view's name.
    pub view: String,
    /// Whose rows these are.
    pub tenant: TenantId,
    /// The generation's number.
    pub generation: u32,
    /// Live or previous.
    pub state: GenerationState,
    /// The time whose state it shows, Unix milliseconds UTC.
    pub as_of_ms: i64,
    /// Rows stored; for `last_n` the elements.
    pub rows: u64,
    /// Entities stored.
    pub entities: u64,
    /// Of these, entities placed in the cold tier.
    pub cold_entities: u64,
    /// Bytes of its files, of both tiers.
    pub bytes: u64,
    /// Number of its SST files.
    pub files: usize,
    /// Number of its Parquet files in the cold tier.
    pub cold_files: usize,
    /// Least event time stored.
    pub event_time_min_ms: i64,
    /// Greatest event time stored.
    pub event_time_max_ms: i64,
    /// The schema its rows were written under.
    pub schema: StoredSchema,
}

impl GenerationInfo {
    fn new(manifest: &Manifest, state: GenerationState) -> GenerationInfo {
        GenerationInfo {
            view: manifest.view.clone(),
            tenant: manifest.tenant,
            generation: manifest.generation,
            state,
            as_of_ms: manifest.as_of_ms,
            rows: manifest.rows,
            entities: manifest.entities,
            cold_entities: manifest.entities - manifest.warm_entities(),
            bytes: manifest.bytes(),
            files: manifest.files.len(),
            cold_files: manifest.cold.len(),
            event_time_min_ms: manifest.event_time_min_ms,
            event_time_max_ms: manifest.event_time_max_ms,
            schema: manifest.schema.clone(),
        }
    }
}
