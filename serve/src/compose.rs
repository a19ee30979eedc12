//! One question's answer: from its ranking and its user's features, or from its tenant's text alone. The words, and everything the reply
//! says of itself.

use larder_store::Status;

use crate::fetch::Common;
use crate::group::Member;
use crate::question::{Answer, Candidate, Provenance, Timings};
use crate::rank::Ranked;
use crate::template_rows::UserRows;

/// The answer to a ranked question, in words, with where it came from. Timings and id are filled in by the caller.
pub(crate) fn answer(ranked: &Ranked, common: &Common) -> Answer {
    let Ranked { member, ranking, truncated } = ranked;
    let question = &member.question;
    let tenant = &question.tenant;
    let rows = common.features.as_ref().zip(member.row);
    let views = rows.map(|(fetched, row)| tenant.layout.provenance(fetched, row, common.now_ms)).unwrap_or_default();
    let mut notes = question.question.notes.clone();
    if common.features.is_none() {
        notes.push("the feature store could not be read; answered without features".to_owned());
    } else if member.row.is_none() {
        notes.push("the call named no user; answered without features".to_owned());
    } else {
        notes.extend(absence(&views));
    }
    let (text, intent) = if ranking.hand_over {
        (tenant.hand_over.clone(), String::new())
    } else {
        let intent = &tenant.catalogue.intents[ranking.best];
        let rows = rows.map(|(fetched, row)| UserRows { layout: tenant.layout.clone(), fetched: fetched.clone(), row });
        let rendered = tenant.renderer.render((&intent.name, ranking.best), rows);
        if !rendered.complete && notes.is_empty() {
            notes.push(
                "the answer's template needs a feature that this user has not; the general answer was taken".to_owned(),
            );
        }
        (rendered.text, intent.name.clone())
    };
    if *truncated {
        notes.push("the text is longer than the model reads; its end was not considered".to_owned());
    }
    let candidate = |&(intent, probability): &(usize, f32)| Candidate {
        intent: tenant.catalogue.intents[intent].name.clone(),
        title: tenant.catalogue.intents[intent].title.clone(),
        probability,
    };
    Answer {
        request_id: question.question.request_id.clone(),
        id: None,
        text,
        intent,
        confidence: ranking.confidence,
        handed_over: ranking.hand_over,
        candidates: ranking.candidates.iter().map(candidate).collect(),
        choice: member.choice,
        views,
        notes,
        timings: Timings::default(),
        batch: common.info,
    }
}

/// The tenant's text for questions that a person takes over: nothing was ranked, and nothing of the user is in it.
pub(crate) fn fallback(member: &Member, common: &Common) -> Answer {
    let question = &member.question;
    Answer {
        request_id: question.question.request_id.clone(),
        id: None,
        text: question.tenant.hand_over.clone(),
        intent: String::new(),
        confidence: 0.0,
        handed_over: true,
        candidates: Vec::new(),
        choice: member.choice,
        views: Vec::new(),
        notes: question.question.notes.clone(),
        timings: Timings::default(),
        batch: common.info,
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
