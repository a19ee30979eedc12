//! Promise: a Parquet snapshot of any usual shape becomes a generation that a store serves, and one that does not fit the view is refused
//! with the file, the column and what is expected; nothing half built is ever left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::types::{Int32Type, TimestampMillisecondType};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, DictionaryArray,
    FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt32Array, UInt64Array,
};
use larder_ingest::{BuildLimits, BuildReport, BuildRequest, Error, Location, Progress, build};
use larder_store::{
    FeatureType, GenerationWriter, ManifestFile, Placement, Status, Store, TenantId, ViewConfig, WriterLimits,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArrayType, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::support::store::{
    Value, column, config, feature, of_tenant, orders, plan, profile, profile_row, renamed, value,
};

/// A view with one feature of the given type, without a time to live.
fn view_of(data_type: FeatureType) -> ViewConfig {
    ViewConfig { ttl_s: None, features: vec![feature("f", data_type)], ..profile() }
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn names(names: &[&str]) -> ArrayRef {
    array(StringArray::from(names.to_vec()))
}

fn ms(times: &[i64]) -> ArrayRef {
    array(TimestampMillisecondArray::from(times.to_vec()))
}

fn write(path: &Path, columns: &[(&str, ArrayRef)]) {
    write_with(path, columns, WriterProperties::default());
}

fn write_with(path: &Path, columns: &[(&str, ArrayRef)], properties: WriterProperties) {
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, column)| (*name, column.clone(), true)));
    let rows = rows.unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

/// A folder with source files and the store they end up in.
struct Shop {
    folder: tempfile::TempDir,
    view: ViewConfig,
    limits: BuildLimits,
    placement: Placement,
}

impl Shop {
    fn new(view: ViewConfig) -> Shop {
        Shop {
            folder: tempfile::tempdir().unwrap(),
            view,
            limits: BuildLimits::default(),
            placement: Placement::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, sources: Vec<PathBuf>) -> Result<BuildReport, Error> {
        self.build_to("built", sources, &mut |_| ())
    }

    fn build_to(
        &self,
        out: &str,
        sources: Vec<PathBuf>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<BuildReport, Error> {
        let sources = sources.into_iter().map(Location::from).collect();
        let mut request = BuildRequest::new(&self.view, TenantId(1), sources, self.path(out), 1, 77);
        request.placement = self.placement.clone();
        request.limits = self.limits.clone();
        build(&request, progress)
    }

    /// Writes `columns` to a file and builds from it.
    fn build_from(&self, columns: &[(&str, ArrayRef)]) -> Result<BuildReport, Error> {
        write(&self.path("rows.parquet"), columns);
        self.build(vec![self.path("rows.parquet")])
    }

    /// The message of a build that must fail and leave nothing.
    fn refusal(&self, sources: Vec<PathBuf>) -> String {
        let before = listing(self.folder.path());
        let error = self.build(sources).unwrap_err();
        assert_eq!(listing(self.folder.path()), before, "a refused build left something");
        error.to_string()
    }

    fn refusal_of(&self, columns: &[(&str, ArrayRef)]) -> String {
        write(&self.path("rows.parquet"), columns);
        self.refusal(vec![self.path("rows.parquet")])
    }

    /// Publishes what was built and fetches one feature of some entities: status, event time, value.
    fn serve(&self, feature: &str, entities: &[&str]) -> Vec<(Status, i64, Option<Value>)> {
        let store = Store::open(&config(self.folder.path()), std::slice::from_ref(&self.view)).unwrap();
        store.publish(&self.path("built")).unwrap();
        let fetched = store
            .fetch(&plan(&store, &[&format!("{}:{feature}", self.view.name)]), &of_tenant(1, entities), 0)
            .unwrap();
        let data_type = self.view.features.iter().find(|f| f.name == feature).unwrap().data_type;
        let view = &fetched.views[0];
        (0..entities.len())
            .map(|row| (view.status[row], view.event_time_ms[row], value(&view.columns[0], data_type, row)))
            .collect()
    }
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn keys_of_every_type_become_text() {
    let dictionary: DictionaryArray<Int32Type> = vec!["2", "-1", "2"].into_iter().collect();
    let columns = [
        names(&["2", "-1", "2"]),
        array(LargeStringArray::from(vec!["2", "-1", "2"])),
        array(StringViewArray::from(vec!["2", "-1", "2"])),
        array(dictionary),
        array(Int64Array::from(vec![2, -1, 2])),
        array(Int32Array::from(vec![2, -1, 2])),
        array(Int8Array::from(vec![2, -1, 2])),
    ];
    for key in columns {
        let what = key.data_type().clone();
        let shop = Shop::new(view_of(FeatureType::I64));
        let report = shop
            .build_from(&[
                ("user_id", key),
                ("updated_at", ms(&[10, 20, 30])),
                ("f", array(Int64Array::from(vec![1, 2, 3]))),
            ])
            .unwrap();
        assert_eq!((report.rows_read, report.manifest.entities, report.duplicates), (3, 2, 1), "{what}");
        let served = shop.serve("f", &["-1", "2", "3"]);
        assert_eq!(served[0], (Status::Present, 20, Some(Value::I64(2))), "{what}");
        assert_eq!(served[1], (Status::Present, 30, Some(Value::I64(3))), "{what}");
        assert_eq!(served[2], (Status::NotFound, 0, None), "{what}");
    }
    let shop = Shop::new(view_of(FeatureType::I64));
    let unsigned = array(UInt64Array::from(vec![u64::MAX]));
    shop.build_from(&[("user_id", unsigned), ("updated_at", ms(&[1])), ("f", array(Int64Array::from(vec![5])))])
        .unwrap();
    assert_eq!(shop.serve("f", &["18446744073709551615"])[0].2, Some(Value::I64(5)));
}

#[test]
fn a_column_may_have_a_former_name_of_its_feature() {
    let shop = || {
        let features = vec![renamed("loyalty", FeatureType::I64, &["score", "points"])];
        Shop::new(ViewConfig { features, ..view_of(FeatureType::I64) })
    };
    let column = |number: i32| array(Int32Array::from(vec![number]));
    let keys = [("user_id", names(&["u"])), ("updated_at", ms(&[1]))];
    let served = |columns: &[(&'static str, i32)]| {
        let columns: Columns = keys.iter().cloned().chain(columns.iter().map(|&(n, v)| (n, column(v)))).collect();
        let shop = shop();
        shop.build_from(&columns).unwrap();
        shop.serve("loyalty", &["u"])[0].2.clone()
    };
    assert_eq!(served(&[("points", 1)]), Some(Value::I64(1)));
    assert_eq!(served(&[("points", 1), ("score", 2)]), Some(Value::I64(2)));
    assert_eq!(served(&[("points", 1), ("loyalty", 3)]), Some(Value::I64(3)));

    let refused = |column: (&'static str, ArrayRef)| shop().refusal_of(&[keys.to_vec(), vec![column]].concat());
    let message = refused(("other", column(1)));
    assert!(message.contains("column loyalty (i64) of view profile is missing, the file has"), "{message}");
    let message = refused(("points", names(&["text"])));
    assert!(message.contains("column points is Utf8, view profile expects i64"), "{message}");
}

#[test]
fn times_of_every_unit_become_milliseconds_utc() {
    const DAY: i64 = 86_400_000;
    let columns: [(ArrayRef, i64); 10] = [
        (array(TimestampSecondArray::from(vec![3])), 3000),
        (array(TimestampMillisecondArray::from(vec![1234])), 1234),
        (array(TimestampMillisecondArray::from(vec![1234]).with_timezone("UTC")), 1234),
        (array(TimestampMillisecondArray::from(vec![1234]).with_timezone("+05:30")), 1234),
        (array(TimestampMicrosecondArray::from(vec![1_234_999])), 1234),
        (array(TimestampMicrosecondArray::from(vec![-1]).with_timezone("Europe/Berlin")), -1),
        (array(TimestampNanosecondArray::from(vec![1_234_999_999])), 1234),
        (array(TimestampNanosecondArray::from(vec![1_234_999_999]).with_timezone("UTC")), 1234),
        (array(Date32Array::from(vec![2])), 2 * DAY),
        (array(Date64Array::from(vec![2 * DAY])), 2 * DAY),
    ];
    for (times, expected) in columns {
        let what = times.data_type().clone();
        let shop = Shop::new(view_of(FeatureType::Timestamp));
        shop.build_from(&[("user_id", names(&["ada"])), ("updated_at", times.clone()), ("f", times)]).unwrap();
        let served = shop.serve("f", &["ada"]);
        assert_eq!(served, [(Status::Present, expected, Some(Value::Time(expected)))], "{what}");
    }
}

fn decimal(values: &[i128], digits: u8, scale: i8) -> Decimal128Array {
    Decimal128Array::from(values.to_vec()).with_precision_and_scale(digits, scale).unwrap()
}

/// A column of one struct.
fn nested() -> ArrayRef {
    let field = arrow::datatypes::Field::new("inside", arrow::datatypes::DataType::Utf8, true);
    array(StructArray::from(vec![(Arc::new(field), names(&["x"]))]))
}

#[test]
fn features_widen_but_never_narrow() {
    let floats = || Arc::new(arrow::datatypes::Field::new_list_field(arrow::datatypes::DataType::Float32, true));
    let fixed = FixedSizeListArray::new(floats(), 2, array(Float32Array::from(vec![0.5, 1.5])), None);
    let text: DictionaryArray<Int32Type> = vec!["gold"].into_iter().collect();
    let fits: Vec<(FeatureType, ArrayRef, Value)> = vec![
        (FeatureType::Bool, array(BooleanArray::from(vec![true])), Value::Bool(true)),
        (FeatureType::I32, array(Int16Array::from(vec![-7])), Value::I32(-7)),
        (FeatureType::I64, array(UInt32Array::from(vec![u32::MAX])), Value::I64(i64::from(u32::MAX))),
        (FeatureType::F32, array(Float32Array::from(vec![0.5])), Value::F32(0.5)),
        (FeatureType::F64, array(Float32Array::from(vec![0.5])), Value::F64(0.5)),
        (FeatureType::F64, array(Int32Array::from(vec![7])), Value::F64(7.0)),
        (FeatureType::Utf8, array(text), Value::Text("gold".to_string())),
        (FeatureType::Utf8, array(LargeStringArray::from(vec!["größe"])), Value::Text("größe".to_string())),
        (FeatureType::Utf8, array(StringViewArray::from(vec!["größe"])), Value::Text("größe".to_string())),
        (FeatureType::F64, array(decimal(&[1995], 10, 2)), Value::F64(19.95)),
        (FeatureType::I64, array(decimal(&[-7], 18, 0)), Value::I64(-7)),
        (
            FeatureType::F32,
            arrow::compute::cast(&Float32Array::from(vec![0.5]), &arrow::datatypes::DataType::Float16).unwrap(),
            Value::F32(0.5),
        ),
        (FeatureType::ListF32, array(fixed), Value::Floats(vec![0.5, 1.5])),
    ];
    for (data_type, column, expected) in fits {
        let what = format!("{} as {data_type}", column.data_type());
        let shop = Shop::new(view_of(data_type));
        shop.build_from(&[("user_id", names(&["ada"])), ("updated_at", ms(&[1])), ("f", column)]).unwrap();
        assert_eq!(shop.serve("f", &["ada"])[0].2, Some(expected), "{what}");
    }
    let misfits: Vec<(FeatureType, ArrayRef, &str)> = vec![
        (
            FeatureType::I32,
            array(Int64Array::from(vec![7])),
            "column f is Int64, view profile expects i32, which takes an integer of at most 32 bits",
        ),
        (FeatureType::I64, array(UInt64Array::from(vec![7])), "column f is UInt64, view profile expects i64"),
        (FeatureType::I64, array(Float64Array::from(vec![7.0])), "column f is Float64, view profile expects i64"),
        (FeatureType::F32, array(Float64Array::from(vec![7.0])), "column f is Float64, view profile expects f32"),
        (FeatureType::F64, names(&["7"]), "column f is Utf8, view profile expects f64"),
        (
            FeatureType::Utf8,
            array(Int64Array::from(vec![7])),
            "column f is Int64, view profile expects utf8, which takes text",
        ),
        (FeatureType::Bool, array(Int32Array::from(vec![1])), "column f is Int32, view profile expects bool"),
        (
            FeatureType::F64,
            array(decimal(&[1], 16, 2)),
            "column f is Decimal128(16, 2), view profile expects f64, which takes a float, a decimal of at most 15 digits",
        ),
        (
            FeatureType::Utf8,
            array(BinaryArray::from(vec![b"x".as_slice()])),
            "column f is Binary, view profile expects utf8",
        ),
        (FeatureType::Utf8, nested(), "view profile expects utf8, which takes text"),
        (
            FeatureType::Timestamp,
            array(Time64MicrosecondArray::from(vec![1])),
            "view profile expects timestamp, which takes a timestamp or a date",
        ),
        (
            FeatureType::Timestamp,
            names(&["2026-01-01"]),
            "column f is Utf8, view profile expects timestamp, which takes a timestamp or a date",
        ),
        (
            FeatureType::ListF32,
            array(Float32Array::from(vec![0.5])),
            "column f is Float32, view profile expects list_f32",
        ),
    ];
    for (data_type, column, reason) in misfits {
        let shop = Shop::new(view_of(data_type));
        let message = shop.refusal_of(&[("user_id", names(&["ada"])), ("updated_at", ms(&[1])), ("f", column)]);
        assert!(message.starts_with(&shop.path("rows.parquet").display().to_string()), "{message}");
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn keys_of_the_wrong_type_are_refused() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let f = || ("f", array(Int64Array::from(vec![1])));
    let float_key =
        shop.refusal_of(&[("user_id", array(Float64Array::from(vec![1.0]))), ("updated_at", ms(&[1])), f()]);
    assert!(
        float_key
            .contains("column user_id is Float64, view profile expects entity_key, which takes text or an integer"),
        "{float_key}"
    );
    let number_time =
        shop.refusal_of(&[("user_id", names(&["a"])), ("updated_at", array(Int64Array::from(vec![1]))), f()]);
    assert!(number_time.contains("column updated_at is Int64, view profile expects timestamp"), "{number_time}");
    let far = array(TimestampSecondArray::from(vec![i64::MAX / 2]));
    // Parquet has no seconds: the writer stores milliseconds, so the year must still fit there.
    let far = arrow::compute::cast(&far, &arrow::datatypes::DataType::Int64).unwrap();
    let message = shop.refusal_of(&[("user_id", names(&["a"])), ("updated_at", far), f()]);
    assert!(message.contains("updated_at is Int64"), "{message}");
}

#[test]
fn a_missing_column_is_named_with_what_is_there() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let message = shop.refusal_of(&[("user_id", names(&["ada"])), ("updated_at", ms(&[1])), ("g", names(&["x"]))]);
    assert!(
        message.ends_with("column f (i64) of view profile is missing, the file has user_id, updated_at, g"),
        "{message}"
    );
}

#[test]
fn many_files_row_groups_and_codecs_make_one_generation() {
    const ROWS: usize = 30_000;
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
    ];
    let view = ViewConfig { ttl_s: None, ..profile() };
    let shop = Shop::new(view.clone());
    let folder = shop.path("snapshot");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("_SUCCESS"), b"").unwrap();
    for (part, codec) in codecs.iter().enumerate() {
        // Neither sorted nor split by entity, columns in another order than declared, one more than declared.
        let rows: Vec<_> = (0..ROWS)
            .filter(|row| row % codecs.len() == part)
            .map(|row| profile_row(&format!("user-{:06}", row * 7919 % ROWS), row as i64, row as i64))
            .collect();
        let mut columns: Columns = vec![("extra", array(Int32Array::from(vec![0; rows.len()])))];
        for (index, feature) in view.features.iter().enumerate().rev() {
            let name: &'static str = feature.name.clone().leak();
            columns.push((name, column(feature.data_type, rows.iter().map(|row| row.values[index].as_ref()))));
        }
        columns.push(("updated_at", ms(&rows.iter().map(|row| row.event_time_ms).collect::<Vec<_>>())));
        columns.push(("user_id", names(&rows.iter().map(|row| row.entity.as_str()).collect::<Vec<_>>())));
        let properties =
            WriterProperties::builder().set_compression(*codec).set_max_row_group_row_count(Some(1000)).build();
        write_with(&folder.join(format!("part-{part}.parquet")), &columns, properties);
    }
    let mut steps = Vec::new();
    let mut note = |progress: Progress| {
        steps.push(match progress {
            Progress::Remains { .. } | Progress::Damaged => panic!("there was nothing to go on with"),
            Progress::Reading { rows, .. } => (0, rows),
            Progress::Sorting { rows } => (1, rows),
            Progress::Writing { rows, of } => {
                assert_eq!(of, ROWS as u64);
                (2, rows)
            }
        });
    };
    let report = shop.build_to("built", vec![folder], &mut note).unwrap();
    assert_eq!((report.files, report.rows_read, report.duplicates), (codecs.len(), ROWS as u64, 0));
    assert_eq!(report.manifest.entities, ROWS as u64);
    assert!(steps.is_sorted(), "progress went backwards");
    assert_eq!(steps.last(), Some(&(2, ROWS as u64)));
    let entities: Vec<_> = (0..ROWS).map(|entity| format!("user-{entity:06}")).collect();
    let asked: Vec<_> = entities.iter().map(String::as_str).collect();
    for part in [&asked[..2000], &asked[ROWS - 2000..]] {
        for (entity, (status, time, points)) in part.iter().zip(shop.serve("points", part)) {
            let number = (0..ROWS).find(|row| format!("user-{:06}", row * 7919 % ROWS) == **entity).unwrap() as i64;
            assert_eq!((status, time, points), (Status::Present, number, Some(Value::I64(number))), "{entity}");
        }
    }
}

#[test]
fn of_several_rows_the_newest_wins_whatever_their_order() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let report = shop
        .build_from(&[
            ("user_id", names(&["b", "a", "b", "a", "a", "b"])),
            ("updated_at", ms(&[30, 10, 10, 30, 20, 30])),
            ("f", array(Int64Array::from(vec![1, 2, 3, 4, 5, 6]))),
        ])
        .unwrap();
    assert_eq!((report.rows_read, report.duplicates, report.manifest.rows), (6, 4, 2));
    assert_eq!((report.manifest.event_time_min_ms, report.manifest.event_time_max_ms), (30, 30));
    let served = shop.serve("f", &["a", "b"]);
    assert_eq!(served[0].2, Some(Value::I64(4)));
    assert_eq!(served[1].2, Some(Value::I64(6)), "of equal times the row that comes last");
}

#[test]
fn elements_are_kept_newest_first_and_updates_replace() {
    let shop = Shop::new(ViewConfig { ttl_s: None, ..orders() });
    let report = shop
        .build_from(&[
            ("user_id", names(&["ada"; 6])),
            ("updated_at", ms(&[10, 20, 30, 40, 50, 60])),
            ("order_id", names(&["o1", "o2", "o3", "o1", "o4", "o4"])),
            ("total", array(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))),
            ("status", names(&["x"; 6])),
        ])
        .unwrap();
    assert_eq!((report.manifest.rows, report.manifest.entities), (3, 1));
    assert_eq!((report.duplicates, report.beyond_n), (2, 1));
    let store = Store::open(&config(shop.folder.path()), std::slice::from_ref(&shop.view)).unwrap();
    store.publish(&shop.path("built")).unwrap();
    let plan = plan(&store, &["orders:order_id", "orders:total"]);
    let fetched = store.fetch(&plan, &of_tenant(1, &["ada"]), 0).unwrap();
    let view = &fetched.views[0];
    let list = view.columns[0].as_list::<i32>().value(0);
    let ids: Vec<_> = list.as_string::<i32>().iter().flatten().collect();
    assert_eq!((ids, view.event_time_ms[0]), (vec!["o4", "o1", "o3"], 60));
    let totals = view.columns[1].as_list::<i32>().value(0);
    assert_eq!(value(&totals, FeatureType::F64, 1), Some(Value::F64(4.0)), "the update of o1, not the first row");
}

#[test]
fn rows_without_keys_are_counted_and_refused_beyond_the_limit() {
    let columns: [(&str, ArrayRef); 3] = [
        ("user_id", array(StringArray::from(vec![Some("a"), None, Some("c"), Some(""), Some("e")]))),
        ("updated_at", array(TimestampMillisecondArray::from(vec![Some(1), Some(2), None, Some(4), Some(5)]))),
        ("f", array(Int64Array::from(vec![Some(1), Some(2), Some(3), Some(4), None]))),
    ];
    let mut shop = Shop::new(view_of(FeatureType::I64));
    let message = shop.refusal_of(&columns);
    assert!(
        message.contains("rows.parquet: row 1: user_id is null; 3 rows without usable keys, max_rejected_rows is 0"),
        "{message}"
    );
    shop.limits.max_rejected_rows = 2;
    assert!(shop.refusal_of(&columns).contains("max_rejected_rows is 2"));
    shop.limits.max_rejected_rows = 3;
    let report = shop.build_from(&columns).unwrap();
    assert_eq!((report.rows_read, report.rows_rejected, report.manifest.entities), (5, 3, 2));
    let served = shop.serve("f", &["a", "c", "e"]);
    assert_eq!(served[0], (Status::Present, 1, Some(Value::I64(1))));
    assert_eq!(served[1].0, Status::NotFound);
    assert_eq!(served[2], (Status::Present, 5, None), "a null feature is not a null key");

    let shop = Shop::new(orders());
    let message = shop.refusal_of(&[
        ("user_id", names(&["ada"])),
        ("updated_at", ms(&[1])),
        ("order_id", array(StringArray::from(vec![None::<&str>]))),
        ("total", array(Float64Array::from(vec![1.0]))),
        ("status", names(&["x"])),
    ]);
    assert!(message.contains("row 0: order_id is null"), "{message}");
}

#[test]
fn rows_that_are_left_out_can_be_looked_at() {
    let mut shop = Shop::new(view_of(FeatureType::I64));
    let long = "x".repeat(400);
    let columns: [(&str, ArrayRef); 3] = [
        ("user_id", array(StringArray::from(vec![Some("a"), None, Some(&long), Some(""), Some("e")]))),
        ("updated_at", array(TimestampMillisecondArray::from(vec![Some(1), Some(2), Some(3), Some(4), None]))),
        ("f", array(Int64Array::from(vec![1, 2, 3, 4, 5]))),
    ];
    // In order but for the last row of the second file, so that the first file is read twice and its rows are counted once.
    write(&shop.path("1.parquet"), &columns);
    let last = [("user_id", names(&["a"])), ("updated_at", ms(&[9])), ("f", array(Int64Array::from(vec![9])))];
    write(&shop.path("2.parquet"), &last);
    shop.limits.max_rejected_rows = 4;
    let sources = || vec![Location::local(shop.path("1.parquet")), Location::local(shop.path("2.parquet"))];
    let rejects = shop.path("rejects.jsonl");
    let build_within = |max_rejected_rows| {
        let mut request = BuildRequest::new(&shop.view, TenantId(1), sources(), shop.path("built"), 1, 77);
        request.limits.max_rejected_rows = max_rejected_rows;
        request.rejects = Some(rejects.clone());
        build(&request, &mut |_| ())
    };
    let told = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&rejects).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let message = build_within(3).unwrap_err().to_string();
    assert!(message.ends_with(&format!("samples lie in {}", rejects.display())), "{message}");
    assert_eq!(told().len(), 4);
    fs::remove_file(&rejects).unwrap();
    let report = build_within(4).unwrap();
    assert_eq!((report.rows_read, report.rows_rejected, report.manifest.entities), (6, 4, 1));
    let expected = [
        (1, "user_id", "is null", None),
        (2, "user_id", "has 400 bytes, allowed are 1 to 256", Some(&long[..300])),
        (3, "user_id", "has 0 bytes, allowed are 1 to 256", Some("")),
        (4, "updated_at", "is null", Some("e")),
    ];
    let file = shop.path("1.parquet").display().to_string();
    let expected = expected.map(|(row, column, reason, key)| {
        serde_json::json!({ "file": file, "row": row, "column": column, "reason": reason, "key": key })
    });
    assert_eq!(told(), expected);
}

#[test]
fn folders_of_any_depth_are_read_and_name_columns() {
    let features = vec![
        feature("f", FeatureType::I64),
        feature("day", FeatureType::Timestamp),
        renamed("shop_number", FeatureType::I32, &["shop"]),
    ];
    let shop = Shop::new(ViewConfig { features, ..view_of(FeatureType::I64) });
    let rows = |path: &str, entity: &str, number: i64, own_day: Option<i64>| {
        let path = shop.path("snapshot").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut columns: Columns = vec![
            ("user_id", names(&[entity])),
            ("updated_at", ms(&[number])),
            ("f", array(Int64Array::from(vec![number]))),
        ];
        columns.extend(own_day.map(|day| ("day", ms(&[day]))));
        write(&path, &columns);
    };
    rows("shop=7/day=1970-01-02/a.parquet", "ada", 1, None);
    rows("shop=7/day=1970-01-03/deep/b.parquet", "bob", 2, Some(5));
    rows("shop=-8/day=__HIVE_DEFAULT_PARTITION__/c.parquet", "eve", 3, None);
    rows("_temporary/shop=1/day=1970-01-09/d.parquet", "nobody", 4, None);
    let report = shop.build(vec![shop.path("snapshot")]).unwrap();
    assert_eq!((report.files, report.rows_read), (3, 3));
    let values = |feature| shop.serve(feature, &["ada", "bob", "eve"]).into_iter().map(|row| row.2).collect::<Vec<_>>();
    let (time, number) = (|ms| Some(Value::Time(ms)), |number| Some(Value::I32(number)));
    assert_eq!(values("day"), [time(86_400_000), time(5), None], "a file's own column goes before its folder's");
    assert_eq!(values("shop_number"), [number(7), number(7), number(-8)]);

    fs::remove_dir_all(shop.path("built")).unwrap();
    rows("shop=seven/day=1970-01-02/e.parquet", "zoe", 5, None);
    let message = shop.refusal(vec![shop.path("snapshot")]);
    assert!(message.contains("e.parquet: column shop: the folder says \"seven\", which is no i32"), "{message}");
}

#[test]
fn a_file_without_rows_is_refused() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let none: [i64; 0] = [];
    let message = shop.refusal_of(&[
        ("user_id", names(&[])),
        ("updated_at", ms(&none)),
        ("f", array(Int64Array::from(none.to_vec()))),
    ]);
    assert!(message.contains("no usable row"), "{message}");
}

#[test]
fn what_is_no_parquet_file_is_named() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let path = shop.path("rows.parquet");
    for (bytes, what) in [(b"".as_slice(), "empty"), (b"user_id,f\nada,1\n", "text"), (&[0; 5000], "zeros")] {
        fs::write(&path, bytes).unwrap();
        let message = shop.refusal(vec![path.clone()]);
        assert!(message.starts_with(&format!("{}: not a readable Parquet file", path.display())), "{what}: {message}");
    }
    let absent = shop.refusal(vec![shop.path("absent.parquet")]);
    assert!(absent.starts_with(&format!("cannot open {}", shop.path("absent.parquet").display())), "{absent}");
    fs::create_dir(shop.path("empty")).unwrap();
    assert!(shop.refusal(vec![shop.path("empty")]).ends_with("holds no *.parquet file"));
    assert!(shop.refusal(Vec::new()).contains("no source files"));
}

/// Rows enough for several pages in every column.
fn plenty(path: &Path) {
    let keys: Vec<_> = (0..5000).map(|number| format!("user-{number}")).collect();
    write(
        path,
        &[
            ("user_id", names(&keys.iter().map(String::as_str).collect::<Vec<_>>())),
            ("updated_at", ms(&(0..5000).collect::<Vec<_>>())),
            ("f", array(Int64Array::from((0..5000).collect::<Vec<_>>()))),
        ],
    );
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let path = shop.path("rows.parquet");
    plenty(&path);
    let whole = fs::read(&path).unwrap();
    for length in [4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let message = shop.refusal(vec![path.clone()]);
        assert!(message.contains("rows.parquet: not a readable Parquet file"), "{length} bytes: {message}");
    }
    // The end is there, so the file opens, but the pages before it are not what they were.
    let mut hollow = whole.clone();
    hollow[4..2000].fill(0xAA);
    fs::write(&path, &hollow).unwrap();
    let message = shop.refusal(vec![path.clone()]);
    assert!(message.contains("it is cut short or damaged"), "{message}");
}

#[test]
fn a_damaged_file_never_panics() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let path = shop.path("rows.parquet");
    plenty(&path);
    let whole = fs::read(&path).unwrap();
    let mut random = 88_172_645_463_325_252u64;
    for round in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..1 + round % 4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Every other time within the footer, where the lengths are.
            let span = if round % 2 == 0 { bytes.len() } else { 800 };
            let at = bytes.len() - 1 - (random >> 16) as usize % span;
            bytes[at] ^= 1 << (random & 7);
        }
        fs::write(&path, &bytes).unwrap();
        // Damage that no checksum covers may pass for data; what matters is that the build ends in order.
        let out = format!("built-{round}");
        match shop.build_to(&out, vec![path.clone()], &mut |_| ()) {
            Ok(_) => assert!(shop.path(&out).join("manifest.json").exists()),
            Err(_) => assert!(!shop.path(&out).exists()),
        }
    }
}

#[test]
fn a_sorted_snapshot_is_written_as_it_is_read_and_the_first_row_out_of_order_is_noticed() {
    let text = "a text of some length, so that the rows take their place";
    let keys: Vec<_> = (0..20_000).map(|number| format!("user-{number:05}")).collect();
    let mut keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let columns = |keys: &[&str]| {
        [("user_id", names(keys)), ("updated_at", ms(&vec![1; keys.len()])), ("f", names(&vec![text; keys.len()]))]
    };
    let mut shop = Shop::new(view_of(FeatureType::Utf8));
    shop.limits.max_memory_mib = 1;
    let path = shop.path("rows.parquet");
    let sorts = |shop: &Shop| {
        let mut sorts = false;
        let mut note = |progress| sorts |= matches!(progress, Progress::Sorting { .. });
        let report = shop.build_to("built", vec![path.clone()], &mut note).unwrap();
        assert_eq!((report.rows_read, report.manifest.entities, report.duplicates), (20_000, 20_000, 0));
        sorts
    };
    write(&path, &columns(&keys));
    assert!(!sorts(&shop));

    // Nearly all rows have been written when the build must start again.
    keys.swap(19_998, 19_999);
    fs::remove_dir_all(shop.path("built")).unwrap();
    write(&path, &columns(&keys));
    assert!(sorts(&shop));
    let served = shop.serve("f", &["user-00000", "user-19999"]);
    assert!(served.iter().all(|(status, ..)| *status == Status::Present));
}

#[test]
fn a_row_larger_than_the_limit_is_refused() {
    let mut shop = Shop::new(view_of(FeatureType::Utf8));
    shop.limits.writer = WriterLimits { max_row_bytes: 100, ..WriterLimits::default() };
    let message = shop.refusal_of(&[
        ("user_id", names(&["ada", "bob"])),
        ("updated_at", ms(&[1, 1])),
        ("f", names(&["short", &"x".repeat(100)])),
    ]);
    assert!(message.contains("entity \"bob\": a row of") && message.contains("max_row_bytes is 100"), "{message}");
}

#[test]
fn old_entities_are_built_cold_but_those_that_are_active() {
    let mut shop = Shop::new(view_of(FeatureType::I64));
    let active = ["asked".to_string()].into();
    shop.placement = Placement { cold_before_ms: Some(20), active };
    let users = names(&["old", "asked", "new", "revived", "revived"]);
    let numbers = array(Int64Array::from(vec![1, 2, 3, 4, 5]));
    let report = shop.build_from(&[("user_id", users), ("updated_at", ms(&[10, 11, 20, 12, 25])), ("f", numbers)]);
    let manifest = report.unwrap().manifest;
    let entities = |files: &[ManifestFile]| files.iter().map(|file| file.entities).collect::<Vec<_>>();
    assert_eq!((entities(&manifest.cold), entities(&manifest.files), manifest.entities), (vec![1], vec![3], 4));
    let served = shop.serve("f", &["asked", "new", "revived"]);
    let values: Vec<_> = served.into_iter().map(|(status, _, value)| (status, value.unwrap())).collect();
    assert_eq!(values, [2, 3, 5].map(|number| (Status::Present, Value::I64(number))));
}

#[test]
fn an_output_that_exists_is_left_alone_and_a_dead_builds_remains_are_removed() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let columns: [(&str, ArrayRef); 3] =
        [("user_id", names(&["ada"])), ("updated_at", ms(&[1])), ("f", array(Int64Array::from(vec![1])))];
    let remains = shop.path(".built.building/generation");
    fs::create_dir_all(&remains).unwrap();
    fs::write(remains.join("000001.sst"), b"of a build that was killed").unwrap();
    shop.build_from(&columns).unwrap();
    let left: Vec<_> = listing(shop.folder.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["built", "rows.parquet"]);
    let before = fs::read(shop.path("built/manifest.json")).unwrap();
    assert!(shop.refusal_of(&columns).ends_with("built exists: build into a new folder"));
    assert_eq!(fs::read(shop.path("built/manifest.json")).unwrap(), before);
}

#[test]
fn two_builds_of_one_output_do_not_meet() {
    let shop = Shop::new(view_of(FeatureType::I64));
    let path = shop.path("rows.parquet");
    plenty(&path);
    let mut inner = None;
    let report = shop.build_to("built", vec![path.clone()], &mut |progress| {
        if matches!(progress, Progress::Sorting { .. }) {
            inner = Some(shop.build(vec![path.clone()]).unwrap_err().to_string());
        }
    });
    assert_eq!(report.unwrap().manifest.entities, 5000);
    assert!(inner.unwrap().ends_with("built is under way"));
}

#[test]
fn the_writer_refuses_rows_that_break_its_rules() {
    let folder = tempfile::tempdir().unwrap();
    let view = view_of(FeatureType::I64);
    let refused = |columns: Vec<ArrayRef>| {
        let schema = view.arrow_schema();
        let fields = schema.fields().iter().zip(&columns).map(|(field, column)| (field.name(), column.clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable(fields).unwrap();
        let dir = folder.path().join("rules");
        let _ = fs::remove_dir_all(&dir);
        let mut writer = GenerationWriter::create(&dir, &view, TenantId(1), 1, 0, WriterLimits::default()).unwrap();
        let message = writer.append(&batch).unwrap_err().to_string();
        assert!(writer.append(&batch).unwrap_err().to_string().contains("an earlier append failed"));
        assert!(writer.finish().is_err());
        message
    };
    let utc = |times: &[i64]| array(TimestampMillisecondArray::from(times.to_vec()).with_timezone("UTC"));
    let numbers = || array(Int64Array::from(vec![1, 2]));
    assert_eq!(
        refused(vec![names(&["b", "a"]), utc(&[1, 1]), numbers()]),
        "row 1: entity \"a\" after \"b\", rows must be sorted by entity"
    );
    assert_eq!(
        refused(vec![names(&["a", ""]), utc(&[1, 1]), numbers()]),
        "row 1: an entity of 0 bytes, allowed are 1 to 256"
    );
    let long = "x".repeat(257);
    assert!(refused(vec![names(&["a", &long]), utc(&[1, 1]), numbers()]).contains("an entity of 257 bytes"));
    assert!(refused(vec![names(&["a", "b"]), ms(&[1, 1]), numbers()]).contains("column updated_at is Timestamp(ms)"));
    let nulls = array(TimestampMillisecondArray::from(vec![None, Some(1)]).with_timezone("UTC"));
    assert_eq!(nulls.as_primitive::<TimestampMillisecondType>().null_count(), 1);
    assert_eq!(refused(vec![names(&["a", "b"]), nulls, numbers()]), "entity and event time must not be null");
}

/// INT96 as Spark writes it: nanoseconds of the day, then the Julian day.
fn int96(time_ms: i64) -> Int96 {
    const JULIAN_DAY_OF_EPOCH: i64 = 2_440_588;
    const DAY_MS: i64 = 86_400_000;
    let nanos = time_ms.rem_euclid(DAY_MS) as u64 * 1_000_000;
    let mut value = Int96::new();
    value.set_data(nanos as u32, (nanos >> 32) as u32, (time_ms.div_euclid(DAY_MS) + JULIAN_DAY_OF_EPOCH) as u32);
    value
}

#[test]
fn int96_timestamps_are_read_whole_however_far_away() {
    // 2026-11-20T10:00:00Z, and the 9999-12-31 that stands for "never".
    const TIMES: [i64; 2] = [1_795_168_800_000, 253_402_214_400_000];
    let shop = Shop::new(view_of(FeatureType::Timestamp));
    let schema = "message spark { required binary user_id (UTF8); required int96 updated_at; required int96 f; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let path = shop.path("spark.parquet");
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut keys = rows.next_column().unwrap().unwrap();
    keys.typed::<ByteArrayType>().write_batch(&["a".into(), "b".into()], None, None).unwrap();
    keys.close().unwrap();
    for times in [TIMES, TIMES] {
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<Int96Type>().write_batch(&times.map(int96), None, None).unwrap();
        column.close().unwrap();
    }
    rows.close().unwrap();
    writer.close().unwrap();

    shop.build(vec![path]).unwrap();
    let served = shop.serve("f", &["a", "b"]);
    for (row, time) in served.into_iter().zip(TIMES) {
        assert_eq!(row, (Status::Present, time, Some(Value::Time(time))));
    }
}
