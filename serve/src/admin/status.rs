//! What a node says of itself: its state and its counts, its encoders, its devices, and the breakers over what it depends on.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use larder_model::{DeviceState, DeviceStatus};
use larder_store::{BreakerState, BreakerStatus};

use crate::encoders::LoadedEncoder;
use crate::engine::Engine;
use crate::memory;
use crate::node::Shared;
use crate::rung::Rung;
use crate::streams::Streams;
use crate::v1;
use crate::wire::{count, rung};

/// The node as it is now.
pub(super) fn node_status(shared: &Shared) -> v1::NodeStatus {
    let counters = &shared.counters;
    let engine = shared.engine();
    let memory = engine.and_then(|engine| memory::warning(&shared.config.store, &engine.encoders, &shared.limits));
    let streams = shared.streams.get().into_iter().flat_map(Streams::warnings);
    v1::NodeStatus {
        state: shared.life.state().label().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: shared.started.elapsed().as_secs(),
        answered: counters.answered.load(Ordering::Relaxed),
        refused: counters.refused.load(Ordering::Relaxed),
        batches: counters.batches.load(Ordering::Relaxed),
        hot_hits: counters.hot_hits.load(Ordering::Relaxed),
        warm_hits: counters.warm_hits.load(Ordering::Relaxed),
        cold_hits: counters.cold_hits.load(Ordering::Relaxed),
        not_in_time: counters.not_in_time.load(Ordering::Relaxed),
        queued: engine.map_or(0, |engine| count(engine.queue.len())),
        model: engine.map(|engine| of_rung_full(&engine.encoders)).unwrap_or_default(),
        device: shared.config.model.devices.join(", "),
        devices: engine.map(|engine| engine.devices.states()).unwrap_or_default().into_iter().map(device).collect(),
        store_path: std::path::absolute(&shared.config.store.path)
            .unwrap_or_else(|_| shared.config.store.path.clone())
            .display()
            .to_string(),
        warnings: shared.chaos.warning().into_iter().chain(memory).chain(streams).collect(),
        breakers: engine.map(breakers).unwrap_or_default().into_iter().map(breaker).collect(),
        shard: if shared.config.node.shard.is_whole() { String::new() } else { shared.config.node.shard.to_string() },
        encoders: engine.map_or(&[][..], |engine| &engine.encoders).iter().map(encoder_status).collect(),
    }
}

/// The encoders of the rung full; more than one where tenants have their own.
fn of_rung_full(encoders: &[LoadedEncoder]) -> String {
    let full = encoders.iter().filter(|loaded| loaded.rungs.contains(&Rung::Full));
    full.map(|loaded| loaded.encoder.name()).collect::<Vec<_>>().join(", ")
}

fn encoder_status(loaded: &LoadedEncoder) -> v1::EncoderStatus {
    v1::EncoderStatus {
        name: loaded.encoder.name().to_owned(),
        rungs: loaded.rungs.iter().map(|of| rung(*of).into()).collect(),
        memory_bytes: loaded.encoder.memory_bytes() as u64,
    }
}

/// Of everything that can be left alone for a while.
pub(super) fn breakers(engine: &Arc<Engine>) -> Vec<BreakerStatus> {
    let devices = engine.devices.states().into_iter().filter(|device| device.state != DeviceState::Broken);
    let encoders = engine.encoders.iter().map(|loaded| loaded.breaker.status(Instant::now()));
    iter::once(engine.store.cold_breaker()).chain(devices.map(of_device)).chain(encoders).collect()
}

/// A resting device is an open breaker, and its self-check the trial.
fn of_device(device: DeviceStatus) -> BreakerStatus {
    let DeviceStatus { name, state, failures, retry_in, .. } = device;
    let state = match state {
        DeviceState::Resting if retry_in.is_zero() => BreakerState::HalfOpen,
        DeviceState::Resting => BreakerState::Open,
        DeviceState::Ready | DeviceState::Standby | DeviceState::Broken => BreakerState::Closed,
    };
    BreakerStatus { dependency: format!("device {name}"), state, failures, retry_in }
}

/// A breaker in the protocol's words.
pub(super) fn breaker(status: BreakerStatus) -> v1::Breaker {
    let BreakerStatus { dependency, state, failures, retry_in } = status;
    let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
    v1::Breaker { dependency, state: state.label().to_owned(), failures, retry_in_ms }
}

fn device(status: DeviceStatus) -> v1::Device {
    let DeviceStatus { name, state, reason, tokens_per_s, texts, .. } = status;
    v1::Device { name, state: state.label().to_owned(), reason, tokens_per_s, texts }
}
