//! What does not fit is refused at once, with the reason and the time to come back, and what was let in is still answered.

use std::collections::HashSet;
use std::time::Duration;

use larder_serve::CLASS_HEADER;
use larder_serve::v1::AnswerRequest;
use larder_serve::v1::answer_stream_reply::Outcome;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::node::{TestNode, ask, identified, reason, request};
use crate::support::shop::{DEMO, OTHER, Shop, USERS};

const PLENTY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_answers_the_rest() {
    let shop = Shop::with(&[DEMO], "[admission]\nmax_questions = 3\n[rungs]\ncached = false");
    let node = TestNode::start(&shop).await;
    let mut tasks = JoinSet::new();
    for at in 0..100 {
        let client = node.answers();
        tasks.spawn(
            async move { ask(client, DEMO, &format!("user-{}", at % USERS), "where is my order?", PLENTY).await },
        );
    }
    let outcomes = tasks.join_all().await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(refused.len() < 100, "nobody was answered");
    assert!(!refused.is_empty(), "a hundred at once fitted into a queue of three");
    for status in refused {
        let (reason, retry_after) = reason(status);
        assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "queue_full"), "{status}");
        assert!(retry_after >= Some(Duration::from_millis(10)), "{retry_after:?}");
        assert!(status.message().contains("try again in"), "{status}");
    }
    let reply = node.ask(DEMO, "user-0", "where is my order?").await.unwrap();
    assert_eq!(reply.intent, "order_processing", "there is room again");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_would_come_too_late_is_refused_before_any_work() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let long = "where is my parcel and why does nobody tell me anything about it ".repeat(25);
    // 8 ms: no machine encodes 256 tokens in that time. On a slow one the request may be overtaken by its own deadline on
    // the way, so that the client gives up first; then it is asked again.
    let refused = async {
        loop {
            let status = ask(node.answers(), DEMO, "user-0", &long, Duration::from_millis(8)).await.unwrap_err();
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
            if reason(&status).0 == "predicted_late" {
                break status;
            }
        }
    };
    let status = tokio::time::timeout(PLENTY, refused).await.expect("never refused as predicted late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(reason(&status).1 >= Some(Duration::from_millis(10)), "{status}");
    let page = node.http_get("/metrics").await;
    assert!(page.contains("outcome=\"predicted_late\""), "the refusal is counted by its reason:\n{page}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_questions_give_their_room_back() {
    let shop = Shop::with(&[DEMO], "[admission]\nmax_questions = 8\n[rungs]\ncached = false");
    let node = TestNode::start(&shop).await;
    for _ in 0..10 {
        let mut tasks = JoinSet::new();
        for at in 0..8 {
            let client = node.answers();
            tasks.spawn(async move { ask(client, DEMO, &format!("user-{at}"), "where is my order?", PLENTY).await });
        }
        tasks.join_next().await;
        tasks.shutdown().await;
    }
    // Eighty were given up on the way; with a leak of one permit a round the queue of eight would be full for good.
    let answered = async {
        while node.ask(DEMO, "user-0", "where is my order?").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PLENTY, answered).await.expect("the queue is still full of cancelled questions");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_held_to_its_limit_and_ends_with_the_node() {
    const ASKED: usize = 30;
    let shop = Shop::with(&[DEMO], "[admission]\nmax_questions = 2");
    let node = TestNode::start(&shop.with_node("max_stream_in_flight = 2")).await;
    let (questions, receiver) = tokio::sync::mpsc::channel(ASKED);
    let request = identified(DEMO, "user-1", ReceiverStream::new(receiver));
    for at in 0..ASKED {
        let question = AnswerRequest { text: "where is my order?".to_owned(), request_id: at.to_string() };
        questions.send(question).await.unwrap();
    }
    let mut replies = node.answers().answer_stream(request).await.unwrap().into_inner();
    let mut answered = HashSet::new();
    while answered.len() < ASKED {
        // With more than two at once in a node that lets in two, some would be refused.
        match replies.next().await.unwrap().unwrap().outcome.unwrap() {
            Outcome::Reply(reply) => assert!(answered.insert(reply.request_id), "answered twice"),
            Outcome::Failure(failure) => panic!("{failure:?}"),
        }
    }
    // The client keeps its stream open; the node ends it, says why, and stops all the same.
    tokio::time::timeout(Duration::from_secs(4), node.node.drain())
        .await
        .expect("the drain waits for no client")
        .unwrap();
    let end = replies.next().await.unwrap().unwrap_err();
    assert_eq!((end.code(), reason(&end).0.as_str()), (Code::Unavailable, "draining"));
    assert!(replies.next().await.is_none());
    drop(questions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_asks_more_than_it_may_is_told_when_to_come_back_and_others_are_not() {
    let lines = "catalogue = \"catalogue.toml\"\nhead = \"head.safetensors\"\nmax_per_s = 1\nburst = 3";
    let shop = Shop::new(&[DEMO, OTHER]).with_tenant(DEMO, lines);
    let node = TestNode::start(&shop).await;
    let mut refused = 0;
    for _ in 0..5 {
        if let Err(status) = node.ask(DEMO, "user-1", "where is my order?").await {
            let (reason, retry_after) = reason(&status);
            assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "rate_limited"), "{status}");
            assert!(retry_after.is_some_and(|retry| retry <= Duration::from_secs(1)), "{retry_after:?}");
            refused += 1;
        }
        node.ask(OTHER, "user-1", "where is my order?").await.unwrap();
    }
    // A slow machine gives a token or two back meanwhile.
    assert!(refused >= 1, "five questions passed a bucket of three");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_sends_bulk_away_for_vips() {
    let shop = Shop::with(&[DEMO], "[admission]\nmax_questions = 6\n[batcher]\nmax_questions = 1");
    let node = TestNode::start(&shop).await;
    let mut bulk = JoinSet::new();
    for at in 0..60 {
        let mut client = node.answers();
        let mut request = request(DEMO, &format!("user-{}", at % USERS), "where is my order?");
        request.metadata_mut().insert(CLASS_HEADER, "bulk".parse().unwrap());
        bulk.spawn(async move { client.answer(request).await });
    }
    for _ in 0..12 {
        let mut request = request(DEMO, "user-1", "where is my order?");
        request.metadata_mut().insert(CLASS_HEADER, "vip".parse().unwrap());
        let reply = node.answers().answer(request).await;
        reply.expect("a VIP was refused while bulk was waiting");
    }
    let outcomes = bulk.join_all().await;
    assert!(outcomes.iter().any(Result::is_ok), "bulk starves");
    for status in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(["queue_full", "evicted"].contains(&reason(status).0.as_str()), "{status}");
        assert!(reason(status).1 >= Some(Duration::from_millis(10)), "{status}");
    }
    node.node.drain().await.unwrap();
}
