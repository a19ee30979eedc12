//! Where models run: the devices of a node, opened once and shared by all of its encoders.
//!
//! The CPU device has a thread pool of its own: Burn's parallel loops run in the pool of the thread that calls them, and two models
//! sharing the global pool would steal each other's work.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::config::ModelConfig;
use crate::error::Error;

/// The devices of a node; clones share them.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

struct Inner {
    pool: ThreadPool,
    micro_batch_tokens: usize,
}

impl Devices {
    /// Opens the devices that the configuration names.
    ///
    /// # Errors
    /// `FixConfig` for a value in `config`, `ReportFault` when threads cannot be started.
    pub fn open(config: &ModelConfig) -> Result<Devices, Error> {
        config.validate()?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|index| format!("model-{index}"))
            .build()
            .map_err(|error| Error::fault("starting the model's threads", error))?;
        Ok(Devices(Arc::new(Inner { pool, micro_batch_tokens: config.micro_batch_tokens })))
    }

    /// Tokens that go through a network together.
    pub(crate) fn micro_batch_tokens(&self) -> usize {
        self.0.micro_batch_tokens
    }

    /// Runs model work in the pool.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.pool.install(work)
    }
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Devices").field("threads", &self.0.pool.current_num_threads()).finish_non_exhaustive()
    }
}
