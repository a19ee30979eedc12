//! `larder load` tells the truth: every question that it offered is accounted for, in the report, in its JSON and on its page.

use std::sync::Arc;
use std::time::Duration;

use larder::load::{
    Arrivals, CapacitySearch, Ingredients, LoadPlan, Mix, Nodes, Offer, Profile, Question, Report, Shares, Stop,
    Totals, Trace, Users, find_capacity, run,
};

use crate::support::command;
use crate::support::node::TestNode;
use crate::support::shop::{DEMO, OTHER, Shop, USERS, intent_of};

/// On a busy machine a node falls behind by more than it may by default.
const PATIENT: &str = "[admission]\nmax_backlog_ms = 600000\n[rungs]\ncached = false";

/// Questions whose right answer depends on who asks, of every user.
fn questions() -> Vec<Question> {
    let question = |user| Question {
        text: "where is my order?".to_owned(),
        intent: Some(intent_of(user).to_owned()),
        user: Some(format!("user-{user}")),
        tenant: Some(DEMO.name.to_owned()),
    };
    (0..USERS).map(question).collect()
}

fn plan(node: &TestNode, offer: Offer, mix: Mix) -> LoadPlan {
    LoadPlan {
        nodes: Nodes::one(node.node.address().to_string()),
        connections: 3,
        threads: 2,
        max_in_flight: 1_000,
        deadline: Duration::from_secs(20),
        warm_up: Duration::ZERO,
        offer,
        mix: Arc::new(mix),
        seed: 7,
        first_question: 0,
        command: "a test".to_owned(),
    }
}

/// Runs a load beside the test's own runtime.
async fn load(plan: LoadPlan) -> Report {
    tokio::task::spawn_blocking(move || run(&plan, &Stop::default(), &mut |_| {}).unwrap()).await.unwrap()
}

fn assert_accounted_for(totals: &Totals) {
    let Totals { offered, answered, refused, expired, failed, not_sent, unfinished, .. } = *totals;
    assert_eq!(offered, answered + refused + expired + failed + not_sent + unfinished, "{totals:?}");
    assert_eq!(refused, totals.refused_by.values().sum::<u64>());
    assert_eq!(answered, totals.rungs.values().map(|rung| rung.answered).sum::<u64>());
}

fn steady(rate: f64, seconds: u64) -> Offer {
    Offer::Curve(Profile::constant(rate, Duration::from_secs(seconds)).unwrap(), Arrivals::Uniform)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_is_sent_answered_and_counted_by_class_tenant_and_second() {
    let node = TestNode::start(&Shop::with(&[DEMO, OTHER], PATIENT)).await;
    let classes = Some(Shares::parse(&["vip=0.3,normal=0.7".to_owned()]).unwrap());
    let mix = Mix::new(Ingredients { questions: questions(), classes, ..Ingredients::default() }, None, 7).unwrap();
    let report = load(plan(&node, steady(15.0, 2), mix)).await;
    assert_accounted_for(&report.totals);
    assert_eq!((report.totals.offered, report.totals.answered, report.totals.in_time), (30, 30, 30), "{report:?}");
    assert_eq!((report.totals.goodput, report.totals.labelled, report.totals.correct), (30, 30, 30));
    assert_eq!(report.classes.values().map(|class| class.offered).sum::<u64>(), 30);
    assert!(report.classes["vip"].offered > 2 && report.classes["normal"].offered > 10, "{report:?}");
    assert_eq!(report.tenants["demo"].answered, 30);
    assert_eq!(report.series.iter().map(|second| (second.offered, second.goodput)).collect::<Vec<_>>(), [(15, 15); 2]);
    assert!(report.totals.latency_ms.unwrap().p50 > 0.0 && report.generator.lag_ms.is_some());

    // Users and tenants of the load's own, refused by one tenant that the node does not know.
    let tenants = Some(Shares::parse(&["other=1".to_owned(), "stranger=1".to_owned()]).unwrap());
    let users = Some(Users::listed(vec!["user-1".to_owned()]).unwrap());
    let mix = Mix::new(Ingredients { tenants, users, ..Ingredients::default() }, None, 7).unwrap();
    let report = load(plan(&node, steady(20.0, 1), mix)).await;
    assert_accounted_for(&report.totals);
    let stranger = &report.tenants["stranger"];
    assert_eq!((stranger.answered, stranger.refused_by["unknown_tenant"]), (0, stranger.offered));
    assert_eq!(report.tenants["other"].answered, report.tenants["other"].offered);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_by_their_reasons_and_a_full_load_is_held_back_openly() {
    let shop = Shop::with(&[DEMO], "[admission]\nmax_questions = 1");
    let node = TestNode::start(&shop).await;
    let mix = || Mix::new(Ingredients { questions: questions(), ..Ingredients::default() }, None, 1).unwrap();
    // Fifty at one moment into a node that takes one.
    let at_once = || Offer::Trace(Arc::new(Trace::parse(&"{\"offset_ms\": 0}\n".repeat(50)).unwrap()));
    let report = load(plan(&node, at_once(), mix())).await;
    assert_accounted_for(&report.totals);
    assert_eq!(report.totals.offered, 50);
    assert!(report.totals.refused_by["queue_full"] > 10 && report.totals.answered > 0, "{:?}", report.totals);

    let narrow = LoadPlan { max_in_flight: 5, threads: 1, ..plan(&node, at_once(), mix()) };
    let report = load(narrow).await;
    assert_accounted_for(&report.totals);
    assert!(report.totals.not_sent > 0, "{:?}", report.totals);

    let stopped = Stop::default();
    stopped.ask();
    let plan = plan(&node, steady(10.0, 600), mix());
    let report = tokio::task::spawn_blocking(move || run(&plan, &stopped, &mut |_| {}).unwrap()).await.unwrap();
    assert!(report.interrupted && report.totals.offered == 0, "a load that is told to stop stops");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_ends_and_names_a_rate_that_was_tried() {
    let node = TestNode::start(&Shop::new(&[DEMO])).await;
    let mix = Mix::new(Ingredients { questions: questions(), ..Ingredients::default() }, None, 1).unwrap();
    // A deadline that nothing meets: the search goes down from 4 and finds nothing.
    let plan = LoadPlan { deadline: Duration::from_millis(1), ..plan(&node, steady(1.0, 1), mix) };
    let options = CapacitySearch { start_rate: 4.0, step: Duration::from_millis(500), ..CapacitySearch::default() };
    let search = move || find_capacity(&plan, &options, &Stop::default(), &mut |_| {}).unwrap();
    let report = tokio::task::spawn_blocking(search).await.unwrap();
    let capacity = report.capacity.unwrap();
    assert_eq!(capacity.qps, 0.0);
    // On a busy machine a step may be void, and is then made again.
    let mut rates: Vec<f64> = capacity.steps.iter().map(|step| step.rate).collect();
    rates.dedup();
    assert_eq!(rates, [4.0, 2.0, 1.0]);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_json_and_writes_a_page() {
    let node = TestNode::start(&Shop::with(&[DEMO], PATIENT)).await;
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("load.html").display().to_string();
    let address = node.node.address().to_string();
    let typed = move || {
        command::run(&[
            "load", "--addr", &address, "--tenant", "demo", "--steps", "10,20", "--step-duration", "1s", "--warm-up",
            "500ms", "--deadline-ms", "20000", "--json", "--report", &page, "--seed", "5", "--unique",
        ])
    };
    let ran = tokio::task::spawn_blocking(typed).await.unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.is_empty(), "nobody watches, so nothing is shown: {}", ran.stderr);
    let report: Report = serde_json::from_str(&ran.stdout).unwrap();
    assert_accounted_for(&report.totals);
    assert_eq!(report.totals.answered, report.totals.offered);
    assert_eq!(report.phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["10/s", "20/s"]);
    assert_eq!(report.phases.iter().map(|phase| phase.totals.offered).sum::<u64>(), report.totals.offered);
    assert!(report.command.starts_with("larder load --addr 127.0.0.1:"), "{}", report.command);
    let page = std::fs::read_to_string(folder.path().join("load.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("--steps 10,20") && !page.contains("<script"), "{page}");
    node.node.drain().await.unwrap();
}

#[test]
fn a_load_without_a_node_says_how_to_start_one() {
    let ran = command::run(&["load", "--addr", "127.0.0.1:1", "--rate", "5", "--duration", "1s"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("127.0.0.1:1") && ran.stderr.contains("larder serve"), "{}", ran.stderr);
}

#[test]
fn a_plan_is_made_from_a_forecast() {
    let ran = command::run(&["plan", "--capacity", "620", "--forecast", "12000", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((plan["nodes"].as_u64(), plan["holds"].as_f64()), (Some(30), Some(18_600.0)));
    let ran = command::run(&["plan", "--forecast", "12000"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--capacity") && ran.stderr.contains("--from"), "{}", ran.stderr);
}
