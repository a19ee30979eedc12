//! Feedback: a share of the answers is kept, each with the features it was made with, until somebody says whether it helped. What they said
//! becomes training data for `larder model train`.
//!
//! In reading order: `record` is what is kept of an answer, and its bytes; `store` the two logs it lies in, answers that wait and answers with
//! feedback; `keep` is what the path of a question pays, a draw and a place in a channel; `writer` is the one thread that changes the logs, so
//! that nobody who answers waits for a disk; `grpc` is the service.
//!
//! What it promises: feedback that was acknowledged is on disk, once for each answer, with the features as they were. What it does not: that an
//! answer is kept. One is dropped, and counted, when the thread cannot follow, and those of the last moment are lost with a crash.

mod config;
mod grpc;
mod keep;
mod record;
mod store;
mod writer;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_store::{Store, TenantId};
use tokio::sync::oneshot;

pub use config::FeedbackConfig;
pub(crate) use grpc::FeedbackService;
pub(crate) use keep::Keeper;
pub(crate) use record::AnswerId;
pub use store::{FeedbackPage, read_feedback};

use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::feedback::record::Verdict;
use crate::feedback::store::FeedbackStore;
use crate::feedback::writer::{Command, Giving, Outcome, Writer};
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::worker::spawn;

/// When a call that found too many others may come back.
const CROWD_RETRY: Duration = Duration::from_millis(100);
/// How long the thread may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The feedback of a serving node.
#[derive(Debug)]
pub(crate) struct Feedback {
    commands: SyncSender<Command>,
    store: FeedbackStore,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Feedback {
    /// Starts the thread of a node, and has its answers kept where larder.toml says so.
    pub(crate) async fn start(node: &Shared, engine: &Arc<Engine>) -> Result<(), Error> {
        let config = &node.config.feedback;
        let (store, settings) = (engine.store.clone(), config.clone());
        let opened = tokio::task::spawn_blocking(move || FeedbackStore::open(&store, &settings)).await;
        let system = |source| Error::System { context: "opening the logs of the feedback", source };
        let store = opened.map_err(|error| system(error.into()))??;
        let (commands, told) = sync_channel(config.max_unwritten);
        let writer = Writer::new(engine.store.clone(), store.clone(), told);
        let cores = engine.cores.ingest.clone();
        let thread = spawn("feedback", &engine.queue, &node.life, move || {
            cores.pin();
            writer.run();
        })?;
        if let Some(keeper) = Keeper::new(config.share, commands.clone()) {
            let _ = engine.keeper.set(keeper);
        }
        let _ = node.feedback.set(Feedback { commands, store, thread: Mutex::new(Some(thread)) });
        Ok(())
    }

    /// Writes what waits, and ends the thread.
    pub(crate) async fn close(&self) {
        let (commands, thread) = (self.commands.clone(), self.thread.lock());
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        let joining = tokio::task::spawn_blocking(move || {
            let _ = commands.send(Command::Close);
            // A panic was already made the node's state by the thread's guard.
            thread.map(JoinHandle::join)
        });
        if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
            tracing::warn!("the thread of the feedback did not end within {} s", CLOSE_TIMEOUT.as_secs());
        }
    }

    /// Notes what a user said of an answer. It is on disk when this returns.
    async fn give(
        &self,
        tenant: TenantId,
        user: String,
        answer: AnswerId,
        verdict: Verdict,
    ) -> Result<Outcome, Refusal> {
        let (reply, receiver) = oneshot::channel();
        let giving = Giving { tenant, user, answer, verdict, reply };
        match self.commands.try_send(Command::Give(Box::new(giving))) {
            Ok(()) => receiver.await.map_err(|_| Refusal::draining())?,
            Err(TrySendError::Full(_)) => Err(Refusal::QueueFull { retry_after: CROWD_RETRY }),
            Err(TrySendError::Disconnected(_)) => Err(Refusal::draining()),
        }
    }

    /// Removes all that is kept of users. Blocks.
    pub(crate) fn erase(&self, tenant: TenantId, users: &[String]) -> Result<(), Refusal> {
        let (reply, receiver) = oneshot::channel();
        let erase = Command::Erase { tenant, users: users.to_vec(), reply };
        self.commands.send(erase).map_err(|_| Refusal::draining())?;
        receiver.blocking_recv().map_err(|_| Refusal::draining())?
    }

    /// A page of a tenant's feedback. Blocks.
    pub(crate) fn read(&self, tenant: (TenantId, &str), cursor: &str) -> Result<FeedbackPage, Refusal> {
        self.store.page(tenant, cursor, now_ms())
    }
}

/// Removes what a closed node keeps of users of a tenant for feedback, and the feedback they gave.
///
/// # Errors
/// Those of the store.
pub fn erase_from_feedback(
    store: &Store,
    config: &FeedbackConfig,
    tenant: TenantId,
    users: &[String],
) -> Result<(), larder_store::Error> {
    FeedbackStore::open(store, config)?.erase(tenant, users, now_ms())
}
