//! What happens on an accelerator's thread: everything it ever does, opening and loading included.
//!
//! Burn's CUDA backend keeps a stream per thread: work that wanders between threads switches streams, and a tensor dropped elsewhere
//! waits for its home. So tensors never leave this thread. It ends at the first failure, because a GPU's error stays until the process
//! ends, and leaks what it held: freeing memory of a poisoned device fails again.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
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

/// Vectors, and the time the device took for them.
pub(crate) type Answer = (Embeddings, Duration);

/// Something to do; the answer goes back to whoever sent it.
pub(crate) enum Job {
    Place(Box<Placement>, SyncSender<Result<Measured, Failure>>),
    Encode(u64, Tokens, SyncSender<Result<Answer, Failure>>),
    Forget(u64),
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
pub(crate) struct AcceleratorThread {
    device: Device,
    dtype: DType,
    residents: HashMap<u64, PaddedBert>,
    placed: Arc<AtomicUsize>,
    flaw: Option<Flaw>,
}

impl AcceleratorThread {
    /// Opens the device and compares single operations with the CPU; `placed` is taken down whenever an encoder has arrived.
    pub(crate) fn open(source: Source, dtype: DType, placed: Arc<AtomicUsize>) -> Result<AcceleratorThread, Failure> {
        let device = source.open(dtype)?;
        check_operations(&device, dtype).map_err(|problem| Failure::new(FailureKind::SelfCheck, problem))?;
        let flaw = match source {
            Source::Rehearsal(flaw) => flaw,
            Source::Cuda(_) => None,
        };
        Ok(AcceleratorThread { device, dtype, residents: HashMap::new(), placed, flaw })
    }

    /// Does jobs until nobody can send one, or one fails.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
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

    fn encode(&mut self, id: u64, tokens: &Tokens) -> Result<Answer, Failure> {
        let network =
            self.residents.get(&id).ok_or_else(|| Failure::new(FailureKind::Failed, "the encoder is not there"))?;
        let began = Instant::now();
        let embeddings = network.encode(tokens)?;
        let took = began.elapsed();
        Ok((Flaw::strike(self.flaw.as_mut(), embeddings)?, took))
    }
}

/// A panic of the device's is a failure like any other.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload: Box<dyn Any + Send>| Err(Failure::panicked(&*payload)))
}
