//! Promise: each kind of work has threads of its own, on the CPUs that larder.toml names for it, and what changes the store has a low priority.
//!
//! Linux tells of every thread of this process its name, its CPUs and its priority; nodes of other tests beside this one are not bound.

use std::fs;

use larder_serve::Node;

use crate::support::node::TestNode;
use crate::support::shop::{DEMO, Shop, intent_of};

/// A thread of this process.
#[derive(Debug)]
struct Thread {
    name: String,
    cpus: String,
    nice: i64,
}

fn threads() -> Vec<Thread> {
    let read = |task: fs::DirEntry| {
        // A thread may end while it is looked at.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
        // What follows the name, which may hold anything: state is the first, and priority and nice the 16th and 17th.
        let nice = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()?;
        Some(Thread { name: field("Name:")?, cpus: field("Cpus_allowed_list:")?, nice })
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(|task| read(task.unwrap())).collect()
}

/// The CPUs of this process, first and last.
fn first_and_last() -> (String, String) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let last = list.rsplit([',', '-']).next().unwrap();
    (number(list), number(last))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_thread_has_its_own_cpus() {
    let (first, last) = first_and_last();
    let settings =
        format!("[threads]\nfetch_cores = \"{first}\"\nscore_cores = \"{last}\"\ningest_cores = \"{first}\"");
    let node = TestNode::start(&Shop::with(&[DEMO], &settings)).await;
    let reply = node.ask(DEMO, "user-2", "where is my order?").await.unwrap();
    assert_eq!(reply.intent, intent_of(2));
    let threads = threads();
    for (name, cpus) in [
        ("larder-fetch", &first),
        ("larder-cold", &first),
        ("larder-score", &last),
        ("model-0", &last),
        ("larder-ingest", &first),
    ] {
        let bound = threads.iter().any(|thread| thread.name == name && thread.cpus == *cpus);
        assert!(bound, "no {name} on CPU {cpus}: {threads:?}");
    }
    let nice = |name: &str| threads.iter().filter(|thread| thread.name == name).map(|thread| thread.nice).max();
    assert!(nice("larder-ingest") > nice("larder-score"), "{threads:?}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cpus_that_cannot_be_used_refuse_the_start() {
    let mut config = Shop::without_data(&[DEMO]).config();
    config.threads.score_cores = "1023".to_owned();
    let message = Node::bind(config.clone()).await.unwrap_err().to_string();
    for part in ["threads.score_cores = \"1023\"", "CPU 1023 does not exist", "it may use "] {
        assert!(message.contains(part), "{message}");
    }
    config.threads.score_cores.clear();
    config.threads.numa_node = Some(4_000);
    let message = Node::bind(config).await.unwrap_err().to_string();
    assert!(message.contains("threads.numa_node = 4000"), "{message}");
}
