//! An answer as a person wants to read it, and the same as JSON.

use std::fmt::Write;

use larder_serve::v1;
use serde_json::{Value, json};

use crate::output::{bold, duration, faint, milliseconds};

/// A stage's name and its time in microseconds.
type StageTime = (&'static str, fn(&v1::Timings) -> u32);

/// The time per stage, in the order the stages happen.
pub(crate) const STAGES: [StageTime; 6] = [
    ("queue", |timings| timings.queue_us),
    ("tokenize", |timings| timings.tokenize_us),
    ("fetch", |timings| timings.fetch_us),
    ("ready", |timings| timings.ready_us),
    ("score", |timings| timings.score_us),
    ("render", |timings| timings.render_us),
];

/// Everything a reply says, one fact per line.
pub(crate) fn full(reply: &v1::AnswerReply) -> String {
    let mut text = format!("{}\n\n", bold(&reply.answer));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{} {value}", faint(format!("{name:12}")));
        }
    };
    line("intent", intent(reply));
    line("candidates", list(&reply.candidates, |near| format!("{} {:.2}", near.intent, near.probability)));
    for view in &reply.views {
        line(&view.view, provenance(view, true));
    }
    line("rung", format!("{} ({})", rung(reply), reply.rung_reason));
    line("time", timings(reply));
    if let Some(batch) = &reply.batch {
        line("batch", format!("number {} of {} questions, closed by {}", batch.id, batch.size, batch.closed_by));
    }
    line("answer id", reply.answer_id.clone());
    for note in &reply.notes {
        line("note", note.clone());
    }
    text.truncate(text.trim_end().len());
    text
}

/// Intent, features and times on one line.
pub(crate) fn short(reply: &v1::AnswerReply) -> String {
    let views = list(&reply.views, |view| format!("{} {}", view.view, provenance(view, false)));
    format!("{} | {views} | {}", intent(reply), timings(reply))
}

/// The reply as one JSON document; names as in the protocol.
pub(crate) fn to_json(reply: &v1::AnswerReply) -> Value {
    let timings = reply.timings.unwrap_or_default();
    let mut times = json!({ "total_us": timings.total_us });
    for (stage, time) in STAGES {
        times[format!("{stage}_us")] = json!(time(&timings));
    }
    json!({
        "request_id": reply.request_id,
        "answer_id": reply.answer_id,
        "answer": reply.answer,
        "intent": reply.intent,
        "confidence": reply.confidence,
        "handed_over": reply.handed_over,
        "candidates": reply.candidates.iter().map(|near| json!({
            "intent": near.intent, "title": near.title, "probability": near.probability,
        })).collect::<Vec<_>>(),
        "rung": rung(reply),
        "rung_reason": reply.rung_reason,
        "views": reply.views.iter().map(|view| json!({
            "view": view.view,
            "status": status(view),
            "tier": tier(view),
            "event_time_ms": view.event_time_ms,
            "age_ms": view.age_ms,
            "generation": view.generation,
        })).collect::<Vec<_>>(),
        "notes": reply.notes,
        "timings": times,
        "batch": reply.batch.as_ref().map(|batch| json!({
            "size": batch.size, "id": batch.id, "closed_by": batch.closed_by,
        })),
    })
}

/// Which tier a view's row came from, in lower case.
pub(crate) fn tier(view: &v1::ViewProvenance) -> String {
    plain(view.tier().as_str_name(), "TIER_")
}

fn status(view: &v1::ViewProvenance) -> String {
    plain(view.status().as_str_name(), "STATUS_")
}

fn rung(reply: &v1::AnswerReply) -> String {
    plain(reply.rung().as_str_name(), "RUNG_")
}

/// A protocol name as a person writes it: STATUS_NOT_FOUND is "not found".
fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ")
}

/// The intent and how sure it is, or that the question was handed over.
pub(crate) fn intent(reply: &v1::AnswerReply) -> String {
    if reply.handed_over {
        let nearest = reply.candidates.first().map_or("nothing", |near| near.intent.as_str());
        return format!("handed over (nearest: {nearest}, {:.2})", reply.confidence);
    }
    format!("{} {:.2}", reply.intent, reply.confidence)
}

fn provenance(view: &v1::ViewProvenance, generation: bool) -> String {
    if view.status() != v1::Status::Present {
        return status(view);
    }
    let generation = if generation { format!(", generation {}", view.generation) } else { String::new() };
    format!("{}, {} old{generation}", tier(view), duration(view.age_ms))
}

fn timings(reply: &v1::AnswerReply) -> String {
    let Some(timings) = &reply.timings else { return String::new() };
    let stages = STAGES.map(|(stage, time)| format!("{stage} {}", milliseconds(time(timings).into())));
    format!("{} ms = {}", milliseconds(timings.total_us.into()), stages.join(" + "))
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> v1::AnswerReply {
        v1::AnswerReply {
            answer: "It is on its way.".to_owned(),
            intent: "order_in_transit".to_owned(),
            confidence: 0.971,
            rung: v1::Rung::Full.into(),
            rung_reason: "enough time".to_owned(),
            views: vec![
                v1::ViewProvenance {
                    view: "orders".to_owned(),
                    status: v1::Status::Present.into(),
                    tier: v1::Tier::Hot.into(),
                    age_ms: 7_200_000,
                    generation: 17,
                    ..Default::default()
                },
                v1::ViewProvenance {
                    view: "profile".to_owned(),
                    status: v1::Status::NotFound.into(),
                    ..Default::default()
                },
            ],
            timings: Some(v1::Timings { score_us: 6_200, total_us: 7_010, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn one_line_says_intent_features_and_times() {
        let text = short(&reply());
        assert!(
            text.starts_with("order_in_transit 0.97 | orders hot, 2 h old, profile not found | 7.01 ms = "),
            "{text}"
        );
        assert!(text.contains("score 6.20"), "{text}");
    }

    #[test]
    fn every_status_and_tier_is_told_in_words() {
        let view = |name: &str, status: v1::Status, tier: v1::Tier| v1::ViewProvenance {
            view: name.to_owned(),
            status: status.into(),
            tier: tier.into(),
            age_ms: 3_600_000,
            ..Default::default()
        };
        let views = vec![
            view("profile", v1::Status::Present, v1::Tier::Cold),
            view("orders", v1::Status::NotInTime, v1::Tier::None),
            view("tickets", v1::Status::Erased, v1::Tier::None),
        ];
        let text = short(&v1::AnswerReply { views, ..reply() });
        assert!(text.contains(" | profile cold, 1 h old, orders not in time, tickets erased | "), "{text}");
    }

    #[test]
    fn a_question_that_is_handed_over_says_what_came_near() {
        let handed_over = v1::AnswerReply {
            handed_over: true,
            intent: String::new(),
            candidates: vec![v1::Candidate { intent: "refund".to_owned(), ..Default::default() }],
            ..reply()
        };
        assert!(short(&handed_over).starts_with("handed over (nearest: refund, 0.97)"));
    }

    #[test]
    fn json_has_the_protocols_names() {
        let value = to_json(&reply());
        assert_eq!(value["views"][1]["status"], "not found");
        assert_eq!(value["timings"]["score_us"], 6_200);
        assert_eq!(value["rung"], "full");
        assert_eq!(value["batch"], Value::Null);
    }
}
