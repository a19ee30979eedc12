//! One build, from Parquet files to a generation in a folder: read, check, sort where need be, write, rename into place. It runs in a
//! process of its own, beside the node, and touches no store.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use arrow::array::RecordBatch;
use larder_store::{MAX_NAMED_SOURCES, Manifest, ManifestSource, ManifestSources, SOURCE_END_BYTES};

use crate::Error;
use crate::budget::Budget;
use crate::folder::WorkFolder;
use crate::gather::{Gather, Run, memory_of};
use crate::location::FoundFile;
use crate::merge::merge;
use crate::output::Output;
use crate::reading::{self, Reading, Sources};
use crate::rejects::Rejects;
use crate::request::{self, BuildRequest};
use crate::sort::Order;
use crate::source::Source;
use crate::state::State;

/// Batches that are read or merged ahead of the writer.
const AHEAD: usize = 3;

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
    /// Rows left out because their entities belong to another shard.
    pub rows_elsewhere: u64,
    /// Rows left out because the entity (for `last_n` the element) had a newer one.
    pub duplicates: u64,
    /// Elements left out because the entity had `n` newer ones.
    pub beyond_n: u64,
    /// Whether the generation was there already, built for the same request, and nothing was done.
    pub already_built: bool,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A build of the same output that was killed has left something.
    Remains {
        /// The rows that it had sorted and that are not read again; `None` when it was a build of something else, which is removed.
        rows: Option<u64>,
    },
    /// What that build had sorted turned out to be damaged, and all rows are read and sorted again.
    Damaged,
    /// Reading and sorting the rows, because they are not in order.
    Reading {
        /// Rows read so far, of all files.
        rows: u64,
        /// Rows to read.
        of: u64,
    },
    /// All rows of this shard are in sorted runs, which are now merged.
    Sorting {
        /// Their number.
        rows: u64,
    },
    /// Writing the generation: what was sorted, or straight from the source files.
    Writing {
        /// Rows written so far.
        rows: u64,
        /// Rows to write. Of a source in order it is not known before how many are rejected or another shard's: it falls as they are found.
        of: u64,
    },
}

/// Builds a generation. Whatever goes wrong, and also when the process is killed, `out` is either finished or absent.
///
/// A snapshot whose rows are in order already is written as it is read, whatever its size. At the first row that is not, the build starts
/// again: it sorts the rows, in runs that are set aside on disk where they do not fit into memory, and merges them. Killed then, or stopped
/// by a disk or a network that fails, the same build goes on after the runs that were finished.
///
/// # Errors
/// [`Error::FixSource`] names file, column or row, what was found and what is expected; [`Error::FreeSpace`] says how much is missing.
pub fn build(request: &BuildRequest<'_>, progress: &mut dyn FnMut(Progress)) -> Result<BuildReport, Error> {
    request.view.validate()?;
    let files = reading::find(request)?;
    let fingerprint = request.fingerprint(&files)?;
    if fs::symlink_metadata(&request.out).is_ok() {
        return request::built_before(&request.out, &fingerprint);
    }
    let threads = match request.limits.threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let budget = Budget::new(request.limits.max_memory_mib, threads);
    let folder = WorkFolder::create(&request.out, request.spill.as_deref())?;
    let state = State::new(folder.root(), &folder.runs(), &fingerprint);
    let block_bytes = budget.block_bytes(request.view.features.len() + 2);
    let outcome = Sources::check(files, request.view, request.shard, block_bytes).and_then(|sources| {
        let rejects = Rejects::new(request.limits.max_rejected_rows, request.rejects.as_deref());
        let build = Build { request, sources: &sources, rejects: &rejects, budget, folder: &folder, state: &state };
        let report = build.run(progress);
        let noted = rejects.write();
        let report = report?;
        noted?;
        request::record(&folder.generation(), &fingerprint, &report)?;
        Ok(report)
    });
    let report = outcome.inspect_err(|error| {
        // What these say may pass, and hours of sorting may have been done.
        let may_pass = matches!(
            error,
            Error::CheckDisk { .. }
                | Error::CheckLocation { .. }
                | Error::FreeSpace { .. }
                | Error::Store(larder_store::Error::CheckDisk { .. } | larder_store::Error::FreeSpace { .. })
        );
        if may_pass && state.is_there() {
            folder.keep();
        }
    })?;
    folder.finish()?;
    let BuildReport { rows_read, rows_rejected, .. } = report;
    let (view, entities) = (&request.view.name, report.manifest.entities);
    tracing::info!(%view, generation = request.generation, rows_read, rows_rejected, entities, "generation built");
    Ok(report)
}

/// Removes what a build of `out` that was killed has left, also what it set aside on another disk. False when there is nothing, or when a build of
/// it is under way.
///
/// # Errors
/// [`Error::CheckDisk`] when it cannot be removed.
pub fn discard(out: &Path) -> Result<bool, Error> {
    WorkFolder::discard(out)
}

/// One build: what is asked for, what the sources say they hold, and where the work is done.
struct Build<'a> {
    request: &'a BuildRequest<'a>,
    sources: &'a Sources<'a>,
    rejects: &'a Rejects,
    budget: Budget,
    folder: &'a WorkFolder,
    state: &'a State,
}

/// What became of the attempt to write the rows as they come.
enum AsTheyCome {
    Written(Box<BuildReport>),
    /// They are not in order; about as many bytes all of them take in memory.
    NotInOrder(u64),
}

impl Build<'_> {
    fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<BuildReport, Error> {
        let has_remains = self.state.is_there();
        let taken_over = if self.request.fresh { None } else { self.state.take_over()? };
        if taken_over.is_none() {
            // Before its runs: their names are given anew, and a state that names them would be believed.
            self.state.forget()?;
        }
        self.state.remove_strays()?;
        if has_remains {
            progress(Progress::Remains { rows: taken_over });
        }
        if taken_over.is_some() {
            // Its segments are of the size that was chosen then.
            let outcome = self.sorted(0, progress);
            let Err(Error::BuildAgain { .. }) = outcome else { return outcome };
            progress(Progress::Damaged);
            self.state.forget()?;
            self.state.remove_strays()?;
            self.folder.clear()?;
            self.rejects.restart(0, Vec::new());
        }
        match self.as_they_come(progress)? {
            AsTheyCome::Written(report) => Ok(*report),
            AsTheyCome::NotInOrder(expected_bytes) => self.sorted(expected_bytes, progress),
        }
    }

    /// Writes the rows as they are read, by another thread, until one is not in order.
    fn as_they_come(&self, progress: &mut dyn FnMut(Progress)) -> Result<AsTheyCome, Error> {
        let mut writer = Output::create(self.request, &self.folder.generation())?;
        let of = self.sources.rows();
        let outcome = thread::scope(|scope| {
            let (read, batches) = sync_channel(AHEAD);
            let reader = scope.spawn(move || {
                let mut reading = Reading::all(self.sources, self.rejects);
                while let Some(rows) = reading.next()? {
                    if read.send((rows, reading.rows())).is_err() {
                        break;
                    }
                }
                Ok::<_, Error>(reading.rows())
            });
            let (mut order, mut written, mut taken) = (Order::default(), 0, 0);
            for (rows, read) in batches {
                taken += memory_of(&rows);
                if !order.goes_on(&rows) {
                    return Ok(Err(self.sources.expected_memory(read, taken)));
                }
                writer.append(&rows)?;
                written += rows.num_rows() as u64;
                // Of what was read the rest is not written: rejected, or of another shard.
                progress(Progress::Writing { rows: written, of: of.saturating_sub(read - written) });
            }
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, Error>(Ok((read, written)))
        })?;
        match outcome {
            Ok((rows_read, written)) => Ok(AsTheyCome::Written(Box::new(self.finish(writer, rows_read, written)?))),
            Err(expected_bytes) => {
                self.rejects.restart(0, Vec::new());
                Ok(AsTheyCome::NotInOrder(expected_bytes))
            }
        }
    }

    /// Sorts the rows in runs, merges the runs and writes the rows. They are expected to take so many bytes; 0 when that is not known.
    fn sorted(&self, expected_bytes: u64, progress: &mut dyn FnMut(Progress)) -> Result<BuildReport, Error> {
        self.folder.clear()?;
        let (count, samples) = self.state.rejected();
        self.rejects.restart(count, samples);
        let of = self.sources.rows();
        let resident = expected_bytes > 0 && expected_bytes <= self.budget.resident_bytes;
        // A little less than fits, since rows differ; and something for every thread.
        let fitting = self.budget.run_bytes / 10 * 9 / expected_bytes.div_ceil(of.max(1)).max(1);
        let segment_rows = fitting.clamp(1, of.div_ceil(self.budget.threads as u64).max(1));
        let gather = Gather {
            sources: self.sources,
            rejects: self.rejects,
            budget: &self.budget,
            folder: self.folder,
            state: self.state,
            schema: self.request.schema(),
            segment_rows: self.state.segment_rows(segment_rows),
            resident,
        };
        let mut rows_read = 0;
        let runs = gather.runs(&mut |rows| {
            rows_read = rows;
            progress(Progress::Reading { rows, of });
        })?;
        let kept = runs.iter().map(Run::rows).sum();
        progress(Progress::Sorting { rows: kept });
        let runs = gather.open(gather.reduce(runs)?)?;
        let mut writer = Output::create(self.request, &self.folder.generation())?;
        let mut written = 0;
        thread::scope(|scope| {
            let (merged, batches) = sync_channel::<RecordBatch>(AHEAD);
            let merger = scope.spawn(move || {
                let gone = |_| Error::FixRequest("the build was given up".to_owned());
                merge(runs, &self.budget, |rows| merged.send(rows).map_err(gone))
            });
            for rows in batches {
                writer.append(&rows)?;
                written += rows.num_rows() as u64;
                progress(Progress::Writing { rows: written, of: kept });
            }
            merger.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        self.finish(writer, rows_read, written)
    }

    fn finish(&self, writer: Output, rows_read: u64, written: u64) -> Result<BuildReport, Error> {
        self.sources.unchanged()?;
        let (rows_rejected, files) = (self.rejects.count(), self.sources.files.len());
        let of = self.sources.rows();
        if rows_read != of {
            let message =
                format!("the source files say that they hold {of} rows and {rows_read} could be read: one is damaged");
            return Err(Error::FixRequest(message));
        }
        let rows_elsewhere = rows_read - rows_rejected - written;
        if written == 0 {
            let shard = self.request.shard;
            let of_shard = if shard.is_whole() { String::new() } else { format!(" of shard {shard}") };
            let message = match self.request.delta {
                Some(_) => format!("{files} files hold no usable change{of_shard}: nothing is to be published"),
                None => {
                    format!("{files} files hold no usable row{of_shard}: an empty generation would hide every entity")
                }
            };
            return Err(Error::FixRequest(message));
        }
        let named = self.sources.files.iter().take(MAX_NAMED_SOURCES).map(describe).collect::<Result<_, _>>()?;
        let bytes = self.sources.files.iter().map(|file| file.found.bytes).fold(0, u64::saturating_add);
        let sources = ManifestSources { files: files as u64, bytes, rows_read, rows_rejected, named };
        let manifest = writer.finish(sources)?;
        let (duplicates, beyond_n) = (manifest.duplicates_dropped, manifest.beyond_n_dropped);
        let already_built = false;
        Ok(BuildReport {
            manifest,
            files,
            rows_read,
            rows_rejected,
            rows_elsewhere,
            duplicates,
            beyond_n,
            already_built,
        })
    }
}

/// A source file as the manifest describes it. Where no store vouches for its content, a checksum of its end does.
fn describe(source: &Source) -> Result<ManifestSource, Error> {
    let FoundFile { location, bytes, modified_ns, etag, .. } = &source.found;
    let end_crc32 = match etag {
        Some(_) => None,
        None => {
            let end = location.read_range(bytes.saturating_sub(SOURCE_END_BYTES)..*bytes, None)?;
            Some(crc32fast::hash(&end))
        }
    };
    let modified_ms = modified_ns.div_euclid(1_000_000);
    Ok(ManifestSource { location: location.to_string(), bytes: *bytes, modified_ms, etag: etag.clone(), end_crc32 })
}
