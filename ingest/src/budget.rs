//! What a build may take: its memory divided among what needs it at the same time, and whether the disk will do.
//!
//! Reading and sorting happen before merging and writing, so each of the two phases has the whole. Of the sorting phase's memory five
//! eighths are rows that are gathered; the rest is what decoders, blocks of remote files and the compression of runs need beside them.

use std::path::Path;

use crate::Error;

/// Bytes of a batch in a run file: what one run has in memory while it is merged, twice.
pub(crate) const RUN_BATCH_BYTES: usize = 256 << 10;
/// Runs that are merged at a time, at most: each is an open file.
const MAX_FAN_IN: usize = 256;
/// Bounds of a block of a remote file.
const BLOCK_BYTES: (u64, u64) = (64 << 10, 2 << 20);

/// The memory of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) total: u64,
    /// Threads that read, convert and sort.
    pub(crate) threads: usize,
    /// Rows that one of them gathers before it makes a run of them.
    pub(crate) run_bytes: u64,
    /// Sorted rows that may wait in memory for the merge.
    pub(crate) resident_bytes: u64,
    /// Runs that are merged at a time.
    pub(crate) fan_in: usize,
    /// Batches that a merge has used up and still needs for the rows it has not yet passed on.
    pub(crate) retired_bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_memory_mib: u64, threads: usize) -> Budget {
        let total = max_memory_mib << 20;
        let threads = threads.max(1);
        let fan_in = usize::try_from(total / 2).unwrap_or(usize::MAX) / (2 * RUN_BATCH_BYTES);
        Budget {
            total,
            threads,
            run_bytes: total / 8 * 5 / threads as u64,
            resident_bytes: total / 2,
            fan_in: fan_in.clamp(2, MAX_FAN_IN),
            retired_bytes: usize::try_from(total / 8).unwrap_or(usize::MAX),
        }
    }

    /// Bytes that are fetched of a remote file at a time, when `columns` of it are read: one thread holds about as many blocks.
    pub(crate) fn block_bytes(&self, columns: usize) -> u64 {
        (self.total / 4 / self.threads as u64 / (columns as u64 + 2)).clamp(BLOCK_BYTES.0, BLOCK_BYTES.1)
    }
}

/// Refuses a build that would fill a disk: `needed` more bytes in `folder`, of which `free` are free.
pub(crate) fn check_space(folder: &Path, needed: u64, free: u64) -> Result<(), Error> {
    if needed <= free {
        return Ok(());
    }
    Err(Error::FreeSpace { path: folder.to_owned(), needed_mib: needed.div_ceil(1 << 20), free_mib: free >> 20 })
}

/// Bytes that are free on the disk of a folder; `None` when the file system does not say.
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_stays_within_the_whole() {
        for (mib, threads) in [(1, 1), (1, 64), (1024, 2), (1024, 16), (1 << 20, 128)] {
            let budget = Budget::new(mib, threads);
            assert!(budget.run_bytes * threads as u64 <= (mib << 20) / 8 * 5, "{budget:?}");
            assert!(budget.fan_in >= 2 && budget.fan_in <= MAX_FAN_IN, "{budget:?}");
            let merging = 2 * budget.fan_in * RUN_BATCH_BYTES;
            assert!(merging as u64 <= mib << 20, "{budget:?}");
        }
        assert_eq!(Budget::new(1024, 2).block_bytes(10), 2 << 20);
        assert_eq!(Budget::new(1, 16).block_bytes(10), 64 << 10);
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_with_what_is_missing() {
        let folder = Path::new("/spill");
        assert!(check_space(folder, 5, 5).is_ok());
        let message = check_space(folder, (3 << 20) + 1, 2 << 20).unwrap_err().to_string();
        assert!(message.contains("/spill") && message.contains("4 MiB") && message.contains("2 MiB"), "{message}");
        assert!(free_space(&std::env::temp_dir()).is_some_and(|free| free > 0));
        assert_eq!(free_space(Path::new("/absent/folder")), None);
    }
}
