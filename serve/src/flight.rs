//! Arrow Flight: rows in and features out as record batches, on the same port as everything else, so that pyarrow and other clients work as they
//! are.
//!
//! `named` is what a call names, a view or features; `decode` takes messages in with care. `put` writes live rows, `table` and `exchange` read
//! features, `action` is what operators do. Who calls comes from the call's headers, as everywhere. Types of Flight stop in these files.

mod action;
mod decode;
mod exchange;
mod named;
mod put;
mod table;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::StringArray;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::flight_service_server::{FlightService as FlightCalls, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc, SchemaResult, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use larder_store::{FeatureRef, GenerationState, TenantId, ViewConfig, WriteKind};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::admin::AdminService;
use crate::error::Refusal;
use crate::features::check_entities_of_call;
use crate::flight::named::{Command, Named};
use crate::node::Shared;
use crate::rows::{WriteStream, may_write};

/// When a stream that found too many others may come back.
const CROWD_RETRY: Duration = Duration::from_millis(100);
/// Messages of a reply that wait for the client.
const MAX_UNREAD: usize = 4;

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, with its limits.
pub(crate) fn service(shared: &Arc<Shared>, max_reply_bytes: usize) -> FlightServiceServer<FlightService> {
    let exchanges = Arc::new(Semaphore::new(shared.config.node.max_exchanges));
    let service = FlightService { shared: shared.clone(), admin: AdminService::new(shared.clone()), exchanges };
    FlightServiceServer::new(service)
        .max_decoding_message_size(shared.config.node.max_message_bytes)
        .max_encoding_message_size(max_reply_bytes)
}

#[derive(Debug)]
pub(crate) struct FlightService {
    shared: Arc<Shared>,
    admin: AdminService,
    /// node.max_exchanges: each holds dictionaries and a batch.
    exchanges: Arc<Semaphore>,
}

impl FlightService {
    /// The view as something to put rows into, with the rows of its live snapshot.
    fn view_info(&self, view: &ViewConfig, kind: WriteKind, tenant: TenantId) -> Result<FlightInfo, Status> {
        let (path, schema) = match kind {
            WriteKind::Upsert => (vec![view.name.clone()], view.arrow_schema()),
            WriteKind::Delete => (vec![view.name.clone(), "deletions".to_owned()], view.deletion_schema()),
        };
        let generations = self.shared.serving()?.store.generations();
        let live = generations
            .into_iter()
            .find(|info| (info.tenant, info.state) == (tenant, GenerationState::Live) && info.view == view.name);
        let rows = live.filter(|_| kind == WriteKind::Upsert).and_then(|info| i64::try_from(info.rows).ok());
        let info = FlightInfo::new().with_descriptor(FlightDescriptor::new_path(path));
        Ok(with_schema(info, &schema)?.with_total_records(rows.unwrap_or(-1)))
    }

    async fn schema_of(&self, features: Vec<FeatureRef>) -> Result<SchemaRef, Refusal> {
        let engine = self.shared.serving()?.clone();
        self.shared.reading(move || table::schema(&engine, &features)).await
    }
}

fn with_schema(info: FlightInfo, schema: &Schema) -> Result<FlightInfo, Status> {
    info.try_with_schema(schema).map_err(|error| Refusal::Internal(format!("a schema cannot be sent: {error}")).into())
}

/// A reply of which everything is known.
fn all<T: Send + 'static>(messages: impl IntoIterator<Item = T, IntoIter: Send + 'static>) -> Response<Reply<T>> {
    Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl FlightCalls for FlightService {
    type HandshakeStream = Reply<HandshakeResponse>;

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("no handshake is needed: who calls is read from each call's headers"))
    }

    type ListFlightsStream = Reply<FlightInfo>;

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let views = self.shared.config.views.iter();
        let infos = views.map(|view| self.view_info(view, WriteKind::Upsert, context.tenant_id));
        Ok(all(infos.collect::<Result<Vec<_>, _>>()?))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let descriptor = request.into_inner();
        let info = match Named::read(&descriptor, &self.shared.config)? {
            Named::View { view, kind } => self.view_info(view, kind, context.tenant_id)?,
            Named::Features(command) => {
                let schema = self.schema_of(command.features(&self.shared.config)?).await?;
                let ticket = Ticket { ticket: descriptor.cmd.clone() };
                let rows = i64::try_from(command.entities.len()).unwrap_or(-1);
                let info = FlightInfo::new().with_descriptor(descriptor).with_total_records(rows);
                with_schema(info, &schema)?.with_endpoint(FlightEndpoint::new().with_ticket(ticket))
            }
        };
        Ok(Response::new(info))
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("nothing here takes so long that it must be polled: use GetFlightInfo"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        self.shared.identity.context(request.metadata())?;
        let schema = match Named::read(request.get_ref(), &self.shared.config)? {
            Named::View { view, kind: WriteKind::Upsert } => view.arrow_schema(),
            Named::View { view, kind: WriteKind::Delete } => view.deletion_schema(),
            Named::Features(command) => self.schema_of(command.features(&self.shared.config)?).await?,
        };
        let options = IpcWriteOptions::default();
        let encoded = SchemaResult::try_from(SchemaAsIpc::new(&schema, &options));
        Ok(Response::new(encoded.map_err(|error| Refusal::Internal(format!("a schema cannot be sent: {error}")))?))
    }

    type DoGetStream = Reply<FlightData>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let command = Command::parse(&request.get_ref().ticket)?;
        let features = command.features(&self.shared.config)?;
        check_entities_of_call(&self.shared.config.node, &command.entities)?;
        let engine = self.shared.serving()?.clone();
        let entities = StringArray::from(command.entities);
        let work = move || table::messages(&table::table(&engine, context.tenant_id, &features, &entities)?, true);
        Ok(all(self.shared.reading(work).await?))
    }

    type DoPutStream = Reply<PutResult>;

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        may_write(&self.shared.config, &context.tenant)?;
        let (stream, acknowledgements) = WriteStream::open(&self.shared, context.tenant_id)?;
        let (replies, receiver) = mpsc::channel(put::MAX_UNREAD);
        tokio::spawn(put::read(self.shared.clone(), stream, request.into_inner()));
        tokio::spawn(put::acknowledge(acknowledgements, replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type DoExchangeStream = Reply<FlightData>;

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        self.shared.serving()?;
        let place = self.exchanges.clone().try_acquire_owned();
        let place = place.map_err(|_| Refusal::QueueFull { retry_after: CROWD_RETRY })?;
        let (replies, receiver) = mpsc::channel(MAX_UNREAD);
        let exchanging = exchange::exchange(self.shared.clone(), context.tenant_id, request.into_inner(), replies);
        tokio::spawn(async move {
            exchanging.await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type DoActionStream = Reply<ActionResult>;

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let context = self.shared.identity.context(request.metadata())?;
        let result = action::run(&self.admin, context, request.into_inner()).await?;
        Ok(all([ActionResult { body: result.to_string().into_bytes().into() }]))
    }

    type ListActionsStream = Reply<ActionType>;

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.shared.identity.context(request.metadata())?;
        Ok(all(action::list().collect::<Vec<_>>()))
    }
}
