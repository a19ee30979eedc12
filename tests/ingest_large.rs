//! Promise: a snapshot that does not fit into memory becomes the same generation as one that does, and a build that is killed at any point
//! goes on where it was when it is started again, or starts anew when something else is asked for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use larder_ingest::{BuildReport, BuildRequest, Error, Location, Progress, build};
use larder_store::{FeatureType, Shard, Status, Store, StoreConfig, TenantId, ViewConfig};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::support::child::{self, Said, say};
use crate::support::store::{config, feature, of_tenant, orders, plan, profile};

/// Set for a child process: the folder it works in.
const CHILD_FOLDER: &str = "LARDER_TEST_CHILD_FOLDER";
/// Set for a child process: where it waits to be killed.
const CHILD_POINT: &str = "LARDER_TEST_CHILD_POINT";
/// Set for a child process: how its build differs from the usual one.
const CHILD_KIND: &str = "LARDER_TEST_CHILD_KIND";

const ROWS: usize = 20_000;

/// One row of a source: entity, time, a number, the element's key.
type Row = (String, i64, i64, String);

fn latest() -> ViewConfig {
    let features = vec![feature("number", FeatureType::I64), feature("order_id", FeatureType::Utf8)];
    ViewConfig { ttl_s: None, features, ..profile() }
}

fn history() -> ViewConfig {
    ViewConfig { ttl_s: None, ..orders() }
}

fn write(path: &Path, rows: &[Row], group_rows: usize) {
    let texts =
        |column: fn(&Row) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(column))) };
    let numbers = rows.iter().map(|row| row.2);
    let columns: [(&str, ArrayRef); 6] = [
        ("user_id", texts(|row| &row.0)),
        ("updated_at", Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ("number", Arc::new(Int64Array::from_iter_values(numbers.clone()))),
        ("order_id", texts(|row| &row.3)),
        ("total", Arc::new(Float64Array::from_iter_values(numbers.map(|number| number as f64)))),
        ("status", texts(|_| "a text of some length, so that the rows take their place")),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Rows in no order, of few entities and fewer times, so that many of them are duplicates and many of those of equal age.
fn drawn(rows: usize, entities: u64, times: u64, mut random: u64) -> Vec<Row> {
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    let row = |number: usize| {
        let (entity, time, order) = (draw(entities), draw(times), draw(40));
        (format!("user-{entity}"), time as i64, number as i64, format!("o-{order}"))
    };
    (0..rows).map(row).collect()
}

/// What a build of these sources made, and whether it needed files for runs.
fn built(view: &ViewConfig, sources: &[PathBuf], out: &Path, mib: u64, threads: usize) -> BuildReport {
    let sources = sources.iter().cloned().map(Location::from).collect();
    let mut request = BuildRequest::new(view, TenantId(1), sources, out.to_owned(), 1, 77);
    request.limits.max_memory_mib = mib;
    request.limits.threads = threads;
    build(&request, &mut |_| ()).unwrap()
}

/// All that a generation says of these entities, by one feature of its view.
fn served(view: &ViewConfig, built: &Path, feature: &str, entities: u64) -> Vec<(Status, i64, String)> {
    served_by(Shard::default(), view, built, feature, entities)
}

/// The same, by a store of a shard.
fn served_by(
    shard: Shard,
    view: &ViewConfig,
    built: &Path,
    feature: &str,
    entities: u64,
) -> Vec<(Status, i64, String)> {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { shard, ..config(folder.path()) };
    let store = Store::open(&config, std::slice::from_ref(view)).unwrap();
    store.publish(built).unwrap();
    let plan = plan(&store, &[&format!("{}:{feature}", view.name)]);
    let names: Vec<_> = (0..entities).map(|entity| format!("user-{entity}")).collect();
    let mut found = Vec::new();
    for names in names.chunks(1000) {
        let asked: Vec<_> = names.iter().map(String::as_str).collect();
        let fetched = store.fetch(&plan, &of_tenant(1, &asked), 0).unwrap();
        let view = &fetched.views[0];
        let text = |row: usize| format!("{:?}", view.columns[0].slice(row, 1));
        found.extend((0..asked.len()).map(|row| (view.status[row], view.event_time_ms[row], text(row))));
    }
    found
}

proptest! {
    #![proptest_config(Config { cases: 6, ..Config::default() })]

    #[test]
    fn rows_that_are_set_aside_come_to_the_same_as_rows_in_memory(
        rows in 2_500usize..20_000,
        entities in 1u64..3_000,
        times in 1u64..6,
        files in 1usize..5,
        group_rows in 100usize..9_000,
        threads in 1usize..5,
        random in 1u64..,
        is_history: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let drawn = drawn(rows, entities, times, random);
        let parts = drawn.chunks(rows.div_ceil(files)).flat_map(|rows| [rows, &[]]);
        let sources: Vec<_> = parts.enumerate().map(|(number, rows)| {
            let path = folder.path().join(format!("{number}.parquet"));
            write(&path, rows, group_rows);
            path
        }).collect();
        let (view, feature) = if is_history { (history(), "total") } else { (latest(), "number") };
        let (large, small) = (folder.path().join("large"), folder.path().join("small"));
        let in_memory = built(&view, &sources, &large, 1024, threads);
        let set_aside = built(&view, &sources, &small, 1, threads);
        prop_assert_eq!(in_memory.rows_read, rows as u64);
        prop_assert_eq!(set_aside.rows_read, rows as u64);
        prop_assert_eq!(in_memory.duplicates, set_aside.duplicates);
        prop_assert_eq!(in_memory.beyond_n, set_aside.beyond_n);
        prop_assert_eq!(in_memory.manifest.rows, set_aside.manifest.rows);
        let expected = served(&view, &large, feature, entities);
        prop_assert_eq!(&served(&view, &small, feature, entities), &expected);
        if !is_history {
            // Against the plainest model there is: of an entity's newest rows the last one.
            for (entity, (status, time, number)) in expected.iter().enumerate() {
                let of_entity = drawn.iter().filter(|row| row.0 == format!("user-{entity}"));
                let newest = of_entity.max_by_key(|row| (row.1, row.2));
                prop_assert_eq!(*status == Status::Present, newest.is_some());
                if let Some(newest) = newest {
                    prop_assert_eq!(*time, newest.1);
                    prop_assert!(number.contains(&format!("{},", newest.2)), "{} {:?}", number, newest);
                }
            }
        }
    }
}

/// A folder with a source that does not fit into the memory it is given.
struct Large {
    folder: tempfile::TempDir,
}

impl Large {
    fn new() -> Large {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("rows.parquet"), &drawn(ROWS, 5_000, 1_000_000, 42), 3_000);
        Large { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts a build in a process of its own and kills it at a point.
    fn kill_at(&self, point: &str) {
        self.kill(point, "usual");
    }

    /// The same with a build of a kind: see [`change`].
    fn kill(&self, point: &str, kind: &str) {
        let mut command = child::command(module_path!());
        command.env(CHILD_FOLDER, self.folder.path()).env(CHILD_POINT, point).env(CHILD_KIND, kind);
        let said = Said::start(&mut command);
        assert_eq!(said.next(), "there");
        said.kill();
        assert!(!self.path("built").exists(), "killed at {point}");
    }

    /// What a build in this process finds of one before it, and its result.
    fn build(&self, change: impl FnOnce(&mut BuildRequest<'_>)) -> (Vec<Option<u64>>, Result<BuildReport, Error>) {
        self.build_watched(change, &mut |_| ())
    }

    /// The same; somebody hears how far it is.
    fn build_watched(
        &self,
        change: impl FnOnce(&mut BuildRequest<'_>),
        watch: &mut dyn FnMut(Progress),
    ) -> (Vec<Option<u64>>, Result<BuildReport, Error>) {
        let view = latest();
        let mut request = request(&view, self.folder.path());
        change(&mut request);
        let mut remains = Vec::new();
        let report = build(&request, &mut |progress| {
            match progress {
                Progress::Remains { rows } => remains.push(rows),
                Progress::Damaged => remains.push(None),
                _ => {}
            }
            watch(progress);
        });
        (remains, report)
    }
}

fn request<'a>(view: &'a ViewConfig, folder: &Path) -> BuildRequest<'a> {
    let sources = vec![folder.join("rows.parquet").into()];
    let mut request = BuildRequest::new(view, TenantId(1), sources, folder.join("built"), 1, 77);
    request.limits.max_memory_mib = 1;
    request.limits.threads = 2;
    request
}

/// Makes another kind of build of a request.
fn change(request: &mut BuildRequest<'_>, kind: &str) {
    match kind {
        "fresh" => request.fresh = true,
        "shard on another disk" => {
            request.shard = SHARD.parse().unwrap();
            request.spill = request.out.parent().map(|folder| folder.join("spill"));
        }
        _ => {}
    }
}

/// The part of the users that a build of one shard keeps.
const SHARD: &str = "1/3";

/// Not a test by itself: the other tests run it in a process of its own, which builds until a point and waits there to be killed.
#[test]
fn child_process() {
    let (Ok(folder), Ok(point)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_POINT)) else {
        return;
    };
    let view = latest();
    let mut request = request(&view, Path::new(&folder));
    change(&mut request, &std::env::var(CHILD_KIND).unwrap_or_default());
    let mut sorted = false;
    let report = build(&request, &mut |progress| {
        let is_there = match (point.as_str(), progress) {
            ("early", Progress::Reading { rows, .. }) => rows > 0,
            // What two threads may be at is less than that.
            ("late", Progress::Reading { rows, .. }) => rows > ROWS as u64 / 4 * 3,
            ("remains", Progress::Remains { rows }) => {
                assert_eq!(rows, None, "a fresh build takes nothing over");
                true
            }
            ("half", Progress::Reading { rows, .. }) => rows > ROWS as u64 / 2,
            ("sorting", Progress::Sorting { .. }) => true,
            ("writing", Progress::Writing { rows, .. }) => sorted && rows > 0,
            ("written", Progress::Writing { rows, of }) => sorted && rows == of,
            _ => false,
        };
        sorted |= matches!(progress, Progress::Sorting { .. });
        if is_there {
            say("there");
            loop {
                thread::park();
            }
        }
    });
    panic!("not killed: {report:?}");
}

#[test]
fn a_build_that_is_killed_goes_on_after_the_rows_it_had_sorted() {
    let whole = Large::new();
    let (remains, expected) = whole.build(|_| ());
    assert_eq!((remains, whole.names()), (vec![], vec!["built".to_owned(), "rows.parquet".to_owned()]));
    let expected = expected.unwrap();
    assert_eq!(expected.rows_read, ROWS as u64);
    let all = served(&latest(), &whole.path("built"), "number", 5_000);
    for point in ["early", "half", "sorting", "writing", "written"] {
        let large = Large::new();
        large.kill_at(point);
        // Twice, so that what a second build took over is taken over again.
        if point == "half" {
            large.kill_at("writing");
        }
        let (remains, report) = large.build(|_| ());
        let report = report.unwrap();
        if ["sorting", "writing", "written"].contains(&point) {
            assert_eq!(remains, [Some(ROWS as u64)], "{point}: all rows had been sorted");
        }
        assert!(remains.iter().all(|rows| rows.is_some_and(|rows| rows > 0)), "{point}: {remains:?}");
        assert_eq!((report.rows_read, report.duplicates), (expected.rows_read, expected.duplicates), "{point}");
        assert_eq!(report.manifest.rows, expected.manifest.rows, "{point}");
        assert_eq!(served(&latest(), &large.path("built"), "number", 5_000), all, "{point}");
        assert_eq!(large.names(), ["built", "rows.parquet"], "{point}: nothing is left behind");
    }
}

#[test]
fn other_sources_or_a_fresh_start_take_nothing_over() {
    let large = Large::new();
    large.kill_at("sorting");
    write(&large.path("rows.parquet"), &drawn(1_000, 10, 5, 7), 1_000);
    let (remains, report) = large.build(|_| ());
    assert_eq!((remains, report.unwrap().rows_read), (vec![None], 1_000));

    let large = Large::new();
    large.kill_at("sorting");
    let (remains, report) = large.build(|request| request.fresh = true);
    assert_eq!((remains, report.unwrap().rows_read), (vec![None], ROWS as u64));

    // Another view of the same rows.
    let large = Large::new();
    large.kill_at("sorting");
    let (remains, report) = large.build(|request| request.terms = "other terms".to_owned());
    assert_eq!((remains, report.unwrap().rows_read), (vec![None], ROWS as u64));
    assert_eq!(large.names(), ["built", "rows.parquet"]);
}

#[test]
fn a_run_that_was_damaged_meanwhile_is_not_trusted() {
    let large = Large::new();
    large.kill_at("sorting");
    let runs = fs::read_dir(large.path(".built.building/runs")).unwrap();
    let run = runs.map(|entry| entry.unwrap().path()).next().unwrap();
    let bytes = fs::read(&run).unwrap();
    fs::write(&run, &bytes[..bytes.len() - 1]).unwrap();
    let (remains, report) = large.build(|_| ());
    assert_eq!((remains, report.unwrap().rows_read), (vec![None], ROWS as u64));
}

#[test]
fn a_run_with_a_flipped_byte_is_not_trusted_and_the_generation_is_the_same() {
    let whole = Large::new();
    let expected = whole.build(|_| ()).1.unwrap();
    let all = served(&latest(), &whole.path("built"), "number", 5_000);
    for point in ["late", "writing"] {
        let large = Large::new();
        large.kill_at(point);
        let state = fs::read_to_string(large.path(".built.building/state.json")).unwrap();
        let runs = fs::read_dir(large.path(".built.building/runs")).unwrap().map(|entry| entry.unwrap());
        // Not one that was being written.
        let run = runs.filter(|run| state.contains(run.file_name().to_str().unwrap())).map(|run| run.path()).min();
        let run = run.unwrap();
        let mut bytes = fs::read(&run).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&run, bytes).unwrap();
        let (remains, report) = large.build(|_| ());
        let report = report.unwrap();
        assert!(remains[0].is_some_and(|rows| rows > 0), "{point}: its length says nothing");
        if point == "writing" {
            assert_eq!(remains, [Some(ROWS as u64), None], "it was begun anew");
        }
        assert_eq!((report.rows_read, report.duplicates), (expected.rows_read, expected.duplicates), "{point}");
        assert_eq!(served(&latest(), &large.path("built"), "number", 5_000), all, "{point}");
        assert_eq!(large.names(), ["built", "rows.parquet"], "{point}: nothing is left behind");
    }
}

#[test]
fn a_shard_whose_rows_are_set_aside_on_another_disk_goes_on_there() {
    let kind = "shard on another disk";
    let shard: Shard = SHARD.parse().unwrap();
    let whole = Large::new();
    let expected = whole.build(|request| change(request, kind)).1.unwrap();
    let (own, elsewhere) = (expected.manifest.rows + expected.duplicates, expected.rows_elsewhere);
    assert_eq!(own + elsewhere, ROWS as u64);
    assert!(own > ROWS as u64 / 5 && elsewhere > ROWS as u64 / 2, "{own} and {elsewhere}");
    let all = served_by(shard, &latest(), &whole.path("built"), "number", 5_000);
    for point in ["half", "sorting", "writing", "written"] {
        let large = Large::new();
        large.kill(point, kind);
        let mut of = Vec::new();
        let (remains, report) = large.build_watched(|request| change(request, kind), &mut |progress| match progress {
            Progress::Sorting { rows } => of.push(rows),
            Progress::Writing { of: rows, .. } => of.push(rows),
            _ => {}
        });
        assert!(remains.iter().all(|rows| rows.is_some_and(|rows| rows > 0)), "{point}: {remains:?}");
        let report = report.unwrap();
        assert_eq!((report.rows_elsewhere, report.duplicates), (elsewhere, expected.duplicates), "{point}");
        assert!(
            of.iter().all(|rows| *rows == own),
            "{point}: the shard's own rows and nobody else's are counted: {of:?}"
        );
        assert_eq!(served_by(shard, &latest(), &large.path("built"), "number", 5_000), all, "{point}");
        assert_eq!(fs::read_dir(large.path("spill")).unwrap().count(), 0, "{point}: nothing is left there");
    }
    // What is set aside on a disk that is not named again goes all the same.
    let large = Large::new();
    large.kill("sorting", kind);
    assert_eq!(fs::read_dir(large.path("spill")).unwrap().count(), 1);
    let (_, report) = large.build(|request| request.shard = shard);
    assert_eq!(report.unwrap().rows_elsewhere, elsewhere);
    assert_eq!(fs::read_dir(large.path("spill")).unwrap().count(), 0);
}

#[test]
fn a_fresh_build_that_is_killed_leaves_what_it_sorted_itself() {
    let large = Large::new();
    large.kill_at("sorting");
    large.kill("remains", "fresh");
    large.kill("late", "usual");
    large.kill("late", "fresh");
    let (remains, report) = large.build(|_| ());
    assert!(remains[0].unwrap() > 0, "{remains:?}");
    assert_eq!(report.unwrap().rows_read, ROWS as u64);
    let whole = Large::new();
    whole.build(|_| ()).1.unwrap();
    let all = |large: &Large| served(&latest(), &large.path("built"), "number", 5_000);
    assert_eq!(all(&large), all(&whole));
}

#[test]
fn a_source_that_is_replaced_in_the_middle_stops_the_build() {
    for point in ["early", "sorting", "writing"] {
        let large = Large::new();
        let next = large.path("next.parquet");
        write(&next, &drawn(1_000, 10, 5, 7), 1_000);
        let mut sorted = false;
        let (_, report) = large.build_watched(|_| (), &mut |progress| {
            sorted |= matches!(progress, Progress::Sorting { .. });
            let is_there = match progress {
                Progress::Reading { rows, .. } => point == "early" && rows > 0,
                Progress::Sorting { .. } => point == "sorting",
                Progress::Writing { rows, .. } => point == "writing" && sorted && rows > 0,
                _ => false,
            };
            // As an export does it: whole, under another name, and then in the place of the old one.
            if is_there && next.exists() {
                fs::rename(&next, large.path("rows.parquet")).unwrap();
            }
        });
        let refused = report.unwrap_err().to_string();
        assert!(
            refused.contains("rows.parquet") && refused.contains("changed while it was read"),
            "{point}: {refused}"
        );
        assert_eq!(large.names(), ["rows.parquet"], "{point}: nothing of two states is left");
        assert_eq!(large.build(|_| ()).1.unwrap().rows_read, 1_000, "{point}");
    }
}

#[test]
fn a_writer_that_fails_after_the_sort_costs_no_sorting() {
    let whole = Large::new();
    whole.build(|_| ()).1.unwrap();
    let all = |large: &Large| served(&latest(), &large.path("built"), "number", 5_000);
    let large = Large::new();
    let mut sorted = false;
    let (_, report) = large.build_watched(|_| (), &mut |progress| {
        sorted |= matches!(progress, Progress::Sorting { .. });
        // Somebody tidies up.
        if sorted && matches!(progress, Progress::Writing { .. }) {
            let _ = fs::remove_dir_all(large.path(".built.building/generation"));
        }
    });
    let refused = report.unwrap_err();
    assert!(matches!(refused, Error::Store(larder_store::Error::CheckDisk { .. })), "{refused:?}");
    let (remains, report) = large.build(|_| ());
    assert_eq!((remains, report.unwrap().rows_read), (vec![Some(ROWS as u64)], ROWS as u64));
    assert_eq!(all(&large), all(&whole));
}

#[test]
fn a_build_that_is_done_is_not_done_again() {
    let large = Large::new();
    let (_, first) = large.build(|_| ());
    let first = first.unwrap();
    assert!(!first.already_built);
    let (_, again) = large.build(|request| (request.generation, request.as_of_ms) = (2, 78));
    assert_eq!(again.unwrap(), BuildReport { already_built: true, ..first });
    let refused = |change: fn(&mut BuildRequest<'_>)| large.build(change).1.unwrap_err().to_string();
    assert!(
        refused(|request| request.terms = "as of another day".to_owned())
            .ends_with("built exists: build into a new folder")
    );
    assert!(refused(|request| request.tenant = TenantId(2)).ends_with("build into a new folder"));
    fs::remove_file(large.path("built/manifest.json")).unwrap();
    assert!(large.build(|_| ()).1.is_err(), "a folder without a manifest is no generation");
}

#[test]
fn runs_go_to_the_disk_that_is_named() {
    let large = Large::new();
    let spill = large.path("spill");
    let view = latest();
    let mut request = request(&view, large.folder.path());
    request.spill = Some(spill.clone());
    let mut seen = 0;
    let report = build(&request, &mut |progress| {
        if matches!(progress, Progress::Sorting { .. }) {
            let folder = fs::read_dir(&spill).unwrap().next().unwrap().unwrap().path();
            seen = fs::read_dir(folder).unwrap().count();
        }
    });
    assert_eq!(report.unwrap().rows_read, ROWS as u64);
    assert!(seen > 2, "{seen} runs");
    assert_eq!(fs::read_dir(&spill).unwrap().count(), 0);
    let one = &served(&view, &large.path("built"), "number", 1)[0];
    assert_eq!(one.0, Status::Present);
}
