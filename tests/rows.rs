//! Promise: a batch of rows that was acknowledged is on disk and seen by the very next batch of questions, whole, whatever happens to the node; what
//! is wrong with a batch is told by row and column; and a client that sends more than it reads is made to wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::rows_client::RowsClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{GetFeaturesRequest, Row, Status as Standing, Value, WriteRowsReply, WriteRowsRequest};
use larder_serve::{Node, NodeConfig};
use larder_store::{EntityRef, FeatureRef, Status as ValueStatus, Store, TenantId};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::support::child::{self, Said, say};
use crate::support::command::{Ran, run};
use crate::support::node::{TestNode, identified, reason};
use crate::support::shop::{DEMO, OTHER, Shop, TenantSpec, name, now_ms};

/// Set for a child process: the shop's folder.
const FOLDER: &str = "LARDER_TEST_ROWS_FOLDER";

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn profile(user: &str, event_time_ms: i64, name: &str) -> Row {
    Row {
        view: "profile".to_owned(),
        entity: user.to_owned(),
        event_time_ms,
        features: [("name".to_owned(), text(name))].into(),
        delete: false,
    }
}

fn order(user: &str, event_time_ms: i64, order: &str, status: &str) -> Row {
    let features = [("order_id".to_owned(), text(order)), ("status".to_owned(), text(status))];
    Row { view: "orders".to_owned(), features: features.into(), ..profile(user, event_time_ms, "") }
}

fn request(sequence: u64, rows: Vec<Row>) -> WriteRowsRequest {
    WriteRowsRequest { sequence, rows }
}

async fn write(node: &TestNode, tenant: TenantSpec, rows: Vec<Row>) -> Result<WriteRowsReply, Status> {
    let mut client = RowsClient::new(node.channel.clone());
    client.write(identified(tenant, "", request(7, rows))).await.map(tonic::Response::into_inner)
}

/// Opens a stream of batches.
async fn stream(
    channel: Channel,
    tenant: TenantSpec,
) -> (mpsc::UnboundedSender<WriteRowsRequest>, Streaming<WriteRowsReply>) {
    let (batches, receiver) = mpsc::unbounded_channel();
    let request = identified(tenant, "", UnboundedReceiverStream::new(receiver));
    let replies = RowsClient::new(channel).write_stream(request).await.unwrap().into_inner();
    (batches, replies)
}

/// The name of a user as the very next fetch sees it.
async fn name_of(node: &TestNode, tenant: TenantSpec, user: &str) -> Option<String> {
    let message = GetFeaturesRequest {
        features: vec!["profile:name".to_owned()],
        service: String::new(),
        entities: vec![user.to_owned()],
    };
    let mut client = FeaturesClient::new(node.channel.clone());
    let mut reply = client.get_features(identified(tenant, "", message)).await.unwrap().into_inner();
    let view = reply.views.remove(0);
    assert!(view.status[0] == Standing::Present as i32 || view.columns[0].values[0].kind.is_none());
    match view.columns[0].values[0].kind.clone() {
        Some(Kind::StringValue(name)) => Some(name),
        _ => None,
    }
}

fn reply(sequence: u64, rows: u64, late: u64) -> WriteRowsReply {
    WriteRowsReply { sequence, rows, late, erased: 0, failure: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_next_batch_sees_what_was_written() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    // Asked before, so that the old row is hot.
    assert!(node.ask(DEMO, "user-0", "where is my order?").await.unwrap().answer.starts_with(&name(DEMO, 0, 1)));
    let written =
        write(&node, DEMO, vec![profile("user-0", now_ms(), "Ada"), order("user-0", now_ms(), "NEW", "delivered")]);
    assert_eq!(written.await.unwrap(), reply(7, 2, 0));
    let answer = node.ask(DEMO, "user-0", "where is my order?").await.unwrap().answer;
    assert_eq!(answer, "Ada, order NEW was delivered.");

    let (batches, mut replies) = stream(node.channel.clone(), DEMO).await;
    for round in 0..50 {
        let name = format!("Ada {round}");
        batches.send(request(round, vec![profile("user-0", now_ms(), &name)])).unwrap();
        assert_eq!(replies.next().await.unwrap().unwrap(), reply(round, 1, 0));
        assert_eq!(name_of(&node, DEMO, "user-0").await, Some(name));
    }
    // Of one stream the order is kept: of equal event times the last one stands, though all of them are under way at once.
    let time = now_ms() + 1;
    (0..500)
        .for_each(|round| batches.send(request(round, vec![profile("user-1", time, &format!("{round}"))])).unwrap());
    drop(batches);
    let replies: Vec<u64> = replies.map(|reply| reply.unwrap().sequence).collect().await;
    assert_eq!(replies, (0..500).collect::<Vec<_>>(), "in their order");
    assert_eq!(name_of(&node, DEMO, "user-1").await.as_deref(), Some("499"));
    let page = node.http_get("/metrics").await;
    for metric in [
        "larder_rows_total{outcome=\"stored\"}",
        "larder_rows_acknowledged_seconds_count",
        "larder_rows_waiting_batches",
    ] {
        assert!(page.contains(metric), "{metric} is not on {page}");
    }
    node.node.drain().await.unwrap();
}

/// A count of the freshness probe, of all nodes of this process.
async fn probes(node: &TestNode, outcome: &str) -> u64 {
    let page = node.http_get("/metrics").await;
    let line = format!("larder_rows_probes_total{{outcome=\"{outcome}\"}} ");
    page.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_itself_looks_how_soon_rows_are_seen() {
    // So that it looks more often than all other nodes of this process.
    let shop = Shop::new(&[DEMO]).with_extra("[rows]\nprobe_interval_ms = 1");
    let node = TestNode::start(&shop).await;
    let (before, began) = (probes(&node, "seen").await, Instant::now());
    let mut round = 0;
    while probes(&node, "seen").await < before + 100 {
        assert!(began.elapsed() < Duration::from_secs(60), "after {round} writes hardly any was looked for");
        round += 1;
        // Deletions are not looked for: nothing of them can be seen.
        let gone = Row { delete: true, features: Default::default(), ..profile("user-1", now_ms(), "") };
        write(&node, DEMO, vec![profile("user-0", now_ms(), "Ada"), gone]).await.unwrap();
    }
    let page = node.http_get("/metrics").await;
    for metric in ["larder_rows_freshness_seconds_count", "larder_rows_event_freshness_seconds_bucket{le=\"3600\"}"] {
        assert!(page.contains(metric), "{metric} is not on {page}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_may_come_in_any_order_and_late_ones_are_told() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let now_ms = now_ms();
    assert_eq!(write(&node, DEMO, vec![profile("user-0", now_ms, "new")]).await.unwrap(), reply(7, 1, 0));
    let late =
        vec![profile("user-0", now_ms - 1, "late"), profile("user-1", now_ms, "new"), profile("user-2", 1, "old")];
    assert_eq!(write(&node, DEMO, late).await.unwrap(), reply(7, 3, 2));
    assert_eq!(name_of(&node, DEMO, "user-0").await.as_deref(), Some("new"));
    assert_eq!(name_of(&node, DEMO, "user-2").await, Some(name(DEMO, 2, 1)), "the snapshot's");
    let gone = Row { delete: true, features: Default::default(), ..profile("user-0", now_ms + 1, "") };
    assert_eq!(write(&node, DEMO, vec![gone]).await.unwrap(), reply(7, 1, 0));
    assert_eq!(name_of(&node, DEMO, "user-0").await, None);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_written_whole_or_not_at_all_and_a_wrong_one_does_not_end_the_stream() {
    let shop = Shop::new(&[DEMO]).with_extra("[rows]\nmax_batch_rows = 3");
    let node = TestNode::start(&shop).await;
    let now_ms = now_ms();
    let good = |user: &str| profile(user, now_ms, "new");
    let mut strange = good("user-1");
    strange.features.insert("name".to_owned(), Value { kind: Some(Kind::IntValue(3)) });
    for (bad, says) in [
        (vec![good("user-0"), strange.clone()], "rows[1]: view profile, feature \"name\" (utf8): found an int_value"),
        (vec![good("user-0"), Row { view: "basket".to_owned(), ..good("user-1") }], "declared are profile, orders"),
        (vec![good("user-0"), Row { entity: "x".repeat(300), ..good("x") }], "300 bytes; 1 to 256"),
        // What only the store finds.
        (vec![good("user-0"), Row { event_time_ms: i64::MIN, ..good("user-1") }], "before the year 1"),
        (vec![good("user-0"); 4], "4 rows; a batch has at most 3 (rows.max_batch_rows)"),
        (Vec::new(), "rows is empty"),
    ] {
        let status = write(&node, DEMO, bad).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).0.as_str()), (Code::InvalidArgument, "invalid"));
        assert!(status.message().contains(says), "{status}");
        assert_eq!(name_of(&node, DEMO, "user-0").await, Some(name(DEMO, 0, 1)), "{says}");
    }
    let (batches, replies) = stream(node.channel.clone(), DEMO).await;
    batches.send(request(1, vec![good("user-0")])).unwrap();
    batches.send(request(2, vec![good("user-2"), strange])).unwrap();
    batches.send(request(3, vec![good("user-3"), Row { event_time_ms: i64::MIN, ..good("user-4") }])).unwrap();
    batches.send(request(4, vec![good("user-5")])).unwrap();
    drop(batches);
    let replies: Vec<_> = replies.map(Result::unwrap).collect().await;
    let codes: Vec<_> = replies.iter().map(|reply| reply.failure.as_ref().map(|failure| failure.code)).collect();
    let invalid = Some(Code::InvalidArgument as i32);
    assert_eq!(codes, [None, invalid, invalid, None]);
    for (user, is) in [(0, "new"), (2, &name(DEMO, 2, 1)), (3, &name(DEMO, 3, 1)), (5, "new")] {
        assert_eq!(name_of(&node, DEMO, &format!("user-{user}")).await.as_deref(), Some(is), "user-{user}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_belong_to_the_tenant_that_writes_them_and_only_those_write_who_may() {
    let shop = Shop::new(&[DEMO, OTHER])
        .with_tenant(OTHER, "catalogue = \"catalogue.toml\"\nhead = \"head.safetensors\"\nwrite_rows = false");
    let node = TestNode::start(&shop).await;
    write(&node, DEMO, vec![profile("user-0", now_ms(), "Ada")]).await.unwrap();
    assert_eq!(name_of(&node, DEMO, "user-0").await.as_deref(), Some("Ada"));
    assert_eq!(name_of(&node, OTHER, "user-0").await, Some(name(OTHER, 0, 1)), "the other tenant's is another");

    let refused = write(&node, OTHER, vec![profile("user-0", now_ms(), "Eve")]).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::FailedPrecondition, "not_allowed"));
    assert!(refused.message().contains("write_rows of tenant \"other\" = false"), "{refused}");
    let nobody = TenantSpec { name: "nobody", ..DEMO };
    let unknown = write(&node, nobody, vec![profile("user-0", now_ms(), "Eve")]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::PermissionDenied);
    let (_batches, receiver) = mpsc::channel(1);
    let streamed = identified(OTHER, "", ReceiverStream::new(receiver));
    let refused = RowsClient::new(node.channel.clone()).write_stream(streamed).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(name_of(&node, OTHER, "user-0").await, Some(name(OTHER, 0, 1)));
    node.node.drain().await.unwrap();

    let shop = Shop::new(&[DEMO]).with_extra("[rows]\nwrite = false");

    let node = TestNode::start(&shop).await;
    let refused = write(&node, DEMO, vec![profile("user-0", now_ms(), "Ada")]).await.unwrap_err();
    assert!(refused.message().contains("[rows] write = false"), "{refused}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_replies_is_made_to_wait() {
    const BATCHES: u64 = 3_000;
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", node.node.address())).unwrap();
    // Room for about a hundred replies on their way.
    let channel = endpoint.initial_stream_window_size(1_024).connect().await.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let long = "x".repeat(32 << 10);
    let counting = sent.clone();
    let batches = tokio_stream::iter(0..BATCHES).map(move |sequence| {
        counting.fetch_add(1, Ordering::SeqCst);
        request(sequence, vec![profile("user-0", now_ms(), &long)])
    });
    let replies = RowsClient::new(channel).write_stream(identified(DEMO, "", batches)).await.unwrap().into_inner();
    // Until nothing more is taken from the client, while others write 200 times.
    let (mut before, mut still) = (0, 0);
    while still < 200 {
        write(&node, DEMO, vec![profile("user-1", now_ms(), "Bob")]).await.unwrap();
        let now = sent.load(Ordering::SeqCst);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    assert!(before < BATCHES / 3, "{before} of {BATCHES} batches were taken from a client that reads nothing");
    let replies: Vec<u64> = replies.map(|reply| reply.unwrap().sequence).collect().await;
    assert_eq!(replies.len() as u64, BATCHES, "they go on when it reads");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_acknowledges_what_it_has_read_and_says_so() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let (batches, mut replies) = stream(node.connect().await, DEMO).await;
    for number in 0..200 {
        batches.send(request(number, vec![profile(&format!("new-{number}"), now_ms(), "x")])).unwrap();
    }
    assert_eq!(replies.next().await.unwrap().unwrap().sequence, 0);
    let draining = tokio::spawn(node.node.drain());
    let (mut acknowledged, mut refused) = (1, 0);
    let end = loop {
        match replies.next().await {
            Some(Ok(reply)) => {
                assert_eq!(reply.sequence, acknowledged + refused, "none is left out");
                // What was read when the node had just closed is refused.
                let written = reply.failure.is_none();
                assert!(!written || refused == 0, "batch {} was written after one that was not", reply.sequence);
                (acknowledged, refused) = if written { (acknowledged + 1, 0) } else { (acknowledged, refused + 1) };
            }
            Some(Err(status)) => break Some(status),
            None => break None,
        }
    };
    let end = end.expect("the client had not finished");
    assert_eq!((end.code(), reason(&end).0.as_str()), (Code::Unavailable, "draining"), "{end}");
    draining.await.unwrap().unwrap();
    let names = names_in(&shop, 200);
    assert!(names[..acknowledged as usize].iter().all(Option::is_some), "{acknowledged} were acknowledged");
}

/// Of the closed shop the names of the users new-0 to new-N.
fn names_in(shop: &Shop, users: usize) -> Vec<Option<String>> {
    use arrow::array::AsArray;
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    let plan = store.compile(&[FeatureRef::parse("profile:name").unwrap()]).unwrap();
    let users: Vec<String> = (0..users).map(|user| format!("new-{user}")).collect();
    let asked: Vec<_> = users.iter().map(|entity| EntityRef { tenant: TenantId(DEMO.id), entity }).collect();
    let fetched = store.fetch(&plan, &asked, now_ms()).unwrap();
    let view = &fetched.views[0];
    let name = |(row, status): (usize, &ValueStatus)| {
        (*status == ValueStatus::Present).then(|| view.columns[0].as_string::<i32>().value(row).to_owned())
    };
    view.status.iter().enumerate().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_json_lines_and_names_those_that_are_wrong() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let file = shop.path().join("rows.jsonl");
    let lines = [
        r#"{"entity": "user-0", "features": {"name": "Ada"}}"#,
        r#"{"view": "orders", "entity": "user-0", "features": {"order_id": "NEW", "status": "delivered"}}"#,
        r#"{"entity": "user-1", "features": {"name": 3}}"#,
        r#"{"entity": "user-2", "features": {"name": "Cleo"}}"#,
        r#"{"entity": "user-3""#,
        r#"{"entity": "user-4", "event_time_ms": 1, "features": {"name": "old"}}"#,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let address = node.node.address().to_string();
    let write = move |tenant: &'static str| {
        let (address, file) = (address.clone(), file.display().to_string());
        let arguments = ["rows", "write", "--tenant", tenant, "--view", "profile", "--batch", "3", "--json", "--addr"];
        tokio::task::spawn_blocking(move || run(&[&arguments[..], &[&address, &file]].concat()))
    };
    let Ran { code, stdout, stderr } = write("demo").await.unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    for says in
        ["line 3: view profile, feature \"name\" (utf8): found an int_value", "line 5: ", "2 lines were not written"]
    {
        assert!(stderr.contains(says), "{says:?} is not in {stderr}");
    }
    let summary: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    for (key, value) in [("rows", 4), ("late", 1), ("wrong", 2), ("erased", 0)] {
        assert_eq!(summary[key], value, "{key} of {summary}");
    }
    assert_eq!(node.ask(DEMO, "user-0", "where is my order?").await.unwrap().answer, "Ada, order NEW was delivered.");
    assert_eq!(name_of(&node, DEMO, "user-2").await.as_deref(), Some("Cleo"), "the rest of a batch is written");
    let Ran { code, stderr, .. } = write("nobody").await.unwrap();
    assert!(code == Some(1) && stderr.contains("tenant \"nobody\" is not served"), "{stderr}");
    node.node.drain().await.unwrap();
}

/// Not a test by itself: runs a node in a process of its own.
#[test]
fn child_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let config = NodeConfig::load(&Path::new(&folder).join("larder.toml")).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut node = Node::bind(config).await.unwrap();
        node.warm().await.unwrap();
        say(&format!("serving {}", node.address()));
        node.failed().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_rows_survive_kill_9() {
    const ROWS: u64 = 20;
    let shop = Shop::new(&[DEMO]);
    shop.config();
    let child = Said::start(child::command(module_path!()).env(FOLDER, shop.path()));
    let address = child.next().trim_start_matches("serving ").to_owned();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let (batches, mut replies) = stream(channel, DEMO).await;
    for number in 0..2_000 {
        let rows = (0..ROWS).map(|row| profile(&format!("new-{}", number * ROWS + row), now_ms(), "x")).collect();
        batches.send(request(number, rows)).unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < 100 {
        let reply = replies.next().await.unwrap().unwrap();
        assert_eq!((reply.sequence, reply.rows, reply.failure), (acknowledged, ROWS, None));
        acknowledged += 1;
    }
    child.kill();
    while let Some(Ok(reply)) = replies.next().await {
        acknowledged = reply.sequence + 1;
    }
    let there: Vec<bool> = names_in(&shop, 2_000 * ROWS as usize).iter().map(Option::is_some).collect();
    let batches: Vec<&[bool]> = there.chunks(ROWS as usize).collect();
    assert!(batches.iter().all(|batch| batch.iter().all(|row| *row == batch[0])), "a batch is there in part");
    let kept = batches.iter().take_while(|batch| batch[0]).count() as u64;
    assert!(kept >= acknowledged, "{acknowledged} batches were acknowledged and {kept} are there");
    assert!(batches[kept as usize..].iter().all(|batch| !batch[0]), "in their order");
}
