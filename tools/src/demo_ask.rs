//! The demo's customers: eight connections that put the test questions to the node, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use larder_model::OUT_OF_SCOPE;
use larder_serve::v1;
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::answers_client::AnswersClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{Caller, connect, refusal};
use crate::progress::{Stage, Unit};
use crate::shop_questions::TestQuestion;

const CONNECTIONS: usize = 8;
/// Long enough for a slow machine: the demo shows answers, not refusals.
const DEADLINE: Duration = Duration::from_secs(10);

/// A question and what came back.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) test: TestQuestion,
    pub(crate) outcome: Result<v1::AnswerReply, Status>,
    /// As the customer saw it, network included.
    pub(crate) latency_us: u64,
}

impl Asked {
    /// Right is the expected intent; out of scope, a person taking over.
    pub(crate) fn is_right(&self) -> bool {
        let expected = self.test.question.intent.as_str();
        self.outcome.as_ref().is_ok_and(|reply| match expected {
            OUT_OF_SCOPE => reply.handed_over,
            intent => !reply.handed_over && reply.intent == intent,
        })
    }
}

/// Reads the features of everybody who will ask into the node's hot tier. Returns how many it knows.
pub(crate) async fn warm(
    address: &str,
    tenant: &str,
    service: &str,
    mut users: Vec<String>,
    max_entities: usize,
) -> Result<usize> {
    let stage = Stage::start("warm", Unit::Items);
    users.sort_unstable();
    users.dedup();
    let mut admin = AdminClient::new(connect(address).await?);
    let (mut done, mut found) = (0, 0);
    for entities in users.chunks(max_entities) {
        let request = v1::WarmRequest {
            tenant: tenant.to_owned(),
            service: service.to_owned(),
            entities: entities.to_vec(),
            look_only: false,
        };
        found += admin.warm(request).await.map_err(|status| refusal(&status))?.into_inner().found as usize;
        done += entities.len();
        stage.set(done as u64, users.len() as u64);
    }
    stage.done(format_args!("{found} of {} users are in the hot tier", users.len()));
    Ok(found)
}

/// What the node counts.
pub(crate) async fn node_status(address: &str) -> Result<v1::NodeStatus> {
    let mut admin = AdminClient::new(connect(address).await?);
    let reply = admin.get_node_status(v1::GetNodeStatusRequest {}).await.map_err(|status| refusal(&status))?;
    Ok(reply.into_inner())
}

/// Asks every question once, each connection the next one as soon as it has its answer.
pub(crate) async fn ask_all(address: &str, tests: Vec<TestQuestion>) -> Result<Vec<Asked>> {
    let stage = Stage::start("ask", Unit::Items);
    let total = tests.len();
    let tests = Arc::new(tests);
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let channel = connect(address).await?;
        connections.push(tokio::spawn(ask_in_turn(channel, Arc::clone(&tests), Arc::clone(&next))));
    }
    let mut asked = Vec::with_capacity(total);
    for connection in connections {
        asked.extend(connection.await.context("a connection's task failed")??);
        stage.set(asked.len() as u64, total as u64);
    }
    asked.sort_by_key(|(index, _)| *index);
    stage.done(format_args!("{total} questions over {CONNECTIONS} connections at once"));
    Ok(asked.into_iter().map(|(_, asked)| asked).collect())
}

async fn ask_in_turn(
    channel: Channel,
    tests: Arc<Vec<TestQuestion>>,
    next: Arc<AtomicUsize>,
) -> Result<Vec<(usize, Asked)>> {
    let mut answers = AnswersClient::new(channel);
    let mut asked = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(test) = tests.get(index) else { return Ok(asked) };
        let caller =
            Caller { tenant: test.question.tenant.clone(), user: test.question.user.clone(), ..Caller::default() };
        let message = v1::AnswerRequest { text: test.question.text.clone(), request_id: index.to_string() };
        let mut request = caller.request(message)?;
        request.set_timeout(DEADLINE);
        let started = Instant::now();
        let outcome = answers.answer(request).await.map(tonic::Response::into_inner).and_then(|reply| {
            // An answer to another question would be worse than none.
            if reply.request_id == index.to_string() {
                Ok(reply)
            } else {
                Err(Status::new(Code::Internal, format!("asked {index}, answered {:?}", reply.request_id)))
            }
        });
        let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        asked.push((index, Asked { test: test.clone(), outcome, latency_us }));
    }
}
