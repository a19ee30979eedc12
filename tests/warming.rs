//! Promise: whoever is warmed is answered from RAM, the command says how many they are, and it does no harm: it is slow, it stops when the hot tier is
//! full or when it is told to, and a node that has keys to read before it is ready starts in time without them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::{self, ExportHotSetRequest, GetNodeStatusRequest, Tier};
use serde_json::Value;

use crate::support::command::{Ran, larder, run};
use crate::support::node::TestNode;
use crate::support::shop::{DEMO, Shop, USERS};

/// A node, and a larder.toml that names its address.
struct Warmed {
    shop: Shop,
    node: TestNode,
    config: PathBuf,
}

impl Warmed {
    async fn start(shop: Shop) -> Warmed {
        let node = TestNode::start(&shop).await;
        let config = shop.path().join("running.toml");
        let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
        std::fs::write(&config, toml.replacen("127.0.0.1:0", &node.node.address().to_string(), 1)).unwrap();
        Warmed { shop, node, config }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.shop.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["warm", "--tenant", "demo", "--config", self.config.to_str().unwrap()], arguments].concat()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let Ran { code, stdout, stderr } = run(&self.arguments(&[arguments, &["--json"]].concat()));
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    async fn tiers(&self, user: &str) -> Vec<Tier> {
        let reply = self.node.ask(DEMO, user, "where is my order?").await.unwrap();
        reply.views.iter().map(v1::ViewProvenance::tier).collect()
    }
}

/// `user-0` to `user-29`, one per line.
fn all_users() -> String {
    (0..USERS).map(|user| format!("user-{user}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_warmed_is_answered_from_memory() {
    let warmed = Warmed::start(Shop::new(&[DEMO])).await;
    let keys = warmed.file("keys.txt", &format!("{}nobody\n\n{}\n", all_users(), "x".repeat(300)));
    assert_eq!(warmed.tiers("user-1").await, [Tier::Warm; 2]);
    let said = warmed.json(&[&keys]);
    assert_eq!((&said["named"], &said["asked"], &said["unusable"]), (&31.into(), &31.into(), &1.into()), "{said}");
    assert_eq!((&said["found"], &said["already_hot"], &said["hot"]), (&30.into(), &1.into(), &31.into()), "{said}");
    assert_eq!((&said["coverage"], &said["stopped"], &said["service"]), (&1.0.into(), &Value::Null, &"answers".into()));
    let tier = &said["hot_tier"];
    assert!(tier["limit_bytes"] == 256 << 20 && tier["bytes"].as_u64().unwrap() > 1_000, "{said}");
    assert_eq!(warmed.tiers("user-29").await, [Tier::Hot; 2]);

    let Ran { code, stdout, stderr } = run(&warmed.arguments(&[&keys]));
    assert_eq!(code, Some(0), "{stderr}");
    let address = warmed.node.node.address();
    let says = format!(
        "Asked the node at {address} for 31 of 31 entities of demo: 30 found, 31 hot before.\nCoverage: 100.0 %"
    );
    assert!(stdout.starts_with(&says), "{stdout}");

    // What another node had hot, and the best customers of a table.
    let hot_set = warmed.shop.path().join("exported").display().to_string();
    let mut admin = AdminClient::new(warmed.node.channel.clone());
    admin.export_hot_set(ExportHotSetRequest { path: hot_set.clone() }).await.unwrap();
    let said = warmed.json(&[&hot_set]);
    assert_eq!(said["asked"].as_u64().unwrap(), said["already_hot"].as_u64().unwrap(), "{said}");
    assert!(said["found"].as_u64().unwrap() >= 30, "{said}");
    let csv = warmed.file("users.csv", "user_id,orders_90d\nuser-1,5\nuser-2,70\nuser-3,9\n");
    let said = warmed.json(&["--column", "user_id", "--top", "2", "--by", "orders_90d", "--rate", "0", &csv]);
    assert_eq!((&said["named"], &said["found"]), (&2.into(), &2.into()), "{said}");

    for (arguments, code, says) in [
        (vec!["--tenant", "nobody", &keys], 2, "cannot be used multiple times"),
        (vec!["--service", "none", &keys], 1, "service \"none\" is not declared"),
        (vec!["--top", "3", &csv], 2, "--by"),
        (vec!["--column", "name", &csv], 1, "no column \"name\"; it has user_id, orders_90d"),
        (vec!["/nowhere/keys.txt"], 1, "cannot read /nowhere/keys.txt"),
    ] {
        let Ran { code: found, stderr, .. } = run(&warmed.arguments(&arguments));
        assert_eq!(found, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?} does not say {says:?}: {stderr}");
    }
    warmed.node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_stops_when_the_hot_tier_is_full() {
    // Room for eight entities with both views.
    let warmed = Warmed::start(Shop::with(&[DEMO], "[store]\nhot_capacity_requests = 8\nhot_shards = 1")).await;
    let keys = warmed.file("keys.txt", &all_users());
    // Four in each call.
    let said = warmed.json(&["--rate", "40", &keys]);
    assert_eq!((&said["stopped"], &said["asked"]), (&"hot_tier_full".into(), &8.into()), "{said}");
    assert_eq!((&said["hot"], &said["coverage"]), (&8.into(), &1.0.into()), "{said}");
    let tier = &said["hot_tier"];
    assert_eq!(
        (&tier["entries"], &tier["limit_entries"], &tier["limit_bytes"]),
        (&16.into(), &16.into(), &Value::Null)
    );
    // What is there already pushes nothing out.
    let eight: String = (0..8).map(|user| format!("user-{user}\n")).collect();
    let said = warmed.json(&["--rate", "40", &warmed.file("eight.txt", &eight)]);
    assert_eq!((&said["stopped"], &said["already_hot"]), (&Value::Null, &8.into()), "{said}");
    let Ran { stdout, .. } = run(&warmed.arguments(&[
        "--rate",
        "40",
        &warmed.file("others.txt", "user-20\nuser-21\nuser-22\nuser-23\nuser-24\n"),
    ]));
    assert!(stdout.contains("Stopped: the hot tier is full") && stdout.contains("--even-if-full"), "{stdout}");
    let said = warmed.json(&["--rate", "0", "--even-if-full", &keys]);
    assert_eq!((&said["stopped"], &said["asked"]), (&Value::Null, &30.into()), "{said}");
    assert!(said["coverage"].as_f64().unwrap() < 0.3, "{said}");
    warmed.node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_it_with_what_was_done() {
    let warmed = Warmed::start(Shop::new(&[DEMO])).await;
    let keys = warmed.file("keys.txt", &all_users());
    let mut command: Command = larder();
    command.args(warmed.arguments(&["--rate", "1", "--json", &keys])).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut admin = AdminClient::new(warmed.node.channel.clone());
    // The next call is due a second after the first.
    while admin.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner().warm_hits == 0 {
        tokio::task::yield_now().await;
    }
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("stopped by Ctrl-C"), "{stderr}");
    let said: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&said["stopped"], &said["named"]), (&"interrupted".into(), &30.into()), "{said}");
    let asked = said["asked"].as_u64().unwrap();
    assert!((1..30).contains(&asked) && said["hot"] == said["asked"], "{said}");
    warmed.node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_keys_before_it_is_ready_but_not_for_long() {
    let lines =
        |keys: &str| format!("catalogue = \"catalogue.toml\"\nhead = \"head.safetensors\"\nwarm_keys = {keys:?}");
    let shop = Shop::new(&[DEMO]).with_tenant(DEMO, &lines("keys.txt"));
    let start_and_ask = async |shop: &Shop| {
        let node = TestNode::start(shop).await;
        let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
        node.node.drain().await.unwrap();
        std::fs::remove_file(shop.config().hot_set_file()).unwrap();
        reply.views.iter().map(v1::ViewProvenance::tier).collect::<Vec<_>>()
    };
    assert_eq!(start_and_ask(&shop).await, [Tier::Warm; 2], "an absent file costs its warmth");
    std::fs::write(shop.path().join("keys.txt"), all_users()).unwrap();
    assert_eq!(start_and_ask(&shop).await, [Tier::Hot; 2]);
    let shop = shop.with_node("warm_timeout_s = 0");
    assert_eq!(start_and_ask(&shop).await, [Tier::Warm; 2], "no time, no warmth");
}
