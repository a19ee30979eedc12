//! Letting questions in: at once or not at all.
//!
//! A question that is let in gets a `Permit`, which is held until it is dropped, wherever that happens: answered, expired, cancelled, or lost to
//! a panic. Nothing waits here: who does not fit is told so, and when to come back. In order: the tenant's token bucket; whether the
//! answer would come in time on the cheapest rung, since the ladder goes there before anybody is late; whether the queue stands;
//! whether there is room. Only where room is missing may somebody else have to go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_store::TenantId;

use crate::context::Class;
use crate::error::Refusal;
use crate::schedule::concurrency::ConcurrencyLimit;
use crate::schedule::config::AdmissionConfig;
use crate::schedule::line::{Entry, Line, Sum};
use crate::schedule::price::{Cost, SAFETY};
use crate::schedule::standing::StandingQueue;
use crate::schedule::token_bucket::TokenBucket;

/// Of the concurrency limit, what bulk may use: the rest is for those who wait for their answers.
const BULK_PART: f64 = 0.9;

/// The door of the node.
#[derive(Debug)]
pub(crate) struct Admission {
    config: AdmissionConfig,
    /// Score threads, which share the work.
    scorers: u32,
    /// Time that most questions have.
    ordinary: Duration,
    in_flight: Arc<AtomicUsize>,
    limit: ConcurrencyLimit,
    standing: HashMap<(Class, TenantId), StandingQueue>,
    buckets: HashMap<TenantId, TokenBucket>,
}

/// The right to be worked on. Dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Arc<AtomicUsize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// For that many score threads, with the time that most questions have and the tenants' allowances: questions a second and in one burst.
    pub(crate) fn new(
        config: AdmissionConfig,
        scorers: usize,
        ordinary: Duration,
        allowances: impl IntoIterator<Item = (TenantId, f64, f64)>,
        now: Instant,
    ) -> Admission {
        let bucket = |(tenant, per_s, burst)| (tenant, TokenBucket::new(per_s, burst, now));
        Admission {
            scorers: u32::try_from(scorers.max(1)).unwrap_or(u32::MAX),
            ordinary,
            in_flight: Arc::default(),
            limit: ConcurrencyLimit::new(config.least_concurrency, config.max_questions),
            standing: HashMap::new(),
            buckets: allowances.into_iter().map(bucket).collect(),
            config,
        }
    }

    pub(crate) fn weight(&self, class: Class) -> u32 {
        self.config.weight(class)
    }

    /// Whether the question may be let in as far as it alone is concerned.
    pub(crate) fn check<T>(
        &mut self,
        entry: &Entry,
        line: &Line<T>,
        committed: Duration,
        batch_limit: Duration,
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(bucket) = self.buckets.get_mut(&entry.tenant) {
            bucket.check(now).map_err(|wait| Refusal::RateLimited { retry_after: retry_after(wait) })?;
        }
        let wait = self.wait(entry, line);
        let alone = entry.price.cheapest().map_or(Duration::ZERO, Cost::alone);
        // It is answered together with all of its batch, which is as large as those who wait make it.
        let batch = alone + line.total().cheapest.min(batch_limit);
        let predicted = committed + wait + batch;
        let remaining = entry.deadline.saturating_duration_since(now);
        let allowed = remaining.div_f64(SAFETY);
        // An empty node tries any question with ordinary time: only by trying is a wrong prediction found out.
        let trial = self.in_flight() == 0 && remaining >= self.ordinary;
        if predicted > allowed && !trial {
            return Err(Refusal::PredictedLate { predicted, remaining, retry_after: retry_after(predicted - allowed) });
        }
        let standing = self.standing.get(&(entry.class, entry.tenant));
        match standing.and_then(|standing| standing.limit(entry.allowance(), now)) {
            Some(limit) if predicted > limit => {
                Err(Refusal::StandingQueue { retry_after: retry_after(predicted - limit) })
            }
            _ => Ok(()),
        }
    }

    /// Until a question would be in a batch, on the cheapest rungs.
    fn wait<T>(&self, entry: &Entry, line: &Line<T>) -> Duration {
        line.ahead(entry.class, entry.tenant, |sum: &Sum| sum.cheapest) / self.scorers
    }

    /// Whether there is room for the question, once `evicted` others have gone, who still hold their permits.
    pub(crate) fn room<T>(
        &self,
        entry: &Entry,
        line: &Line<T>,
        committed: Duration,
        evicted: usize,
    ) -> Result<(), Refusal> {
        let limit = self.limit.limit();
        let allowed = match entry.class {
            Class::Vip => self.config.max_questions,
            Class::Normal => limit,
            Class::Bulk => (limit as f64 * BULK_PART) as usize,
        };
        let in_flight = self.in_flight().saturating_sub(evicted);
        let backlog = line.total().cheapest / self.scorers + committed;
        let most = Duration::from_millis(self.config.max_backlog_ms);
        // A single question larger than the limit is let into an empty node, or it could never be answered.
        let full = in_flight >= allowed || (in_flight > 0 && backlog + entry.price.cheapest_shared() > most);
        if full { Err(Refusal::QueueFull { retry_after: retry_after(backlog / 2) }) } else { Ok(()) }
    }

    pub(crate) fn let_in(&mut self, entry: &Entry) -> Permit {
        if let Some(bucket) = self.buckets.get_mut(&entry.tenant) {
            bucket.take();
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit { in_flight: self.in_flight.clone() }
    }

    /// What somebody is told who had to go for another.
    pub(crate) fn eviction<T>(&self, line: &Line<T>) -> Refusal {
        Refusal::Evicted { retry_after: retry_after(line.total().cheapest / self.scorers) }
    }

    /// What somebody is told who was let in and cannot be answered in time any more.
    pub(crate) fn too_late<T>(&self, entry: &Entry, line: &Line<T>, committed: Duration, now: Instant) -> Refusal {
        let predicted = committed + entry.price.cheapest().map_or(Duration::ZERO, Cost::alone);
        let remaining = entry.deadline.saturating_duration_since(now);
        let backlog = committed + line.total().cheapest / self.scorers;
        Refusal::PredictedLate { predicted, remaining, retry_after: retry_after(backlog / 2) }
    }

    /// Learns how long a question waited for its batch.
    pub(crate) fn waited(&mut self, entry: &Entry, now: Instant) {
        let target = Duration::from_millis(self.config.standing_target_ms);
        let standing = self.standing.entry((entry.class, entry.tenant));
        let wait = now.saturating_duration_since(entry.arrived);
        standing.or_insert_with(|| StandingQueue::new(target)).waited(wait, now);
    }

    /// Learns that questions were answered.
    pub(crate) fn answered(&mut self, questions: usize, now: Instant) {
        let in_flight = self.in_flight() + questions;
        self.limit.answered(questions, in_flight, now);
    }

    /// Learns that a question's deadline passed although it was let in.
    pub(crate) fn late(&mut self, now: Instant) {
        let in_flight = self.in_flight();
        self.limit.late(in_flight, now);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.limit()
    }
}

/// A hint of at least 10 ms: less only makes clients hammer.
pub(crate) fn retry_after(work: Duration) -> Duration {
    work.max(Duration::from_millis(10))
}
