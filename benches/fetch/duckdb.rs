//! DuckDB at its best: a Python process that holds a warm connection with the file's metadata cached, answers one batch of keys at a time
//! as Arrow, and measures each query itself, so that neither its start nor the way between the processes counts.

use std::path::Path;

use larder_benches::{Outcome, Python};

/// The child's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fetch/duckdb_lookup.py");

/// A running child; it ends with this value.
pub(crate) struct DuckDb(Python);

impl DuckDb {
    /// Starts it on a snapshot; `None`, and it says so, where there is no DuckDB.
    pub(crate) fn start(snapshot: &Path) -> Outcome<Option<DuckDb>> {
        let missing = "has no duckdb (make bench-tools)";
        Ok(Python::start("duckdb", SCRIPT, &[snapshot.as_os_str()], missing)?.map(DuckDb))
    }

    /// Asks for the rows of `names`; returns the microseconds it took there and the number of rows.
    pub(crate) fn ask(&mut self, names: &[String]) -> Outcome<(f64, usize)> {
        let line = self.0.ask(&names.join(" "))?;
        let (seconds, rows) = line.split_once(' ').ok_or_else(|| format!("duckdb answered {line:?}"))?;
        Ok((seconds.parse::<f64>()? * 1e6, rows.parse()?))
    }
}
