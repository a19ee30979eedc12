//! Promise: whatever is published, rolled back, repeated or aged, a fetch answers as a plain map would, from one generation per view, and
//! within the memory it was given.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use arrow::array::types::{Float64Type, Int64Type};
use arrow::array::{Array, AsArray};
use larder_store::{
    EntityRef, Error, FeatureType, FetchedView, Plan, Status, Store, StoreConfig, TenantId, Tier, ViewConfig, ViewKind,
};
use proptest::prelude::*;

use crate::support::store::{
    Row, Value, build, config, feature, of_tenant, order_row, orders, plan, profile, profile_row, publish, value,
};

/// Entities whose keys are hard: empty-looking, prefixes of each other, with zero bytes and high bytes.
const ENTITIES: [&str; 8] = ["a", "a\0", "a\0b", "ab", "\0", "zürich", "用户", "user-00000000000000000000000000001"];
const UNKNOWN: [&str; 2] = ["", "nobody"];
const TENANTS: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish { view: usize, tenant: u32, rows: Vec<Row> },
    Rollback { view: usize, tenant: u32 },
    Fetch { entities: Vec<(u32, usize)>, plan: usize, now_ms: i64 },
    Reopen,
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

fn any_step() -> impl Strategy<Value = Step> {
    let tenant = || 1..=TENANTS;
    let rows = |view: usize| prop::collection::vec(any_row(&views()[view]), 1..24);
    let publish = |view| (tenant(), rows(view)).prop_map(move |(tenant, rows)| Step::Publish { view, tenant, rows });
    let entity = (tenant(), 0..ENTITIES.len() + UNKNOWN.len());
    let now = (0i64..180, -1i64..=1).prop_map(|(seconds, edge)| seconds * 1000 + edge);
    prop_oneof![
        2 => publish(0),
        2 => publish(1),
        1 => (0..2usize, tenant()).prop_map(|(view, tenant)| Step::Rollback { view, tenant }),
        6 => (prop::collection::vec(entity, 0..24), 0..PLANS.len(), now)
            .prop_map(|(entities, plan, now_ms)| Step::Fetch { entities, plan, now_ms }),
        1 => Just(Step::Reopen),
    ]
}

/// What an entity has in a generation: rows newest first, one for `latest`.
type Rows = BTreeMap<String, Vec<Row>>;

#[derive(Clone)]
struct Built {
    number: u32,
    rows: Rows,
}

/// The store as a map, with the rules of merging, time to live and tiers written down as plainly as possible.
#[derive(Default)]
struct Model {
    live: BTreeMap<(usize, u32), Built>,
    previous: BTreeMap<(usize, u32), Built>,
    /// Keys that have been fetched since the store was opened, so the hot tier holds them.
    fetched: HashSet<(usize, u32, u32, String)>,
}

impl Model {
    fn publish(&mut self, view: usize, tenant: u32, number: u32, rows: &[Row]) {
        let config = &views()[view];
        let key = |row: &Row| match (&config.element_key, &row.values[0]) {
            (Some(_), Some(Value::Text(text))) => text.clone(),
            _ => String::new(),
        };
        let mut elements: BTreeMap<(String, String), Row> = BTreeMap::new();
        for row in rows {
            let place = (row.entity.clone(), key(row));
            // Of equal times the row that comes last wins.
            if elements.get(&place).is_none_or(|kept| row.event_time_ms >= kept.event_time_ms) {
                elements.insert(place, row.clone());
            }
        }
        let mut merged = Rows::new();
        for ((entity, _), row) in elements {
            merged.entry(entity).or_default().push(row);
        }
        for rows in merged.values_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse((row.event_time_ms, key(row))));
            rows.truncate(config.n.unwrap_or(1) as usize);
        }
        let built = Built { number, rows: merged };
        if let Some(before) = self.live.insert((view, tenant), built) {
            self.previous.insert((view, tenant), before);
        }
    }

    fn rollback(&mut self, view: usize, tenant: u32) -> bool {
        match (self.live.get_mut(&(view, tenant)), self.previous.get_mut(&(view, tenant))) {
            (Some(live), Some(previous)) => {
                std::mem::swap(live, previous);
                true
            }
            _ => false,
        }
    }
}

/// A store, the model beside it and the folder both live in.
struct Pair {
    folder: tempfile::TempDir,
    store: Option<Store>,
    model: Model,
    built: u32,
}

impl Pair {
    fn new() -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let store = Some(Store::open(&config(folder.path()), &views()).unwrap());
        Pair { folder, store, model: Model::default(), built: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Publish { view, tenant, rows } => {
                self.built += 1;
                let config = &views()[*view];
                publish(self.store(), self.folder.path(), config, *tenant, self.built, rows.clone());
                self.model.publish(*view, *tenant, self.built, rows);
            }
            Step::Rollback { view, tenant } => {
                let outcome = self.store().rollback(TenantId(*tenant), &views()[*view].name);
                assert_eq!(outcome.is_ok(), self.model.rollback(*view, *tenant), "{outcome:?}");
            }
            Step::Reopen => {
                self.store = None;
                self.store = Some(Store::open(&config(self.folder.path()), &views()).unwrap());
                self.model.fetched.clear();
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
    }

    fn fetch_and_compare(&mut self, plan: &Plan, features: &[&str], entities: &[EntityRef<'_>], now_ms: i64) {
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

        let (mut hot, mut warm, mut expired) = (HashSet::new(), HashSet::new(), HashSet::new());
        for view in &fetched.views {
            let index = views().iter().position(|config| config.name == view.name).unwrap();
            let wanted: Vec<_> = features.iter().filter_map(|f| f.strip_prefix(&format!("{}:", view.name))).collect();
            assert_eq!(view.features, wanted);
            assert_eq!(view.columns.len(), wanted.len());
            for (row, entity) in entities.iter().enumerate() {
                self.compare_row(view, index, row, entity, now_ms);
                let key = (index, *entity);
                match view.tier[row] {
                    Tier::Hot => hot.insert(key),
                    Tier::Warm => warm.insert(key),
                    Tier::Cold => panic!("nothing lies in the cold tier"),
                    Tier::None => false,
                };
                if view.status[row] == Status::Expired {
                    expired.insert(key);
                }
            }
            for entity in entities {
                if let Some(live) = self.model.live.get(&(index, entity.tenant.0)) {
                    let key = (index, entity.tenant.0, live.number, entity.entity.to_string());
                    self.model.fetched.insert(key);
                }
            }
        }
        assert_eq!(stats.hot_hits as usize, hot.len());
        assert_eq!(stats.warm_hits as usize, warm.len());
        assert_eq!(stats.expired as usize, expired.len());
    }

    fn compare_row(&self, view: &FetchedView, index: usize, row: usize, entity: &EntityRef<'_>, now_ms: i64) {
        let config = &views()[index];
        let live = self.model.live.get(&(index, entity.tenant.0));
        let stored = live.and_then(|live| live.rows.get(entity.entity)).map_or(&[] as &[Row], Vec::as_slice);
        let ttl_ms = config.ttl_s.unwrap() as i64 * 1000;
        let visible: Vec<_> = stored.iter().filter(|row| now_ms < row.event_time_ms + ttl_ms).collect();
        let status = match (stored.is_empty(), visible.is_empty()) {
            (true, _) => Status::NotFound,
            (false, true) => Status::Expired,
            (false, false) => Status::Present,
        };
        let number = live.map_or(0, |live| live.number);
        let key = (index, entity.tenant.0, number, entity.entity.to_string());
        let tier = match (stored.is_empty(), self.model.fetched.contains(&key)) {
            (true, _) => Tier::None,
            (false, true) => Tier::Hot,
            (false, false) => Tier::Warm,
        };
        let what = format!("{} of {entity:?} at {now_ms}", view.name);
        assert_eq!(view.status[row], status, "{what}");
        assert_eq!(view.tier[row], tier, "{what}");
        assert_eq!(view.generation[row], number, "{what}");
        assert_eq!(view.event_time_ms[row], stored.first().map_or(0, |newest| newest.event_time_ms), "{what}");
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_a_map_would(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.take(step);
        }
        // At the end everything once more, from both tiers.
        let all: Vec<_> = (1..=TENANTS).flat_map(|tenant| (0..ENTITIES.len()).map(move |entity| (tenant, entity))).collect();
        for now_ms in [0, 60_000, 60_000] {
            pair.take(&Step::Fetch { entities: all.clone(), plan: 1, now_ms });
        }
    }
}

#[test]
fn a_row_expires_to_the_millisecond_on_every_tier() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &views()).unwrap();
    publish(&store, folder.path(), &profile(), 1, 1, vec![profile_row("ada", 5_000, 7)]);
    publish(
        &store,
        folder.path(),
        &orders(),
        1,
        1,
        vec![order_row("ada", 1_000, "old", 1.0), order_row("ada", 2_000, "new", 2.0)],
    );
    let plan = plan(&store, &["profile:points", "orders:order_id"]);
    let at = |now_ms| {
        let fetched = store.fetch(&plan, &of_tenant(1, &["ada"]), now_ms).unwrap();
        store.hot_usage();
        fetched
    };
    for tier in [Tier::Warm, Tier::Hot] {
        let before = at(34_999);
        assert_eq!((before.views[0].status[0], before.views[0].tier[0]), (Status::Present, tier));
        assert_eq!(at(35_000).views[0].status[0], Status::Expired);
        assert_eq!(at(35_000).views[0].event_time_ms[0], 5_000, "an expired row still says how old it is");
    }
    let orders = |now_ms| at(now_ms).views[1].columns[0].as_list::<i32>().value(0).len();
    assert_eq!((orders(60_999), orders(61_000), orders(61_999), orders(62_000)), (2, 1, 1, 0));
}

#[test]
fn a_tenant_never_sees_another_tenants_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &views()).unwrap();
    // Entities chosen so that the keys of one tenant could pass for another's if any part of a key were left open.
    let entities = ["ada", "\0\0\0\u{1}ada", "\0", ""];
    for tenant in [1, 2] {
        let rows = entities[..3].iter().map(|entity| profile_row(entity, 0, i64::from(tenant))).collect();
        publish(&store, folder.path(), &profile(), tenant, tenant, rows);
    }
    let plan = plan(&store, &["profile:points"]);
    for _ in ["warm", "hot"] {
        store.hot_usage();
        for order in [[1, 2, 3], [3, 2, 1]] {
            let asked: Vec<_> = order.iter().flat_map(|tenant| of_tenant(*tenant, &entities)).collect();
            let fetched = store.fetch(&plan, &asked, 0).unwrap();
            let view = &fetched.views[0];
            for (row, entity) in asked.iter().enumerate() {
                let published = entity.tenant.0 < 3 && !entity.entity.is_empty();
                assert_eq!(view.status[row] == Status::Present, published, "{entity:?}");
                if published {
                    assert_eq!(view.columns[0].as_primitive::<Int64Type>().value(row), i64::from(entity.tenant.0));
                }
            }
        }
    }
}

#[test]
fn each_key_of_a_batch_is_looked_up_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &views()).unwrap();
    publish(&store, folder.path(), &profile(), 1, 1, vec![profile_row("ada", 0, 1), profile_row("bob", 0, 2)]);
    let plan = plan(&store, &["profile:points", "orders:total"]);
    let asked = of_tenant(1, &["bob", "ada", "bob", "nobody", "bob", "nobody"]);
    let first = store.fetch(&plan, &asked, 0).unwrap().stats;
    assert_eq!((first.keys, first.unique_keys), (12, 6));
    assert_eq!((first.warm_hits, first.hot_hits, first.not_found, first.hot_negatives), (2, 0, 4, 0));
    assert!(first.bytes_read > 0);
    assert_eq!(store.hot_usage().entries, 3, "two rows and an absence");
    let second = store.fetch(&plan, &asked, 0).unwrap().stats;
    assert_eq!((second.warm_hits, second.hot_hits, second.not_found, second.hot_negatives), (0, 2, 4, 1));
    assert_eq!(second.bytes_read, 0);
}

#[test]
fn a_fetch_larger_than_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let small = StoreConfig { max_fetch_keys: 4, ..config(folder.path()) };
    let store = Store::open(&small, &views()).unwrap();
    let plan = plan(&store, &["profile:points", "orders:total"]);
    store.fetch(&plan, &of_tenant(1, &["a", "b"]), 0).unwrap();
    let refused = store.fetch(&plan, &of_tenant(1, &["a", "b", "c"]), 0).unwrap_err();
    assert!(matches!(refused, Error::FixRequest(_)));
    assert!(refused.to_string().contains("6 keys, store.max_fetch_keys is 4"), "{refused}");
    let long = "x".repeat(257);
    assert_eq!(store.fetch(&plan, &of_tenant(1, &[&long]), 0).unwrap().views[0].status, [Status::NotFound]);
}

#[test]
fn unknown_features_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &views()).unwrap();
    let refused = |features: &[&str]| {
        let features: Vec<_> = features.iter().map(|text| larder_store::FeatureRef::parse(text).unwrap()).collect();
        store.compile(&features).unwrap_err().to_string()
    };
    assert_eq!(refused(&["basket:size"]), "there is no view basket; declared are profile, orders");
    assert_eq!(refused(&["orders:size"]), "view orders has no feature size; it has order_id, total, status");
    assert_eq!(refused(&["orders:total", "orders:total"]), "orders:total is named twice");
    assert!(refused(&[]).contains("at least one"));
}

#[test]
fn the_hot_tier_stays_within_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let small = StoreConfig { hot_capacity_mib: 2, hot_shards: 2, ..config(folder.path()) };
    let store = Store::open(&small, &[profile()]).unwrap();
    let names: Vec<_> = (0..8000).map(|number| format!("user-{number:05}")).collect();
    let rows = names.iter().map(|name| {
        let mut row = profile_row(name, 0, 1);
        row.values[8] = Some(Value::Text("x".repeat(600)));
        row
    });
    publish(&store, folder.path(), &profile(), 1, 1, rows.collect());
    let plan = plan(&store, &["profile:city"]);
    for part in names.chunks(100) {
        let part: Vec<_> = part.iter().map(String::as_str).collect();
        store.fetch(&plan, &of_tenant(1, &part), 0).unwrap();
        let usage = store.hot_usage();
        assert!(usage.bytes <= 2 << 20, "{usage:?}");
    }
    let usage = store.hot_usage();
    assert!(usage.entries > 1000, "rows of 0.9 KiB ought to fill 2 MiB: {usage:?}");
    let ends = store.fetch(&plan, &of_tenant(1, &[&names[0], &names[7999]]), 0).unwrap();
    assert_eq!(ends.views[0].tier, [Tier::Warm, Tier::Hot], "the least recently used row went first");
}

#[test]
fn the_hot_tier_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let off = StoreConfig { hot_capacity_mib: 0, ..config(folder.path()) };
    let store = Store::open(&off, &[profile()]).unwrap();
    publish(&store, folder.path(), &profile(), 1, 1, vec![profile_row("ada", 0, 1)]);
    let plan = plan(&store, &["profile:points"]);
    for _ in 0..2 {
        assert_eq!(store.fetch(&plan, &of_tenant(1, &["ada"]), 0).unwrap().views[0].tier, [Tier::Warm]);
        assert_eq!(store.hot_usage().entries, 0);
    }
}

#[test]
fn rows_of_an_older_schema_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let old = ViewConfig {
        features: vec![feature("gone", FeatureType::Utf8), feature("points", FeatureType::I64)],
        ..profile()
    };
    let new = ViewConfig {
        features: vec![
            feature("added", FeatureType::ListF32),
            feature("points", FeatureType::I64),
            feature("city", FeatureType::Utf8),
        ],
        ..profile()
    };
    let old_row = |entity: &str, points| Row {
        entity: entity.to_string(),
        event_time_ms: 0,
        values: vec![Some(Value::Text("old".to_string())), Some(Value::I64(points))],
    };
    {
        let store = Store::open(&config(folder.path()), std::slice::from_ref(&old)).unwrap();
        publish(&store, folder.path(), &old, 1, 1, vec![old_row("ada", 1), old_row("bob", 2)]);
    }
    let store = Store::open(&config(folder.path()), std::slice::from_ref(&new)).unwrap();
    let plan = plan(&store, &["profile:added", "profile:points", "profile:city"]);
    // Tenant 1 keeps its old rows, tenant 2 has new ones; one batch reads both.
    let values = vec![Some(Value::Floats(vec![0.5])), Some(Value::I64(3)), Some(Value::Text("Bern".to_string()))];
    publish(&store, folder.path(), &new, 2, 2, vec![Row { entity: "ada".to_string(), event_time_ms: 0, values }]);
    let asked = [of_tenant(2, &["ada"]), of_tenant(1, &["bob", "ada"])].concat();
    let fetched = store.fetch(&plan, &asked, 0).unwrap();
    let view = &fetched.views[0];
    assert_eq!(view.status, [Status::Present; 3]);
    assert_eq!(view.columns[1].as_primitive::<Int64Type>().values().to_vec(), [3, 2, 1]);
    let added: Vec<_> = (0..3).map(|row| value(&view.columns[0], FeatureType::ListF32, row)).collect();
    assert_eq!(added, [Some(Value::Floats(vec![0.5])), None, None]);
    assert_eq!(view.value_status(0, 1), Some(Status::Null));
}

/// The number that every row of generation `number` holds, in both views.
fn numbered(number: u32, entities: &[String]) -> (Vec<Row>, Vec<Row>) {
    let profiles = entities.iter().map(|entity| profile_row(entity, 0, i64::from(number)));
    let orders = entities.iter().flat_map(|entity| {
        (0..2).map(move |order| order_row(entity, order, &format!("order {order}"), f64::from(number)))
    });
    (profiles.collect(), orders.collect())
}

/// Checks one fetch: everything there, and all of a view from the generation that the fetch names.
fn check_unmixed(view: &FetchedView) -> u32 {
    let number = view.generation[0];
    assert!(view.generation.iter().all(|generation| *generation == number), "two generations in {}", view.name);
    assert!(view.status.iter().all(|status| *status == Status::Present), "a row of {} is missing", view.name);
    let column = &view.columns[0];
    let numbers: Vec<i64> = match view.kind {
        ViewKind::Latest => column.as_primitive::<Int64Type>().values().to_vec(),
        ViewKind::LastN => {
            let totals = column.as_list::<i32>().values().as_primitive::<Float64Type>();
            assert_eq!(totals.len(), 2 * view.status.len());
            totals.values().iter().map(|total| *total as i64).collect()
        }
    };
    assert!(numbers.iter().all(|found| *found == i64::from(number)), "{} mixes rows", view.name);
    number
}

#[test]
fn a_swap_under_load_never_mixes_generations() {
    const GENERATIONS: u32 = 12;
    let folder = tempfile::tempdir().unwrap();
    let small = StoreConfig { hot_capacity_mib: 1, ..config(folder.path()) };
    let store = Store::open(&small, &views()).unwrap();
    let names: Vec<_> = (0..400).map(|number| format!("user-{number:04}")).collect();
    let built: Vec<[PathBuf; 2]> = (1..=GENERATIONS)
        .map(|number| {
            let (profiles, order_rows) = numbered(number, &names);
            let dir = |view: &ViewConfig| folder.path().join(format!("{}-{number}", view.name));
            build(&dir(&profile()), &profile(), 1, number, profiles);
            build(&dir(&orders()), &orders(), 1, number, order_rows);
            [dir(&profile()), dir(&orders())]
        })
        .collect();
    let publish_both = |dirs: &[PathBuf; 2]| dirs.iter().for_each(|dir| drop(store.publish(dir).unwrap()));
    publish_both(&built[0]);

    let (done, fetches) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen = thread::scope(|scope| {
        let reader = |thread: usize| {
            let (store, names, done, fetches) = (&store, &names, &done, &fetches);
            move || {
                let plan = plan(store, &["profile:points", "orders:total"]);
                let mut seen = HashSet::new();
                let mut start = thread * 37;
                while !done.load(Ordering::Relaxed) {
                    start = (start + 61) % names.len();
                    let asked: Vec<_> = names.iter().cycle().skip(start).take(100).map(String::as_str).collect();
                    let fetched = store.fetch(&plan, &of_tenant(1, &asked), 1).unwrap();
                    seen.extend(fetched.views.iter().map(check_unmixed));
                    fetches.fetch_add(1, Ordering::Relaxed);
                }
                seen
            }
        };
        let readers: Vec<_> = (0..3).map(|thread| scope.spawn(reader(thread))).collect();
        let wait_for_fetches = |count: u64| {
            let target = fetches.load(Ordering::Relaxed) + count;
            while fetches.load(Ordering::Relaxed) < target && readers.iter().all(|reader| !reader.is_finished()) {
                thread::yield_now();
            }
        };
        for dirs in &built[1..] {
            wait_for_fetches(5);
            publish_both(dirs);
            wait_for_fetches(5);
            for view in ["profile", "orders"] {
                store.rollback(TenantId(1), view).unwrap();
                store.rollback(TenantId(1), view).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<HashSet<_>>()
    });
    assert!(seen.len() as u32 >= GENERATIONS / 2, "the readers saw only generations {seen:?}");
    let kept: Vec<_> = store.generations().iter().map(|info| info.generation).collect();
    assert_eq!(kept, [GENERATIONS, GENERATIONS - 1, GENERATIONS, GENERATIONS - 1]);
    drop(store);
    assert_eq!(base_files(&small.path), 4, "dropped generations left files behind");
}

/// SST files in a store's folder that came from a generation; the meta family's own are small.
fn base_files(store: &Path) -> usize {
    let sst = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sst");
    let files = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()).filter(sst);
    files.filter(|path| std::fs::read(path).unwrap().windows(6).any(|bytes| bytes == b"user-0")).count()
}
