//! The `larder` command as a person types it: what it refuses and how it says so, and a node that stops when it is told to.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder_serve::v1::answers_client::AnswersClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::child;
use crate::support::command::{Ran, larder, run};
use crate::support::node::{ask, reason};
use crate::support::shop::{DEMO, Shop, USERS, intent_of};

#[test]
fn wrong_input_is_told_in_a_line_or_two_and_by_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let typo = file("typo.toml", "[batcher]\nmax_question = 3\n");
    let out_of_range = file("range.toml", "[batcher]\nmax_questions = 0\n");
    let empty = file("empty.toml", "");
    for (arguments, code, says) in [
        (vec!["serve", "--config", "/nowhere/larder.toml"], 1, "/nowhere/larder.toml: cannot be read"),
        (vec!["serve", "--config", &typo], 1, "expected one of `max_questions`"),
        (vec!["serve", "--config", &out_of_range], 1, "batcher.max_questions = 0: must be 1 to 4096"),
        (vec!["serve", "--config", &empty], 1, "declares no [[tenant]]"),
        (vec!["ask", "--addr", "127.0.0.1:1", "--tenant", "demo", "hello"], 1, "127.0.0.1:1"),
        (vec!["ingest", "load", "--config", &empty, "--tenant", "x", "--view", "y", "z.parquet"], 1, "x"),
        (vec!["serve", "--confg", "x"], 2, "--config"),
        (vec!["fly"], 2, "fly"),
    ] {
        let Ran { code: found, stderr: message, .. } = run(&arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?} does not say {says:?}: {message}");
        assert!(!message.contains("panicked") && !message.contains("backtrace"), "{arguments:?}: {message}");
    }
}

/// The commands that a help text lists, by the form of their lines.
fn listed(help: &str) -> Vec<String> {
    let command = |line: &str| {
        let (name, about) = line.strip_prefix("  ")?.split_once("  ")?;
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.starts_with('-');
        (plain && !name.is_empty() && !about.trim().is_empty()).then(|| name.to_owned())
    };
    help.lines().filter_map(command).filter(|name| name != "help").collect()
}

/// Wrong input of every command: the arguments, and what the error says.
const WRONG_INPUT: &[(&str, &str, &str)] = &[
    ("demo", "--models /dev/null/m", "cannot make /dev/null/m"),
    ("sample", "--out /dev/null/shop --users 1000", "/dev/null/shop"),
    ("ask", "--addr 127.0.0.1:1 hello", "no node answers at 127.0.0.1:1"),
    ("submit", "--addr 127.0.0.1:1 --user u hello", "no node answers at 127.0.0.1:1"),
    ("answer", "--addr 127.0.0.1:1 --user u 0fsyocqqIKZBbLFVV62XjO", "no node answers at 127.0.0.1:1"),
    (
        "feedback record",
        "--addr 127.0.0.1:1 --user u --answer 00000000000000000000000000000000 --helped yes",
        "no node answers at 127.0.0.1:1",
    ),
    ("feedback export", "--config /nowhere/larder.toml --tenant t", "cannot be read"),
    ("ingest build", "--config /nowhere/larder.toml --tenant t --view v --out o x.parquet", "cannot be read"),
    ("ingest publish", "--config /nowhere/larder.toml built", "cannot be read"),
    ("ingest load", "--config /nowhere/larder.toml --tenant t --view v x.parquet", "cannot be read"),
    ("ingest list", "--config /nowhere/larder.toml", "cannot be read"),
    ("ingest rollback", "--config /nowhere/larder.toml --tenant t --view v", "cannot be read"),
    ("ingest drop", "--config /nowhere/larder.toml --tenant t --view v --generation 1", "cannot be read"),
    ("place", "--config /nowhere/larder.toml --tenant t --view v", "cannot be read"),
    ("erase", "--config /nowhere/larder.toml --tenant t ada", "cannot be read"),
    ("compact", "--config /nowhere/larder.toml --erase", "cannot be read"),
    ("serve", "--config /nowhere/larder.toml", "cannot be read"),
    ("rows write", "--addr 127.0.0.1:1 --tenant t /nowhere/rows.jsonl", "cannot open /nowhere/rows.jsonl"),
    ("stream move", "--config /nowhere/larder.toml profiles --partition 0 --to 7", "cannot be read"),
    ("inspect", "--config /nowhere/larder.toml", "cannot be read"),
    ("verify", "--config /nowhere/larder.toml", "cannot be read"),
    ("backup", "--config /nowhere/larder.toml backups", "cannot be read"),
    ("restore", "--config /nowhere/larder.toml /nowhere/backups", "no finished backup"),
    ("warm", "--config /nowhere/larder.toml --tenant t keys.txt", "cannot be read"),
    ("load", "--addr 127.0.0.1:1 --tenant t --user-count 10 --rate 10 --duration 1s", "no node answers at 127.0.0.1:1"),
    ("plan", "--from /nowhere/capacity.json --forecast 100", "/nowhere/capacity.json"),
    ("chaos", "--config /nowhere/larder.toml --show", "cannot be read"),
    ("model get", "no-such-model", "no-such-model"),
    ("model train", "--config /nowhere/larder.toml --tenant t --questions q.jsonl", "cannot be read"),
    ("model publish", "--config /nowhere/larder.toml --tenant t", "cannot be read"),
    ("model eval", "--config /nowhere/larder.toml --tenant t --questions q.jsonl", "cannot be read"),
];

#[test]
fn every_command_tells_wrong_input_in_the_same_form() {
    let root = run(&["--help"]);
    assert_eq!(root.code, Some(0));
    assert!(
        root.stdout.contains("Running nodes (operators):") && root.stdout.contains("Exit codes: 0 done"),
        "{}",
        root.stdout
    );
    let mut leaves = Vec::new();
    for name in listed(&root.stdout) {
        let help = run(&[&name, "--help"]);
        assert_eq!(help.code, Some(0), "{name}");
        match help.stdout.split_once("\nCommands:\n") {
            Some((_, commands)) => leaves.extend(listed(commands).iter().map(|inner| format!("{name} {inner}"))),
            None => leaves.push(name),
        }
    }
    assert!(leaves.len() > 20, "{leaves:?}");
    for leaf in &leaves {
        let words: Vec<&str> = leaf.split(' ').collect();
        let help = run(&[&words[..], &["--help"]].concat());
        assert!(
            help.stdout.contains(&format!("Examples:\n  larder {leaf}"))
                || help.stdout.contains(&format!("\n  larder {leaf}")),
            "{leaf}"
        );
        let typo = run(&[&words[..], &["--no-such-option"]].concat());
        assert_eq!((typo.code, typo.stdout.as_str()), (Some(2), ""), "{leaf}");
        assert!(typo.stderr.starts_with("error: ") && typo.stderr.contains("--help"), "{leaf}: {}", typo.stderr);
        for text in [&help.stdout, &typo.stderr] {
            assert!(!text.contains('\u{1b}'), "{leaf} colours what no terminal shows");
        }
        if leaf == "completions" {
            // It takes one word of three, so that its wrong input is wrong usage.
            continue;
        }
        let known = WRONG_INPUT.iter().find(|(name, ..)| name == leaf);
        let (_, arguments, says) = known.unwrap_or_else(|| panic!("WRONG_INPUT has nothing for `larder {leaf}`"));
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let Ran { code, stdout, stderr } = run(&[&words[..], &arguments[..]].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{leaf}: {stderr}");
        assert!(stderr.contains(says), "{leaf} does not say {says:?}: {stderr}");
        let mut lines = stderr.lines().skip_while(|line| !line.starts_with("error: "));
        assert!(lines.next().is_some(), "{leaf}: {stderr}");
        assert!(lines.all(|line| line.starts_with("  because: ") || line.starts_with("  next: ")), "{leaf}: {stderr}");
        assert!(!stderr.contains('\u{1b}') && !stderr.contains("panicked"), "{leaf}: {stderr}");
    }
}

#[test]
fn a_typing_error_is_answered_with_what_was_meant() {
    for (arguments, meant) in
        [(vec!["ingset"], "ingest"), (vec!["ingest", "bild"], "build"), (vec!["serve", "--confg", "x"], "--config")]
    {
        let Ran { code, stderr, .. } = run(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains("similar") && stderr.contains(meant), "{arguments:?}: {stderr}");
    }
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let Ran { code, stdout, stderr } = run(&["completions", shell]);
        assert_eq!(code, Some(0), "{stderr}");
        for part in ["ingest", "rollback", "even-if-full", "completions"] {
            assert!(stdout.contains(part), "{shell}: no {part}");
        }
    }
    let bash = larder().args(["completions", "bash"]).output().unwrap().stdout;
    let mut check = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(&bash).unwrap();
    assert!(check.wait().unwrap().success(), "bash does not read it");
    let Ran { code, stderr, .. } = run(&["completions", "tcsh"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("bash, zsh, fish"), "{stderr}");
}

/// Not a test of its own: what `a_fault_is_told_in_one_line` runs in a process of its own.
#[test]
fn child_process() {
    if std::env::var_os("LARDER_TEST_FAULT").is_some() {
        larder::tell_of_panics();
        panic!("a fault\nin two lines");
    }
}

#[test]
fn a_fault_is_told_in_one_line_and_the_backtrace_to_those_who_ask() {
    let said = |backtrace: &str| {
        let mut command = child::command(module_path!());
        command.env("LARDER_TEST_FAULT", "1").env("RUST_BACKTRACE", backtrace).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = said("0");
    let lines: Vec<&str> = plain.lines().collect();
    let [line] = lines[..] else { panic!("{plain}") };
    assert!(
        line.starts_with("error: larder 0.")
            && line.contains("a fault of its own: a fault in two lines (tests/command_line.rs:"),
        "{line}"
    );
    assert!(line.contains("please report this line") && line.contains("RUST_BACKTRACE=1"), "{line}");
    assert!(said("1").contains("command_line::child_process"), "the backtrace");
}

/// A `larder serve` that does not outlive its test.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(shop: &Shop) -> Serving {
        shop.config();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
        let config = shop.path().join("serve.toml");
        std::fs::write(&config, toml.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)).unwrap();
        let mut command = larder();
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        Serving { child: command.spawn().unwrap(), address: format!("http://127.0.0.1:{port}") }
    }

    /// A connection to it, once it serves.
    async fn ready(&mut self) -> AnswersClient<Channel> {
        loop {
            assert!(self.child.try_wait().unwrap().is_none(), "the node ended before it served");
            if let Ok(channel) = Channel::from_shared(self.address.clone()).unwrap().connect().await {
                let client = AnswersClient::new(channel);
                let probe = ask(client.clone(), DEMO, "user-0", "where is my order?", Duration::from_secs(20)).await;
                if probe.is_ok() {
                    return client;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_with_nothing_lost_and_the_store_can_be_opened_again() {
    let shop = Shop::new(&[DEMO]);
    let mut serving = Serving::start(&shop);
    let client = serving.ready().await;

    // A second node on the same folder is refused and says why; the first goes on.
    let second = shop.path().join("second.toml");
    let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    std::fs::write(&second, toml).unwrap();
    let Ran { code, stderr: message, .. } = run(&["serve", "--config", &second.display().to_string()]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("only one process at a time may open a store"), "{message}");

    // Another shop whose config names the same address: nothing of it may end up in this node.
    let other = Shop::without_data(&[DEMO]);
    other.config();
    let toml = std::fs::read_to_string(other.path().join("larder.toml")).unwrap();
    let config = other.path().join("other.toml");
    let address = serving.address.trim_start_matches("http://");
    std::fs::write(&config, toml.replacen("127.0.0.1:0", address, 1)).unwrap();
    let generation = other.build(DEMO, "orders", 9).display().to_string();
    let Ran { code, stderr: message, .. } =
        run(&["ingest", "publish", &generation, "--config", &config.display().to_string()]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("serves the store") && message.contains("this config names"), "{message}");

    let mut tasks = JoinSet::new();
    for at in 0..100 {
        let client = client.clone();
        let user = at % USERS;
        tasks.spawn(async move {
            (user, ask(client, DEMO, &format!("user-{user}"), "where is my order?", Duration::from_secs(20)).await)
        });
    }
    let mut outcomes = vec![tasks.join_next().await.unwrap().unwrap()];
    serving.terminate();
    outcomes.extend(tasks.join_all().await);
    let mut answered = 0;
    for (user, outcome) in outcomes {
        match outcome {
            Ok(reply) => {
                assert_eq!(reply.intent, intent_of(user));
                answered += 1;
            }
            // Told that the node drains, or came after it had closed.
            Err(status) => assert!(
                status.code() == Code::Unavailable || reason(&status).0 == "draining",
                "a question was let in and lost: {status}"
            ),
        }
    }
    assert!(answered > 0);
    let status = serving.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "a drained node ends well");

    let mut again = Serving::start(&shop);
    again.ready().await;
    again.terminate();
    assert_eq!(again.child.wait().unwrap().code(), Some(0));
}
