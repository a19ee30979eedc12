//! From scores to rankings: what the words say, together with what is known of each user.

use std::sync::Arc;

use larder_model::{Error, Ranking};

use crate::fetch::Common;
use crate::group::{Group, Member, SameText, Scored};
use crate::metrics;
use crate::rung::Rung;
use crate::scores::{Scores, rows};
use crate::tenant::Tenant;

/// A question and its ranking.
pub(crate) struct Ranked {
    pub(crate) member: Member,
    pub(crate) ranking: Ranking,
    /// The encoder did not read the text to its end.
    pub(crate) truncated: bool,
}

/// What became of some questions: what fails of one tenant is no other tenant's business.
pub(crate) struct Outcome<T> {
    pub(crate) done: Vec<T>,
    pub(crate) failed: Vec<Member>,
}

impl<T> Outcome<T> {
    fn none() -> Outcome<T> {
        Outcome { done: Vec::new(), failed: Vec::new() }
    }
}

/// Encodes the texts of a group and compares them with their tenants' catalogues; `keep` is shown the scores of each text.
pub(crate) fn score(group: Group, mut keep: impl FnMut(&SameText, &Arc<Scores>)) -> Outcome<Scored> {
    let encoded = group.tokens.as_ref().map_err(ToString::to_string).and_then(|tokens| {
        let vectors = group.encoder.encode(tokens).map_err(|error| error.to_string())?;
        Ok((tokens, vectors))
    });
    let (tokens, vectors) = match encoded {
        Ok(encoded) => encoded,
        Err(error) => {
            metrics::rung_failed(group.rung);
            let (encoder, texts) = (group.encoder.name(), group.texts.len());
            tracing::error!(encoder, rung = group.rung.label(), %error, texts, "encoding failed");
            return Outcome { done: Vec::new(), failed: group.into_members() };
        }
    };
    let mut outcome = Outcome::none();
    let texts = group.texts.into_iter().enumerate();
    for texts in by(texts, |(_, text), (_, other)| Arc::ptr_eq(&text.tenant, &other.tenant)) {
        let tenant = texts[0].1.tenant.clone();
        let Some(ranker) = tenant.ranker(group.rung) else { continue };
        let vectors = vectors.select(&texts.iter().map(|(at, _)| *at).collect::<Vec<_>>());
        match ranker.index.best_cosines(&vectors) {
            Ok(cosines) => {
                let intents = ranker.index.intents();
                for (nth, (at, text)) in texts.into_iter().enumerate() {
                    let cosines = &cosines[nth * intents..][..intents];
                    let scores = Arc::new(Scores::new(group.rung, tokens.truncated(at), vectors.row(nth), cosines));
                    keep(&text, &scores);
                    let scored = |member| Scored { member, scores: scores.clone() };
                    outcome.done.extend(text.members.into_iter().map(scored));
                }
            }
            Err(error) => {
                report(&tenant, group.rung, &error);
                outcome.failed.extend(texts.into_iter().flat_map(|(_, text)| text.members));
            }
        }
    }
    outcome
}

/// Ranks questions whose scores are known, each with its tenant's head and its user's features.
pub(crate) fn rank(scored: Vec<Scored>, common: &Common) -> Outcome<Ranked> {
    let mut outcome = Outcome::none();
    let same = |one: &Scored, other: &Scored| {
        one.scores.rung == other.scores.rung && Arc::ptr_eq(&one.member.question.tenant, &other.member.question.tenant)
    };
    for scored in by(scored, same) {
        let (tenant, rung) = (scored[0].member.question.tenant.clone(), scored[0].scores.rung);
        match rank_tenant(&tenant, rung, &scored, common) {
            Ok(rankings) => {
                let ranked =
                    |(Scored { member, scores }, ranking)| Ranked { member, ranking, truncated: scores.truncated };
                outcome.done.extend(scored.into_iter().zip(rankings).map(ranked));
            }
            Err(error) => {
                report(&tenant, rung, &error);
                outcome.failed.extend(scored.into_iter().map(|scored| scored.member));
            }
        }
    }
    outcome
}

fn rank_tenant(tenant: &Tenant, rung: Rung, scored: &[Scored], common: &Common) -> Result<Vec<Ranking>, Error> {
    // Whoever has scores of a rung has a ranker for it.
    let Some(ranker) = tenant.ranker(rung) else { return Ok(Vec::new()) };
    let mut phi = Vec::with_capacity(scored.len() * tenant.layout.encoder().width());
    for Scored { member, .. } in scored {
        let row = common.features.as_deref().zip(member.row);
        tenant.layout.append_phi(row, common.now_ms, &mut phi)?;
    }
    let (vectors, cosines) = rows(scored.iter().map(|scored| &scored.scores));
    ranker.head().rank(&vectors, &cosines, &phi)
}

fn report(tenant: &Tenant, rung: Rung, error: &Error) {
    metrics::rung_failed(rung);
    tracing::error!(tenant = tenant.name, rung = rung.label(), %error, "ranking failed");
}

/// Items divided into those that are the same as their first, orders kept; no part is empty.
fn by<T>(items: impl IntoIterator<Item = T>, same: impl Fn(&T, &T) -> bool) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    for item in items {
        match parts.iter_mut().find(|part| same(&part[0], &item)) {
            Some(part) => part.push(item),
            None => parts.push(vec![item]),
        }
    }
    parts
}
