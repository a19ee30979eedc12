//! gRPC: the three services, health and reflection on one listener, and the answering service itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::admin::AdminService;
use crate::context::RequestContext;
use crate::features::FeaturesService;
use crate::life::State;
use crate::node::Shared;
use crate::v1::admin_server::AdminServer;
use crate::v1::answers_server::{Answers, AnswersServer};
use crate::v1::features_server::FeaturesServer;
use crate::v1::{AnswerReply, AnswerRequest, AnswerStreamReply};
use crate::wire::{self, CallDeadline};

/// The proto files, for clients that ask the node for them.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/larder.v1.bin"));

/// All services of a node.
pub(crate) fn router(
    shared: &Arc<Shared>,
    health: HealthServer<impl Health>,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let node = &shared.config.node;
    let max_bytes = node.max_message_bytes;
    let answers = AnswersServer::new(AnswersService { shared: shared.clone() }).max_decoding_message_size(max_bytes);
    let features = FeaturesServer::new(FeaturesService::new(shared.clone())).max_decoding_message_size(max_bytes);
    let admin = AdminServer::new(AdminService::new(shared.clone())).max_decoding_message_size(max_bytes);
    Ok(tonic::transport::Server::builder()
        .max_concurrent_streams(node.max_calls_per_connection)
        .add_service(health)
        .add_service(reflection)
        .add_service(answers)
        .add_service(features)
        .add_service(admin))
}

/// Serves until `stopped` resolves and the open calls have ended.
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    router.serve_with_incoming_shutdown(incoming, stopped).await
}

#[derive(Debug)]
struct AnswersService {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Answers for AnswersService {
    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerReply>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let deadline = wire::deadline(request.metadata(), &self.shared.config.node)?;
        let question = wire::question(request.into_inner(), deadline, &self.shared.config.node)?;
        let answer = self.shared.answer(context, question).await?;
        Ok(Response::new(wire::reply(answer)))
    }

    type AnswerStreamStream = Pin<Box<dyn Stream<Item = Result<AnswerStreamReply, Status>> + Send>>;

    async fn answer_stream(
        &self,
        request: Request<Streaming<AnswerRequest>>,
    ) -> Result<Response<Self::AnswerStreamStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        // A stream's grpc-timeout bounds the stream, which tonic sees to; each question has the default deadline.
        let deadline = CallDeadline { after: self.shared.config.node.default_deadline(), cut: false };
        let (replies, receiver) = mpsc::channel(self.shared.config.node.max_stream_in_flight);
        tokio::spawn(answer_stream(self.shared.clone(), context, deadline, request.into_inner(), replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Answers the questions of one stream until it ends or the node stops, at most node.max_stream_in_flight at once.
async fn answer_stream(
    shared: Arc<Shared>,
    context: RequestContext,
    deadline: CallDeadline,
    mut questions: Streaming<AnswerRequest>,
    replies: mpsc::Sender<Result<AnswerStreamReply, Status>>,
) {
    let in_flight = Arc::new(Semaphore::new(shared.config.node.max_stream_in_flight));
    loop {
        // Not reading is the back-pressure: the client's window fills.
        let Ok(room) = in_flight.clone().acquire_owned().await else { return };
        let next = tokio::select! {
            next = questions.next() => next,
            _ = shared.life.wait_for(|state| state != State::Serving && state != State::Warming) => None,
        };
        let message = match next {
            None => return,
            Some(Ok(message)) => message,
            Some(Err(status)) => {
                // The stream itself is broken or the message unreadable: the caller gets that as the stream's end.
                let _ = replies.send(Err(status)).await;
                return;
            }
        };
        let (shared, context, replies) = (shared.clone(), context.clone(), replies.clone());
        tokio::spawn(async move {
            let request_id = message.request_id.clone();
            let outcome = match wire::question(message, deadline, &shared.config.node) {
                Ok(question) => shared.answer(context, question).await,
                Err(refusal) => Err(refusal),
            };
            let reply = match outcome {
                Ok(answer) => wire::stream_reply(answer),
                Err(refusal) => wire::failure(request_id, &refusal),
            };
            // A caller who has gone needs no reply.
            let _ = replies.send(Ok(reply)).await;
            drop(room);
        });
    }
}
