//! What a fetch costs beside the least it could cost: 100 random users of 2 views in one batch, warm against a bare RocksDB MultiGet of
//! the same keys (without a hot tier, and while filling one), and all-hot against hash maps of ready-made structs that fill the same
//! columns.
//!
//! Both sides run in turns, batch by batch, with the same users and the same allocator; the figures are medians. LARDER_BENCH_USERS
//! sets the number of users (200,000), LARDER_BENCH_BATCHES the number of batches (1,000). The result goes to target/bench/fetch.json
//! of the checkout.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    TimestampMillisecondBuilder,
};
use larder_store::{
    EntityRef, FeatureConfig, FeatureRef, FeatureType, GenerationWriter, Plan, Status, Store, StoreConfig, TenantId,
    ViewConfig, ViewKind, WriterLimits,
};
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TENANT: TenantId = TenantId(1);
const GENERATION: u32 = 1;
const USERS_PER_BATCH: usize = 100;
/// Users of whom the hot runs ask; all their rows fit into the hot tier.
const HOT_USERS: usize = 20_000;
const NOW_MS: i64 = 1_800_000_000_000;
const BLOCK_CACHE_MIB: usize = 1024;

/// A user as a program would hold it that has no store.
struct Profile {
    name: String,
    city: String,
    tier: &'static str,
    signup_at: i64,
    points: i64,
    credit: f64,
    business: bool,
}

struct Order {
    id: String,
    item: String,
    quantity: i32,
    total: f64,
    status: &'static str,
    carrier: Option<&'static str>,
    placed_at: i64,
}

fn main() -> Outcome<()> {
    let users = setting("LARDER_BENCH_USERS", 200_000)?.max(HOT_USERS);
    let batches = setting("LARDER_BENCH_BATCHES", 1000)?;
    let folder = tempfile::tempdir()?;
    let views = [profile_view(), orders_view()];
    for view in &views {
        build(&folder.path().join(&view.name), view, users)?;
    }
    let config = StoreConfig {
        path: folder.path().join("store"),
        hot_capacity_mib: 0,
        block_cache_mib: BLOCK_CACHE_MIB as u64,
        ..StoreConfig::default()
    };
    let store = Store::open(&config, &views)?;
    for view in &views {
        store.publish(&folder.path().join(&view.name))?;
    }
    let (warm, raw) = warm_against_multiget(&store, &config.path, users, batches)?;
    drop(store);

    // A hot tier too small for the users: nearly every key is read from the warm tier, enters the hot one and drives another out.
    let store = Store::open(&StoreConfig { hot_capacity_mib: 4, ..config.clone() }, &views)?;
    let (filling, raw_beside) = warm_against_multiget(&store, &config.path, users, batches)?;
    drop(store);

    let store = Store::open(&StoreConfig { hot_capacity_mib: 512, ..config }, &views)?;
    let (hot, map) = hot_against_maps(&store, batches)?;
    report(&[
        ("users", users as f64),
        ("batches", batches as f64),
        ("keys_per_batch", 2.0 * USERS_PER_BATCH as f64),
        ("warm_fetch_us", warm),
        ("raw_multiget_us", raw),
        ("warm_over_raw", warm / raw),
        ("filling_fetch_us", filling),
        ("filling_over_raw", filling / raw_beside),
        ("hot_fetch_us", hot),
        ("hashmap_us", map),
        ("hot_over_hashmap", hot / map),
    ])
}

fn warm_against_multiget(store: &Store, path: &Path, users: usize, batches: usize) -> Outcome<(f64, f64)> {
    let plan = plan(store)?;
    let db = open_bare(path)?;
    let base = db.cf_handle("base").ok_or("no base family")?;
    let fetch = |names: &[String]| -> Outcome<usize> {
        let fetched = store.fetch(&plan, &entities(names), NOW_MS)?;
        let stats = black_box(&fetched).stats;
        Ok((stats.warm_hits + stats.hot_hits) as usize)
    };
    let multiget = |keys: &[Vec<u8>]| -> Outcome<usize> {
        let values = db.batched_multi_get_cf(base, keys, true);
        let mut found = 0;
        for value in values {
            found += usize::from(black_box(value?).is_some_and(|value| !value.is_empty()));
        }
        Ok(found)
    };
    // Every block once through both caches, so that neither side reads from disk.
    for start in (0..users).step_by(USERS_PER_BATCH) {
        let names: Vec<_> = (start..users.min(start + USERS_PER_BATCH)).map(name).collect();
        assert_eq!(fetch(&names)?, 2 * names.len());
        assert_eq!(multiget(&keys(&names))?, 2 * names.len());
    }
    in_turns(batches, users, |names| {
        let keys = keys(names);
        let (fetch_us, found) = timed(|| fetch(names))?;
        let (multiget_us, baseline) = timed(|| multiget(&keys))?;
        assert_eq!(found, baseline);
        Ok((fetch_us, multiget_us))
    })
}

fn hot_against_maps(store: &Store, batches: usize) -> Outcome<(f64, f64)> {
    let plan = plan(store)?;
    let profiles: HashMap<_, _> = (0..HOT_USERS).map(|user| (name(user), profile(user))).collect();
    let orders: HashMap<_, _> = (0..HOT_USERS).map(|user| (name(user), orders(user))).collect();
    for start in (0..HOT_USERS).step_by(USERS_PER_BATCH) {
        let names: Vec<_> = (start..start + USERS_PER_BATCH).map(name).collect();
        store.fetch(&plan, &entities(&names), NOW_MS)?;
        store.hot_usage();
    }
    in_turns(batches, HOT_USERS, |names| {
        let (fetch_us, fetched) = timed(|| Ok(store.fetch(&plan, &entities(names), NOW_MS)?))?;
        assert_eq!(fetched.stats.hot_hits as usize, 2 * USERS_PER_BATCH);
        let (map_us, columns) = timed(|| Ok(look_up(names, &profiles, &orders)))?;
        let fetched: Vec<_> = fetched.views.into_iter().flat_map(|view| view.columns).collect();
        assert_eq!(fetched, columns, "both sides fill the same columns");
        Ok((fetch_us, map_us))
    })
}

/// Runs `both` for batches of random users and returns the medians of its two times.
fn in_turns(
    batches: usize,
    users: usize,
    mut both: impl FnMut(&[String]) -> Outcome<(f64, f64)>,
) -> Outcome<(f64, f64)> {
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for _ in 0..batches {
        let mut user = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) as usize % users
        };
        let names: Vec<_> =
            (0..USERS_PER_BATCH).map(|_| user()).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        // A batch has distinct users in no order, as requests arrive.
        let mut names: Vec<_> = names.into_iter().map(name).collect();
        let mut next = users;
        while names.len() < USERS_PER_BATCH {
            next -= 1;
            let filler = name(next);
            if !names.contains(&filler) {
                names.push(filler);
            }
        }
        for last in (1..names.len()).rev() {
            names.swap(last, user() % (last + 1));
        }
        let (a, b) = both(&names)?;
        one.push(a);
        other.push(b);
    }
    Ok((median(one), median(other)))
}

fn timed<T>(run: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let start = Instant::now();
    let outcome = run()?;
    Ok((start.elapsed().as_secs_f64() * 1e6, outcome))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The hand-written equal of the fetch: two maps, one loop per column.
fn look_up(
    names: &[String],
    profiles: &HashMap<String, Profile>,
    orders: &HashMap<String, Vec<Order>>,
) -> Vec<ArrayRef> {
    let profiles: Vec<_> = names.iter().map(|name| profiles.get(name)).collect();
    let orders: Vec<_> = names.iter().map(|name| orders.get(name)).collect();
    macro_rules! column {
        ($builder:expr, $value:expr) => {{
            let mut builder = $builder;
            for row in &profiles {
                builder.append_option(row.map($value));
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    macro_rules! list {
        ($builder:expr, $value:expr) => {{
            let mut builder = ListBuilder::new($builder);
            for row in &orders {
                for order in row.into_iter().copied().flatten() {
                    builder.values().append_option($value(order));
                }
                builder.append(row.is_some());
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    let time = || TimestampMillisecondBuilder::new().with_timezone("UTC");
    vec![
        column!(StringBuilder::new(), |p: &Profile| p.name.as_str()),
        column!(StringBuilder::new(), |p: &Profile| p.city.as_str()),
        column!(StringBuilder::new(), |p: &Profile| p.tier),
        column!(time(), |p: &Profile| p.signup_at),
        column!(Int64Builder::new(), |p: &Profile| p.points),
        column!(Float64Builder::new(), |p: &Profile| p.credit),
        column!(BooleanBuilder::new(), |p: &Profile| p.business),
        list!(StringBuilder::new(), |o: &'_ Order| Some(o.id.clone())),
        list!(StringBuilder::new(), |o: &'_ Order| Some(o.item.clone())),
        list!(Int32Builder::new(), |o: &Order| Some(o.quantity)),
        list!(Float64Builder::new(), |o: &Order| Some(o.total)),
        list!(StringBuilder::new(), |o: &Order| Some(o.status)),
        list!(StringBuilder::new(), |o: &Order| o.carrier),
        list!(time(), |o: &Order| Some(o.placed_at)),
    ]
}

fn feature(name: &str, data_type: FeatureType) -> FeatureConfig {
    FeatureConfig::new(name, data_type)
}

fn profile_view() -> ViewConfig {
    ViewConfig {
        name: "profile".to_string(),
        id: 1,
        kind: ViewKind::Latest,
        entity_key: "user_id".to_string(),
        event_time: "updated_at".to_string(),
        ttl_s: Some(63_072_000),
        n: None,
        element_key: None,
        features: vec![
            feature("name", FeatureType::Utf8),
            feature("city", FeatureType::Utf8),
            feature("tier", FeatureType::Utf8),
            feature("signup_at", FeatureType::Timestamp),
            feature("loyalty_points", FeatureType::I64),
            feature("store_credit", FeatureType::F64),
            feature("is_business", FeatureType::Bool),
        ],
    }
}

fn orders_view() -> ViewConfig {
    ViewConfig {
        name: "orders".to_string(),
        id: 2,
        kind: ViewKind::LastN,
        n: Some(20),
        element_key: Some("order_id".to_string()),
        features: vec![
            feature("order_id", FeatureType::Utf8),
            feature("item", FeatureType::Utf8),
            feature("quantity", FeatureType::I32),
            feature("total", FeatureType::F64),
            feature("status", FeatureType::Utf8),
            feature("carrier", FeatureType::Utf8),
            feature("placed_at", FeatureType::Timestamp),
        ],
        ..profile_view()
    }
}

fn name(user: usize) -> String {
    format!("user_{user:08}")
}

fn profile(user: usize) -> Profile {
    Profile {
        name: format!("Customer Number {user}"),
        city: format!("City of {}", user % 500),
        tier: ["basic", "silver", "gold"][user % 3],
        signup_at: NOW_MS - user as i64 * 1000,
        points: user as i64 * 13 % 9000,
        credit: (user % 100) as f64 / 4.0,
        business: user.is_multiple_of(7),
    }
}

/// Two or three orders, newest first.
fn orders(user: usize) -> Vec<Order> {
    let order = |index: usize| Order {
        id: format!("{:08}", user * 10 + 9 - index),
        item: format!("a thing of kind {} for the house", (user + index) % 900),
        quantity: 1 + (index as i32),
        total: (user % 1000) as f64 + 0.5,
        status: ["processing", "in_transit", "delivered"][(user + index) % 3],
        carrier: (index > 0).then_some("parcel post"),
        placed_at: NOW_MS - 1000 - index as i64 * 86_400_000,
    };
    (0..2 + user % 2).map(order).collect()
}

fn build(dir: &Path, view: &ViewConfig, users: usize) -> Outcome<()> {
    let mut writer = GenerationWriter::create(dir, view, TENANT, GENERATION, NOW_MS, WriterLimits::default())?;
    for start in (0..users).step_by(5000) {
        let numbers: Vec<_> = (start..users.min(start + 5000)).collect();
        let names: Vec<_> = numbers.iter().map(|user| name(*user)).collect();
        let profiles = names.iter().cloned().zip(numbers.iter().map(|user| profile(*user))).collect();
        let histories: HashMap<_, _> = names.iter().cloned().zip(numbers.iter().map(|user| orders(*user))).collect();
        let columns = look_up(&names, &profiles, &histories);
        // One row per user, or one per order.
        let counts: Vec<_> =
            names.iter().map(|name| if view.kind == ViewKind::Latest { 1 } else { histories[name].len() }).collect();
        let (mut entity, mut time) = (StringBuilder::new(), TimestampMillisecondBuilder::new().with_timezone("UTC"));
        for (name, count) in names.iter().zip(&counts) {
            for index in 0..*count {
                entity.append_value(name);
                time.append_value(NOW_MS - 1000 - index as i64);
            }
        }
        let mut rows: Vec<ArrayRef> = vec![Arc::new(entity.finish()), Arc::new(time.finish())];
        let (of_profile, of_orders) = columns.split_at(profile_view().features.len());
        match view.kind {
            ViewKind::Latest => rows.extend(of_profile.iter().cloned()),
            ViewKind::LastN => {
                rows.extend(
                    of_orders.iter().map(|list| Arc::clone(arrow::array::AsArray::as_list::<i32>(list).values())),
                );
            }
        }
        writer.append(&RecordBatch::try_new(view.arrow_schema(), rows)?)?;
    }
    writer.finish()?;
    Ok(())
}

fn plan(store: &Store) -> Outcome<Plan> {
    let mut features = Vec::new();
    for view in [profile_view(), orders_view()] {
        features.extend(view.features.iter().map(|f| FeatureRef { view: view.name.clone(), feature: f.name.clone() }));
    }
    let plan = store.compile(&features)?;
    let known = store.fetch(&plan, &entities(&[name(1)]), NOW_MS)?;
    assert!(known.views.iter().all(|view| view.status == [Status::Present]));
    Ok(plan)
}

fn entities(names: &[String]) -> Vec<EntityRef<'_>> {
    names.iter().map(|entity| EntityRef { tenant: TENANT, entity }).collect()
}

/// The keys of both views, sorted: view, tenant, generation, entity, two zero bytes.
fn keys(names: &[String]) -> Vec<Vec<u8>> {
    let mut keys = Vec::with_capacity(2 * names.len());
    for view in [1u16, 2] {
        for name in names {
            let prefix = [&view.to_be_bytes()[..], &TENANT.0.to_be_bytes(), &GENERATION.to_be_bytes()].concat();
            keys.push([&prefix[..], name.as_bytes(), &[0, 0]].concat());
        }
    }
    keys.sort_unstable();
    keys
}

/// The store's own files through a bare read-only handle, with a block cache of its own and as large.
fn open_bare(path: &Path) -> Outcome<DB> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(BLOCK_CACHE_MIB << 20, 0));
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    let families = ["base", "meta"].map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    Ok(DB::open_cf_descriptors_read_only(&Options::default(), path, families, false)?)
}

fn setting(name: &str, default: usize) -> Outcome<usize> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse()).map_err(|error| format!("{name}: {error}"))?)
}

/// Writes the figures with the commit they belong to, and prints them on one line.
fn report(figures: &[(&str, f64)]) -> Outcome<()> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&checkout).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit =
        commit.map_or("unknown".to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    let mut json = serde_json::Map::new();
    json.insert("commit".to_string(), commit.into());
    for (key, value) in figures {
        json.insert((*key).to_string(), ((value * 1000.0).round() / 1000.0).into());
    }
    let folder = checkout.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("fetch.json"), serde_json::to_string_pretty(&json)? + "\n")?;
    let line: Vec<_> =
        json.iter().map(|(key, value)| format!("{key}={}", value.to_string().trim_matches('"'))).collect();
    println!("bench fetch: {}", line.join(" "));
    Ok(())
}
