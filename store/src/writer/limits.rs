//! How large what a build writes may become.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Largest value of `max_row_bytes`, which is also its default.
pub const MAX_ROW_BYTES: usize = 1 << 20;

/// Limits of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriterLimits {
    /// Largest stored value: one row, or all kept elements of an entity together.
    pub max_row_bytes: usize,
    /// Size at which an SST file is closed and the next one begun, in MiB.
    pub file_mib: u64,
}

impl Default for WriterLimits {
    fn default() -> WriterLimits {
        WriterLimits { max_row_bytes: MAX_ROW_BYTES, file_mib: 256 }
    }
}

impl WriterLimits {
    /// Checks the limits against their allowed ranges.
    ///
    /// # Errors
    /// [`Error::FixConfig`] names the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=MAX_ROW_BYTES).contains(&self.max_row_bytes) {
            let allowed = format!("must be between 1 and {MAX_ROW_BYTES}");
            return Err(Error::config("max_row_bytes", self.max_row_bytes, allowed));
        }
        if !(1..=4096).contains(&self.file_mib) {
            let allowed = "must be between 1 and 4096";
            return Err(Error::config("file_mib", self.file_mib, allowed));
        }
        Ok(())
    }
}
