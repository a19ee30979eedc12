//! Promise: a question that was submitted is answered, once, whenever the node has time: after a restart, after kill -9, however often it is
//! submitted again; whoever waits for an answer comes first, and nobody but its user sees it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::get_answer_reply::State;
use larder_serve::v1::lane_client::LaneClient;
use larder_serve::v1::settled_question::Outcome;
use larder_serve::v1::{
    AnswerReply, CompactErasedRequest, EraseRequest, ForgetRequest, GetAnswerRequest, SettledQuestion, SubmitReply,
    SubmitRequest, WatchAnswersRequest,
};
use larder_serve::{Node, NodeConfig, erase_from_lane};
use larder_store::{LogConfig, Store, TenantId};
use prost::Message;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::child::{self, Said, say};
use crate::support::command::{Ran, run};
use crate::support::node::{TestNode, ask, identified, reason};
use crate::support::shop::{DEMO, OTHER, Shop, TenantSpec, USERS, intent_of, now_ms};

/// How long a test waits for what takes moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// Set for a child process: the shop's folder, and how many of the lane's questions may be in the node at once.
const FOLDER: &str = "LARDER_TEST_LANE_FOLDER";
const MAX_IN_FLIGHT: &str = "LARDER_TEST_LANE_IN_FLIGHT";
/// Keeps questions and answers none.
const STANDING: &str = "[lane]\nmax_in_flight = 0";

/// A user of the lane of a node.
#[derive(Clone)]
struct Caller {
    lane: LaneClient<Channel>,
    tenant: TenantSpec,
    user: String,
}

impl Caller {
    fn new(channel: &Channel, tenant: TenantSpec, user: usize) -> Caller {
        Caller { lane: LaneClient::new(channel.clone()), tenant, user: format!("user-{user}") }
    }

    async fn try_submit(&self, message: SubmitRequest) -> Result<SubmitReply, Status> {
        let request = identified(self.tenant, &self.user, message);
        self.lane.clone().submit(request).await.map(tonic::Response::into_inner)
    }

    async fn submit(&self, dedup_key: &str) -> SubmitReply {
        self.try_submit(question("where is my order?", dedup_key)).await.unwrap()
    }

    async fn state(&self, ticket: &str, wait: Duration) -> State {
        let message = GetAnswerRequest { ticket: ticket.to_owned(), wait_ms: wait.as_millis() as u32 };
        let request = identified(self.tenant, &self.user, message);
        self.lane.clone().get_answer(request).await.unwrap().into_inner().state.unwrap()
    }

    /// The outcome, once there is one.
    async fn settled(&self, ticket: &str) -> SettledQuestion {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.state(ticket, PATIENCE).await {
                State::Settled(settled) => return settled,
                State::Waiting(_) => assert!(Instant::now() < until, "{ticket} of {} is not settled", self.user),
                State::Unknown(_) => panic!("{ticket} of {} is unknown", self.user),
            }
        }
    }

    async fn answer(&self, ticket: &str) -> AnswerReply {
        match self.settled(ticket).await.outcome.unwrap() {
            Outcome::Reply(reply) => reply,
            Outcome::Failure(failure) => panic!("{failure:?}"),
        }
    }

    async fn watch(&self, after_ticket: &str) -> Streaming<SettledQuestion> {
        let message = WatchAnswersRequest { after_ticket: after_ticket.to_owned() };
        self.lane.clone().watch_answers(identified(self.tenant, &self.user, message)).await.unwrap().into_inner()
    }

    async fn forget(&self, tickets: &[&str]) -> u32 {
        let message = ForgetRequest { tickets: tickets.iter().map(|ticket| (*ticket).to_owned()).collect() };
        self.lane.clone().forget(identified(self.tenant, &self.user, message)).await.unwrap().into_inner().forgotten
    }

    async fn is_unknown(&self, ticket: &str) -> bool {
        matches!(self.state(ticket, Duration::ZERO).await, State::Unknown(_))
    }

    async fn waits(&self, ticket: &str) -> bool {
        matches!(self.state(ticket, Duration::ZERO).await, State::Waiting(_))
    }
}

fn question(text: &str, dedup_key: &str) -> SubmitRequest {
    SubmitRequest { text: text.to_owned(), dedup_key: dedup_key.to_owned(), answer_within_s: 0 }
}

/// The next answer that a stream brings.
async fn pushed(stream: &mut Streaming<SettledQuestion>) -> SettledQuestion {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("an answer is pushed").unwrap().unwrap()
}

/// The tickets in the answers log of a closed shop, of all users, each as often as it is there.
fn kept_answers(shop: &Shop, tenant: TenantSpec) -> Vec<String> {
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    let log = LogConfig {
        name: "lane_answers".to_owned(),
        id: 2,
        max_entries: 1_000,
        max_age_s: 604_800,
        max_entry_bytes: 1 << 20,
    };
    let log = store.log(log).unwrap();
    let tenant = TenantId(tenant.id);
    let users = log.keys(tenant, None, 1_000, now_ms()).unwrap();
    let records = users.iter().flat_map(|user| log.read(tenant, user, .., 1_000, now_ms()).unwrap());
    records.map(|record| SettledQuestion::decode(&record.payload[1..]).unwrap().ticket).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_waited_for_pushed_and_forgotten_by_its_user_only() {
    let shop = Shop::new(&[DEMO, OTHER]);
    let node = TestNode::start(&shop).await;
    let user = Caller::new(&node.channel, DEMO, 1);
    let mut stream = user.watch("").await;
    let first = user.submit("mail-1").await;
    assert!(first.ticket.len() == 22 && first.ticket.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{first:?}");
    assert!(!first.already_submitted);
    let settled = user.settled(&first.ticket).await;
    assert!(0 < settled.submitted_at_ms && settled.submitted_at_ms <= settled.settled_at_ms, "{settled:?}");
    let reply = user.answer(&first.ticket).await;
    assert_eq!((reply.request_id.as_str(), reply.intent.as_str()), ("mail-1", intent_of(1)));
    let live = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
    assert_eq!(reply.answer, live.answer, "as if it had been waited for");
    assert_eq!(pushed(&mut stream).await, settled);

    let second = user.submit("").await;
    assert_eq!(pushed(&mut stream).await.ticket, second.ticket);
    let [mut from_start, mut after_first, mut after_nobody] =
        [user.watch("").await, user.watch(&first.ticket).await, user.watch("never seen").await];
    assert_eq!(pushed(&mut from_start).await.ticket, first.ticket);
    assert_eq!(pushed(&mut from_start).await.ticket, second.ticket);
    assert_eq!(pushed(&mut after_first).await.ticket, second.ticket);
    assert_eq!(pushed(&mut after_nobody).await.ticket, first.ticket);

    // Nobody else.
    for stranger in [Caller::new(&node.channel, DEMO, 2), Caller::new(&node.channel, OTHER, 1)] {
        assert!(stranger.is_unknown(&first.ticket).await);
        assert_eq!(stranger.forget(&[&first.ticket]).await, 0);
        assert_ne!(stranger.submit("mail-1").await.ticket, first.ticket, "the same key is another question");
        let mut stream = stranger.watch("").await;
        assert_eq!(pushed(&mut stream).await.ticket, stranger.submit("mail-1").await.ticket);
    }
    for garbage in ["", "x", "zzzzzzzzzzzzzzzzzzzzzz", "../../../../etc/passwd", "0000000000000000000000"] {
        assert!(user.is_unknown(garbage).await, "{garbage}");
    }

    assert_eq!(user.forget(&[&first.ticket, "nothing", &first.ticket]).await, 1);
    assert!(user.is_unknown(&first.ticket).await);
    let mut stream = user.watch("").await;
    assert_eq!(pushed(&mut stream).await.ticket, second.ticket);
    assert!(!user.submit("mail-1").await.already_submitted, "what was forgotten may be asked again");
    let again = pushed(&mut stream).await;
    assert_eq!((&again.ticket, again.settled_at_ms > settled.settled_at_ms), (&first.ticket, true));

    let page = node.http_get("/metrics").await;
    for figure in [
        "larder_lane_submissions_total{outcome=\"accepted\"}",
        "larder_lane_submit_seconds_count",
        "larder_lane_settled_total{outcome=\"answered\"}",
        "larder_lane_waiting_questions",
        "larder_lane_in_flight_questions",
        "larder_lane_oldest_seconds",
    ] {
        assert!(page.contains(figure), "{figure} is not on {page}");
    }
    node.node.drain().await.unwrap();
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!((end.code(), reason(&end).0.as_str()), (Code::Unavailable, "draining"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_is_answered_once_before_and_after_its_answer_and_a_restart() {
    let shop = Shop::with(&[DEMO], STANDING);
    let node = TestNode::start(&shop).await;
    let user = Caller::new(&node.channel, DEMO, 4);
    // A dozen calls at once, as a nervous client sends them.
    let mut tasks = JoinSet::new();
    for _ in 0..12 {
        let user = user.clone();
        tasks.spawn(async move { user.submit("order-7").await });
    }
    let replies = tasks.join_all().await;
    let ticket = replies[0].ticket.clone();
    assert!(replies.iter().all(|reply| reply.ticket == ticket && reply.waiting == 1), "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| !reply.already_submitted).count(), 1, "{replies:?}");
    let other = user.submit("order-8").await;
    assert_eq!((other.ticket != ticket, other.waiting), (true, 2));
    assert_eq!(user.forget(&[&other.ticket]).await, 1, "it is withdrawn");
    assert!(user.is_unknown(&other.ticket).await && user.waits(&ticket).await);
    node.node.drain().await.unwrap();

    let answering = shop.with_extra("");
    for start in 0..2 {
        let node = TestNode::start(&answering).await;
        let user = Caller::new(&node.channel, DEMO, 4);
        let again = user.submit("order-7").await;
        assert_eq!((&again.ticket, again.already_submitted), (&ticket, true), "start {start}");
        assert_eq!(user.answer(&ticket).await.intent, intent_of(4));
        let again = user.submit("order-7").await;
        assert_eq!((&again.ticket, again.already_submitted, again.waiting), (&ticket, true, 0), "start {start}");
        node.node.drain().await.unwrap();
        assert_eq!(kept_answers(&answering, DEMO), [ticket.as_str()], "start {start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_and_wrong_questions_are_refused_in_words() {
    let lane = "[lane]\nmax_in_flight = 0\nmax_waiting = 3\nmax_waiting_per_tenant = 2\nmax_wait_s = 3600";
    let shop = Shop::with(&[DEMO, OTHER], lane);
    let node = TestNode::start(&shop).await;
    let (user, stranger) = (Caller::new(&node.channel, DEMO, 1), Caller::new(&node.channel, OTHER, 1));
    let first = user.submit("").await;
    user.submit("known").await;
    let refused = async |caller: &Caller| {
        let status = caller.try_submit(question("where is it?", "")).await.unwrap_err();
        let hint = reason(&status);
        assert_eq!((status.code(), hint.0.as_str()), (Code::ResourceExhausted, "lane_full"), "{status}");
        assert!(hint.1 >= Some(Duration::from_millis(100)), "{hint:?}");
        status.message().to_owned()
    };
    assert!(refused(&user).await.contains("of this tenant"));
    assert!(user.submit("known").await.already_submitted, "a known question needs no room");
    stranger.submit("").await;
    assert!(!refused(&stranger).await.contains("of this tenant"));
    assert!(user.waits(&first.ticket).await, "nothing that was taken is dropped");
    assert_eq!(user.forget(&[&first.ticket]).await, 1);
    user.submit("").await;

    let long = "x".repeat(2_001);
    for (message, says) in [
        (question("", ""), "text is empty"),
        (question(&long, ""), "text has 2001 characters; at most 2000"),
        (question("hello", &"k".repeat(129)), "dedup_key has 129 bytes; at most 128"),
        (
            SubmitRequest { answer_within_s: 3_601, ..question("hello", "") },
            "at most 3600 is allowed (lane.max_wait_s)",
        ),
    ] {
        let status = user.try_submit(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{status}");
    }
    let nobody = Caller { user: String::new(), ..user.clone() };
    let status = nobody.try_submit(question("hello", "")).await.unwrap_err();
    assert!(status.message().contains("the call names no user: set x-larder-user"), "{status}");
    let tickets = vec![String::new(); 1_001];
    let status = user.lane.clone().forget(identified(DEMO, "user-1", ForgetRequest { tickets })).await.unwrap_err();
    assert!(status.message().contains("1001 tickets; at most 1000"), "{status}");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_waits_too_long_or_cannot_be_answered_fails_and_says_so() {
    let shop = Shop::with(&[DEMO], STANDING);
    let node = TestNode::start(&shop).await;
    let user = Caller::new(&node.channel, DEMO, 1);
    let message = SubmitRequest { answer_within_s: 1, ..question("where is it?", "urgent") };
    let urgent = user.try_submit(message).await.unwrap().ticket;
    let patient = user.submit("patient").await.ticket;
    let Some(Outcome::Failure(failure)) = user.settled(&urgent).await.outcome else { panic!("it was answered") };
    assert_eq!((failure.code, failure.request_id.as_str()), (Code::DeadlineExceeded as i32, "urgent"));
    assert!(user.waits(&patient).await);
    assert_eq!(user.watch("").await.next().await.unwrap().unwrap().ticket, urgent);
    node.node.drain().await.unwrap();
    // By then the node takes shorter texts only; what it had taken is answered all the same.
    let shop = shop.with_extra("").with_node("max_text_chars = 3");
    let node = TestNode::start(&shop).await;
    let user = Caller::new(&node.channel, DEMO, 1);
    assert_eq!(user.answer(&patient).await.request_id, "patient");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_in_the_node_and_keeps_what_waits() {
    // Slow on purpose, so that most of it waits when the node stops.
    const SLOW: &str = "[lane]\nmax_in_flight = 2\n[rungs]\ncached = false\n[chaos]\nstore_latency_ms = 1000";
    let shop = Shop::with(&[DEMO], SLOW);
    let node = TestNode::start_allowing_chaos(&shop).await;
    let channel = node.channel.clone();
    let mut tickets = HashMap::new();
    for user in 0..USERS {
        tickets.insert(user, Caller::new(&channel, DEMO, user).submit("before").await.ticket);
    }
    let user = Caller::new(&channel, DEMO, 0);
    user.settled(&tickets[&0]).await;
    let draining = tokio::spawn(node.node.drain());
    // As long as it is taken it is kept; then it is refused.
    let mut late = Vec::new();
    let refused = loop {
        match user.try_submit(question("where is my order?", "")).await {
            Ok(reply) => late.push(reply.ticket),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    draining.await.unwrap().unwrap();
    let before = kept_answers(&shop, DEMO).len();
    assert!((1..USERS).contains(&before), "{before} of {USERS} were answered");

    let shop = shop.with_extra("[rungs]\ncached = false");
    let node = TestNode::start(&shop).await;
    for (user, ticket) in &tickets {
        assert_eq!(Caller::new(&node.channel, DEMO, *user).answer(ticket).await.intent, intent_of(*user));
    }
    let user = Caller::new(&node.channel, DEMO, 0);
    for ticket in &late {
        user.answer(ticket).await;
    }
    node.node.drain().await.unwrap();
    assert_eq!(kept_answers(&shop, DEMO).len(), USERS + late.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_leaves_no_question_and_no_answer() {
    const SECRET: &str = "where is my parcel with the unmistakable Zaphod-X7 costume";
    let shop = Shop::with(&[DEMO, OTHER], "");
    let node = TestNode::start(&shop).await;
    let callers =
        |channel: &Channel| [(DEMO, 1), (DEMO, 2), (OTHER, 1)].map(|(tenant, user)| Caller::new(channel, tenant, user));
    for caller in callers(&node.channel) {
        let ticket = caller.submit("answered").await.ticket;
        caller.settled(&ticket).await;
    }
    node.node.drain().await.unwrap();

    let shop = shop.with_extra(STANDING);
    let node = TestNode::start(&shop).await;
    let mut waiting = Vec::new();
    for (at, caller) in callers(&node.channel).iter().enumerate() {
        let text = if at == 0 { SECRET } else { "where is my order?" };
        waiting.push(caller.try_submit(question(text, "")).await.unwrap().ticket);
    }
    let [erased, other_user, other_tenant] = callers(&node.channel);
    let answered = erased.submit("answered").await;
    assert!(answered.already_submitted);
    let mut admin = AdminClient::new(node.channel.clone());
    let entities = vec!["user-1".to_owned(), "nobody".to_owned()];
    admin.erase(EraseRequest { tenant: "demo".to_owned(), entities }).await.unwrap();
    assert!(erased.is_unknown(&waiting[0]).await && erased.is_unknown(&answered.ticket).await);
    for (caller, ticket) in [(&other_user, &waiting[1]), (&other_tenant, &waiting[2])] {
        assert!(caller.waits(ticket).await && caller.submit("answered").await.already_submitted);
    }
    let again = erased.submit("answered").await;
    assert!(!again.already_submitted, "a user may come back");
    admin.compact_erased(CompactErasedRequest {}).await.unwrap();
    node.node.drain().await.unwrap();

    // The same on the closed folder.
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    erase_from_lane(&store, &config.lane, TenantId(DEMO.id), &["user-1".to_owned()]).unwrap();
    drop(store);
    let node = TestNode::start(&shop).await;
    let [erased, other_user, other_tenant] = callers(&node.channel);
    assert!(erased.is_unknown(&again.ticket).await);
    assert!(other_user.waits(&waiting[1]).await && other_tenant.waits(&waiting[2]).await);
    node.node.drain().await.unwrap();
    assert_eq!(files_with(&config.store.path, SECRET), [] as [PathBuf; 0]);
}

fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files
        .filter(|path| std::fs::read(path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_comes_before_the_lane() {
    const ASKERS: usize = 6;
    const SUBMITTED: usize = 200;
    // Room for the askers and two more: a third question of the lane would have one of them refused.
    let shop = Shop::with(
        &[DEMO],
        "[admission]\nmax_questions = 8\n[lane]\nmax_in_flight = 2\nmax_backlog_ms = 1\n[rungs]\ncached = false",
    );
    let node = TestNode::start(&shop).await;
    let (answered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut asking = JoinSet::new();
    for asker in 0..ASKERS {
        let (client, answered, stop) = (node.answers(), answered.clone(), stop.clone());
        asking.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let reply = ask(client.clone(), DEMO, &format!("user-{asker}"), "where is my order?", PATIENCE).await;
                assert_eq!(reply.expect("nobody who waits is refused").intent, intent_of(asker));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let tickets = submit_many(&node.channel, 1, SUBMITTED).await;
    // What was submitted before is not taken again; the reply says how many wait.
    let known = Caller::new(&node.channel, DEMO, 1);
    let figures = async || (known.submit("1-1").await.waiting as usize, answered.load(Ordering::Relaxed));
    let (waiting_before, answered_before) = figures().await;
    let (lane, beside) = loop {
        let (waiting, answered) = figures().await;
        if waiting == 0 || answered >= answered_before + 100 {
            break (waiting_before - waiting, answered - answered_before);
        }
    };
    println!("{lane} of the lane were answered beside {beside} that somebody waited for");
    assert!(lane * 6 <= beside, "{lane} of the lane beside {beside} that somebody waited for");
    stop.store(true, Ordering::Relaxed);
    asking.join_all().await;
    for (user, ticket) in &tickets {
        Caller::new(&node.channel, DEMO, *user).answer(ticket).await;
    }
    assert!(known.submit("1-1").await.already_submitted);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_submits_and_fetches_with_the_command() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let address = node.node.address().to_string();
    let typed = |command: &str, user: &str, more: &[&str]| {
        run(&[&[command, "--addr", &address, "--tenant", "demo", "--user", user], more].concat())
    };
    let submit = ["--dedup", "mail-1", "where is my order?"];
    let Ran { code, stdout: ticket, stderr } = typed("submit", "user-1", &submit);
    assert_eq!(code, Some(0), "{stderr}");
    let ticket = ticket.trim_end();
    let Ran { code, stdout, stderr } = typed("answer", "user-1", &[ticket, "--wait", "60s"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(intent_of(1)) && stdout.contains("D01-1"), "{stdout}");
    let json = |ran: Ran| serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap();
    let again = json(typed("submit", "user-1", &[&submit[..], &["--json"]].concat()));
    assert_eq!(again, serde_json::json!({ "ticket": ticket, "already_submitted": true, "waiting": 0 }));
    let waited = json(typed("submit", "user-2", &["--wait", "60s", "--json", "where is my order?"]));
    assert_eq!((&waited["state"], &waited["reply"]["intent"]), (&"answered".into(), &intent_of(2).into()), "{waited}");
    let unknown = typed("answer", "user-2", &[ticket]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""));
    assert!(unknown.stderr.contains("no question of this user has the ticket"), "{}", unknown.stderr);
    assert_eq!(json(typed("answer", "user-2", &[ticket, "--json"]))["state"], "unknown");
    node.node.drain().await.unwrap();
}

/// Not a test by itself: the next one runs it in a process of its own, and kills it.
#[test]
fn child_process() {
    let (Ok(folder), Ok(in_flight)) = (std::env::var(FOLDER), std::env::var(MAX_IN_FLIGHT)) else { return };
    let mut config = NodeConfig::load(&Path::new(&folder).join("larder.toml")).unwrap();
    config.lane.max_in_flight = in_flight.parse().unwrap();
    config.rungs.cached = false;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut node = Node::bind(config).await.unwrap();
        node.warm().await.unwrap();
        say(&format!("serving {} {}", node.address(), node.metrics_address()));
        node.failed().await;
    });
}

/// A node in a process of its own, and where it serves.
async fn child_node(shop: &Shop, in_flight: usize) -> (Said, Channel, String) {
    let mut command = child::command(module_path!());
    let child = Said::start(command.env(FOLDER, shop.path()).env(MAX_IN_FLIGHT, in_flight.to_string()));
    let said = child.next();
    let mut words = said.split(' ').skip(1);
    let (address, metrics) = (words.next().unwrap(), words.next().unwrap());
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (child, channel, metrics.to_owned())
}

/// A figure of a node's metrics page.
async fn figure(address: &str, name: &str) -> f64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not on {page}")).parse().unwrap()
}

/// Submits so many questions at once, half of them with a dedup key, and returns user and ticket of each.
async fn submit_many(channel: &Channel, round: usize, number: usize) -> Vec<(usize, String)> {
    let mut tasks = JoinSet::new();
    for at in 0..number {
        let caller = Caller::new(channel, DEMO, at % USERS);
        let key = if at % 2 == 0 { String::new() } else { format!("{round}-{at}") };
        tasks.spawn(async move { (at % USERS, caller.submit(&key).await.ticket) });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_answers_every_acknowledged_question_once() {
    const NUMBER: usize = 120;
    let shop = Shop::new(&[DEMO]);
    shop.config();
    // Killed before any was answered.
    let (child, channel, metrics) = child_node(&shop, 0).await;
    let mut tickets = submit_many(&channel, 1, NUMBER).await;
    let writes = figure(&metrics, "larder_store_log_append_seconds_count").await;
    println!("{NUMBER} calls at once took {writes} writes to the disk");
    assert!(writes <= NUMBER as f64 / 2.0, "{NUMBER} calls at once took {writes} writes to the disk");
    child.kill();

    // Killed in the midst of answering, a few times.
    let mut answered_before_death = 0;
    for round in 2..5 {
        let (child, channel, _) = child_node(&shop, 2).await;
        let waiting = tickets.clone();
        tickets.extend(submit_many(&channel, round, 10).await);
        for (user, ticket) in &waiting[answered_before_death..(answered_before_death + round).min(waiting.len())] {
            Caller::new(&channel, DEMO, *user).settled(ticket).await;
        }
        child.kill();
        let kept = kept_answers(&shop, DEMO);
        answered_before_death = kept.len();
        let once: HashSet<_> = kept.iter().collect();
        assert_eq!(once.len(), kept.len(), "an answer is kept twice");
    }
    assert!(answered_before_death < tickets.len(), "no kill left a question waiting");

    let (child, channel, _) = child_node(&shop, 16).await;
    for (user, ticket) in &tickets {
        assert_eq!(Caller::new(&channel, DEMO, *user).answer(ticket).await.intent, intent_of(*user));
    }
    assert!(Caller::new(&channel, DEMO, 1).submit("1-1").await.already_submitted);
    child.kill();
    let mut kept = kept_answers(&shop, DEMO);
    let mut acknowledged: Vec<_> = tickets.into_iter().map(|(_, ticket)| ticket).collect();
    kept.sort();
    acknowledged.sort();
    assert_eq!(kept, acknowledged, "each acknowledged question has exactly one answer");
    println!("{} questions over 5 processes, {answered_before_death} answered before the last kill", kept.len());
}
