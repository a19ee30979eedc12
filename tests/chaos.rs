//! Promise: whatever fails on purpose, every question gets an answer or a refusal, what an answer can do without costs features and not answers,
//! and the node is well again when the faults are off.
//!
//! A node with faults was started for it; any other refuses them.

use std::future::Future;
use std::time::{Duration, Instant};

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::answers_client::AnswersClient;
use larder_serve::v1::{
    self, AnswerReply, Breaker, Chaos, GetChaosRequest, GetNodeStatusRequest, NodeStatus, PlaceRequest, Rung,
    SetChaosRequest,
};
use larder_serve::{ChaosConfig, Node};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::command::{Ran, run};
use crate::support::model_folder;
use crate::support::node::{TestNode, ask, reason};
use crate::support::shop::{DEMO, Shop, USERS, intent_of};

/// Long enough never to pass in a test that goes well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a connection on which it is told its faults.
struct Scenario {
    node: TestNode,
    admin: AdminClient<Channel>,
}

impl Scenario {
    async fn start(shop: &Shop) -> Scenario {
        let node = TestNode::start_allowing_chaos(shop).await;
        let admin = AdminClient::new(node.connect().await);
        Scenario { node, admin }
    }

    async fn set(&mut self, chaos: Chaos) {
        let reply = self.admin.set_chaos(SetChaosRequest { chaos: Some(chaos) }).await.unwrap().into_inner();
        assert_eq!((reply.allowed, reply.chaos), (true, Some(chaos)));
    }

    async fn off(&mut self) {
        self.set(Chaos::default()).await;
    }

    async fn status(&mut self) -> NodeStatus {
        self.admin.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner()
    }

    async fn cold_breaker(&mut self) -> Breaker {
        let breakers = self.status().await.breakers;
        breakers.into_iter().find(|breaker| breaker.dependency == "cold").expect("the cold tier has a breaker")
    }

    /// Every row of the shop in the cold tier.
    async fn place_cold(&mut self) {
        for view in ["profile", "orders"] {
            let (tenant, view) = (DEMO.name.to_owned(), view.to_owned());
            let request = PlaceRequest { tenant, view, cold_after_s: Some(0), active_path: String::new() };
            assert_eq!(self.admin.place(request).await.unwrap().into_inner().cold_entities, USERS as u64);
        }
    }

    async fn ask(&self) -> AnswerReply {
        self.node.ask(DEMO, "user-2", "where is my order?").await.unwrap()
    }

    async fn end(self) {
        self.node.node.drain().await.unwrap();
    }
}

/// Does something again and again until it gives a value.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < limit, "{what}: not after {PATIENCE:?}");
        tokio::task::yield_now().await;
    }
}

fn was_late(reply: &AnswerReply) -> bool {
    reply.notes.iter().any(|note| note.contains("did not arrive in time"))
}

/// A shop whose hot tier is off, so that every question needs the cold one, and whose breaker rests for a moment only.
fn cold_shop(store: &str) -> Shop {
    let settings = "[store]\nhot_capacity_mib = 0\ncold_breaker_open_ms = 300\ncold_breaker_max_open_ms = 300";
    Shop::with(&[DEMO], &format!("{settings}\n{store}"))
}

/// Asks until the breaker over the cold tier is open; every question is answered, without features.
async fn until_the_breaker_opens(scenario: &mut Scenario) -> Breaker {
    let limit = Instant::now() + PATIENCE;
    loop {
        let reply = scenario.ask().await;
        assert!(!reply.answer.is_empty(), "{reply:?}");
        let breaker = scenario.cold_breaker().await;
        if breaker.state == "open" {
            return breaker;
        }
        assert!(Instant::now() < limit, "{breaker:?}, {reply:?}");
    }
}

/// Asks until a question has its features again, and then the breaker is closed.
async fn until_features_are_back(scenario: &mut Scenario) {
    let limit = Instant::now() + PATIENCE;
    loop {
        let reply = scenario.ask().await;
        if !was_late(&reply) {
            assert_eq!(reply.intent, intent_of(2));
            break;
        }
        assert!(Instant::now() < limit, "{reply:?}");
        tokio::task::yield_now().await;
    }
    let breaker = scenario.cold_breaker().await;
    assert_eq!((breaker.state.as_str(), breaker.failures), ("closed", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_cold_tier_costs_features_until_it_is_well() {
    let mut scenario = Scenario::start(&cold_shop("cold_budget_ms = 30000")).await;
    scenario.place_cold().await;
    assert!(!was_late(&scenario.ask().await));
    scenario.set(Chaos { cold_error_rate: 1.0, ..Chaos::default() }).await;
    let reply = scenario.ask().await;
    assert!(was_late(&reply), "{reply:?}");
    assert!(reply.views.iter().all(|view| view.status() == v1::Status::NotInTime), "{:?}", reply.views);
    let breaker = until_the_breaker_opens(&mut scenario).await;
    assert!(breaker.failures >= 5 && breaker.retry_in_ms <= 330, "{breaker:?}");
    let warnings = scenario.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("cold_error_rate = 1")), "{warnings:?}");
    let node = &scenario.node;
    let page = until("the openings are counted", || async {
        let page = node.http_get("/metrics").await;
        page.contains("larder_breaker_openings_total{dependency=\"cold\"}").then_some(page)
    });
    assert!(page.await.contains("larder_chaos_injected_total{fault=\"cold_error\"}"));
    scenario.off().await;
    until_features_are_back(&mut scenario).await;
    assert!(scenario.status().await.warnings.is_empty());
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_tier_that_hangs_is_left_alone_until_it_answers() {
    let mut scenario = Scenario::start(&cold_shop("cold_timeout_ms = 100\ncold_budget_ms = 20")).await;
    scenario.place_cold().await;
    scenario.set(Chaos { cold_latency_ms: 3000, seed: 1, ..Chaos::default() }).await;
    until_the_breaker_opens(&mut scenario).await;
    scenario.off().await;
    until_features_are_back(&mut scenario).await;
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_makes_questions_late_and_loses_none() {
    const ASKED: usize = 60;
    let mut scenario = Scenario::start(&Shop::with(&[DEMO], "[batcher]\nmax_questions = 4")).await;
    scenario.set(Chaos { store_latency_ms: 400, seed: 3, ..Chaos::default() }).await;
    let mut tasks = JoinSet::new();
    for at in 0..ASKED {
        let client = scenario.node.answers();
        let deadline = Duration::from_millis(500);
        tasks.spawn(async move { ask(client, DEMO, &format!("user-{}", at % USERS), "where is it?", deadline).await });
    }
    let outcomes = tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("a question was lost");
    assert_eq!(outcomes.len(), ASKED);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        // Cancelled: the client's own clock was first.
        let late = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled];
        assert!(late.contains(&refused.code()), "{refused}");
    }
    assert!(outcomes.iter().any(Result::is_err), "none was late");
    scenario.off().await;
    let reply = scenario.ask().await;
    assert_eq!((reply.intent.as_str(), was_late(&reply)), (intent_of(2), false));
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_devices_fail_the_light_rung_answers() {
    // The same question again and again: its scores would be known.
    let shop = Shop::with(&[DEMO], "[rungs]\ncached = false").with_light(&model_folder("potion"));
    let mut scenario = Scenario::start(&shop).await;
    assert_eq!(scenario.ask().await.rung(), Rung::Full);
    scenario.set(Chaos { device_failure_rate: 1.0, ..Chaos::default() }).await;
    for _ in 0..3 {
        assert_eq!(scenario.ask().await.rung(), Rung::Light);
    }
    scenario.off().await;
    let node = &scenario.node;
    until("the full rung answers again", || async {
        let reply = node.ask(DEMO, "user-2", "where is my order?").await.unwrap();
        (reply.rung() == Rung::Full).then_some(())
    })
    .await;
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_a_dropped_connection_comes_back() {
    let mut scenario = Scenario::start(&Shop::with(&[DEMO], "[admission]\nmax_questions = 8")).await;
    scenario.set(Chaos { drop_connection_rate: 1.0, ..Chaos::default() }).await;
    for _ in 0..5 {
        let mut tasks = JoinSet::new();
        for at in 0..4 {
            let client = AnswersClient::new(scenario.node.connect().await);
            tasks.spawn(async move { ask(client, DEMO, &format!("user-{at}"), "where is my order?", PATIENCE).await });
        }
        let outcomes = tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("a client waits for ever");
        for outcome in outcomes {
            let status = outcome.expect_err("its connection was cut");
            // Nothing of the node's: a status with a reason would have come over the connection.
            assert_eq!(reason(&status).0, "", "{status:?}");
        }
    }
    scenario.off().await;
    // Twenty were given up; a queue of eight that kept their permits would be full for good.
    let node = &scenario.node;
    until("there is room again", || async { node.ask(DEMO, "user-2", "where is my order?").await.ok() }).await;
    assert_eq!(scenario.status().await.queued, 0);
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_waits_alone() {
    let mut scenario = Scenario::start(&Shop::with(&[DEMO], "[admission]\nmax_questions = 1")).await;
    scenario.set(Chaos { reply_latency_ms: 2000, ..Chaos::default() }).await;
    let client = scenario.node.answers();
    let began = Instant::now();
    let slow = tokio::spawn(async move { ask(client, DEMO, "user-0", "where is my order?", PATIENCE).await });
    let admin = scenario.admin.clone();
    until("the answer is made", || {
        let mut admin = admin.clone();
        async move {
            let status = admin.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner();
            (status.answered > 0).then_some(())
        }
    })
    .await;
    // Its reply is held back, and the only place is free for somebody else.
    assert_eq!(scenario.ask().await.intent, intent_of(2));
    assert_eq!(slow.await.unwrap().unwrap().intent, intent_of(0));
    assert!(began.elapsed() >= Duration::from_secs(2));
    scenario.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_started_for_it_refuses() {
    let shop = Shop::new(&[DEMO]);
    let mut config = shop.config();
    config.chaos = ChaosConfig { cold_latency_ms: 5, ..ChaosConfig::default() };
    let message = Node::bind(config).await.unwrap_err().to_string();
    assert!(message.contains("cold_latency_ms = 5") && message.contains("--allow-chaos"), "{message}");

    let node = TestNode::start(&shop).await;
    let mut admin = AdminClient::new(node.channel.clone());
    let wanted = Chaos { drop_connection_rate: 1.0, ..Chaos::default() };
    let refused = admin.set_chaos(SetChaosRequest { chaos: Some(wanted) }).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::FailedPrecondition, "not_allowed"));
    assert!(refused.message().contains("larder serve --allow-chaos"), "{refused}");
    let reply = admin.get_chaos(GetChaosRequest {}).await.unwrap().into_inner();
    assert_eq!((reply.allowed, reply.chaos), (false, Some(Chaos::default())));
    assert_eq!(node.ask(DEMO, "user-2", "where is my order?").await.unwrap().intent, intent_of(2));
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sets_shows_and_ends_it() {
    let shop = Shop::new(&[DEMO]);
    let mut scenario = Scenario::start(&shop).await;
    let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    let config = shop.path().join("running.toml");
    std::fs::write(&config, toml.replacen("127.0.0.1:0", &scenario.node.node.address().to_string(), 1)).unwrap();
    let larder = async |arguments: &[&str]| {
        let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend(["--config".to_owned(), config.display().to_string()]);
        let run = move || run(&all.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let Ran { code, stdout, stderr } = larder(&["chaos", "--set", "cold_latency_ms=1000", "--set", "seed=9"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("cold_latency_ms = 1000"), "{stdout}");
    let chaos = scenario.admin.get_chaos(GetChaosRequest {}).await.unwrap().into_inner().chaos;
    assert_eq!(chaos, Some(Chaos { cold_latency_ms: 1000, seed: 9, ..Chaos::default() }));
    let Ran { stdout, .. } = larder(&["chaos", "--show", "--json"]).await;
    assert!(stdout.contains("\"cold_latency_ms\": 1000") && stdout.contains("\"allowed\": true"), "{stdout}");
    let Ran { code, stderr, .. } = larder(&["chaos", "--set", "cold_error_rate=2"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cold_error_rate = 2: must be 0 to 1"), "{stderr}");
    let Ran { stdout, .. } = larder(&["chaos", "--off"]).await;
    assert!(stdout.contains("no faults on purpose"), "{stdout}");
    let Ran { code, .. } = larder(&["chaos"]).await;
    assert_eq!(code, Some(2), "what is to be done must be said");
    scenario.end().await;
}
