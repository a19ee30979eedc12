//! A smallest view with rows for it, for the unit tests that need a store with something in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::Int64Type;

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
        features: vec![FeatureConfig { name: "points".into(), data_type: FeatureType::I64 }],
    }
}

/// Builds a generation of two entities, ada and bob, whose points are its number. Returns its folder.
pub(crate) fn build_points(folder: &Path, tenant: u32, generation: u32) -> PathBuf {
    let dir = folder.join(format!("built-{tenant}-{generation}"));
    let limits = WriterLimits::default();
    let mut writer = GenerationWriter::create(&dir, &view(), TenantId(tenant), generation, 0, limits).unwrap();
    let points = i64::from(generation);
    let rows = RecordBatch::try_new(
        view().arrow_schema(),
        vec![
            Arc::new(StringArray::from(vec!["ada", "bob"])),
            Arc::new(TimestampMillisecondArray::from(vec![0, 0]).with_timezone("UTC")),
            Arc::new(Int64Array::from(vec![points, points])),
        ],
    );
    writer.append(&rows.unwrap()).unwrap();
    writer.finish().unwrap();
    dir
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
