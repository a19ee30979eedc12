//! The Lane service: Submit, GetAnswer, WatchAnswers, Forget.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::context::RequestContext;
use crate::error::Refusal;
use crate::identity::USER_HEADER;
use crate::lane::Lane;
use crate::lane::bells::{Listener, Owner};
use crate::lane::reader::closed;
use crate::lane::record::StoredQuestion;
use crate::lane::ticket::Ticket;
use crate::lane::wire::settled;
use crate::life::State;
use crate::metrics;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::v1::get_answer_reply::State as TicketState;
use crate::v1::lane_server::Lane as LaneCalls;
use crate::v1::{
    AnswerRequest, ForgetReply, ForgetRequest, GetAnswerReply, GetAnswerRequest, SettledQuestion, SubmitReply,
    SubmitRequest, UnknownTicket, WaitingQuestion, WatchAnswersRequest,
};
use crate::wire::{self, CallDeadline, count};

/// Longest dedup key, in bytes.
const MAX_DEDUP_KEY_BYTES: usize = 128;
/// Most tickets of one Forget call.
const MAX_FORGOTTEN: usize = 1_000;
/// Answers that one read takes for a WatchAnswers call, and that may wait for its client.
const WATCH_PAGE: usize = 16;

#[derive(Debug)]
pub(crate) struct LaneService {
    shared: Arc<Shared>,
}

impl LaneService {
    pub(crate) fn new(shared: Arc<Shared>) -> LaneService {
        LaneService { shared }
    }

    /// Who calls; somebody, since answers are kept for somebody.
    fn caller(&self, metadata: &MetadataMap) -> Result<(RequestContext, Owner), Refusal> {
        let context = self.shared.identity.asker(metadata)?;
        if context.user.is_empty() {
            let message =
                format!("the call names no user: set {USER_HEADER}; an answer of nobody's could be read by anybody");
            return Err(Refusal::Invalid(message));
        }
        let owner = Owner { tenant: context.tenant_id, user: context.user.as_str().into() };
        Ok((context, owner))
    }

    async fn keep(&self, request: Request<SubmitRequest>) -> Result<SubmitReply, Refusal> {
        let (context, owner) = self.caller(request.metadata())?;
        let question = self.question(&context, &owner, request.into_inner())?;
        let ticket = question.ticket.to_string();
        let submitted = serving(&self.shared)?.submit(owner.tenant, question).await?;
        Ok(SubmitReply { ticket, already_submitted: submitted.already, waiting: submitted.waiting as u64 })
    }

    fn question(
        &self,
        context: &RequestContext,
        owner: &Owner,
        message: SubmitRequest,
    ) -> Result<StoredQuestion, Refusal> {
        let SubmitRequest { text, dedup_key, answer_within_s } = message;
        let max_wait_s = self.shared.config.lane.max_wait_s;
        if dedup_key.len() > MAX_DEDUP_KEY_BYTES {
            let length = dedup_key.len();
            let message = format!("dedup_key has {length} bytes; at most {MAX_DEDUP_KEY_BYTES} are allowed");
            return Err(Refusal::Invalid(message));
        }
        if answer_within_s > max_wait_s {
            let message =
                format!("answer_within_s is {answer_within_s}; at most {max_wait_s} is allowed (lane.max_wait_s)");
            return Err(Refusal::Invalid(message));
        }
        // A text that could not be asked could not be answered later either.
        let asked = AnswerRequest { text, request_id: String::new() };
        let now = CallDeadline { after: Duration::ZERO, cut: false };
        let text = wire::question(asked, now, &self.shared.config.node)?.text;
        let within_s = if answer_within_s == 0 { max_wait_s } else { answer_within_s };
        Ok(StoredQuestion {
            ticket: match dedup_key.as_str() {
                "" => Ticket::random(),
                key => Ticket::of_key(owner.tenant, &owner.user, key),
            },
            answer_by_ms: now_ms().saturating_add_unsigned(within_s * 1_000),
            class: context.class,
            user: context.user.clone(),
            session: context.session.clone(),
            dedup_key,
            text,
        })
    }

    /// How long a GetAnswer call may wait: as it asks, within the node's limit and its own deadline.
    fn patience(&self, wait_ms: u32, metadata: &MetadataMap) -> Result<Duration, Refusal> {
        let wait = Duration::from_millis(u64::from(wait_ms).min(self.shared.config.lane.max_long_poll_ms));
        if !metadata.contains_key("grpc-timeout") {
            return Ok(wait);
        }
        Ok(wait.min(wire::deadline(metadata, &self.shared.config.node)?.after))
    }
}

/// The lane, once the node serves and as long as it does.
fn serving(shared: &Shared) -> Result<&Lane, Refusal> {
    shared.life.answering()?;
    shared.lane.get().ok_or_else(closed)
}

/// What has become of a ticket.
async fn look(lane: &Lane, owner: &Owner, ticket: Ticket) -> Result<TicketState, Refusal> {
    if lane.state.order().is_of(owner.tenant, &owner.user, ticket) {
        return Ok(TicketState::Waiting(WaitingQuestion {}));
    }
    let Owner { tenant, user } = owner.clone();
    // A question is waiting or settled at any moment: it leaves the order only once its answer is kept.
    match lane.reader.read(move |store| store.answer(tenant, &user, ticket, now_ms())).await? {
        Some(record) => Ok(TicketState::Settled(settled(&record.payload)?)),
        None => Ok(TicketState::Unknown(UnknownTicket {})),
    }
}

/// The same, after waiting until `until` where the question waits.
async fn wait_and_look(shared: &Shared, owner: &Owner, ticket: Ticket, until: Instant) -> Result<TicketState, Refusal> {
    let lane = serving(shared)?;
    let mut listening: Option<(Listener, OwnedSemaphorePermit)> = None;
    loop {
        let state = look(lane, owner, ticket).await?;
        if !matches!(state, TicketState::Waiting(_)) || Instant::now() >= until {
            return Ok(state);
        }
        let Some((listener, _)) = &mut listening else {
            // Looks once more: the bell may have rung before.
            listening = Some((lane.state.bells.listen(owner.clone()), lane.room(&lane.listeners)?));
            continue;
        };
        tokio::select! {
            () = listener.rung() => {}
            () = tokio::time::sleep_until(until.into()) => {}
            _ = shared.life.wait_for(|state| state != State::Serving) => shared.life.answering()?,
        }
    }
}

/// Sends the answers of an owner after a position, and then each as it is made, until the client goes or the node stops.
async fn watch(
    shared: Arc<Shared>,
    owner: Owner,
    mut after: u64,
    mut listener: Listener,
    replies: mpsc::Sender<Result<SettledQuestion, Status>>,
    _room: OwnedSemaphorePermit,
) {
    let end: Refusal = loop {
        let lane = match serving(&shared) {
            Ok(lane) => lane,
            Err(refusal) => break refusal,
        };
        let Owner { tenant, user } = owner.clone();
        let page = lane
            .reader
            .read(move |store| store.answers.read(tenant, &user, after.saturating_add(1).., WATCH_PAGE, now_ms()));
        let page = match page.await {
            Ok(page) => page,
            Err(refusal) => break refusal,
        };
        if page.is_empty() {
            tokio::select! {
                () = listener.rung() => {}
                _ = shared.life.wait_for(|state| state != State::Serving) => {}
                () = replies.closed() => return,
            }
        }
        for record in page {
            after = record.position;
            // One that cannot be read must not keep back the others.
            let Ok(message) = settled(&record.payload) else { continue };
            tokio::select! {
                sent = replies.send(Ok(message)) => if sent.is_err() { return },
                _ = shared.life.wait_for(|state| state != State::Serving) => break,
            }
        }
    };
    // A client that does not read learns it from the end of its stream.
    let _ = replies.try_send(Err(end.into()));
}

/// The ticket that a call names, or none where no ticket looks like that.
fn named(ticket: &str) -> Option<Ticket> {
    ticket.parse().ok()
}

#[tonic::async_trait]
impl LaneCalls for LaneService {
    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        let began = Instant::now();
        let outcome = self.keep(request).await;
        metrics::lane_submitted(outcome.as_ref().map(|reply| reply.already_submitted), began.elapsed());
        Ok(Response::new(outcome?))
    }

    async fn get_answer(&self, request: Request<GetAnswerRequest>) -> Result<Response<GetAnswerReply>, Status> {
        let (_, owner) = self.caller(request.metadata())?;
        let patience = self.patience(request.get_ref().wait_ms, request.metadata())?;
        let state = match named(&request.get_ref().ticket) {
            Some(ticket) => wait_and_look(&self.shared, &owner, ticket, Instant::now() + patience).await?,
            None => TicketState::Unknown(UnknownTicket {}),
        };
        Ok(Response::new(GetAnswerReply { state: Some(state) }))
    }

    type WatchAnswersStream = Pin<Box<dyn Stream<Item = Result<SettledQuestion, Status>> + Send>>;

    async fn watch_answers(
        &self,
        request: Request<WatchAnswersRequest>,
    ) -> Result<Response<Self::WatchAnswersStream>, Status> {
        let (_, owner) = self.caller(request.metadata())?;
        let lane = serving(&self.shared)?;
        let room = lane.room(&lane.listeners)?;
        let listener = lane.state.bells.listen(owner.clone());
        let after = match named(&request.get_ref().after_ticket) {
            Some(ticket) => {
                let Owner { tenant, user } = owner.clone();
                let found = lane.reader.read(move |store| store.answer(tenant, &user, ticket, now_ms())).await?;
                found.map_or(0, |record| record.position)
            }
            None => 0,
        };
        let (replies, receiver) = mpsc::channel(WATCH_PAGE);
        tokio::spawn(watch(self.shared.clone(), owner, after, listener, replies, room));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn forget(&self, request: Request<ForgetRequest>) -> Result<Response<ForgetReply>, Status> {
        let (_, owner) = self.caller(request.metadata())?;
        let tickets = request.into_inner().tickets;
        if tickets.len() > MAX_FORGOTTEN {
            let message = format!("{} tickets; at most {MAX_FORGOTTEN} are allowed in a call", tickets.len());
            return Err(Refusal::Invalid(message).into());
        }
        let tickets = tickets.iter().filter_map(|ticket| named(ticket)).collect();
        let forgotten = serving(&self.shared)?.forget(owner, tickets).await?;
        Ok(Response::new(ForgetReply { forgotten: count(forgotten) }))
    }
}
