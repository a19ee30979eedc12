//! Tests that kill a process run a part of themselves in a process of its own, which says how far it has come.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// Runs the test `child_process` of a suite in a process of its own, with settings for it in the environment.
pub(crate) fn spawn(module: &str, settings: &[(&str, &Path)]) -> Child {
    let (_, module) = module.split_once("::").unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::child_process"), "--exact", "--nocapture", "--test-threads=1"])
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Tells the parent something.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child: {what}").and_then(|()| out.flush()).unwrap();
}

/// The lines that a child says, one by one.
pub(crate) fn lines(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let said = line.split_once("child: ").map(|(_, said)| said.to_string());
            if said.is_some_and(|said| sender.send(said).is_err()) {
                return;
            }
        }
    });
    receiver
}
