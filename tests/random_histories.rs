//! Promise: whatever is published, written, deleted, erased, rolled back, refused, compacted and reopened, in whichever order, a fetch answers
//! as the rules say (`support/model.rs`), from the tier it should come from.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray};
use larder_store::{
    EntityRef, Error, FeatureType, FetchedView, Plan, Status, Store, TenantId, Tier, ViewConfig, ViewKind, Write,
    WriteKind,
};
use proptest::prelude::*;

use crate::support::model::{Change, Model, What};
use crate::support::store::{
    NOW_MS, Row, Value, batch, build_delta, config, deletions, orders, plan, profile, publish_as_of, value,
};

/// Entities whose keys are hard: empty-looking, prefixes of each other, with zero bytes and high bytes.
const ENTITIES: [&str; 8] = ["a", "a\0", "a\0b", "ab", "\0", "zürich", "用户", "user-00000000000000000000000000001"];
const UNKNOWN: [&str; 2] = ["", "nobody"];
const TENANTS: u32 = 2;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        view: usize,
        tenant: u32,
        as_of_ms: i64,
        rows: Vec<Row>,
    },
    /// A delta snapshot since a time before that of the live generation, or after it.
    PublishDelta {
        since_ms: i64,
        as_of_ms: i64,
        part: Part,
    },
    Rollback {
        view: usize,
        tenant: u32,
    },
    /// All in one call.
    Write(Vec<Part>),
    Erase {
        tenant: u32,
        entity: usize,
        now_ms: i64,
    },
    CompactErased,
    Fetch {
        entities: Vec<(u32, usize)>,
        plan: usize,
        now_ms: i64,
    },
    Reopen,
}

/// What a write does in one view of one tenant.
#[derive(Debug, Clone)]
struct Part {
    view: usize,
    tenant: u32,
    rows: Vec<Row>,
    /// Instead of the rows: entities, times, and in a history which element, or all.
    deletions: Vec<(usize, i64, Option<String>)>,
}

fn views() -> [ViewConfig; 2] {
    [profile(), orders()]
}

/// The feature lists that the steps fetch; the second reads the views against the order of their ids.
const PLANS: [&[&str]; 3] = [
    &["profile:points", "profile:name"],
    &["orders:total", "profile:city", "orders:order_id", "profile:vector", "orders:status"],
    &[
        "profile:joined", "profile:ratio", "profile:credit", "profile:level", "profile:vip", "profile:vector",
        "profile:name", "orders:order_id",
    ],
];

/// A deletion as the model knows it: of an element, or of all.
fn deletion_of(view: &ViewConfig, (entity, event_time_ms, element): &(usize, i64, Option<String>)) -> Change {
    let what = match element {
        Some(element) if view.kind == ViewKind::LastN => What::Deletion(element.clone()),
        None if view.kind == ViewKind::LastN => What::DeletionOfAll,
        _ => What::Deletion(String::new()),
    };
    Change { entity: ENTITIES[*entity].to_owned(), event_time_ms: *event_time_ms, what }
}

fn any_value(data_type: FeatureType) -> BoxedStrategy<Option<Value>> {
    let some = match data_type {
        FeatureType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        FeatureType::I32 => any::<i32>().prop_map(Value::I32).boxed(),
        FeatureType::I64 => any::<i64>().prop_map(Value::I64).boxed(),
        FeatureType::F32 => (-1e6f32..1e6).prop_map(Value::F32).boxed(),
        FeatureType::F64 => (-1e9f64..1e9).prop_map(Value::F64).boxed(),
        FeatureType::Utf8 => "\\PC{0,12}".prop_map(Value::Text).boxed(),
        FeatureType::Timestamp => any::<i64>().prop_map(Value::Time).boxed(),
        FeatureType::ListF32 => prop::collection::vec(-1f32..1.0, 0..4).prop_map(Value::Floats).boxed(),
    };
    prop_oneof![1 => Just(None), 4 => some.prop_map(Some)].boxed()
}

fn any_row(view: &ViewConfig) -> impl Strategy<Value = Row> + use<> {
    let values: Vec<_> = view
        .features
        .iter()
        .map(|feature| match view.element_key.as_ref() == Some(&feature.name) {
            true => (0..6).prop_map(|number| Some(Value::Text(format!("order {number}")))).boxed(),
            false => any_value(feature.data_type),
        })
        .collect();
    // Whole seconds, so that times collide and the ends of the time to live are hit exactly.
    (0..ENTITIES.len(), 0i64..100, values).prop_map(|(entity, seconds, values)| Row {
        entity: ENTITIES[entity].to_string(),
        event_time_ms: seconds * 1000,
        values,
    })
}

fn any_time() -> impl Strategy<Value = i64> {
    (0i64..100).prop_map(|seconds| seconds * 1000)
}

fn any_part() -> impl Strategy<Value = Part> {
    let element = || prop::option::weighted(0.8, (0..6).prop_map(|number| format!("order {number}")));
    let deletions = || prop::collection::vec((0..ENTITIES.len(), any_time(), element()), 0..4);
    let part = move |view: usize| {
        (1..=TENANTS, prop::collection::vec(any_row(&views()[view]), 0..6), deletions())
            .prop_map(move |(tenant, rows, deletions)| Part { view, tenant, rows, deletions })
    };
    prop_oneof![part(0), part(1)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let tenant = || 1..=TENANTS;
    let rows = |view: usize| prop::collection::vec(any_row(&views()[view]), 1..24);
    let publish = |view| {
        (tenant(), any_time(), rows(view)).prop_map(move |(tenant, as_of_ms, rows)| Step::Publish {
            view,
            tenant,
            as_of_ms,
            rows,
        })
    };
    let entity = (tenant(), 0..ENTITIES.len() + UNKNOWN.len());
    let now = (0i64..180, -1i64..=1).prop_map(|(seconds, edge)| seconds * 1000 + edge);
    prop_oneof![
        4 => publish(0),
        4 => publish(1),
        4 => (any_time(), any_time(), any_part())
            .prop_map(|(since_ms, as_of_ms, part)| Step::PublishDelta { since_ms, as_of_ms, part }),
        3 => (0..2usize, tenant()).prop_map(|(view, tenant)| Step::Rollback { view, tenant }),
        10 => prop::collection::vec(any_part(), 1..4).prop_map(Step::Write),
        3 => (tenant(), 0..ENTITIES.len(), any_time())
            .prop_map(|(tenant, entity, now_ms)| Step::Erase { tenant, entity, now_ms }),
        2 => Just(Step::CompactErased),
        12 => (prop::collection::vec(entity, 0..24), 0..PLANS.len(), now)
            .prop_map(|(entities, plan, now_ms)| Step::Fetch { entities, plan, now_ms }),
        1 => Just(Step::Reopen),
    ]
}

/// A store, the model beside it and the folder both live in.
struct Pair {
    folder: tempfile::TempDir,
    store: Option<Store>,
    model: Model,
    /// View, tenant and entity of what has been fetched and not written to since the store was opened: the hot tier holds it, swap or no swap.
    hot: HashSet<(usize, u32, String)>,
    built: u32,
    /// Time never runs backwards in the snapshots.
    orderly: bool,
}

impl Pair {
    fn new(orderly: bool) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let store = Some(Store::open(&config(folder.path()), &views()).unwrap());
        Pair { folder, store, model: Model::new(&views()), hot: HashSet::new(), built: 0, orderly }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Publish { view, tenant, as_of_ms, rows } => self.publish(*view, *tenant, *as_of_ms, rows.clone()),
            Step::PublishDelta { since_ms, as_of_ms, part } => self.publish_delta(*since_ms, *as_of_ms, part),
            Step::Rollback { view, tenant } => {
                let outcome = self.store().rollback(TenantId(*tenant), &views()[*view].name);
                assert_eq!(outcome.is_ok(), self.model.rollback((*view, *tenant)), "{outcome:?}");
            }
            Step::Write(parts) => self.write(parts),
            Step::Erase { tenant, entity, now_ms } => {
                let entity = ENTITIES[*entity];
                self.store().erase(TenantId(*tenant), entity, *now_ms).unwrap();
                self.model.erase(*tenant, entity, *now_ms);
                self.hot.retain(|(_, of, known)| of != tenant || known != entity);
            }
            Step::CompactErased => {
                let compacted = self.store().compact_erased().unwrap();
                assert_eq!((compacted.rows, compacted.live), self.model.compact_erased());
            }
            Step::Reopen => {
                self.store = None;
                self.store = Some(Store::open(&config(self.folder.path()), &views()).unwrap());
                self.hot.clear();
            }
            Step::Fetch { entities, plan: index, now_ms } => {
                let names = ENTITIES.iter().chain(&UNKNOWN).copied().collect::<Vec<_>>();
                let entities: Vec<_> = entities
                    .iter()
                    .map(|&(tenant, entity)| EntityRef { tenant: TenantId(tenant), entity: names[entity] })
                    .collect();
                let plan = plan(self.store(), PLANS[*index]);
                self.fetch_and_compare(&plan, PLANS[*index], &entities, *now_ms);
            }
        }
        if self.orderly {
            self.model.check_prunings();
        }
    }

    fn publish(&mut self, view: usize, tenant: u32, as_of_ms: i64, mut rows: Vec<Row>) {
        self.built += 1;
        let (config, place) = (&views()[view], (view, tenant));
        if self.orderly {
            rows.iter_mut()
                .for_each(|row| row.event_time_ms = row.event_time_ms.max(self.model.least_time(place, row)));
        }
        let first = self.model.live(place).is_none();
        let snapshot = self.model.build(place, self.built, as_of_ms, &rows);
        let folder = self.folder.path();
        let outcome = publish_as_of(self.store(), folder, config, tenant, self.built, as_of_ms, rows);
        let taken = self.model.publish(place, snapshot);
        assert_eq!(outcome.is_ok(), taken, "{outcome:?}");
        if let Err(error) = outcome {
            assert!(matches!(error, Error::ChooseGeneration(_)), "{error}");
            assert!(error.to_string().contains("were pruned because newer snapshots cover them"), "{error}");
        } else if first {
            // There was no generation whose keys could have been carried over.
            self.hot.retain(|(of_view, of, _)| (*of_view, *of) != place);
        }
    }

    fn publish_delta(&mut self, since_ms: i64, as_of_ms: i64, part: &Part) {
        let Part { view, tenant, rows, deletions } = part;
        if since_ms > as_of_ms || rows.len() + deletions.len() == 0 {
            return;
        }
        self.built += 1;
        let (config, place) = (&views()[*view], (*view, *tenant));
        let mut rows = rows.clone();
        if self.orderly {
            rows.iter_mut()
                .for_each(|row| row.event_time_ms = row.event_time_ms.max(self.model.least_time(place, row)));
        }
        let dir = self.folder.path().join(format!("delta-{}", self.built));
        let keys: Vec<_> = deletions
            .iter()
            .map(|(entity, time, element)| (ENTITIES[*entity], *time, element.clone().map(Value::Text)))
            .collect();
        build_delta(&dir, config, (*tenant, self.built), (since_ms, as_of_ms), &rows, &keys).unwrap();
        let outcome = self.store().publish(&dir);
        let deletions: Vec<_> = deletions.iter().map(|deletion| deletion_of(config, deletion)).collect();
        let changed = self.model.changed(place, self.built, (since_ms, as_of_ms), &rows, &deletions);
        let taken = changed.is_some_and(|snapshot| self.model.publish(place, snapshot));
        assert_eq!(outcome.is_ok(), taken, "{outcome:?}");
    }

    fn write(&mut self, parts: &[Part]) {
        let mut batches = Vec::new();
        let mut expected = larder_store::Written::default();
        // What was there before the call, and what the call itself has said of each element so far.
        let (before, mut said) = (self.model.clone(), HashMap::new());
        for Part { view, tenant, rows, deletions: keys } in parts {
            let config = &views()[*view];
            let changes = rows.iter().map(|row| (&*row.entity, row.event_time_ms, What::Row(row.clone())));
            let deleted = keys.iter().map(|key| {
                let Change { event_time_ms, what, .. } = deletion_of(config, key);
                (ENTITIES[key.0], event_time_ms, what)
            });
            for (entity, event_time_ms, what) in changes.chain(deleted) {
                let is_row = matches!(what, What::Row(_));
                let change = Change { entity: entity.to_string(), event_time_ms, what };
                let place = (*view, *tenant);
                let is_late = before.is_late(place, &change);
                let newest =
                    said.entry((place, change.entity.clone(), change.element(config))).or_insert(event_time_ms);
                let outdated = *newest > event_time_ms;
                let taken = self.model.write(place, change);
                let counted = match (taken, is_row) {
                    (false, _) => &mut expected.erased,
                    (true, true) => &mut expected.rows,
                    (true, false) => &mut expected.deletions,
                };
                *counted += 1;
                if taken {
                    expected.late += u64::from(outdated || is_late);
                    *newest = event_time_ms.max(*newest);
                    self.hot.remove(&(*view, *tenant, entity.to_string()));
                }
            }
            let keys: Vec<_> =
                keys.iter().map(|(e, time, element)| (ENTITIES[*e], *time, element.clone().map(Value::Text))).collect();
            let tenant = TenantId(*tenant);
            batches.push((config.name.clone(), tenant, WriteKind::Upsert, batch(config, rows)));
            batches.push((config.name.clone(), tenant, WriteKind::Delete, deletions(config, &keys)));
        }
        let writes: Vec<_> = batches
            .iter()
            .map(|(view, tenant, kind, rows)| Write { tenant: *tenant, view, kind: *kind, rows })
            .collect();
        let written = self.store().write(&writes, NOW_MS).unwrap();
        assert_eq!(written, expected);
    }

    fn fetch_and_compare(&mut self, plan: &Plan, features: &[&str], entities: &[EntityRef<'_>], now_ms: i64) {
        let looks: Vec<_> = entities.iter().map(|entity| self.look(entity, now_ms)).collect();
        let fetched = self.store().fetch(plan, entities, now_ms).unwrap();
        // Rows enter the hot tier beside the request; asking for its usage waits for them.
        self.store().hot_usage();
        let mut names: Vec<&str> = Vec::new();
        for feature in features {
            let view = feature.split(':').next().unwrap();
            if !names.contains(&view) {
                names.push(view);
            }
        }
        let order: Vec<_> = fetched.views.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(order, names, "views in order of first mention");

        let distinct: HashSet<_> = entities.iter().collect();
        let stats = fetched.stats;
        assert_eq!(stats.keys as usize, entities.len() * names.len());
        assert_eq!(stats.unique_keys as usize, distinct.len() * names.len());
        assert_eq!(stats.unique_keys, stats.hot_hits + stats.warm_hits + stats.not_found);

        let [mut hot, mut warm, mut expired, mut erased] = [const { Vec::new() }; 4].map(HashSet::<_>::from_iter);
        for view in &fetched.views {
            let index = views().iter().position(|config| config.name == view.name).unwrap();
            let wanted: Vec<_> = features.iter().filter_map(|f| f.strip_prefix(&format!("{}:", view.name))).collect();
            assert_eq!(view.features, wanted);
            assert_eq!(view.columns.len(), wanted.len());
            for (row, entity) in entities.iter().enumerate() {
                self.compare_row(view, index, row, entity, now_ms);
                if let Some(look) = looks[row].iter().find(|look| look.name == view.name) {
                    let look = (look.status[0], look.tier[0], look.generation[0], look.event_time_ms[0]);
                    let told = (view.status[row], view.tier[row], view.generation[row], view.event_time_ms[row]);
                    assert_eq!(look, told, "a look at {entity:?} in {}", view.name);
                }
                let key = (index, *entity);
                match view.tier[row] {
                    Tier::Hot => hot.insert(key),
                    Tier::Warm => warm.insert(key),
                    Tier::Cold => panic!("nothing lies in the cold tier"),
                    Tier::None => false,
                };
                match view.status[row] {
                    Status::Expired => expired.insert(key),
                    Status::Erased => erased.insert(key),
                    _ => false,
                };
            }
            self.hot.extend(entities.iter().map(|entity| (index, entity.tenant.0, entity.entity.to_string())));
        }
        assert_eq!(stats.erased as usize, erased.len());
        // What is found of somebody erased is a hit, and told to nobody.
        if erased.is_empty() {
            assert_eq!(stats.hot_hits as usize, hot.len());
            assert_eq!(stats.warm_hits as usize, warm.len());
        }
        assert_eq!(stats.expired as usize, expired.len());
    }

    /// What a look says that a fetch would say; nothing of who cannot exist.
    fn look(&self, entity: &EntityRef<'_>, now_ms: i64) -> Vec<FetchedView> {
        let looks = self.store().inspect(entity.tenant, entity.entity, None, now_ms);
        assert_eq!(looks.is_err(), entity.entity.is_empty());
        looks.into_iter().flatten().map(|look| look.fetched).collect()
    }

    fn compare_row(&self, view: &FetchedView, index: usize, row: usize, entity: &EntityRef<'_>, now_ms: i64) {
        let config = &views()[index];
        let expected = self.model.answer((index, entity.tenant.0), entity.entity, now_ms);
        let tier = match expected.status {
            Status::NotFound | Status::Erased => Tier::None,
            _ if self.hot.contains(&(index, entity.tenant.0, entity.entity.to_string())) => Tier::Hot,
            _ => Tier::Warm,
        };
        let what = format!("{} of {entity:?} at {now_ms}", view.name);
        let (status, visible) = (expected.status, expected.visible);
        assert_eq!(view.status[row], status, "{what}");
        assert_eq!(view.tier[row], tier, "{what}");
        assert_eq!(view.generation[row], expected.generation, "{what}");
        assert_eq!(view.event_time_ms[row], expected.event_time_ms, "{what}");
        for (position, name) in view.features.iter().enumerate() {
            let feature = config.features.iter().position(|feature| &feature.name == name).unwrap();
            let data_type = config.features[feature].data_type;
            let expected: Vec<_> = visible.iter().map(|row| row.values[feature].clone()).collect();
            let column = &view.columns[position];
            assert_eq!(column.len(), view.status.len(), "{what}");
            let found = match config.kind {
                ViewKind::Latest if visible.is_empty() => {
                    assert!(column.is_null(row), "{what}");
                    Vec::new()
                }
                ViewKind::Latest => vec![value(column, data_type, row)],
                ViewKind::LastN => {
                    assert_eq!(column.is_null(row), visible.is_empty(), "{what}");
                    let elements = column.as_list::<i32>().value(row);
                    (0..elements.len()).map(|element| value(&elements, data_type, element)).collect()
                }
            };
            assert_eq!(found, expected, "{name} of {what}");
            let of_value = match expected.first() {
                None => status,
                Some(None) => Status::Null,
                Some(Some(_)) => Status::Present,
            };
            assert_eq!(view.value_status(position, row), Some(of_value), "{name} of {what}");
        }
    }
}

fn check(steps: &[Step], orderly: bool) {
    let mut pair = Pair::new(orderly);
    for step in steps {
        pair.take(step);
    }
    // At the end everything once more, from both tiers, of both generations, and after reopening.
    let all: Vec<_> =
        (1..=TENANTS).flat_map(|tenant| (0..ENTITIES.len()).map(move |entity| (tenant, entity))).collect();
    let fetch_all = |pair: &mut Pair| {
        for (plan, now_ms) in [(1, 0), (1, 60_000), (2, 60_000)] {
            pair.take(&Step::Fetch { entities: all.clone(), plan, now_ms });
        }
    };
    fetch_all(&mut pair);
    for (view, tenant) in (0..2).flat_map(|view| (1..=TENANTS).map(move |tenant| (view, tenant))) {
        pair.take(&Step::Rollback { view, tenant });
    }
    fetch_all(&mut pair);
    pair.take(&Step::CompactErased);
    pair.take(&Step::Reopen);
    fetch_all(&mut pair);
}

/// As many as fit into a few seconds; LARDER_LONG asks for more.
fn cases() -> u32 {
    if std::env::var_os("LARDER_LONG").is_some() { 2000 } else { 24 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_the_rules_say(steps in prop::collection::vec(any_step(), 1..60)) {
        check(&steps, false);
    }

    /// Nothing that was ever pruned is missed, whatever is published later, as long as no snapshot contradicts an earlier one.
    #[test]
    fn pruning_is_never_noticed(steps in prop::collection::vec(any_step(), 1..60)) {
        check(&steps, true);
    }
}
