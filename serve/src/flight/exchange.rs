//! DoExchange: batches of keys go in, batches of features come out, row by row in the same order. One batch is under way at a time: a client that
//! does not read is not read from.

use std::sync::Arc;

use arrow_flight::FlightData;
use larder_ingest::entities;
use larder_store::{FeatureRef, MAX_WRITE_BYTES, TenantId};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use crate::error::Refusal;
use crate::flight::decode::{Decoder, EncodedBatch, Received};
use crate::flight::named::Named;
use crate::flight::put::invalid;
use crate::flight::table;
use crate::life::State;
use crate::node::Shared;
use crate::shard::check_entities;

/// What a stream asks for.
#[derive(Debug, Clone)]
struct Wanted {
    features: Vec<FeatureRef>,
    key: Option<String>,
}

/// Answers a stream until it ends, breaks or the node stops.
pub(super) async fn exchange(
    shared: Arc<Shared>,
    tenant: TenantId,
    mut messages: Streaming<FlightData>,
    replies: mpsc::Sender<Result<FlightData, Status>>,
) {
    let exchanging = async {
        let (mut decoder, mut wanted) = (Decoder::default(), None);
        loop {
            let data = tokio::select! {
                data = messages.next() => match data {
                    Some(data) => data?,
                    None => return Ok(()),
                },
                _ = shared.life.wait_for(|state| state != State::Serving) => {
                    return Err(Status::from(shared.life.answering().err().unwrap_or_else(Refusal::draining)));
                }
            };
            if let Some(descriptor) = data.flight_descriptor.as_ref().filter(|_| wanted.is_none()) {
                let Named::Features(command) = Named::read(descriptor, &shared.config)? else {
                    let message =
                        "features are named by a command, JSON like {\"service\": \"answers\"}, not by a path";
                    return Err(Refusal::Invalid(message.to_owned()).into());
                };
                let asked = Wanted { features: command.features(&shared.config)?, key: command.key };
                send(&replies, opening(&shared, &asked).await?).await?;
                wanted = Some(asked);
            }
            let Some(wanted) = &wanted else {
                let message = "the first message names no features: its descriptor is a command".to_owned();
                return Err(Refusal::Invalid(message).into());
            };
            if let Received::Batch(encoded) = decoder.take(data)? {
                send(&replies, answer(&shared, tenant, wanted.clone(), encoded).await?).await?;
            }
        }
    };
    let ended = tokio::select! {
        ended = exchanging => ended,
        () = replies.closed() => return,
    };
    if let Err(status) = ended {
        let _ = replies.send(Err(status)).await;
    }
}

async fn send(replies: &mpsc::Sender<Result<FlightData, Status>>, messages: Vec<FlightData>) -> Result<(), Status> {
    for message in messages {
        replies.send(Ok(message)).await.map_err(|_| Status::cancelled("the client has gone"))?;
    }
    Ok(())
}

/// The schema of what will come.
async fn opening(shared: &Arc<Shared>, wanted: &Wanted) -> Result<Vec<FlightData>, Refusal> {
    let (engine, features) = (shared.serving()?.clone(), wanted.features.clone());
    let work = move || {
        let schema = table::schema(&engine, &features)?;
        table::messages(&arrow::array::RecordBatch::new_empty(schema), true)
    };
    shared.reading_in_turn(work).await
}

async fn answer(
    shared: &Arc<Shared>,
    tenant: TenantId,
    wanted: Wanted,
    encoded: EncodedBatch,
) -> Result<Vec<FlightData>, Refusal> {
    let engine = shared.serving()?.clone();
    let (most, shard) = (shared.config.node.max_entities, shared.config.node.shard);
    let work = move || {
        let batch = encoded.decode(most)?;
        let keys = entities(&batch, wanted.key.as_deref(), MAX_WRITE_BYTES).map_err(|error| invalid(&error))?;
        check_entities(keys.iter().flatten(), shard)?;
        table::messages(&table::table(&engine, tenant, &wanted.features, &keys)?, false)
    };
    shared.reading_in_turn(work).await
}
