//! One question's answer from its ranking and its user's features: the words, and everything the reply says of itself.

use larder_store::{Fetched, Status};

use crate::question::{Admitted, Answer, BatchInfo, Candidate, Provenance, Timings};
use crate::rank::Ranked;

/// The answer to one question, in words, with where it came from. Timings are filled in by the caller.
pub(crate) fn answer(
    question: &Admitted,
    ranked: &Ranked,
    features: Option<&Fetched>,
    row: Option<usize>,
    now_ms: i64,
    batch: BatchInfo,
) -> Answer {
    let (tenant, ranking) = (&question.tenant, &ranked.ranking);
    let of_user = features.zip(row);
    let views = of_user.map(|(fetched, row)| tenant.layout.provenance(fetched, row, now_ms)).unwrap_or_default();
    let mut notes = question.question.notes.clone();
    if features.is_none() {
        notes.push("the feature store could not be read; answered without features".to_owned());
    } else if row.is_none() {
        notes.push("the call named no user; answered without features".to_owned());
    } else {
        notes.extend(absence(&views));
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
    if ranked.truncated {
        notes.push("the text is longer than the model reads; its end was not considered".to_owned());
    }
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
        rung: ranked.rung,
        rung_reason: ranked.reason,
        views,
        notes,
        timings: Timings::default(),
        batch,
    }
}

/// What the caller should know of features that are not there. That one view knows nothing of a user is ordinary; that its rows came too late
/// is not.
fn absence(views: &[Provenance]) -> Option<String> {
    let any = |status| views.iter().any(|view| view.status == status);
    if any(Status::Present) {
        let late = views.iter().filter(|view| view.status == Status::NotInTime).map(|view| view.view.as_str());
        let late = late.collect::<Vec<_>>().join(" and ");
        return (!late.is_empty())
            .then(|| format!("the features of {late} did not arrive in time; answered without them"));
    }
    let why = if any(Status::NotInTime) {
        "the features of this user did not arrive in time"
    } else if any(Status::Erased) {
        "all that was known of this user was erased"
    } else if any(Status::Expired) {
        "all that is known of this user has expired"
    } else {
        "no features are known for this user"
    };
    Some(format!("{why}; answered without features"))
}

#[cfg(test)]
mod tests {
    use larder_store::Tier;

    use super::*;

    fn note(statuses: &[(&str, Status)]) -> Option<String> {
        let view = |&(view, status): &(&str, Status)| Provenance {
            view: view.to_owned(),
            status,
            tier: Tier::None,
            event_time_ms: 0,
            age_ms: 0,
            generation: 0,
        };
        absence(&statuses.iter().map(view).collect::<Vec<_>>())
    }

    #[test]
    fn a_note_says_why_features_are_not_there_when_somebody_should_know() {
        use Status::{Erased, Expired, NotFound, NotInTime, Present};
        let of = |profile, orders| note(&[("profile", profile), ("orders", orders)]);
        assert_eq!(of(Present, Present), None);
        assert_eq!(of(Present, NotFound), None);
        assert_eq!(of(Erased, Present), None, "somebody who came back");
        for (profile, orders, says) in [
            (NotFound, NotFound, "no features are known for this user; answered without features"),
            (NotFound, Expired, "all that is known of this user has expired; answered without features"),
            (Erased, Expired, "all that was known of this user was erased; answered without features"),
            (NotInTime, Erased, "the features of this user did not arrive in time; answered without features"),
            (Present, NotInTime, "the features of orders did not arrive in time; answered without them"),
        ] {
            assert_eq!(of(profile, orders).as_deref(), Some(says));
        }
        let both = note(&[("profile", NotInTime), ("tickets", Present), ("orders", NotInTime)]);
        let says = "the features of profile and orders did not arrive in time; answered without them";
        assert_eq!(both.as_deref(), Some(says));
        assert_eq!(note(&[]).as_deref(), Some("no features are known for this user; answered without features"));
    }
}
