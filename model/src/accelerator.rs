//! One accelerator behind a thread of its own: everything it ever does, opening and loading included, happens there.
//!
//! Burn's CUDA backend keeps a stream per thread: work that wanders between threads switches streams, and a tensor dropped elsewhere
//! waits for its home. So tensors never leave this thread; jobs go in through a bounded queue and plain numbers come out. The thread
//! ends at the first failure, because a GPU's error stays until the process ends, and leaks what it held: freeing memory of a poisoned
//! device fails again.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device};

use crate::bert_weights::BertWeights;
use crate::bucket::Bucket;
use crate::device_status::{Failure, FailureKind};
use crate::embeddings::Embeddings;
use crate::padded_bert::PaddedBert;
use crate::rehearsal::Flaw;
use crate::self_check::{Reference, check_operations, check_vectors};
use crate::text::Tokens;

/// Jobs that may wait for one device; who finds it full asks another one.
const QUEUE: usize = 16;
/// How long a device may be silent over jobs whose kernels are all compiled.
const SILENCE: Duration = Duration::from_secs(30);
/// Runs of every bucket before an encoder is ready: the first compiles, the next ones tune and fuse.
const WARM_RUNS: usize = 3;

/// What makes the thread's device.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The NVIDIA GPU of that number.
    Cuda(usize),
    /// Burn's CPU backend in its place, with a flaw or without.
    Rehearsal(Option<Flaw>),
}

/// The handle of the thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Accelerator {
    name: String,
    jobs: SyncSender<Job>,
    /// Encoders on their way to it, each of which takes minutes.
    placing: Arc<AtomicUsize>,
}

/// An encoder for the device, and how it is known there.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) id: u64,
    /// For the log.
    pub(crate) encoder: String,
    pub(crate) weights: Arc<BertWeights>,
    pub(crate) max_tokens: usize,
    pub(crate) reference: Arc<Reference>,
}

/// What a warm-up measured: bucket, tokens and time of its last run.
pub(crate) type Measured = Vec<(Bucket, usize, Duration)>;

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Pending<T>(Receiver<Result<T, Failure>>);

enum Job {
    Place(Box<Placement>, SyncSender<Result<Measured, Failure>>),
    Encode(u64, Tokens, SyncSender<Result<(Embeddings, Duration), Failure>>),
    Forget(u64),
}

impl Accelerator {
    /// Starts the thread, opens the device there and checks single operations.
    pub(crate) fn start(name: &str, source: Source, dtype: DType) -> Result<Accelerator, Failure> {
        let (jobs, input) = sync_channel(QUEUE);
        let (opened, opening) = sync_channel(1);
        let placing = Arc::<AtomicUsize>::default();
        let placed = placing.clone();
        let body = move || {
            let thread = caught(|| {
                let device = source.open(dtype)?;
                check_operations(&device, dtype).map_err(|problem| Failure::new(FailureKind::SelfCheck, problem))?;
                let flaw = match source {
                    Source::Rehearsal(flaw) => flaw,
                    Source::Cuda(_) => None,
                };
                Ok(Thread { device, dtype, residents: HashMap::new(), placed, flaw })
            });
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
    pub(crate) fn encode(&self, id: u64, tokens: &Tokens) -> Result<Option<Pending<(Embeddings, Duration)>>, Failure> {
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

    /// Frees an encoder's weights. A device that is too busy or gone keeps them until the process ends.
    pub(crate) fn forget(&self, id: u64) {
        if self.jobs.try_send(Job::Forget(id)).is_err() {
            tracing::warn!(device = self.name, "an encoder's weights are not freed");
        }
    }
}

fn ended(name: &str) -> Failure {
    Failure::new(FailureKind::Failed, format_args!("the thread of {name} has ended"))
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
                Err(Failure::new(FailureKind::Failed, "it failed while the job waited for it"))
            }
        })
    }
}

impl Source {
    fn open(&self, dtype: DType) -> Result<Device, Failure> {
        let device = match self {
            Source::Cuda(number) => open_cuda(*number)?,
            Source::Rehearsal(_) => Device::flex(),
        };
        if !device.supports_dtype(dtype) {
            return Err(Failure::new(
                FailureKind::Absent,
                format_args!("it has no arithmetic in {dtype:?}; set cuda_dtype"),
            ));
        }
        Ok(device)
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Device, Failure> {
    use burn::tensor::DeviceType;
    let present = Device::enumerate(DeviceType::Cuda).len();
    if number >= present {
        let problem = format!("the NVIDIA driver shows {present} GPUs; see docs/gpu.md for what must be installed");
        return Err(Failure::new(FailureKind::Absent, problem));
    }
    Ok(Device::cuda(number))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(number: usize) -> Result<Device, Failure> {
    Err(Failure::new(FailureKind::Absent, format_args!("this build has no support for cuda:{number}")))
}

/// What the thread has.
struct Thread {
    device: Device,
    dtype: DType,
    residents: HashMap<u64, PaddedBert>,
    /// Taken down when an encoder has arrived.
    placed: Arc<AtomicUsize>,
    flaw: Option<Flaw>,
}

impl Thread {
    /// Does jobs until nobody can send one, or one fails.
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            // That nobody waits for an answer any more is no failure of the device.
            let whole = match job {
                Job::Place(placement, done) => {
                    let outcome = caught(|| self.place(*placement));
                    self.placed.fetch_sub(1, Ordering::Relaxed);
                    let whole = outcome.is_ok();
                    let _ = done.send(outcome);
                    whole
                }
                Job::Encode(id, tokens, done) => {
                    let outcome = caught(|| self.encode(id, &tokens));
                    let whole = outcome.is_ok();
                    let _ = done.send(outcome);
                    whole
                }
                Job::Forget(id) => caught(|| Ok(self.residents.remove(&id).is_some())).is_ok(),
            };
            if !whole {
                std::mem::forget(self.residents);
                return;
            }
        }
    }

    fn place(&mut self, placement: Placement) -> Result<Measured, Failure> {
        let Placement { id, encoder, weights, max_tokens, reference } = placement;
        let network = PaddedBert::place(&weights, max_tokens, &self.device, self.dtype);
        let buckets = Bucket::all(max_tokens);
        let mut measured = Vec::with_capacity(buckets.len());
        for (done, bucket) in buckets.iter().enumerate() {
            let (tokens, expected) = reference.fill(*bucket);
            let began = Instant::now();
            let mut last = Duration::ZERO;
            for _ in 0..WARM_RUNS {
                let run = Instant::now();
                let found = network.encode(&tokens)?;
                last = run.elapsed();
                let found = Flaw::at_start(self.flaw.as_ref(), found);
                check_vectors(&found, &expected, self.dtype).map_err(|problem| {
                    Failure::new(FailureKind::SelfCheck, format_args!("bucket {bucket} of {encoder}: {problem}"))
                })?;
            }
            tracing::info!(
                device = ?self.device, encoder, %bucket, seconds = began.elapsed().as_secs_f64(),
                "warmed {} of {} buckets", done + 1, buckets.len()
            );
            measured.push((*bucket, tokens.total(), last));
        }
        self.residents.insert(id, network);
        Ok(measured)
    }

    fn encode(&mut self, id: u64, tokens: &Tokens) -> Result<(Embeddings, Duration), Failure> {
        let network =
            self.residents.get(&id).ok_or_else(|| Failure::new(FailureKind::Failed, "the encoder is not there"))?;
        let began = Instant::now();
        let embeddings = network.encode(tokens)?;
        let took = began.elapsed();
        Ok((Flaw::strike(self.flaw.as_mut(), embeddings)?, took))
    }
}

/// A panic of the device's is a failure like any other.
fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload: Box<dyn Any + Send>| Err(Failure::panicked(&*payload)))
}
