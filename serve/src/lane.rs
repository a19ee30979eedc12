//! The async lane: questions that nobody waits for. A question is kept in the store and gets a ticket at once; it is answered when the node
//! has capacity to spare, and the answer is kept until it is fetched, pushed or too old.
//!
//! In reading order: `ticket` names a question and `record` is its bytes on disk; `store` is the two logs they lie in, `order` the questions that
//! wait, in memory. Two threads of the lane's own touch the store, so that no I/O thread waits for a disk: `writer` makes all changes, many calls
//! to a write (`submissions`, `outcomes`), and sends questions into the node (`flight`); `reader` reads. `verdict` says what a refusal means
//! where nobody is there to try again, `bells` wakes those who wait for an answer, and `grpc` is the service.
//!
//! What it promises: a question that was acknowledged is settled exactly once among the answers, whatever happens to the process, unless its
//! user withdraws it; it is answered at least once. What it does not: order between a user's questions, or an answer by a given time.

mod bells;
mod config;
mod flight;
mod grpc;
mod order;
mod outcomes;
mod reader;
mod record;
mod store;
mod submissions;
mod ticket;
mod verdict;
mod wire;
mod writer;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_store::{Store, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use config::LaneConfig;
pub(crate) use grpc::LaneService;

use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::lane::bells::Owner;
use crate::lane::order::Order;
use crate::lane::reader::{Reader, closed};
use crate::lane::record::StoredQuestion;
use crate::lane::store::LaneStore;
use crate::lane::ticket::Ticket;
use crate::lane::writer::{Command, Erasing, Forgetting, LaneState, Submission, Submitted, Writer};
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::worker::spawn;

/// When a call that found too many others may come back.
const CROWD_RETRY: Duration = Duration::from_millis(100);
/// How long the lane's threads may take to end; what they have not done by then waits on disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The lane of a serving node.
#[derive(Debug)]
pub(crate) struct Lane {
    commands: mpsc::Sender<Command>,
    reader: Reader,
    state: Arc<LaneState>,
    /// lane.max_unwritten.
    room: Arc<Semaphore>,
    /// lane.max_listeners.
    listeners: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What /metrics says of the lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) waiting: usize,
    pub(crate) in_flight: usize,
    /// Age of the oldest question, in seconds.
    pub(crate) oldest_s: f64,
}

impl Lane {
    /// Finds the questions that wait, from before a stop or a crash, and starts the lane of a node.
    pub(crate) async fn start(node: &Arc<Shared>, engine: &Arc<Engine>) -> Result<(), Error> {
        let (config, store) = (node.config.lane.clone(), engine.store.clone());
        let tenants: Vec<_> = node.config.tenants.iter().map(|tenant| TenantId(tenant.id)).collect();
        let open = move || {
            let store = LaneStore::open(&store, &config)?;
            let mut order = Order::new(config.max_waiting, config.max_waiting_per_tenant);
            tenants.iter().try_for_each(|tenant| store.load(*tenant, &mut order, now_ms()))?;
            Ok::<_, larder_store::Error>((store, order))
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let system = |source| Error::System { context: "opening the async lane", source };
        let (store, order) = opened.map_err(|error| system(error.into()))??;
        tracing::info!(questions = order.total(), "questions of the async lane wait");

        let (commands, told) = mpsc::channel();
        let (reader, jobs) = Reader::new();
        let state = Arc::new(LaneState::new(order));
        let name = |tenant: &crate::config::TenantConfig| (TenantId(tenant.id), Arc::from(tenant.name.as_str()));
        let writer = Writer {
            store: store.clone(),
            state: state.clone(),
            config: node.config.lane.clone(),
            tenants: node.config.tenants.iter().map(name).collect(),
            node: Arc::downgrade(node),
            runtime: tokio::runtime::Handle::current(),
            commands: told,
            paused_until_ms: 0,
            closing: false,
        };
        let threads = vec![
            spawn("lane", &engine.queue, &node.life, move || writer.run())?,
            spawn("lane-read", &engine.queue, &node.life, move || reader::run(&store, &jobs))?,
        ];
        let lane = Lane {
            commands,
            reader,
            state,
            room: Arc::new(Semaphore::new(node.config.lane.max_unwritten)),
            listeners: Arc::new(Semaphore::new(node.config.lane.max_listeners)),
            threads: Mutex::new(threads),
        };
        let _ = node.lane.set(lane);
        Ok(())
    }

    /// Waits until the questions that are in the node have landed, and ends the threads. Those that wait stay on disk.
    pub(crate) async fn close(&self) {
        let _ = self.commands.send(Command::Close);
        self.reader.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joining = tokio::task::spawn_blocking(move || {
            // A panic was already made the node's state by the thread's guard.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
            tracing::warn!("the async lane did not end within {} s", CLOSE_TIMEOUT.as_secs());
        }
    }

    /// Keeps a question. It is on disk when this returns.
    async fn submit(&self, tenant: TenantId, question: StoredQuestion) -> Result<Submitted, Refusal> {
        let room = self.room(&self.room)?;
        let (reply, receiver) = oneshot::channel();
        self.tell(Command::Submit(Box::new(Submission { tenant, question, reply, room })))?;
        receiver.await.map_err(|_| closed())?
    }

    /// Withdraws questions that wait and deletes answers; returns how many of the tickets were known.
    async fn forget(&self, owner: Owner, tickets: Vec<Ticket>) -> Result<usize, Refusal> {
        let room = self.room(&self.room)?;
        let (reply, receiver) = oneshot::channel();
        self.tell(Command::Forget(Forgetting { owner, tickets, reply, room }))?;
        receiver.await.map_err(|_| closed())?
    }

    /// Removes all that is kept of users. Blocks.
    pub(crate) fn erase(&self, tenant: TenantId, users: &[String]) -> Result<(), Refusal> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Command::Erase(Erasing { tenant, users: users.to_vec(), reply }))?;
        receiver.blocking_recv().map_err(|_| closed())?
    }

    pub(crate) fn figures(&self, now_ms: i64) -> Figures {
        let order = self.state.order();
        let oldest_ms = order.oldest_ms().map_or(0, |oldest_ms| (now_ms - oldest_ms).max(0));
        let in_flight = self.state.in_flight.load(Ordering::Relaxed);
        Figures { waiting: order.total(), in_flight, oldest_s: oldest_ms as f64 / 1_000.0 }
    }

    fn room(&self, of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
        of.clone().try_acquire_owned().map_err(|_| Refusal::LaneFull {
            what: "the lane has as many calls as it may take at once",
            retry_after: CROWD_RETRY,
        })
    }

    fn tell(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).map_err(|_| closed())
    }
}

/// Removes what the lane of a closed node keeps of users of a tenant: their questions that wait and their answers.
///
/// # Errors
/// Those of the store.
pub fn erase_from_lane(
    store: &Store,
    config: &LaneConfig,
    tenant: TenantId,
    users: &[String],
) -> Result<(), larder_store::Error> {
    LaneStore::open(store, config)?.erase(tenant, users, now_ms()).map(drop)
}
