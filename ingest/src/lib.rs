//! Larder's ingest: Parquet snapshots in, generations of the feature store out.
//!
//! [`build`] reads the files of one view and tenant, here or in an object store, checks every column against the view's declaration, sorts the
//! rows by entity where they are not sorted, on disk where they do not fit into memory, and hands them to the store's own writer: of a whole
//! generation, or of a delta snapshot, rows and deletions since an earlier state. It opens no store: the node takes the finished folder in with
//! `Store::publish`.
//! [`ColdRule`] says which entities are placed cold, in a build and when an open store's live generation is divided anew.
//! [`Location`] is a path of this machine or a URL of an object store, for whoever reads or writes files.
//! [`Canonical`] makes record batches that come from elsewhere fit a view by the same rules; [`changes`] does so for rows that come one by one, and
//! [`IpcDecoder`] takes batches of strangers in. [`ChangeStream`] writes what a Kafka topic says into an open store.

mod request;
mod build;
mod output;
mod placement;
mod reading;
mod source;
mod own_rows;
mod convert;
mod partition;
mod rejects;
mod gather;
mod canonical;
mod rows;
mod ipc;
mod change_stream;
mod sort;
mod spill;
mod merge;
mod state;
mod budget;
mod folder;
mod input;
mod location;
mod remote;
mod error;

pub use build::{BuildReport, Progress, build, discard};
pub use canonical::{Canonical, entities};
pub use change_stream::{
    Begin, ChangeStream, Format, MoveTo, Moved, PartitionState, PartitionStatus, Progress as StreamProgress,
    Properties, StreamConfig, StreamHandle, StreamStatus, partition_of_name,
};
pub use error::Error;
pub use ipc::{IpcBatch, IpcDecoder, IpcMessage, IpcReceived};
pub use location::{FoundFile, Location, without_secrets};
pub use placement::{ColdRule, place};
pub use request::{BuildLimits, BuildRequest, DeltaRequest};
pub use rows::{Changes, Row, Value, WrongRow, changes};
