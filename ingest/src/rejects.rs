//! Rows that cannot be stored because their keys are missing or too long: counted against a limit, and some of them kept to look at.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::location::write_whole;

/// Rows that are kept to look at.
pub(crate) const MAX_SAMPLES: usize = 1_000;

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reject {
    /// The source file.
    pub(crate) file: String,
    /// The row's number in the file, from 0.
    pub(crate) row: u64,
    /// The column that is wrong.
    pub(crate) column: String,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// The row's entity, as far as it has one.
    pub(crate) key: Option<String>,
}

/// The count of all readers of a build together.
pub(crate) struct Rejects {
    max_rows: u64,
    /// Where the samples are written.
    file: Option<PathBuf>,
    count: AtomicU64,
    samples: Mutex<Vec<Reject>>,
}

impl Rejects {
    pub(crate) fn new(max_rows: u64, file: Option<&Path>) -> Rejects {
        Rejects { max_rows, file: file.map(Path::to_owned), count: AtomicU64::new(0), samples: Mutex::default() }
    }

    /// Rows left out so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Starts again, with what an earlier reading found.
    pub(crate) fn restart(&self, count: u64, samples: Vec<Reject>) {
        self.count.store(count, Ordering::Relaxed);
        *self.samples.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    /// Adds the rejected rows of one batch, of which `samples` are the first.
    pub(crate) fn add(&self, count: u64, samples: &[Reject]) -> Result<(), Error> {
        let total = self.count.fetch_add(count, Ordering::Relaxed) + count;
        let mut kept = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_SAMPLES.saturating_sub(kept.len());
        kept.extend(samples.iter().take(room).cloned());
        drop(kept);
        let Some(first) = samples.first().filter(|_| total > self.max_rows) else { return Ok(()) };
        let look = match &self.file {
            Some(file) => format!("samples lie in {}", file.display()),
            None => "name a file for samples of them to see more".to_owned(),
        };
        let Reject { file, row, column, reason, .. } = first;
        let max_rows = self.max_rows;
        let reason = format!(
            "row {row}: {column} {reason}; {total} rows without usable keys, max_rejected_rows is {max_rows}; {look}"
        );
        Err(Error::source(Path::new(file), reason))
    }

    /// Writes the samples as lines of JSON, in the order of files and rows, to the file that was asked for.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        samples.sort_by(|a, b| (&a.file, a.row).cmp(&(&b.file, b.row)));
        write_whole(file, |out| {
            let mut lines = Vec::new();
            for sample in &samples {
                serde_json::to_writer(&mut lines, sample)?;
                lines.push(b'\n');
            }
            std::io::Write::write_all(out, &lines)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_beyond_the_limit_stop_and_the_samples_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rejects.jsonl");
        let rejects = Rejects::new(2_000, Some(&file));
        let reject =
            |row| Reject { file: "a.parquet".into(), row, column: "key".into(), reason: "is null".into(), key: None };
        for row in (0..2_000).rev() {
            rejects.add(1, &[reject(row)]).unwrap();
        }
        let message = rejects.add(1, &[reject(7)]).unwrap_err().to_string();
        assert!(message.starts_with("a.parquet: row 7: key is null; 2001 rows"), "{message}");
        assert!(message.ends_with(&format!("samples lie in {}", file.display())), "{message}");
        rejects.write().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), MAX_SAMPLES);
        let first: Reject = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first.row, 1_000);
    }
}
