//! `[rows]`: whether applications may write live rows, and how much of the node that may take.

use larder_store::MAX_WRITE_ROWS;
use serde::{Deserialize, Serialize};

use crate::config_check::within;

/// An hour.
const MAX_PROBE_INTERVAL_MS: u64 = 3_600_000;

/// `[rows]`: live rows, over gRPC and Arrow Flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowsConfig {
    /// Whether the callers of a tenant may write rows of that tenant; a tenant's own `write_rows` decides otherwise.
    pub write: bool,
    /// Most rows and deletions of one batch.
    pub max_batch_rows: usize,
    /// Most batches of one stream that are read and not yet acknowledged.
    pub max_unacknowledged: usize,
    /// Most streams of batches that are open at once; one more is refused.
    pub max_streams: usize,
    /// Most bytes of batches that are read and not yet written, of all callers.
    pub max_waiting_mib: usize,
    /// Threads that check and write rows, and do nothing else.
    pub threads: usize,
    /// How often a row that was just written is fetched, to know how soon it is seen; 0 = never.
    pub probe_interval_ms: u64,
}

impl Default for RowsConfig {
    fn default() -> Self {
        RowsConfig {
            write: true,
            max_batch_rows: 16_384,
            max_unacknowledged: 16,
            max_streams: 64,
            max_waiting_mib: 64,
            threads: 2,
            probe_interval_ms: 1_000,
        }
    }
}

impl RowsConfig {
    /// Checks every value against its range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        within("rows.max_batch_rows", self.max_batch_rows, 1, MAX_WRITE_ROWS)?;
        within("rows.max_unacknowledged", self.max_unacknowledged, 1, 1_024)?;
        within("rows.max_streams", self.max_streams, 1, 4_096)?;
        within("rows.max_waiting_mib", self.max_waiting_mib, 1, 16_384)?;
        within("rows.threads", self.threads, 1, 64)?;
        within("rows.probe_interval_ms", self.probe_interval_ms, 0, MAX_PROBE_INTERVAL_MS)
    }
}
