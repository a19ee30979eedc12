//! One build, from Parquet files to a generation in a folder: read, check, sort, write, rename into place. It runs in a process of its own,
//! beside the node, and touches no store.

use std::path::{Path, PathBuf};

use larder_store::{GenerationWriter, Manifest, Placement, TenantId, ViewConfig, WriterLimits};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::folder::WorkFolder;
use crate::sort::{self, Sorted};
use crate::source::{self, SourceFile};

/// Rows given to the writer at a time.
const WRITE_ROWS: usize = 8192;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest<'a> {
    /// The view whose rows these are.
    pub view: &'a ViewConfig,
    /// Whose rows these are.
    pub tenant: TenantId,
    /// Parquet files, or folders of `*.parquet` files.
    pub sources: Vec<PathBuf>,
    /// The folder to make; it must not exist.
    pub out: PathBuf,
    /// The generation's number, greater than any published before; the present time in Unix seconds is a good one.
    pub generation: u32,
    /// The time whose state the snapshot shows, Unix milliseconds UTC.
    pub as_of_ms: i64,
    /// Which entities are placed cold; by default none.
    pub placement: Placement,
    /// Limits of the build.
    pub limits: BuildLimits,
}

/// Limits of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildLimits {
    /// Rows without usable keys (a null or over-long entity, no event time, no element key) that are left out before the build gives up.
    pub max_rejected_rows: u64,
    /// Memory for the rows being sorted, in MiB.
    pub max_memory_mib: u64,
    /// Limits of the generation's files.
    pub writer: WriterLimits,
}

impl Default for BuildLimits {
    fn default() -> BuildLimits {
        BuildLimits { max_rejected_rows: 0, max_memory_mib: 4096, writer: WriterLimits::default() }
    }
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildReport {
    /// The finished generation's description.
    pub manifest: Manifest,
    /// Source files read.
    pub files: usize,
    /// Rows in them.
    pub rows_read: u64,
    /// Rows left out for their keys.
    pub rows_rejected: u64,
    /// Rows left out because the entity (for `last_n` the element) had a newer one.
    pub duplicates: u64,
    /// Elements left out because the entity had `n` newer ones.
    pub beyond_n: u64,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Reading a source file.
    Reading {
        /// The file.
        file: &'a Path,
        /// Rows read so far, of all files.
        rows: u64,
    },
    /// Bringing all rows into order.
    Sorting {
        /// Their number.
        rows: u64,
    },
    /// Writing the generation.
    Writing {
        /// Rows written so far.
        rows: u64,
        /// Rows to write.
        of: u64,
    },
}

/// Builds a generation. Whatever goes wrong, and also when the process is killed, `out` is either finished or absent.
///
/// # Errors
/// [`Error::FixSource`] names file, column or row, what was found and what is expected; [`Error::RaiseLimit`] the limit that is too small.
pub fn build(request: &BuildRequest<'_>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<BuildReport, Error> {
    let BuildRequest { view, limits, .. } = request;
    view.validate()?;
    let folder = WorkFolder::create(&request.out)?;
    let dir = folder.generation();
    let writer_limits = limits.writer.clone();
    let (tenant, number) = (request.tenant, request.generation);
    let writer = GenerationWriter::create(&dir, view, tenant, number, request.as_of_ms, writer_limits)?;
    let mut writer = writer.place(request.placement.clone());

    let files = source::list(&request.sources)?;
    let mut reading = Reading { limits, batches: Vec::new(), rows: 0, rejected: 0, bytes: 0 };
    for file in &files {
        reading.read(file, view, progress)?;
    }
    let (rows_read, rows_rejected) = (reading.rows, reading.rejected);
    let kept = rows_read - rows_rejected;
    if kept == 0 {
        let message = format!("{} files hold no usable row: an empty generation would hide every entity", files.len());
        return Err(Error::FixRequest(message));
    }

    progress(Progress::Sorting { rows: kept });
    let sorted = Sorted::new(reading.batches);
    let mut written = 0;
    for batch in sorted.batches(WRITE_ROWS) {
        let batch = batch.map_err(|error| Error::FixRequest(format!("the rows cannot be sorted: {error}")))?;
        writer.append(&batch)?;
        written += batch.num_rows() as u64;
        progress(Progress::Writing { rows: written, of: kept });
    }
    let manifest = writer.finish()?;
    folder.finish()?;
    tracing::info!(view = %view.name, generation = number, rows_read, rows_rejected, entities = manifest.entities, "generation built");
    Ok(BuildReport {
        duplicates: manifest.duplicates_dropped,
        beyond_n: manifest.beyond_n_dropped,
        manifest,
        files: files.len(),
        rows_read,
        rows_rejected,
    })
}

/// The rows read so far, with what they cost.
struct Reading<'a> {
    limits: &'a BuildLimits,
    batches: Vec<arrow::array::RecordBatch>,
    rows: u64,
    rejected: u64,
    bytes: u64,
}

impl Reading<'_> {
    fn read(&mut self, path: &Path, view: &ViewConfig, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
        let mut file = SourceFile::open(path, view)?;
        let rows_before = self.rows;
        progress(Progress::Reading { file: path, rows: self.rows });
        while let Some(batch) = file.next_batch()? {
            self.rows = rows_before + file.rows_read();
            self.rejected += batch.rejected;
            if let Some((row, fault)) = batch.first_rejected.filter(|_| self.rejected > self.limits.max_rejected_rows) {
                let reason = format!(
                    "row {row}: {fault}; {} rows without usable keys, max_rejected_rows is {}",
                    self.rejected, self.limits.max_rejected_rows
                );
                return Err(Error::source(path, reason));
            }
            self.keep(batch.rows, path)?;
            progress(Progress::Reading { file: path, rows: self.rows });
        }
        Ok(())
    }

    fn keep(&mut self, rows: arrow::array::RecordBatch, path: &Path) -> Result<(), Error> {
        self.bytes += rows.get_array_memory_size() as u64 + rows.num_rows() as u64 * sort::BYTES_PER_ROW;
        if self.bytes > self.limits.max_memory_mib << 20 {
            let reason = format!("the rows up to {} of {} do not fit into memory", self.rows, path.display());
            return Err(Error::RaiseLimit { setting: "max_memory_mib", value: self.limits.max_memory_mib, reason });
        }
        self.batches.push(rows);
        Ok(())
    }
}
