//! What can go wrong: for a caller (`Refusal`, with the one table that maps it to gRPC) and for the operator (`Error`).

use std::collections::HashMap;
use std::time::Duration;

use larder_store::Shard;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Why a request was not answered, by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Correct the request; the same again fails again.
    #[error("{0}")]
    Invalid(String),
    /// The identity names a tenant this node does not serve, or none.
    #[error("{0}")]
    UnknownTenant(String),
    /// Ask for something that exists.
    #[error("{0}")]
    NotFound(String),
    /// Come back later: the queue is full.
    #[error("the node has as much work as it may take; try again in {} ms", .retry_after.as_millis())]
    QueueFull {
        /// When there should be room.
        retry_after: Duration,
    },
    /// Come back later: the async lane has no room.
    #[error("{what}; try again in {} ms", .retry_after.as_millis())]
    LaneFull {
        /// What is full.
        what: &'static str,
        /// When there should be room.
        retry_after: Duration,
    },
    /// Come back later: the tenant has asked as much as it may.
    #[error("the tenant has asked more questions a second than it may; try again in {} ms", .retry_after.as_millis())]
    RateLimited {
        /// When it may ask again.
        retry_after: Duration,
    },
    /// Come back later: more has come for a while than the node gets done, and waiting longer would help nobody.
    #[error("more questions have come for a while than the node can answer; try again in {} ms", .retry_after.as_millis())]
    StandingQueue {
        /// When the queue should be shorter.
        retry_after: Duration,
    },
    /// Come back later: the question waited, and had to make room for one of a higher class or of a tenant that asks less.
    #[error("the question had to make room for another one; try again in {} ms", .retry_after.as_millis())]
    Evicted {
        /// When there should be room.
        retry_after: Duration,
    },
    /// Come back later or with a longer deadline: the answer would come too late, so no work was spent on it.
    #[error(
        "the answer would take about {} ms and the deadline leaves {} ms; try again in {} ms or allow more time",
        .predicted.as_millis(), .remaining.as_millis(), .retry_after.as_millis()
    )]
    PredictedLate {
        /// Predicted time until the answer.
        predicted: Duration,
        /// What the deadline leaves.
        remaining: Duration,
        /// When the backlog should be short enough.
        retry_after: Duration,
    },
    /// The deadline passed while the request waited.
    #[error("the deadline passed before the answer was ready")]
    Expired {
        /// When the backlog should be short enough.
        retry_after: Duration,
    },
    /// Go to another node: this one is starting, stopping or broken.
    #[error("the node is {state}; try another one, or again in {} ms", .retry_after.as_millis())]
    Unavailable {
        /// "warming", "draining" or "failed".
        state: &'static str,
        /// When it may be back.
        retry_after: Duration,
    },
    /// Try again: something that ends by itself is in the way.
    #[error("{what}")]
    TryAgain {
        /// What is in the way.
        what: String,
        /// When it may be gone.
        retry_after: Duration,
    },
    /// Ask a node that was started for it: this one was not.
    #[error("{0}")]
    NotAllowed(String),
    /// Ask the node that has the entity: this one has another part of them.
    #[error("{entity} belongs to shard {right}, this node is shard {own}")]
    WrongShard {
        /// The entity.
        entity: String,
        /// The shard it belongs to.
        right: Shard,
        /// The node's.
        own: Shard,
    },
    /// Read the routing table again: the call was meant for another node.
    #[error(
        "the call was sent to shard {stated} (x-larder-shard), this node is shard {own}; read the routing table again"
    )]
    StaleRoute {
        /// The shard that the caller meant.
        stated: Shard,
        /// The node's.
        own: Shard,
    },
    /// Report it: the node could not do what it should be able to do.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Refusal {
    /// The node is stopping.
    pub(crate) fn draining() -> Refusal {
        Refusal::Unavailable { state: "draining", retry_after: Duration::from_secs(1) }
    }

    /// The one table from refusals to gRPC codes and metric labels.
    pub fn code(&self) -> (Code, &'static str) {
        match self {
            Refusal::Invalid(_) => (Code::InvalidArgument, "invalid"),
            Refusal::UnknownTenant(_) => (Code::PermissionDenied, "unknown_tenant"),
            Refusal::NotFound(_) => (Code::NotFound, "not_found"),
            Refusal::QueueFull { .. } => (Code::ResourceExhausted, "queue_full"),
            Refusal::LaneFull { .. } => (Code::ResourceExhausted, "lane_full"),
            Refusal::RateLimited { .. } => (Code::ResourceExhausted, "rate_limited"),
            Refusal::StandingQueue { .. } => (Code::ResourceExhausted, "standing_queue"),
            Refusal::Evicted { .. } => (Code::ResourceExhausted, "evicted"),
            Refusal::PredictedLate { .. } => (Code::DeadlineExceeded, "predicted_late"),
            Refusal::Expired { .. } => (Code::DeadlineExceeded, "expired"),
            Refusal::Unavailable { state: "draining", .. } => (Code::Unavailable, "draining"),
            Refusal::Unavailable { state: "warming", .. } => (Code::Unavailable, "warming"),
            Refusal::Unavailable { .. } => (Code::Unavailable, "failed"),
            Refusal::TryAgain { .. } => (Code::Unavailable, "try_again"),
            Refusal::NotAllowed(_) => (Code::FailedPrecondition, "not_allowed"),
            Refusal::WrongShard { .. } | Refusal::StaleRoute { .. } => (Code::FailedPrecondition, "wrong_shard"),
            Refusal::Internal(_) => (Code::Internal, "internal"),
        }
    }

    /// When to try again; none where trying again does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::QueueFull { retry_after }
            | Refusal::LaneFull { retry_after, .. }
            | Refusal::RateLimited { retry_after }
            | Refusal::StandingQueue { retry_after }
            | Refusal::Evicted { retry_after }
            | Refusal::PredictedLate { retry_after, .. }
            | Refusal::Expired { retry_after }
            | Refusal::TryAgain { retry_after, .. }
            | Refusal::Unavailable { retry_after, .. } => Some(*retry_after),
            Refusal::Invalid(_)
            | Refusal::UnknownTenant(_)
            | Refusal::NotFound(_)
            | Refusal::NotAllowed(_)
            | Refusal::WrongShard { .. }
            | Refusal::StaleRoute { .. }
            | Refusal::Internal(_) => None,
        }
    }

    /// What a program needs to know beside the reason.
    fn metadata(&self) -> HashMap<String, String> {
        let shards = |name: &str, shard: &Shard, own: &Shard| {
            HashMap::from([(name.to_owned(), shard.to_string()), ("node_shard".to_owned(), own.to_string())])
        };
        match self {
            Refusal::WrongShard { right, own, .. } => shards("shard", right, own),
            Refusal::StaleRoute { stated, own } => shards("routed_to", stated, own),
            _ => HashMap::new(),
        }
    }
}

impl From<Refusal> for Status {
    /// The refusal with google.rpc.ErrorInfo (reason, metadata) and, where it helps, google.rpc.RetryInfo.
    fn from(refusal: Refusal) -> Status {
        let (code, reason) = refusal.code();
        let mut details = ErrorDetails::with_error_info(reason, "larder", refusal.metadata());
        if let Some(retry_after) = refusal.retry_after() {
            details.set_retry_info(Some(retry_after));
        }
        Status::with_error_details(code, refusal.to_string(), details)
    }
}

/// Why the node does not run, by what the operator should do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Correct larder.toml.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Take the faults out of larder.toml, or allow them.
    #[error(
        "[chaos] in larder.toml says {faults}, and the process was started without --allow-chaos; take it out, or start a node for \
         tests with `larder serve --allow-chaos`"
    )]
    ChaosNotAllowed {
        /// What the section turns on.
        faults: String,
    },
    /// Name other CPUs in `[threads]`.
    #[error("{0}")]
    Cores(String),
    /// Make the caches smaller, or give the process more memory.
    #[error(
        "the caches of [store] are {budget_mib} MiB, more than the {limit_mib} MiB that the cgroup allows this process; make \
         hot_capacity_mib, block_cache_mib, live_buffer_mib or live_filter_mib smaller"
    )]
    Memory {
        /// What they are together.
        budget_mib: u64,
        /// What there is.
        limit_mib: u64,
    },
    /// Free the address or choose another.
    #[error("cannot listen on {address} ({key} in larder.toml): {source}")]
    Listen {
        /// The key that names the address.
        key: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// See to the store's folder.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] larder_store::Error),
    /// See to the model's files.
    #[error("{context}: {source}")]
    Model {
        /// What was being loaded.
        context: String,
        /// What is wrong with it.
        source: larder_model::Error,
    },
    /// Declare a tenant.
    #[error(
        "larder.toml declares no [[tenant]], so there is nobody to answer for; `larder sample` writes a complete file"
    )]
    NoTenant,
    /// Correct the tenant's catalogue.
    #[error("tenant \"{tenant}\": {message}")]
    Catalogue {
        /// The tenant.
        tenant: String,
        /// What is wrong.
        message: String,
    },
    /// Correct the stream in larder.toml, or the schemas that it names.
    #[error("stream \"{name}\": {source}")]
    Stream {
        /// The stream.
        name: String,
        /// What is wrong with it.
        source: larder_ingest::Error,
    },
    /// A worker panicked: restart the node and report the panic that the log shows.
    #[error("the {worker} thread failed; the node has stopped answering")]
    WorkerFailed {
        /// "fetch", "score", "write", "stream", "lane" or "lane-read".
        worker: &'static str,
    },
    /// The drain took longer than node.drain_timeout_s.
    #[error("{unanswered} questions were still unanswered after node.drain_timeout_s = {timeout_s}")]
    DrainTimeout {
        /// Questions given up.
        unanswered: usize,
        /// The setting.
        timeout_s: u64,
    },
    /// The network server or the system failed.
    #[error("{context}: {source}")]
    System {
        /// What was being done.
        context: &'static str,
        /// What the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
