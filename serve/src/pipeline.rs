//! The way of a batch through the node: one fetch, one forward of each encoder, one answer for each question.
//!
//! Threads that are each a loop over one function. The fetch thread turns a `Batch` into a `FetchedBatch` (`fetch`: features and
//! tokens); a score thread turns that into answers (`score`), one for each device, so that all devices can work at once. Between
//! them stands a channel of one batch for each, so that batch N+1 is fetched while batch N is scored. A panic in any of them marks
//! the node as failed: a node is never half dead.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::Engine;
use crate::error::Error;
use crate::fetch::{FetchedBatch, fetch};
use crate::life::Life;
use crate::question::BatchInfo;
use crate::score;
use crate::worker::spawn;

/// The threads.
#[derive(Debug)]
pub(crate) struct Pipeline {
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    pub(crate) fn start(engine: &Arc<Engine>, life: &Life) -> Result<Pipeline, Error> {
        let scorers = engine.scorers;
        let (output, input) = sync_channel(scorers);
        let input = Arc::new(Mutex::new(input));
        let fetcher = engine.clone();
        let mut threads = vec![spawn("fetch", &engine.queue, life, move || run_fetch(&fetcher, &output))?];
        for _ in 0..scorers {
            let (scorer, input) = (engine.clone(), input.clone());
            threads.push(spawn("score", &engine.queue, life, move || run_score(&scorer, &input))?);
        }
        Ok(Pipeline { threads })
    }

    /// Waits until all threads have ended, which they do once the queue was drained or failed.
    pub(crate) fn join(self) {
        for thread in self.threads {
            // A panic was already made the node's state by the thread's guard.
            let _ = thread.join();
        }
    }
}

fn run_fetch(engine: &Engine, output: &SyncSender<FetchedBatch>) {
    engine.cores.fetch.pin();
    let mut last_id = 0;
    while let Some(batch) = engine.queue.next_batch() {
        last_id += 1;
        let info = BatchInfo { id: last_id, size: batch.questions.len(), closed_by: batch.closed_by };
        engine.counters.batch_closed(&info);
        let (at_hand, rest) = fetch(engine, batch, info).divide();
        engine.queue.fetched(rest.is_some());
        if let Some(rest) = rest
            && output.send(rest).is_err()
        {
            return;
        }
        score::answer(engine, at_hand);
    }
}

fn run_score(engine: &Engine, input: &Mutex<Receiver<FetchedBatch>>) {
    engine.cores.score.pin();
    // Whoever holds the lock waits for the next batch, the other idle ones for the lock.
    let next = || input.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(batch) = next() {
        let _scoring = engine.queue.scoring();
        score::answer(engine, batch);
    }
}

/// Unix milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
