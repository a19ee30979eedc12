//! The serving node: questions come in over gRPC, answers go out, with the feature store and the model in between.
//!
//! In reading order: `config` and `context` say what a node is and who asks; `wire`, `schedule`, `queue`, `pipeline`,
//! `fetch` and `score` are the life of a question, each stage a type of its own (`question`); `engine` holds what they share;
//! `node` starts and stops it all; `lane` is for questions that nobody waits for, `feedback` for what users say of answers, `rows` for what
//! applications write, `streams` for what topics bring, `flight` brings rows and features as Arrow. Protobuf types end in `wire` and the service
//! files.

mod config;
mod config_check;
mod context;
mod identity;
mod shard;

mod question;
mod wire;
mod cost;
mod schedule;
mod queue;
mod pipeline;
mod fetch;
mod group;
mod scores;
mod answer_cache;
mod score;
mod rank;
mod compose;
mod worker;
mod assemble;
mod cell;
mod render;
mod template_rows;

mod rung;
mod encoders;
mod tenant;
mod engine;
mod life;
mod chaos;
mod connection;
mod warmth;
mod threads;
mod cpu_list;
mod cgroup;
mod memory;
mod ingest_thread;
mod node;

mod lane;
mod feedback;
mod rows;
mod streams;
mod logs;

mod admin;
mod codec;
mod features;
mod flight;
mod grpc;
mod http;
mod inspect;
mod metrics;

mod error;

#[cfg(test)]
mod test_engine;

pub use chaos::ChaosConfig;
pub use config::{
    ConfigError, IdentityConfig, IdentityMode, NodeConfig, NodeSection, ServiceConfig, ServiceFeature, TenantConfig,
};
pub use context::{Class, RequestContext};
pub use error::{Error, Refusal};
pub use feedback::{FeedbackConfig, FeedbackPage, erase_from_feedback, read_feedback};
pub use identity::{CLASS_HEADER, SESSION_HEADER, TENANT_HEADER, USER_HEADER};
pub use inspect::{inspect_entity, inspect_store};
pub use lane::{LaneConfig, erase_from_lane};
pub use node::{Node, run};
pub use rows::RowsConfig;
pub use rung::Rung;
pub use schedule::config::{AdmissionConfig, BatcherConfig, RungsConfig};
pub use shard::SHARD_HEADER;
pub use threads::{ThreadsConfig, runtime};
pub use warmth::forget_hot_set;

/// The gRPC messages, clients and servers of larder.v1, generated from serve/proto.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::needless_pass_by_value)]
pub mod v1 {
    tonic::include_proto!("larder.v1");
}
