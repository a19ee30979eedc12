//! What `larder inspect` found as JSON, with the protocol's names.

use larder_serve::v1;
use larder_serve::v1::value::Kind;
use serde_json::{Value, json};

use crate::output::moment;

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

/// What was answered and from where, in words.
pub(crate) fn status_and_tier(fetched: &v1::ViewFeatures) -> (String, String) {
    let plain = |name: &str, prefix: &str| name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ");
    let status = fetched.status.first().and_then(|status| v1::Status::try_from(*status).ok()).unwrap_or_default();
    let tier = fetched.tier.first().and_then(|tier| v1::Tier::try_from(*tier).ok()).unwrap_or_default();
    (plain(status.as_str_name(), "STATUS_"), plain(tier.as_str_name(), "TIER_"))
}

/// A value as JSON has it; a time as text.
pub(crate) fn value_json(value: &v1::Value) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect_entity_text::tests::entity;

    #[test]
    fn the_names_are_those_of_the_protocol() {
        let json = entity_json("demo", "ada", &entity());
        assert_eq!(
            (&json["views"][0]["status"], &json["views"][0]["values"]["name"]),
            (&json!("expired"), &json!("Ada"))
        );
        let store = v1::InspectStoreReply::default();
        assert_eq!(store_json(&store)["hits"], Value::Null, "a closed store had none");
    }
}
