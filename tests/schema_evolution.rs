//! Promise: a view's declaration may change while its rows stay. Rows written under another declaration, older or newer, answer under the
//! present one, and a change that would make them say something else is refused with the exact reason.

use std::path::Path;

use arrow::array::types::Int64Type;
use arrow::array::{Array, AsArray};
use larder_store::{
    Error, FeatureConfig, FeatureRef, FeatureType, FetchedView, Status, Store, TenantId, Tier, ViewConfig, ViewKind,
};

use crate::support::store::{
    Row, Value, build, config, feature, of_tenant, orders, plan, profile, publish, renamed, value,
};

const WIDEN: &str = "a type may only widen, i32 to i64 or f64 and f32 to f64: give another meaning a new name";

/// A `latest` view without a time to live.
fn customer(features: Vec<FeatureConfig>) -> ViewConfig {
    ViewConfig { name: "customer".to_string(), ttl_s: None, features, ..profile() }
}

fn first_customer() -> ViewConfig {
    customer(vec![
        feature("name", FeatureType::Utf8),
        feature("points", FeatureType::I32),
        feature("level", FeatureType::I32),
        feature("vector", FeatureType::ListF32),
        feature("city", FeatureType::Utf8),
        feature("ratio", FeatureType::F32),
        feature("vip", FeatureType::Bool),
    ])
}

/// The same view later: reordered; `city` removed, `tier` and `born` added, `points` renamed and widened, `level` and `ratio` widened,
/// `vector` and `name` renamed.
fn second_customer() -> ViewConfig {
    customer(vec![
        feature("tier", FeatureType::Utf8),
        feature("vip", FeatureType::Bool),
        renamed("loyalty", FeatureType::I64, &["score", "points"]),
        feature("born", FeatureType::Timestamp),
        feature("ratio", FeatureType::F64),
        renamed("embedding", FeatureType::ListF32, &["vector"]),
        feature("level", FeatureType::F64),
        renamed("full_name", FeatureType::Utf8, &["name"]),
    ])
}

/// As declared in between, with nothing widened: what a node still says that was not restarted, or went back.
fn renamed_customer() -> ViewConfig {
    customer(vec![
        renamed("full_name", FeatureType::Utf8, &["name"]),
        renamed("score", FeatureType::I32, &["points"]),
        feature("level", FeatureType::I32),
        feature("tier", FeatureType::Utf8),
        feature("ratio", FeatureType::F32),
    ])
}

fn row(entity: &str, event_time_ms: i64, values: Vec<Option<Value>>) -> Row {
    Row { entity: entity.to_string(), event_time_ms, values }
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_string()))
}

fn first_rows() -> Vec<Row> {
    let ada = vec![
        text("Ada"),
        Some(Value::I32(i32::MIN)),
        Some(Value::I32(7)),
        Some(Value::Floats(vec![0.5, -1.5])),
        text("London"),
        Some(Value::F32(0.1)),
        Some(Value::Bool(true)),
    ];
    vec![row("ada", 10, ada), row("bob", 20, vec![None; 7])]
}

/// What [`first_rows`] say under [`second_customer`].
fn first_rows_later() -> Vec<Vec<Option<Value>>> {
    let ada = vec![
        None,
        Some(Value::Bool(true)),
        Some(Value::I64(i64::from(i32::MIN))),
        None,
        Some(Value::F64(f64::from(0.1f32))),
        Some(Value::Floats(vec![0.5, -1.5])),
        Some(Value::F64(7.0)),
        text("Ada"),
    ];
    vec![ada, vec![None; 8]]
}

fn second_row(entity: &str) -> Row {
    let values = vec![
        text("gold"),
        None,
        Some(Value::I64(i64::MAX)),
        Some(Value::Time(-5)),
        Some(Value::F64(0.1)),
        Some(Value::Floats(vec![])),
        Some(Value::F64(f64::MAX)),
        text("Grace"),
    ];
    row(entity, 30, values)
}

fn open(folder: &Path, view: &ViewConfig) -> Result<Store, Error> {
    Store::open(&config(folder), std::slice::from_ref(view))
}

fn fetch(store: &Store, view: &ViewConfig, tenant: u32, entities: &[&str]) -> FetchedView {
    let features: Vec<_> = view.features.iter().map(|feature| format!("{}:{}", view.name, feature.name)).collect();
    let features: Vec<_> = features.iter().map(String::as_str).collect();
    let mut fetched = store.fetch(&plan(store, &features), &of_tenant(tenant, entities), 100).unwrap();
    fetched.views.remove(0)
}

/// The values of entities that all have a row, as the view declares them.
fn values(store: &Store, view: &ViewConfig, tenant: u32, entities: &[&str]) -> Vec<Vec<Option<Value>>> {
    let fetched = fetch(store, view, tenant, entities);
    assert!(fetched.status.iter().all(|status| *status == Status::Present), "{:?}", fetched.status);
    let of_row = |row| {
        let columns = fetched.columns.iter().zip(&view.features);
        columns.map(|(column, feature)| value(column, feature.data_type, row)).collect()
    };
    (0..entities.len()).map(of_row).collect()
}

/// The message of a publish that must fail.
fn publish_refusal(store: &Store, folder: &Path, built_under: &ViewConfig, rows: Vec<Row>) -> String {
    let dir = folder.join("refused");
    build(&dir, built_under, 1, 99, rows);
    let error = store.publish(&dir).unwrap_err();
    assert!(matches!(error, Error::RebuildGeneration { .. }), "{error:?}");
    std::fs::remove_dir_all(&dir).unwrap();
    let message = error.to_string();
    let reason = message.strip_prefix(&format!("generation in {} is refused: ", dir.display()));
    reason.unwrap_or(&message).to_string()
}

#[test]
fn old_rows_answer_as_the_view_is_declared_now() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (first_customer(), second_customer());
    publish(&open(folder.path(), &first).unwrap(), folder.path(), &first, 1, 1, first_rows());

    let store = open(folder.path(), &second).unwrap();
    for tier in [Tier::Warm, Tier::Hot] {
        assert_eq!(fetch(&store, &second, 1, &["ada"]).tier, [tier]);
        // Asking for the usage waits until the row is in.
        store.hot_usage();
        assert_eq!(values(&store, &second, 1, &["ada", "bob"]), first_rows_later());
        let fetched = fetch(&store, &second, 1, &["ada", "nobody"]);
        assert_eq!(fetched.event_time_ms, [10, 0]);
        assert_eq!(fetched.status, [Status::Present, Status::NotFound]);
        assert_eq!(fetched.value_status(0, 0), Some(Status::Null), "an added feature");
    }
    // A former name is no feature of the view any more.
    let error = store.compile(&[FeatureRef::parse("customer:points").unwrap()]).unwrap_err();
    assert!(error.to_string().starts_with("view customer has no feature points; it has tier, "), "{error}");
}

#[test]
fn generations_of_several_declarations_take_turns_and_answer_together() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (first_customer(), second_customer());
    let store = open(folder.path(), &first).unwrap();
    publish(&store, folder.path(), &first, 1, 1, first_rows());
    publish(&store, folder.path(), &first, 2, 1, first_rows());
    drop(store);

    let store = open(folder.path(), &second).unwrap();
    publish(&store, folder.path(), &second, 1, 2, vec![second_row("ada")]);
    let new = vec![second_row("ada").values];
    assert_eq!(values(&store, &second, 1, &["ada"]), new);
    // One column holds tenant 1's new rows and tenant 2's old ones.
    let asked = [of_tenant(2, &["ada"]), of_tenant(1, &["ada"]), of_tenant(2, &["bob"])].concat();
    let loyalty = store.fetch(&plan(&store, &["customer:loyalty"]), &asked, 100).unwrap();
    let loyalty = loyalty.views[0].columns[0].as_primitive::<Int64Type>();
    assert_eq!(loyalty.iter().collect::<Vec<_>>(), [Some(i64::from(i32::MIN)), Some(i64::MAX), None]);

    // Back to the old rows and forth again, across a restart.
    store.rollback(TenantId(1), "customer").unwrap();
    assert_eq!(values(&store, &second, 1, &["ada", "bob"]), first_rows_later());
    drop(store);
    let store = open(folder.path(), &second).unwrap();
    assert_eq!(values(&store, &second, 1, &["ada", "bob"]), first_rows_later());
    store.rollback(TenantId(1), "customer").unwrap();
    assert_eq!(values(&store, &second, 1, &["ada"]), new);

    // A build that was still configured the old way.
    publish(&store, folder.path(), &first, 1, 3, first_rows());
    assert_eq!(values(&store, &second, 1, &["ada", "bob"]), first_rows_later());
}

#[test]
fn a_node_with_the_older_declaration_reads_what_only_was_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let (first, between) = (first_customer(), renamed_customer());
    let store = open(folder.path(), &first).unwrap();
    publish(&store, folder.path(), &first, 1, 1, first_rows());
    // Built by a machine that has the newer declaration already.
    let new = vec![text("Ada"), Some(Value::I32(3)), None, text("gold"), Some(Value::F32(0.5))];
    publish(&store, folder.path(), &between, 1, 2, vec![row("ada", 30, new)]);
    let expected = vec![vec![text("Ada"), Some(Value::I32(3)), None, None, None, Some(Value::F32(0.5)), None]];
    assert_eq!(values(&store, &first, 1, &["ada"]), expected);
    drop(store);
    assert_eq!(values(&open(folder.path(), &first).unwrap(), &first, 1, &["ada"]), expected);

    // Of a declaration that has widened since, the older one says why it cannot read it.
    let store = open(folder.path(), &between).unwrap();
    let reason = publish_refusal(&store, folder.path(), &second_customer(), vec![second_row("ada")]);
    let expected = "view customer: feature score is stored as loyalty of type i64 and declared as i32";
    assert_eq!(reason, format!("{expected}; {WIDEN}"));
    assert_eq!(fetch(&store, &between, 1, &["ada"]).generation, [2]);
}

#[test]
fn histories_evolve_too_their_element_key_included() {
    let folder = tempfile::tempdir().unwrap();
    let history =
        |features, key: &str| ViewConfig { ttl_s: None, element_key: Some(key.to_string()), features, ..orders() };
    let first = history(
        vec![
            feature("number", FeatureType::I32),
            feature("total", FeatureType::F32),
            feature("status", FeatureType::Utf8),
        ],
        "number",
    );
    let second = history(
        vec![
            feature("carrier", FeatureType::Utf8),
            renamed("amount", FeatureType::F64, &["total"]),
            renamed("order", FeatureType::I64, &["number"]),
        ],
        "order",
    );
    let order = |number: i32, time: i64| {
        row("ada", time, vec![Some(Value::I32(number)), Some(Value::F32(number as f32 / 3.0)), text("sent")])
    };
    let store = open(folder.path(), &first).unwrap();
    publish(&store, folder.path(), &first, 1, 1, vec![order(-1, 10), order(i32::MAX, 30), order(5, 20)]);
    drop(store);

    let store = open(folder.path(), &second).unwrap();
    let elements = |feature: usize| {
        let fetched = fetch(&store, &second, 1, &["ada"]);
        let list = fetched.columns[feature].as_list::<i32>().value(0);
        let data_type = second.features[feature].data_type;
        (0..list.len()).map(|element| value(&list, data_type, element)).collect::<Vec<_>>()
    };
    let old_orders = [i32::MAX, 5, -1];
    let check_old = || {
        assert_eq!(elements(0), [None, None, None]);
        assert_eq!(elements(1), old_orders.map(|n| Some(Value::F64(f64::from(n as f32 / 3.0)))));
        assert_eq!(elements(2), old_orders.map(|n| Some(Value::I64(i64::from(n)))));
    };
    check_old();
    let new = vec![text("post"), Some(Value::F64(0.1)), Some(Value::I64(i64::MAX))];
    publish(&store, folder.path(), &second, 1, 2, vec![row("ada", 40, new)]);
    assert_eq!(elements(2), [Some(Value::I64(i64::MAX))]);
    store.rollback(TenantId(1), "orders").unwrap();
    check_old();
}

#[test]
fn every_change_of_type_but_widening_is_refused_when_published() {
    use FeatureType::{Bool, F32, F64, I32, I64, ListF32, Timestamp, Utf8};
    let sample = |data_type| match data_type {
        Bool => Value::Bool(true),
        I32 => Value::I32(-7),
        I64 => Value::I64(-7),
        F32 => Value::F32(-7.0),
        F64 => Value::F64(-7.0),
        Utf8 => Value::Text("seven".to_string()),
        Timestamp => Value::Time(-7),
        ListF32 => Value::Floats(vec![-7.0]),
    };
    let types = [Bool, I32, I64, F32, F64, Utf8, Timestamp, ListF32];
    for new in types {
        let folder = tempfile::tempdir().unwrap();
        let declared = customer(vec![feature("f", new)]);
        let store = open(folder.path(), &declared).unwrap();
        for (number, old) in (1..).zip(types) {
            let built_under = customer(vec![feature("f", old)]);
            let rows = vec![row("ada", 10, vec![Some(sample(old))])];
            if old == new || matches!((old, new), (I32, I64 | F64) | (F32, F64)) {
                publish(&store, folder.path(), &built_under, 1, number, rows);
                assert_eq!(values(&store, &declared, 1, &["ada"]), [[Some(sample(new))]], "{old} as {new}");
            } else {
                let reason = publish_refusal(&store, folder.path(), &built_under, rows);
                assert_eq!(
                    reason,
                    format!("view customer: feature f is stored as {old} and declared as {new}; {WIDEN}")
                );
            }
        }
    }
}

#[test]
fn a_declaration_that_old_rows_cannot_follow_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let first = orders();
    let old = vec![text("4711"), Some(Value::F64(1.5)), text("sent")];
    publish(&open(folder.path(), &first).unwrap(), folder.path(), &first, 1, 1, vec![row("ada", 10, old)]);
    let check = |change: &dyn Fn(&mut ViewConfig), reason: &str| {
        let mut changed = orders();
        change(&mut changed);
        let error = open(folder.path(), &changed).err().unwrap();
        assert!(matches!(error, Error::FixConfig { .. }), "{error:?}");
        let expected = format!("view orders = a declaration that generation 1 contradicts: {reason}");
        assert_eq!(error.to_string(), expected);
    };
    check(
        &|view| view.features[1] = feature("total", FeatureType::F32),
        &format!("feature total is stored as f64 and declared as f32; {WIDEN}"),
    );
    check(
        &|view| view.features[2] = renamed("state", FeatureType::I64, &["status"]),
        &format!("feature state is stored as status of type utf8 and declared as i64; {WIDEN}"),
    );
    check(
        &|view| view.element_key = Some("status".to_string()),
        "its element_key is order_id and the view declares status; give the view a new name and id",
    );
    check(
        &|view| {
            view.features[0] = feature("order", FeatureType::Utf8);
            view.element_key = Some("order".to_string());
        },
        "its element_key is order_id and the view declares order; give the view a new name and id",
    );
    check(
        &|view| view.features[0] = feature("order_id", FeatureType::I64),
        &format!("feature order_id is stored as utf8 and declared as i64; {WIDEN}"),
    );
    check(
        &|view| (view.kind, view.n, view.element_key) = (ViewKind::Latest, None, None),
        "its rows are of kind LastN and the view is declared Latest; give the view a new name and id",
    );
    // The previous generation must stay readable as well, or a rollback would not be one.
    let second = ViewConfig { features: orders().features[..2].to_vec(), ..orders() };
    let new = vec![text("4712"), Some(Value::F64(2.5))];
    publish(&open(folder.path(), &second).unwrap(), folder.path(), &second, 1, 2, vec![row("ada", 20, new)]);
    check(
        &|view| view.features[2] = feature("status", FeatureType::Bool),
        &format!("feature status is stored as utf8 and declared as bool; {WIDEN}"),
    );
    drop(open(folder.path(), &first).unwrap());
}
