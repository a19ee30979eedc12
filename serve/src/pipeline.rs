//! The way of a batch through the node: one fetch, one forward, one answer for each question.
//!
//! Threads that are each a loop over one function. The fetch thread turns a `Batch` into a `Fetched` one (tokens and features);
//! a score thread turns that into answers, one for each device, so that all devices can work at once. Between them stands a
//! channel of one batch for each, so that batch N+1 is fetched while batch N is scored. A panic in any of them marks the node
//! as failed: a node is never half dead.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_model::{Embeddings, Ranking, Tokens};
use larder_store::{EntityRef, Fetched};

use crate::compose;
use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::life::Life;
use crate::metrics;
use crate::question::{Admitted, BatchInfo, Timings};
use crate::queue::Batch;
use crate::tenant::Tenant;
use crate::worker::spawn;

/// A batch with everything the model needs.
struct FetchedBatch {
    questions: Vec<Admitted>,
    /// One text per question, in order.
    tokens: Tokens,
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
        match fetch(engine, batch, info) {
            Ok(fetched) => {
                if output.send(fetched).is_err() {
                    return;
                }
            }
            // The callers were told.
            Err(Unusable) => engine.queue.slot_vacated(),
        }
    }
}

/// Every question of the batch got its refusal.
struct Unusable;

/// Tokenises the texts and reads the features of the whole batch at once.
fn fetch(engine: &Engine, batch: Batch, info: BatchInfo) -> Result<FetchedBatch, Unusable> {
    let now_ms = now_ms();
    let questions = batch.questions;
    let texts: Vec<&str> = questions.iter().map(|question| question.question.text.as_str()).collect();
    let tokens = match engine.encoder.tokenize(&texts) {
        Ok(tokens) => tokens,
        Err(error) => return Err(refuse_all(questions, "tokenising", &error)),
    };
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
    Ok(FetchedBatch { questions, tokens, features: features.ok(), rows, now_ms, info, clock })
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

/// Encodes all questions in one forward, ranks each with its tenant's head and its user's features, and answers.
fn score(engine: &Engine, batch: FetchedBatch) {
    let began = Instant::now();
    if batch.questions.iter().all(|question| question.is_lost(began)) {
        return;
    }
    let rankings = match rank(engine, &batch) {
        Ok(rankings) => rankings,
        Err(error) => {
            refuse_all(batch.questions, "encoding", &error);
            return;
        }
    };
    let scored = Instant::now();
    let tokens = batch.questions.iter().map(|question| question.estimated_tokens).sum();
    engine.cost.observe(tokens, scored - began);
    metrics::batch_scored(scored - began);

    let FetchedBatch { questions, features, rows, now_ms, info, clock, tokens } = batch;
    for (at, (question, ranking)) in questions.into_iter().zip(rankings).enumerate() {
        let Some(ranking) = ranking else {
            question
                .finish(Err(Refusal::Internal("the question could not be ranked; the node's log says why".to_owned())));
            continue;
        };
        let render_began = Instant::now();
        let mut answer = compose::answer(&question, &ranking, features.as_ref(), rows[at], now_ms, info);
        if tokens.truncated(at) {
            answer.notes.push("the text is longer than the model reads; its end was not considered".to_owned());
        }
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

/// One forward for the batch, then a ranking tenant by tenant. None for the questions of a tenant whose ranking failed, which
/// is no other tenant's business.
fn rank(engine: &Engine, batch: &FetchedBatch) -> Result<Vec<Option<Ranking>>, larder_model::Error> {
    let embeddings = engine.encoder.encode(&batch.tokens)?;
    let mut rankings: Vec<Option<Ranking>> = vec![None; batch.questions.len()];
    let mut waiting: Vec<usize> = (0..batch.questions.len()).collect();
    while let Some(&first) = waiting.first() {
        let tenant = &batch.questions[first].tenant;
        let same = |at: &usize| Arc::ptr_eq(&batch.questions[*at].tenant, tenant);
        let (members, others): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(same);
        match rank_tenant(tenant, &embeddings.select(&members), &members, batch) {
            Ok(ranked) => members.iter().zip(ranked).for_each(|(at, ranking)| rankings[*at] = Some(ranking)),
            Err(error) => tracing::error!(tenant = tenant.name, %error, questions = members.len(), "ranking failed"),
        }
        waiting = others;
    }
    Ok(rankings)
}

/// Similarity to the tenant's catalogue, together with each user's features, for the questions at `members`.
fn rank_tenant(
    tenant: &Tenant,
    embeddings: &Embeddings,
    members: &[usize],
    batch: &FetchedBatch,
) -> Result<Vec<Ranking>, larder_model::Error> {
    let mut phi = Vec::with_capacity(members.len() * tenant.layout.encoder().width());
    for &at in members {
        let row = batch.features.as_ref().zip(batch.rows[at]);
        tenant.layout.append_phi(row, batch.now_ms, &mut phi)?;
    }
    tenant.head.rank(&tenant.index.best_cosines(embeddings)?, &phi)
}

fn refuse_all(questions: Vec<Admitted>, stage: &str, error: &larder_model::Error) -> Unusable {
    tracing::error!(stage, %error, questions = questions.len(), "a batch failed");
    for question in questions {
        question.finish(Err(Refusal::Internal(format!("{stage} failed; the node's log says why"))));
    }
    Unusable
}

/// Unix milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
