//! Runs a load: starts its threads at one moment, watches them, and makes the report of what they entered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use chrono::Utc;

use super::load_plan::{LoadPlan, Stop};
use super::report::{Phase, Report, Second, Totals};
use super::schedule::Offer;
use super::sender::{Board, run_thread};
use super::slice::Slice;
use super::tally::{Parts, Tally};

/// Between the last connection and the first question.
const HEAD_START: Duration = Duration::from_millis(50);
const WATCH: Duration = Duration::from_secs(1);
/// Seconds beyond the deadline after which nothing more is heard of a question.
const HORIZON_MARGIN: u64 = 4;

/// How far a run has come.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Since its first question, warm-up included.
    pub elapsed: Duration,
    /// How long it will take, warm-up included.
    pub whole: Duration,
    /// Still in its warm-up.
    pub warming_up: bool,
    /// Questions on their way.
    pub in_flight: usize,
    /// The last second that is over.
    pub recent: Option<Second>,
}

/// Runs a load to its end, or until `stop` asks for it. `watch` is called about once a second. Blocks the calling thread, which must not
/// belong to an async runtime's own.
///
/// Errors: a plan that cannot be run, a node that cannot be reached at the start. What goes wrong later is part of the report.
pub fn run(plan: &LoadPlan, stop: &Stop, watch: &mut dyn FnMut(&Progress)) -> Result<Report> {
    plan.check()?;
    let phases = match &plan.offer {
        Offer::Curve(profile, _) => profile.phases().to_vec(),
        Offer::Trace(_) => vec!["trace".to_owned()],
    };
    let parts = Parts {
        phases: phases.len(),
        classes: plan.mix.classes().len(),
        tenants: plan.mix.tenants().len(),
        shards: plan.nodes.shards().len(),
        threads: plan.threads,
    };
    let horizon = usize::try_from(plan.deadline.as_secs() + HORIZON_MARGIN).unwrap_or(usize::MAX);
    let board = Arc::new(Board {
        plan: plan.clone(),
        tally: Mutex::new(Tally::new(parts, horizon)?),
        in_flight: AtomicUsize::new(0),
        stop: stop.clone(),
    });
    let started_ms = Utc::now().timestamp_millis();
    let counted = send(&board, watch)?;
    let Ok(board) = Arc::try_unwrap(board) else {
        return Err(anyhow!("a thread of the generator still runs"));
    };
    let tally = board.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(report(plan, tally, &phases, started_ms, counted))
}

/// Starts the threads and waits for them. Returns for how long questions were offered that count.
fn send(board: &Arc<Board>, watch: &mut dyn FnMut(&Progress)) -> Result<Duration> {
    let plan = &board.plan;
    let (ready, connected) = mpsc::channel();
    let (over, finished) = mpsc::channel();
    let mut begins = Vec::with_capacity(plan.threads);
    let mut threads = Vec::with_capacity(plan.threads);
    for number in 0..plan.threads {
        let (begin, begun) = mpsc::channel();
        begins.push(begin);
        let (board, ready, over) = (Arc::clone(board), ready.clone(), over.clone());
        let work = move || {
            let result = run_thread(number, &board, &ready, &begun);
            drop(board);
            // Nobody listens once another thread has failed.
            let _ = over.send(());
            result
        };
        let thread = thread::Builder::new().name(format!("load-{number}")).spawn(work);
        threads.push(thread.context("cannot start a thread")?);
    }
    drop((ready, over));
    for _ in 0..plan.threads {
        connected.recv().context("a thread of the generator failed")??;
    }
    let begin = Instant::now() + HEAD_START;
    for thread in &begins {
        thread.send(begin).map_err(|_| anyhow!("a thread of the generator failed"))?;
    }
    let mut running = plan.threads;
    let mut offered_until = None;
    while running > 0 {
        match finished.recv_timeout(WATCH) {
            Ok(()) => running -= 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if board.stop.is_asked() && offered_until.is_none() {
            offered_until = Some(begin.elapsed());
        }
        watch(&progress(board, begin));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread of the generator panicked"))??;
    }
    let offered = offered_until.map_or(plan.counted(), |until| until.saturating_sub(plan.warm_up).min(plan.counted()));
    Ok(offered)
}

fn progress(board: &Board, begin: Instant) -> Progress {
    let plan = &board.plan;
    let elapsed = begin.elapsed();
    Progress {
        elapsed,
        whole: plan.warm_up + plan.counted(),
        warming_up: elapsed < plan.warm_up,
        in_flight: board.in_flight.load(Ordering::Relaxed),
        recent: board.tally().recent(),
    }
}

fn report(plan: &LoadPlan, tally: Tally, phases: &[String], started_ms: i64, counted: Duration) -> Report {
    let seconds = counted.as_secs_f64();
    let generator = tally.generator();
    let named = |names: &[String], slices: &[Slice]| -> BTreeMap<String, Totals> {
        let name = |name: &String| if name.is_empty() { "(default)".to_owned() } else { name.clone() };
        names.iter().zip(slices).map(|(of, slice)| (name(of), slice.totals(seconds))).collect()
    };
    let classes = named(plan.mix.classes(), &tally.classes);
    let tenants = named(plan.mix.tenants(), &tally.tenants);
    let lengths = phase_seconds(plan, seconds);
    let phase = |((name, slice), seconds): ((&String, &Slice), &f64)| Phase {
        name: name.clone(),
        totals: slice.totals(*seconds),
    };
    let phases = match phases.len() {
        0 | 1 => Vec::new(),
        _ => phases.iter().zip(&tally.phases).zip(&lengths).filter(|(_, seconds)| **seconds > 0.0).map(phase).collect(),
    };
    let shards = plan.nodes.shards().iter().zip(&tally.shards);
    let shards =
        shards.map(|(shard, slice)| Phase { name: shard.to_string(), totals: slice.totals(seconds) }).collect();
    let totals = tally.all.totals(seconds);
    let distribution = tally.distribution(plan.mix.classes());
    Report {
        command: plan.command.clone(),
        started_ms,
        scenario: None,
        seed: plan.seed,
        deadline_ms: plan.deadline.as_secs_f64() * 1_000.0,
        connections: plan.connections,
        interrupted: counted < plan.counted(),
        void: generator.starved(),
        totals,
        generator,
        classes,
        tenants,
        phases,
        shards,
        capacity: None,
        drift: None,
        first_failures: tally.first_failures(),
        distribution,
        series: tally.into_series(),
    }
}

/// How long each phase was offered, of a run that counted for so many seconds.
fn phase_seconds(plan: &LoadPlan, counted: f64) -> Vec<f64> {
    let Offer::Curve(profile, _) = &plan.offer else { return vec![counted] };
    let mut lengths = vec![0.0; profile.phases().len()];
    let mut left = counted;
    for piece in profile.pieces() {
        let within = piece.seconds.min(left);
        lengths[piece.phase] += within;
        left -= within;
    }
    lengths
}
