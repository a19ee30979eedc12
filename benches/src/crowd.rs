//! How crowded a core is: how long a thread ran, and how long it could have run and had to wait for a processor, as Linux counts it.
//!
//! A wait for a disk that ends while the core is taken lasts until the core is free, up to a tick of the scheduler or several, which can be many times what
//! the disk took; a ratio to it then says nothing. A figure that hangs on waiting is therefore given with its crowding.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// Above this share of the time a thread's waits were the machine's, and what it measured says little.
pub const MAX_CROWDING: f64 = 0.1;
/// Above so many cores that others keep busy a machine is not quiet.
pub const MAX_OTHERS_CORES: f64 = 0.2;
/// For how long others are watched.
const LOOK: Duration = Duration::from_secs(1);
/// Ticks of /proc/stat, on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// The moment from which the current thread is watched.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    ran: Duration,
    waited: Duration,
}

/// Shares of the time since a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crowding {
    /// The thread ran.
    pub ran: f64,
    /// It could have run, and others did.
    pub waited: f64,
}

impl Watch {
    /// Now, of the thread that asks.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn start() -> Outcome<Watch> {
        let (ran, waited) = of_thread()?;
        Ok(Watch { began: Instant::now(), ran, waited })
    }

    /// How the same thread fared since.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn crowding(&self) -> Outcome<Crowding> {
        let (ran, waited) = of_thread()?;
        let share = |since: Duration| since.as_secs_f64() / self.began.elapsed().as_secs_f64().max(1e-9);
        Ok(Crowding { ran: share(ran.saturating_sub(self.ran)), waited: share(waited.saturating_sub(self.waited)) })
    }
}

/// How long the current thread has run, and waited for a processor.
fn of_thread() -> Outcome<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let mut nanos = stat.split_whitespace().map(str::parse);
    match (nanos.next(), nanos.next()) {
        (Some(Ok(ran)), Some(Ok(waited))) => Ok((Duration::from_nanos(ran), Duration::from_nanos(waited))),
        _ => Err(format!("/proc/thread-self/schedstat says {stat:?}").into()),
    }
}

/// How many cores other programs keep busy, found by doing nothing for a second: to be asked while nothing of the benchmark runs.
///
/// # Errors
/// The system does not tell.
pub fn others_cores() -> Outcome<f64> {
    let (before, began) = (busy_ticks()?, Instant::now());
    thread::sleep(LOOK);
    Ok((busy_ticks()? - before) / TICKS_PER_S / began.elapsed().as_secs_f64())
}

/// Ticks in which all cores together have worked: user, nice, system, irq, softirq.
fn busy_ticks() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return Err(format!("/proc/stat begins with {line:?}").into());
    };
    Ok(user + nice + system + irq + softirq)
}
