//! The writer: sends upserts of profiles over streams, as fast as they are acknowledged or at a rate, and counts what was acknowledged.
//!
//! It is a process of its own, and of low priority where something measures the node beside it, which so keeps its share of their core. It tells how
//! busy and how crowded it was: a writer that had no more processor to use was the limit, and not the node.

use std::collections::HashMap;
use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_benches::{Crowding, LOAD_CORE, Outcome, Watch};
use larder_serve::v1::rows_client::RowsClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{Row, Value, WriteRowsRequest};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use crate::desk::{PROFILE, USERS, connect, of_shop, user};
use crate::fresh::SAMPLED_USERS;

/// Says that this process is a writer, and to which node.
const AS_CHILD: &str = "LARDER_BENCH_WRITER";
/// What it is to do.
const ORDERS: &str = "LARDER_BENCH_WRITER_ORDERS";
/// Requests of a stream without their acknowledgement: what the node reads ahead by default.
const WINDOW: usize = 16;
/// How often a writer with a rate looks what is due.
const TICK: Duration = Duration::from_millis(2);
/// Requests that are due and not yet sent, at most.
const MOST_DUE: usize = 1024;
/// Not counted, at the beginning.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);

/// What a writer is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orders {
    pub(crate) streams: usize,
    pub(crate) rows_per_request: usize,
    /// Rows a second; 0 = as many as are acknowledged.
    pub(crate) rate: f64,
    /// How long it counts.
    pub(crate) duration: Duration,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrote {
    /// Rows that were acknowledged each second.
    pub(crate) rows_s: f64,
    /// Of the writer.
    pub(crate) crowding: Crowding,
}

/// A writer at work.
pub(crate) struct Writer(Child);

impl Writer {
    /// A writer with a rate is one beside something that measures.
    pub(crate) fn start(address: &str, orders: &Orders) -> Outcome<Writer> {
        let Orders { streams, rows_per_request, rate, duration } = orders;
        let niceness = if *rate > 0.0 { "10" } else { "0" };
        let orders = format!("{streams} {rows_per_request} {rate} {}", duration.as_secs_f64());
        let mut command = Command::new("nice");
        command.args(["-n", niceness, "taskset", "--cpu-list", &LOAD_CORE.to_string()]).arg(std::env::current_exe()?);
        let child = command.env(AS_CHILD, address).env(ORDERS, orders).stdout(Stdio::piped()).spawn()?;
        Ok(Writer(child))
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Outcome<Wrote> {
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            return Err(format!("the writer failed ({}): {said}", output.status).into());
        }
        let numbers: Vec<f64> = said.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [rows_s, ran, waited] = numbers[..] else { return Err(format!("the writer said {said:?}").into()) };
        Ok(Wrote { rows_s, crowding: Crowding { ran, waited } })
    }
}

/// Writes, if this process is a writer, and says what became of it.
pub(crate) fn as_child() -> Option<Outcome<()>> {
    let address = std::env::var(AS_CHILD).ok()?;
    let work = || -> Outcome<()> {
        let orders = std::env::var(ORDERS)?;
        let numbers: Vec<f64> = orders.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [streams, rows_per_request, rate, seconds] = numbers[..] else { return Err(orders.into()) };
        let (streams, rows_per_request) = (streams as usize, rows_per_request as usize);
        let orders = Orders { streams, rows_per_request, rate, duration: Duration::from_secs_f64(seconds) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Wrote { rows_s, crowding } = runtime.block_on(write(&address, orders))?;
        println!("{rows_s} {} {}", crowding.ran, crowding.waited);
        Ok(())
    };
    Some(work())
}

/// Writes until the time is over, waits for what is on its way, and tells how many rows a second were acknowledged.
async fn write(address: &str, orders: Orders) -> Outcome<Wrote> {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let due = (orders.rate > 0.0).then(|| Arc::new(Semaphore::new(0)));
    let mut channels = Vec::new();
    for _ in 0..orders.streams {
        channels.push(connect(address).await?);
    }
    let began = Instant::now();
    let end = began + WARM_UP + orders.duration;
    let mut streams = JoinSet::new();
    for (number, channel) in channels.into_iter().enumerate() {
        let stream = WriterStream { number, orders, due: due.clone(), acknowledged: Arc::clone(&acknowledged) };
        streams.spawn(async move { stream.run(channel, end).await.map_err(|error| error.to_string()) });
    }
    let pacing = due.map(|due| tokio::spawn(pace(due, orders, began)));
    tokio::time::sleep_until((began + WARM_UP).into()).await;
    let (watch, before) = (Watch::start()?, acknowledged.load(Ordering::Relaxed));
    tokio::time::sleep_until(end.into()).await;
    let (crowding, rows) = (watch.crowding()?, acknowledged.load(Ordering::Relaxed) - before);
    pacing.inspect(|pacing| pacing.abort());
    while let Some(outcome) = streams.join_next().await {
        outcome??;
    }
    Ok(Wrote { rows_s: rows as f64 / orders.duration.as_secs_f64(), crowding })
}

/// Lets requests go when they are due.
async fn pace(due: Arc<Semaphore>, orders: Orders, began: Instant) {
    let (mut ticks, mut given) = (tokio::time::interval(TICK), 0);
    loop {
        ticks.tick().await;
        let all = (orders.rate * began.elapsed().as_secs_f64() / orders.rows_per_request as f64) as usize;
        // Those of a node that cannot keep up are not made good later.
        let waiting = due.available_permits();
        due.add_permits((all - given).min(MOST_DUE.saturating_sub(waiting)));
        given = all;
    }
}

/// One stream of requests.
struct WriterStream {
    number: usize,
    orders: Orders,
    due: Option<Arc<Semaphore>>,
    acknowledged: Arc<AtomicU64>,
}

impl WriterStream {
    async fn run(self, channel: Channel, end: Instant) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (requests, outgoing) = unbounded_channel();
        let call = of_shop(UnboundedReceiverStream::new(outgoing));
        let mut replies = RowsClient::new(channel).write_stream(call).await?.into_inner();
        let window = Semaphore::new(WINDOW);
        let sending = tokio::time::timeout_at(end.into(), self.send(&window, requests));
        let receiving = async {
            while let Some(reply) = replies.next().await {
                let reply = reply?;
                if let Some(failure) = reply.failure {
                    return Err(failure.message.into());
                }
                self.acknowledged.fetch_add(reply.rows, Ordering::Relaxed);
                window.add_permits(1);
            }
            Ok(())
        };
        // The time that is over is how the sending ends.
        let (_, received) = tokio::join!(sending, receiving);
        received
    }

    /// Profiles of all users in turn, but those whose rows are sampled.
    async fn send(&self, window: &Semaphore, requests: UnboundedSender<WriteRowsRequest>) {
        let Orders { streams, rows_per_request, .. } = self.orders;
        for sequence in 0.. {
            // Given back by the acknowledgement.
            let Ok(place) = window.acquire().await else { return };
            place.forget();
            if let Some(due) = &self.due {
                let Ok(turn) = due.acquire().await else { return };
                turn.forget();
            }
            let (event_time_ms, first) = (now_ms(), sequence * rows_per_request);
            let row = |nth: usize| {
                let number = (first + nth) * streams + self.number;
                profile(SAMPLED_USERS + number % (USERS - SAMPLED_USERS), number as i64, event_time_ms)
            };
            let rows = (0..rows_per_request).map(row).collect();
            if requests.send(WriteRowsRequest { sequence: sequence as u64, rows }).is_err() {
                return;
            }
        }
    }
}

/// The profile of a user with so many points.
pub(crate) fn profile(number: usize, points: i64, event_time_ms: i64) -> Row {
    let text = |text: &str| Kind::StringValue(text.to_owned());
    let features = [
        ("name", text("Customer Number")),
        ("city", text("Lyon")),
        ("tier", text("gold")),
        ("language", text("en")),
        ("signup_at", Kind::TimestampMs(1_700_000_000_000)),
        ("loyalty_points", Kind::IntValue(points)),
        ("store_credit", Kind::DoubleValue(12.5)),
        ("is_business", Kind::BoolValue(false)),
    ];
    let value = |(name, kind): (&str, Kind)| (name.to_owned(), Value { kind: Some(kind) });
    let features: HashMap<String, Value> = features.into_iter().map(value).collect();
    Row { view: PROFILE.to_owned(), entity: user(number), event_time_ms, features, delete: false }
}

/// Unix milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
