//! The thread of whatever changes the store: publishing, placing, erasing, compacting, one at a time.
//!
//! Such work takes minutes and every CPU it gets. It has a thread of its own, so that it cannot take tokio's, with a lower priority than those that
//! answer, and CPUs of its own where `threads.ingest_cores` names some. Threads that the work starts are as low.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Refusal};
use crate::threads::{Cores, lower_priority};

/// When a refused change may try again.
const RETRY: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// The handle of the thread; it ends after its job when this is dropped.
#[derive(Debug)]
pub(crate) struct IngestThread {
    jobs: SyncSender<Job>,
    /// One at a time.
    room: Arc<Semaphore>,
}

impl IngestThread {
    pub(crate) fn start(cores: Cores) -> Result<IngestThread, Error> {
        let (jobs, input) = sync_channel::<Job>(1);
        let body = move || {
            cores.pin();
            lower_priority();
            while let Ok(job) = input.recv() {
                job();
            }
        };
        let started = std::thread::Builder::new().name("larder-ingest".to_owned()).spawn(body);
        started.map_err(|error| Error::System { context: "starting the ingest thread", source: error.into() })?;
        Ok(IngestThread { jobs, room: Arc::new(Semaphore::new(1)) })
    }

    /// Does work there; a second one at the same time is refused. A caller who goes away does not end it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let full = || Refusal::QueueFull { retry_after: RETRY };
        let permit = self.room.clone().try_acquire_owned().map_err(|_| full())?;
        let (done, outcome) = oneshot::channel();
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            drop(permit);
            // Whoever asked may have gone.
            let _ = done.send(outcome);
        };
        // With the permit there is room.
        self.jobs.try_send(Box::new(job)).map_err(|_| full())?;
        let lost = |_| Refusal::Internal("the ingest thread has ended".to_owned());
        outcome.await.map_err(lost)?.unwrap_or_else(|panic: Box<dyn Any + Send>| {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            Err(Refusal::Internal(format!("changing the store panicked: {said}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_change_at_a_time_on_a_thread_of_lower_priority() {
        let ingest = Arc::new(IngestThread::start(Cores::default()).unwrap());
        let (begun, has_begun) = oneshot::channel();
        let (let_go, wait) = std::sync::mpsc::channel::<()>();
        let work = move || {
            begun.send(std::thread::current().name().map(str::to_owned)).unwrap();
            wait.recv().unwrap();
            Ok(rustix::process::getpriority_process(None).unwrap())
        };
        let first = tokio::spawn({
            let ingest = ingest.clone();
            async move { ingest.run(work).await }
        });
        assert_eq!(has_begun.await.unwrap().as_deref(), Some("larder-ingest"));
        let second = ingest.run(|| Ok(())).await.unwrap_err();
        assert_eq!(second, Refusal::QueueFull { retry_after: RETRY });
        let_go.send(()).unwrap();
        let own = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), (own + crate::threads::LOWER).min(19), "lower, and only there");
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_not_the_thread() {
        let ingest = IngestThread::start(Cores::default()).unwrap();
        let refusal = ingest.run(|| -> Result<(), Refusal> { panic!("on purpose") }).await.unwrap_err();
        assert!(refusal.to_string().contains("on purpose"), "{refusal}");
        assert_eq!(ingest.run(|| Ok(7)).await, Ok(7));
    }
}
