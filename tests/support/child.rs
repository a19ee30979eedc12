//! A process that tests may kill: the test binary once more, told by its environment to do something else than test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A command that runs the test `child_process` of the module `module_path` in a process of its own.
pub(crate) fn command(module_path: &str) -> Command {
    command_of(std::env::current_exe().expect("a test binary").as_os_str(), module_path)
}

/// The same, for whoever may not enter the folder of the test binary.
pub(crate) fn command_of_anybody(module_path: &str) -> Command {
    command_of(OsStr::new("/proc/self/exe"), module_path)
}

fn command_of(binary: &OsStr, module_path: &str) -> Command {
    let (_, module) = module_path.split_once("::").expect("a module of the test binary");
    let mut command = piped(binary);
    command.args([&format!("{module}::child_process"), "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// A command whose lines can be heard.
pub(crate) fn piped(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Says a line to the parent. It has been said when this returns, whatever happens to the process then.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // The test harness may be in the middle of a line.
    writeln!(out, "\nchild: {what}").and_then(|()| out.flush()).expect("the parent listens");
}

/// A child, and what it says.
pub(crate) struct Said {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Said {
    pub(crate) fn start(command: &mut Command) -> Said {
        let mut child = command.spawn().expect("a child process");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.strip_prefix("child: ").is_some_and(|said| sender.send(said.to_string()).is_err()) {
                    return;
                }
            }
        });
        Said { child, lines }
    }

    /// The next line; panics when none comes.
    pub(crate) fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).expect("the child says something within a minute")
    }

    /// The next line, if one comes in time.
    pub(crate) fn next_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// Kills the child. Returns what it said before.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
        self.lines.iter().collect()
    }

    /// Waits until the child has done its work. Returns what it said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let said = self.lines.iter().collect();
        assert!(self.child.wait().expect("it ends").success(), "the child failed after saying {said:?}");
        said
    }
}
