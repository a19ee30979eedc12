//! From a batch's questions to their rankings: one forward per encoder, then a search and a ranking per tenant.
//!
//! Every question is ranked on its tenant's full rung. Where that rung fails, its questions are ranked on the light one, if their tenant
//! has it, and the answer says so. What fails of one tenant is no other tenant's business.

use std::sync::Arc;

use larder_model::{Embeddings, Encoder, Error, Ranking, Tokens};
use larder_store::Fetched;

use crate::metrics;
use crate::question::Admitted;
use crate::rung::Rung;
use crate::tenant::Tenant;

/// Why a question was answered on the full rung.
const FIRST_CHOICE: &str = "the full model is the first choice";
/// Why a question was answered on the light rung.
const FULL_FAILED: &str = "the full model failed; the node's log says why";

/// The questions of a batch that one encoder reads.
pub(crate) struct Group {
    encoder: Encoder,
    /// Their positions in the batch.
    members: Vec<usize>,
    /// One text per member, in order.
    tokens: Result<Tokens, Error>,
}

/// What is known of a batch when it is ranked.
pub(crate) struct Known<'a> {
    pub(crate) questions: &'a [Admitted],
    /// None where the store could not be read.
    pub(crate) features: Option<&'a Fetched>,
    /// The row of each question's user in `features`.
    pub(crate) rows: &'a [Option<usize>],
    pub(crate) now_ms: i64,
}

/// A question's ranking, and how it came about.
#[derive(Debug, Clone)]
pub(crate) struct Ranked {
    pub(crate) ranking: Ranking,
    pub(crate) rung: Rung,
    pub(crate) reason: &'static str,
    /// The encoder did not read the text to its end.
    pub(crate) truncated: bool,
}

/// Tokenises all questions of a batch for their full rungs, each with its own encoder.
pub(crate) fn tokenize(questions: &[Admitted]) -> Vec<Group> {
    group(questions, (0..questions.len()).collect(), Rung::Full)
}

/// The rankings of all questions, in order; none for those that could not be ranked on any rung.
pub(crate) fn rank(known: &Known<'_>, groups: &[Group]) -> Vec<Option<Ranked>> {
    let mut ranked = vec![None; known.questions.len()];
    let failed = rank_groups(known, groups, Rung::Full, &mut ranked);
    if !failed.is_empty() {
        let groups = group(known.questions, failed, Rung::Light);
        rank_groups(known, &groups, Rung::Light, &mut ranked);
    }
    ranked
}

/// Divides questions by the encoder that their tenants have for a rung; those of tenants without one are left out.
fn group(questions: &[Admitted], mut waiting: Vec<usize>, rung: Rung) -> Vec<Group> {
    let encoder = |at: usize| questions[at].tenant.ranker(rung).map(|ranker| &ranker.encoder);
    waiting.retain(|at| encoder(*at).is_some());
    let mut groups = Vec::new();
    while let Some(encoder_of_first) = waiting.first().and_then(|first| encoder(*first)) {
        // Equal names mean equal vectors.
        let same = |at: &usize| encoder(*at).is_some_and(|other| other.name() == encoder_of_first.name());
        let (members, others): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(same);
        let texts: Vec<&str> = members.iter().map(|at| questions[*at].question.text.as_str()).collect();
        let tokens = encoder_of_first.tokenize(&texts);
        groups.push(Group { encoder: encoder_of_first.clone(), members, tokens });
        waiting = others;
    }
    groups
}

/// Ranks what can be ranked and returns the positions of the rest.
fn rank_groups(known: &Known<'_>, groups: &[Group], rung: Rung, ranked: &mut [Option<Ranked>]) -> Vec<usize> {
    let mut failed = Vec::new();
    for group in groups {
        let encoded = group.tokens.as_ref().map_err(ToString::to_string).and_then(|tokens| {
            let embeddings = group.encoder.encode(tokens).map_err(|error| error.to_string())?;
            Ok((tokens, embeddings))
        });
        match encoded {
            Ok((tokens, embeddings)) => {
                failed.extend(rank_group(known, group, tokens, &embeddings, rung, ranked));
            }
            Err(error) => {
                metrics::rung_failed(rung);
                let (encoder, questions) = (group.encoder.name(), group.members.len());
                tracing::error!(encoder, rung = rung.label(), %error, questions, "encoding failed");
                failed.extend(&group.members);
            }
        }
    }
    failed
}

/// Ranks one encoder's questions tenant by tenant and returns the positions of those that could not be ranked.
fn rank_group(
    known: &Known<'_>,
    group: &Group,
    tokens: &Tokens,
    embeddings: &Embeddings,
    rung: Rung,
    ranked: &mut [Option<Ranked>],
) -> Vec<usize> {
    let question = |text: usize| &known.questions[group.members[text]];
    let mut failed = Vec::new();
    let mut waiting: Vec<usize> = (0..group.members.len()).collect();
    while let Some(&first) = waiting.first() {
        let tenant = &question(first).tenant;
        let same = |text: &usize| Arc::ptr_eq(&question(*text).tenant, tenant);
        let (texts, others): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(same);
        let members: Vec<usize> = texts.iter().map(|text| group.members[*text]).collect();
        match rank_tenant(known, tenant, &embeddings.select(&texts), &members, rung) {
            Ok(rankings) => {
                for ((text, at), ranking) in texts.iter().zip(members).zip(rankings) {
                    let reason = if rung == Rung::Full { FIRST_CHOICE } else { FULL_FAILED };
                    ranked[at] = Some(Ranked { ranking, rung, reason, truncated: tokens.truncated(*text) });
                }
            }
            Err(error) => {
                metrics::rung_failed(rung);
                let questions = members.len();
                tracing::error!(tenant = tenant.name, rung = rung.label(), %error, questions, "ranking failed");
                failed.extend(members);
            }
        }
        waiting = others;
    }
    failed
}

/// Similarity to the tenant's catalogue, together with each user's features, for the questions at `members`.
fn rank_tenant(
    known: &Known<'_>,
    tenant: &Tenant,
    embeddings: &Embeddings,
    members: &[usize],
    rung: Rung,
) -> Result<Vec<Ranking>, Error> {
    // Whoever is in a group of this rung has a ranker for it.
    let Some(ranker) = tenant.ranker(rung) else { return Ok(Vec::new()) };
    let mut phi = Vec::with_capacity(members.len() * tenant.layout.encoder().width());
    for &at in members {
        let row = known.features.zip(known.rows[at]);
        tenant.layout.append_phi(row, known.now_ms, &mut phi)?;
    }
    ranker.head().rank(embeddings, &ranker.index.best_cosines(embeddings)?, &phi)
}
