//! Promise: a fetch answers to the millisecond, to each tenant its own, from one generation per view, and within the memory it was given.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use arrow::array::types::{Float64Type, Int64Type};
use arrow::array::{Array, AsArray};
use larder_store::{Error, FeatureType, FetchedView, Status, Store, StoreConfig, TenantId, Tier, ViewConfig, ViewKind};

use crate::support::store::{
    Row, Value, build, config, feature, of_tenant, order_row, orders, plan, profile, profile_row, publish, value,
};

fn views() -> [ViewConfig; 2] {
    [profile(), orders()]
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
