//! Promise: the Python programs of docs/python.md run as they stand there, and do what the page says.

use std::process::Command;

use crate::support::command::{Ran, run};
use crate::support::node::TestNode;
use crate::support::shop::{DEMO, Shop, intent_of, name, order_id};
use crate::support::{checkout, python, skip};

/// Names the stubs of the proto files that `make python` makes.
const STUBS: &str = "LARDER_PYTHON_STUBS";

/// The programs of the page by their headings.
fn programs() -> Vec<(String, String)> {
    let page = checkout().join("docs/python.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (mut programs, mut heading, mut program) = (Vec::new(), String::new(), None::<String>);
    for line in text.lines() {
        match (line, &mut program) {
            ("```", Some(_)) => programs.push((heading.clone(), program.take().unwrap())),
            (line, Some(program)) => program.push_str(&format!("{line}\n")),
            ("```python", None) => program = Some(String::new()),
            (line, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    heading = title.to_owned();
                }
            }
        }
    }
    programs
}

/// Runs a program of the page in the shop's folder, against the test's node and two of its users. None = there is no Python here.
async fn run_program(test: &str, heading: &str, shop: &Shop, node: &TestNode) -> Option<String> {
    let python = python(test)?;
    let Some(stubs) = std::env::var_os(STUBS) else {
        skip(test);
        return None;
    };
    let (_, program) = programs().into_iter().find(|(title, _)| title == heading).unwrap();
    let address = node.node.address().to_string();
    assert!(program.contains("127.0.0.1:7700") || !program.contains("grpc"), "{heading} calls another node");
    let program =
        program.replace("127.0.0.1:7700", &address).replace("u0000042", "user-7").replace("u0000007", "user-8");
    let mut command = Command::new(python);
    command.args(["-c", &program]).env("PYTHONPATH", stubs).current_dir(shop.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{heading}: {stderr}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_now_and_later() {
    const TEST: &str = "questions_are_asked_now_and_later";
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let Some(said) = run_program(TEST, "Ask a question", &shop, &node).await else { return };
    let order = order_id(DEMO, 7, 1);
    assert!(said.contains(&order) && said.contains(intent_of(7)) && said.contains("RUNG_FULL"), "{said}");
    let said = run_program(TEST, "Ask and come back later", &shop, &node).await.unwrap();
    assert!(said.starts_with("settled ") && said.contains(&order), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_is_given() {
    let shop = Shop::with(&[DEMO], "[feedback]\nshare = 1.0");
    let node = TestNode::start(&shop).await;
    let Some(said) = run_program("feedback_is_given", "Say whether an answer helped", &shop, &node).await else {
        return;
    };
    assert_eq!(said.trim(), format!("{} FEEDBACK_OUTCOME_RECORDED", intent_of(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_understood() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let Some(said) = run_program("a_refusal_is_understood", "When the node refuses", &shop, &node).await else {
        return;
    };
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains(&order_id(DEMO, 7, 1)), "{said}");
    assert!(lines[1].starts_with("INVALID_ARGUMENT invalid ") && lines[1].contains("text"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_features_go_over_flight() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let test = "rows_and_features_go_over_flight";
    let heading = "Write rows and read features with Arrow Flight";
    let Some(said) = run_program(test, heading, &shop, &node).await else { return };
    assert!(said.starts_with("{'batches': 1, 'rows': 1, 'late': 0"), "{said}");
    assert!(said.contains("Ada") && said.contains(&name(DEMO, 8, 1)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn features_come_as_frames_and_frames_become_a_snapshot() {
    const TEST: &str = "features_come_as_frames_and_frames_become_a_snapshot";
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let Some(said) = run_program(TEST, "Read features into pandas", &shop, &node).await else { return };
    let row = |entity: &str| {
        let rows: Vec<_> = said.lines().filter(|line| line.starts_with(entity)).collect();
        assert_eq!(rows.len(), 2, "{entity} has a row in each view: {said}");
        rows.concat()
    };
    for user in [7, 8] {
        let row = row(&format!("user-{user} "));
        assert!(row.contains(&name(DEMO, user, 1)) && row.contains(&order_id(DEMO, user, 1)), "{said}");
    }
    let nobody = row("nobody ");
    assert!(["None", "NaN"].iter().any(|missing| nobody.contains(missing)) && nobody.contains("[]"), "{said}");

    run_program(TEST, "Publish a snapshot from pandas", &shop, &node).await.unwrap();
    let path = |name: &str| shop.path().join(name).display().to_string();
    let (config, out, file) = (path("larder.toml"), path("built"), path("profile.parquet"));
    let build = ["ingest", "build", "--config", &config, "--tenant", "demo", "--view", "profile", "--out", &out, &file];
    let Ran { code, stdout, stderr } = run(&build);
    assert!(code == Some(0) && stdout.contains("2 entities"), "{stdout}{stderr}");

    run_program(TEST, "Publish only what has changed", &shop, &node).await.unwrap();
    let (out, changed, gone) = (path("delta"), path("changed.parquet"), path("gone.parquet"));
    let of = ["--config", &config, "--tenant", "demo", "--view", "profile", "--since", "2026-11-19T08:00:00Z"];
    let Ran { code, stdout, stderr } =
        run(&[&["ingest", "build"], &of[..], &["--out", &out, &changed, "--deletes", &gone]].concat());
    assert!(code == Some(0) && stdout.contains("1 rows and 1 deletions of 2 entities"), "{stdout}{stderr}");
}
