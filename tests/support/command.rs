//! The `larder` command as a person types it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary that `make test` builds before the tests, beside the tests' own.
pub(crate) fn larder() -> Command {
    let tests = std::env::current_exe().unwrap();
    let binary: PathBuf = tests.parent().and_then(std::path::Path::parent).unwrap().join("larder");
    assert!(binary.exists(), "{} is absent: run `make test`, or `cargo build` first", binary.display());
    Command::new(binary)
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = larder().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}
