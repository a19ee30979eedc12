//! What `larder inspect` found in a store as a whole, as a person wants to read it: a table for each part.

use std::fmt::Write;

use larder_serve::v1;

use crate::output::{bold, duration, moment, table};
use crate::progress::{bytes, count};

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

/// Seconds as milliseconds.
pub(crate) fn milliseconds_of(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_store_without_a_node_has_no_hits() {
        let level = v1::LevelFiles { family: "base".to_owned(), level: 6, files: 2, bytes: 2_048, entries: 1_000 };
        let store = v1::InspectStoreReply { levels: vec![level], ..Default::default() };
        let text = store_text(&store);
        assert!(text.contains("nothing is published") && text.contains("base (generations)"), "{text}");
        assert!(text.contains("2.00 KiB") && text.contains("1,000") && !text.contains("Breakers"), "{text}");
        let hits = v1::TierHits { hot: 3, warm: 1, ..Default::default() };
        assert!(store_text(&v1::InspectStoreReply { hits: Some(hits), ..store }).contains("75.0 %"));
    }
}
