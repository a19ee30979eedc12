//! The thread that reads the lane's logs for calls: the store blocks, and I/O threads must not.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::Refusal;
use crate::lane::store::LaneStore;

/// Reads that may wait for the thread; one more is refused.
const MAX_READS: usize = 1_024;
/// When a refused read may try again.
const RETRY: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&LaneStore) + Send>;

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Reader(Mutex<Option<SyncSender<Job>>>);

impl Reader {
    /// The way, and its other end, for `run`.
    pub(crate) fn new() -> (Reader, Receiver<Job>) {
        let (jobs, waiting) = sync_channel(MAX_READS);
        (Reader(Mutex::new(Some(jobs))), waiting)
    }

    /// Lets the thread read.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LaneStore) -> Result<T, larder_store::Error> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, receiver) = oneshot::channel();
        let job: Job = Box::new(move |store| {
            // A caller who has gone needs no answer.
            let _ = reply.send(read(store));
        });
        self.send(job)?;
        match receiver.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(Refusal::Internal(error.to_string())),
            Err(_) => Err(closed()),
        }
    }

    fn send(&self, job: Job) -> Result<(), Refusal> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.as_ref().ok_or_else(closed)?.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Refusal::QueueFull { retry_after: RETRY }),
            Err(TrySendError::Disconnected(_)) => Err(closed()),
        }
    }

    /// The thread ends once what waits is read.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The thread.
pub(crate) fn run(store: &LaneStore, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job(store);
    }
}

pub(crate) fn closed() -> Refusal {
    Refusal::Unavailable { state: "draining", retry_after: Duration::from_secs(1) }
}
