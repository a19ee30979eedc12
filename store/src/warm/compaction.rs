//! Rewriting files now and not when RocksDB likes: after an erasure no file may hold what was taken out. RocksDB keeps what a fetch still sees, so
//! compactions wait for the fetches that were under way.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rocksdb::{BottommostLevelCompaction, CompactOptions, FlushOptions};

use crate::Error;
use crate::log::family::LOG;
use crate::warm::failure::disk;
use crate::warm::{BASE, LIVE, META, Warm};

/// How long a compaction waits for the fetches that were under way, and for old files to go.
const READERS_WAIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });

/// The families that are compacted by hand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    Base,
    Live,
}

impl Warm {
    /// Writes everything that is in RAM into files, so that the log can go.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(BASE)?, self.family(LIVE)?, self.family(META)?, self.family(LOG)?];
        self.db.flush_cfs_opt(&families, &options).map_err(|error| self.refused_write(error))
    }

    /// Rewrites the files that hold keys from `first` to `last`, so that what was deleted or replaced there is gone from disk.
    pub(crate) fn compact(&self, family: Family, first: &[u8], last: &[u8]) -> Result<(), Error> {
        let family = match family {
            Family::Base => BASE,
            Family::Live => LIVE,
        };
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        let family = self.family(family)?;
        self.compacted(|| self.db.compact_range_cf_opt(family, Some(first), Some(last), &options))
    }

    /// Does a compaction, which does not say how it went.
    pub(crate) fn compacted(&self, compact: impl FnOnce()) -> Result<(), Error> {
        let failures = || self.db.property_int_value("rocksdb.background-errors").ok().flatten();
        let before = failures();
        compact();
        match failures() == before {
            true => Ok(()),
            false => Err(Error::disk("rewrite a file of", &self.path)(io::Error::other("a compaction failed"))),
        }
    }

    /// Waits until no fetch sees the database as it was before this call: what it sees, a compaction must keep.
    pub(crate) fn outlive_snapshots(&self) -> Result<(), Error> {
        let now = self.sequence();
        let oldest = || self.db.property_int_value("rocksdb.oldest-snapshot-sequence").ok().flatten().unwrap_or(0);
        self.wait_until(|| Ok(!(1..now).contains(&oldest())))
    }

    /// Waits until the files that the database no longer needs are deleted: RocksDB does that beside, and later while a fetch reads them.
    pub(crate) fn outlive_files(&self) -> Result<(), Error> {
        self.wait_until(|| {
            let needed = self.db.live_files().map_err(disk("list", &self.path))?;
            let (mut logs, mut obsolete) = (0, false);
            for entry in fs::read_dir(&self.path).map_err(Error::disk("list", &self.path))? {
                let name = entry.map_err(Error::disk("list", &self.path))?.file_name();
                let name = name.to_string_lossy();
                logs += usize::from(name.ends_with(".log"));
                obsolete |= name.ends_with(".sst") && !needed.iter().any(|file| file.name.ends_with(&*name));
            }
            Ok(logs <= 1 && !obsolete)
        })
    }

    /// Waits until something that ends by itself has ended.
    pub(crate) fn wait_until(&self, done: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
        let until = Instant::now() + READERS_WAIT;
        while !done()? {
            if Instant::now() > until {
                let path = self.path.display();
                return Err(Error::TryAgain(format!(
                    "files of {path} cannot be rewritten yet, a fetch still reads what they held before; try again"
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Compacts the files that lie on top of the base family's: those of a compaction under way, or of one that was cut short.
    pub(crate) fn finish_compactions(&self) -> Result<(), Error> {
        let mut on_top = self.base_files()?;
        on_top.retain(|file| file.level == 0);
        if !on_top.is_empty() {
            self.outlive_snapshots()?;
        }
        on_top.iter().try_for_each(|file| self.compact(Family::Base, file.first_key(), file.last_key()))
    }

    /// Whether a file of the live family holds deletions. What they delete may still be in another file.
    pub(crate) fn live_has_deletions(&self) -> Result<bool, Error> {
        let files = self.db.live_files().map_err(disk("list", &self.path))?;
        Ok(files.iter().any(|file| file.column_family_name == LIVE && file.num_deletions > 0))
    }
}
