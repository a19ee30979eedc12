//! Promise: a delta snapshot changes what it names and nothing else, follows only what it fits, can be taken back, and is there whole or not at all,
//! whenever it is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::Float64Type;
use larder_ingest::{BuildLimits, BuildRequest, DeltaRequest, Location, build};
use larder_store::{
    Error, GenerationState, GenerationWriter, Manifest, Placement, Shard, Status, Store, StoreConfig, TenantId, Tier,
    ViewConfig, WriterLimits,
};
use parquet::arrow::ArrowWriter;

use crate::support::child::{self, Said};
use crate::support::command::run;
use crate::support::shop::{DEMO, Shop, USERS, now_ms, order_id};
use crate::support::store::{
    NOW_MS, Row, batch, build_as_of, build_delta, config, of_tenant, order_row, orders, plan, profile, profile_row,
    upsert,
};
use crate::support::{Random, long};

fn histories() -> ViewConfig {
    ViewConfig { ttl_s: None, ..orders() }
}

fn points() -> ViewConfig {
    ViewConfig { ttl_s: None, ..profile() }
}

/// The orders of a user with their totals, newest first, the status and the tier.
type Shown = (Vec<(String, f64)>, Status, Tier);

/// A store of one view, and the folder it lies in.
struct Shelf {
    folder: tempfile::TempDir,
    store: Store,
    view: ViewConfig,
}

impl Shelf {
    fn new(view: ViewConfig) -> Shelf {
        let folder = tempfile::tempdir().unwrap();
        // Time enough for the cold tier, however busy the machine is.
        let config = StoreConfig { cold_budget_ms: 30_000, ..config(folder.path()) };
        let store = Store::open(&config, std::slice::from_ref(&view)).unwrap();
        Shelf { folder, store, view }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is shown of users.
    fn orders(&self, users: &[&str]) -> Vec<Shown> {
        let plan = plan(&self.store, &["orders:order_id", "orders:total"]);
        let fetched = self.store.fetch(&plan, &of_tenant(1, users), NOW_MS).unwrap();
        let view = &fetched.views[0];
        let shown = |row: usize| {
            let [names, totals] = [0, 1].map(|column| view.columns[column].as_list::<i32>());
            if names.is_null(row) {
                return Vec::new();
            }
            let (names, totals) = (names.value(row), totals.value(row));
            let totals = totals.as_primitive::<Float64Type>().values().to_vec();
            names.as_string::<i32>().iter().flatten().map(str::to_owned).zip(totals).collect()
        };
        (0..users.len()).map(|row| (shown(row), view.status[row], view.tier[row])).collect()
    }

    fn generations(&self) -> Vec<(GenerationState, u32)> {
        self.store.generations().iter().map(|info| (info.state, info.generation)).collect()
    }
}

fn shown(orders: &[(&str, f64)], tier: Tier) -> Shown {
    let status = if orders.is_empty() { Status::NotFound } else { Status::Present };
    (orders.iter().map(|(name, total)| ((*name).to_owned(), *total)).collect(), status, tier)
}

/// Writes a Parquet file of these columns.
fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) -> Location {
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    Location::local(path)
}

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values.to_vec()))
}

#[test]
fn files_of_rows_and_deletions_change_what_they_name_and_nothing_else() {
    let shelf = Shelf::new(histories());
    let base = [
        order_row("ada", 10, "a1", 1.0),
        order_row("ada", 20, "a2", 2.0),
        order_row("bob", 30, "b1", 3.0),
        order_row("cyd", 5, "c1", 4.0),
        order_row("dan", 40, "d1", 5.0),
        order_row("eve", 6, "e1", 6.0),
        order_row("eve", 7, "e2", 7.0),
    ];
    let mut rows = base.to_vec();
    rows.sort_by(|a, b| a.entity.cmp(&b.entity));
    let built = shelf.path("base");
    let limits = WriterLimits::default();
    let mut writer = GenerationWriter::create(&built, &shelf.view, TenantId(1), 1, 100, limits).unwrap();
    // cyd and eve lie cold.
    writer = writer.place(Placement { cold_before_ms: Some(10), ..Placement::default() });
    writer.append(&batch(&shelf.view, &rows)).unwrap();
    writer.finish().unwrap();
    shelf.store.publish(&built).unwrap();

    // Not sorted; one file of deletions names elements and when, the other neither.
    let changed = parquet(
        &shelf.path("changed.parquet"),
        vec![
            ("user_id", text(&["fay", "ada", "ada", "eve", "bob"])),
            ("updated_at", times(&[110, 120, 9, 130, 30])),
            ("order_id", text(&["f1", "a3", "a1", "e3", "b1"])),
            ("total", Arc::new(Float64Array::from(vec![8.0, 9.0, 99.0, 10.0, 33.0]))),
            ("status", text(&["new"; 5])),
        ],
    );
    let gone = parquet(
        &shelf.path("gone.parquet"),
        vec![
            ("user_id", text(&["eve", "ada", "ada", "nobody"])),
            ("order_id", text(&["e1", "a1", "a2", "n1"])),
            ("updated_at", times(&[50, 8, 60, 60])),
        ],
    );
    let whole = parquet(&shelf.path("whole.parquet"), vec![("user_id", text(&["dan"]))]);
    let out = shelf.path("delta");
    let mut request = BuildRequest::new(&shelf.view, TenantId(1), vec![changed.clone()], out.clone(), 2, 150);
    request.delta = Some(DeltaRequest { since_ms: 100, deletions: vec![gone.clone(), whole.clone()] });
    let report = build(&request, &mut |_| ()).unwrap();
    let delta = report.manifest.delta.unwrap();
    assert_eq!(
        (delta.since_ms, delta.deletions, report.manifest.rows),
        (100, 4, 9),
        "one deletion is older than the row of its element"
    );
    assert_eq!((report.duplicates, report.files, report.rows_read, report.rows_rejected), (1, 3, 10, 0));
    assert!(build(&request, &mut |_| ()).unwrap().already_built);
    let other = BuildRequest { delta: None, ..request.clone() };
    assert!(build(&other, &mut |_| ()).unwrap_err().to_string().contains("exists"), "another request");

    // A live row since the snapshot, which the delta does not know.
    upsert(&shelf.store, &shelf.view, 1, &[order_row("bob", 160, "b2", 11.0)]);
    let users = ["ada", "bob", "cyd", "dan", "eve", "fay", "nobody"];
    let before = shelf.orders(&users);
    let published = shelf.store.publish(&out).unwrap();
    assert_eq!((published.generation, published.previous, published.already_live), (2, Some(1), false));
    assert_eq!((published.entities, published.rows), (5, 7));
    let expected = [
        shown(&[("a3", 9.0), ("a1", 1.0)], Tier::Hot),
        shown(&[("b2", 11.0), ("b1", 33.0)], Tier::Hot),
        shown(&[("c1", 4.0)], Tier::Hot),
        shown(&[], Tier::None),
        shown(&[("e3", 10.0), ("e2", 7.0)], Tier::Hot),
        shown(&[("f1", 8.0)], Tier::Warm),
        shown(&[], Tier::None),
    ];
    let values =
        |orders: &[Shown]| -> Vec<_> { orders.iter().map(|(orders, status, _)| (orders.clone(), *status)).collect() };
    assert_eq!(values(&shelf.orders(&users)), values(&expected));
    let live = shelf.store.generations().into_iter().find(|info| info.state == GenerationState::Live).unwrap();
    assert_eq!((live.as_of_ms, live.cold_entities), (150, 1), "cyd, who did not change, lies cold still");

    let again = shelf.store.publish(&out).unwrap();
    assert!(again.already_live && again.generation == 2, "{again:?}");
    shelf.store.rollback(TenantId(1), "orders").unwrap();
    assert_eq!(values(&shelf.orders(&users)), values(&before));
    shelf.store.rollback(TenantId(1), "orders").unwrap();
    assert_eq!(values(&shelf.orders(&users)), values(&expected));

    // Dropping the one that is kept leaves nothing to go back to.
    let refused = shelf.store.drop_previous(TenantId(1), "orders", 2).unwrap_err();
    assert!(refused.to_string().contains("it is live; publish another or roll back"), "{refused}");
    let refused = shelf.store.drop_previous(TenantId(1), "orders", 7).unwrap_err();
    assert!(refused.to_string().contains("there is none; 2 is live, of those before 1 is kept"), "{refused}");
    let dropped = shelf.store.drop_previous(TenantId(1), "orders", 1).unwrap();
    assert_eq!((dropped.generation, dropped.previous, dropped.dropped), (2, None, Some(1)));
    assert_eq!(shelf.generations(), [(GenerationState::Live, 2)]);
    let nothing = shelf.store.rollback(TenantId(1), "orders").unwrap_err();
    assert!(matches!(nothing, Error::ChooseGeneration(_)), "{nothing}");
    assert_eq!(values(&shelf.orders(&users)), values(&expected));
    let Shelf { folder, store, view } = shelf;
    drop(store);
    let store = Store::open(&config(folder.path()), std::slice::from_ref(&view)).unwrap();
    let shelf = Shelf { folder, store, view };
    assert_eq!(values(&shelf.orders(&users)), values(&expected), "opened again");
}

#[test]
fn a_delta_follows_only_what_it_fits() {
    let shelf = Shelf::new(points());
    let view = &shelf.view;
    let delta = |name: &str, generation: u32, times: (i64, i64)| {
        let dir = shelf.path(name);
        build_delta(&dir, view, (1, generation), times, &[profile_row("ada", 55, 2)], &[]).unwrap();
        dir
    };
    let refused = |dir: &Path| {
        let error = shelf.store.publish(dir).unwrap_err();
        assert!(matches!(error, Error::ChooseGeneration(_)), "{error:?}");
        error.to_string()
    };
    let early = refused(&delta("early", 9, (0, 60)));
    assert!(
        early.contains("there is no live generation that it could change: publish a full snapshot first"),
        "{early}"
    );
    let base = |name: &str, generation: u32, as_of_ms: i64| {
        let rows = vec![profile_row("ada", 10, 1), profile_row("bob", 20, 1)];
        build_as_of(as_of_ms, WriterLimits::default(), &shelf.path(name), view, 1, generation, rows);
        shelf.store.publish(&shelf.path(name)).unwrap();
    };
    base("base", 1, 50);
    let gap = refused(&delta("gap", 10, (51, 60)));
    assert!(gap.contains("the changes since 51") && gap.contains("shows the state of 50"), "{gap}");
    assert!(gap.contains("publish the delta snapshots in between first, or a full one"), "{gap}");
    let old = refused(&delta("old", 11, (20, 49)));
    assert!(old.contains("the newer one of 50: nothing is to be done"), "{old}");

    // Deltas that overlap what is known do no harm, and each can follow the one before.
    shelf.store.publish(&delta("first", 12, (0, 60))).unwrap();
    shelf.store.publish(&delta("second", 13, (60, 70))).unwrap();
    let used = refused(&delta("used", 12, (60, 80)));
    assert!(used.contains("it is kept as the previous one"), "{used}");
    assert_eq!(shelf.generations(), [(GenerationState::Live, 13), (GenerationState::Previous, 12)]);

    // All of it deleted: an empty generation would hide everybody.
    let dir = shelf.path("nobody");
    build_delta(&dir, view, (1, 14), (70, 90), &[], &[("ada", 90, None), ("bob", 90, None)]).unwrap();
    let empty = shelf.store.publish(&dir).unwrap_err().to_string();
    assert!(empty.contains("an empty generation would hide every entity"), "{empty}");
    assert_eq!(shelf.generations()[0], (GenerationState::Live, 13));

    // Bytes that changed under way are noticed before anything is.
    let dir = delta("damaged", 15, (70, 90));
    let file = dir.join(&Manifest::read(&dir).unwrap().cold[0].name);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = shelf.store.publish(&dir).unwrap_err().to_string();
    assert!(damaged.contains("its content was changed") && damaged.contains(&file.display().to_string()), "{damaged}");
    assert!(!shelf.folder.path().join("store/replacing").exists(), "nothing is left behind");

    // Of another layout.
    let mut other = points();
    other.features.truncate(3);
    let dir = shelf.path("layout");
    let mut row = profile_row("ada", 55, 2);
    row.values.truncate(3);
    build_delta(&dir, &other, (1, 16), (70, 90), &[row], &[]).unwrap();
    let Shelf { folder, store, .. } = shelf;
    drop(store);
    let store = Store::open(&config(folder.path()), &[other]).unwrap();
    let layout = store.publish(&dir).unwrap_err().to_string();
    assert!(layout.contains("publish a full snapshot first"), "{layout}");
}

#[test]
fn one_delta_of_the_whole_fits_every_shard() {
    let view = points();
    let users: Vec<String> = (0..40).map(|user| format!("user-{user:02}")).collect();
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<_> = users.iter().map(|user| profile_row(user, 60, 2)).collect();
    let delta = folder.path().join("delta");
    build_delta(&delta, &view, (1, 2), (50, 70), &rows, &[]).unwrap();
    for index in 0..2 {
        let shard: Shard = format!("{index}/2").parse().unwrap();
        let place = folder.path().join(index.to_string());
        let own: Vec<_> = users.iter().filter(|user| shard.holds(user)).collect();
        let store_config = StoreConfig { shard, ..config(&place) };
        let store = Store::open(&store_config, std::slice::from_ref(&view)).unwrap();
        let limits = WriterLimits::default();
        let built = place.join("base");
        let writer = GenerationWriter::create(&built, &view, TenantId(1), 1, 50, limits).unwrap();
        let mut writer = writer.shard(shard);
        let base: Vec<_> = own.iter().map(|user| profile_row(user, 40, 1)).collect();
        writer.append(&batch(&view, &base)).unwrap();
        writer.finish().unwrap();
        store.publish(&built).unwrap();
        let published = store.publish(&delta).unwrap();
        assert_eq!((published.generation, published.entities as usize), (2, own.len()), "{shard}");
    }
}

#[test]
fn deletions_need_their_keys_and_bad_rows_are_counted() {
    let shelf = Shelf::new(histories());
    let build_with = |deletions: Location, rejected: u64| {
        let out = shelf.path("delta");
        let mut request = BuildRequest::new(&shelf.view, TenantId(1), Vec::new(), out, 2, 150);
        request.limits = BuildLimits { max_rejected_rows: rejected, ..BuildLimits::default() };
        request.delta = Some(DeltaRequest { since_ms: 100, deletions: vec![deletions] });
        build(&request, &mut |_| ())
    };
    let nobody = parquet(&shelf.path("nobody.parquet"), vec![("order_id", text(&["a1"]))]);
    let missing = build_with(nobody, 0).unwrap_err().to_string();
    assert!(missing.contains("column user_id (entity_key) of view orders is missing"), "{missing}");
    let wrong = parquet(
        &shelf.path("wrong.parquet"),
        vec![("user_id", text(&["ada"])), ("order_id", Arc::new(Int64Array::from(vec![1])))],
    );
    let wrong = build_with(wrong, 0).unwrap_err().to_string();
    assert!(wrong.contains("order_id"), "{wrong}");
    // A null element key must not come to mean all elements.
    let elements: ArrayRef = Arc::new(StringArray::from(vec![Some("a1"), None]));
    let null = parquet(&shelf.path("null.parquet"), vec![("user_id", text(&["ada", "bob"])), ("order_id", elements)]);
    assert!(build_with(null.clone(), 0).is_err());
    let report = build_with(null, 1).unwrap();
    assert_eq!((report.rows_rejected, report.manifest.entities), (1, 1));
    let out = shelf.path("nothing");
    let mut request = BuildRequest::new(&shelf.view, TenantId(1), Vec::new(), out, 2, 150);
    request.delta = Some(DeltaRequest { since_ms: 100, deletions: Vec::new() });
    let nothing = build(&request, &mut |_| ()).unwrap_err().to_string();
    assert!(nothing.contains("a delta snapshot of nothing"), "{nothing}");
    request.delta = Some(DeltaRequest { since_ms: 200, deletions: vec![Location::local(shelf.path("null.parquet"))] });
    let backwards = build(&request, &mut |_| ()).unwrap_err().to_string();
    assert!(backwards.contains("that is before it begins"), "{backwards}");
}

/// Users of the generation that is changed while it may be killed.
const CROWD: usize = 4_000;

fn crowd_row(user: usize, time: i64, number: i64) -> Row {
    profile_row(&format!("user-{user:05}"), time, number)
}

/// What a child does: opens the store, says so, and publishes the delta.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os("LARDER_DELTA_FOLDER") else { return };
    let folder = PathBuf::from(folder);
    let store = Store::open(&config(&folder), &[points()]).unwrap();
    child::say("publishing");
    store.publish(&folder.join("delta")).unwrap();
    child::say("published");
}

#[test]
fn a_publish_that_is_killed_leaves_the_old_state_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, view) = (folder.path(), points());
    let base: Vec<_> = (0..CROWD).map(|user| crowd_row(user, 10, 1)).collect();
    build_as_of(50, WriterLimits::default(), &path.join("base"), &view, 1, 1, base);
    let changed: Vec<_> = (0..CROWD).step_by(3).map(|user| crowd_row(user, 60, 2)).collect();
    build_delta(&path.join("delta"), &view, (1, 2), (50, 70), &changed, &[("user-00001", 70, None)]).unwrap();
    let show = |store: &Store| -> (i64, usize) {
        let names: Vec<String> = (0..CROWD).map(|user| format!("user-{user:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut sum, mut absent) = (0, 0);
        for part in names.chunks(1_000) {
            let fetched = store.fetch(&plan(store, &["profile:points"]), &of_tenant(1, part), NOW_MS).unwrap();
            let view = &fetched.views[0];
            absent += view.status.iter().filter(|status| **status == Status::NotFound).count();
            let points = view.columns[0].as_primitive::<arrow::datatypes::Int64Type>();
            sum += points.iter().flatten().sum::<i64>();
        }
        (sum, absent)
    };
    let old = (CROWD as i64, 0);
    let new = ((CROWD + CROWD.div_ceil(3)) as i64 - 1, 1);
    let (mut olds, mut news) = (0, 0);
    let mut random = Random::new(11);
    for round in 0..if long() { 100 } else { 10 } {
        let _ = std::fs::remove_dir_all(path.join("store"));
        let store = Store::open(&config(path), std::slice::from_ref(&view)).unwrap();
        store.publish(&path.join("base")).unwrap();
        drop(store);
        let said = Said::start(child::command(module_path!()).env("LARDER_DELTA_FOLDER", path));
        assert_eq!(said.next(), "publishing");
        let _ = said.next_within(Duration::from_millis(random.below(60) as u64));
        said.kill();
        let store = Store::open(&config(path), std::slice::from_ref(&view)).unwrap();
        assert!(!path.join("store/replacing").exists(), "round {round}: what was left is gone");
        let found = show(&store);
        olds += usize::from(found == old);
        news += usize::from(found == new);
        assert!(found == old || found == new, "round {round}: {found:?}, neither {old:?} nor {new:?}");
        store.publish(&path.join("delta")).unwrap();
        assert_eq!(show(&store), new, "round {round}: published again");
    }
    println!("{olds} of the old state, {news} of the new one");
}

#[test]
fn the_commands_build_publish_list_and_drop() {
    let shop = Shop::new(&[DEMO]);
    let store_config = shop.config();
    let file = shop.path().join("larder.toml").display().to_string();
    let say = |arguments: &[&str]| {
        let ran = run(&[arguments, &["--config", &file]].concat());
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    let changed = shop.path().join("changed.parquet");
    let at = now_ms();
    parquet(
        &changed,
        vec![
            ("user_id", text(&["user-3"])),
            ("updated_at", times(&[at])),
            ("order_id", text(&["fresh"])),
            ("status", text(&["shipped"])),
        ],
    );
    let gone = shop.path().join("gone.parquet");
    parquet(&gone, vec![("user_id", text(&["user-4", "user-5"]))]);
    let (changed, gone) = (changed.display().to_string(), gone.display().to_string());
    let out = shop.path().join("delta").display().to_string();
    let since = "2020-01-01T00:00:00Z";
    let view = ["--tenant", "demo", "--view", "orders"];
    let built =
        say(&[&["ingest", "build"], &view[..], &["--since", since, "--out", &out, &changed, "--deletes", &gone]]
            .concat());
    let expected = format!(" in {out}: 1 rows and 2 deletions of 3 entities, since 2020-01-01");
    assert!(built.starts_with("Built delta snapshot ") && built.contains(&expected), "{built}");
    let published = say(&["ingest", "publish", &out]);
    assert!(published.contains(&format!("{} entities", USERS - 2)), "{published}");
    let store = Store::open(&store_config.store, &store_config.views).unwrap();
    let fetched = store
        .fetch(&plan(&store, &["orders:order_id"]), &of_tenant(1, &["user-3", "user-4", "user-6"]), now_ms())
        .unwrap();
    let view_of = &fetched.views[0];
    let first = |row: usize| view_of.columns[0].as_list::<i32>().value(row).as_string::<i32>().value(0).to_owned();
    assert_eq!((first(0), first(2)), ("fresh".to_owned(), order_id(DEMO, 6, 1)));
    assert_eq!(view_of.status[1], Status::NotFound);
    drop(store);
    let again = say(&["ingest", "publish", &out]);
    assert!(again.contains("was live already"), "{again}");
    let dropped = say(&[&["ingest", "drop"], &view[..], &["--generation", "1"]].concat());
    assert!(dropped.starts_with("Generation 1 of demo:orders is dropped from "), "{dropped}");
    let listed = say(&["ingest", "list"]);
    assert!(!listed.lines().any(|line| line.contains("orders") && line.contains("previous")), "{listed}");
    for (arguments, expected) in [
        (vec!["ingest", "build", "--deletes", &gone, "--out", "x"], "--since"),
        (vec!["ingest", "build", "--since", since, "--cold-after", "1d", "--out", "x", &changed], "--cold-after"),
        (vec!["ingest", "drop", "--generation", "1"], "there is none"),
    ] {
        let ran = run(&[&arguments[..], &view[..], &["--config", &file]].concat());
        assert_ne!(ran.code, Some(0), "{arguments:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
}
