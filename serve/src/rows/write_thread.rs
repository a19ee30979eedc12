//! A writing thread: checks batches and hands them to the store, in the order in which they came.
//!
//! What arrives while one write reaches the disk shares the next one, so that many callers wait for the disk once. The store takes that whole or
//! not at all; where callers' batches are at fault, these are told so and the others are written, still together, so that nobody pays for another's
//! mistake.

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
use crate::threads::lower_priority;

/// Batches, and about how many rows and bytes, that share a write. A message of few bytes may hold many: indices into a dictionary.
const MAX_GROUP: usize = 256;
const MAX_GROUP_ROWS: usize = 8_192;
const MAX_GROUP_BYTES: usize = 16 << 20;
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
        lower_priority();
        while let Ok(first) = commands.recv() {
            let (mut group, mut closing) = (Group::default(), false);
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Write(job) => group.take(job),
                    Command::Close => closing = true,
                }
                next = if closing || group.is_full() { None } else { commands.try_recv().ok() };
            }
            self.write(group.ready);
            self.waiting.fetch_sub(group.taken, Ordering::Relaxed);
            if closing {
                return;
            }
        }
    }

    /// Writes batches together, without those that are at fault, and tells their callers.
    fn write(&self, group: Vec<Ready>) {
        if group.is_empty() {
            return;
        }
        let began = Instant::now();
        let writes: Vec<Write<'_>> = group.iter().flat_map(|ready| ready.batch.writes(ready.tenant)).collect();
        let outcome = self.engine.store.write_each(&writes, now_ms());
        drop(writes);
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
                let before = group.len();
                let mut sound = self.without_faulty(group);
                // Where none is at fault they are too much for one write together.
                let rest = if sound.len() == before { sound.split_off(before / 2) } else { Vec::new() };
                self.write(sound);
                self.write(rest);
            }
            Err(error) => {
                let refusal = refused(&error);
                group.into_iter().for_each(|ready| self.tell(ready, Err(refusal.clone())));
            }
        }
    }

    /// The batches that the store would take by themselves; the callers of the others are told why it would not.
    fn without_faulty(&self, group: Vec<Ready>) -> Vec<Ready> {
        let checked = group.into_iter().filter_map(|ready| {
            let writes: Vec<_> = ready.batch.writes(ready.tenant).collect();
            let outcome = self.engine.store.check(&writes, now_ms());
            drop(writes);
            match outcome {
                Ok(()) => Some(ready),
                Err(error) => {
                    self.tell(ready, Err(refused(&error)));
                    None
                }
            }
        });
        checked.collect()
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

/// Batches that will share a write.
#[derive(Default)]
struct Group {
    ready: Vec<Ready>,
    /// Also those that were refused.
    taken: usize,
    rows: usize,
    bytes: usize,
}

impl Group {
    fn take(&mut self, job: Job) {
        self.taken += 1;
        if let Some(ready) = prepared(job) {
            self.rows += ready.batch.rows();
            self.bytes += ready.batch.bytes();
            self.ready.push(ready);
        }
    }

    fn is_full(&self) -> bool {
        self.taken >= MAX_GROUP || self.rows >= MAX_GROUP_ROWS || self.bytes >= MAX_GROUP_BYTES
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
    use larder_store::WriteKind;
    use tokio::sync::Semaphore;
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::test_engine::TestEngine;
    use larder_ingest::Changes;

    type Reply = Receiver<Result<Written, Refusal>>;

    /// A batch of rows of one time, each with so many bytes of text.
    fn job(rows: usize, text_bytes: usize, ahead_ms: i64) -> (Job, Reply) {
        let users = StringArray::from_iter_values((0..rows).map(|row| format!("user-{row}")));
        let times = TimestampMillisecondArray::from(vec![now_ms() + ahead_ms; rows]).with_timezone("UTC");
        let names = StringArray::from(vec!["x".repeat(text_bytes); rows]);
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("user_id", Arc::new(users), false),
            ("updated_at", Arc::new(times), false),
            ("name", Arc::new(names), true),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let changes = vec![Changes { view: "profile".to_owned(), kind: WriteKind::Upsert, rows }];
        let room = Room(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
        let (reply, told) = oneshot::channel();
        let prepare: Prepare = Box::new(move || Ok(Batch { changes }));
        (Job { tenant: TenantId(1), prepare, arrived: Instant::now(), room, reply }, told)
    }

    /// A group of such batches.
    fn group(jobs: &[(usize, i64)]) -> (Vec<Ready>, Vec<Reply>) {
        let mut group = Group::default();
        let told = jobs.iter().map(|&(rows, ahead_ms)| {
            let (job, told) = job(rows, 8, ahead_ms);
            group.take(job);
            told
        });
        let told = told.collect();
        (group.ready, told)
    }

    fn thread(engine: &TestEngine) -> WriteThread {
        WriteThread { engine: Arc::clone(&engine.engine), waiting: Arc::default(), probe: None }
    }

    const DAYS: i64 = 3 * 24 * 3_600_000;

    #[test]
    fn only_the_batch_that_is_at_fault_is_left_out() {
        let engine = TestEngine::open("");
        let thread = thread(&engine);
        let jobs = [(1, 0), (2, 0), (1, DAYS), (3, 0)];
        let (ready, told) = group(&jobs);
        let sound = thread.without_faulty(ready);
        assert_eq!(sound.iter().map(|ready| ready.batch.rows()).collect::<Vec<_>>(), [1, 2, 3], "they stay together");
        drop((sound, told));
        let (ready, told) = group(&jobs);
        thread.write(ready);
        for ((rows, ahead_ms), mut told) in jobs.into_iter().zip(told) {
            match told.try_recv().unwrap() {
                Ok(written) => assert_eq!((written.rows, ahead_ms), (rows as u64, 0)),
                Err(refusal) => {
                    assert!(ahead_ms > 0 && refusal.to_string().contains("more than a day ahead"), "{refusal}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_much_together_is_written_in_parts() {
        let engine = TestEngine::open("");
        let thread = thread(&engine);
        let (ready, told) = group(&[(30_000, 0), (30_000, 0), (30_000, DAYS), (30_000, 0)]);
        thread.write(ready);
        let rows = |mut told: Reply| told.try_recv().unwrap().map_or(0, |written| written.rows);
        assert_eq!(told.into_iter().map(rows).collect::<Vec<_>>(), [30_000, 30_000, 0, 30_000]);
    }

    #[test]
    fn a_group_is_full_by_batches_by_rows_or_by_bytes() {
        let taken_until_full = |rows: usize, text_bytes: usize| {
            let mut group = Group::default();
            while !group.is_full() {
                group.take(job(rows, text_bytes, 0).0);
            }
            group.taken
        };
        assert_eq!(taken_until_full(1, 8), MAX_GROUP);
        assert_eq!(taken_until_full(1_000, 8), 9);
        assert_eq!(taken_until_full(4, 1 << 20), 4);
    }
}
