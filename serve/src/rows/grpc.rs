//! The Rows service: Write and WriteStream.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use larder_store::Written;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::context::RequestContext;
use crate::error::Refusal;
use crate::metrics;
use crate::node::Shared;
use crate::pipeline::now_ms;
use crate::rows::{
    Acknowledged, Acknowledgements, Batch, Next, Prepare, WriteStream, check_rows, may_write, serving, told, wire,
};
use crate::v1::rows_server::Rows as RowsCalls;
use crate::v1::{Row, WriteRowsReply, WriteRowsRequest};

#[derive(Debug)]
pub(crate) struct RowsService {
    shared: Arc<Shared>,
}

impl RowsService {
    pub(crate) fn new(shared: Arc<Shared>) -> RowsService {
        RowsService { shared }
    }

    /// Who writes; somebody who may.
    fn caller(&self, metadata: &MetadataMap) -> Result<RequestContext, Refusal> {
        let context = self.shared.identity.context(metadata)?;
        may_write(&self.shared.config, &context.tenant)?;
        Ok(context)
    }

    async fn write_one(&self, context: RequestContext, message: WriteRowsRequest) -> Result<Written, Refusal> {
        let arrived = Instant::now();
        let writer = serving(&self.shared)?.writer();
        let room = writer.room_now(message.encoded_len()).inspect_err(metrics::rows_refused)?;
        let prepare = prepare(&self.shared, message.rows);
        told(writer.write(context.tenant_id, arrived, room, prepare)).await
    }
}

#[tonic::async_trait]
impl RowsCalls for RowsService {
    async fn write(&self, request: Request<WriteRowsRequest>) -> Result<Response<WriteRowsReply>, Status> {
        let context = self.caller(request.metadata())?;
        let message = request.into_inner();
        let sequence = message.sequence;
        let written = self.write_one(context, message).await?;
        Ok(Response::new(reply(sequence, written)))
    }

    type WriteStreamStream = Pin<Box<dyn Stream<Item = Result<WriteRowsReply, Status>> + Send>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<WriteRowsRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let context = self.caller(request.metadata())?;
        let (stream, acknowledgements) = WriteStream::open(&self.shared, context.tenant_id)?;
        let (replies, receiver) = mpsc::channel(1);
        tokio::spawn(read(self.shared.clone(), stream, request.into_inner()));
        tokio::spawn(acknowledge(acknowledgements, replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Reads batches until the stream ends, breaks or the node stops.
async fn read(shared: Arc<Shared>, stream: WriteStream, mut messages: Streaming<WriteRowsRequest>) {
    loop {
        let (message, place) = match stream.next(&mut messages).await {
            Next::Message(message, place) => (message, place),
            Next::Finished => return,
            Next::Ended(status) => return stream.end(status).await,
        };
        let (sequence, bytes) = (message.sequence, message.encoded_len());
        if !stream.write(sequence, bytes, place, prepare(&shared, message.rows)).await {
            return;
        }
    }
}

/// Replies to each batch in its turn. A client that has gone takes the rest of the stream along; what was read is written all the same.
async fn acknowledge(mut acknowledgements: Acknowledgements, replies: mpsc::Sender<Result<WriteRowsReply, Status>>) {
    while let Some(acknowledged) = acknowledgements.next().await {
        let (message, place) = match acknowledged {
            Acknowledged::Batch { number, outcome, place } => {
                let message =
                    outcome.map_or_else(|refusal| wire::failure(number, &refusal), |written| reply(number, written));
                (Ok(message), Some(place))
            }
            Acknowledged::End(status) => (Err(status), None),
        };
        if replies.send(message).await.is_err() {
            return;
        }
        drop(place);
    }
}

/// What checks a batch on a writing thread.
fn prepare(shared: &Arc<Shared>, rows: Vec<Row>) -> Prepare {
    let shared = shared.clone();
    // At once, so that rows without end do not lie in memory until their turn: empty ones are a few bytes on the way and a hundred here.
    let rows = check_rows(rows.len(), &shared.config.rows).map(|()| rows);
    Box::new(move || -> Result<Batch, Refusal> {
        let rows = rows?;
        wire::batch(rows, &shared.config.views, now_ms())?.checked(shared.config.node.shard)
    })
}

fn reply(sequence: u64, written: Written) -> WriteRowsReply {
    let Written { rows, deletions, late, erased } = written;
    WriteRowsReply { sequence, rows: rows + deletions, late, erased, failure: None }
}
