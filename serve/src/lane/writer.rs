//! The lane's writing thread: keeps questions and answers, and sends questions into the node while it has nothing better to do.
//!
//! All changes of the lane's logs are made here, one after the other: that a question is known, that there is room for it and that it is kept
//! are one step, and nothing needs a lock over a write. What arrives while one write reaches the disk is gathered and shares the next
//! one, so that a thousand calls wait for the disk once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use larder_store::TenantId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Refusal;
use crate::lane::bells::{Bells, Owner};
use crate::lane::config::LaneConfig;
use crate::lane::flight::{self, Landing, has_spare_capacity};
use crate::lane::order::Order;
use crate::lane::record::StoredQuestion;
use crate::lane::store::LaneStore;
use crate::lane::ticket::Ticket;
use crate::node::Shared;
use crate::pipeline::now_ms;

/// Commands that share a write, and about how many bytes; below what the store takes in one call.
pub(crate) const MAX_GROUP: usize = 256;
const MAX_GROUP_BYTES: usize = 8 << 20;
/// How long the thread sleeps where nothing can be done before something happens.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks whether the node has become idle.
const BUSY: Duration = Duration::from_millis(20);
/// After sending a question in: by then it is part of the node's backlog.
const NEXT: Duration = Duration::from_millis(1);
/// How long nothing is tried after the store failed.
pub(crate) const STORE_PAUSE_MS: i64 = 1_000;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<Submission>),
    Landed(Box<Landing>),
    Forget(Forgetting),
    Erase(Erasing),
    /// Nothing more is sent in; the thread ends once all that was has landed.
    Close,
}

/// A question to be kept.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) tenant: TenantId,
    pub(crate) question: StoredQuestion,
    pub(crate) reply: oneshot::Sender<Result<Submitted, Refusal>>,
    /// One of lane.max_unwritten.
    pub(crate) room: OwnedSemaphorePermit,
}

/// A question is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Submitted {
    /// It was before.
    pub(crate) already: bool,
    /// Questions of its tenant that wait.
    pub(crate) waiting: usize,
}

/// Tickets that their owner needs no more.
#[derive(Debug)]
pub(crate) struct Forgetting {
    pub(crate) owner: Owner,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) reply: oneshot::Sender<Result<usize, Refusal>>,
    pub(crate) room: OwnedSemaphorePermit,
}

/// Users of whom nothing may be left.
#[derive(Debug)]
pub(crate) struct Erasing {
    pub(crate) tenant: TenantId,
    pub(crate) users: Vec<String>,
    pub(crate) reply: oneshot::Sender<Result<(), Refusal>>,
}

/// What the thread shares with the calls.
#[derive(Debug)]
pub(crate) struct LaneState {
    order: Mutex<Order>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) in_flight: AtomicUsize,
}

impl LaneState {
    pub(crate) fn new(order: Order) -> LaneState {
        LaneState { order: Mutex::new(order), bells: Arc::default(), in_flight: AtomicUsize::new(0) }
    }

    pub(crate) fn order(&self) -> MutexGuard<'_, Order> {
        // A panic of the writing thread fails the node.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
pub(crate) struct Writer {
    pub(crate) store: LaneStore,
    pub(crate) state: Arc<LaneState>,
    pub(crate) config: LaneConfig,
    /// Names by number.
    pub(crate) tenants: HashMap<TenantId, Arc<str>>,
    /// Weak: the node owns the lane.
    pub(crate) node: Weak<Shared>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) commands: Receiver<Command>,
    pub(crate) paused_until_ms: i64,
    pub(crate) closing: bool,
}

impl Writer {
    /// Until the lane is closed and all its questions have landed, or the node is gone.
    pub(crate) fn run(mut self) {
        loop {
            let patience = self.send_next(now_ms());
            match self.commands.recv_timeout(patience) {
                Ok(first) => self.handle(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.settle_overdue(now_ms());
            if self.closing && self.state.in_flight.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    /// Sends the next question into the node, if it may. Returns when to look again, unless something happens before.
    fn send_next(&mut self, now_ms: i64) -> Duration {
        let Some(node) = self.node.upgrade() else { return IDLE };
        let (Ok(engine), Some(lane)) = (node.serving(), node.lane.get()) else { return IDLE };
        let in_flight = self.state.in_flight.load(Ordering::Relaxed);
        if self.closing || in_flight >= self.config.max_in_flight {
            return IDLE;
        }
        let Some(ready_ms) = self.state.order().next_ready_ms(now_ms) else { return IDLE };
        let wait_ms = ready_ms.max(self.paused_until_ms) - now_ms;
        if wait_ms > 0 {
            return Duration::from_millis(wait_ms.unsigned_abs()).min(IDLE);
        }
        if !has_spare_capacity(engine, Duration::from_millis(self.config.max_backlog_ms)) {
            return BUSY;
        }
        let Some((tenant, waiting)) = self.state.order().take(now_ms) else { return NEXT };
        let commands = lane.commands.clone();
        match self.store.question(tenant, waiting.ticket, now_ms) {
            Ok(Some(record)) => match (StoredQuestion::decode(&record.payload), self.tenants.get(&tenant)) {
                (Some(stored), Some(name)) => {
                    self.state.in_flight.fetch_add(1, Ordering::Relaxed);
                    let tenant = (name.clone(), tenant);
                    flight::start(node.clone(), commands, &self.runtime, tenant, waiting, stored);
                }
                _ => {
                    let refusal = Refusal::Internal("the stored question cannot be read by this program".to_owned());
                    let settling = self.failure(tenant, waiting, String::new(), &refusal, "failed", now_ms);
                    self.settle(vec![settling], now_ms);
                }
            },
            // The log's age limit was shortened.
            Ok(None) => {
                let refusal = Refusal::Expired { retry_after: Duration::ZERO };
                let settling = self.failure(tenant, waiting, String::new(), &refusal, "expired", now_ms);
                self.settle(vec![settling], now_ms);
            }
            Err(error) => {
                tracing::error!(%error, "a question of the lane could not be read");
                self.state.order().put_back(tenant, waiting, now_ms + STORE_PAUSE_MS);
                self.paused_until_ms = now_ms + STORE_PAUSE_MS;
            }
        }
        NEXT
    }

    /// Does what is told, with what else was told meanwhile.
    fn handle(&mut self, first: Command) {
        let now_ms = now_ms();
        let (mut submissions, mut settling) = (Vec::new(), Vec::new());
        let (mut forgetting, mut erasing) = (Vec::new(), Vec::new());
        let (mut commands, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(command) = next {
            commands += 1;
            match command {
                Command::Submit(submission) => {
                    bytes += submission.question.text.len();
                    submissions.push(*submission);
                }
                Command::Landed(landing) => {
                    bytes += landing.outcome.as_ref().map_or(0, Vec::len);
                    settling.extend(self.land(*landing, now_ms));
                }
                Command::Forget(forget) => forgetting.push(forget),
                Command::Erase(erase) => erasing.push(erase),
                Command::Close => self.closing = true,
            }
            let full = commands >= MAX_GROUP || bytes >= MAX_GROUP_BYTES;
            next = if full { None } else { self.commands.try_recv().ok() };
        }
        self.settle(settling, now_ms);
        self.keep(submissions, now_ms);
        for Forgetting { owner, tickets, reply, room } in forgetting {
            let _ = reply.send(self.forget(&owner, &tickets));
            drop(room);
        }
        for Erasing { tenant, users, reply } in erasing {
            let _ = reply.send(self.erase(tenant, &users, now_ms));
        }
    }
}
