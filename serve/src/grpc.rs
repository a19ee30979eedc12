//! gRPC: the services, health and reflection on one listener, and the answering service itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::admin::AdminService;
use crate::connection::{Connection, Served};
use crate::context::RequestContext;
use crate::error::Refusal;
use crate::features::FeaturesService;
use crate::feedback::FeedbackService;
use crate::flight;
use crate::lane::LaneService;
use crate::life::State;
use crate::node::Shared;
use crate::question::{Answer, Question};
use crate::rows::RowsService;
use crate::shard::routed;
use crate::v1::admin_server::AdminServer;
use crate::v1::answers_server::{Answers, AnswersServer};
use crate::v1::features_server::FeaturesServer;
use crate::v1::feedback_server::FeedbackServer;
use crate::v1::lane_server::LaneServer;
use crate::v1::rows_server::RowsServer;
use crate::v1::{AnswerReply, AnswerRequest, AnswerStreamReply};
use crate::wire::{self, CallDeadline};

/// The proto files, for clients that ask the node for them.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/larder.v1.bin"));

/// Largest GetFeatures reply, and largest message of Flight; who needs more asks in parts.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// How often a silent connection is asked whether anybody is there, and how long it may take to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// All services of a node.
pub(crate) fn router(
    shared: &Arc<Shared>,
    health: HealthServer<impl Health>,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let node = &shared.config.node;
    let max_bytes = node.max_message_bytes;
    let answers = AnswersServer::new(AnswersService { shared: shared.clone() }).max_decoding_message_size(max_bytes);
    let features = FeaturesServer::new(FeaturesService::new(shared.clone()))
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(MAX_REPLY_BYTES);
    let admin = AdminServer::new(AdminService::new(shared.clone())).max_decoding_message_size(max_bytes);
    let admin = InterceptedService::new(admin, routed(node.shard));
    let lane = LaneServer::new(LaneService::new(shared.clone())).max_decoding_message_size(max_bytes);
    let feedback = FeedbackServer::new(FeedbackService::new(shared.clone())).max_decoding_message_size(max_bytes);
    let rows = RowsServer::new(RowsService::new(shared.clone())).max_decoding_message_size(max_bytes);
    Ok(tonic::transport::Server::builder()
        .max_concurrent_streams(node.max_calls_per_connection)
        // Callers whose deadlines pass reset their calls. The default of 20 would end the connection of everybody when a node that stood still for
        // a moment finds so many of them at once.
        .http2_max_pending_accept_reset_streams(usize::try_from(node.max_calls_per_connection).ok())
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // Many clients still ask by the name that reflection had before it was stable.
        .add_service(reflection().build_v1alpha()?)
        .add_service(answers)
        .add_service(features)
        .add_service(lane)
        .add_service(feedback)
        .add_service(rows)
        .add_service(flight::service(shared, MAX_REPLY_BYTES))
        .add_service(admin))
}

/// Serves until `stopped` resolves and the open calls have ended. Connections may be cut where there may be chaos.
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    may_be_cut: bool,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map(|stream| stream.map(|stream| Served::new(stream, may_be_cut)));
    router.serve_with_incoming_shutdown(incoming, stopped).await
}

#[derive(Debug)]
struct AnswersService {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Answers for AnswersService {
    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerReply>, Status> {
        let connection = Connection::of(request.extensions());
        let (context, question) = self.read(request).inspect_err(|refusal| self.count(refusal))?;
        let answer = answer_in_chaos(&self.shared, &connection, context, question).await?;
        Ok(Response::new(wire::reply(answer)))
    }

    type AnswerStreamStream = Pin<Box<dyn Stream<Item = Result<AnswerStreamReply, Status>> + Send>>;

    async fn answer_stream(
        &self,
        request: Request<Streaming<AnswerRequest>>,
    ) -> Result<Response<Self::AnswerStreamStream>, Status> {
        let context = self.shared.identity.asker(request.metadata()).inspect_err(|refusal| self.count(refusal))?;
        let (replies, receiver) = mpsc::channel(self.shared.config.node.max_stream_in_flight);
        let caller = Caller { context, connection: Connection::of(request.extensions()) };
        tokio::spawn(answer_stream(self.shared.clone(), caller, request.into_inner(), replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl AnswersService {
    /// Who asks and what, or why it is no question.
    fn read(&self, request: Request<AnswerRequest>) -> Result<(RequestContext, Question), Refusal> {
        let node = &self.shared.config.node;
        let context = self.shared.identity.asker(request.metadata())?;
        let deadline = wire::deadline(request.metadata(), node)?;
        Ok((context, wire::question(request.into_inner(), deadline, node)?))
    }

    /// Counts what never became a question, under the class of calls that name none.
    fn count(&self, refusal: &Refusal) {
        self.shared.counters.refused(self.shared.config.identity.default_class, refusal);
    }
}

/// Who asks on a stream, and over which connection.
#[derive(Clone)]
struct Caller {
    context: RequestContext,
    connection: Connection,
}

/// Answers one question, with what chaos does to calls: nothing, where it is off.
async fn answer_in_chaos(
    shared: &Shared,
    connection: &Connection,
    context: RequestContext,
    question: Question,
) -> Result<Answer, Refusal> {
    if shared.chaos.cuts() {
        connection.cut();
    }
    let outcome = shared.answer(context, question).await;
    shared.chaos.before_reply().await;
    outcome
}

/// Answers the questions of one stream, at most node.max_stream_in_flight at once, until it ends, breaks or the node stops.
/// What was asked before that is still answered, and only then does the stream end.
async fn answer_stream(
    shared: Arc<Shared>,
    caller: Caller,
    mut questions: Streaming<AnswerRequest>,
    replies: mpsc::Sender<Result<AnswerStreamReply, Status>>,
) {
    let limit = shared.config.node.max_stream_in_flight;
    let in_flight = Arc::new(Semaphore::new(limit));
    let end = loop {
        // Not reading is the back-pressure: the client's window fills.
        let Ok(room) = in_flight.clone().acquire_owned().await else { return };
        let next = tokio::select! {
            next = questions.next() => next,
            _ = shared.life.wait_for(|state| !matches!(state, State::Serving | State::Warming)) => {
                break shared.life.answering().err().map(Status::from);
            }
            () = replies.closed() => return,
        };
        match next {
            None => break None,
            // The stream is broken or the message unreadable; what follows cannot be told apart any more.
            Some(Err(status)) => break Some(status),
            Some(Ok(message)) => {
                let one = answer_one(shared.clone(), caller.clone(), message, replies.clone());
                tokio::spawn(async move {
                    one.await;
                    drop(room);
                });
            }
        }
    };
    let Some(end) = end else { return };
    let everything = u32::try_from(limit).unwrap_or(u32::MAX);
    tokio::select! {
        _ = in_flight.acquire_many(everything) => {}
        () = replies.closed() => return,
    }
    // A caller who has gone needs no reason.
    let _ = replies.send(Err(end)).await;
}

/// Answers one question of a stream. A caller who goes away takes the question along.
async fn answer_one(
    shared: Arc<Shared>,
    caller: Caller,
    message: AnswerRequest,
    replies: mpsc::Sender<Result<AnswerStreamReply, Status>>,
) {
    let request_id = message.request_id.clone();
    // Each question has the node's default deadline; a stream as a whole has none.
    let deadline = CallDeadline { after: shared.config.node.default_deadline(), cut: false };
    let answered = async {
        match wire::question(message, deadline, &shared.config.node) {
            Ok(question) => answer_in_chaos(&shared, &caller.connection, caller.context, question).await,
            Err(refusal) => {
                shared.counters.refused(caller.context.class, &refusal);
                Err(refusal)
            }
        }
    };
    let outcome = tokio::select! {
        outcome = answered => outcome,
        () = replies.closed() => return,
    };
    let reply = match outcome {
        Ok(answer) => wire::stream_reply(answer),
        Err(refusal) => wire::failure(request_id, &refusal),
    };
    let _ = replies.send(Ok(reply)).await;
}
