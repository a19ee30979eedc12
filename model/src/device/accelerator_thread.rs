//! What happens on an accelerator's thread: everything it ever does, opening and loading included.
//!
//! Burn's CUDA backend keeps a stream per thread: work that wanders between threads switches streams, and a tensor dropped elsewhere
//! waits for its home. So tensors never leave this thread. It ends at the first panic, because such an error of a GPU stays until the process
//! ends, and leaks what it held: freeing memory of a poisoned device fails again. After an error that the device reports it goes on; if that
//! one stays too, the self-check will find it.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device};

use crate::bert::weights::BertWeights;
use crate::device::bucket::Bucket;
use crate::device::padded_bert::PaddedBert;
use crate::device::rehearsal::Flaw;
use crate::device::self_check::{Reference, check_operations, check_vectors};
use crate::device::status::{Failure, FailureKind};
use crate::embeddings::Embeddings;
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
    Check(SyncSender<Result<(), Failure>>),
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

/// An encoder that lies on the device, and what it must compute.
struct Resident {
    network: PaddedBert,
    reference: Arc<Reference>,
}

/// What the thread has.
pub(crate) struct AcceleratorThread {
    device: Device,
    dtype: DType,
    residents: HashMap<u64, Resident>,
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

    /// Does jobs until nobody can send one, or one shows that the device is lost.
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
                    let whole = !is_final(&outcome);
                    let _ = done.send(outcome);
                    whole
                }
                Job::Check(done) => {
                    let outcome = caught(|| self.check());
                    let whole = !is_final(&outcome);
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
        self.residents.insert(id, Resident { network, reference });
        Ok(measured)
    }

    /// The self-check again, as far as it takes no longer than a job.
    fn check(&mut self) -> Result<(), Failure> {
        let wrong = |problem| Failure::new(FailureKind::SelfCheck, problem);
        check_operations(&self.device, self.dtype).map_err(wrong)?;
        let smallest = Bucket::of(1, 1);
        for Resident { network, reference } in self.residents.values() {
            let (tokens, expected) = reference.fill(smallest);
            let found = Flaw::strike(self.flaw.as_mut(), network.encode(&tokens)?)?;
            check_vectors(&found, &expected, self.dtype).map_err(wrong)?;
        }
        Ok(())
    }

    fn encode(&mut self, id: u64, tokens: &Tokens) -> Result<Answer, Failure> {
        let resident =
            self.residents.get(&id).ok_or_else(|| Failure::new(FailureKind::Failed, "the encoder is not there"))?;
        let began = Instant::now();
        let embeddings = resident.network.encode(tokens)?;
        let took = began.elapsed();
        Ok((Flaw::strike(self.flaw.as_mut(), embeddings)?, took))
    }
}

/// Whether the device is lost.
fn is_final<T>(outcome: &Result<T, Failure>) -> bool {
    outcome.as_ref().is_err_and(|failure| !failure.kind.may_pass())
}

/// A panic of the device's is a failure like any other.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload: Box<dyn Any + Send>| Err(Failure::panicked(&*payload)))
}
