//! DoPut: record batches become live rows of a view.
//!
//! Each batch is written whole or not at all, in order, and acknowledged once it is on disk: the metadata of a PutResult says as JSON how much of
//! the stream is there so far. Many clients never read those, so they do not hold the writing up: where they are not taken, the next one says
//! it all. The first batch that is refused ends the stream; those sent behind it may have been written, and may be sent again.

use std::sync::Arc;

use arrow_flight::{FlightData, PutResult};
use larder_ingest::{Canonical, Changes};
use larder_store::{MAX_WRITE_BYTES, ViewConfig, WriteKind, Written};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tonic::{Status, Streaming};

use crate::error::Refusal;
use crate::flight::decode::{Decoder, EncodedBatch, Received};
use crate::flight::named::Named;
use crate::node::Shared;
use crate::rows::{Acknowledged, Acknowledgements, Batch, Next, Prepare, WriteStream};

/// Acknowledgements that wait for a client to take them.
pub(super) const MAX_UNREAD: usize = 64;

/// What an acknowledgement says: of the stream so far.
#[derive(Debug, Default, Serialize)]
struct Progress {
    batches: u64,
    /// Rows and deletions on disk.
    rows: u64,
    /// Of these: how many change nothing, because something newer stands.
    late: u64,
    /// Left out, because their entity was erased since.
    erased: u64,
}

/// Reads batches until the stream ends, breaks or the node stops.
pub(super) async fn read(shared: Arc<Shared>, stream: WriteStream, mut messages: Streaming<FlightData>) {
    let mut putting = Putting { shared, decoder: Decoder::default(), target: None, columns: None };
    let mut number = 0;
    loop {
        let (data, place) = match stream.next(&mut messages).await {
            Next::Message(data, place) => (data, place),
            Next::Finished => return,
            Next::Ended(status) => return stream.end(status).await,
        };
        let batch = match putting.take(data) {
            Ok(Some(batch)) => batch,
            Ok(None) => continue,
            Err(refusal) => return stream.end(refusal.into()).await,
        };
        let (bytes, prepare) = batch;
        if !stream.write(number, bytes, place, prepare).await {
            return;
        }
        number += 1;
    }
}

/// A stream while it is read.
struct Putting {
    shared: Arc<Shared>,
    decoder: Decoder,
    target: Option<(ViewConfig, WriteKind)>,
    columns: Option<Arc<Canonical>>,
}

impl Putting {
    /// A batch with its bytes, where the message brings one.
    fn take(&mut self, data: FlightData) -> Result<Option<(usize, Prepare)>, Refusal> {
        if let Some(descriptor) = data.flight_descriptor.as_ref().filter(|_| self.target.is_none()) {
            let Named::View { view, kind } = Named::read(descriptor, &self.shared.config)? else {
                return Err(Refusal::Invalid(
                    "rows are put into a view: name it by a path, not by a command".to_owned(),
                ));
            };
            self.target = Some((view.clone(), kind));
        }
        let Some((view, kind)) = &self.target else {
            return Err(Refusal::Invalid(
                "the first message names no view: its descriptor is a path of one name".to_owned(),
            ));
        };
        match self.decoder.take(data)? {
            Received::Nothing => Ok(None),
            Received::Schema(schema) => {
                let columns = match kind {
                    WriteKind::Upsert => Canonical::of_rows(view, &schema),
                    WriteKind::Delete => Canonical::of_deletions(view, &schema),
                };
                self.columns = Some(Arc::new(columns.map_err(|error| invalid(&error))?));
                Ok(None)
            }
            Received::Batch(encoded) => {
                let Some(columns) = self.columns.clone() else {
                    return Err(Refusal::Internal("a batch was taken without its schema".to_owned()));
                };
                let shared = Arc::clone(&self.shared);
                Ok(Some((encoded.bytes(), prepare(shared, encoded, columns, view.name.clone(), *kind))))
            }
        }
    }
}

/// What decodes a batch on a writing thread.
fn prepare(
    shared: Arc<Shared>,
    encoded: EncodedBatch,
    columns: Arc<Canonical>,
    view: String,
    kind: WriteKind,
) -> Prepare {
    Box::new(move || {
        let batch = encoded.decode(shared.config.rows.max_batch_rows)?;
        let rows = columns.convert(&batch, MAX_WRITE_BYTES).map_err(|error| invalid(&error))?;
        Batch { changes: vec![Changes { view, kind, rows }] }.checked(shared.config.node.shard)
    })
}

pub(super) fn invalid(error: &larder_ingest::Error) -> Refusal {
    Refusal::Invalid(error.to_string())
}

/// Tells a client how far its stream is.
pub(super) async fn acknowledge(
    mut acknowledgements: Acknowledgements,
    replies: mpsc::Sender<Result<PutResult, Status>>,
) {
    let (mut progress, mut untold) = (Progress::default(), false);
    let mut end = None;
    while let Some(acknowledged) = acknowledgements.next().await {
        match acknowledged {
            Acknowledged::Batch { outcome: Ok(written), place, .. } => {
                progress.add(written);
                drop(place);
                match replies.try_send(Ok(progress.told())) {
                    Ok(()) => untold = false,
                    Err(TrySendError::Full(_)) => untold = true,
                    Err(TrySendError::Closed(_)) => return,
                }
            }
            Acknowledged::Batch { number, outcome: Err(refusal), .. } => {
                let status = Status::from(refusal);
                let message = format!("batch {number}: {}", status.message());
                let details = status.details().to_vec().into();
                end = Some(Status::with_details(status.code(), message, details));
                break;
            }
            Acknowledged::End(status) => end = Some(status),
        }
    }
    if untold && replies.send(Ok(progress.told())).await.is_err() {
        return;
    }
    if let Some(status) = end {
        let _ = replies.send(Err(status)).await;
    }
}

impl Progress {
    fn add(&mut self, written: Written) {
        self.batches += 1;
        self.rows += written.rows + written.deletions;
        self.late += written.late;
        self.erased += written.erased;
    }

    fn told(&self) -> PutResult {
        PutResult { app_metadata: serde_json::to_vec(self).unwrap_or_default().into() }
    }
}
