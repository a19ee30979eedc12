//! Promise: Parquet is Parquet, whoever wrote it: pyarrow, pandas, polars, DuckDB and Spark give the same generation of the same rows, and other
//! people's data become histories as they are.

use std::path::Path;
use std::process::Command;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMillisecondType};
use larder_ingest::{BuildReport, BuildRequest, Location, build};
use larder_store::{
    EntityRef, FeatureConfig, FeatureRef, FeatureType, Fetched, Shard, Store, StoreConfig, TenantId, ViewConfig,
    ViewKind,
};

use crate::support::{self, checkout, long};

const USERS: usize = 500;
/// 2026-11-01 in Unix milliseconds UTC.
const BASE_MS: i64 = 1_793_491_200_000;
const TENANT: TenantId = TenantId(1);
const KEPT: usize = 3;
const WRITE_ORDERS: &str = "tests/python/write_orders.py";
const WRITE_TRANSACTIONS: &str = "tests/python/write_transactions.py";
const SHARDED_SNAPSHOT: &str = "tools/python/sharded_snapshot.py";

fn orders() -> ViewConfig {
    ViewConfig {
        name: "orders".to_owned(),
        id: 1,
        kind: ViewKind::LastN,
        entity_key: "user_id".to_owned(),
        event_time: "placed_at".to_owned(),
        ttl_s: None,
        n: Some(KEPT as u32),
        element_key: Some("order_id".to_owned()),
        features: vec![
            FeatureConfig::new("order_id", FeatureType::Utf8),
            FeatureConfig::new("quantity", FeatureType::I32),
            FeatureConfig::new("total", FeatureType::F64),
            FeatureConfig::new("paid", FeatureType::Bool),
        ],
    }
}

/// Runs one of the project's Python programs in a folder. None = there is no Python here.
fn python(test: &str, program: &str, folder: &Path, arguments: &[&str]) -> Option<()> {
    let python = support::python(test)?;
    let program = checkout().join(program);
    let output = Command::new(python).arg(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A store with the generation of a file, and what the build said.
fn load(folder: &Path, view: &ViewConfig, file: &Path, shard: Shard, as_of_ms: i64) -> (Store, BuildReport) {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let out = folder.join(format!("built-{name}"));
    let sources = vec![Location::local(file)];
    let request = BuildRequest { shard, ..BuildRequest::new(view, TENANT, sources, out.clone(), 1, as_of_ms) };
    let report = build(&request, &mut |_| {}).unwrap();
    let (path, cold_path) = (folder.join(format!("store-{name}")), folder.join(format!("cold-{name}")));
    let config = StoreConfig { path, cold_path, shard, ..StoreConfig::default() };
    let store = Store::open(&config, std::slice::from_ref(view)).unwrap();
    store.publish(&out).unwrap();
    (store, report)
}

fn fetch(store: &Store, features: &[&str], users: &[String], now_ms: i64) -> Fetched {
    let features: Vec<_> = features.iter().map(|name| FeatureRef::parse(&format!("orders:{name}")).unwrap()).collect();
    let plan = store.compile(&features).unwrap();
    let asked: Vec<_> = users.iter().map(|entity| EntityRef { tenant: TENANT, entity }).collect();
    store.fetch(&plan, &asked, now_ms).unwrap()
}

/// Builds a generation of a file and reads all users of it, and one that is in none.
fn read_back(folder: &Path, file: &Path) -> Fetched {
    let as_of_ms = BASE_MS + 86_400_000;
    let (store, report) = load(folder, &orders(), file, Shard::default(), as_of_ms);
    assert_eq!((report.rows_read, report.rows_rejected, report.duplicates), (1_000, 0, 0), "{}", file.display());
    let users: Vec<_> = (0..=USERS).map(|user| format!("user-{user}")).collect();
    fetch(&store, &["order_id", "quantity", "total", "paid"], &users, as_of_ms)
}

/// The rules by which write_orders.py makes its rows, and those of the view: the newest three, newest first.
fn check(writer: &str, fetched: &Fetched) {
    let view = &fetched.views[0];
    let lists: Vec<_> = view.columns.iter().map(|column| column.as_list::<i32>()).collect();
    for user in 0..=USERS {
        let orders = if user < USERS { user % 5 } else { 0 };
        let kept: Vec<_> = (0..orders).rev().take(KEPT).collect();
        if kept.is_empty() {
            assert!(lists[0].is_null(user) || lists[0].value(user).is_empty(), "{writer}: user {user}");
            continue;
        }
        let values: Vec<_> = lists.iter().map(|list| list.value(user)).collect();
        assert_eq!(values[0].len(), kept.len(), "{writer}: user {user}");
        for (at, nth) in kept.iter().enumerate() {
            let what = format!("{writer}: order {nth} of user {user}");
            assert_eq!(values[0].as_string::<i32>().value(at), format!("order-{user}-{nth}"), "{what}");
            assert_eq!(values[1].as_primitive::<Int32Type>().value(at), (user + nth) as i32, "{what}");
            assert_eq!(values[2].as_primitive::<Float64Type>().value(at), (7 * user + nth) as f64 / 4.0, "{what}");
            let paid = values[3].as_boolean();
            let paid = (!paid.is_null(at)).then(|| paid.value(at));
            assert_eq!(paid, (user % 11 != 0).then_some(nth % 2 == 0), "{what}");
        }
        let newest = BASE_MS + user as i64 * 1_000 + kept[0] as i64 * 60_000;
        assert_eq!(view.event_time_ms[user], newest, "{writer}: {user}");
    }
}

#[test]
fn files_of_other_programs_give_the_same_generation() {
    let folder = tempfile::tempdir().unwrap();
    let writers = ["pyarrow", "pyarrow_unusual", "pandas", "polars", "duckdb"];
    let test = "files_of_other_programs_give_the_same_generation";
    let Some(()) = python(test, WRITE_ORDERS, folder.path(), &writers) else { return };
    for writer in writers {
        check(writer, &read_back(folder.path(), &folder.path().join(format!("{writer}.parquet"))));
    }
}

/// Spark takes half a minute to start, and 400 MB to install.
#[test]
fn a_folder_that_spark_wrote_gives_the_same_generation() {
    if !long() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "a_folder_that_spark_wrote_gives_the_same_generation";
    let Some(()) = python(test, WRITE_ORDERS, folder.path(), &["spark"]) else { return };
    check("spark", &read_back(folder.path(), &folder.path().join("spark.parquet")));
}

/// A history of other people's data.
fn history(entity_key: &str, event_time: &str, element_key: &str, n: u32, features: Vec<FeatureConfig>) -> ViewConfig {
    let (entity_key, event_time) = (entity_key.to_owned(), event_time.to_owned());
    ViewConfig { entity_key, event_time, element_key: Some(element_key.to_owned()), n: Some(n), features, ..orders() }
}

#[test]
fn a_million_real_transactions_become_histories() {
    if !long() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "a_million_real_transactions_become_histories";
    let Some(()) = python(test, WRITE_TRANSACTIONS, folder.path(), &["journey"]) else { return };
    let features = [
        ("line", FeatureType::Utf8),
        ("product_id", FeatureType::I64),
        ("quantity", FeatureType::I64),
        ("sales_value", FeatureType::F64),
        ("transaction_timestamp", FeatureType::Timestamp),
    ];
    let features = features.map(|(name, data_type)| FeatureConfig::new(name, data_type)).to_vec();
    let view = history("household_id", "transaction_timestamp", "line", 20, features);
    // 2018-01-02, after the last of them.
    let as_of_ms = 1_514_851_200_000;
    let (store, report) =
        load(folder.path(), &view, &folder.path().join("transactions.parquet"), Shard::default(), as_of_ms);
    let expected = std::fs::read_to_string(folder.path().join("transactions.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    assert_eq!((Some(report.rows_read), report.rows_rejected), (expected["rows"].as_u64(), 0));
    assert_eq!(Some(report.manifest.entities), expected["households"].as_u64());
    let times = expected["times_ms"].as_object().unwrap();
    let households: Vec<_> = times.keys().cloned().collect();
    let fetched = fetch(&store, &["transaction_timestamp", "sales_value"], &households, as_of_ms);
    let lists = fetched.views[0].columns[0].as_list::<i32>();
    for (at, household) in households.iter().enumerate() {
        let found = lists.value(at);
        let found = found.as_primitive::<TimestampMillisecondType>().values().to_vec();
        let wanted: Vec<_> = times[household].as_array().unwrap().iter().map(|time| time.as_i64().unwrap()).collect();
        assert_eq!(found, wanted, "household {household}");
    }
}

#[test]
fn orders_of_tpch_become_histories() {
    if !long() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "orders_of_tpch_become_histories";
    let Some(()) = python(test, WRITE_TRANSACTIONS, folder.path(), &["tpch"]) else { return };
    let features = [("o_orderkey", FeatureType::I64), ("o_orderstatus", FeatureType::Utf8)];
    let features = features.map(|(name, data_type)| FeatureConfig::new(name, data_type)).to_vec();
    let view = history("o_custkey", "o_orderdate", "o_orderkey", 50, features);
    let (_, report) = load(folder.path(), &view, &folder.path().join("orders.parquet"), Shard::default(), BASE_MS);
    let expected = std::fs::read_to_string(folder.path().join("orders.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let manifest = &report.manifest;
    assert_eq!((Some(manifest.rows), report.beyond_n), (expected["rows"].as_u64(), 0));
    assert_eq!(Some(manifest.entities), expected["customers"].as_u64());
}

#[test]
fn each_shard_of_a_snapshot_that_spark_divided_is_built_as_it_is() {
    const SHARDS: usize = 4;
    if !long() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "each_shard_of_a_snapshot_that_spark_divided_is_built_as_it_is";
    let Some(()) = python(test, WRITE_TRANSACTIONS, folder.path(), &["tpch"]) else { return };
    let arguments = ["--orders", "orders.parquet", "--customers", "customer.parquet", "--shards", "4", "--out", "cut"];
    python(test, SHARDED_SNAPSHOT, folder.path(), &arguments).unwrap();
    let expected = std::fs::read_to_string(folder.path().join("orders.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let features = [("order_id", FeatureType::Utf8), ("total", FeatureType::F64), ("segment", FeatureType::Utf8)];
    let features = features.map(|(name, data_type)| FeatureConfig::new(name, data_type)).to_vec();
    let view = history("user_id", "placed_at", "order_id", 50, features);
    let (mut rows, mut customers) = (0, 0);
    for index in 0..SHARDS {
        let shard: Shard = format!("{index}/{SHARDS}").parse().unwrap();
        let part = folder.path().join(format!("cut/shard={index}"));
        let (_, report) = load(folder.path(), &view, &part, shard, BASE_MS);
        assert_eq!((report.rows_rejected, report.rows_elsewhere), (0, 0), "shard {shard}");
        rows += report.manifest.rows;
        customers += report.manifest.entities;
    }
    assert_eq!((Some(rows), Some(customers)), (expected["rows"].as_u64(), expected["customers"].as_u64()));
}
