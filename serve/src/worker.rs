//! Worker threads whose panic is the node's state: a node is failed or well, never half dead.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::Error;
use crate::life::Life;
use crate::queue::Queue;

/// Starts a named thread whose panic becomes the node's state.
pub(crate) fn spawn(
    worker: &'static str,
    queue: &Arc<Queue>,
    life: &Life,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let guard = FailureGuard { worker, queue: queue.clone(), life: life.clone() };
    let body = move || {
        let _guard = guard;
        run();
    };
    let thread = std::thread::Builder::new().name(format!("larder-{worker}")).spawn(body);
    thread.map_err(|error| Error::System { context: "starting a worker thread", source: error.into() })
}

struct FailureGuard {
    worker: &'static str,
    queue: Arc<Queue>,
    life: Life,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.life.fail(self.worker);
            self.queue.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::State;
    use crate::queue::tests::queue;

    #[test]
    fn a_panicking_worker_fails_the_node() {
        let (queue, life) = (Arc::new(queue()), Life::new());
        life.serve();
        let worker = spawn("score", &queue, &life, || panic!("on purpose")).unwrap();
        assert!(worker.join().is_err());
        assert_eq!(life.state(), State::Failed { worker: "score" });
        assert!(queue.next_batch().is_none(), "the other worker ends too");
        assert_eq!(life.answering().unwrap_err().code().1, "failed");
    }

    #[test]
    fn a_worker_that_ends_leaves_the_node_as_it_is() {
        let (queue, life) = (Arc::new(queue()), Life::new());
        life.serve();
        spawn("fetch", &queue, &life, || ()).unwrap().join().unwrap();
        assert_eq!(life.state(), State::Serving);
    }
}
