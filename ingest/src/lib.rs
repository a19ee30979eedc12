//! Larder's ingest: Parquet snapshots in, generations of the feature store out.
//!
//! [`build`] reads the files of one view and tenant, checks every column against the view's declaration, sorts the rows by entity where
//! they are not sorted, and hands them to the store's own writer. It opens no store: the node links the finished folder in with `Store::publish`.
//! [`ColdRule`] says which entities are placed cold, in a build and when an open store's live generation is divided anew.

mod build;
mod placement;
mod reading;
mod source;
mod convert;
mod sort;
mod folder;
mod error;

pub use build::{BuildLimits, BuildReport, BuildRequest, Progress, build};
pub use error::Error;
pub use placement::{ColdRule, place};
