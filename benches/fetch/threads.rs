//! Whether a second reader thread helps as much as it should: distinct keys per second of two readers beside one, all hot, users asked for
//! as skewed as real ones are. The same of a hash map shows what the machine itself gives.

use std::thread;
use std::time::{Duration, Instant};

use larder_benches::{Batch, Figures, Outcome, median, sum, zipf_batches};

use crate::hashmap;
use crate::store::{Reader, Shop};

/// How skewed the users are.
const ZIPF_EXPONENT: f64 = 1.2;
/// Batches that each thread repeats.
const BATCHES: usize = 2000;
/// Length of one measurement.
const WINDOW: Duration = Duration::from_millis(300);
/// Measurements of each kind, in turns.
const WINDOWS: usize = 11;

/// Sets `threads_scaling`.
pub(crate) fn measure(shop: &Shop, reader: &Reader, figures: &mut Figures) -> Outcome<()> {
    let batches: Vec<_> = (0..2)
        .map(|seed| zipf_batches(BATCHES, shop.users, super::USERS_PER_BATCH, ZIPF_EXPONENT, 10 + seed))
        .collect();
    let users = hashmap::collect(shop);
    let fetch = |batch: &Batch| -> Result<u64, String> {
        let fetched = reader.fetch(&batch.names).map_err(|error| error.to_string())?;
        let keys = fetched.stats.unique_keys;
        sum(&larder_benches::Answer::of(fetched)).map_err(|error| error.to_string())?;
        Ok(keys)
    };
    let look_up = |batch: &Batch| -> Result<u64, String> {
        let answers = hashmap::look_up(&users, &batch.users).map_err(|error| error.to_string())?;
        sum(&answers).map_err(|error| error.to_string())?;
        Ok(2 * batch.users.len() as u64)
    };
    let (mut one, mut two, mut map_one, mut map_two) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        one.push(keys_per_second(&batches[..1], fetch)?);
        two.push(keys_per_second(&batches, fetch)?);
        map_one.push(keys_per_second(&batches[..1], look_up)?);
        map_two.push(keys_per_second(&batches, look_up)?);
    }
    let (one, two) = (median(&mut one), median(&mut two));
    figures.set("threads_1_keys_per_s", one);
    figures.set("threads_2_keys_per_s", two);
    figures.set("threads_scaling", two / one);
    figures.set("threads_scaling_of_hashmap", median(&mut map_two) / median(&mut map_one));
    Ok(())
}

/// Runs one thread for each list of batches, and adds up what they read.
fn keys_per_second(
    batches: &[Vec<Batch>],
    read: impl Fn(&Batch) -> Result<u64, String> + Copy + Sync + Send,
) -> Outcome<f64> {
    let run = |batches: &[Batch]| -> Result<f64, String> {
        let (start, mut keys) = (Instant::now(), 0);
        for batch in batches.iter().cycle() {
            keys += read(batch)?;
            if start.elapsed() >= WINDOW {
                break;
            }
        }
        Ok(keys as f64 / start.elapsed().as_secs_f64())
    };
    let rates = thread::scope(|scope| {
        let threads: Vec<_> = batches.iter().map(|batches| scope.spawn(move || run(batches))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or(Err("a reader panicked".into()));
        threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    });
    Ok(rates?.iter().sum())
}
