//! The promise of feedback: what a user says of an answer is kept with the features that the answer was made with, once, durably, and for as long
//! as the user is not erased; and a head that is trained with it answers better.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use larder_model::{Catalogue, CatalogueIndex, FeatureEncoder, FeedbackRecord, Head, OUT_OF_SCOPE};
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::answers_client::AnswersClient;
use larder_serve::v1::feedback_client::FeedbackClient;
use larder_serve::v1::rows_client::RowsClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{
    AnswerReply, AnswerRequest, CompactErasedRequest, EraseRequest, FeedbackOutcome, GiveFeedbackRequest,
    ReadFeedbackRequest, Row, Value, WriteRowsRequest,
};
use larder_serve::{Node, NodeConfig, erase_from_feedback, read_feedback};
use larder_store::{Store, TenantId};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::model_parity::encoder;
use crate::support::child::{self, Said, say};
use crate::support::command::{Ran, run};
use crate::support::node::{TestNode, identified, request};
use crate::support::shop::{DEMO, OTHER, Shop, TenantSpec, USERS, now_ms, training_questions};

/// Every answer is kept.
const ALL: &str = "[feedback]\nshare = 1.0";
const AMBIGUOUS: &str = "where is it?";

async fn give(
    node: &TestNode,
    (tenant, user): (TenantSpec, &str),
    answer_id: &str,
    helped: bool,
    right_intent: &str,
) -> Result<FeedbackOutcome, Status> {
    let message =
        GiveFeedbackRequest { answer_id: answer_id.to_owned(), helped, right_intent: right_intent.to_owned() };
    let request = identified(tenant, user, message);
    FeedbackClient::new(node.channel.clone()).give(request).await.map(|reply| reply.into_inner().outcome())
}

/// All feedback of a tenant, as the node tells it.
async fn records(node: &TestNode, tenant: TenantSpec) -> Vec<FeedbackRecord> {
    let (mut admin, mut cursor, mut found) = (AdminClient::new(node.channel.clone()), String::new(), Vec::new());
    loop {
        let request = ReadFeedbackRequest { tenant: tenant.name.to_owned(), cursor };
        let reply = admin.read_feedback(request).await.unwrap().into_inner();
        found.extend(reply.records.iter().map(|record| serde_json::from_str::<FeedbackRecord>(record).unwrap()));
        if reply.cursor.is_empty() {
            return found;
        }
        cursor = reply.cursor;
    }
}

async fn ask(node: &TestNode, user: &str, text: &str) -> AnswerReply {
    node.ask(DEMO, user, text).await.unwrap()
}

/// Another state of a user's only order, later than what the snapshot has.
async fn move_order(node: &TestNode, user: &str, order_id: &str, status: &str) {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let features = [("order_id".to_owned(), text(order_id)), ("status".to_owned(), text(status))].into();
    let row =
        Row { view: "orders".to_owned(), entity: user.to_owned(), event_time_ms: now_ms(), features, ..Row::default() };
    let message = WriteRowsRequest { sequence: 1, rows: vec![row] };
    let request = identified(DEMO, "", message);
    RowsClient::new(node.channel.clone()).write(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_learned_from_is_what_was_known_when_the_question_was_answered() {
    let shop = Shop::with(&[DEMO], ALL);
    let node = TestNode::start(&shop).await;
    let before = now_ms();
    let first = ask(&node, "user-1", AMBIGUOUS).await;
    assert_eq!((first.intent.as_str(), first.answer_id.len()), ("order_in_transit", 32));
    // The world goes on before anybody says anything.
    move_order(&node, "user-1", "D01-1", "delivered").await;
    let second = ask(&node, "user-1", AMBIGUOUS).await;
    assert_eq!(second.intent, "order_delivered");
    assert_ne!(first.answer_id, second.answer_id);
    let outcome = give(&node, (DEMO, "user-1"), &first.answer_id, true, "").await.unwrap();
    assert_eq!(outcome, FeedbackOutcome::Recorded);

    let found = records(&node, DEMO).await;
    let [record] = &found[..] else { panic!("{found:?}") };
    assert_eq!((record.answer_id.as_str(), record.helped), (first.answer_id.as_str(), true));
    let answer = &record.answer;
    assert_eq!((answer.tenant.as_str(), answer.user.as_str(), answer.text.as_str()), ("demo", "user-1", AMBIGUOUS));
    assert_eq!(answer.features, BTreeMap::from([("orders:status".to_owned(), Json::from("in_transit"))]));
    assert_eq!(record.intent.as_deref(), Some("order_in_transit"));
    assert!((before..=now_ms()).contains(&answer.asked_at_ms));
    // Whoever ranks it again from what was kept gets what the user got.
    let confidence = ranked_again(&shop, record);
    assert!((confidence - first.confidence).abs() < 1e-4, "{confidence} {}", first.confidence);
    let page = node.http_get("/metrics").await;
    for metric in [
        "larder_feedback_answers_total{outcome=\"kept\"} 2",
        "larder_feedback_given_total{outcome=\"recorded\"}",
        "larder_feedback_verdicts_total{rung=\"full\",verdict=\"helped\"}",
    ] {
        let name = metric.split(' ').next().unwrap();
        assert!(page.contains(name), "{name} is not on {page}");
    }
    node.node.drain().await.unwrap();
}

/// The confidence of the shop's head in a question, with the features that the record has.
fn ranked_again(shop: &Shop, record: &FeedbackRecord) -> f32 {
    let question: larder_model::LabelledQuestion =
        serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
    let catalogue = Catalogue::load(&shop.path().join("catalogue.toml")).unwrap();
    let service = shop.config().service("answers").unwrap().encoded_features();
    let features = FeatureEncoder::new(service).unwrap();
    let head = Head::load(&shop.path().join("head.safetensors"), &catalogue, encoder().name(), &features).unwrap();
    let index = CatalogueIndex::build(encoder(), &catalogue, &mut |_, _| {}).unwrap();
    let vectors = encoder().encode_texts(&[&question.text]).unwrap();
    let mut phi = vec![0.0; features.width()];
    question.encode_features(&features, &mut phi).unwrap();
    head.rank(&vectors, &index.best_cosines(&vectors).unwrap(), &phi).unwrap()[0].confidence
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_is_its_users_counts_once_and_survives_a_restart() {
    let shop = Shop::with(&[DEMO, OTHER], ALL);
    let node = TestNode::start(&shop).await;
    let id = ask(&node, "user-1", AMBIGUOUS).await.answer_id;
    let own = (DEMO, "user-1");
    for (who, answer, helped, right, code, says) in [
        ((DEMO, "user-2"), id.as_str(), true, "", Code::NotFound, "of this user"),
        ((OTHER, "user-1"), id.as_str(), true, "", Code::NotFound, "of this user"),
        (own, "00000000000000000000000000000000", true, "", Code::NotFound, "[feedback] share"),
        (own, "where is it?", true, "", Code::InvalidArgument, "32 hexadecimal digits"),
        (own, "", true, "", Code::InvalidArgument, "32 hexadecimal digits"),
        ((DEMO, ""), id.as_str(), true, "", Code::InvalidArgument, "x-larder-user"),
        (own, id.as_str(), false, "no_such_intent", Code::InvalidArgument, "\"no_such_intent\": must be an intent"),
        (own, id.as_str(), true, "gift_cards", Code::InvalidArgument, "was \"order_in_transit\""),
    ] {
        let status = give(&node, who, answer, helped, right).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{} does not say {says}", status.message());
    }
    assert!(records(&node, DEMO).await.is_empty(), "nothing wrong is kept");

    let said = async |node: &TestNode, helped, right| give(node, own, &id, helped, right).await.unwrap();
    assert_eq!(said(&node, true, "").await, FeedbackOutcome::Recorded);
    assert_eq!(said(&node, true, "").await, FeedbackOutcome::Repeated);
    assert_eq!(said(&node, false, OUT_OF_SCOPE).await, FeedbackOutcome::Changed);
    let unsaid = ask(&node, "user-1", "do you sell gift cards?").await.answer_id;
    node.node.drain().await.unwrap();

    let node = TestNode::start(&shop).await;
    assert_eq!(said(&node, false, OUT_OF_SCOPE).await, FeedbackOutcome::Repeated);
    assert_eq!(give(&node, own, &unsaid, false, "").await.unwrap(), FeedbackOutcome::Recorded, "it still waits");
    let mut found = records(&node, DEMO).await;
    found.sort_by_key(|record| record.intent.is_none());
    let labels: Vec<_> = found.iter().map(|record| (record.helped, record.intent.as_deref())).collect();
    assert_eq!(labels, [(false, Some(OUT_OF_SCOPE)), (false, None)]);
    assert!(records(&node, OTHER).await.is_empty());
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_nobody_wants_it_or_nobody_asks() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    assert_eq!(ask(&node, "user-1", AMBIGUOUS).await.answer_id, "", "[feedback] share is 0");
    node.node.drain().await.unwrap();
    let node = TestNode::start(&shop.with_extra(ALL)).await;
    let mut nobody = request(DEMO, "", AMBIGUOUS);
    nobody.metadata_mut().remove(larder_serve::USER_HEADER);
    assert_eq!(node.answers().answer(nobody).await.unwrap().into_inner().answer_id, "", "who could have it erased?");
    node.node.drain().await.unwrap();
}

/// Whether a text stands in any file below a folder.
fn stands_in_a_file(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in_a_file(&path, text);
        }
        fs::read(&path).unwrap_or_default().windows(text.len()).any(|bytes| bytes == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_erased_is_forgotten_with_all_that_was_kept() {
    // No compression shortens these, so that they would stand in a file as they are.
    const WORDS: [&str; 3] = ["q7Zx0vKpW2mTn9", "b4Hy8rLdQ6cGj1", "f3Ns5uVeX7aRk0"];
    let shop = Shop::with(&[DEMO], ALL);
    let node = TestNode::start(&shop).await;
    let mut answers = Vec::new();
    for (user, words) in ["user-1", "user-1", "user-2"].into_iter().zip(WORDS) {
        answers.push(ask(&node, user, &format!("where is my order? {words}")).await.answer_id);
    }
    // The first and the last have feedback, the second waits for it.
    for (user, answer) in [("user-1", &answers[0]), ("user-2", &answers[2])] {
        give(&node, (DEMO, user), answer, true, "").await.unwrap();
    }
    assert_eq!(records(&node, DEMO).await.len(), 2);

    let mut admin = AdminClient::new(node.channel.clone());
    let entities = vec!["user-1".to_owned()];
    admin.erase(EraseRequest { tenant: "demo".to_owned(), entities }).await.unwrap();
    let left = records(&node, DEMO).await;
    assert!(left.len() == 1 && left[0].answer.user == "user-2", "{left:?}");
    for answer in &answers[..2] {
        let status = give(&node, (DEMO, "user-1"), answer, true, "").await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    admin.compact_erased(CompactErasedRequest {}).await.unwrap();
    node.node.drain().await.unwrap();
    let found = WORDS.map(|words| stands_in_a_file(&shop.config().store.path, words));
    assert_eq!(found, [false, false, true], "of the other user it is all there");

    // The other one, while no node runs.
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    let tenant = TenantId(DEMO.id);
    assert_eq!(all_of(&store, &config).len(), 1);
    erase_from_feedback(&store, &config.feedback, tenant, &["user-2".to_owned()]).unwrap();
    assert!(all_of(&store, &config).is_empty());
}

/// Set for a child process: the folder of its shop.
const CHILD_FOLDER: &str = "LARDER_TEST_FEEDBACK_FOLDER";

/// Not a test of its own: the node that `what_was_acknowledged_survives_a_kill` kills.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let config = NodeConfig::load(&Path::new(&folder).join("larder.toml")).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut node = Node::bind(config).await.unwrap();
        node.warm().await.unwrap();
        say(&node.address().to_string());
        node.failed().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let shop = Shop::with(&[DEMO], ALL);
    let config = shop.config();
    let child = Said::start(child::command(module_path!()).env(CHILD_FOLDER, shop.path()));
    let channel = Channel::from_shared(format!("http://{}", child.next())).unwrap().connect().await.unwrap();
    let mut acknowledged = Vec::new();
    for number in 0..12 {
        let user = format!("user-{number}");
        let asked = identified(DEMO, &user, AnswerRequest { text: AMBIGUOUS.to_owned(), ..Default::default() });
        let reply = AnswersClient::new(channel.clone()).answer(asked).await.unwrap().into_inner();
        if number % 3 == 0 {
            // Nobody says anything of these.
            continue;
        }
        let answer_id = reply.answer_id;
        let message = GiveFeedbackRequest { answer_id: answer_id.clone(), helped: true, ..Default::default() };
        FeedbackClient::new(channel.clone()).give(identified(DEMO, &user, message)).await.unwrap();
        acknowledged.push(answer_id);
    }
    child.kill();
    let store = Store::open(&config.store, &config.views).unwrap();
    let mut kept: Vec<String> = all_of(&store, &config).into_iter().map(|record| record.answer_id).collect();
    kept.sort();
    acknowledged.sort();
    assert_eq!((kept.len(), kept), (8, acknowledged));
}

/// All feedback of the first tenant in the store of a node that does not run.
fn all_of(store: &Store, config: &NodeConfig) -> Vec<FeedbackRecord> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = read_feedback(store, &config.feedback, (TenantId(DEMO.id), DEMO.name), &cursor).unwrap();
        found.extend(page.records);
        match page.cursor {
            Some(next) => cursor = next,
            None => return found,
        }
    }
}

/// A command with the node's address in its config.
fn said(shop: &Shop, node: &TestNode, arguments: &[&str]) -> String {
    let toml = fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    let config = shop.path().join("operate.toml");
    fs::write(&config, toml.replacen("127.0.0.1:0", &node.node.address().to_string(), 1)).unwrap();
    let Ran { code, stdout, stderr } = run(&[arguments, &["--config", &config.display().to_string()]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    stdout
}

/// What customers of this shop began to ask, and nobody had taught it.
const NEW_PROBLEM: [&str; 8] = [
    "the app crashes as soon as I open it",
    "your app closes by itself on my phone",
    "the mobile app shows a white screen",
    "app keeps freezing after the update",
    "the app does not start any more",
    "an error pops up whenever I launch the app",
    "my phone app hangs at the logo",
    "the app on my tablet is broken",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_head_learns_from_what_was_corrected() {
    let shop = Shop::with(&[DEMO], ALL);
    let node = TestNode::start(&shop).await;
    const UNSEEN: &str = "the app crashes on my phone";
    let before = ask(&node, "user-3", UNSEEN).await;
    assert_ne!(before.intent, "reset_password", "there would be nothing to learn");

    // An agent goes through what came in, and the answers of somebody whom the node does not know are passed over.
    let mut judged = Vec::new();
    for (nth, text) in NEW_PROBLEM.iter().enumerate() {
        for user in [nth, nth + 9, nth + 18].map(|number| format!("user-{}", number % USERS)) {
            let answer_id = ask(&node, &user, text).await.answer_id;
            let line =
                json!({ "user": user, "answer_id": answer_id, "helped": false, "right_intent": "reset_password" });
            judged.push(line.to_string());
        }
    }
    let corrected = judged.len() as u64;
    judged.push(json!({ "user": "user-1", "answer_id": "0".repeat(32), "helped": true }).to_string());
    let path = |name: &str| shop.path().join(name).display().to_string();
    fs::write(path("judged.jsonl"), judged.join("\n")).unwrap();
    let address = node.node.address().to_string();
    for (recorded, repeated) in [(corrected, 0), (0, corrected)] {
        let from = path("judged.jsonl");
        let fixed = ["feedback", "record", "--addr", &address, "--tenant", "demo", "--from", &from, "--json"];
        let Ran { code, stdout, stderr } = run(&fixed);
        assert_eq!(code, Some(0), "{stderr}");
        let outcomes: Json = serde_json::from_str(&stdout).unwrap();
        let expected = json!({ "recorded": recorded, "repeated": repeated, "changed": 0, "unknown": 1 });
        assert_eq!(outcomes, expected, "the file may be read again");
    }
    let helped = ask(&node, "user-4", "do you sell gift cards?").await;
    assert_eq!(helped.intent, "gift_cards");
    let recorded = said_to_node(&node, "user-4", &helped.answer_id, &["--helped", "yes"]);
    assert_eq!(recorded.trim(), "Recorded.");
    let unknown = ask(&node, "user-5", "the shop should be greener").await;
    said_to_node(&node, "user-5", &unknown.answer_id, &["--helped", "no"]);

    let (questions, feedback) = (path("questions.jsonl"), path("feedback.jsonl"));
    let lines: Vec<String> = training_questions().iter().map(|line| serde_json::to_string(line).unwrap()).collect();
    fs::write(&questions, lines.join("\n")).unwrap();
    let exported = said(&shop, &node, &["feedback", "export", "--tenant", "demo", "--out", &feedback, "--json"]);
    let exported: Json = serde_json::from_str(&exported).unwrap();
    assert_eq!((&exported["records"], &exported["helped"]), (&Json::from(corrected + 2), &Json::from(1)));
    let streamed = said(&shop, &node, &["feedback", "export", "--tenant", "demo"]);
    assert_eq!(streamed, fs::read_to_string(&feedback).unwrap(), "stdout has the same lines");

    let train = ["model", "train", "--tenant", "demo", "--questions", &questions, "--json"];
    let without: Json = serde_json::from_str(&said(&shop, &node, &train)).unwrap();
    assert!(without.get("feedback").is_none());
    let with: Json =
        serde_json::from_str(&said(&shop, &node, &[&train[..], &["--feedback", &feedback]].concat())).unwrap();
    let counts = &with["feedback"];
    assert_eq!((&counts["corrected"], &counts["confirmed"]), (&Json::from(corrected), &Json::from(1)), "{counts}");
    assert_eq!(counts["without_intent"], 1, "{counts}");
    let learned = |report: &Json| report["questions"].as_u64().unwrap();
    assert_eq!(learned(&with), learned(&without) + corrected + 1);

    said(&shop, &node, &["model", "publish", "--tenant", "demo"]);
    let after = ask(&node, "user-3", UNSEEN).await;
    assert_eq!(after.intent, "reset_password", "{before:?} {after:?}");
    let still = ask(&node, "user-2", AMBIGUOUS).await;
    assert_eq!(still.intent, "order_delivered", "what it knew before it knows still");
    node.node.drain().await.unwrap();
}

/// `larder feedback record`, as it is typed.
fn said_to_node(node: &TestNode, user: &str, answer: &str, verdict: &[&str]) -> String {
    let address = node.node.address().to_string();
    let fixed = ["feedback", "record", "--addr", &address, "--tenant", "demo", "--user", user, "--answer", answer];
    let Ran { code, stdout, stderr } = run(&[&fixed[..], verdict].concat());
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}
