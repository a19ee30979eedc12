//! The way of a question: over real gRPC, through real RocksDB and the real model, to the right answer or a clear refusal.

use std::collections::HashMap;
use std::time::Duration;

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::answer_stream_reply::Outcome;
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{AnswerReply, AnswerRequest, GetFeaturesRequest, PublishRequest, RollbackRequest, Status, Tier};
use larder_serve::{CLASS_HEADER, Rung, TENANT_HEADER};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use crate::support::node::{TestNode, ask, identified, reason, request};
use crate::support::shop::{DEMO, Shop, USERS, intent_of, name, order_id};

const PLENTY: Duration = Duration::from_secs(20);
/// Every question goes through the encoder, however often it was asked.
const ANEW: &str = "[rungs]\ncached = false";

/// Asks the same words as many users at once and gives the replies in the users' order.
async fn ask_as_all(
    node: &TestNode,
    users: impl Iterator<Item = usize>,
    text: &'static str,
) -> Vec<(usize, AnswerReply)> {
    let mut tasks = JoinSet::new();
    for user in users {
        let client = node.answers();
        tasks.spawn(async move { (user, ask(client, DEMO, &format!("user-{user}"), text, PLENTY).await.unwrap()) });
    }
    let mut replies = tasks.join_all().await;
    replies.sort_by_key(|(user, _)| *user);
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_order_decides_what_ambiguous_words_mean() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let replies = ask_as_all(&node, 0..USERS, "where is my order?").await;
    for (user, reply) in &replies {
        assert_eq!(reply.intent, intent_of(*user), "user-{user}: {reply:?}");
        assert!(reply.answer.contains(&order_id(DEMO, *user, 1)), "user-{user} reads {:?}", reply.answer);
        assert!(reply.answer.contains(&name(DEMO, *user, 1)), "user-{user} reads {:?}", reply.answer);
        assert!(!reply.handed_over && reply.confidence > 0.5, "{reply:?}");
    }
    assert!(replies.iter().any(|(_, reply)| reply.batch.as_ref().unwrap().size > 1), "thirty at once make batches");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_words_decide_whatever_the_order_says() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    for user in ["user-0", "user-1", "user-2"] {
        let reply = node.ask(DEMO, user, "please help me, I do not remember my password").await.unwrap();
        assert_eq!(reply.intent, "reset_password", "{user}");
        let reply = node.ask(DEMO, user, "at what hour do you open in the morning?").await.unwrap();
        assert_eq!(
            (reply.intent.as_str(), reply.answer.as_str()),
            ("opening_hours", "We are open from nine to six."),
            "{user}"
        );
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_catalogue_does_not_cover_goes_to_a_person() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let reply = node.ask(DEMO, "user-0", "please compose a poem about mountains").await.unwrap();
    assert!(reply.handed_over, "{reply:?}");
    assert_eq!((reply.intent.as_str(), reply.answer.as_str()), ("", "A colleague will help."));
    assert!(!reply.candidates.is_empty(), "the person sees what came close");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_says_where_it_came_from() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut message = request(DEMO, "user-1", "where is my order?");
    message.get_mut().request_id = "q-17".to_owned();
    let first = node.answers().answer(message).await.unwrap().into_inner();
    // A thread of the store's own fills the hot tier, soon after the first reply.
    let second = loop {
        let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
        if reply.views.iter().all(|view| view.tier() != Tier::Warm) {
            break reply;
        }
    };
    assert_eq!(first.request_id, "q-17");
    for (reply, tier) in [(&first, Tier::Warm), (&second, Tier::Hot)] {
        let views: Vec<_> = reply.views.iter().map(|view| view.view.as_str()).collect();
        assert_eq!(views, ["profile", "orders"]);
        for view in &reply.views {
            assert_eq!((view.status(), view.tier(), view.generation), (Status::Present, tier, 1), "{}", view.view);
            assert!(view.age_ms >= 60_000, "{view:?}");
        }
        assert!(reply.notes.is_empty(), "{:?}", reply.notes);
        let batch = reply.batch.as_ref().unwrap();
        assert_eq!(batch.size, 1);
        assert!(["slot_free", "oldest_wait"].contains(&batch.closed_by.as_str()), "{}", batch.closed_by);
        let timings = reply.timings.as_ref().unwrap();
        assert!(timings.score_us > 0 && timings.total_us >= timings.score_us + timings.fetch_us, "{timings:?}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batched_equals_single() {
    const QUESTIONS: [&str; 6] = [
        "where is my order?",
        "I lost my password and would like to have a new one please",
        "gift vouchers?",
        "open on Sunday?",
        "a truck should have brought my parcel, did anybody sign for it or not",
        "tell me a story",
    ];
    let shop = Shop::with(&[DEMO], ANEW);
    let node = TestNode::start(&shop).await;
    let mut alone = Vec::new();
    for (user, text) in QUESTIONS.iter().enumerate() {
        alone.push(node.ask(DEMO, &format!("user-{user}"), text).await.unwrap());
    }
    let mut largest = 0;
    for _ in 0..5 {
        let mut together = JoinSet::new();
        for (user, text) in QUESTIONS.iter().enumerate() {
            let client = node.answers();
            together
                .spawn(async move { (user, ask(client, DEMO, &format!("user-{user}"), text, PLENTY).await.unwrap()) });
        }
        for (user, reply) in together.join_all().await {
            largest = largest.max(reply.batch.unwrap().size);
            assert_eq!((&reply.intent, &reply.answer), (&alone[user].intent, &alone[user].answer));
            let difference = (reply.confidence - alone[user].confidence).abs();
            assert!(difference < 1e-4, "{}: {} and {}", QUESTIONS[user], reply.confidence, alone[user].confidence);
        }
    }
    assert!(largest > 1, "none of the questions shared a batch");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_is_answered_without_features_and_told_so() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let reply = node.ask(DEMO, "nobody", "I forgot my password").await.unwrap();
    assert_eq!(reply.intent, "reset_password");
    assert_eq!(reply.answer, "Forgotten password: please sign in to see more.");
    assert_eq!(reply.notes, ["no features are known for this user; answered without features"]);
    assert!(reply.views.iter().all(|view| view.status() == Status::NotFound), "{:?}", reply.views);

    let reply = node.ask(DEMO, "", "do you sell gift cards").await.unwrap();
    assert_eq!(reply.intent, "gift_cards");
    assert_eq!(reply.notes, ["the call named no user; answered without features"]);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_a_clear_status() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let check = async |request: Request<AnswerRequest>, code: Code, says: &str| {
        let status = node.answers().answer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{:?} does not say {says:?}", status.message());
    };
    let asked = |text: &str| request(DEMO, "user-0", text);
    check(asked(""), Code::InvalidArgument, "text is empty").await;
    check(asked(" \n\t "), Code::InvalidArgument, "text is empty").await;
    check(asked(&"x".repeat(1 << 20)), Code::InvalidArgument, "text has 1048576 characters; at most 2000").await;
    check(asked(&"x".repeat(5 << 20)), Code::OutOfRange, "too large").await;

    let mut long_id = asked("where is my order?");
    long_id.get_mut().request_id = "x".repeat(129);
    check(long_id, Code::InvalidArgument, "request_id has 129 bytes; at most 128").await;

    let with = |key: &'static str, value: &str| {
        let mut request = asked("where is my order?");
        request.metadata_mut().insert(key, value.parse().unwrap());
        request
    };
    check(with(TENANT_HEADER, "nowhere"), Code::PermissionDenied, "tenant \"nowhere\" is not served").await;
    check(with(CLASS_HEADER, "royal"), Code::InvalidArgument, "must be vip, normal or bulk").await;
    check(with("x-larder-user", &"u".repeat(257)), Code::InvalidArgument, "at most 256").await;
    check(with("grpc-timeout", "soon"), Code::InvalidArgument, "grpc-timeout must be").await;
    // The client's own timer may be faster than the node's refusal.
    let status = node.answers().answer(with("grpc-timeout", "1n")).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    let mut nobody = asked("where is my order?");
    nobody.metadata_mut().remove(TENANT_HEADER);
    check(nobody, Code::PermissionDenied, "names no tenant").await;

    let reply = node.answers().answer(with("grpc-timeout", "99999999H")).await.unwrap().into_inner();
    assert_eq!(reply.notes, ["the deadline was cut to 30000 ms (node.max_deadline_ms)"]);
    assert_eq!(reply.intent, intent_of(0), "the node still answers");
    node.node.drain().await.unwrap();
}

/// AnswerRequest as somebody writes it who does not care for UTF-8.
#[derive(Clone, PartialEq, prost::Message)]
struct RawRequest {
    #[prost(bytes = "vec", tag = "1")]
    text: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_is_the_callers_mistake() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut client = tonic::client::Grpc::new(node.channel.clone());
    client.ready().await.unwrap();
    let request = identified(DEMO, "user-0", RawRequest { text: vec![b'h', 0xff, 0xfe] });
    let codec = tonic_prost::ProstCodec::<RawRequest, AnswerReply>::default();
    let path = "/larder.v1.Answers/Answer".parse().unwrap();
    let status = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("UTF-8"), "{status}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_each_question_and_survives_a_bad_one() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let texts = ["where is my order?", "", "how can I use a gift voucher"];
    let messages = texts
        .iter()
        .enumerate()
        .map(|(at, text)| AnswerRequest { text: (*text).to_owned(), request_id: at.to_string() });
    let request = identified(DEMO, "user-2", tokio_stream::iter(messages.collect::<Vec<_>>()));
    let mut replies = node.answers().answer_stream(request).await.unwrap().into_inner();
    let mut outcomes = HashMap::new();
    while let Some(reply) = replies.next().await {
        match reply.unwrap().outcome.unwrap() {
            Outcome::Reply(reply) => outcomes.insert(reply.request_id.clone(), reply.intent),
            Outcome::Failure(failure) => {
                outcomes.insert(failure.request_id, format!("{} {}", failure.code, failure.message))
            }
        };
    }
    assert_eq!(outcomes.len(), 3);
    assert_eq!(outcomes["0"], "order_delivered");
    assert!(outcomes["1"].starts_with("3 text is empty"), "{}", outcomes["1"]);
    assert_eq!(outcomes["2"], "gift_cards");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_read_for_many_entities_at_once() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut client = FeaturesClient::new(node.channel.clone());
    let ask = |features: &[&str], entities: Vec<String>| {
        let features = features.iter().map(|name| (*name).to_owned()).collect();
        identified(DEMO, "", GetFeaturesRequest { features, service: String::new(), entities })
    };
    let entities = ["user-4", "nobody", "user-4"].map(str::to_owned).to_vec();
    let reply = client.get_features(ask(&["orders:status", "profile:name"], entities)).await.unwrap().into_inner();
    let stats = reply.stats.unwrap();
    assert_eq!((stats.keys, stats.unique_keys, stats.not_found), (6, 4, 2));
    let orders = &reply.views[0];
    assert_eq!(orders.status, [Status::Present, Status::NotFound, Status::Present].map(i32::from));
    let Some(Kind::List(history)) = &orders.columns[0].values[2].kind else { panic!("a history is a list") };
    assert_eq!(history.values[0].kind, Some(Kind::StringValue("in_transit".to_owned())));
    assert_eq!(reply.views[1].columns[0].values[0].kind, Some(Kind::StringValue(name(DEMO, 4, 1))));
    assert_eq!(reply.views[1].columns[0].values[1].kind, None);

    for (features, entities, says) in [
        (&["orders"][..], vec!["user-1".to_owned()], "view:feature"),
        (&["orders:colour"], vec!["user-1".to_owned()], "colour"),
        (&["orders:status"], vec![], "entities is empty"),
        (&["orders:status"], vec![String::new(); 10_001], "10001 entities; at most 10000"),
    ] {
        let status = client.get_features(ask(features, entities)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(says), "{status}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_under_load_serves_no_mixture() {
    const SWAPS: u32 = 6;
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut askers = JoinSet::new();
    for asker in 0..4 {
        let (client, stopped) = (node.answers(), stopped.clone());
        askers.spawn(async move {
            let mut seen = 0;
            for user in (0..USERS).cycle().skip(asker * 7) {
                if *stopped.borrow() {
                    break;
                }
                let reply =
                    ask(client.clone(), DEMO, &format!("user-{user}"), "where is my order?", PLENTY).await.unwrap();
                assert_eq!(reply.intent, intent_of(user));
                let (profile, orders) = (&reply.views[0], &reply.views[1]);
                let expected = format!(
                    "{}, order {} ",
                    name(DEMO, user, profile.generation),
                    order_id(DEMO, user, orders.generation)
                );
                assert!(
                    reply.answer.starts_with(&expected),
                    "{} is not of one generation: {:?}",
                    reply.answer,
                    reply.views
                );
                seen = seen.max(orders.generation);
            }
            seen
        });
    }
    let mut admin = AdminClient::new(node.channel.clone());
    for generation in 2..2 + SWAPS {
        for view in ["orders", "profile"] {
            let path = shop.build(DEMO, view, generation).display().to_string();
            let published = admin.publish(PublishRequest { path }).await.unwrap().into_inner();
            assert_eq!((published.live_generation, published.previous_generation), (generation, generation - 1));
            assert_eq!(published.tenant, "demo");
        }
        if generation % 3 == 0 {
            let rollback = RollbackRequest { tenant: "demo".to_owned(), view: "orders".to_owned() };
            let back = admin.rollback(rollback.clone()).await.unwrap().into_inner();
            assert_eq!(back.live_generation, generation - 1);
            assert_eq!(admin.rollback(rollback).await.unwrap().into_inner().live_generation, generation);
        }
        // The next question after a publish sees it.
        let reply = node.ask(DEMO, "user-3", "where is my order?").await.unwrap();
        assert!(reply.answer.contains(&order_id(DEMO, 3, generation)), "{}", reply.answer);
    }
    stop.send(true).unwrap();
    assert!(askers.join_all().await.into_iter().max() >= Some(2), "the load saw the swaps");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_cannot_be_is_refused_and_nothing_changes() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut admin = AdminClient::new(node.channel.clone());
    for (path, says) in
        [("relative/folder", "must be absolute"), ("/nonexistent/generation", "/nonexistent/generation")]
    {
        let status = admin.publish(PublishRequest { path: path.to_owned() }).await.unwrap_err();
        assert!(status.message().contains(says), "{status}");
    }
    let reply = node.ask(DEMO, "user-3", "where is my order?").await.unwrap();
    assert!(reply.answer.contains(&order_id(DEMO, 3, 1)), "{}", reply.answer);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_loses_nothing_that_was_let_in() {
    // Room for all, so that a refusal can only come from the drain.
    let shop = Shop::with(&[DEMO], &format!("[admission]\nmax_backlog_ms = 600000\n{ANEW}"));
    let node = TestNode::start(&shop).await;
    let mut tasks = JoinSet::new();
    for at in 0..200 {
        let client = node.answers();
        tasks.spawn(
            async move { ask(client, DEMO, &format!("user-{}", at % USERS), "where is my order?", PLENTY).await },
        );
    }
    // Some are answered, so that the drain falls into the middle of the rest.
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(tasks.join_next().await.unwrap().unwrap());
    }
    node.node.drain().await.unwrap();
    outcomes.extend(tasks.join_all().await);
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(answered >= 5, "{answered} of 200 were answered");
    for status in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        // Told by the draining node, or by the transport where the listener had closed before the question left the client.
        let told = reason(status).0;
        assert!(status.code() == Code::Unavailable && (told == "draining" || told.is_empty()), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_read_costs_features_and_not_answers() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut damaged = 0;
    for file in std::fs::read_dir(shop.config().store.path).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "sst") {
            use std::io::{Seek, SeekFrom, Write};
            let mut file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            file.seek(SeekFrom::Start(16)).unwrap();
            file.write_all(&[0xa5; 64]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged >= 2, "both views have a file");
    let reply = node.ask(DEMO, "user-2", "I forgot my password").await.unwrap();
    assert_eq!((reply.intent.as_str(), reply.views.len()), ("reset_password", 0));
    assert_eq!(reply.notes, ["the feature store could not be read; answered without features"]);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_tell_what_the_node_is() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    let shop = Shop::new(&[DEMO]);
    let mut node = TestNode::bind(&shop).await;
    let mut health = HealthClient::new(node.channel.clone());
    let mut check = async |service: &str| {
        health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner().status()
    };
    assert_eq!(check("").await, ServingStatus::NotServing);
    let status = node.ask(DEMO, "user-0", "where is my order?").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).0.as_str()), (Code::Unavailable, "warming"));
    assert!(node.http_get("/readyz").await.starts_with("HTTP/1.1 503"));

    node.node.warm().await.unwrap();
    for service in
        ["", "larder.v1.Answers", "larder.v1.Features", "larder.v1.Lane", "larder.v1.Feedback", "larder.v1.Admin"]
    {
        assert_eq!(check(service).await, ServingStatus::Serving, "{service:?}");
    }
    assert!(node.http_get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(node.http_get("/healthz").await.starts_with("HTTP/1.1 200"));

    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(node.channel.clone());
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut replies = reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let services = format!("{:?}", replies.next().await.unwrap().unwrap());
    for service in [
        "larder.v1.Answers",
        "larder.v1.Features",
        "larder.v1.Lane",
        "larder.v1.Feedback",
        "larder.v1.Admin",
        "grpc.health.v1.Health",
    ] {
        assert!(services.contains(service), "{services}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_vectors_are_checked_and_made_anew_when_damaged() {
    let shop = Shop::new(&[DEMO]);
    let file = shop.config().vectors_file("demo", Rung::Full);
    let start_and_ask = async || {
        let node = TestNode::start(&shop).await;
        let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
        node.node.drain().await.unwrap();
        assert_eq!(reply.intent, "order_in_transit");
        std::fs::read(&file).unwrap()
    };
    // The header's entries are in no fixed order; the vectors behind it are.
    let vectors = |file: &[u8]| file[file.len() - 24 * 384 * size_of::<f32>()..].to_vec();
    let kept = start_and_ask().await;
    let mut damaged = kept.clone();
    *damaged.last_mut().unwrap() ^= 0x40;
    for content in [damaged, kept[..kept.len() / 2].to_vec(), Vec::new()] {
        std::fs::write(&file, content).unwrap();
        assert!(vectors(&start_and_ask().await) == vectors(&kept), "the file was not made anew");
    }
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    start_and_ask().await;
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "a good file is left alone");
}
