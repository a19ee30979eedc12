//! `--since` and `--deletes`, which make a build one of a delta snapshot: of what has changed, and not of what there is.

use chrono::{DateTime, Utc};
use clap::Args;
use larder_ingest::{DeltaRequest, Location};

#[derive(Debug, Args)]
pub(crate) struct DeltaArguments {
    /// Build a delta snapshot: the files hold everything that is new, has changed or was deleted since this moment, RFC 3339; it can follow a
    /// generation that shows the state of this moment or of a later one
    #[arg(long, value_name = "TIME", conflicts_with = "cold_after")]
    since: Option<DateTime<Utc>>,
    /// Parquet file or folder whose rows are deletions, may be given several times: the entity; the event time, or it is that of --as-of; in a view with last_n the element
    /// key, or all elements go
    #[arg(long, value_name = "PARQUET", requires = "since", value_parser = Location::parse)]
    deletes: Vec<Location>,
}

impl DeltaArguments {
    /// What they ask for; `None` = a whole generation.
    pub(crate) fn request(&self) -> Option<DeltaRequest> {
        let since_ms = self.since?.timestamp_millis();
        Some(DeltaRequest { since_ms, deletions: self.deletes.clone() })
    }
}
