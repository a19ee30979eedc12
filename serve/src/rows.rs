//! Live rows: applications write features while the node serves, over gRPC (`rows/grpc.rs`) or Arrow Flight (`flight`).
//!
//! In reading order: `batch` is what is written whole or not at all, and `wire` makes one of a message; `write_thread` is the few threads that
//! check batches and write them, many in one write to the disk, `probe` looks how soon a fetch has them; `stream` is a caller that sends one batch
//! after the other, `grpc` the service.
//!
//! What it promises: an acknowledged batch is on disk and every later fetch sees it; batches of one stream are written in their order. What is
//! read and not yet written is bounded for the node, what is not yet acknowledged for each stream: beyond that nothing more is read.

mod batch;
mod config;
mod grpc;
mod probe;
mod stream;
mod wire;
mod write_thread;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_store::{TenantId, Written};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(crate) use batch::Batch;
pub use config::RowsConfig;
pub(crate) use grpc::RowsService;
pub(crate) use stream::{Acknowledged, Acknowledgements, Next, WriteStream};

use crate::config::NodeConfig;
use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::node::Shared;
use crate::rows::probe::Probe;
use crate::rows::write_thread::{Command, Job, WriteThread};
use crate::worker::spawn;

/// When a call that found too many others may come back.
const CROWD_RETRY: Duration = Duration::from_millis(100);
/// How long the threads may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one permit of the room for waiting batches stands for.
const ROOM_BYTES: usize = 1 << 10;

/// The ways to the writing threads of a serving node.
#[derive(Debug)]
pub(crate) struct Rows {
    queues: Vec<mpsc::Sender<Command>>,
    /// Whose turn it is.
    next: AtomicUsize,
    /// rows.max_waiting_mib, in KiB.
    room: Arc<Semaphore>,
    room_kib: usize,
    /// rows.max_streams.
    streams: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Rows {
    /// Starts the threads of a node that serves.
    pub(crate) fn start(node: &Arc<Shared>, engine: &Arc<Engine>) -> Result<(), Error> {
        let config = &node.config.rows;
        let waiting = Arc::new(AtomicUsize::new(0));
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        let mut probe = None;
        if let Some((started, samples)) = Probe::new(Duration::from_millis(config.probe_interval_ms)) {
            let (of_thread, views) = (engine.clone(), node.config.views.clone());
            let run = move || probe::run(&of_thread, &views, &samples);
            threads.push(spawn("probe", &engine.queue, &node.life, run)?);
            probe = Some(started);
        }
        for _ in 0..config.threads {
            let (queue, commands) = mpsc::channel();
            let thread = WriteThread { engine: engine.clone(), waiting: waiting.clone(), probe: probe.clone() };
            threads.push(spawn("write", &engine.queue, &node.life, move || thread.run(&commands))?);
            queues.push(queue);
        }
        let room_kib = (config.max_waiting_mib << 20) / ROOM_BYTES;
        let rows = Rows {
            queues,
            next: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(room_kib)),
            room_kib,
            streams: Arc::new(Semaphore::new(config.max_streams)),
            waiting,
            threads: Mutex::new(threads),
        };
        let _ = node.rows.set(rows);
        Ok(())
    }

    /// Writes what waits, and ends the threads.
    pub(crate) async fn close(&self) {
        for queue in &self.queues {
            let _ = queue.send(Command::Close);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joining = tokio::task::spawn_blocking(move || {
            // A panic was already made the node's state by the thread's guard.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
            tracing::warn!("the threads that write live rows did not end within {} s", CLOSE_TIMEOUT.as_secs());
        }
    }

    /// The way of one caller: batches that go it are written in their order.
    pub(crate) fn writer(&self) -> RowWriter {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len().max(1);
        RowWriter {
            queue: self.queues[turn].clone(),
            room: self.room.clone(),
            room_kib: self.room_kib,
            waiting: self.waiting.clone(),
            _stream: None,
        }
    }

    /// The same for a stream; one more than rows.max_streams is refused.
    pub(crate) fn stream_writer(&self) -> Result<RowWriter, Refusal> {
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::QueueFull { retry_after: CROWD_RETRY })?;
        Ok(RowWriter { _stream: Some(permit), ..self.writer() })
    }

    /// Batches that were read and are not yet written.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// What a batch that waits takes of the node's room.
#[derive(Debug)]
pub(crate) struct Room(#[expect(dead_code, reason = "it is given back when this is dropped")] OwnedSemaphorePermit);

/// Checks a batch and makes it what the store takes, on a writing thread.
pub(crate) type Prepare = Box<dyn FnOnce() -> Result<Batch, Refusal> + Send>;

/// What has become of a batch.
pub(crate) type Outcome = oneshot::Receiver<Result<Written, Refusal>>;

/// The way to one of the threads.
#[derive(Debug)]
pub(crate) struct RowWriter {
    queue: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    room_kib: usize,
    waiting: Arc<AtomicUsize>,
    /// Of a stream its place among rows.max_streams.
    _stream: Option<OwnedSemaphorePermit>,
}

impl RowWriter {
    /// Room for a batch of so many bytes; waits for it.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room, Refusal> {
        self.room.clone().acquire_many_owned(self.permits(bytes)).await.map(Room).map_err(|_| Refusal::draining())
    }

    /// The same; refuses where there is none.
    pub(crate) fn room_now(&self, bytes: usize) -> Result<Room, Refusal> {
        let permits = self.room.clone().try_acquire_many_owned(self.permits(bytes));
        permits.map(Room).map_err(|_| Refusal::QueueFull { retry_after: CROWD_RETRY })
    }

    /// A batch larger than all the room has all of it.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from((bytes / ROOM_BYTES + 1).min(self.room_kib)).unwrap_or(u32::MAX)
    }

    /// Hands a batch over. It arrived at that time; freshness is counted from there.
    pub(crate) fn write(&self, tenant: TenantId, arrived: Instant, room: Room, prepare: Prepare) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let job = Job { tenant, prepare, arrived, room, reply };
        if self.queue.send(Command::Write(job)).is_err() {
            // The reply goes with the job, which tells the caller.
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        outcome
    }
}

/// The outcome, once the thread has told it; a thread that has ended tells nothing.
pub(crate) async fn told(outcome: Outcome) -> Result<Written, Refusal> {
    outcome.await.unwrap_or_else(|_| Err(Refusal::draining()))
}

/// The rows of a node, once it serves and as long as it does.
pub(crate) fn serving(shared: &Shared) -> Result<&Rows, Refusal> {
    shared.life.answering()?;
    shared.rows.get().ok_or_else(Refusal::draining)
}

/// Whether callers of a tenant may write rows.
pub(crate) fn may_write(config: &NodeConfig, tenant: &str) -> Result<(), Refusal> {
    let own = config.tenant(tenant).and_then(|tenant| tenant.write_rows);
    if own.unwrap_or(config.rows.write) {
        return Ok(());
    }
    let setting = if own.is_some() { format!("write_rows of tenant \"{tenant}\"") } else { "[rows] write".to_owned() };
    Err(Refusal::NotAllowed(format!(
        "this node takes no live rows of the caller's tenant: {setting} = false in larder.toml"
    )))
}

/// A batch may have that many rows.
pub(crate) fn check_rows(rows: usize, config: &RowsConfig) -> Result<(), Refusal> {
    let most = config.max_batch_rows;
    if rows > most {
        let message = format!("{rows} rows; a batch has at most {most} (rows.max_batch_rows), send more of them");
        return Err(Refusal::Invalid(message));
    }
    Ok(())
}
