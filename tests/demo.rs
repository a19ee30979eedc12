//! The promise of `make demo`: every question answered, at least 190 of 200 rightly, a clean stop, and a quick second run.
//!
//! It runs the command itself on the sample shop that a new user gets, so a change that costs answers fails here first.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::tempdir;

use crate::support::encoder_folder;

/// The binary that `make test` builds before the tests, with nothing in its environment that changes what it prints.
fn larder(arguments: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let binary: PathBuf = own.parent().and_then(Path::parent).unwrap().join("larder");
    assert!(binary.exists(), "{} is absent: run `make test`, or `cargo build` first", binary.display());
    let mut command = Command::new(binary);
    command.args(arguments).env_remove("RUST_LOG").env("LARDER_MODELS", encoder_folder().parent().unwrap());
    command.stdin(Stdio::null());
    command
}

/// What a successful command printed to stdout and stderr.
fn printed(arguments: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = larder(arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{arguments:?} ended with {status}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// The figures of the demo's last line, by name, in its order.
fn figures(stdout: &str) -> Vec<(&str, f64)> {
    let last = stdout.lines().last().unwrap();
    let pairs = last.strip_prefix("demo: ").unwrap_or_else(|| panic!("the last line is {last:?}")).split(' ');
    pairs.map(|pair| pair.split_once('=').map(|(name, value)| (name, value.parse().unwrap())).unwrap()).collect()
}

#[test]
fn the_demo_answers_200_questions_and_repeats_itself_without_doing_anything_twice() {
    let folder = tempdir().unwrap();
    let arguments = ["demo", "--dir", folder.path().to_str().unwrap()];
    let (stdout, stderr) = printed(&arguments);
    let found = figures(&stdout);
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["answered", "correct", "p50_ms", "p99_ms", "batches", "mean_batch", "hot_hits"]);
    let figure = |wanted| found.iter().find(|(name, _)| *name == wanted).unwrap().1;
    assert_eq!(figure("answered"), 200.0, "{stdout}");
    assert!(figure("correct") >= 190.0, "{stdout}");
    assert!(figure("p50_ms") > 0.0 && figure("p50_ms") <= figure("p99_ms"), "{stdout}");
    assert!(figure("batches") < 200.0 && figure("mean_batch") > 1.0, "questions share batches: {stdout}");
    assert!(figure("hot_hits") >= 200.0, "the users were warmed: {stdout}");
    assert!(stderr.contains("drained after SIGTERM and exited with 0"), "{stderr}");
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "escape codes where nobody sees colours");

    let (stdout, stderr) = printed(&[&arguments[..], &["--json"]].concat());
    for reused in ["is up to date", "is live already", "trained already"] {
        assert!(stderr.contains(reused), "the second run did this again ({reused:?} is missing): {stderr}");
    }
    let again: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&again["answered"], &again["refused"]), (&200.into(), &0.into()), "{stdout}");
    let correct = again["correct"].as_u64().unwrap();
    assert!(correct >= 190, "{stdout}");
    assert_eq!(again["wrong"].as_array().unwrap().len() as u64, 200 - correct, "every wrong answer is named: {stdout}");
    let (quality, times) = (again["quality"].as_array().unwrap(), again["times"].as_array().unwrap());
    let kinds: Vec<_> = quality.iter().map(|kind| kind["questions"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["plain", "ambiguous", "out_of_scope", "all"]);
    assert_eq!((&quality[3]["asked"], &quality[3]["right"]), (&200.into(), &again["correct"]));
    let stages: Vec<_> = times.iter().map(|times| times["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["queue", "tokenize", "fetch", "ready", "score", "render", "node", "customer"]);
    assert_eq!((&times[7]["p50_ms"], &times[7]["p99_ms"]), (&again["p50_ms"], &again["p99_ms"]));
}

#[test]
fn a_node_drains_when_whoever_started_it_is_gone() {
    let folder = tempdir().unwrap();
    printed(&["sample", "--out", folder.path().to_str().unwrap(), "--users", "500"]);
    let config = folder.path().join("larder.toml");
    let ports = "[node]\nlisten = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n\n[store]";
    let toml = std::fs::read_to_string(&config).unwrap();
    // Without trained heads, which this test does not need.
    let toml =
        toml.replace("light_head = \"light-head.safetensors\"\n", "").replace("head = \"head.safetensors\"\n", "");
    let toml = toml.replace("[store]", ports);
    std::fs::write(&config, toml).unwrap();

    let mut command = larder(&["serve", "--stop-with-stdin", "--config", config.to_str().unwrap()]);
    let mut node = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(node.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("serving seconds")), "the node ended before it served");
    drop(node.stdin.take());
    let rest: Vec<String> = log.collect();
    let status = node.wait().unwrap();
    assert!(status.success(), "{status}: {rest:?}");
}
