//! A program of another language that a benchmark compares with: a Python process that answers a line with a line and measures its own runs, so
//! that neither its start nor the way between the processes counts.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Outcome;

/// A running child; it ends with this value.
#[derive(Debug)]
pub struct Python {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Python {
    /// Starts a script in the environment `tool` that the Makefile's benchmark targets make, or by the Python that LARDER_BENCH_PYTHON names.
    /// `None` where the script does not say "ready": something it needs is missing. `missing` is then printed behind the Python's name.
    ///
    /// # Errors
    /// HOME is not set, or the child's output cannot be read.
    pub fn start(tool: &str, script: &str, arguments: &[&OsStr], missing: &str) -> Outcome<Option<Python>> {
        let python = python(tool)?;
        let mut command = Command::new(&python);
        command.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Ok(mut child) = command.spawn()
            && let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take())
        {
            let mut started = Python { child, to, from: BufReader::new(from) };
            if started.line()? == "ready" {
                return Ok(Some(started));
            }
        }
        println!("{} {missing}: its figures are left out", python.display());
        Ok(None)
    }

    /// Sends a line and waits for the answer.
    ///
    /// # Errors
    /// The child has ended, or wrote what is no text.
    pub fn ask(&mut self, request: &str) -> Outcome<String> {
        writeln!(self.to, "{request}")?;
        self.to.flush()?;
        self.line()
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }
}

fn python(tool: &str) -> Outcome<PathBuf> {
    if let Some(python) = std::env::var_os("LARDER_BENCH_PYTHON") {
        return Ok(python.into());
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/larder/tools").join(tool).join("bin/python"))
}
