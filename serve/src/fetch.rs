//! The fetch stage: a closed batch becomes a fetched one. Its questions are divided by what answers them, those that an encoder reads are
//! tokenised, and the features of all their users are read at once.

use std::sync::Arc;
use std::time::Instant;

use larder_store::{EntityRef, Fetched};

use crate::engine::Engine;
use crate::group::{Group, Member, Scored};
use crate::metrics::{self, Stage};
use crate::pipeline::now_ms;
use crate::question::{BatchInfo, Chosen};
use crate::queue::Batch;
use crate::rung::{Rung, Source};

/// A batch with everything that its answers need.
pub(crate) struct FetchedBatch {
    /// Answered with their tenants' text.
    pub(crate) fallback: Vec<Member>,
    /// Their words were scored before.
    pub(crate) scored: Vec<Scored>,
    /// Read by an encoder, those of the cheapest rung first.
    pub(crate) groups: Vec<Group>,
    pub(crate) common: Arc<Common>,
}

impl FetchedBatch {
    /// What needs no forward or only a look-up, and the rest, which has to wait for a scorer; none where there is no rest.
    pub(crate) fn divide(self) -> (FetchedBatch, Option<FetchedBatch>) {
        let FetchedBatch { fallback, scored, groups, common } = self;
        let (at_hand, rest): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.encoder.is_table());
        let rest = (!rest.is_empty()).then(|| FetchedBatch {
            fallback: Vec::new(),
            scored: Vec::new(),
            groups: rest,
            common: common.clone(),
        });
        (FetchedBatch { fallback, scored, groups: at_hand, common }, rest)
    }
}

/// What all questions of a batch have in common.
pub(crate) struct Common {
    /// None where the store could not be read: the questions are answered without features.
    pub(crate) features: Option<Arc<Fetched>>,
    pub(crate) now_ms: i64,
    pub(crate) info: BatchInfo,
    pub(crate) clock: StageClock,
}

/// When each stage of a batch ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageClock {
    pub(crate) closed: Instant,
    pub(crate) tokenized: Instant,
    pub(crate) fetched: Instant,
}

/// Drops what is lost, tokenises and reads the features.
pub(crate) fn fetch(engine: &Engine, batch: Batch, info: BatchInfo) -> FetchedBatch {
    let (began, now_ms) = (Instant::now(), now_ms());
    let mut questions = batch.questions;
    // Dropping a question tells its caller.
    questions.retain(|chosen| !chosen.question.is_lost(began));

    let mut users: Vec<EntityRef<'_>> = Vec::with_capacity(questions.len());
    let mut rows = Vec::with_capacity(questions.len());
    for Chosen { question, choice } in &questions {
        // The fallback text says nothing of the user.
        let asked = !question.context.user.is_empty() && choice.source != Source::Fallback;
        rows.push(asked.then_some(users.len()));
        if asked {
            users.push(EntityRef { tenant: question.context.tenant_id, entity: &question.context.user });
        }
    }
    let features = engine.store.fetch(&engine.plan.plan, &users, now_ms);
    let features = features.inspect_err(|error| {
        metrics::fetch_failed();
        tracing::error!(%error, batch = info.id, "features could not be read; answering without them");
    });
    if let Ok(features) = &features {
        engine.counters.fetched(&features.stats);
    }
    let fetched = Instant::now();

    let (mut fallback, mut scored, mut unscored) = (Vec::new(), Vec::new(), Vec::new());
    for (Chosen { mut question, choice }, row) in questions.into_iter().zip(rows) {
        match (choice.source, question.scores.take()) {
            (Source::Fallback, _) => fallback.push(Member { question, choice, row }),
            (Source::Cached(_), Some(scores)) => {
                scored.push(Scored { member: Member { question, choice, row }, scores });
            }
            (Source::Model(rung) | Source::Cached(rung), _) => unscored.push((Member { question, choice, row }, rung)),
        }
    }
    let mut groups = Group::divide(unscored);
    groups.sort_by_key(|group| group.rung != Rung::Light);
    let tokenized = Instant::now();
    engine.counters.passed(Stage::Fetch, fetched - began);
    engine.counters.passed(Stage::Tokenize, tokenized - fetched);
    let clock = StageClock { closed: batch.closed, fetched, tokenized };
    FetchedBatch {
        fallback,
        scored,
        groups,
        common: Arc::new(Common { features: features.ok().map(Arc::new), now_ms, info, clock }),
    }
}
