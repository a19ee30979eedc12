//! DuckDB at its best: a Python process that holds a warm connection with the file's metadata cached, answers one batch of keys at a time
//! as Arrow, and measures each query itself, so that neither its start nor the way between the processes counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use larder_benches::Outcome;

/// The child's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fetch/duckdb_lookup.py");

/// A running child; it ends with this value.
pub(crate) struct DuckDb {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DuckDb {
    /// Starts it on a snapshot; `None`, and it says so, where there is no DuckDB.
    pub(crate) fn start(snapshot: &Path) -> Outcome<Option<DuckDb>> {
        let python = python()?;
        let mut command = Command::new(&python);
        let started = command.arg(SCRIPT).arg(snapshot).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        if let Ok(mut child) = started
            && let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take())
        {
            let mut duckdb = DuckDb { child, to, from: BufReader::new(from) };
            if duckdb.line()? == "ready" {
                return Ok(Some(duckdb));
            }
        }
        println!("{} has no duckdb (make bench-tools): its figures are left out", python.display());
        Ok(None)
    }

    /// Asks for the rows of `names`; returns the microseconds it took there and the number of rows.
    pub(crate) fn ask(&mut self, names: &[String]) -> Outcome<(f64, usize)> {
        writeln!(self.to, "{}", names.join(" "))?;
        self.to.flush()?;
        let line = self.line()?;
        let (seconds, rows) = line.split_once(' ').ok_or_else(|| format!("duckdb answered {line:?}"))?;
        Ok((seconds.parse::<f64>()? * 1e6, rows.parse()?))
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }
}

/// The Python that `make bench-tools` puts DuckDB into, or the one that LARDER_BENCH_PYTHON names.
fn python() -> Outcome<PathBuf> {
    if let Some(python) = std::env::var_os("LARDER_BENCH_PYTHON") {
        return Ok(python.into());
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/larder/tools/duckdb/bin/python"))
}
