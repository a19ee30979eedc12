//! The change streams of a node: a thread for each, started when the store is open and ended before it closes. What one does is `larder_ingest`'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_ingest::{ChangeStream, MoveTo, Moved, PartitionState, PartitionStatus, StreamHandle, StreamStatus};
use larder_store::TenantId;

use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::metrics::StreamCounters;
use crate::node::Shared;
use crate::worker::spawn;

/// How long the threads may take to end: one may be waiting for brokers that do not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams of a serving node.
#[derive(Debug)]
pub(crate) struct Streams {
    /// By name, in the order of larder.toml.
    handles: Vec<(String, StreamHandle)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Streams {
    /// Starts the streams that larder.toml names. No broker need answer yet.
    pub(crate) async fn start(node: &Arc<Shared>, engine: &Arc<Engine>) -> Result<(), Error> {
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        let (shared, opening) = (node.clone(), engine.clone());
        let opened = tokio::task::spawn_blocking(move || open(&shared, &opening)).await;
        let opened =
            opened.map_err(|error| Error::System { context: "opening the streams", source: error.into() })??;
        for (name, stream) in opened {
            handles.push((name.clone(), stream.handle()));
            let (cores, counters) = (engine.cores.clone(), StreamCounters::new(&name));
            let run = move || {
                cores.ingest.pin();
                if let Err(error) = stream.run(&mut |progress| counters.passed(&progress)) {
                    tracing::error!(stream = name, %error, "the stream has ended");
                }
            };
            threads.push(spawn("stream", &engine.queue, &node.life, run)?);
        }
        let _ = node.streams.set(Streams { handles, threads: Mutex::new(threads) });
        Ok(())
    }

    /// Has all of them end; returns at once.
    pub(crate) fn stop(&self) {
        self.handles.iter().for_each(|(_, handle)| handle.stop());
    }

    /// Ends them and waits for it.
    pub(crate) async fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joining = tokio::task::spawn_blocking(move || {
            // A panic was already made the node's state by the thread's guard.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
            tracing::warn!("the threads of change streams did not end within {} s", CLOSE_TIMEOUT.as_secs());
        }
    }

    /// How each is doing.
    pub(crate) fn status(&self) -> impl Iterator<Item = (&str, StreamStatus)> {
        self.handles.iter().map(|(name, handle)| (name.as_str(), handle.status()))
    }

    /// What an operator must know of them, in sentences.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let warning = |(name, status): (&str, StreamStatus)| {
            let stopped = |partition: &&PartitionStatus| partition.state == PartitionState::Stopped;
            let stopped = status.partitions.iter().filter(stopped).count();
            let stopped = (stopped > 0).then(|| {
                format!("stream \"{name}\": {stopped} partitions are stopped; `larder inspect` says why and what to do")
            });
            let trouble = (!status.trouble.is_empty()).then(|| format!("stream \"{name}\": {}", status.trouble));
            stopped.into_iter().chain(trouble)
        };
        self.status().flat_map(warning).collect()
    }

    /// Has partitions of a stream go on elsewhere; waits until they do.
    pub(crate) fn move_to(&self, stream: &str, partition: Option<i32>, to: MoveTo) -> Result<Vec<Moved>, Refusal> {
        let found = self.handles.iter().find(|(name, _)| name == stream);
        let (_, handle) = found.ok_or_else(|| {
            let known: Vec<&str> = self.handles.iter().map(|(name, _)| name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Refusal::Invalid(format!("the node has no stream \"{stream}\"; it has {known}"))
        })?;
        handle.move_to(partition, to).map_err(|error| Refusal::Invalid(error.to_string()))
    }
}

fn open(node: &Shared, engine: &Engine) -> Result<Vec<(String, ChangeStream)>, Error> {
    let open = |config: &larder_ingest::StreamConfig| {
        let absent = |what: &str| Error::System { context: "opening a stream", source: format!("no {what}").into() };
        let tenant = node.config.tenant(&config.tenant).ok_or_else(|| absent("tenant"))?;
        let view = node.config.view(&config.view).ok_or_else(|| absent("view"))?;
        let shard = node.config.node.shard;
        let stream = ChangeStream::open(config, &engine.store, TenantId(tenant.id), view, shard);
        let stream = stream.map_err(|source| Error::Stream { name: config.name.clone(), source })?;
        Ok((config.name.clone(), stream))
    };
    node.config.streams.iter().map(open).collect()
}
