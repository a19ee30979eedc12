//! `--cold-after` and `--active`, which several commands take: who goes into the cold tier.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use larder_ingest::ColdRule;

use crate::durations::duration;

#[derive(Debug, Args)]
pub(crate) struct ColdArguments {
    /// Place entities cold whose newest row is older than this, counted back from the snapshot's as-of, such as 90d or 36h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cold_after: Option<Duration>,
    /// Hot-set file whose entities stay warm whatever their age: a node writes one to STORE/hot-set when it stops
    #[arg(long, value_name = "FILE", requires = "cold_after")]
    active: Option<PathBuf>,
}

impl ColdArguments {
    /// The rule they state; `None` = everybody is warm.
    pub(crate) fn rule(&self) -> Option<ColdRule> {
        self.cold_after.map(|cold_after| ColdRule { cold_after, active: self.active.clone() })
    }
}
