//! What a build writes: a whole generation, or a delta snapshot.

use std::path::Path;

use arrow::array::RecordBatch;
use larder_store::{DeltaWriter, GenerationWriter, Manifest, ManifestSources};

use crate::Error;
use crate::request::BuildRequest;

/// The writer of what was asked for. Rows come sorted by entity, in the [schema](BuildRequest::schema) of the request.
pub(crate) enum Output {
    Generation(Box<GenerationWriter>),
    Delta(Box<DeltaWriter>),
}

impl Output {
    /// Starts writing into `dir`.
    pub(crate) fn create(request: &BuildRequest<'_>, dir: &Path) -> Result<Output, Error> {
        let BuildRequest { view, tenant, generation, as_of_ms, shard, .. } = *request;
        let limits = request.limits.writer.clone();
        Ok(match &request.delta {
            None => {
                let writer = GenerationWriter::create(dir, view, tenant, generation, as_of_ms, limits)?;
                Output::Generation(Box::new(writer.place(request.placement.clone()).shard(shard)))
            }
            Some(delta) => {
                let writer = DeltaWriter::create(dir, view, tenant, generation, delta.since_ms, as_of_ms, limits)?;
                Output::Delta(Box::new(writer.shard(shard)))
            }
        })
    }

    pub(crate) fn append(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        match self {
            Output::Generation(writer) => writer.append(rows)?,
            Output::Delta(writer) => writer.append(rows)?,
        }
        Ok(())
    }

    /// Notes what it was built from, and makes it whole.
    pub(crate) fn finish(self, sources: ManifestSources) -> Result<Manifest, Error> {
        Ok(match self {
            Output::Generation(writer) => writer.built_from(sources).finish()?,
            Output::Delta(writer) => writer.built_from(sources).finish()?,
        })
    }
}
