//! Change streams: what a Kafka topic says about the entities of a view, written into an open store. A message is a row, a deletion, or several of both.
//!
//! In reading order: `config`, `config_check` and `properties` are what larder.toml says; `client` reads a topic, `watch` looks up its partitions; `message` is
//! what is read, `decode` makes changes of messages, by `avro` and `avro_schemas` (with `registry`), by `arrow_stream`, or as lines of JSON, and
//! `flagged` tells rows from deletions; `batch` brings them into the store, and by `rejects` into the reject topic what is no row; `partition` is where
//! one stands, `partitions` all of them, `run` the whole at work, `status` what others see of it.
//!
//! What it promises: the position of a partition is written with the rows before it, in one step, so that nothing is lost and nothing is written
//! twice, whatever ends the process; a message is passed over only when the reject topic has it; and nobody but an operator moves a position.

mod arrow_stream;
mod avro;
mod avro_schemas;
mod batch;
mod client;
mod config;
mod config_check;
mod decode;
mod flagged;
mod message;
mod partition;
mod partitions;
mod properties;
mod registry;
mod rejects;
mod run;
mod status;
mod watch;

pub use config::{Begin, Format, StreamConfig, partition_of_name};
pub use properties::Properties;
pub use run::ChangeStream;
pub use status::{MoveTo, Moved, PartitionState, PartitionStatus, Progress, StreamHandle, StreamStatus};
