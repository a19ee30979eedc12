//! One thread of the generator: sends its share of the questions when they are due, whatever becomes of those before.
//!
//! A thread has a runtime, connections and a timer of its own. Every question is a task that enters its own end into the books;
//! what all questions have in common (metadata, connections) is made once. Nothing here waits for a reply before the last
//! question is sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use larder_serve::v1::answers_client::AnswersClient;
use larder_serve::{CLASS_HEADER, SHARD_HEADER, TENANT_HEADER, USER_HEADER, v1};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::load_plan::{LoadPlan, Stop};
use super::mix::Ask;
use super::outcome::Outcome;
use super::pacer::{Pacer, thread_cpu_s};
use super::schedule::Offer;
use super::tally::{Place, Tally};
use crate::client::connect;

/// How often a waiting thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Sends in a row, when late, before replies are taken in again.
const MOST_IN_A_ROW: u32 = 32;
/// How much longer than the deadline the last replies are waited for.
const GRACE: Duration = Duration::from_secs(2);
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) plan: LoadPlan,
    pub(crate) tally: Mutex<Tally>,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) stop: Stop,
}

impl Board {
    /// The books, also after a thread of theirs has panicked: counts stay counts.
    pub(crate) fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects, says so, waits for the moment to begin, and sends its share.
pub(crate) fn run_thread(
    number: usize,
    board: &Arc<Board>,
    ready: &mpsc::Sender<Result<()>>,
    begin: &mpsc::Receiver<Instant>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(async {
        let mut sender = match Sender::connect(number, Arc::clone(board)).await {
            Ok(sender) => sender,
            Err(error) => {
                // The run has been given up when nobody listens.
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        if ready.send(Ok(())).is_err() {
            return Ok(());
        }
        // It is not sent when another thread could not connect.
        let Ok(begin) = begin.recv() else { return Ok(()) };
        sender.send_all(begin).await
    })
}

struct Sender {
    number: usize,
    board: Arc<Board>,
    /// By node.
    clients: Vec<Vec<AnswersClient<Channel>>>,
    pacer: Pacer,
    /// By class and by tenant; none where the node's default is meant.
    classes: Vec<MetadataValue<Ascii>>,
    tenants: Vec<Option<MetadataValue<Ascii>>>,
    /// By node, what it is taken for; empty where there are no shards.
    shards: Vec<MetadataValue<Ascii>>,
    timeout: MetadataValue<Ascii>,
    in_flight: Arc<AtomicUsize>,
    /// CPU time and moment of the last reading.
    read: Option<(f64, Instant)>,
}

impl Sender {
    async fn connect(number: usize, board: Arc<Board>) -> Result<Sender> {
        let plan = &board.plan;
        let mut clients = Vec::new();
        for address in plan.nodes.addresses() {
            let mut own = Vec::new();
            for _ in (number..plan.connections).step_by(plan.threads) {
                own.push(AnswersClient::new(connect(address).await?));
            }
            clients.push(own);
        }
        let value = |text: &str| MetadataValue::try_from(text).with_context(|| format!("{text:?} cannot be sent"));
        let tenant = |name: &String| if name.is_empty() { Ok(None) } else { value(name).map(Some) };
        Ok(Sender {
            number,
            clients,
            pacer: Pacer::new()?,
            classes: plan.mix.classes().iter().map(|name| value(name)).collect::<Result<_>>()?,
            tenants: plan.mix.tenants().iter().map(tenant).collect::<Result<_>>()?,
            shards: plan.nodes.shards().iter().map(|shard| value(&shard.to_string())).collect::<Result<_>>()?,
            timeout: value(&format!("{}u", plan.deadline.as_micros().clamp(1, 99_999_999)))?,
            in_flight: Arc::default(),
            read: None,
            board,
        })
    }

    async fn send_all(&mut self, begin: Instant) -> Result<()> {
        let board = Arc::clone(&self.board);
        let plan = &board.plan;
        let mut in_a_row = 0;
        let schedule = plan.offer.schedule(plan.warm_up, plan.seed);
        let own = schedule.enumerate().skip(self.number).step_by(plan.threads);
        for (sent, (index, at)) in own.enumerate() {
            let due = begin + at;
            in_a_row = if due > Instant::now() { 0 } else { in_a_row + 1 };
            if in_a_row > MOST_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
            while !board.stop.is_asked() && due > Instant::now() {
                self.pacer.until(due.min(Instant::now() + LOOK)).await?;
            }
            if board.stop.is_asked() {
                break;
            }
            self.read_cpu(at >= plan.warm_up, Duration::from_secs(1));
            self.send(index, at, due, sent)?;
        }
        self.read_cpu(true, Duration::ZERO);
        let end = Instant::now() + plan.deadline + GRACE;
        while self.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < end && !board.stop.is_asked_twice() {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        Ok(())
    }

    /// Sends one question, this thread's so many-th, or enters that it was kept back.
    fn send(&self, index: usize, at: Duration, due: Instant, sent: usize) -> Result<()> {
        let board = &self.board;
        let plan = &board.plan;
        let line = match &plan.offer {
            Offer::Trace(trace) => trace.lines().get(index),
            Offer::Curve(..) => None,
        };
        let ask = plan.mix.ask(plan.first_question + index as u64, line);
        let node = plan.nodes.of(&ask.user, index as u64);
        let place = plan.place(at, &ask, node);
        if let Some(place) = place {
            board.tally().offered(place);
        }
        if board.in_flight.load(Ordering::Relaxed) >= plan.max_in_flight {
            if let Some(place) = place {
                board.tally().settled(place, &Outcome::NotSent, 0, false);
            }
            return Ok(());
        }
        let labelled = ask.labelled;
        let request = self.request(ask, node)?;
        let clients = &self.clients[node];
        let mut client = clients[sent / self.clients.len() % clients.len()].clone();
        let (board, own) = (Arc::clone(board), Arc::clone(&self.in_flight));
        board.in_flight.fetch_add(1, Ordering::Relaxed);
        own.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let sent = Instant::now();
            let result = client.answer(request).await;
            let waited = due.elapsed();
            board.in_flight.fetch_sub(1, Ordering::Relaxed);
            own.fetch_sub(1, Ordering::Relaxed);
            let Some(place) = place else { return };
            let outcome = match &result {
                Ok(reply) => {
                    let reply = reply.get_ref();
                    let right = labelled.is_some_and(|question| board.plan.mix.is_right(question, reply));
                    Outcome::of_reply(reply, right)
                }
                Err(status) => Outcome::of_status(status),
            };
            let mut tally = board.tally();
            tally.sent(micros(sent.saturating_duration_since(due)));
            tally.settled(place, &outcome, micros(waited), waited <= board.plan.deadline);
        });
        Ok(())
    }

    fn request(&self, ask: Ask, node: usize) -> Result<Request<v1::AnswerRequest>> {
        let mut request = Request::new(v1::AnswerRequest { text: ask.text, request_id: String::new() });
        let metadata = request.metadata_mut();
        metadata.insert(CLASS_HEADER, self.classes[ask.class].clone());
        if let Some(tenant) = &self.tenants[ask.tenant] {
            metadata.insert(TENANT_HEADER, tenant.clone());
        }
        if !ask.user.is_empty() {
            metadata.insert(USER_HEADER, MetadataValue::try_from(ask.user).context("a user cannot be sent")?);
        }
        if let Some(shard) = self.shards.get(node) {
            metadata.insert(SHARD_HEADER, shard.clone());
        }
        metadata.insert("grpc-timeout", self.timeout.clone());
        Ok(request)
    }

    /// Enters the CPU time since the last reading, if that is so long ago. Before the run counts, it only reads.
    fn read_cpu(&mut self, counts: bool, after: Duration) {
        let now = Instant::now();
        if let Some((cpu_s, moment)) = self.read {
            let wall = now - moment;
            if wall < after {
                return;
            }
            let cpu_now = thread_cpu_s();
            self.board.tally().worked(self.number, cpu_now - cpu_s, wall.as_secs_f64());
            self.read = Some((cpu_now, now));
        } else if counts {
            self.read = Some((thread_cpu_s(), now));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl LoadPlan {
    /// Where the question due at that time is entered; nowhere during the warm-up.
    fn place(&self, at: Duration, ask: &Ask, node: usize) -> Option<Place> {
        let counted = at.checked_sub(self.warm_up)?;
        let phase = match &self.offer {
            Offer::Curve(profile, _) => profile.phase_at(counted.as_secs_f64()),
            Offer::Trace(_) => 0,
        };
        let second = usize::try_from(counted.as_secs()).unwrap_or(usize::MAX);
        Some(Place { second, phase, class: ask.class, tenant: ask.tenant, node, labelled: ask.labelled.is_some() })
    }
}
