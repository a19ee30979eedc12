//! The node's life: bind, warm, serve, drain. What happens to one question is in `pipeline`; this is everything around it.
//!
//! A node listens from the first moment and says NOT_SERVING until it is warm, so that whoever starts it can wait on its
//! health. Stopping goes the other way: not ready, take nothing new, answer what was let in, note what is hot, close the
//! listeners. The store closes with the last handle to it. Nothing that was let in is lost on that way.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use larder_model::{Devices, ModelConfig};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::cgroup::Limits;
use crate::chaos::Chaos;
use crate::config::NodeConfig;
use crate::context::RequestContext;
use crate::engine::Engine;
use crate::error::{Error, Refusal};
use crate::feedback::Feedback;
use crate::grpc;
use crate::http;
use crate::identity::Identity;
use crate::ingest_thread::IngestThread;
use crate::lane::Lane;
use crate::life::{Life, State};
use crate::memory;
use crate::metrics::Counters;
use crate::pipeline::Pipeline;
use crate::question::{Answer, Question};
use crate::rows::Rows;
use crate::schedule::admission::retry_after;
use crate::streams::Streams;
use crate::threads::{ThreadCores, allowed};
use crate::warmth;

/// The services whose health is reported, beside the node's own under the empty name.
const HEALTH_SERVICES: [&str; 8] = [
    "",
    "larder.v1.Answers",
    "larder.v1.Features",
    "larder.v1.Lane",
    "larder.v1.Feedback",
    "larder.v1.Rows",
    "larder.v1.Admin",
    "arrow.flight.protocol.FlightService",
];
/// How long a stopping node may take to note what is hot.
const KEEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the listeners may take to close once every question is answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// When a refused read may try again.
const READ_RETRY: Duration = Duration::from_millis(50);

/// Serves until `shutdown` resolves, then drains. Returns early when the node cannot start or a worker fails.
pub async fn run(config: NodeConfig, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut node = Node::bind(config).await?;
    tokio::pin!(shutdown);
    tokio::select! {
        warmed = node.warm() => warmed?,
        () = &mut shutdown => return node.drain().await,
    }
    tokio::select! {
        () = shutdown => tracing::info!("stopping: answering what was let in"),
        worker = node.failed() => tracing::error!(worker, "stopping: a worker failed"),
    }
    node.drain().await
}

/// A serving node. Dropping it without `drain` gives up what it has not answered.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    address: SocketAddr,
    metrics_address: SocketAddr,
    health: HealthReporter,
    pipeline: Option<Pipeline>,
    listeners: Option<Listeners>,
}

#[derive(Debug)]
struct Listeners {
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    http: JoinHandle<std::io::Result<()>>,
    /// Dropping these closes the listeners.
    stop: (oneshot::Sender<()>, oneshot::Sender<()>),
}

/// What the services of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    pub(crate) life: Life,
    pub(crate) counters: Arc<Counters>,
    pub(crate) started: Instant,
    pub(crate) chaos: Chaos,
    /// node.max_concurrent_reads.
    reads: Arc<Semaphore>,
    /// Reads of streams, which wait for each other and not before those that do not wait.
    stream_reads: Arc<Semaphore>,
    /// Looks inside, which may stand before a disk that hangs.
    looks: Arc<Semaphore>,
    ingest: IngestThread,
    pub(crate) limits: Limits,
    engine: OnceLock<Arc<Engine>>,
    pub(crate) lane: OnceLock<Lane>,
    pub(crate) feedback: OnceLock<Feedback>,
    pub(crate) rows: OnceLock<Rows>,
    pub(crate) streams: OnceLock<Streams>,
}

impl Node {
    /// Listens, answering every question with UNAVAILABLE until `warm` has returned.
    pub async fn bind(config: NodeConfig) -> Result<Node, Error> {
        // Before any counter is made, or it counts into the void.
        http::install_recorder();
        let chaos = Chaos::new(config.chaos, config.allow_chaos)?;
        let cores = ThreadCores::of(&config)?;
        let limits = Limits::here();
        memory::check(&config.store, &limits)?;
        let grpc = listen("node.listen", config.node.listen).await?;
        let http = listen("node.metrics_listen", config.node.metrics_listen).await?;
        let address = grpc.local_addr().map_err(system("reading the gRPC address"))?;
        let metrics_address = http.local_addr().map_err(system("reading the metrics address"))?;
        let shared = Arc::new(Shared {
            identity: Identity::new(&config),
            life: Life::new(),
            counters: Arc::new(Counters::new()),
            started: Instant::now(),
            chaos,
            reads: Arc::new(Semaphore::new(config.node.max_concurrent_reads)),
            stream_reads: Arc::new(Semaphore::new(config.node.max_concurrent_reads)),
            looks: Arc::new(Semaphore::new(1)),
            ingest: IngestThread::start(cores.ingest)?,
            limits,
            engine: OnceLock::new(),
            lane: OnceLock::new(),
            feedback: OnceLock::new(),
            rows: OnceLock::new(),
            streams: OnceLock::new(),
            config,
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::NotServing).await;
        let (stop_grpc, grpc_stopped) = oneshot::channel::<()>();
        let (stop_http, http_stopped) = oneshot::channel::<()>();
        let router = grpc::router(&shared, health_service)
            .map_err(|source| Error::System { context: "building the reflection service", source: source.into() })?;
        let grpc = tokio::spawn(grpc::serve(router, grpc, shared.chaos.is_allowed(), async {
            let _ = grpc_stopped.await;
        }));
        let http = tokio::spawn(http::serve(shared.clone(), http, async {
            let _ = http_stopped.await;
        }));
        tracing::info!(%address, %metrics_address, "listening");
        let listeners = Some(Listeners { grpc, http, stop: (stop_grpc, stop_http) });
        Ok(Node { shared, address, metrics_address, health, pipeline: None, listeners })
    }

    /// Where gRPC is served; tells the port when larder.toml says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where /metrics is served.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Opens the store, loads the model and the tenants, warms up and starts to serve.
    pub async fn warm(&mut self) -> Result<(), Error> {
        self.warm_on(Devices::open).await
    }

    /// The same on devices that a test opens.
    #[doc(hidden)]
    pub async fn warm_on(
        &mut self,
        open_devices: impl FnOnce(&ModelConfig) -> Result<Devices, larder_model::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let shared = self.shared.clone();
        let began = Instant::now();
        let open = move || {
            let config = &shared.config;
            let cores = ThreadCores::of(config)?;
            // What the store and the model start on their own has the CPUs of its kind.
            let open_devices = |model: &ModelConfig| {
                let threads = model_threads(model, &cores, &shared.limits);
                log_machine(&cores, &shared.limits, threads);
                cores.score.hold(|| open_devices(&ModelConfig { threads, ..model.clone() }))
            };
            let engine = cores.fetch.hold(|| Engine::open(config, open_devices, shared.counters.clone()))?;
            if let Some(warning) = memory::warning(&config.store, &engine.encoders, &shared.limits) {
                tracing::warn!("{warning}");
            }
            warmth::before_ready(&engine, config);
            Ok::<_, Error>(engine)
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let engine = Arc::new(opened.map_err(system("opening the node"))??);
        self.pipeline = Some(Pipeline::start(&engine, &self.shared.life)?);
        Lane::start(&self.shared, &engine).await?;
        Rows::start(&self.shared, &engine)?;
        Streams::start(&self.shared, &engine).await?;
        Feedback::start(&self.shared, &engine).await?;
        let _ = self.shared.engine.set(engine.clone());
        self.shared.chaos.apply(&engine);
        self.shared.life.serve();
        set_health(&self.health, ServingStatus::Serving).await;
        self.watch_for_failure();
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "serving");
        Ok(())
    }

    /// Health follows a failing worker at once, whether or not anybody waits on `failed`.
    fn watch_for_failure(&self) {
        let (life, health) = (self.shared.life.clone(), self.health.clone());
        tokio::spawn(async move {
            life.wait_for(|state| state != State::Serving).await;
            set_health(&health, ServingStatus::NotServing).await;
        });
    }

    /// Waits for a worker to fail and says which.
    pub async fn failed(&self) -> &'static str {
        match self.shared.life.wait_for(|state| matches!(state, State::Failed { .. })).await {
            State::Failed { worker } => worker,
            _ => "unknown",
        }
    }

    /// Stops: nothing new is let in, what was let in is answered, then everything is closed.
    pub async fn drain(mut self) -> Result<(), Error> {
        self.shared.life.drain();
        if let Some(streams) = self.shared.streams.get() {
            streams.stop();
        }
        set_health(&self.health, ServingStatus::NotServing).await;
        let answered = self.finish_questions().await;
        if let Some(lane) = self.shared.lane.get() {
            lane.close().await;
        }
        if let Some(rows) = self.shared.rows.get() {
            rows.close().await;
        }
        if let Some(streams) = self.shared.streams.get() {
            streams.close().await;
        }
        if let Some(feedback) = self.shared.feedback.get() {
            feedback.close().await;
        }
        self.keep_warmth().await;
        self.close_listeners().await?;
        answered?;
        match self.shared.life.state() {
            State::Failed { worker } => Err(Error::WorkerFailed { worker }),
            _ => Ok(()),
        }
    }

    async fn finish_questions(&mut self) -> Result<(), Error> {
        let (Some(engine), Some(pipeline)) = (self.shared.engine.get(), self.pipeline.take()) else { return Ok(()) };
        engine.queue.drain();
        let timeout_s = self.shared.config.node.drain_timeout_s;
        let mut joining = tokio::task::spawn_blocking(move || pipeline.join());
        if tokio::time::timeout(Duration::from_secs(timeout_s), &mut joining).await.is_ok() {
            return Ok(());
        }
        let unanswered = engine.queue.backlog().questions;
        engine.queue.fail();
        // A thread that hangs on a disk is left behind.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, joining).await;
        Err(Error::DrainTimeout { unanswered, timeout_s })
    }

    /// A disk that hangs costs the next start its warmth, and this stop no more than a moment.
    async fn keep_warmth(&self) {
        let Some(engine) = self.shared.engine.get().cloned() else { return };
        let file = self.shared.config.hot_set_file();
        let keeping = tokio::task::spawn_blocking(move || warmth::keep(&engine.store, &file));
        if tokio::time::timeout(KEEP_TIMEOUT, keeping).await.is_err() {
            tracing::warn!("the hot set is not kept: it took longer than {} s", KEEP_TIMEOUT.as_secs());
        }
    }

    async fn close_listeners(&mut self) -> Result<(), Error> {
        let Some(Listeners { mut grpc, mut http, stop }) = self.listeners.take() else { return Ok(()) };
        drop(stop);
        // Clients that watch the health would keep their connections open.
        for service in HEALTH_SERVICES {
            self.health.clear_service_status(service).await;
        }
        // A call that a client keeps open must not keep the node: past the time-out it is left to the end of the process.
        match tokio::time::timeout(CLOSE_TIMEOUT, &mut grpc).await {
            Ok(closed) => closed.map_err(system("closing the gRPC listener"))?.map_err(system("serving gRPC"))?,
            Err(_) => {
                tracing::warn!("calls were still open {} s after the drain; they are cut", CLOSE_TIMEOUT.as_secs());
                grpc.abort();
            }
        }
        match tokio::time::timeout(CLOSE_TIMEOUT, &mut http).await {
            Ok(closed) => closed.map_err(system("closing the metrics listener"))?.map_err(system("serving metrics"))?,
            Err(_) => http.abort(),
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(engine) = self.shared.engine.get() {
            engine.queue.fail();
        }
        if let Some(streams) = self.shared.streams.get() {
            streams.stop();
        }
        if let Some(listeners) = &self.listeners {
            listeners.grpc.abort();
            listeners.http.abort();
        }
    }
}

impl Shared {
    /// The engine, once the node serves and as long as it does.
    pub(crate) fn serving(&self) -> Result<&Arc<Engine>, Refusal> {
        self.life.answering()?;
        self.engine.get().ok_or_else(|| Refusal::Internal("a serving node has no engine".to_owned()))
    }

    /// The engine, if it was ever opened: for figures.
    pub(crate) fn engine(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }

    /// Answers one question or says why not. This is the whole request path as an I/O thread sees it.
    pub(crate) async fn answer(&self, context: RequestContext, question: Question) -> Result<Answer, Refusal> {
        let class = context.class;
        let outcome = self.wait_for_answer(context, question).await;
        match &outcome {
            Ok(answer) => self.counters.answered(class, answer.handed_over, answer.choice),
            Err(refusal) => self.counters.refused(class, refusal),
        }
        outcome
    }

    async fn wait_for_answer(&self, context: RequestContext, question: Question) -> Result<Answer, Refusal> {
        let engine = self.serving()?;
        let deadline = question.deadline;
        let (place, reply) = engine.admit(context, question)?;
        match tokio::time::timeout_at(deadline.into(), reply).await {
            Ok(Ok(outcome)) => {
                place.answered();
                outcome
            }
            // Dropped before its time: only a failing worker does that, a moment before the node knows.
            Ok(Err(_)) if Instant::now() < deadline => {
                Err(Refusal::Unavailable { state: "failed", retry_after: Duration::from_secs(5) })
            }
            Ok(Err(_)) | Err(_) => {
                place.expired();
                Err(Refusal::Expired { retry_after: retry_after(engine.queue.backlog().cost) })
            }
        }
    }

    /// Runs a read of many entities off the I/O threads; one more than node.max_concurrent_reads is refused.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        blocking(&self.reads, READ_RETRY, work).await
    }

    /// The same for a stream whose reads come one after the other: it waits until there is room.
    pub(crate) async fn reading_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = self.stream_reads.clone().acquire_owned().await.map_err(|_| Refusal::draining())?;
        on_own_thread(permit, work).await
    }

    /// Runs a look inside the store, one at a time: it may wait for a disk that serves nobody else.
    pub(crate) async fn looking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        blocking(&self.looks, READ_RETRY, work).await
    }

    /// Runs what changes the store or a tenant (publish, place, erase and their like) on a thread of its own, one at a time; a second one is
    /// refused.
    pub(crate) async fn changing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ingest.run(work).await
    }
}

/// Threads of the model's pool: as many as there are CPUs for them, unless larder.toml says how many.
fn model_threads(model: &ModelConfig, cores: &ThreadCores, limits: &Limits) -> usize {
    if model.threads > 0 {
        return model.threads;
    }
    let cores = cores.score.count().unwrap_or_else(|| allowed().len());
    let share = limits.cpus.map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    cores.min(share).max(1)
}

/// One line that says what the node found and what it makes of it.
fn log_machine(cores: &ThreadCores, limits: &Limits, model_threads: usize) {
    let ThreadCores { io, fetch, score, ingest } = cores;
    let memory_mib = limits.memory_bytes.map(|bytes| bytes >> 20);
    tracing::info!(
        cpus = allowed().len(), cgroup_cpus = limits.cpus, cgroup_memory_mib = memory_mib, model_threads, io_cores = %io,
        fetch_cores = %fetch, score_cores = %score, ingest_cores = %ingest, "machine"
    );
}

/// Runs work that blocks on a thread of its own, if there is room.
async fn blocking<T: Send + 'static>(
    room: &Arc<Semaphore>,
    retry_after: Duration,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let permit = room.clone().try_acquire_owned().map_err(|_| Refusal::QueueFull { retry_after })?;
    on_own_thread(permit, work).await
}

async fn on_own_thread<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work();
        drop(permit);
        outcome
    });
    done.await.map_err(|error| Refusal::Internal(format!("a blocking call failed: {error}")))?
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { key, address, source })
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTH_SERVICES {
        health.set_service_status(service, status).await;
    }
}

fn system<E: Into<Box<dyn std::error::Error + Send + Sync>>>(context: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::System { context, source: source.into() }
}
