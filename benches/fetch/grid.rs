//! How a fetch grows with users and features: 1 to 100 users in a batch, 1, 3 or 5 views of 50 features each, from the hot and from the
//! warm tier. The same shape of requests as feature stores publish for themselves; a table, and no baseline.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use larder_benches::{
    Answer, Figures, GENERATION, NOW_MS, Outcome, TENANT, TTL_S, micros, name, percentile, sum, uniform_batches,
};
use larder_store::{FeatureConfig, FeatureType, GenerationWriter, Store, ViewConfig, ViewKind, WriterLimits};

use crate::store::{config, entities, plan_of};

const USERS_PER_BATCH: [usize; 4] = [1, 10, 50, 100];
const VIEWS: [usize; 3] = [1, 3, 5];
const FEATURES_PER_VIEW: usize = 50;
/// Most users; more would only take longer to build.
const MAX_USERS: usize = 50_000;
/// Bytes of the hot tier for each user, more than enough.
const HOT_BYTES_PER_USER: usize = 8192;
/// The features of a view, repeated.
const TYPES: [FeatureType; 10] = [
    FeatureType::Utf8,
    FeatureType::I64,
    FeatureType::F64,
    FeatureType::F32,
    FeatureType::I64,
    FeatureType::Bool,
    FeatureType::F64,
    FeatureType::I32,
    FeatureType::Timestamp,
    FeatureType::F32,
];

/// Sets `grid_<tier>_<users>_users_<features>_features_p50_us` and `_p99_us`, and prints the table.
pub(crate) fn measure(users: usize, count: usize, figures: &mut Figures) -> Outcome<()> {
    let users = users.min(MAX_USERS);
    let folder = tempfile::tempdir()?;
    let views: Vec<_> = (0..VIEWS[VIEWS.len() - 1]).map(view).collect();
    let path = folder.path().join("store");
    let store = Store::open(&config(path.clone(), 0, 256), &views)?;
    for view in &views {
        let dir = folder.path().join(&view.name);
        build(&dir, view, users)?;
        store.publish(&dir)?;
    }
    drop(store);
    println!("{:<5} {:>6} {:>9} {:>10} {:>10}", "tier", "users", "features", "p50 us", "p99 us");
    for (tier, hot_mib) in [("hot", ((users * HOT_BYTES_PER_USER) >> 20) as u64 + 64), ("warm", 0)] {
        let store = Store::open(&config(path.clone(), hot_mib, 1024), &views)?;
        for views_read in VIEWS {
            for users_per_batch in USERS_PER_BATCH {
                let mut times = times(&store, &views[..views_read], users, users_per_batch, count)?;
                let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
                let features = views_read * FEATURES_PER_VIEW;
                println!("{tier:<5} {users_per_batch:>6} {features:>9} {p50:>10.1} {p99:>10.1}");
                let key = format!("grid_{tier}_{users_per_batch}_users_{features}_features");
                figures.set(format!("{key}_p50_us"), p50);
                figures.set(format!("{key}_p99_us"), p99);
            }
        }
    }
    Ok(())
}

fn times(store: &Store, views: &[ViewConfig], users: usize, users_per_batch: usize, count: usize) -> Outcome<Vec<f64>> {
    let plan = plan_of(store, views)?;
    let batches = uniform_batches(count, users, users_per_batch, 2);
    let fetch = |names: &[String]| sum(&Answer::of(store.fetch(&plan, &entities(names), NOW_MS)?));
    // Once before, so that every row is in its tier.
    for batch in &batches {
        fetch(&batch.names)?;
        store.hot_usage();
    }
    batches.iter().map(|batch| Ok(micros(|| fetch(&batch.names))?.0)).collect()
}

fn view(number: usize) -> ViewConfig {
    let feature = |index: usize| FeatureConfig::new(format!("f{index}"), TYPES[index % TYPES.len()]);
    ViewConfig {
        name: format!("view{number}"),
        id: number as u16 + 1,
        kind: ViewKind::Latest,
        entity_key: "user_id".to_string(),
        event_time: "updated_at".to_string(),
        ttl_s: Some(TTL_S),
        n: None,
        element_key: None,
        features: (0..FEATURES_PER_VIEW).map(feature).collect(),
    }
}

fn build(dir: &Path, view: &ViewConfig, users: usize) -> Outcome<()> {
    let mut writer = GenerationWriter::create(dir, view, TENANT, GENERATION, NOW_MS, WriterLimits::default())?;
    for start in (0..users).step_by(5000) {
        let some = start..users.min(start + 5000);
        let numbers: Vec<i64> = some.clone().map(|user| user as i64).collect();
        let times = |of: &[i64]| {
            TimestampMillisecondArray::from_iter_values(of.iter().map(|n| NOW_MS - n)).with_timezone("UTC")
        };
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from_iter_values(some.map(name))), Arc::new(times(&numbers))];
        for feature in &view.features {
            let numbers = numbers.iter();
            columns.push(match feature.data_type {
                FeatureType::Bool => Arc::new(numbers.map(|n| Some(n % 3 == 0)).collect::<BooleanArray>()),
                FeatureType::I32 => Arc::new(numbers.map(|n| *n as i32).collect::<Int32Array>()),
                FeatureType::I64 => Arc::new(numbers.map(|n| n * 7).collect::<Int64Array>()),
                FeatureType::F32 => Arc::new(numbers.map(|n| *n as f32 / 4.0).collect::<Float32Array>()),
                FeatureType::F64 => Arc::new(numbers.map(|n| *n as f64 / 8.0).collect::<Float64Array>()),
                FeatureType::Timestamp => Arc::new(times(numbers.as_slice())),
                _ => Arc::new(numbers.map(|n| Some(format!("value {n}"))).collect::<StringArray>()),
            });
        }
        writer.append(&RecordBatch::try_new(view.arrow_schema(), columns)?)?;
    }
    writer.finish()?;
    Ok(())
}
