//! All rows of a snapshot, file after file: what a build reads from start to end, and may have to read again.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use larder_store::ViewConfig;

use crate::Error;
use crate::source::SourceFile;

/// A pass over all source files.
pub(crate) struct Reading<'a> {
    view: &'a ViewConfig,
    max_rejected_rows: u64,
    files: std::slice::Iter<'a, PathBuf>,
    open: Option<SourceFile<'a>>,
    /// Rows read of the files before the open one.
    rows_before: u64,
    /// Rows left out for their keys.
    pub(crate) rejected: u64,
}

impl<'a> Reading<'a> {
    /// Starts at the first file.
    pub(crate) fn start(files: &'a [PathBuf], view: &'a ViewConfig, max_rejected_rows: u64) -> Reading<'a> {
        Reading { view, max_rejected_rows, files: files.iter(), open: None, rows_before: 0, rejected: 0 }
    }

    /// The next rows, in the view's canonical schema and with keys that can be stored; `None` after the last file.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some(file) = &mut self.open else {
                let Some(path) = self.files.next() else {
                    return Ok(None);
                };
                self.open = Some(SourceFile::open(path, self.view)?);
                continue;
            };
            let Some(batch) = file.next_batch()? else {
                self.rows_before += file.rows_read();
                self.open = None;
                continue;
            };
            self.rejected += batch.rejected;
            if let Some((row, fault)) = batch.first_rejected.filter(|_| self.rejected > self.max_rejected_rows) {
                let reason = format!(
                    "row {row}: {fault}; {} rows without usable keys, max_rejected_rows is {}",
                    self.rejected, self.max_rejected_rows
                );
                return Err(Error::source(file.path(), reason));
            }
            return Ok(Some(batch.rows));
        }
    }

    /// The file that the last rows came from.
    pub(crate) fn file(&self) -> &'a Path {
        self.open.as_ref().map_or(Path::new(""), SourceFile::path)
    }

    /// Rows read so far, rejected ones included.
    pub(crate) fn rows(&self) -> u64 {
        self.rows_before + self.open.as_ref().map_or(0, SourceFile::rows_read)
    }
}

/// Checks every file against the view before any row is read, and returns how many rows they hold.
pub(crate) fn check(files: &[PathBuf], view: &ViewConfig) -> Result<u64, Error> {
    files.iter().map(|path| Ok(SourceFile::open(path, view)?.rows())).sum()
}
