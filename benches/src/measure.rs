//! Measuring two sides in turns, batch by batch, so that whatever the machine does meanwhile it does to both.

use std::error::Error;
use std::fmt::Debug;
use std::time::Instant;

/// Whatever goes wrong ends the benchmark.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A whole number from the environment, or the default.
///
/// # Errors
/// A variable that is no number.
pub fn setting(name: &str, default: usize) -> Outcome<usize> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse()).map_err(|error| format!("{name}: {error}"))?)
}

/// The microseconds that `run` takes, and what it returns.
///
/// # Errors
/// What `run` answers.
pub fn micros<T>(run: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let start = Instant::now();
    let outcome = run()?;
    Ok((start.elapsed().as_secs_f64() * 1e6, outcome))
}

/// Batches of one run. A side that had the processor to itself for so long is timed in its own steady state, and not for how well it bears
/// the other's having had the caches before.
const RUN: usize = 10;

/// Runs both sides in turns over `batches`, a run of some batches each, and returns their median times in microseconds. Both must find the
/// same.
///
/// # Errors
/// What a side answers, or that they found different things.
pub fn in_turns<B, T: PartialEq + Debug>(
    batches: &[B],
    mut ours: impl FnMut(&B) -> Outcome<T>,
    mut theirs: impl FnMut(&B) -> Outcome<T>,
) -> Outcome<(f64, f64)> {
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for run in batches.chunks(RUN) {
        let mut found = Vec::with_capacity(run.len());
        for batch in run {
            let (time, our) = micros(|| ours(batch))?;
            our_times.push(time);
            found.push(our);
        }
        for (batch, our) in run.iter().zip(found) {
            let (time, their) = micros(|| theirs(batch))?;
            their_times.push(time);
            if our != their {
                return Err(format!("the sides of a comparison found different things: {our:?} and {their:?}").into());
            }
        }
    }
    Ok((median(&mut our_times), median(&mut their_times)))
}

/// The middle of some times.
pub fn median(times: &mut [f64]) -> f64 {
    percentile(times, 0.5)
}

/// The time that a share of all does not exceed; sorts them. 0 of none.
pub fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let index = (times.len() as f64 * share) as usize;
    times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
