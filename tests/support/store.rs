//! What the store and ingest suites share: two small views that use every feature type, rows as plain values, and the way from rows to a
//! built generation and from a fetched column back to plain values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float32Builder, Float64Array, Int32Array, Int64Array,
    ListBuilder, RecordBatch, StringArray, TimestampMillisecondArray,
};
use larder_store::{
    DeltaWriter, EntityRef, Error, FeatureConfig, FeatureRef, FeatureType, GenerationWriter, Manifest, Plan, Published,
    Store, StoreConfig, TenantId, ViewConfig, ViewKind, Write, WriteKind, WriterLimits, Written,
};

/// One value of a feature.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Text(String),
    Time(i64),
    Floats(Vec<f32>),
}

/// One row as a snapshot has it; `None` is null.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) entity: String,
    pub(crate) event_time_ms: i64,
    pub(crate) values: Vec<Option<Value>>,
}

pub(crate) fn feature(name: &str, data_type: FeatureType) -> FeatureConfig {
    FeatureConfig::new(name, data_type)
}

/// A feature that was called otherwise before.
pub(crate) fn renamed(name: &str, data_type: FeatureType, former_names: &[&str]) -> FeatureConfig {
    FeatureConfig { former_names: former_names.iter().map(ToString::to_string).collect(), ..feature(name, data_type) }
}

/// A `latest` view with a feature of every type and a time to live of 30 s.
pub(crate) fn profile() -> ViewConfig {
    ViewConfig {
        name: "profile".to_string(),
        id: 1,
        kind: ViewKind::Latest,
        entity_key: "user_id".to_string(),
        event_time: "updated_at".to_string(),
        ttl_s: Some(30),
        n: None,
        element_key: None,
        features: vec![
            feature("name", FeatureType::Utf8),
            feature("points", FeatureType::I64),
            feature("vector", FeatureType::ListF32),
            feature("vip", FeatureType::Bool),
            feature("level", FeatureType::I32),
            feature("credit", FeatureType::F64),
            feature("ratio", FeatureType::F32),
            feature("joined", FeatureType::Timestamp),
            feature("city", FeatureType::Utf8),
        ],
    }
}

/// A `last_n` view that keeps three orders and a time to live of 60 s for each.
pub(crate) fn orders() -> ViewConfig {
    ViewConfig {
        name: "orders".to_string(),
        id: 2,
        kind: ViewKind::LastN,
        ttl_s: Some(60),
        n: Some(3),
        element_key: Some("order_id".to_string()),
        features: vec![
            feature("order_id", FeatureType::Utf8),
            feature("total", FeatureType::F64),
            feature("status", FeatureType::Utf8),
        ],
        ..profile()
    }
}

/// A store configuration for tests: everything small.
pub(crate) fn config(folder: &Path) -> StoreConfig {
    StoreConfig {
        path: folder.join("store"),
        cold_path: folder.join("cold"),
        hot_capacity_mib: 16,
        hot_shards: 4,
        block_cache_mib: 8,
        ..StoreConfig::default()
    }
}

/// The canonical batch of `rows`, in their order.
pub(crate) fn batch(view: &ViewConfig, rows: &[Row]) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.entity))),
        Arc::new(
            TimestampMillisecondArray::from_iter_values(rows.iter().map(|r| r.event_time_ms)).with_timezone("UTC"),
        ),
    ];
    for (index, feature) in view.features.iter().enumerate() {
        columns.push(column(feature.data_type, rows.iter().map(|row| row.values[index].as_ref())));
    }
    RecordBatch::try_new(view.arrow_schema(), columns).unwrap()
}

/// An Arrow column of the store's own type.
pub(crate) fn column<'a>(data_type: FeatureType, values: impl Iterator<Item = Option<&'a Value>>) -> ArrayRef {
    macro_rules! plain {
        ($array:ty, $variant:path) => {
            values
                .map(|value| {
                    value.map(|value| match value {
                        $variant(inner) => inner.clone(),
                        other => panic!("{other:?} is no {data_type}"),
                    })
                })
                .collect::<$array>()
        };
    }
    match data_type {
        FeatureType::Bool => Arc::new(plain!(BooleanArray, Value::Bool)),
        FeatureType::I32 => Arc::new(plain!(Int32Array, Value::I32)),
        FeatureType::I64 => Arc::new(plain!(Int64Array, Value::I64)),
        FeatureType::F32 => Arc::new(plain!(Float32Array, Value::F32)),
        FeatureType::F64 => Arc::new(plain!(Float64Array, Value::F64)),
        FeatureType::Utf8 => Arc::new(plain!(StringArray, Value::Text)),
        FeatureType::Timestamp => Arc::new(plain!(TimestampMillisecondArray, Value::Time).with_timezone("UTC")),
        FeatureType::ListF32 => {
            let mut builder = ListBuilder::new(Float32Builder::new());
            for value in values {
                match value {
                    Some(Value::Floats(floats)) => builder.append_value(floats.iter().copied().map(Some)),
                    Some(other) => panic!("{other:?} is no list"),
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
    }
}

/// The value of a fetched column at a row.
pub(crate) fn value(column: &dyn Array, data_type: FeatureType, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    Some(match data_type {
        FeatureType::Bool => Value::Bool(column.as_boolean().value(row)),
        FeatureType::I32 => Value::I32(column.as_primitive::<Int32Type>().value(row)),
        FeatureType::I64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        FeatureType::F32 => Value::F32(column.as_primitive::<Float32Type>().value(row)),
        FeatureType::F64 => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        FeatureType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_string()),
        FeatureType::Timestamp => Value::Time(column.as_primitive::<TimestampMillisecondType>().value(row)),
        FeatureType::ListF32 => {
            let list = column.as_list::<i32>().value(row);
            Value::Floats(list.as_primitive::<Float32Type>().values().to_vec())
        }
    })
}

/// Builds a generation of `rows` (in any order) in `dir`.
pub(crate) fn build(dir: &Path, view: &ViewConfig, tenant: u32, generation: u32, rows: Vec<Row>) -> Manifest {
    build_within(WriterLimits::default(), dir, view, tenant, generation, rows)
}

/// The same within limits of its own.
pub(crate) fn build_within(
    limits: WriterLimits,
    dir: &Path,
    view: &ViewConfig,
    tenant: u32,
    generation: u32,
    rows: Vec<Row>,
) -> Manifest {
    build_as_of(i64::from(generation), limits, dir, view, tenant, generation, rows)
}

/// The same with the state of a time of its own.
pub(crate) fn build_as_of(
    as_of_ms: i64,
    limits: WriterLimits,
    dir: &Path,
    view: &ViewConfig,
    tenant: u32,
    generation: u32,
    mut rows: Vec<Row>,
) -> Manifest {
    rows.sort_by(|a, b| a.entity.cmp(&b.entity));
    let mut writer = GenerationWriter::create(dir, view, TenantId(tenant), generation, as_of_ms, limits).unwrap();
    for part in rows.chunks(7) {
        writer.append(&batch(view, part)).unwrap();
    }
    writer.finish().unwrap()
}

/// Builds a generation and publishes it. Returns the folder it was built in.
pub(crate) fn publish(
    store: &Store,
    folder: &Path,
    view: &ViewConfig,
    tenant: u32,
    generation: u32,
    rows: Vec<Row>,
) -> PathBuf {
    let dir = folder.join(format!("built-{}-{tenant}-{generation}", view.name));
    build(&dir, view, tenant, generation, rows);
    store.publish(&dir).unwrap();
    dir
}

/// The canonical batch of deletions: entity, event time, and in a history which element, or all.
pub(crate) fn deletions(view: &ViewConfig, keys: &[(&str, i64, Option<Value>)]) -> RecordBatch {
    let entities = keys.iter().map(|(entity, ..)| entity);
    let times = TimestampMillisecondArray::from_iter_values(keys.iter().map(|(_, time, _)| *time));
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from_iter_values(entities)), Arc::new(times.with_timezone("UTC"))];
    if let Some(element) = &view.element_key {
        let feature = view.features.iter().find(|feature| &feature.name == element).unwrap();
        columns.push(column(feature.data_type, keys.iter().map(|(.., element)| element.as_ref())));
    }
    RecordBatch::try_new(view.deletion_schema(), columns).unwrap()
}

/// Far enough ahead of every event time in a test.
pub(crate) const NOW_MS: i64 = 1_000_000;

/// Writes rows live.
pub(crate) fn upsert(store: &Store, view: &ViewConfig, tenant: u32, rows: &[Row]) -> Written {
    let rows = batch(view, rows);
    let write = Write { tenant: TenantId(tenant), view: &view.name, kind: WriteKind::Upsert, rows: &rows };
    store.write(&[write], NOW_MS).unwrap()
}

/// Writes deletions live.
pub(crate) fn delete(store: &Store, view: &ViewConfig, tenant: u32, keys: &[(&str, i64, Option<Value>)]) -> Written {
    let rows = deletions(view, keys);
    let write = Write { tenant: TenantId(tenant), view: &view.name, kind: WriteKind::Delete, rows: &rows };
    store.write(&[write], NOW_MS).unwrap()
}

/// Builds the state of a time and publishes it.
pub(crate) fn publish_as_of(
    store: &Store,
    folder: &Path,
    view: &ViewConfig,
    tenant: u32,
    generation: u32,
    as_of_ms: i64,
    rows: Vec<Row>,
) -> Result<Published, Error> {
    let dir = folder.join(format!("built-{}-{tenant}-{generation}", view.name));
    build_as_of(as_of_ms, WriterLimits::default(), &dir, view, tenant, generation, rows);
    store.publish(&dir)
}

/// A profile row that says one number in several of its features, and nothing in the others.
pub(crate) fn profile_row(entity: &str, event_time_ms: i64, number: i64) -> Row {
    let mut values = vec![None; profile().features.len()];
    values[0] = Some(Value::Text(format!("name {number}")));
    values[1] = Some(Value::I64(number));
    values[5] = Some(Value::F64(number as f64));
    Row { entity: entity.to_string(), event_time_ms, values }
}

/// An order row.
pub(crate) fn order_row(entity: &str, event_time_ms: i64, order: &str, total: f64) -> Row {
    let values = vec![Some(Value::Text(order.to_string())), Some(Value::F64(total)), None];
    Row { entity: entity.to_string(), event_time_ms, values }
}

/// A plan of `view:feature` names.
pub(crate) fn plan(store: &Store, features: &[&str]) -> Plan {
    let features: Vec<_> = features.iter().map(|text| FeatureRef::parse(text).unwrap()).collect();
    store.compile(&features).unwrap()
}

/// References to entities of one tenant.
pub(crate) fn of_tenant<'a>(tenant: u32, entities: &[&'a str]) -> Vec<EntityRef<'a>> {
    entities.iter().map(|entity| EntityRef { tenant: TenantId(tenant), entity }).collect()
}

/// A table in a store's folder that names an entity, as the first keys of blocks are stored.
pub(crate) fn table_of_rows(store: &Path, entity: &str) -> PathBuf {
    let mut tables = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let names = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(entity.len()).any(|part| part == entity.as_bytes())
    };
    tables.find(|path| path.extension().is_some_and(|extension| extension == "sst") && names(path)).unwrap()
}

/// A deletion: entity, time, and in a history which element, or all.
pub(crate) type Deletion<'a> = (&'a str, i64, Option<Value>);

/// Builds a delta snapshot of rows and deletions (in any order) in `dir`.
pub(crate) fn build_delta(
    dir: &Path,
    view: &ViewConfig,
    (tenant, generation): (u32, u32),
    (since_ms, as_of_ms): (i64, i64),
    rows: &[Row],
    deletions: &[Deletion<'_>],
) -> Result<Manifest, Error> {
    let mut writer =
        DeltaWriter::create(dir, view, TenantId(tenant), generation, since_ms, as_of_ms, WriterLimits::default())?;
    let element = view.features.iter().position(|feature| Some(&feature.name) == view.element_key.as_ref());
    let deletion = |(entity, event_time_ms, name): &Deletion<'_>| {
        let mut values = vec![None; view.features.len()];
        if let Some(element) = element {
            values[element] = name.clone();
        }
        (Row { entity: (*entity).to_owned(), event_time_ms: *event_time_ms, values }, true)
    };
    let mut changes: Vec<(Row, bool)> = deletions.iter().map(deletion).collect();
    changes.extend(rows.iter().map(|row| (row.clone(), false)));
    changes.sort_by(|a, b| a.0.entity.cmp(&b.0.entity));
    for part in changes.chunks(7) {
        let (rows, deleted): (Vec<_>, Vec<_>) = part.iter().cloned().unzip();
        let mut columns = batch(view, &rows).columns().to_vec();
        columns.push(Arc::new(BooleanArray::from(deleted)));
        writer.append(&RecordBatch::try_new(view.change_schema(), columns).unwrap())?;
    }
    writer.finish()
}
