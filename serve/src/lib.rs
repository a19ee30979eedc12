//! The serving node: questions come in over gRPC, answers go out, with the feature store and the model in between.
//!
//! In reading order: `config` and `context` say what a node is and who asks; `wire`, `admission`, `queue`, `batcher` and
//! `pipeline` are the life of a question, each stage a type of its own (`question`); `engine` holds what they share;
//! `node` starts and stops it all. Protobuf types end in `wire` and the three service files.

mod config;
mod config_check;
mod context;
mod identity;

mod question;
mod wire;
mod admission;
mod cost;
mod batcher;
mod queue;
mod pipeline;
mod rank;
mod compose;
mod worker;
mod assemble;
mod cell;
mod render;

mod rung;
mod encoders;
mod tenant;
mod engine;
mod life;
mod warmth;
mod node;

mod admin;
mod codec;
mod features;
mod grpc;
mod http;
mod metrics;

mod error;

pub use config::{
    AdmissionConfig, BatcherConfig, ConfigError, IdentityConfig, IdentityMode, NodeConfig, NodeSection, ServiceConfig,
    ServiceFeature, TenantConfig,
};
pub use context::{Class, RequestContext};
pub use error::{Error, Refusal};
pub use identity::{CLASS_HEADER, SESSION_HEADER, TENANT_HEADER, USER_HEADER};
pub use node::{Node, run};
pub use rung::Rung;
pub use warmth::forget_hot_set;

/// The gRPC messages, clients and servers of larder.v1, generated from serve/proto.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::needless_pass_by_value)]
pub mod v1 {
    tonic::include_proto!("larder.v1");
}
