//! Larder's store: typed features of many tenants, kept in the process that uses them, read for a whole batch at once.
//!
//! Rows come in as *generations*: a [`GenerationWriter`] turns sorted rows into a folder of files, [`Store::publish`] links them in and
//! swaps them live, all or nothing. [`Store::write`] adds rows one by one, durable and visible at once. [`Store::fetch`] answers from three
//! tiers, rows of the last requests in RAM, RocksDB below, and Parquet files on a slow disk for what is rarely asked for, with one sorted
//! read for all keys that RAM does not hold, and returns Arrow columns aligned with the request.
//!
//! The crate is synchronous and knows no runtime, no network and no model. It does not read other people's Parquet; the ingest crate does.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
//! use larder_store::{
//!     EntityRef, FeatureConfig, FeatureRef, FeatureType, GenerationWriter, Status, Store, StoreConfig, TenantId, Tier,
//!     ViewConfig, ViewKind, WriterLimits,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! // A view: one row per user, visible for an hour after its event time.
//! let view = ViewConfig {
//!     name: "profile".into(),
//!     id: 1,
//!     kind: ViewKind::Latest,
//!     entity_key: "user_id".into(),
//!     event_time: "updated_at".into(),
//!     ttl_s: Some(3600),
//!     n: None,
//!     element_key: None,
//!     features: vec![FeatureConfig::new("points", FeatureType::I64)],
//! };
//!
//! // Build: sorted rows become a generation in a folder of its own. No store is needed for that.
//! let shop = TenantId(1);
//! let rows = RecordBatch::try_new(view.arrow_schema(), vec![
//!     Arc::new(StringArray::from(vec!["ada", "bob"])),
//!     Arc::new(TimestampMillisecondArray::from(vec![5_000, 6_000]).with_timezone("UTC")),
//!     Arc::new(Int64Array::from(vec![Some(120), None])),
//! ])?;
//! let built = folder.join("profile-1");
//! let mut writer = GenerationWriter::create(&built, &view, shop, 1, 6_000, WriterLimits::default())?;
//! writer.append(&rows)?;
//! writer.finish()?;
//!
//! // Open, publish, fetch.
//! let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
//! let store = Store::open(&config, &[view])?;
//! store.publish(&built)?;
//! let plan = store.compile(&[FeatureRef::parse("profile:points")?])?;
//! let asked = ["bob", "nobody", "ada"].map(|entity| EntityRef { tenant: shop, entity });
//! let fetched = store.fetch(&plan, &asked, 10_000)?;
//!
//! let profile = &fetched.views[0];
//! assert_eq!(profile.status, [Status::Present, Status::NotFound, Status::Present]);
//! assert_eq!(profile.tier, [Tier::Warm, Tier::None, Tier::Warm]);
//! let points = profile.columns[0].as_primitive::<arrow::datatypes::Int64Type>();
//! assert_eq!(points.value(2), 120);
//! assert_eq!(profile.value_status(0, 0), Some(Status::Null));
//! # Ok(())
//! # }
//! ```

mod config;
mod view;
mod store;
mod plan;
mod batch;
mod lookup;
mod hot;
mod hot_set;
mod readers;
mod warm;
mod cold;
mod active;
mod breaker;
mod faults;
mod wal;
mod live;
mod stream;
mod delta;
mod combine;
mod decode;
mod columns;
mod fetched;
mod generation;
mod meta;
mod publish;
mod staging;
mod carry;
mod prune;
mod erasure;
mod compact;
mod replace;
mod whole;
mod delta_snapshot;
mod warmth;
mod manifest;
mod writer;
mod placement;
mod shard;
mod merge;
mod log;
mod key;
mod schema;
mod row;
mod encode;
mod elements;
mod files;
mod random;
mod metrics;
mod observe;
mod inspect;
mod overview;
mod verify;
mod checkpoint;
mod restoring;
mod error;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod mutate;
#[cfg(test)]
mod never_stale;
#[cfg(test)]
mod test_rows;

pub use batch::EntityRef;
pub use breaker::{Breaker, BreakerConfig, BreakerState, BreakerStatus, Pass};
pub use checkpoint::Checkpoint;
pub use compact::Compacted;
pub use config::StoreConfig;
pub use delta_snapshot::DeltaWriter;
pub use error::Error;
pub use faults::{InjectedFaults, StoreFaults};
pub use fetched::{FetchStats, Fetched, FetchedView, Status, Tier};
pub use generation::{GenerationInfo, GenerationState};
pub use hot::HotUsage;
pub use hot_set::{HotSet, HotSetEntry, MAX_HOT_SET_BYTES, MAX_HOT_SET_ENTRIES, read_hot_set, write_hot_set};
pub use inspect::{ColdHolding, HotHolding, Inspection, LiveChange, LiveHolding, Standing, StoredRow};
pub use key::MAX_ENTITY_BYTES;
pub use live::{MAX_AHEAD_MS, MAX_WRITE_BYTES, MAX_WRITE_ROWS, Write, WriteKind, Written};
pub use log::append::{LogAppend, LogEntry, MAX_LOG_APPEND_BYTES, MAX_LOG_DEDUP_BYTES};
pub use log::read::{LogRecord, MAX_LOG_READ_BYTES};
pub use log::single::LogName;
pub use log::{Log, LogConfig, MAX_LOG_ENTRIES, MAX_LOG_ENTRY_BYTES, MAX_LOG_KEY_BYTES};
pub use lookup::MAX_FETCH_BYTES;
pub use manifest::{
    AppliedDelta, DeltaOf, MANIFEST_FILE, MAX_NAMED_SOURCES, Manifest, ManifestFile, ManifestSource, ManifestSources,
    SOURCE_END_BYTES, StoredSchema,
};
pub use metrics::{ROW_AGE_BUCKETS, ROW_AGE_SECONDS, describe_metrics};
pub use overview::{DiskSpace, LevelFiles, Overview};
pub use placement::Placement;
pub use plan::{FeatureRef, Plan};
pub use publish::Published;
pub use restoring::Restoring;
pub use shard::{MAX_SHARDS, Shard};
pub use store::Store;
pub use stream::StreamSpan;
pub use verify::{Damage, StorePart, Verified, verify_generation, verify_store};
pub use view::{
    FeatureConfig, FeatureType, MAX_FEATURES, MAX_FORMER_NAMES, MAX_N, MAX_NAME_BYTES, TenantId, ViewConfig, ViewKind,
};
pub use warmth::Imported;
pub use writer::{GenerationWriter, MAX_ROW_BYTES, WriterLimits};
