//! What is asked of a build, and how two requests are told apart: a build that was killed is gone on with, and one that is done already is
//! not done again, only when the same is asked of the same sources.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use larder_store::{Manifest, Placement, Shard, TenantId, ViewConfig, WriterLimits};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::build::BuildReport;
use crate::location::{FoundFile, Location, write_whole};
use crate::source::Holds;

/// The record's name in a generation's folder, beside the manifest.
const RECORD_FILE: &str = "build.json";
/// Largest record that is read.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest<'a> {
    /// The view whose rows these are.
    pub view: &'a ViewConfig,
    /// Whose rows these are.
    pub tenant: TenantId,
    /// Parquet files, or folders whose `*.parquet` files at any depth are meant.
    pub sources: Vec<Location>,
    /// Asks for a delta snapshot in place of a whole generation: `sources` are the rows that are new or have changed, and may be none.
    pub delta: Option<DeltaRequest>,
    /// The folder to make; one that is there already is left as it is.
    pub out: PathBuf,
    /// The generation's number, greater than any published before; the present time in Unix seconds is a good one.
    pub generation: u32,
    /// The time whose state the snapshot shows, Unix milliseconds UTC.
    pub as_of_ms: i64,
    /// Which entities are placed cold; by default none.
    pub placement: Placement,
    /// The part of all entities to build; rows of others are left out.
    pub shard: Shard,
    /// Limits of the build.
    pub limits: BuildLimits,
    /// Where sorted runs are set aside when the rows do not fit into memory; by default beside the output.
    pub spill: Option<PathBuf>,
    /// Where up to a thousand of the rejected rows are written, as lines of JSON.
    pub rejects: Option<PathBuf>,
    /// Whether what a build that was killed left is to be ignored.
    pub fresh: bool,
    /// What else must be equal for two requests to be the same: the caller's words for as-of and placement, of which only it knows whether
    /// they were asked for or follow from the time of the call.
    pub terms: String,
}

/// What else a delta snapshot is made of.
#[derive(Debug, Clone)]
pub struct DeltaRequest {
    /// The files hold everything that has changed since then, Unix milliseconds UTC.
    pub since_ms: i64,
    /// Parquet files, or folders of them, whose rows are deletions: the entity, and where they have them the event time (without it that of the
    /// delta snapshot) and in a history the element key (without it all elements).
    pub deletions: Vec<Location>,
}

/// Limits of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildLimits {
    /// Rows without usable keys (a null or over-long entity, no event time, no element key) that are left out before the build gives up.
    pub max_rejected_rows: u64,
    /// Memory for reading, sorting and merging together, in MiB; the generation's files need some beside it. What does not fit is set aside
    /// on disk.
    pub max_memory_mib: u64,
    /// Threads that read, convert and sort; 0 means one per core.
    pub threads: usize,
    /// Limits of the generation's files.
    pub writer: WriterLimits,
}

impl Default for BuildLimits {
    fn default() -> BuildLimits {
        BuildLimits { max_rejected_rows: 0, max_memory_mib: 1024, threads: 0, writer: WriterLimits::default() }
    }
}

impl<'a> BuildRequest<'a> {
    /// A request with default limits, for the whole, everybody warm, and nothing unusual.
    pub fn new(
        view: &'a ViewConfig,
        tenant: TenantId,
        sources: Vec<Location>,
        out: PathBuf,
        generation: u32,
        as_of_ms: i64,
    ) -> BuildRequest<'a> {
        BuildRequest {
            view,
            tenant,
            sources,
            delta: None,
            out,
            generation,
            as_of_ms,
            placement: Placement::default(),
            shard: Shard::default(),
            limits: BuildLimits::default(),
            spill: None,
            rejects: None,
            fresh: false,
            terms: String::new(),
        }
    }

    /// The schema of the rows as they are sorted and written.
    pub(crate) fn schema(&self) -> SchemaRef {
        match self.delta {
            None => self.view.arrow_schema(),
            Some(_) => self.view.change_schema(),
        }
    }

    /// Stands for everything that decides what is in the generation but the moment of the call.
    pub(crate) fn fingerprint(&self, files: &[(Holds, FoundFile)]) -> Result<String, Error> {
        let deletions = files.iter().filter(|(holds, _)| matches!(holds, Holds::Deletions { .. })).count();
        let delta = self.delta.as_ref().map(|delta| (delta.since_ms, deletions));
        let files: Vec<_> = files
            .iter()
            .map(|(_, file)| (file.location.to_string(), &file.relative, file.bytes, file.modified_ns, &file.etag))
            .collect();
        let BuildLimits { max_rejected_rows, writer, .. } = &self.limits;
        let whole = (self.view, self.tenant, self.shard, files, max_rejected_rows, writer, &self.terms);
        let bytes = match delta {
            None => serde_json::to_vec(&whole),
            Some(delta) => serde_json::to_vec(&(delta, whole)),
        };
        let bytes = bytes.map_err(|error| Error::FixRequest(format!("the request cannot be written down: {error}")))?;
        Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes)))
    }
}

/// The record of a finished build.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    request: String,
    files: usize,
    rows_read: u64,
    rows_rejected: u64,
    rows_elsewhere: u64,
}

/// Puts the record of a build beside the manifest in `dir`.
pub(crate) fn record(dir: &Path, fingerprint: &str, report: &BuildReport) -> Result<(), Error> {
    let BuildReport { files, rows_read, rows_rejected, rows_elsewhere, .. } = *report;
    let record = Record { request: fingerprint.to_owned(), files, rows_read, rows_rejected, rows_elsewhere };
    let path = dir.join(RECORD_FILE);
    let bytes =
        serde_json::to_vec(&record).map_err(|error| Error::disk("write", &path)(std::io::Error::other(error)))?;
    write_whole(&path, |file| file.write_all(&bytes))
}

/// What is in `out` if it was built for the same request; an error when it is anything else.
pub(crate) fn built_before(out: &Path, fingerprint: &str) -> Result<BuildReport, Error> {
    let path = out.join(RECORD_FILE);
    let is_small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_RECORD_BYTES);
    let bytes = if is_small { fs::read(&path).ok() } else { None };
    let record = bytes.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    let Some(record) = record.filter(|record| record.request == fingerprint) else {
        return Err(Error::FixRequest(format!("{} exists: build into a new folder", out.display())));
    };
    let manifest = Manifest::read(out)?;
    Ok(BuildReport {
        files: record.files,
        rows_read: record.rows_read,
        rows_rejected: record.rows_rejected,
        rows_elsewhere: record.rows_elsewhere,
        duplicates: manifest.duplicates_dropped,
        beyond_n: manifest.beyond_n_dropped,
        already_built: true,
        manifest,
    })
}
