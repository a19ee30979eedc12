//! The keys of one fetch: each distinct (view, tenant, entity) once, in key order, whatever the request repeats. Entities are sorted once
//! for all views; as keys start with view and tenant, and a tenant has one generation of a view, building the keys view by view in order
//! of view id yields them sorted.

use std::ops::Range;
use std::sync::Arc;

use crate::generation::{Generation, Generations};
use crate::key::{self, GenerationId, MAX_ENTITY_BYTES, PREFIX_BYTES};
use crate::plan::Plan;
use crate::view::TenantId;

/// One entity of one tenant, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityRef<'a> {
    /// Whose entity.
    pub tenant: TenantId,
    /// Its key, as in the view's `entity_key` column.
    pub entity: &'a str,
}

/// The generation in the keys of a view and tenant without one: nothing is published under this number, but there may be live rows.
pub(crate) const NO_GENERATION: u32 = 0;

/// The distinct keys of a fetch, and how the request maps onto them. A key's position is `view * unique + entity`.
pub(crate) struct Batch<'g, 'e> {
    /// For each requested entity its position among the distinct ones.
    pub(crate) positions: Vec<u32>,
    /// Number of distinct entities.
    pub(crate) unique: usize,
    /// The distinct entities, in order.
    pub(crate) entities: Vec<EntityRef<'e>>,
    /// The distinct entities by tenant; runs cover all of them.
    pub(crate) runs: Vec<Run<'g>>,
    bytes: Vec<u8>,
    /// Where each key lies in `bytes`; empty where no such entity can exist.
    keys: Vec<Range<u32>>,
    /// The [`key_hash`](key::key_hash) of each key.
    hashes: Vec<u64>,
}

/// The entities of one tenant.
pub(crate) struct Run<'g> {
    pub(crate) entities: Range<usize>,
    /// The live generation of each view of the plan.
    pub(crate) generations: Vec<Option<&'g Arc<Generation>>>,
}

impl<'g, 'e> Batch<'g, 'e> {
    pub(crate) fn new(plan: &Plan, entities: &[EntityRef<'e>], live: &'g Generations) -> Batch<'g, 'e> {
        let mut order: Vec<u32> = (0..entities.len() as u32).collect();
        order.sort_unstable_by_key(|&index| entities[index as usize]);

        let mut positions = vec![0; entities.len()];
        let mut distinct: Vec<EntityRef<'_>> = Vec::with_capacity(entities.len());
        for index in order {
            let entity = entities[index as usize];
            if distinct.last() != Some(&entity) {
                distinct.push(entity);
            }
            positions[index as usize] = distinct.len() as u32 - 1;
        }
        let mut batch = Batch {
            positions,
            unique: distinct.len(),
            runs: runs(plan, &distinct, live),
            bytes: Vec::with_capacity(plan.views.len() * distinct.len() * (PREFIX_BYTES + 24)),
            keys: vec![0..0; plan.views.len() * distinct.len()],
            hashes: vec![0; plan.views.len() * distinct.len()],
            entities: distinct,
        };
        batch.build_keys(plan);
        batch
    }

    fn build_keys(&mut self, plan: &Plan) {
        for (view, planned) in plan.views.iter().enumerate() {
            let id = planned.view.config.id;
            for run in &self.runs {
                let tenant = self.entities[run.entities.start].tenant;
                let generation = run.generations[view].map_or(NO_GENERATION, |g| g.manifest.generation);
                let prefix = GenerationId { view: id, tenant, generation }.prefix();
                for position in run.entities.clone() {
                    let entity = self.entities[position].entity.as_bytes();
                    if entity.is_empty() || entity.len() > MAX_ENTITY_BYTES {
                        continue;
                    }
                    let start = self.bytes.len() as u32;
                    self.bytes.extend_from_slice(&prefix);
                    key::push_entity(&mut self.bytes, entity);
                    self.keys[view * self.unique + position] = start..self.bytes.len() as u32;
                    self.hashes[view * self.unique + position] = key::key_hash(id, tenant, entity);
                }
            }
        }
    }

    /// The key at a position, of the base family and of the hot tier; empty when nothing can be stored there.
    #[inline]
    pub(crate) fn key(&self, position: usize) -> &[u8] {
        let range = self.keys[position].clone();
        &self.bytes[range.start as usize..range.end as usize]
    }

    #[inline]
    pub(crate) fn hash(&self, position: usize) -> u64 {
        self.hashes[position]
    }

    /// The key at a position in the live family: the same without its generation.
    pub(crate) fn live_key(&self, position: usize) -> Vec<u8> {
        key::live_key(self.key(position))
    }

    /// The generation that a position reads, and the entity's place among the distinct ones.
    pub(crate) fn generation(&self, position: usize) -> Option<&'g Arc<Generation>> {
        let (view, entity) = (position / self.unique, position % self.unique);
        let run = self.runs.partition_point(|run| run.entities.end <= entity);
        self.runs[run].generations[view]
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// All positions whose key can exist, in key order.
    pub(crate) fn sorted_positions(&self, plan: &Plan) -> impl Iterator<Item = usize> {
        let by_id = plan.by_id.iter();
        by_id
            .flat_map(|&view| view * self.unique..(view + 1) * self.unique)
            .filter(|&position| !self.keys[position].is_empty())
    }
}

fn runs<'g>(plan: &Plan, distinct: &[EntityRef<'_>], live: &'g Generations) -> Vec<Run<'g>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for group in distinct.chunk_by(|a, b| a.tenant == b.tenant) {
        let live = |view_id| live.live(view_id, group[0].tenant);
        runs.push(Run {
            entities: start..start + group.len(),
            generations: plan.views.iter().map(|v| live(v.view.config.id)).collect(),
        });
        start += group.len();
    }
    runs
}
