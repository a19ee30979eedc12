//! What `larder inspect` shows, as messages: of a running node through the Admin service, of a closed folder made by the command itself from
//! the same functions, so that both look the same.

use larder_ingest::{PartitionStatus, StreamConfig, StreamStatus, partition_of_name};
use larder_store::{
    Error, GenerationInfo, GenerationState, HotHolding, Inspection, LiveHolding, Overview, Store, StoredRow, TenantId,
    ViewConfig, ViewKind,
};

use crate::config::NodeConfig;
use crate::features;
use crate::v1;

/// What the store holds. Hits and breakers are the node's to add.
///
/// # Errors
/// [`Error::CheckDisk`] when its files cannot be listed.
pub fn inspect_store(store: &Store, config: &NodeConfig) -> Result<v1::InspectStoreReply, Error> {
    let overview = store.overview()?;
    let path = std::path::absolute(&config.store.path).unwrap_or_else(|_| config.store.path.clone());
    let generation = |info: GenerationInfo| generation(tenant_name(config, info.tenant), info);
    Ok(v1::InspectStoreReply {
        store_path: path.display().to_string(),
        views: config.views.iter().map(view).collect(),
        generations: store.generations().into_iter().map(generation).collect(),
        tiers: Some(tiers(&overview, config)),
        levels: overview.levels.into_iter().map(level).collect(),
        hits: None,
        live_entities: overview.live_entities,
        log_rows: overview.log_rows,
        erasures: overview.erasures,
        disks: overview
            .disks
            .into_iter()
            .map(|disk| v1::DiskSpace {
                path: disk.path.display().to_string(),
                free_bytes: disk.free_bytes,
                total_bytes: disk.total_bytes,
            })
            .collect(),
        breakers: Vec::new(),
        streams: closed_streams(store, config),
    })
}

/// One entity in every tier; with an empty `view` in all views.
///
/// # Errors
/// [`Error::FixRequest`] for an unknown view or an entity that cannot exist, [`Error::RestoreStore`] for a damaged row.
pub fn inspect_entity(
    store: &Store,
    config: &NodeConfig,
    tenant: TenantId,
    entity: &str,
    view: &str,
    now_ms: i64,
) -> Result<v1::InspectEntityReply, Error> {
    let inspected = store.inspect(tenant, entity, Some(view).filter(|view| !view.is_empty()), now_ms)?;
    let ttl_s = |name: &str| config.views.iter().find(|view| view.name == name).and_then(|view| view.ttl_s);
    let message = |inspection: Inspection| entity_message(&inspection, ttl_s(&inspection.fetched.name));
    Ok(v1::InspectEntityReply { now_ms, views: inspected.into_iter().map(message).collect() })
}

/// Streams that nobody reads: where each stands, by the store alone.
fn closed_streams(store: &Store, config: &NodeConfig) -> Vec<v1::InspectedStream> {
    let named = |stream: &StreamConfig| stream_message(stream, &StreamStatus::default());
    let mut streams: Vec<v1::InspectedStream> = config.streams.iter().map(named).collect();
    for (key, position) in store.stream_positions() {
        let Some((name, topic, partition)) = partition_of_name(&key) else { continue };
        let known = streams.iter().position(|stream| (stream.name.as_str(), stream.topic.as_str()) == (name, topic));
        let at = known.unwrap_or_else(|| {
            let (name, topic) = (name.to_owned(), topic.to_owned());
            streams.push(v1::InspectedStream { name, topic, ..Default::default() });
            streams.len() - 1
        });
        let state = "closed".to_owned();
        let partition = v1::InspectedPartition { partition, position: Some(position), state, ..Default::default() };
        streams[at].partitions.push(partition);
    }
    streams.iter_mut().for_each(|stream| stream.partitions.sort_by_key(|partition| partition.partition));
    streams
}

/// Puts what a running node knows of its streams in the place of what the store knows.
pub(crate) fn running_streams<'a>(
    streams: &mut [v1::InspectedStream],
    config: &NodeConfig,
    running: impl Iterator<Item = (&'a str, StreamStatus)>,
) {
    for (name, status) in running {
        let Some(config) = config.streams.iter().find(|stream| stream.name == name) else { continue };
        let of_it = |stream: &&mut v1::InspectedStream| stream.name == name && stream.topic == config.topic;
        if let Some(stream) = streams.iter_mut().find(of_it) {
            *stream = stream_message(config, &status);
        }
    }
}

fn stream_message(config: &StreamConfig, status: &StreamStatus) -> v1::InspectedStream {
    let partition = |partition: &PartitionStatus| v1::InspectedPartition {
        partition: partition.partition,
        position: partition.position,
        first: partition.ends.map(|(first, _)| first),
        end: partition.ends.map(|(_, end)| end),
        lag: partition.lag,
        state: partition.state.label().to_owned(),
        why: partition.why.clone(),
        behind_s: partition.behind.map(|behind| behind.as_secs_f64()),
    };
    v1::InspectedStream {
        name: config.name.clone(),
        topic: config.topic.clone(),
        tenant: config.tenant.clone(),
        view: config.view.clone(),
        trouble: status.trouble.clone(),
        partitions: status.partitions.iter().map(partition).collect(),
    }
}

/// A generation as it is listed, under its tenant's name.
pub(crate) fn generation(tenant: String, info: GenerationInfo) -> v1::Generation {
    v1::Generation {
        tenant,
        view: info.view,
        generation: info.generation,
        live: info.state == GenerationState::Live,
        entities: info.entities,
        rows: info.rows,
        as_of_ms: info.as_of_ms,
        cold_entities: info.cold_entities,
        cold_files: info.cold_files as u64,
        bytes: info.bytes,
    }
}

fn tenant_name(config: &NodeConfig, id: TenantId) -> String {
    let found = config.tenants.iter().find(|tenant| tenant.id == id.0);
    found.map_or_else(|| format!("#{}", id.0), |tenant| tenant.name.clone())
}

fn view(view: &ViewConfig) -> v1::InspectedView {
    let feature = |feature: &larder_store::FeatureConfig| v1::InspectedFeature {
        name: feature.name.clone(),
        r#type: feature.data_type.to_string(),
    };
    v1::InspectedView {
        name: view.name.clone(),
        id: view.id.into(),
        kind: match view.kind {
            ViewKind::Latest => "latest",
            ViewKind::LastN => "last_n",
        }
        .to_owned(),
        ttl_s: view.ttl_s,
        n: view.n,
        features: view.features.iter().map(feature).collect(),
    }
}

fn level(level: larder_store::LevelFiles) -> v1::LevelFiles {
    let larder_store::LevelFiles { family, level, files, bytes, entries } = level;
    v1::LevelFiles { family, level, files, bytes, entries }
}

fn tiers(overview: &Overview, config: &NodeConfig) -> v1::TierUse {
    let store = &config.store;
    let hot_capacity_entries = store.hot_capacity_requests.map_or(0, |requests| requests * config.views.len() as u64);
    let in_bytes = store.hot_capacity_requests.is_none();
    v1::TierUse {
        hot_entries: overview.hot.entries,
        hot_bytes: overview.hot.bytes,
        hot_capacity_bytes: if in_bytes { store.hot_capacity_mib << 20 } else { 0 },
        hot_capacity_entries,
        warm_bytes: overview.levels.iter().map(|level| level.bytes).sum(),
        block_cache_capacity_bytes: store.block_cache_mib << 20,
        block_cache_hits: overview.block_cache_hits,
        block_cache_misses: overview.block_cache_misses,
        cold_files: overview.cold_files,
        cold_bytes: overview.cold_bytes,
        cold_index_bytes: overview.cold_index_bytes,
    }
}

fn entity_message(inspection: &Inspection, ttl_s: Option<u64>) -> v1::InspectedEntity {
    let (hot, hot_row) = match inspection.hot {
        HotHolding::Off => ("off", None),
        HotHolding::Nothing => ("nothing", None),
        HotHolding::KnownAbsent => ("known_absent", None),
        HotHolding::Row(row) => ("row", Some(row)),
    };
    let (generation, as_of_ms) = inspection.generation.unwrap_or_default();
    let cold = inspection.cold.as_ref();
    v1::InspectedEntity {
        fetched: Some(features::view(&inspection.fetched)),
        standing: inspection.standing.label().to_owned(),
        why: inspection.why(),
        hot: hot.to_owned(),
        hot_row: hot_row.map(stored),
        live: inspection.live.as_ref().map(live),
        generation,
        as_of_ms,
        warm_row: inspection.warm.map(stored),
        cold_file: cold.map(|cold| cold.file.display().to_string()).unwrap_or_default(),
        cold_row: cold.and_then(|cold| cold.row).map(stored),
        cold_error: cold.and_then(|cold| cold.unreadable.clone()).unwrap_or_default(),
        erased_ms: inspection.erased_ms,
        ttl_s,
    }
}

fn stored(row: StoredRow) -> v1::StoredRow {
    v1::StoredRow { event_time_ms: row.event_time_ms, rows: row.rows, bytes: row.bytes }
}

fn live(live: &LiveHolding) -> v1::LiveRows {
    let change = |change: &larder_store::LiveChange| v1::LiveChange {
        event_time_ms: change.event_time_ms,
        element: change.element.clone().unwrap_or_default(),
        is_deletion: change.is_deletion,
        stands: change.stands,
        bytes: change.bytes,
    };
    v1::LiveRows { bytes: live.bytes, cleared_ms: live.cleared_ms, changes: live.changes.iter().map(change).collect() }
}
