//! The keys of one fetch: each distinct (view, tenant, entity) once, in key order, whatever the request repeats. Entities are sorted once
//! for all views; as keys start with view and tenant, and a tenant has one generation of a view, building the keys view by view in order
//! of view id yields them sorted.

use std::ops::Range;

use crate::generation::{Generation, Generations};
use crate::key::{self, MAX_ENTITY_BYTES, PREFIX_BYTES};
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

/// The distinct keys of a fetch, and how the request maps onto them. A key's position is `view * unique + entity`.
pub(crate) struct Batch<'g> {
    /// For each requested entity its position among the distinct ones.
    pub(crate) positions: Vec<u32>,
    /// Number of distinct entities.
    pub(crate) unique: usize,
    /// The distinct entities by tenant; runs cover all of them.
    pub(crate) runs: Vec<Run<'g>>,
    bytes: Vec<u8>,
    /// Where each key lies in `bytes`; empty where no generation is live, or where no such entity can exist.
    keys: Vec<Range<u32>>,
}

/// The entities of one tenant.
pub(crate) struct Run<'g> {
    pub(crate) entities: Range<usize>,
    /// The live generation of each view of the plan.
    pub(crate) generations: Vec<Option<&'g Generation>>,
}

impl<'g> Batch<'g> {
    pub(crate) fn new(plan: &Plan, entities: &[EntityRef<'_>], live: &'g Generations) -> Batch<'g> {
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
        };
        batch.build_keys(plan, &distinct);
        batch
    }

    fn build_keys(&mut self, plan: &Plan, distinct: &[EntityRef<'_>]) {
        for view in 0..plan.views.len() {
            for run in &self.runs {
                let Some(generation) = run.generations[view] else {
                    continue;
                };
                let prefix = generation.manifest.id().prefix();
                for position in run.entities.clone() {
                    let entity = distinct[position].entity.as_bytes();
                    if entity.len() > MAX_ENTITY_BYTES {
                        continue;
                    }
                    let start = self.bytes.len() as u32;
                    self.bytes.extend_from_slice(&prefix);
                    key::push_entity(&mut self.bytes, entity);
                    self.keys[view * self.unique + position] = start..self.bytes.len() as u32;
                }
            }
        }
    }

    /// The key at a position; empty when nothing can be stored there.
    #[inline]
    pub(crate) fn key(&self, position: usize) -> &[u8] {
        let range = self.keys[position].clone();
        &self.bytes[range.start as usize..range.end as usize]
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
