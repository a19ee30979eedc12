//! Promise: where nodes share the users, everybody agrees on whose a user is: the documented function in other languages, builds, nodes and clients. A
//! node answers for its own users only, and says whose another one is.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};

use larder::load::Report;
use larder_serve::SHARD_HEADER;
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::lane_client::LaneClient;
use larder_serve::v1::{self, EraseRequest, GetFeaturesRequest, GetNodeStatusRequest, SubmitRequest, WarmRequest};
use larder_store::{Manifest, Shard};
use parquet::arrow::ArrowWriter;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::command::{Ran, run};
use crate::support::node::{TestNode, identified, request};
use crate::support::shop::{DEMO, Shop, USERS, now_ms};
use crate::support::{Random, checkout};

/// The first lines of code of a language in a page of the documentation.
fn snippet(page: &str, language: &str) -> String {
    let text = std::fs::read_to_string(checkout().join("docs").join(page)).unwrap();
    let (_, from) = text.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_documented_python_agrees_on_random_keys() {
    let mut random = Random::new(7);
    let letters: Vec<char> = "abc-_:/+0123456789 éß用户😀\u{7f}".chars().collect();
    let mut keys: Vec<String> = (1..1_000).map(|user| format!("user-{user}")).collect();
    keys.extend((0..2_000).map(|_| (0..1 + random.below(30)).map(|_| letters[random.below(letters.len())]).collect()));
    let script = snippet("sharding.md", "python")
        + "\nimport sys\nfor line in sys.stdin.buffer.read().decode('utf-8').split('\\n'):\n    \
           print(' '.join(str(shard_of(line, n)) for n in (1, 2, 3, 4, 64, 4096)))\n";
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python3, which `make setup` asks for");
    child.stdin.take().unwrap().write_all(keys.join("\n").as_bytes()).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said.lines().count(), keys.len());
    for (key, said) in keys.iter().zip(said.lines()) {
        let ours = [1, 2, 3, 4, 64, 4096].map(|count| Shard::of(key, count).index().to_string());
        assert_eq!(said, ours.join(" "), "{key:?}");
    }
}

#[test]
fn the_documented_table_is_right() {
    let text = std::fs::read_to_string(checkout().join("docs/sharding.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut checked = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let key = cells[1].trim_matches('`');
        assert_eq!(
            (cells[3], cells[4]),
            (Shard::of(key, 4).to_string().as_str(), Shard::of(key, 4096).to_string().as_str())
        );
        checked += 1;
    }
    assert_eq!(checked, 6);
}

/// A Parquet file of all users' profiles.
fn profiles(folder: &Path) -> String {
    let path = folder.join("profile.parquet");
    let users: Vec<String> = (0..USERS).map(|user| format!("user-{user}")).collect();
    let times = TimestampMillisecondArray::from(vec![now_ms(); USERS]).with_timezone("UTC");
    let names: ArrayRef = Arc::new(StringArray::from(users));
    let columns: [(&str, ArrayRef); 3] = [("user_id", names.clone()), ("updated_at", Arc::new(times)), ("name", names)];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    path.display().to_string()
}

/// A shop's larder.toml with another shard.
fn config_of(shop: &Shop, shard: &str) -> String {
    shop.config();
    let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    let file = shop.path().join(format!("shard-{}.toml", shard.replace('/', "-of-")));
    std::fs::write(&file, toml.replacen("[node]\n", &format!("[node]\nshard = \"{shard}\"\n"), 1)).unwrap();
    file.display().to_string()
}

#[test]
fn a_build_keeps_its_own_rows_and_is_published_where_they_belong() {
    let shop = Shop::without_data(&[DEMO]);
    let parquet = profiles(shop.path());
    let mut entities = 0;
    for index in 0..4 {
        let shard = format!("{index}/4");
        let out = shop.path().join(format!("built-{index}"));
        let config = config_of(&shop, if index % 2 == 0 { "" } else { &shard });
        let out_text = out.display().to_string();
        let mut arguments =
            vec!["ingest", "build", "--json", "--config", &config, "--tenant", "demo", "--view", "profile"];
        // Of the odd ones the config says it.
        if index % 2 == 0 {
            arguments.extend(["--shard", &shard]);
        }
        let Ran { code, stdout, stderr } = run(&[&arguments[..], &["--out", &out_text, &parquet]].concat());
        assert_eq!(code, Some(0), "{stderr}");
        let built: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(built["shard"], shard.as_str());
        assert_eq!(built["rows"].as_u64().unwrap() + built["rows_elsewhere"].as_u64().unwrap(), USERS as u64);
        let manifest = Manifest::read(&out).unwrap();
        assert_eq!(manifest.shard.to_string(), shard);
        let own = (0..USERS).filter(|user| manifest.shard.holds(&format!("user-{user}"))).count();
        assert_eq!(manifest.entities, own as u64);
        entities += own;
    }
    assert_eq!(entities, USERS);

    let publish = |index: usize| {
        let dir = shop.path().join(format!("built-{index}")).display().to_string();
        run(&["ingest", "publish", &dir, "--config", &config_of(&shop, "1/4")])
    };
    let Ran { code, stderr, .. } = publish(0);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("was built for shard 0/4, and this store is shard 1/4"), "{stderr}");
    let Ran { code, stderr, .. } = publish(1);
    assert_eq!(code, Some(0), "{stderr}");
    // Whoever is not in it would be answered as unknown.
    let Ran { code, stderr, .. } = run(&["serve", "--config", &config_of(&shop, "2/4")]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("node.shard = \"2/4\": generation"), "{stderr}");
    let Ran { code, stderr, .. } =
        run(&["erase", "--tenant", "demo", "user-17", "user-1", "--config", &config_of(&shop, "1/4")]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("user-1 belongs to shard 0/4") && stderr.contains("nothing was erased"), "{stderr}");
}

/// A message, routed as a client with a table of its own would.
fn routed<T>(mut request: Request<T>, shard: &str) -> Request<T> {
    request.metadata_mut().insert(SHARD_HEADER, shard.parse().unwrap());
    request
}

/// Asserts that a call was refused for its shard, and returns what the details say.
fn wrong_shard<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (String, Vec<(String, String)>) {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "wrong_shard");
    let mut metadata: Vec<_> = info.metadata.into_iter().collect();
    metadata.sort();
    (status.message().to_owned(), metadata)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_for_its_own_users_and_names_the_shard_of_others() {
    let shop = Shop::new(&[DEMO]).with_node("shard = \"0/4\"");
    let node = TestNode::start(&shop).await;
    let name = |user: usize| format!("user-{user}");
    let own: Vec<String> = (0..USERS).map(name).filter(|user| Shard::of(user, 4).index() == 0).collect();
    let foreign = "user-17".to_owned();
    assert!(own.len() > 3 && Shard::of(&foreign, 4).index() == 1);

    let reply = node.ask(DEMO, &own[0], "where is my order?").await.unwrap();
    assert!(reply.notes.is_empty(), "{:?}", reply.notes);
    node.ask(DEMO, "", "When does your shop open?").await.unwrap();
    let (message, metadata) = wrong_shard(node.ask(DEMO, &foreign, "where is my order?").await);
    assert_eq!(message, "user-17 belongs to shard 1/4, this node is shard 0/4");
    let pairs =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    assert_eq!(metadata, pairs(&[("node_shard", "0/4"), ("shard", "1/4")]));

    let mut lane = LaneClient::new(node.channel.clone());
    let submit = || SubmitRequest { text: "where is it?".to_owned(), ..SubmitRequest::default() };
    lane.submit(identified(DEMO, &own[1], submit())).await.unwrap();
    wrong_shard(lane.submit(identified(DEMO, &foreign, submit())).await);

    let mut features = FeaturesClient::new(node.channel.clone());
    let read =
        |entities: Vec<String>| GetFeaturesRequest { service: "answers".to_owned(), entities, features: Vec::new() };
    // Who asks for features need not be a user of this node.
    let reply = features.get_features(identified(DEMO, &foreign, read(own.clone()))).await.unwrap().into_inner();
    assert!(reply.views[0].status.iter().all(|status| *status == i32::from(v1::Status::Present)));
    let mixed = vec![own[0].clone(), foreign.clone()];
    wrong_shard(features.get_features(identified(DEMO, "", read(mixed.clone()))).await);

    let mut admin = AdminClient::new(node.channel.clone());
    let warm = |entities| WarmRequest {
        tenant: "demo".to_owned(),
        service: "answers".to_owned(),
        entities,
        ..WarmRequest::default()
    };
    admin.warm(warm(own.clone())).await.unwrap();
    wrong_shard(admin.warm(warm(mixed.clone())).await);
    let erase = |entities| EraseRequest { tenant: "demo".to_owned(), entities };
    wrong_shard(admin.erase(erase(mixed)).await);
    let reply = node.ask(DEMO, &own[0], "where is my order?").await.unwrap();
    assert!(reply.notes.is_empty(), "nothing of a refused call was done: {:?}", reply.notes);

    // A table of another number of shards is noticed, whoever is asked for.
    let mut answers = node.answers();
    let question = || request(DEMO, &own[0], "where is my order?");
    answers.answer(routed(question(), "0/4")).await.unwrap();
    for stale in ["0/1", "0/2", "1/4", "0/8"] {
        let (message, metadata) = wrong_shard(answers.answer(routed(question(), stale)).await);
        let says = format!(
            "the call was sent to shard {stale} (x-larder-shard), this node is shard 0/4; read the routing table again"
        );
        assert_eq!(message, says);
        assert_eq!(metadata, pairs(&[("node_shard", "0/4"), ("routed_to", stale)]));
    }
    wrong_shard(features.get_features(routed(identified(DEMO, "", read(own.clone())), "0/2")).await);
    wrong_shard(admin.get_node_status(routed(Request::new(GetNodeStatusRequest {}), "0/2")).await);
    let status = admin.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.shard, "0/4");
    let metrics = node.http_get("/metrics").await;
    assert!(metrics.contains("larder_questions_total{class=\"normal\",outcome=\"wrong_shard\"} "), "{metrics}");

    // The command line finds the node of a user, and is told where it does not.
    let address = node.node.address().to_string();
    let ask = |nodes: &str, user: &str| {
        run(&["ask", "--shards", nodes, "--tenant", "demo", "--user", user, "where is my order?"])
    };
    let nodes = format!("{address},127.0.0.1:1,127.0.0.1:1,127.0.0.1:1");
    let Ran { code, stderr, .. } = ask(&nodes, &own[0]);
    assert_eq!(code, Some(0), "{stderr}");
    let Ran { code, stderr, .. } = ask(&format!("127.0.0.1:1,{address}"), "user-17");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the call was sent to shard 1/2 (x-larder-shard), this node is shard 0/4"), "{stderr}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_on_all_shards_puts_each_users_questions_to_the_right_node() {
    // On a busy machine a node falls behind by more than it may by default.
    let patient = "[admission]\nmax_backlog_ms = 600000";
    let shops = ["0/2", "1/2"].map(|shard| Shop::with(&[DEMO], patient).with_node(&format!("shard = \"{shard}\"")));
    let (first, second) = (TestNode::start(&shops[0]).await, TestNode::start(&shops[1]).await);
    let users = shops[0].path().join("users.txt");
    std::fs::write(&users, (0..USERS).map(|user| format!("user-{user}\n")).collect::<String>()).unwrap();
    let [a, b] = [&first, &second].map(|node| node.node.address().to_string());
    let load = async |nodes: String, named: bool| -> Report {
        let mut typed = vec!["load", "--tenant", "demo", "--rate", "20", "--duration", "2s", "--warm-up", "0s"];
        typed.extend(["--deadline-ms", "20000", "--seed", "5", "--json", "--shards"]);
        let mut typed: Vec<String> = typed.into_iter().map(str::to_owned).chain([nodes]).collect();
        if named {
            typed.extend(["--users".to_owned(), users.display().to_string()]);
        }
        let run = move || run(&typed.iter().map(String::as_str).collect::<Vec<_>>());
        let Ran { code, stdout, stderr } = tokio::task::spawn_blocking(run).await.unwrap();
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    for named in [true, false] {
        let report = load(format!("{a},{b}"), named).await;
        assert_eq!((report.totals.answered, report.totals.refused), (report.totals.offered, 0), "{report:?}");
        assert_eq!(report.shards.iter().map(|shard| shard.name.as_str()).collect::<Vec<_>>(), ["0/2", "1/2"]);
        assert!(report.shards.iter().all(|shard| shard.totals.answered > 5), "{report:?}");
        assert_eq!(report.shards.iter().map(|shard| shard.totals.offered).sum::<u64>(), report.totals.offered);
    }
    // Whoever confuses the nodes is told so by each of them.
    let report = load(format!("{b},{a}"), true).await;
    assert_eq!(report.totals.refused_by.get("wrong_shard"), Some(&report.totals.offered), "{report:?}");
    first.node.drain().await.unwrap();
    second.node.drain().await.unwrap();
}
