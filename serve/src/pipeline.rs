//! The way of a batch through the node: one fetch, one forward of each encoder, one answer for each question.
//!
//! Threads that are each a loop over one function. The fetch thread turns a `Batch` into a `Fetched` one (tokens and features);
//! a score thread turns that into answers, one for each device, so that all devices can work at once. Between them stands a
//! channel of one batch for each, so that batch N+1 is fetched while batch N is scored. A panic in any of them marks the node
//! as failed: a node is never half dead.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_store::{EntityRef, Fetched};

use crate::compose;
use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::life::Life;
use crate::metrics;
use crate::question::{Admitted, BatchInfo, Timings};
use crate::queue::Batch;
use crate::rank::{Group, Known, rank, tokenize};
use crate::rung::Rung;
use crate::worker::spawn;

/// A batch with everything the model needs.
struct FetchedBatch {
    questions: Vec<Admitted>,
    /// The questions by the encoder that reads them, tokenised.
    groups: Vec<Group>,
    /// None where the store could not be read: the questions are answered without features.
    features: Option<Fetched>,
    /// The row of each question's user in `features`; none for a question of nobody in particular.
    rows: Vec<Option<usize>>,
    now_ms: i64,
    info: BatchInfo,
    clock: StageClock,
}

/// When each stage of a batch ended.
#[derive(Clone, Copy)]
struct StageClock {
    closed: Instant,
    tokenized: Instant,
    fetched: Instant,
}

/// The threads.
#[derive(Debug)]
pub(crate) struct Pipeline {
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    pub(crate) fn start(engine: &Arc<Engine>, life: &Life) -> Result<Pipeline, Error> {
        let scorers = engine.queue.scorers();
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
    let mut last_id = 0;
    while let Some(batch) = engine.queue.next_batch() {
        last_id += 1;
        let info = BatchInfo { id: last_id, size: batch.questions.len(), closed_by: batch.closed_by };
        engine.counters.batch_closed(&info);
        if output.send(fetch(engine, batch, info)).is_err() {
            return;
        }
    }
}

/// Tokenises the texts and reads the features of the whole batch at once.
fn fetch(engine: &Engine, batch: Batch, info: BatchInfo) -> FetchedBatch {
    let now_ms = now_ms();
    let questions = batch.questions;
    let groups = tokenize(&questions);
    let tokenized = Instant::now();

    let mut rows = Vec::with_capacity(questions.len());
    let mut entities: Vec<EntityRef<'_>> = Vec::with_capacity(questions.len());
    for question in &questions {
        let known = !question.context.user.is_empty();
        rows.push(known.then_some(entities.len()));
        if known {
            entities.push(EntityRef { tenant: question.context.tenant_id, entity: &question.context.user });
        }
    }
    let features = engine.store.fetch(&engine.plan.plan, &entities, now_ms);
    let features = features.inspect_err(|error| {
        metrics::fetch_failed();
        tracing::error!(%error, batch = info.id, "features could not be read; answering without them");
    });
    if let Ok(features) = &features {
        engine.counters.fetched(&features.stats);
    }
    let clock = StageClock { closed: batch.closed, tokenized, fetched: Instant::now() };
    FetchedBatch { questions, groups, features: features.ok(), rows, now_ms, info, clock }
}

fn run_score(engine: &Engine, input: &Mutex<Receiver<FetchedBatch>>) {
    // Whoever holds the lock waits for the next batch, the other idle ones for the lock.
    let next = || input.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(batch) = next() {
        engine.queue.scoring_began();
        score(engine, batch);
        engine.queue.scoring_ended();
    }
}

/// Ranks all questions, each with its tenant's head and its user's features, and answers.
fn score(engine: &Engine, batch: FetchedBatch) {
    let began = Instant::now();
    if batch.questions.iter().all(|question| question.is_lost(began)) {
        return;
    }
    let FetchedBatch { questions, groups, features, rows, now_ms, info, clock } = batch;
    let known = Known { questions: &questions, features: features.as_ref(), rows: &rows, now_ms };
    let ranked = rank(&known, &groups);
    let scored = Instant::now();
    // What a failing encoder took says nothing about the next batch.
    if ranked.iter().all(|ranked| ranked.as_ref().is_some_and(|ranked| ranked.rung == Rung::Full)) {
        let tokens = questions.iter().map(|question| question.estimated_tokens).sum();
        engine.cost.observe(tokens, scored - began);
    }
    metrics::batch_scored(scored - began);

    for (at, (question, ranked)) in questions.into_iter().zip(ranked).enumerate() {
        let Some(ranked) = ranked else {
            question
                .finish(Err(Refusal::Internal("the question could not be ranked; the node's log says why".to_owned())));
            continue;
        };
        let render_began = Instant::now();
        let mut answer = compose::answer(&question, &ranked, features.as_ref(), rows[at], now_ms, info);
        let now = Instant::now();
        answer.timings = Timings {
            queue: clock.closed.saturating_duration_since(question.arrived),
            tokenize: clock.tokenized - clock.closed,
            fetch: clock.fetched - clock.tokenized,
            ready: began - clock.fetched,
            score: scored - began,
            render: now - render_began,
            total: now - question.arrived,
        };
        metrics::stages(&answer.timings);
        question.finish(Ok(answer));
    }
}

/// Unix milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
