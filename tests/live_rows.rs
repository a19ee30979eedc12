//! Promise: a live row counts exactly when the rules say so, whenever and in whichever order it arrives. One plain test for each rule; all of
//! them at random together are in `random_histories.rs`.

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use larder_store::{
    Error, FeatureType, MAX_AHEAD_MS, MAX_WRITE_BYTES, MAX_WRITE_ROWS, Status, Store, TenantId, Tier, ViewConfig,
    Write, WriteKind, Written,
};

use crate::support::store::{
    NOW_MS, Row, Value, batch, config, delete, deletions, feature, of_tenant, order_row, orders, plan, profile,
    profile_row, publish_as_of, upsert, value,
};

/// A profile without a time to live.
fn points() -> ViewConfig {
    ViewConfig { ttl_s: None, ..profile() }
}

/// Three orders without a time to live.
fn history() -> ViewConfig {
    ViewConfig { ttl_s: None, ..orders() }
}

/// A store with both views, and the folder it lives in.
struct Shop {
    folder: tempfile::TempDir,
    store: Store,
    built: u32,
}

impl Shop {
    fn new() -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&config(folder.path()), &[points(), history()]).unwrap();
        Shop { folder, store, built: 0 }
    }

    fn reopened(self) -> Shop {
        let Shop { folder, store, built } = self;
        drop(store);
        let store = Store::open(&config(folder.path()), &[points(), history()]).unwrap();
        Shop { folder, store, built }
    }

    fn try_publish(&mut self, view: &ViewConfig, as_of_ms: i64, rows: Vec<Row>) -> Result<(), Error> {
        self.built += 1;
        publish_as_of(&self.store, self.folder.path(), view, 1, self.built, as_of_ms, rows).map(drop)
    }

    /// The state of a time, in which ada has these points since then, or no row.
    fn publish(&mut self, as_of_ms: i64, ada: Option<(i64, i64)>) {
        let other = profile_row("zoe", 0, 0);
        let ada = ada.map(|(time, number)| profile_row("ada", time, number));
        self.try_publish(&points(), as_of_ms, ada.into_iter().chain([other]).collect()).unwrap();
    }

    /// The state of a time, in which ada has these orders.
    fn publish_orders(&mut self, as_of_ms: i64, ada: &[(i64, &str)]) {
        let rows = ada.iter().map(|(time, order)| order_row("ada", *time, order, 1.0));
        self.try_publish(&history(), as_of_ms, rows.chain([order_row("zoe", 0, "z", 1.0)]).collect()).unwrap();
    }

    fn rollback(&self, view: &ViewConfig) {
        self.store.rollback(TenantId(1), &view.name).unwrap();
    }

    fn upsert(&self, event_time_ms: i64, number: i64) {
        upsert(&self.store, &points(), 1, &[profile_row("ada", event_time_ms, number)]);
    }

    fn delete(&self, event_time_ms: i64) {
        delete(&self.store, &points(), 1, &[("ada", event_time_ms, None)]);
    }

    fn order(&self, event_time_ms: i64, order: &str) {
        upsert(&self.store, &history(), 1, &[order_row("ada", event_time_ms, order, 1.0)]);
    }

    /// Deletes one order or all.
    fn cancel(&self, event_time_ms: i64, order: Option<&str>) {
        let element = order.map(|order| Value::Text(order.to_string()));
        delete(&self.store, &history(), 1, &[("ada", event_time_ms, element)]);
    }

    /// Ada's points.
    fn points(&self) -> Option<i64> {
        points_of(&self.store, "ada")
    }

    /// Ada's orders.
    fn orders(&self) -> Vec<String> {
        let plan = plan(&self.store, &["orders:order_id"]);
        let fetched = self.store.fetch(&plan, &of_tenant(1, &["ada"]), 0).unwrap();
        let orders = fetched.views[0].columns[0].as_list::<i32>().value(0);
        orders.as_string::<i32>().iter().map(|order| order.unwrap().to_string()).collect()
    }
}

fn points_of(store: &Store, entity: &str) -> Option<i64> {
    let fetched = store.fetch(&plan(store, &["profile:points"]), &of_tenant(1, &[entity]), 0).unwrap();
    let view = &fetched.views[0];
    (view.status[0] == Status::Present).then(|| view.columns[0].as_primitive::<Int64Type>().value(0))
}

#[test]
fn the_greatest_event_time_wins_in_any_order_and_of_equals_the_last_written() {
    let shop = Shop::new();
    for (event_time_ms, number, stands) in [(10, 1, 1), (30, 3, 3), (20, 2, 3), (30, 4, 4), (30, 5, 5)] {
        shop.upsert(event_time_ms, number);
        assert_eq!(shop.points(), Some(stands));
    }
    let shop = shop.reopened();
    shop.upsert(30, 6);
    assert_eq!(shop.points(), Some(6), "what is written after reopening is written last");
    // In one call too.
    upsert(&shop.store, &points(), 1, &[40, 60, 60, 50].map(|time| profile_row("ada", time, time)));
    let rows = [profile_row("ada", 60, 7), profile_row("ada", 60, 8)];
    upsert(&shop.store, &points(), 1, &rows);
    assert_eq!(shop.points(), Some(8));
}

#[test]
fn what_a_snapshot_left_out_shows_only_if_it_is_newer_than_the_snapshot() {
    for (event_time_ms, shows) in [(99, None), (100, None), (101, Some(7))] {
        let mut shop = Shop::new();
        shop.upsert(event_time_ms, 7);
        assert_eq!(shop.points(), Some(7), "nothing is published");
        shop.publish(100, None);
        assert_eq!(shop.points(), shows, "written before the publish");
        shop.upsert(event_time_ms, 7);
        assert_eq!(shop.points(), shows, "written after it");
    }
}

#[test]
fn a_row_in_both_is_the_newer_one() {
    // The second snapshot's row is newer than its time, as rows of a running export are.
    for (as_of_ms, row_ms, live_ms, shows) in [
        (100, 50, 49, 1),
        (100, 50, 51, 7),
        (100, 50, 150, 7),
        (100, 120, 110, 1),
        // At equal times the snapshot's row stands, unless the change is newer than the snapshot.
        (100, 50, 50, 1),
        (100, 100, 100, 1),
        (100, 120, 120, 7),
    ] {
        let mut shop = Shop::new();
        shop.upsert(live_ms, 7);
        shop.publish(as_of_ms, Some((row_ms, 1)));
        assert_eq!(shop.points(), Some(shows), "{as_of_ms}, {row_ms}, {live_ms}, written before the publish");
        shop.upsert(live_ms, 7);
        assert_eq!(shop.points(), Some(shows), "{as_of_ms}, {row_ms}, {live_ms}, written after it");
        shop.publish(as_of_ms, Some((row_ms, 1)));
        assert_eq!(shop.points(), Some(shows), "{as_of_ms}, {row_ms}, {live_ms}, pruned against two snapshots");
    }
}

#[test]
fn a_tombstone_is_a_change_like_any_other() {
    for (row_ms, deleted_ms, shows) in [(50, 49, Some(1)), (50, 50, Some(1)), (50, 51, None), (120, 120, None)] {
        let mut shop = Shop::new();
        shop.delete(deleted_ms);
        shop.publish(100, Some((row_ms, 1)));
        assert_eq!(shop.points(), shows, "{row_ms}, {deleted_ms}");
        shop.delete(deleted_ms);
        assert_eq!(shop.points(), shows, "{row_ms}, {deleted_ms}");
    }
}

#[test]
fn a_late_row_still_meets_the_tombstone() {
    let shop = Shop::new();
    shop.upsert(10, 1);
    shop.delete(30);
    assert_eq!(shop.points(), None);
    shop.upsert(20, 2);
    assert_eq!(shop.points(), None, "older than the deletion");
    // Also when the deletion has gone to a file, and when it is merged there with what came later.
    let shop = shop.reopened();
    shop.upsert(21, 3);
    assert_eq!(shop.points(), None);
    let shop = shop.reopened();
    shop.upsert(22, 4);
    assert_eq!(shop.points(), None);
    shop.upsert(30, 5);
    assert_eq!(shop.points(), Some(5), "of equal times the last written");
    shop.delete(30);
    assert_eq!(shop.points(), None);
    shop.upsert(31, 6);
    assert_eq!(shop.points(), Some(6));
}

#[test]
fn a_retry_does_not_double_and_an_update_replaces() {
    let mut shop = Shop::new();
    shop.publish_orders(100, &[(10, "a"), (20, "b")]);
    for _ in 0..3 {
        shop.order(110, "c");
        assert_eq!(shop.orders(), ["c", "b", "a"]);
    }
    // An update of an order that the snapshot has makes it the newest one.
    shop.order(120, "a");
    assert_eq!(shop.orders(), ["a", "c", "b"]);
    shop.order(130, "d");
    assert_eq!(shop.orders(), ["d", "a", "c"], "the view shows three");
    shop.order(125, "c");
    assert_eq!(shop.orders(), ["d", "c", "a"], "the update arrives late and has its place");
    assert_eq!(shop.reopened().orders(), ["d", "c", "a"]);
}

#[test]
fn elements_of_equal_time_have_one_order_whatever_they_come_from() {
    let mut shop = Shop::new();
    shop.publish_orders(5, &[(10, "b")]);
    for order in ["d", "a", "c"] {
        shop.order(10, order);
    }
    assert_eq!(shop.orders(), ["d", "c", "b"]);
    assert_eq!(shop.reopened().orders(), ["d", "c", "b"]);
}

#[test]
fn a_deleted_element_goes_and_brings_the_next_one_into_view() {
    let mut shop = Shop::new();
    shop.publish_orders(100, &[(10, "a"), (20, "b"), (30, "c")]);
    shop.order(110, "d");
    assert_eq!(shop.orders(), ["d", "c", "b"]);
    shop.cancel(120, Some("c"));
    assert_eq!(shop.orders(), ["d", "b", "a"]);
    shop.cancel(120, Some("d"));
    assert_eq!(shop.orders(), ["b", "a"]);
    shop.cancel(15, Some("b"));
    assert_eq!(shop.orders(), ["b", "a"], "the snapshot's order is newer than that deletion");
    shop.order(119, "c");
    assert_eq!(shop.orders(), ["b", "a"], "older than its deletion");
    shop.order(121, "c");
    assert_eq!(shop.orders(), ["c", "b", "a"]);
}

#[test]
fn a_history_of_one_element_shows_the_one_before_the_deleted() {
    let one = ViewConfig { n: Some(1), ..history() };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), std::slice::from_ref(&one)).unwrap();
    upsert(&store, &one, 1, &[order_row("ada", 10, "a", 1.0)]);
    upsert(&store, &one, 1, &[order_row("ada", 20, "b", 1.0)]);
    delete(&store, &one, 1, &[("ada", 30, Some(Value::Text("b".to_string())))]);
    let fetched = store.fetch(&plan(&store, &["orders:order_id"]), &of_tenant(1, &["ada"]), 0).unwrap();
    assert_eq!(fetched.views[0].columns[0].as_list::<i32>().value(0).as_string::<i32>().value(0), "a");
}

#[test]
fn a_deletion_without_an_element_deletes_all_up_to_its_time() {
    let mut shop = Shop::new();
    shop.publish_orders(100, &[(10, "a"), (90, "b")]);
    shop.order(110, "c");
    shop.order(130, "d");
    shop.cancel(110, None);
    assert_eq!(shop.orders(), ["d"]);
    shop.order(105, "e");
    assert_eq!(shop.orders(), ["d"], "a late order is deleted too");
    shop.order(111, "a");
    assert_eq!(shop.orders(), ["d", "a"]);
    let mut shop = shop.reopened();
    assert_eq!(shop.orders(), ["d", "a"]);
    // A snapshot that is newer than the deletion is right about what it shows.
    shop.publish_orders(120, &[(115, "f"), (10, "g")]);
    assert_eq!(shop.orders(), ["d", "f"], "of its orders those up to the deletion stay deleted");
}

#[test]
fn what_a_forgotten_deletion_may_have_deleted_shows_again_with_the_next_snapshot() {
    let mut shop = Shop::new();
    shop.publish_orders(10, &[(5, "a")]);
    let orders: Vec<_> = (0..5000i64).map(|order| ("ada", 100 + order, Some(Value::Text(order.to_string())))).collect();
    delete(&shop.store, &history(), 1, &orders[..4096]);
    assert_eq!(shop.orders(), ["a"], "as many changes as are kept");
    delete(&shop.store, &history(), 1, &orders[4096..]);
    let plan = plan(&shop.store, &["orders:order_id"]);
    let status = || shop.store.fetch(&plan, &of_tenant(1, &["ada"]), 0).unwrap().views[0].status[0];
    assert_eq!(status(), Status::NotFound);
    shop.publish_orders(6000, &[(5, "a")]);
    assert_eq!(shop.orders(), ["a"]);
}

#[test]
fn a_rollback_weighs_everything_against_the_other_generation() {
    let mut shop = Shop::new();
    shop.publish(100, Some((50, 1)));
    shop.publish(200, None);
    assert_eq!(shop.points(), None);
    shop.upsert(150, 7);
    assert_eq!(shop.points(), None, "the snapshot of 200 knew that there is none");
    shop.rollback(&points());
    assert_eq!(shop.points(), Some(7), "that of 100 did not");
    shop.delete(160);
    assert_eq!(shop.points(), None);
    shop.rollback(&points());
    shop.upsert(250, 8);
    assert_eq!(shop.points(), Some(8));
    shop.rollback(&points());
    assert_eq!(shop.points(), Some(8));

    shop.publish_orders(100, &[(10, "a"), (20, "b")]);
    shop.publish_orders(200, &[(10, "a")]);
    shop.order(150, "c");
    shop.cancel(5, Some("b"));
    assert_eq!(shop.orders(), ["a"]);
    shop.rollback(&history());
    assert_eq!(shop.orders(), ["c", "b", "a"]);
}

#[test]
fn pruning_keeps_every_answer_and_refuses_snapshots_from_before() {
    let mut shop = Shop::new();
    shop.upsert(50, 5);
    shop.publish(100, Some((40, 4)));
    assert_eq!(shop.points(), Some(5), "newer than the snapshot's row, so it is kept");
    shop.publish(200, Some((50, 9)));
    assert_eq!(shop.points(), Some(9));
    shop.rollback(&points());
    assert_eq!(shop.points(), Some(5), "the previous one still needs it");
    shop.rollback(&points());
    // Nothing was pruned so far, so an older state may follow.
    shop.publish(150, Some((50, 8)));
    assert_eq!(shop.points(), Some(8));
    // Now both show it, up to 150.
    let refused = shop.try_publish(&points(), 149, vec![profile_row("ada", 1, 1)]).unwrap_err();
    assert!(matches!(refused, Error::ChooseGeneration(_)));
    let message = refused.to_string();
    assert!(message.contains("it shows the state of 149, and live rows up to 150 were pruned"), "{message}");
    assert_eq!(shop.points(), Some(8));
    let mut shop = shop.reopened();
    assert!(shop.try_publish(&points(), 149, vec![profile_row("ada", 1, 1)]).is_err(), "also after reopening");
    shop.publish(150, Some((60, 6)));
    assert_eq!(shop.points(), Some(6));
    // Late rows meet what is left as they would have met what was pruned.
    shop.upsert(49, 3);
    assert_eq!(shop.points(), Some(6));
}

#[test]
fn pruned_keys_answer_without_their_live_rows() {
    let mut shop = Shop::new();
    let names: Vec<_> = (0..600).map(|number| format!("user-{number:03}")).collect();
    let rows = |time: i64| names.iter().map(|name| profile_row(name, time, time)).collect::<Vec<_>>();
    upsert(&shop.store, &points(), 1, &rows(50));
    shop.try_publish(&points(), 100, rows(60)).unwrap();
    shop.upsert(150, 7);
    for name in &names {
        assert_eq!(points_of(&shop.store, name), Some(60));
    }
    assert_eq!(shop.points(), Some(7));
    assert_eq!(shop.reopened().points(), Some(7));
}

#[test]
fn each_element_has_its_own_time_to_live() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &[profile(), orders()]).unwrap();
    let published = vec![order_row("ada", 1_000, "a", 1.0), order_row("ada", 3_000, "c", 1.0)];
    publish_as_of(&store, folder.path(), &orders(), 1, 1, 5_000, published).unwrap();
    upsert(&store, &orders(), 1, &[order_row("ada", 6_000, "d", 1.0)]);
    let plan = plan(&store, &["orders:order_id"]);
    for tier in [Tier::Warm, Tier::Hot] {
        for (now_ms, seen) in
            [(60_999, 3), (61_000, 2), (62_999, 2), (63_000, 1), (65_999, 1), (66_000, 0), (i64::MAX, 0)]
        {
            let view = store.fetch(&plan, &of_tenant(1, &["ada"]), now_ms).unwrap().views.remove(0);
            assert_eq!(view.columns[0].as_list::<i32>().value(0).len(), seen, "{tier:?} at {now_ms}");
            let status = if seen > 0 { Status::Present } else { Status::Expired };
            assert_eq!((view.status[0], view.event_time_ms[0]), (status, 6_000));
        }
        store.hot_usage();
        assert_eq!(store.fetch(&plan, &of_tenant(1, &["ada"]), 0).unwrap().views[0].tier, [Tier::Hot]);
    }
}

#[test]
fn a_write_is_all_or_nothing() {
    let shop = Shop::new();
    let good = batch(&points(), &[profile_row("ada", 10, 1)]);
    let far =
        batch(&history(), &[order_row("ada", 10, "a", 1.0), order_row("ada", NOW_MS + MAX_AHEAD_MS + 1, "b", 1.0)]);
    let write = |view, rows| Write { tenant: TenantId(1), view, kind: WriteKind::Upsert, rows };
    shop.store.write(&[write("profile", &good), write("orders", &far)], NOW_MS).unwrap_err();
    assert_eq!((shop.points(), shop.orders().len()), (None, 0));
    let shop = shop.reopened();
    assert_eq!((shop.points(), shop.orders().len()), (None, 0));

    let near = far.slice(0, 1);
    let gone = deletions(&points(), &[("bob", 10, None)]);
    let gone = Write { tenant: TenantId(2), view: "profile", kind: WriteKind::Delete, rows: &gone };
    let written = shop.store.write(&[write("profile", &good), write("orders", &near), gone], NOW_MS).unwrap();
    assert_eq!(written, Written { rows: 2, deletions: 1, late: 0, erased: 0 });
    assert_eq!((shop.points(), shop.orders()), (Some(1), vec!["a".to_string()]));
    assert_eq!(shop.store.write(&[], NOW_MS).unwrap(), Written::default());
}

#[test]
fn what_may_not_be_written_is_named() {
    let shop = Shop::new();
    let refused = |view: &str, kind, rows: &arrow::array::RecordBatch| {
        let write = Write { tenant: TenantId(1), view, kind, rows };
        shop.store.write(&[write], NOW_MS).unwrap_err().to_string()
    };
    let upsert = |view: &ViewConfig, rows: &[Row]| refused(&view.name, WriteKind::Upsert, &batch(view, rows));
    assert_eq!(
        refused("basket", WriteKind::Upsert, &batch(&points(), &[])),
        "there is no view basket; declared are profile, orders"
    );
    let wrong = refused("orders", WriteKind::Upsert, &batch(&points(), &[]));
    assert!(wrong.contains("the view orders expects column order_id"), "{wrong}");
    let wrong = refused("orders", WriteKind::Delete, &batch(&history(), &[]));
    assert!(wrong.contains("orders"), "{wrong}");
    let good = profile_row("ada", 10, 1);
    assert_eq!(
        upsert(&points(), &[good.clone(), profile_row("", 10, 1)]),
        "view profile, row 1: an entity of 0 bytes, allowed are 1 to 256"
    );
    assert!(upsert(&points(), &[profile_row(&"x".repeat(257), 10, 1)]).contains("an entity of 257 bytes"));
    let ahead = NOW_MS + MAX_AHEAD_MS;
    shop.upsert(ahead, 1);
    assert_eq!(
        upsert(&points(), &[good.clone(), profile_row("bob", ahead + 1, 1)]),
        format!("view profile, row 1: its event time {} is more than a day ahead of now, {NOW_MS}", ahead + 1)
    );
    assert!(upsert(&points(), &[profile_row("bob", i64::MIN, 1)]).contains("before the year 1"));
    let nameless = Row { values: vec![None, None, None], ..order_row("ada", 10, "", 1.0) };
    assert_eq!(upsert(&history(), &[nameless]), "view orders, row 0: the element key is null");
    let long = Some(Value::Text("x".repeat(2 << 20)));
    let message = refused("orders", WriteKind::Delete, &deletions(&history(), &[("ada", 10, long)]));
    assert!(message.contains("an element key of 2097152 bytes, a live row of this view has at most"), "{message}");
    let mut large = good.clone();
    large.values[8] = Some(Value::Text("x".repeat(2 << 20)));
    let message = upsert(&points(), &[large.clone()]);
    assert!(message.contains("a live row of this view has at most"), "{message}");
    large.values[8] = Some(Value::Text("x".repeat(900 << 10)));
    let message = upsert(&points(), &vec![large; MAX_WRITE_BYTES / (900 << 10) + 1]);
    assert_eq!(message, format!("more than {MAX_WRITE_BYTES} bytes of rows in one write: write in parts"));
    let many = vec![good; MAX_WRITE_ROWS + 1];
    let message = upsert(&points(), &many);
    assert_eq!(message, format!("{} rows, one write takes at most {MAX_WRITE_ROWS}: write in parts", many.len()));
    assert_eq!(points_of(&shop.store, "bob"), None);
}

/// The same views, as they are declared later: a renamed feature, a wider one, a new one and one that is gone.
fn later() -> [ViewConfig; 2] {
    let mut profile = points();
    profile.features.retain(|feature| feature.name != "city");
    profile.features.insert(0, feature("added", FeatureType::Utf8));
    profile.features.iter_mut().find(|feature| feature.name == "level").unwrap().data_type = FeatureType::I64;
    let mut orders = history();
    orders.features[1].former_names = vec!["total".to_string()];
    orders.features[1].name = "sum".to_string();
    orders.features.insert(0, feature("carrier", FeatureType::Utf8));
    [profile, orders]
}

#[test]
fn live_rows_of_an_older_declaration_stay_readable() {
    let shop = Shop::new();
    let mut row = profile_row("ada", 10, 7);
    row.values[4] = Some(Value::I32(-3));
    upsert(&shop.store, &points(), 1, &[row]);
    shop.order(10, "a");
    shop.order(20, "b");
    let Shop { folder, store, .. } = shop;
    drop(store);
    for round in 0..2 {
        let store = Store::open(&config(folder.path()), &later()).unwrap();
        let [profile, orders] = later();
        if round == 0 {
            let values = ["dhl", "c"].map(|text| Some(Value::Text(text.to_string())));
            let [carrier, order] = values;
            let row = Row {
                entity: "ada".to_string(),
                event_time_ms: 15,
                values: vec![carrier, order, Some(Value::F64(9.0)), None],
            };
            upsert(&store, &orders, 1, &[row]);
        }
        let plan = plan(
            &store,
            &["profile:points", "profile:level", "profile:added", "orders:order_id", "orders:sum", "orders:carrier"],
        );
        let fetched = store.fetch(&plan, &of_tenant(1, &["ada"]), 100).unwrap();
        let level = value(&fetched.views[0].columns[1], FeatureType::I64, 0);
        assert_eq!(
            (level, fetched.views[0].value_status(2, 0)),
            (Some(Value::I64(-3)), Some(Status::Null)),
            "{}",
            profile.name
        );
        // One value with elements of two declarations.
        let list = |column: usize, data_type| {
            let values = fetched.views[1].columns[column].as_list::<i32>().value(0);
            (0..values.len()).map(|index| value(&values, data_type, index)).collect::<Vec<_>>()
        };
        let texts =
            |texts: [Option<&str>; 3]| texts.map(|text| text.map(|text| Value::Text(text.to_string()))).to_vec();
        assert_eq!(list(0, FeatureType::Utf8), texts([Some("b"), Some("c"), Some("a")]));
        assert_eq!(list(1, FeatureType::F64), [1.0, 9.0, 1.0].map(|sum| Some(Value::F64(sum))));
        assert_eq!(list(2, FeatureType::Utf8), texts([None, Some("dhl"), None]));
    }
    let mut other = later();
    other[1].features[2].data_type = FeatureType::Utf8;
    let refused = Store::open(&config(folder.path()), &other).unwrap_err().to_string();
    assert!(
        refused.contains("view orders") && refused.contains("a declaration that stored live rows contradict"),
        "{refused}"
    );
}

#[test]
fn a_swap_carries_hot_keys_over() {
    let mut shop = Shop::new();
    shop.publish(100, Some((50, 1)));
    shop.upsert(250, 7);
    let tiers = |shop: &Shop| {
        shop.store.hot_usage();
        let fetched =
            shop.store.fetch(&plan(&shop.store, &["profile:points"]), &of_tenant(1, &["ada", "zoe", "eve"]), 0);
        let fetched = fetched.unwrap();
        (fetched.views[0].tier.clone(), fetched.stats.hot_negatives, fetched.stats.bytes_read > 0)
    };
    assert_eq!(tiers(&shop), (vec![Tier::Warm, Tier::Warm, Tier::None], 0, true));
    let hot = (vec![Tier::Hot, Tier::Hot, Tier::None], 1, false);
    assert_eq!(tiers(&shop), hot);
    shop.publish(200, Some((150, 2)));
    assert_eq!((tiers(&shop), shop.points()), (hot.clone(), Some(7)));
    shop.rollback(&points());
    assert_eq!((tiers(&shop), shop.points()), (hot, Some(7)));
}

#[test]
fn whoever_writes_is_told_which_rows_came_too_late_to_change_anything() {
    let mut shop = Shop::new();
    shop.publish(100, Some((50, 1)));
    shop.publish_orders(100, &[(50, "a")]);
    let late = |rows: &[Row]| upsert(&shop.store, &points(), 1, rows).late;
    let ada = |time| profile_row("ada", time, time);
    assert_eq!(late(&[ada(40)]), 1, "the snapshot's row is newer");
    assert_eq!(late(&[ada(60)]), 0, "the snapshot is newer, its row is not");
    assert_eq!(late(&[ada(200)]), 0);
    assert_eq!((late(&[ada(150)]), late(&[ada(200)]), late(&[ada(201)])), (1, 0, 0), "of equals the last stands");
    assert_eq!(late(&[profile_row("bob", 90, 1)]), 1, "the snapshot knew nobody of that name");
    assert_eq!(late(&[profile_row("bob", 110, 1), profile_row("bob", 105, 1)]), 1, "within one write too");
    let deleted = |time| delete(&shop.store, &points(), 1, &[("ada", time, None)]).late;
    assert_eq!((deleted(190), deleted(300), late(&[ada(250)])), (1, 0, 1), "a deletion stands like a row");

    let late = |time, order| upsert(&shop.store, &history(), 1, &[order_row("ada", time, order, 1.0)]).late;
    assert_eq!((late(40, "a"), late(60, "a"), late(55, "a")), (1, 0, 1), "of an element against its own");
    assert_eq!((late(90, "b"), late(110, "b")), (1, 0), "of one that the snapshot has not against the snapshot");
    let cleared = |time| delete(&shop.store, &history(), 1, &[("ada", time, None)]).late;
    assert_eq!((cleared(120), cleared(115), late(118, "c"), late(121, "c")), (0, 1, 1, 0));

    // Each write of a call is told its own.
    let (old, new) = (batch(&points(), &[ada(299)]), batch(&points(), &[ada(400), ada(401)]));
    let write = |rows| Write { tenant: TenantId(1), view: "profile", kind: WriteKind::Upsert, rows };
    let told = shop.store.write_each(&[write(&old), write(&new)], NOW_MS).unwrap();
    let rows = |rows, late| Written { rows, late, ..Written::default() };
    assert_eq!(told, [rows(1, 1), rows(2, 0)]);
}
