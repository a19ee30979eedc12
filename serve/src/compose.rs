//! One question's answer from its ranking and its user's features: the words, and everything the reply says of itself.

use larder_model::Ranking;
use larder_store::{Fetched, Status};

use crate::question::{Admitted, Answer, BatchInfo, Candidate, Timings};

/// The answer to one question, in words, with where it came from. Timings are filled in by the caller.
pub(crate) fn answer(
    question: &Admitted,
    ranking: &Ranking,
    features: Option<&Fetched>,
    row: Option<usize>,
    now_ms: i64,
    batch: BatchInfo,
) -> Answer {
    let tenant = &question.tenant;
    let of_user = features.zip(row);
    let views = of_user.map(|(fetched, row)| tenant.layout.provenance(fetched, row, now_ms)).unwrap_or_default();
    let mut notes = question.question.notes.clone();
    if features.is_none() {
        notes.push("the feature store could not be read; answered without features".to_owned());
    } else if row.is_none() {
        notes.push("the call named no user; answered without features".to_owned());
    } else if views.iter().all(|view| view.status != Status::Present) {
        let expired = views.iter().any(|view| view.status == Status::Expired);
        let why =
            if expired { "all that is known of this user has expired" } else { "no features are known for this user" };
        notes.push(format!("{why}; answered without features"));
    }
    let (text, intent) = if ranking.hand_over {
        (tenant.hand_over.clone(), String::new())
    } else {
        let intent = &tenant.catalogue.intents[ranking.best];
        let rendered = tenant.renderer.render((&intent.name, ranking.best), &tenant.layout, of_user);
        if !rendered.complete && notes.is_empty() {
            notes.push(
                "the answer's template needs a feature that this user has not; the general answer was taken".to_owned(),
            );
        }
        (rendered.text, intent.name.clone())
    };
    let candidate = |&(intent, probability): &(usize, f32)| Candidate {
        intent: tenant.catalogue.intents[intent].name.clone(),
        title: tenant.catalogue.intents[intent].title.clone(),
        probability,
    };
    Answer {
        request_id: question.question.request_id.clone(),
        text,
        intent,
        confidence: ranking.confidence,
        handed_over: ranking.hand_over,
        candidates: ranking.candidates.iter().map(candidate).collect(),
        views,
        notes,
        timings: Timings::default(),
        batch,
    }
}
