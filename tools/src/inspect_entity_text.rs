//! What `larder inspect` found of one entity, as a person wants to read it: a line for each tier, and why the answer is what it is.

use std::fmt::Write;

use larder_serve::v1;

use crate::inspect_json::{status_and_tier, value_json};
use crate::inspect_store_text::milliseconds_of;
use crate::output::{bold, duration, faint, moment};
use crate::progress::bytes;

/// Live changes of one entity that are listed; JSON has all of them.
const SHOWN_CHANGES: usize = 12;

/// An entity, view by view.
pub(crate) fn entity_text(found: &v1::InspectEntityReply) -> String {
    let views: Vec<_> = found.views.iter().map(|view| view_text(view, found.now_ms)).collect();
    views.join("\n\n")
}

fn view_text(view: &v1::InspectedEntity, now_ms: i64) -> String {
    let Some(fetched) = &view.fetched else { return String::new() };
    let mut text = format!("{}\n", bold(&fetched.view));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{} {value}", faint(format!("{name:10}")));
    };
    let row = |row: &v1::StoredRow| {
        let rows = if row.rows == 1 { String::new() } else { format!(", {} elements", row.rows) };
        format!("{}, {} old{rows}, {}", moment(row.event_time_ms), age(now_ms, row.event_time_ms), bytes(row.bytes))
    };
    line("answer", answer(view, fetched));
    line("why", why(view, now_ms));
    line(
        "hot",
        match (view.hot.as_str(), &view.hot_row) {
            (_, Some(hot)) => row(hot),
            ("known_absent", _) => "known to have no row".to_owned(),
            ("off", _) => "the hot tier is off".to_owned(),
            _ => "no".to_owned(),
        },
    );
    match &view.live {
        None => line("live", "nothing".to_owned()),
        Some(live) => {
            line("live", format!("{} changes, {}", live.changes.len(), bytes(live.bytes)));
            if let Some(cleared_ms) = live.cleared_ms {
                line("", format!("everything up to {} deleted", moment(cleared_ms)));
            }
            for change in live.changes.iter().take(SHOWN_CHANGES) {
                line("", change_text(change, now_ms));
            }
            if live.changes.len() > SHOWN_CHANGES {
                line("", format!("and {} more; --json lists all", live.changes.len() - SHOWN_CHANGES));
            }
        }
    }
    match view.generation {
        0 => line("warm", "nothing is published".to_owned()),
        generation => {
            let held = view.warm_row.as_ref().map_or("no row".to_owned(), row);
            line("warm", format!("generation {generation} as of {}: {held}", moment(view.as_of_ms)));
        }
    }
    line(
        "cold",
        match (&view.cold_row, view.cold_error.as_str(), view.cold_file.as_str()) {
            (Some(cold), _, file) => format!("{}, in {file}", row(cold)),
            (None, "", "") => "no".to_owned(),
            (None, "", file) => format!("no, although the filter of {file} said maybe"),
            (None, error, _) => error.to_owned(),
        },
    );
    if let Some(erased_ms) = view.erased_ms {
        line("erased", format!("all rows up to {}", moment(erased_ms)));
    }
    for column in &fetched.columns {
        let shown = column.values.first().map_or("null".to_owned(), |value| value_json(value).to_string());
        line("value", format!("{} = {shown}", column.feature));
    }
    text.truncate(text.trim_end().len());
    text
}

fn answer(view: &v1::InspectedEntity, fetched: &v1::ViewFeatures) -> String {
    let (status, tier) = status_and_tier(fetched);
    match fetched.event_time_ms.first().filter(|time| **time != 0) {
        Some(time) if tier != "none" => format!("{status}, from {tier}, of {}", moment(*time)),
        _ if status == "not in time" && !view.cold_error.is_empty() => {
            format!("{status}: the cold file cannot be read")
        }
        _ => status,
    }
}

fn why(view: &v1::InspectedEntity, now_ms: i64) -> String {
    let expired = view.fetched.as_ref().is_some_and(|fetched| status_and_tier(fetched).0 == "expired");
    let erased = view.fetched.as_ref().is_some_and(|fetched| status_and_tier(fetched).0 == "erased");
    let ttl = view.ttl_s.map(milliseconds_of).unwrap_or_default();
    let time = view.fetched.as_ref().and_then(|fetched| fetched.event_time_ms.first().copied()).unwrap_or_default();
    match (expired, erased) {
        (true, _) => format!(
            "{}; it expired {} ago, the view's rows live {}",
            view.why,
            duration(now_ms.saturating_sub(time.saturating_add(ttl))),
            duration(ttl)
        ),
        (_, true) => format!("{}; the entity was erased", view.why),
        _ => view.why.clone(),
    }
}

fn change_text(change: &v1::LiveChange, now_ms: i64) -> String {
    let what = if change.is_deletion { "deletion" } else { "row" };
    let element = if change.element.is_empty() { String::new() } else { format!(" of {}", change.element) };
    let late = if change.stands { "" } else { ", late: does not count" };
    format!(
        "{what}{element}, {}, {} old, {}{late}",
        moment(change.event_time_ms),
        age(now_ms, change.event_time_ms),
        bytes(change.bytes)
    )
}

fn age(now_ms: i64, event_time_ms: i64) -> String {
    duration(now_ms.saturating_sub(event_time_ms).max(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use larder_serve::v1::value::Kind;

    use super::*;

    /// What is found of an entity whose row is expired.
    pub(crate) fn entity() -> v1::InspectEntityReply {
        let value = v1::Value { kind: Some(Kind::StringValue("Ada".to_owned())) };
        let fetched = v1::ViewFeatures {
            view: "profile".to_owned(),
            columns: vec![v1::FeatureColumn { feature: "name".to_owned(), values: vec![value] }],
            status: vec![v1::Status::Expired.into()],
            tier: vec![v1::Tier::Warm.into()],
            event_time_ms: vec![1_000],
            generation: vec![7],
        };
        let change = v1::LiveChange { event_time_ms: 500, stands: false, bytes: 9, ..Default::default() };
        let view = v1::InspectedEntity {
            fetched: Some(fetched),
            why: "the snapshot's row stands: what was written live is not newer".to_owned(),
            hot: "nothing".to_owned(),
            generation: 7,
            warm_row: Some(v1::StoredRow { event_time_ms: 1_000, rows: 1, bytes: 20 }),
            live: Some(v1::LiveRows { bytes: 60, cleared_ms: None, changes: vec![change] }),
            ttl_s: Some(2),
            ..Default::default()
        };
        v1::InspectEntityReply { now_ms: 8_000, views: vec![view] }
    }

    #[test]
    fn every_tier_has_its_line() {
        let text = entity_text(&entity());
        for says in [
            "expired, from warm, of 1970-01-01T00:00:01Z",
            "it expired 5 s ago, the view's rows live 2 s",
            "hot        no",
            "row, 1970-01-01T00:00:00Z, 7 s old, 9 B, late: does not count",
            "generation 7 as of 1970-01-01T00:00:00Z: 1970-01-01T00:00:01Z, 7 s old, 20 B",
            "cold       no",
            "name = \"Ada\"",
        ] {
            assert!(text.contains(says), "{says:?} is not in:\n{text}");
        }
    }
}
