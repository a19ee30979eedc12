//! What the node is doing: warming, serving, draining, failed. One value that everybody can read and wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Refusal;

/// A node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Opening the store, loading the model, running it once.
    Warming,
    Serving,
    /// Answering what was let in, taking nothing new.
    Draining,
    /// A worker thread panicked.
    Failed {
        worker: &'static str,
    },
}

impl State {
    pub(crate) fn label(self) -> &'static str {
        match self {
            State::Warming => "warming",
            State::Serving => "serving",
            State::Draining => "draining",
            State::Failed { .. } => "failed",
        }
    }
}

/// The state, shared. Failed is final; draining yields only to failed.
#[derive(Debug, Clone)]
pub(crate) struct Life(Arc<watch::Sender<State>>);

impl Life {
    pub(crate) fn new() -> Life {
        Life(Arc::new(watch::Sender::new(State::Warming)))
    }

    pub(crate) fn state(&self) -> State {
        *self.0.borrow()
    }

    pub(crate) fn serve(&self) {
        self.advance(State::Serving, |state| state == State::Warming);
    }

    pub(crate) fn drain(&self) {
        self.advance(State::Draining, |state| !matches!(state, State::Failed { .. }));
    }

    pub(crate) fn fail(&self, worker: &'static str) {
        self.advance(State::Failed { worker }, |_| true);
    }

    /// Waits for a state of that kind and returns it.
    pub(crate) async fn wait_for(&self, mut wanted: impl FnMut(State) -> bool) -> State {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(|state| wanted(*state)).await {
            Ok(state) => *state,
            // The sender lives as long as this handle.
            Err(_) => self.state(),
        }
    }

    /// Ok while the node answers; otherwise the refusal that says why it does not.
    pub(crate) fn answering(&self) -> Result<(), Refusal> {
        let (state, retry_after) = match self.state() {
            State::Serving => return Ok(()),
            State::Warming => ("warming", Duration::from_secs(1)),
            State::Draining => ("draining", Duration::from_secs(1)),
            State::Failed { .. } => ("failed", Duration::from_secs(5)),
        };
        Err(Refusal::Unavailable { state, retry_after })
    }

    fn advance(&self, to: State, from: impl Fn(State) -> bool) {
        self.0.send_if_modified(|state| {
            let moves = from(*state);
            if moves {
                *state = to;
            }
            moves
        });
    }
}
