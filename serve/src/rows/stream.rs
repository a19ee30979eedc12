//! A caller that sends one batch after the other: batches are read ahead and written in their order, and acknowledged in their order.
//!
//! Not reading is the back-pressure. A permit is taken before a batch is read and given back when its acknowledgement has gone out, so a client
//! that sends and never reads replies soon finds its own window full. A node that drains reads no more, acknowledges what it has read, and
//! then ends the stream with the reason.

use std::sync::Arc;
use std::time::Instant;

use larder_store::{TenantId, Written};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use crate::error::Refusal;
use crate::life::State;
use crate::node::Shared;
use crate::rows::{Outcome, Prepare, RowWriter, serving, told};

/// The reading side.
#[derive(Debug)]
pub(crate) struct WriteStream {
    shared: Arc<Shared>,
    tenant: TenantId,
    writer: RowWriter,
    unacknowledged: Arc<Semaphore>,
    pending: mpsc::Sender<Pending>,
}

/// What the reading side hands to the other.
#[derive(Debug)]
enum Pending {
    Batch { number: u64, outcome: Outcome, place: OwnedSemaphorePermit },
    End(Status),
}

/// What comes next on a stream.
pub(crate) enum Next<M> {
    /// A message, and its place among those that are not acknowledged.
    Message(M, OwnedSemaphorePermit),
    /// The client has sent everything.
    Finished,
    /// The stream is broken, or the node drains.
    Ended(Status),
}

impl WriteStream {
    /// Both sides of a new stream; one more than rows.max_streams is refused.
    pub(crate) fn open(shared: &Arc<Shared>, tenant: TenantId) -> Result<(WriteStream, Acknowledgements), Refusal> {
        let most = shared.config.rows.max_unacknowledged;
        // One more for the end.
        let (pending, waiting) = mpsc::channel(most + 1);
        let stream = WriteStream {
            shared: shared.clone(),
            tenant,
            writer: serving(shared)?.stream_writer()?,
            unacknowledged: Arc::new(Semaphore::new(most)),
            pending,
        };
        Ok((stream, Acknowledgements(waiting)))
    }

    /// Waits for a place, then for a message.
    pub(crate) async fn next<M>(&self, messages: &mut Streaming<M>) -> Next<M> {
        let message = async {
            let place = self.unacknowledged.clone().acquire_owned().await;
            (messages.next().await, place)
        };
        tokio::select! {
            (message, place) = message => match (message, place) {
                (Some(Ok(message)), Ok(place)) => Next::Message(message, place),
                (Some(Err(status)), _) => Next::Ended(status),
                _ => Next::Finished,
            },
            _ = self.shared.life.wait_for(|state| state != State::Serving) => {
                let refusal = self.shared.life.answering().err().unwrap_or_else(Refusal::draining);
                Next::Ended(refusal.into())
            }
            // The other side has found the client gone.
            () = self.pending.closed() => Next::Finished,
        }
    }

    /// Hands a batch of so many bytes over, once the node has room for it. False where nobody waits for it any more.
    pub(crate) async fn write(&self, number: u64, bytes: usize, place: OwnedSemaphorePermit, prepare: Prepare) -> bool {
        let arrived = Instant::now();
        let Ok(room) = self.writer.room(bytes).await else { return false };
        let outcome = self.writer.write(self.tenant, arrived, room, prepare);
        self.pending.send(Pending::Batch { number, outcome, place }).await.is_ok()
    }

    /// Ends the stream after its last acknowledgement.
    pub(crate) async fn end(self, status: Status) {
        let _ = self.pending.send(Pending::End(status)).await;
    }
}

/// The replying side.
#[derive(Debug)]
pub(crate) struct Acknowledgements(mpsc::Receiver<Pending>);

/// What has become of a batch, or of the stream.
pub(crate) enum Acknowledged {
    /// A batch; its place is given back when this is dropped.
    Batch { number: u64, outcome: Result<Written, Refusal>, place: OwnedSemaphorePermit },
    /// The last of a stream that did not end well.
    End(Status),
}

impl Acknowledgements {
    /// The next, in the order of the batches; none after the last.
    pub(crate) async fn next(&mut self) -> Option<Acknowledged> {
        Some(match self.0.recv().await? {
            Pending::Batch { number, outcome, place } => {
                Acknowledged::Batch { number, outcome: told(outcome).await, place }
            }
            Pending::End(status) => Acknowledged::End(status),
        })
    }
}
