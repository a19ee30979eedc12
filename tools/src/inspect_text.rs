//! What `larder inspect` found, as a person wants to read it, and the same as JSON with the protocol's names.

use std::fmt::Write;

use larder_serve::v1;
use larder_serve::v1::value::Kind;
use serde_json::{Value, json};

use crate::output::{bold, duration, faint, moment, table};
use crate::progress::{bytes, count};

/// Live changes of one entity that are listed; JSON has all of them.
const SHOWN_CHANGES: usize = 12;

/// A store, a table for each part.
pub(crate) fn store_text(store: &v1::InspectStoreReply) -> String {
    let mut text = String::new();
    let mut part = |title: &str, body: String| {
        if !body.is_empty() {
            let _ = writeln!(text, "{}\n{body}\n", bold(title));
        }
    };
    part("Views", views(&store.views));
    part("Generations", generations(&store.generations));
    part("Tiers", tiers(store));
    part("Files", files(&store.levels));
    part("Live", live_and_logs(store));
    part("Streams", streams(&store.streams));
    part("Breakers", breakers(&store.breakers));
    part("Disks", disks(&store.disks));
    text.truncate(text.trim_end().len());
    text
}

fn views(views: &[v1::InspectedView]) -> String {
    let row = |view: &v1::InspectedView| {
        let kind = match view.n {
            Some(n) => format!("newest {n}"),
            None => "latest".to_owned(),
        };
        let ttl = view.ttl_s.map_or("never".to_owned(), |seconds| duration(milliseconds_of(seconds)));
        let features: Vec<_> = view.features.iter().map(|feature| feature.name.as_str()).collect();
        [view.name.clone(), view.id.to_string(), kind, ttl, features.join(", ")]
    };
    table(["view", "id", "kind", "expires after", "features"], views.iter().map(row)).to_string()
}

fn generations(generations: &[v1::Generation]) -> String {
    if generations.is_empty() {
        return "nothing is published".to_owned();
    }
    let row = |listed: &v1::Generation| {
        [
            listed.tenant.clone(),
            listed.view.clone(),
            listed.generation.to_string(),
            if listed.live { "live" } else { "kept" }.to_owned(),
            count(listed.entities),
            count(listed.rows),
            share(listed.cold_entities, listed.entities),
            bytes(listed.bytes),
            moment(listed.as_of_ms),
        ]
    };
    let header = ["tenant", "view", "generation", "state", "entities", "rows", "cold", "size", "as of"];
    table(header, generations.iter().map(row)).to_string()
}

fn tiers(store: &v1::InspectStoreReply) -> String {
    let tiers = store.tiers.unwrap_or_default();
    let hits = store.hits.unwrap_or_default();
    let all = hits.hot + hits.warm + hits.cold + hits.not_in_time;
    let hit = |hits: u64| if store.hits.is_some() { share(hits, all) } else { "-".to_owned() };
    let limit = match (tiers.hot_capacity_bytes, tiers.hot_capacity_entries) {
        (0, 0) => "off".to_owned(),
        (0, entries) => format!("{} entries", count(entries)),
        (capacity, _) => bytes(capacity),
    };
    let asked = tiers.block_cache_hits + tiers.block_cache_misses;
    let cache = format!(
        "blocks {} from a cache of {}",
        share(tiers.block_cache_hits, asked),
        bytes(tiers.block_cache_capacity_bytes)
    );
    let rows = [
        [
            "hot".to_owned(),
            hit(hits.hot),
            bytes(tiers.hot_bytes),
            format!("{} entries, limit {limit}", count(tiers.hot_entries)),
        ],
        ["warm".to_owned(), hit(hits.warm), bytes(tiers.warm_bytes), cache],
        [
            "cold".to_owned(),
            hit(hits.cold),
            bytes(tiers.cold_bytes),
            format!("{} files, {} of filters in RAM", count(tiers.cold_files), bytes(tiers.cold_index_bytes)),
        ],
        ["not in time".to_owned(), hit(hits.not_in_time), String::new(), String::new()],
    ];
    table(["tier", "had the row", "size", ""], rows).to_string()
}

fn files(levels: &[v1::LevelFiles]) -> String {
    let row = |level: &v1::LevelFiles| {
        let name = match level.family.as_str() {
            "base" => "base (generations)",
            "live" => "live (live rows)",
            "meta" => "meta (records)",
            "log" => "log (logs)",
            other => other,
        };
        [name.to_owned(), level.level.to_string(), count(level.files), bytes(level.bytes), count(level.entries)]
    };
    table(["family", "level", "files", "size", "keys"], levels.iter().map(row)).to_string()
}

fn live_and_logs(store: &v1::InspectStoreReply) -> String {
    format!(
        "entities with live rows about {}, rows of logs about {}, erased entities {}",
        count(store.live_entities),
        count(store.log_rows),
        count(store.erasures)
    )
}

fn streams(streams: &[v1::InspectedStream]) -> String {
    if streams.is_empty() {
        return String::new();
    }
    let number = |number: Option<u64>| number.map_or("-".to_owned(), count);
    let row = |(stream, partition): (&v1::InspectedStream, &v1::InspectedPartition)| {
        let behind = partition.behind_s.map_or("-".to_owned(), |seconds| duration((seconds * 1_000.0) as i64));
        [
            stream.name.clone(),
            partition.partition.to_string(),
            number(partition.position),
            number(partition.end),
            number(partition.lag),
            behind,
            partition.state.clone(),
        ]
    };
    let rows = streams.iter().flat_map(|stream| stream.partitions.iter().map(move |partition| (stream, partition)));
    let header = ["stream", "partition", "position", "end", "lag", "behind", "state"];
    let mut text = table(header, rows.clone().map(row)).to_string();
    for stream in streams.iter().filter(|stream| !stream.trouble.is_empty()) {
        let _ = write!(text, "\n{}: {}", stream.name, stream.trouble);
    }
    for (stream, partition) in rows.filter(|(_, partition)| !partition.why.is_empty()) {
        let _ = write!(text, "\n{}, partition {}: {}", stream.name, partition.partition, partition.why);
    }
    text
}

fn breakers(breakers: &[v1::Breaker]) -> String {
    if breakers.is_empty() {
        return String::new();
    }
    let row = |breaker: &v1::Breaker| {
        let retry = if breaker.retry_in_ms == 0 { "-".to_owned() } else { duration(breaker.retry_in_ms as i64) };
        [breaker.dependency.clone(), breaker.state.clone(), breaker.failures.to_string(), retry]
    };
    table(["dependency", "state", "failures in a row", "tried again in"], breakers.iter().map(row)).to_string()
}

fn disks(disks: &[v1::DiskSpace]) -> String {
    let row = |disk: &v1::DiskSpace| {
        [disk.path.clone(), bytes(disk.free_bytes), bytes(disk.total_bytes), share(disk.free_bytes, disk.total_bytes)]
    };
    table(["folder", "free", "of", ""], disks.iter().map(row)).to_string()
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

fn milliseconds_of(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000)
}

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

/// In words.
fn status_and_tier(fetched: &v1::ViewFeatures) -> (String, String) {
    let plain = |name: &str, prefix: &str| name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ");
    let status = fetched.status.first().and_then(|status| v1::Status::try_from(*status).ok()).unwrap_or_default();
    let tier = fetched.tier.first().and_then(|tier| v1::Tier::try_from(*tier).ok()).unwrap_or_default();
    (plain(status.as_str_name(), "STATUS_"), plain(tier.as_str_name(), "TIER_"))
}

fn value_json(value: &v1::Value) -> Value {
    match &value.kind {
        None => Value::Null,
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::IntValue(number)) => json!(number),
        Some(Kind::DoubleValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::TimestampMs(time_ms)) => json!(moment(*time_ms)),
        Some(Kind::List(list)) => list.values.iter().map(value_json).collect(),
    }
}

/// A store as one JSON document.
pub(crate) fn store_json(store: &v1::InspectStoreReply) -> Value {
    let tiers = store.tiers.unwrap_or_default();
    let feature = |feature: &v1::InspectedFeature| json!({ "name": feature.name, "type": feature.r#type });
    json!({
        "store_path": store.store_path,
        "views": store.views.iter().map(|view| json!({
            "name": view.name, "id": view.id, "kind": view.kind, "ttl_s": view.ttl_s, "n": view.n,
            "features": view.features.iter().map(feature).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "generations": store.generations.iter().map(|listed| json!({
            "tenant": listed.tenant, "view": listed.view, "generation": listed.generation, "live": listed.live,
            "entities": listed.entities, "rows": listed.rows, "cold_entities": listed.cold_entities,
            "cold_files": listed.cold_files, "bytes": listed.bytes, "as_of_ms": listed.as_of_ms,
        })).collect::<Vec<_>>(),
        "levels": store.levels.iter().map(|level| json!({
            "family": level.family, "level": level.level, "files": level.files, "bytes": level.bytes,
            "entries": level.entries,
        })).collect::<Vec<_>>(),
        "tiers": {
            "hot_entries": tiers.hot_entries, "hot_bytes": tiers.hot_bytes,
            "hot_capacity_bytes": tiers.hot_capacity_bytes, "hot_capacity_entries": tiers.hot_capacity_entries,
            "warm_bytes": tiers.warm_bytes, "block_cache_capacity_bytes": tiers.block_cache_capacity_bytes,
            "block_cache_hits": tiers.block_cache_hits, "block_cache_misses": tiers.block_cache_misses,
            "cold_files": tiers.cold_files, "cold_bytes": tiers.cold_bytes, "cold_index_bytes": tiers.cold_index_bytes,
        },
        "hits": store.hits.map(|hits| json!({
            "hot": hits.hot, "warm": hits.warm, "cold": hits.cold, "not_in_time": hits.not_in_time,
        })),
        "live_entities": store.live_entities,
        "log_rows": store.log_rows,
        "erasures": store.erasures,
        "disks": store.disks.iter().map(|disk| json!({
            "path": disk.path, "free_bytes": disk.free_bytes, "total_bytes": disk.total_bytes,
        })).collect::<Vec<_>>(),
        "streams": store.streams.iter().map(stream_json).collect::<Vec<_>>(),
        "breakers": store.breakers.iter().map(|breaker| json!({
            "dependency": breaker.dependency, "state": breaker.state, "failures": breaker.failures,
            "retry_in_ms": breaker.retry_in_ms,
        })).collect::<Vec<_>>(),
    })
}

fn stream_json(stream: &v1::InspectedStream) -> Value {
    let partition = |partition: &v1::InspectedPartition| {
        json!({
            "partition": partition.partition, "position": partition.position, "first": partition.first, "end": partition.end,
            "lag": partition.lag, "behind_s": partition.behind_s, "state": partition.state, "why": partition.why,
        })
    };
    json!({
        "name": stream.name, "topic": stream.topic, "tenant": stream.tenant, "view": stream.view, "trouble": stream.trouble,
        "partitions": stream.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

/// An entity as one JSON document.
pub(crate) fn entity_json(tenant: &str, entity: &str, found: &v1::InspectEntityReply) -> Value {
    let row = |row: &v1::StoredRow| json!({ "event_time_ms": row.event_time_ms, "rows": row.rows, "bytes": row.bytes });
    let view = |view: &v1::InspectedEntity| {
        let fetched = view.fetched.clone().unwrap_or_default();
        let (status, tier) = status_and_tier(&fetched);
        let values = fetched
            .columns
            .iter()
            .map(|column| (column.feature.clone(), column.values.first().map_or(Value::Null, value_json)));
        json!({
            "view": fetched.view,
            "status": status,
            "tier": tier,
            "event_time_ms": fetched.event_time_ms.first(),
            "values": values.collect::<serde_json::Map<_, _>>(),
            "standing": view.standing,
            "why": view.why,
            "hot": { "state": view.hot, "row": view.hot_row.as_ref().map(row) },
            "live": view.live.as_ref().map(|live| json!({
                "bytes": live.bytes, "cleared_ms": live.cleared_ms,
                "changes": live.changes.iter().map(|change| json!({
                    "event_time_ms": change.event_time_ms, "element": change.element,
                    "is_deletion": change.is_deletion, "stands": change.stands, "bytes": change.bytes,
                })).collect::<Vec<_>>(),
            })),
            "warm": { "generation": view.generation, "as_of_ms": view.as_of_ms, "row": view.warm_row.as_ref().map(row) },
            "cold": { "file": view.cold_file, "row": view.cold_row.as_ref().map(row), "error": view.cold_error },
            "erased_ms": view.erased_ms,
            "ttl_s": view.ttl_s,
        })
    };
    json!({
        "tenant": tenant,
        "entity": entity,
        "now_ms": found.now_ms,
        "views": found.views.iter().map(view).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity() -> v1::InspectEntityReply {
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
        let json = entity_json("demo", "ada", &entity());
        assert_eq!(
            (&json["views"][0]["status"], &json["views"][0]["values"]["name"]),
            (&json!("expired"), &json!("Ada"))
        );
    }

    #[test]
    fn a_stream_shows_where_it_stands_and_what_is_in_the_way() {
        let stopped = v1::InspectedPartition {
            partition: 3,
            position: Some(1_234),
            end: Some(2_000),
            lag: Some(766),
            state: "stopped".to_owned(),
            why: "message 1234 is no row".to_owned(),
            ..Default::default()
        };
        let stream = v1::InspectedStream { name: "orders".to_owned(), partitions: vec![stopped], ..Default::default() };
        let store = v1::InspectStoreReply { streams: vec![stream], ..Default::default() };
        let text = store_text(&store);
        for says in ["Streams", "1,234", "766", "stopped", "orders, partition 3: message 1234 is no row"] {
            assert!(text.contains(says), "{says:?} is not in:\n{text}");
        }
        assert_eq!(store_json(&store)["streams"][0]["partitions"][0]["lag"], json!(766));
    }

    #[test]
    fn a_store_without_a_node_has_no_hits() {
        let level = v1::LevelFiles { family: "base".to_owned(), level: 6, files: 2, bytes: 2_048, entries: 1_000 };
        let store = v1::InspectStoreReply { levels: vec![level], ..Default::default() };
        let text = store_text(&store);
        assert!(text.contains("nothing is published") && text.contains("base (generations)"), "{text}");
        assert!(text.contains("2.00 KiB") && text.contains("1,000") && !text.contains("Breakers"), "{text}");
        assert_eq!(store_json(&store)["hits"], Value::Null);
        let hits = v1::TierHits { hot: 3, warm: 1, ..Default::default() };
        assert!(store_text(&v1::InspectStoreReply { hits: Some(hits), ..store }).contains("75.0 %"));
    }
}
