//! A writing thread: checks batches and hands them to the store, in the order in which they came.
//!
//! What arrives while one write reaches the disk shares the next one, so that many callers wait for the disk once. The store takes that whole or
//! not at all; where one caller's batch is at fault, each is written by itself, so that nobody pays for another's mistake.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use larder_store::{Error, TenantId, Write, Written};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::Refusal;
use crate::metrics;
use crate::pipeline::now_ms;
use crate::rows::probe::Probe;
use crate::rows::{Batch, Prepare, Room};

/// Batches, and about how many rows, that share a write.
const MAX_GROUP: usize = 256;
const MAX_GROUP_ROWS: usize = 8_192;
/// When a write that something was in the way of may be tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Command {
    Write(Job),
    /// The thread ends once it has written what came before.
    Close,
}

/// A batch to be written.
pub(super) struct Job {
    pub(super) tenant: TenantId,
    pub(super) prepare: Prepare,
    pub(super) arrived: Instant,
    pub(super) room: Room,
    pub(super) reply: oneshot::Sender<Result<Written, Refusal>>,
}

/// A batch that the store can take.
struct Ready {
    tenant: TenantId,
    batch: Batch,
    arrived: Instant,
    room: Room,
    reply: oneshot::Sender<Result<Written, Refusal>>,
}

/// What a thread works with.
pub(super) struct WriteThread {
    pub(super) engine: Arc<Engine>,
    /// Batches of all threads that were read and are not yet written.
    pub(super) waiting: Arc<AtomicUsize>,
    /// None where nobody wants to know how soon rows are seen.
    pub(super) probe: Option<Arc<Probe>>,
}

impl WriteThread {
    /// Until it is closed, or nobody can tell it anything any more.
    pub(super) fn run(&self, commands: &Receiver<Command>) {
        self.engine.cores.ingest.pin();
        while let Ok(first) = commands.recv() {
            let (mut group, mut taken, mut rows, mut closing) = (Vec::new(), 0, 0, false);
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Write(job) => {
                        taken += 1;
                        if let Some(ready) = prepared(job) {
                            rows += ready.batch.rows();
                            group.push(ready);
                        }
                    }
                    Command::Close => closing = true,
                }
                let full = closing || taken >= MAX_GROUP || rows >= MAX_GROUP_ROWS;
                next = if full { None } else { commands.try_recv().ok() };
            }
            self.write(group);
            self.waiting.fetch_sub(taken, Ordering::Relaxed);
            if closing {
                return;
            }
        }
    }

    /// Writes batches together, or where that is refused for what is in them each by itself, and tells their callers.
    fn write(&self, group: Vec<Ready>) {
        if group.is_empty() {
            return;
        }
        let began = Instant::now();
        let writes: Vec<Write<'_>> = group.iter().flat_map(|ready| ready.batch.writes(ready.tenant)).collect();
        let outcome = self.engine.store.write_each(&writes, now_ms());
        metrics::rows_write(began.elapsed());
        match outcome {
            Ok(written) => {
                let mut written = written.into_iter();
                for ready in group {
                    let own = written.by_ref().take(ready.batch.changes.len()).fold(Written::default(), sum);
                    self.tell(ready, Ok(own));
                }
            }
            Err(Error::FixInput(_) | Error::FixRequest(_)) if group.len() > 1 => {
                group.into_iter().for_each(|ready| self.write(vec![ready]));
            }
            Err(error) => {
                let refusal = refused(&error);
                group.into_iter().for_each(|ready| self.tell(ready, Err(refusal.clone())));
            }
        }
    }

    fn tell(&self, ready: Ready, outcome: Result<Written, Refusal>) {
        match &outcome {
            // Every fetch that starts now sees them.
            Ok(written) => metrics::rows_written(written, ready.arrived.elapsed()),
            Err(refusal) => metrics::rows_refused(refusal),
        }
        // Where nothing newer was there, a fetch must show these very rows.
        let sampled = matches!(outcome, Ok(Written { late: 0, erased: 0, .. }));
        let Ready { tenant, batch, arrived, room, reply } = ready;
        let _ = reply.send(outcome);
        drop(room);
        if let Some(probe) = self.probe.as_ref().filter(|_| sampled) {
            probe.offer(tenant, &batch, arrived);
        }
    }
}

/// The batch, unless it is refused, which its caller is told.
fn prepared(job: Job) -> Option<Ready> {
    let Job { tenant, prepare, arrived, room, reply } = job;
    // Decoders of foreign formats have panicked on bytes that nobody sends in earnest.
    let outcome = catch_unwind(AssertUnwindSafe(prepare));
    match outcome.unwrap_or_else(|_| Err(Refusal::Invalid("the batch cannot be decoded".to_owned()))) {
        Ok(batch) => Some(Ready { tenant, batch, arrived, room, reply }),
        Err(refusal) => {
            metrics::rows_refused(&refusal);
            // Whoever asked may have gone.
            let _ = reply.send(Err(refusal));
            None
        }
    }
}

fn sum(a: Written, b: Written) -> Written {
    Written {
        rows: a.rows + b.rows,
        deletions: a.deletions + b.deletions,
        late: a.late + b.late,
        erased: a.erased + b.erased,
    }
}

/// What a store that does not take rows means for the caller.
fn refused(error: &Error) -> Refusal {
    match error {
        Error::FixInput(_) | Error::FixRequest(_) => Refusal::Invalid(error.to_string()),
        Error::TryAgain(what) => Refusal::TryAgain { what: what.clone(), retry_after: RETRY },
        Error::FreeSpace { .. } => Refusal::TryAgain { what: error.to_string(), retry_after: RETRY },
        _ => Refusal::Internal(error.to_string()),
    }
}
