//! How old what answers see is: from the moment at which an upsert is due until a read has returned that shows it. Upserts go out open-loop over one
//! stream; how late they went out is told beside it. As soon as one is acknowledged the next batch of features is read, which must show it, or the promise is broken and the benchmark
//! fails.

use std::time::{Duration, Instant};

use larder_benches::{Figures, Outcome, percentile};
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::rows_client::RowsClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{GetFeaturesRequest, WriteRowsRequest};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use crate::desk::{Desk, PROFILE, connect, of_shop, user};
use crate::durable::STREAMS;
use crate::writer::{Orders, Writer, now_ms, profile};

/// The first users are upserted in turn by this measurement, and by nothing else.
pub(crate) const SAMPLED_USERS: usize = 2_000;
/// Upserts a second.
const RATE: f64 = 200.0;

/// Sets `upsert_to_next_batch_p50_ms` and `_p99_ms` of a node that does nothing else, and the same of one that takes so many other upserts a second.
pub(crate) fn measure(desk: &Desk, rate: f64, rounds: usize, duration: Duration, figures: &mut Figures) -> Outcome<()> {
    let (mut quiet, mut busy, mut lags, mut turn) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        for (samples, rate) in [(&mut quiet, 0.0), (&mut busy, rate)] {
            let orders = Orders { streams: STREAMS, rows_per_request: 1, rate, duration };
            let writer = (rate > 0.0).then(|| Writer::start(desk.address(), &orders)).transpose()?;
            turn += 1;
            let sampled = desk.wait(sample(desk.address(), turn, duration))?;
            samples.extend(sampled.seen_ms);
            lags.extend(sampled.lag_ms);
            writer.map(Writer::finish).transpose()?;
        }
    }
    figures.set("upsert_samples", quiet.len() as f64);
    figures.set("upsert_send_lag_p99_ms", percentile(&mut lags, 0.99));
    for (key, samples) in [("upsert_to_next_batch", &mut quiet), ("upsert_to_next_batch_busy", &mut busy)] {
        figures.set(format!("{key}_p50_ms"), percentile(samples, 0.5));
        figures.set(format!("{key}_p99_ms"), percentile(samples, 0.99));
    }
    Ok(())
}

/// An upsert that is on its way, by its number.
struct Sent {
    number: usize,
    due: Instant,
}

/// Milliseconds from when each upsert was due.
struct Sampled {
    /// Until it went out.
    lag_ms: Vec<f64>,
    /// Until it was seen.
    seen_ms: Vec<f64>,
}

/// Upserts for so long.
async fn sample(address: &str, turn: usize, duration: Duration) -> Outcome<Sampled> {
    let (writing, reading) = (connect(address).await?, connect(address).await?);
    let (requests, outgoing) = unbounded_channel();
    let (under_way, mut sent) = unbounded_channel();
    let call = of_shop(UnboundedReceiverStream::new(outgoing));
    let mut replies = RowsClient::new(writing).write_stream(call).await?.into_inner();
    let count = (RATE * duration.as_secs_f64()) as usize;
    let points = |number: usize| (turn * count + number) as i64;
    let began = Instant::now();
    let sending = async move {
        let mut lag_ms = Vec::with_capacity(count);
        for number in 0..count {
            let due = began + Duration::from_secs_f64(number as f64 / RATE);
            tokio::time::sleep_until(due.into()).await;
            let row = profile(number % SAMPLED_USERS, points(number), now_ms());
            under_way.send(Sent { number, due })?;
            lag_ms.push(due.elapsed().as_secs_f64() * 1e3);
            requests.send(WriteRowsRequest { sequence: number as u64, rows: vec![row] })?;
        }
        Outcome::Ok(lag_ms)
    };
    let receiving = async {
        let mut seeing = JoinSet::new();
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            let Some(Sent { number, due }) = sent.recv().await else { break };
            if reply.sequence != number as u64 || reply.failure.is_some() {
                return Err(format!("upsert {number} was answered by {reply:?}").into());
            }
            let (reading, points) = (reading.clone(), points(number));
            seeing.spawn(async move { seen(reading, number % SAMPLED_USERS, points).await.map(|()| due.elapsed()) });
        }
        let mut times = Vec::with_capacity(count);
        while let Some(seen) = seeing.join_next().await {
            times.push(seen??.as_secs_f64() * 1e3);
        }
        Outcome::Ok(times)
    };
    let (lag_ms, seen_ms) = tokio::join!(sending, receiving);
    Ok(Sampled { lag_ms: lag_ms?, seen_ms: seen_ms? })
}

/// Reads a user's points, which must be so many: the upsert was acknowledged.
async fn seen(channel: Channel, number: usize, points: i64) -> Result<(), String> {
    let (features, entities) = (vec![format!("{PROFILE}:loyalty_points")], vec![user(number)]);
    let request = of_shop(GetFeaturesRequest { features, service: String::new(), entities });
    let reply = FeaturesClient::new(channel).get_features(request).await.map_err(|status| status.to_string())?;
    let view = reply.into_inner().views.into_iter().next().ok_or("the reply has no view")?;
    let value = view.columns.first().and_then(|column| column.values.first()?.kind.clone());
    match value {
        Some(Kind::IntValue(found)) if found == points => Ok(()),
        other => Err(format!("{} has {other:?} points after {points} were acknowledged", user(number))),
    }
}
