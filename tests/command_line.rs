//! The promise of the `larder` command: what a new user types does what it says, and failing is told in plain words.
//!
//! These tests run the binary that lies beside this test's own, as `make test` has built it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::tempdir;

use crate::support::encoder_folder;

/// The command, with nothing in its environment that would change what it prints.
fn larder(arguments: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let binary: PathBuf = own.parent().and_then(Path::parent).unwrap().join("larder");
    assert!(binary.exists(), "{} is absent: run `cargo build --package larder`", binary.display());
    let mut command = Command::new(binary);
    command.args(arguments).env_remove("RUST_LOG").env_remove("NO_COLOR").env("RUST_BACKTRACE", "1");
    command.env("LARDER_MODELS", encoder_folder().parent().unwrap()).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    larder(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn exit_codes_tell_wrong_usage_from_failure() {
    for (arguments, code) in [
        (&["--version"][..], 0),
        (&["ingest", "load", "--help"], 0),
        (&[], 2),
        (&["serv"], 2),
        (&["sample", "--out", "x", "--now", "yesterday"], 2),
        (&["serve", "--config", "/nonexistent/larder.toml"], 1),
        (&["model", "get", "gpt-9"], 1),
        (&["ask", "--addr", "127.0.0.1:1", "hello?"], 1),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_failure_is_a_few_plain_lines_that_name_the_cause() {
    let output = run(&["serve", "--config", "/nonexistent/larder.toml"]);
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: /nonexistent/larder.toml: "), "{stderr}");
    assert!(stderr.lines().count() <= 3, "{stderr}");
    for unwanted in ["\u{1b}", "backtrace", "panicked", "Error {"] {
        assert!(!stderr.contains(unwanted), "{stderr}");
    }
    let output = run(&["ask", "--addr", "127.0.0.1:1", "hello?"]);
    assert!(text(&output.stderr).contains("start one with `larder serve"), "{}", text(&output.stderr));
}

#[test]
fn a_node_drains_when_its_starter_is_gone() {
    let folder = tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    assert!(run(&["sample", "--out", out, "--users", "500"]).status.success());
    let config = folder.path().join("larder.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let node = "[node]\nlisten = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n\n[store]";
    let text = text.replace("head = \"head.safetensors\"\n", "").replace("[store]", node);
    std::fs::write(&config, text).unwrap();

    let mut command = larder(&["serve", "--stop-with-stdin", "--config", config.to_str().unwrap()]);
    let mut node = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(node.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("serving")), "the node ended before it served");
    drop(node.stdin.take());
    let rest: Vec<String> = log.collect();
    let status = node.wait().unwrap();
    assert!(status.success(), "{status}: {rest:?}");
}

#[test]
fn the_demo_answers_its_200_questions_and_repeats_itself_quickly() {
    let folder = tempdir().unwrap();
    let arguments = ["demo", "--dir", folder.path().to_str().unwrap(), "--users", "1000"];
    let first = run(&arguments);
    let (stdout, stderr) = (text(&first.stdout), text(&first.stderr));
    assert!(first.status.success(), "{stdout}\n{stderr}");
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "escape codes in a pipe");
    let last = stdout.lines().last().unwrap();
    let figures: Vec<(&str, f64)> = last
        .strip_prefix("demo: ")
        .unwrap_or_else(|| panic!("{last}"))
        .split(' ')
        .map(|pair| pair.split_once('=').map(|(key, value)| (key, value.parse().unwrap())).unwrap())
        .collect();
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["answered", "correct", "p50_ms", "p99_ms", "batches", "mean_batch", "hot_hits"]);
    let figure = |name| figures.iter().find(|(key, _)| *key == name).unwrap().1;
    assert_eq!(figure("answered"), 200.0, "{last}");
    assert!(figure("correct") >= 190.0, "{stdout}");
    assert!(figure("hot_hits") >= 200.0, "{last}");
    assert!(figure("p50_ms") <= figure("p99_ms"), "{last}");
    assert!(stderr.contains("drained after SIGTERM and exited with 0"), "{stderr}");

    let second = run(&arguments);
    let stderr = text(&second.stderr);
    assert!(second.status.success(), "{stderr}");
    for reused in ["is up to date", "is live already", "head: trained already"] {
        assert!(stderr.contains(reused), "{stderr}");
    }
}
