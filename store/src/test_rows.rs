//! What several unit tests need: a smallest view with a store that has something in it, and rows of every type, encoded without a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float32Array, Float32Builder, Float64Array, Int32Array, Int64Array, ListBuilder,
    RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};

use crate::encode::{EncodedRows, RowColumns};
use crate::schema::RowSchema;
use crate::{
    EntityRef, FeatureConfig, FeatureRef, FeatureType, GenerationWriter, Published, Store, TenantId, ViewConfig,
    ViewKind, WriterLimits,
};

/// `latest`, one feature, no time to live.
pub(crate) fn view() -> ViewConfig {
    ViewConfig {
        name: "view".into(),
        id: 1,
        kind: ViewKind::Latest,
        entity_key: "entity".into(),
        event_time: "time".into(),
        ttl_s: None,
        n: None,
        element_key: None,
        features: vec![FeatureConfig::new("points", FeatureType::I64)],
    }
}

/// Builds a generation of two entities, ada and bob, whose points are its number. Returns its folder.
pub(crate) fn build_points(folder: &Path, tenant: u32, generation: u32) -> PathBuf {
    let dir = folder.join(format!("built-{tenant}-{generation}"));
    let limits = WriterLimits::default();
    let mut writer = GenerationWriter::create(&dir, &view(), TenantId(tenant), generation, 0, limits).unwrap();
    writer.append(&points_rows(&["ada", "bob"], 0, i64::from(generation))).unwrap();
    writer.finish().unwrap();
    dir
}

/// Rows of one event time and number of points.
pub(crate) fn points_rows(entities: &[&str], event_time_ms: i64, points: i64) -> RecordBatch {
    let times = TimestampMillisecondArray::from(vec![event_time_ms; entities.len()]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(entities.to_vec())),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![points; entities.len()])),
    ];
    RecordBatch::try_new(view().arrow_schema(), columns).unwrap()
}

pub(crate) fn publish_points(store: &Store, folder: &Path, tenant: u32, generation: u32) -> Published {
    store.publish(&build_points(folder, tenant, generation)).unwrap()
}

/// The points of ada and bob.
pub(crate) fn points(store: &Store, tenant: u32) -> Vec<i64> {
    let plan = store.compile(&[FeatureRef::parse("view:points").unwrap()]).unwrap();
    let asked = ["ada", "bob"].map(|entity| EntityRef { tenant: TenantId(tenant), entity });
    let fetched = store.fetch(&plan, &asked, 0).unwrap();
    fetched.views[0].columns[0].as_primitive::<Int64Type>().values().to_vec()
}

/// Every type a feature may have.
pub(crate) const TYPES: [FeatureType; 8] = [
    FeatureType::Utf8,
    FeatureType::Bool,
    FeatureType::ListF32,
    FeatureType::I32,
    FeatureType::F64,
    FeatureType::I64,
    FeatureType::Timestamp,
    FeatureType::F32,
];

/// A batch whose values follow from `seeds`, one row each; a seed divisible by three is null.
pub(crate) fn batch(view: &ViewConfig, seeds: &[Vec<u64>]) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(seeds.iter().map(|_| "e"))),
        Arc::new(
            TimestampMillisecondArray::from_iter_values(seeds.iter().map(|row| row[0] as i64)).with_timezone("UTC"),
        ),
    ];
    for (index, feature) in view.features.iter().enumerate() {
        let some = seeds.iter().map(|row| row[index]).map(|seed| (seed % 3 != 0).then_some(seed));
        columns.push(match feature.data_type {
            FeatureType::Bool => Arc::new(some.map(|s| s.map(|s| s % 2 == 0)).collect::<BooleanArray>()),
            FeatureType::I32 => Arc::new(some.map(|s| s.map(|s| s as i32)).collect::<Int32Array>()),
            FeatureType::I64 => Arc::new(some.map(|s| s.map(|s| s as i64)).collect::<Int64Array>()),
            FeatureType::F32 => Arc::new(some.map(|s| s.map(|s| s as f32)).collect::<Float32Array>()),
            FeatureType::F64 => Arc::new(some.map(|s| s.map(|s| s as f64)).collect::<Float64Array>()),
            FeatureType::Utf8 => {
                Arc::new(some.map(|s| s.map(|s| "é用x".repeat(s as usize % 5))).collect::<StringArray>())
            }
            FeatureType::Timestamp => {
                let times: TimestampMillisecondArray = some.map(|s| s.map(|s| s as i64)).collect();
                Arc::new(times.with_timezone("UTC"))
            }
            FeatureType::ListF32 => {
                let mut lists = ListBuilder::new(Float32Builder::new());
                some.for_each(|s| lists.append_option(s.map(|s| (0..s % 4).map(move |i| Some((s + i) as f32)))));
                Arc::new(lists.finish())
            }
        });
    }
    RecordBatch::try_new(view.arrow_schema(), columns).unwrap()
}

/// The rows of a batch, one by one.
pub(crate) fn encode_all(batch: &RecordBatch, schema: &RowSchema) -> Vec<Vec<u8>> {
    let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
    let columns = RowColumns::new(batch, schema, times.values());
    let (mut rows, mut encoded) = (Vec::new(), EncodedRows::default());
    while rows.len() < batch.num_rows() {
        columns.encode(rows.len(), &mut encoded).unwrap();
        rows.extend(encoded.iter().map(|(_, bytes)| bytes.to_vec()));
    }
    rows
}
