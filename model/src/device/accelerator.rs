//! The handle of an accelerator: jobs in through a bounded queue, plain numbers out, everything else on the accelerator's own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use burn::tensor::DType;

use crate::device::accelerator_thread::{AcceleratorThread, Answer, Job, Measured, Placement, Source, caught};
use crate::device::status::{Failure, FailureKind};
use crate::text::Tokens;

/// Jobs that may wait for one device; who finds it full asks another one.
const QUEUE: usize = 16;
/// How long a device may be silent over jobs whose kernels are all compiled.
const SILENCE: Duration = Duration::from_secs(30);

/// The handle of the thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Accelerator {
    name: String,
    jobs: SyncSender<Job>,
    /// Encoders on their way to it, each of which takes minutes.
    placing: Arc<AtomicUsize>,
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Pending<T>(Receiver<Result<T, Failure>>);

impl Accelerator {
    /// Starts the thread, opens the device there and checks single operations.
    pub(crate) fn start(name: &str, source: Source, dtype: DType) -> Result<Accelerator, Failure> {
        let (jobs, input) = sync_channel(QUEUE);
        let (opened, opening) = sync_channel(1);
        let placing = Arc::<AtomicUsize>::default();
        let placed = placing.clone();
        let body = move || {
            let thread = caught(|| AcceleratorThread::open(source, dtype, placed));
            // Whoever asked may have gone; then the queue is closed too.
            match thread {
                Ok(thread) => {
                    let _ = opened.send(Ok(()));
                    thread.run(&input);
                }
                Err(failure) => {
                    let _ = opened.send(Err(failure));
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("model-{name}")).spawn(body);
        thread.map_err(|error| Failure::new(FailureKind::Absent, format_args!("starting its thread: {error}")))?;
        Pending(opening).wait(None)?;
        Ok(Accelerator { name: name.to_owned(), jobs, placing })
    }

    /// Moves an encoder to the device, runs it in every bucket and compares it with the CPU. Takes minutes on a GPU that has to compile.
    pub(crate) fn place(&self, placement: Placement) -> Result<Pending<Measured>, Failure> {
        let (done, answer) = sync_channel(1);
        self.placing.fetch_add(1, Ordering::Relaxed);
        self.jobs.send(Job::Place(Box::new(placement), done)).map_err(|_| ended(&self.name))?;
        Ok(Pending(answer))
    }

    /// Hands over a job; none where the queue is full, or an encoder is on its way and the job would wait for minutes.
    pub(crate) fn encode(&self, id: u64, tokens: &Tokens) -> Result<Option<Pending<Answer>>, Failure> {
        if self.placing.load(Ordering::Relaxed) > 0 {
            return Ok(None);
        }
        let (done, answer) = sync_channel(1);
        match self.jobs.try_send(Job::Encode(id, tokens.clone(), done)) {
            Ok(()) => Ok(Some(Pending(answer))),
            Err(TrySendError::Full(_)) => Ok(None),
            Err(TrySendError::Disconnected(_)) => Err(ended(&self.name)),
        }
    }

    /// Asks the device for its self-check: single operations, and every encoder that lies there in its smallest bucket.
    pub(crate) fn check(&self) -> Result<Pending<()>, Failure> {
        let (done, answer) = sync_channel(1);
        match self.jobs.try_send(Job::Check(done)) {
            Ok(()) => Ok(Pending(answer)),
            Err(TrySendError::Full(_)) => Err(Failure::new(FailureKind::Silent, "its queue is still full")),
            Err(TrySendError::Disconnected(_)) => Err(ended(&self.name)),
        }
    }

    /// Frees an encoder's weights. A device that is too busy or gone keeps them until the process ends.
    pub(crate) fn forget(&self, id: u64) {
        if self.jobs.try_send(Job::Forget(id)).is_err() {
            tracing::warn!(device = self.name, "an encoder's weights are not freed");
        }
    }
}

fn ended(name: &str) -> Failure {
    Failure::new(FailureKind::Panicked, format_args!("the thread of {name} has ended"))
}

impl<T> Pending<T> {
    /// Waits for as long as a job may take.
    pub(crate) fn answer(self) -> Result<T, Failure> {
        self.wait(Some(SILENCE))
    }

    /// Waits for however long it takes.
    pub(crate) fn wait(self, limit: Option<Duration>) -> Result<T, Failure> {
        let answer = match limit {
            Some(limit) => self.0.recv_timeout(limit),
            None => self.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        answer.unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                Err(Failure::new(FailureKind::Silent, format_args!("no answer for {} s", SILENCE.as_secs())))
            }
            RecvTimeoutError::Disconnected => {
                Err(Failure::new(FailureKind::Panicked, "its thread ended while the job waited for it"))
            }
        })
    }
}
