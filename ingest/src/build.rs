//! One build, from Parquet files to a generation in a folder: read, check, sort where need be, write, rename into place. It runs in a
//! process of its own, beside the node, and touches no store.

use std::path::{Path, PathBuf};

use larder_store::{GenerationWriter, Manifest, Placement, TenantId, ViewConfig, WriterLimits};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::folder::WorkFolder;
use crate::reading::{self, Reading};
use crate::sort::{self, Order, Sorted};
use crate::source;

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
    /// Memory for the rows of a snapshot that must be sorted, in MiB.
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
    /// Reading a source file into memory, to sort its rows.
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
    /// Writing the generation: what was sorted, or straight from the source files.
    Writing {
        /// Rows written so far.
        rows: u64,
        /// Rows to write.
        of: u64,
    },
}

/// Builds a generation. Whatever goes wrong, and also when the process is killed, `out` is either finished or absent.
///
/// A snapshot whose rows are in order already is written as it is read, whatever its size. At the first row that is not, the build starts
/// again: it reads all rows into memory and sorts them.
///
/// # Errors
/// [`Error::FixSource`] names file, column or row, what was found and what is expected; [`Error::RaiseLimit`] the limit that is too small.
pub fn build(request: &BuildRequest<'_>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<BuildReport, Error> {
    request.view.validate()?;
    let folder = WorkFolder::create(&request.out)?;
    let files = source::list(&request.sources)?;
    let build = Build { request, files: &files, rows: reading::check(&files, request.view)? };
    let report = match build.as_they_come(&folder, progress)? {
        Some(report) => report,
        None => build.sorted(&folder, progress)?,
    };
    folder.finish()?;
    let BuildReport { rows_read, rows_rejected, .. } = report;
    let (view, entities) = (&request.view.name, report.manifest.entities);
    tracing::info!(%view, generation = request.generation, rows_read, rows_rejected, entities, "generation built");
    Ok(report)
}

/// One build: what is asked for, and what the sources say they hold.
struct Build<'a> {
    request: &'a BuildRequest<'a>,
    files: &'a [PathBuf],
    rows: u64,
}

impl Build<'_> {
    /// Writes the rows as they are read; `None` when they turn out not to be in order.
    fn as_they_come(
        &self,
        folder: &WorkFolder,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<BuildReport>, Error> {
        let mut writer = self.writer(folder)?;
        let mut reading = self.read();
        let mut order = Order::default();
        while let Some(rows) = reading.next()? {
            if !order.goes_on(&rows) {
                return Ok(None);
            }
            writer.append(&rows)?;
            progress(Progress::Writing { rows: reading.rows(), of: self.rows });
        }
        self.finish(writer, &reading).map(Some)
    }

    /// Reads all rows, sorts them and writes them.
    fn sorted(&self, folder: &WorkFolder, progress: &mut dyn FnMut(Progress<'_>)) -> Result<BuildReport, Error> {
        folder.clear()?;
        let mut writer = self.writer(folder)?;
        let mut reading = self.read();
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(rows) = reading.next()? {
            bytes += rows.get_array_memory_size() as u64 + rows.num_rows() as u64 * sort::BYTES_PER_ROW;
            let limit = self.request.limits.max_memory_mib;
            if bytes > limit << 20 {
                let (read, file) = (reading.rows(), reading.file().display());
                let reason =
                    format!("the rows up to {read} of {file} are not sorted by key and do not fit into memory");
                return Err(Error::RaiseLimit { setting: "max_memory_mib", value: limit, reason });
            }
            batches.push(rows);
            progress(Progress::Reading { file: reading.file(), rows: reading.rows() });
        }
        let kept = reading.rows() - reading.rejected;
        progress(Progress::Sorting { rows: kept });
        let sorted = Sorted::new(batches);
        let mut written = 0;
        for batch in sorted.batches(WRITE_ROWS) {
            let batch = batch.map_err(|error| Error::FixRequest(format!("the rows cannot be sorted: {error}")))?;
            writer.append(&batch)?;
            written += batch.num_rows() as u64;
            progress(Progress::Writing { rows: written, of: kept });
        }
        self.finish(writer, &reading)
    }

    fn writer(&self, folder: &WorkFolder) -> Result<GenerationWriter, Error> {
        let BuildRequest { view, tenant, generation, as_of_ms, limits, .. } = self.request;
        let dir = folder.generation();
        let writer = GenerationWriter::create(&dir, view, *tenant, *generation, *as_of_ms, limits.writer.clone())?;
        Ok(writer.place(self.request.placement.clone()))
    }

    fn read(&self) -> Reading<'_> {
        Reading::start(self.files, self.request.view, self.request.limits.max_rejected_rows)
    }

    fn finish(&self, writer: GenerationWriter, reading: &Reading<'_>) -> Result<BuildReport, Error> {
        let (rows_read, rows_rejected, files) = (reading.rows(), reading.rejected, self.files.len());
        if rows_read == rows_rejected {
            let message = format!("{files} files hold no usable row: an empty generation would hide every entity");
            return Err(Error::FixRequest(message));
        }
        let manifest = writer.finish()?;
        let (duplicates, beyond_n) = (manifest.duplicates_dropped, manifest.beyond_n_dropped);
        Ok(BuildReport { manifest, files, rows_read, rows_rejected, duplicates, beyond_n })
    }
}
