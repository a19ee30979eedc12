//! The keys of one fetch: each distinct (view, tenant, entity) once, whatever the request repeats. Repeats are found by hash; keys are brought
//! into order only for those that have to be read from the database. A request of one tenant without repeats, which is nearly every one,
//! keeps the order in which it asked.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;

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
    /// The distinct entities, those of one tenant together.
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
        let (distinct, positions) = distinct(entities);
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

    /// All positions whose key can exist.
    pub(crate) fn possible_positions(&self) -> impl Iterator<Item = usize> {
        (0..self.keys.len()).filter(|&position| !self.keys[position].is_empty())
    }

    /// Brings positions into the order of their keys: by view, tenant and entity. Entities are sorted once for all views.
    pub(crate) fn sort(&self, plan: &Plan, positions: &mut [usize]) {
        if positions.len() < self.unique / 8 {
            // Fewer comparisons than sorting all entities takes.
            positions.sort_unstable_by(|a, b| self.key(*a).cmp(self.key(*b)));
            return;
        }
        let mut entities: Vec<usize> = (0..self.unique).collect();
        entities.sort_unstable_by_key(|&entity| self.entities[entity]);
        let mut views: Vec<usize> = (0..plan.views.len()).collect();
        views.sort_unstable_by_key(|&view| plan.views[view].view.config.id);
        let mut wanted = vec![false; self.len()];
        positions.iter().for_each(|&position| wanted[position] = true);
        let all = views.iter().flat_map(|view| entities.iter().map(move |entity| view * self.unique + entity));
        positions.iter_mut().zip(all.filter(|&position| wanted[position])).for_each(|(to, position)| *to = position);
    }

    /// True when the distinct entities are those requested, in that order.
    pub(crate) fn is_as_requested(&self) -> bool {
        self.positions.len() == self.unique && self.runs.len() < 2
    }
}

/// Each entity once, those of one tenant together and otherwise in order of first mention, and for each requested one its position among them.
fn distinct<'e>(entities: &[EntityRef<'e>]) -> (Vec<EntityRef<'e>>, Vec<u32>) {
    let hash = |asked: &EntityRef<'_>| key::key_hash(0, asked.tenant, asked.entity.as_bytes());
    let mut distinct: Vec<EntityRef<'e>> = Vec::with_capacity(entities.len());
    let mut known = HashTable::<u32>::with_capacity(entities.len());
    let mut positions = Vec::with_capacity(entities.len());
    for asked in entities {
        let hash_of = |position: &u32| hash(&distinct[*position as usize]);
        let found = known.entry(hash(asked), |position| distinct[*position as usize] == *asked, hash_of);
        let position = *found.or_insert(distinct.len() as u32).get();
        if position as usize == distinct.len() {
            distinct.push(*asked);
        }
        positions.push(position);
    }
    if distinct.is_sorted_by_key(|asked| asked.tenant) {
        return (distinct, positions);
    }
    let mut order: Vec<u32> = (0..distinct.len() as u32).collect();
    order.sort_by_key(|&position| distinct[position as usize].tenant);
    let mut moved = vec![0; distinct.len()];
    for (to, from) in order.iter().enumerate() {
        moved[*from as usize] = to as u32;
    }
    let together = order.iter().map(|&from| distinct[from as usize]).collect();
    (together, positions.into_iter().map(|position| moved[position as usize]).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FeatureRef;
    use crate::plan::View;
    use crate::test_rows::view;
    use proptest::prelude::*;

    #[test]
    fn few_positions_come_into_the_same_order_as_many() {
        let plan_of = FeatureRef { view: "view".to_string(), feature: "points".to_string() };
        let plan = Plan::compile(&[Arc::new(View::new(&view()))], &[plan_of]).unwrap();
        let names: Vec<_> = (0..64).map(|name| format!("{}\0{}", name * 37 % 64, "x".repeat(name % 3))).collect();
        let asked: Vec<_> =
            names.iter().zip(0..).map(|(entity, at)| EntityRef { tenant: TenantId(at % 2), entity }).collect();
        let live = Generations::default();
        let batch = Batch::new(&plan, &asked, &live);
        let mut all: Vec<_> = batch.possible_positions().collect();
        batch.sort(&plan, &mut all);
        assert!(all.is_sorted_by_key(|position| batch.key(*position)));
        let mut few = [63, 5, 40, 0, 17, 32, 31];
        batch.sort(&plan, &mut few);
        all.retain(|position| few.contains(position));
        assert_eq!(few, *all);
    }

    proptest! {
        #[test]
        fn each_entity_is_there_once_and_found_where_it_was_asked_for(asked in prop::collection::vec((0u32..3, 0usize..12), 0..40)) {
            let names: Vec<String> = (0..12).map(|name| format!("user-{name}")).collect();
            let asked: Vec<_> = asked
                .into_iter()
                .map(|(tenant, name)| EntityRef { tenant: TenantId(tenant), entity: &names[name] })
                .collect();
            let (distinct, positions) = distinct(&asked);
            let found: Vec<_> = positions.iter().map(|position| distinct[*position as usize]).collect();
            prop_assert_eq!(&found, &asked);
            let mut sorted = asked.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), distinct.len());
            prop_assert!(distinct.is_sorted_by_key(|asked| asked.tenant));
            if sorted.len() == asked.len() && asked.iter().all(|other| other.tenant == asked[0].tenant) {
                prop_assert_eq!(distinct, asked);
            }
        }
    }
}
