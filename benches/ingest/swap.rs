//! What a reader feels of a swap: the 99th percentile of fetches from the moment linking starts until two seconds after the new generation
//! is live, beside the 99th percentile of the two seconds before. The hot tier is on; the next generations are built beforehand, and a
//! second thread publishes them while one reads.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use larder_benches::{
    Answer, Figures, NOW_MS, Outcome, TENANT, account_batch, account_view, percentile, sum, zipf_batches,
};
use larder_store::{EntityRef, FeatureRef, GenerationWriter, Plan, Store, StoreConfig, WriterLimits};

const USERS_PER_BATCH: usize = 100;
const BATCHES: usize = 10_000;
/// How skewed the users are.
const ZIPF_EXPONENT: f64 = 1.2;
/// Measured before each swap, and after it.
const QUIET: Duration = Duration::from_secs(2);
/// Rows made at a time.
const ROWS_AT_ONCE: usize = 8192;
/// Samples below which a 99th percentile says too little.
const MIN_SAMPLES: usize = 10_000;

/// What the publishing thread tells the reading one.
enum Event {
    Before,
    Linking,
    Live(Duration),
}

/// Sets `swap_p99_ratio`.
pub(crate) fn measure(rows: usize, swaps: usize, figures: &mut Figures) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    for generation in 1..=swaps as u32 + 1 {
        build(&folder.path().join(generation.to_string()), rows, generation)?;
    }
    let (path, cold_path) = (folder.path().join("store"), folder.path().join("cold"));
    let config = StoreConfig { path, cold_path, ..StoreConfig::default() };
    let store = Store::open(&config, &[account_view()])?;
    store.publish(&folder.path().join("1"))?;
    let features = account_view().features;
    let refs = features.iter().map(|f| FeatureRef { view: account_view().name, feature: f.name.clone() });
    let plan = store.compile(&refs.collect::<Vec<_>>())?;
    let batches: Vec<_> =
        zipf_batches(BATCHES, rows, USERS_PER_BATCH, ZIPF_EXPONENT, 4).into_iter().map(|batch| batch.names).collect();
    // Once before, so that the hot tier holds what is asked for.
    for batch in &batches {
        fetch(&store, &plan, batch)?;
        store.hot_usage();
    }

    let (sender, receiver) = channel();
    let samples = thread::scope(|scope| {
        let (store, folder) = (&store, folder.path());
        let publisher = scope.spawn(move || publish(store, folder, swaps, &sender).map_err(|error| error.to_string()));
        let samples = read(store, &plan, &batches, &receiver);
        // A reader that failed no longer listens, which ends the publisher.
        drop(receiver);
        publisher.join().unwrap_or(Err("the publisher panicked".to_string()))?;
        samples
    })?;
    let Samples { mut before, mut during, mut publishes } = samples;
    if during.len() < MIN_SAMPLES {
        return Err(format!("only {} fetches ran during {swaps} swaps", during.len()).into());
    }
    figures.set("swap_samples", during.len() as f64);
    figures.set("swap_publish_ms", percentile(&mut publishes, 0.5) / 1e3);
    figures.set("swap_before_p50_us", percentile(&mut before, 0.5));
    figures.set("swap_during_p50_us", percentile(&mut during, 0.5));
    figures.set("swap_before_p99_us", percentile(&mut before, 0.99));
    figures.set("swap_during_p99_us", percentile(&mut during, 0.99));
    figures.set("swap_p99_ratio", percentile(&mut during, 0.99) / percentile(&mut before, 0.99));
    Ok(())
}

/// Microseconds of fetches, and of publishes.
#[derive(Default)]
struct Samples {
    before: Vec<f64>,
    during: Vec<f64>,
    publishes: Vec<f64>,
}

fn publish(store: &Store, folder: &Path, swaps: usize, events: &Sender<Event>) -> Outcome<()> {
    for generation in 2..=swaps + 1 {
        events.send(Event::Before)?;
        thread::sleep(QUIET);
        events.send(Event::Linking)?;
        let start = Instant::now();
        store.publish(&folder.join(generation.to_string()))?;
        events.send(Event::Live(start.elapsed()))?;
        thread::sleep(QUIET);
    }
    Ok(())
}

/// Fetches until the publisher has ended. Each fetch counts where its end lies.
fn read(store: &Store, plan: &Plan, batches: &[Vec<String>], events: &Receiver<Event>) -> Outcome<Samples> {
    let mut samples = Samples::default();
    let mut swapping = false;
    for batch in batches.iter().cycle() {
        let start = Instant::now();
        fetch(store, plan, batch)?;
        let time = start.elapsed().as_secs_f64() * 1e6;
        if swapping { &mut samples.during } else { &mut samples.before }.push(time);
        match events.try_recv() {
            Ok(Event::Before) => swapping = false,
            Ok(Event::Linking) => swapping = true,
            Ok(Event::Live(took)) => samples.publishes.push(took.as_secs_f64() * 1e6),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
        }
    }
    Ok(samples)
}

fn fetch(store: &Store, plan: &Plan, names: &[String]) -> Outcome<f64> {
    let entities: Vec<_> = names.iter().map(|entity| EntityRef { tenant: TENANT, entity }).collect();
    sum(&Answer::of(store.fetch(plan, &entities, NOW_MS)?))
}

fn build(dir: &Path, rows: usize, generation: u32) -> Outcome<()> {
    let mut writer =
        GenerationWriter::create(dir, &account_view(), TENANT, generation, NOW_MS, WriterLimits::default())?;
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        writer.append(&account_batch(start..rows.min(start + ROWS_AT_ONCE), generation)?)?;
    }
    writer.finish()?;
    Ok(())
}
