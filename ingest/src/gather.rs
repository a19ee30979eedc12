//! Turning rows in any order into sorted runs, on all cores: the rows are divided into segments, and each thread takes one after the other,
//! reads and converts it, sorts it and sets it aside.
//!
//! A segment is a range of rows over all files, about as large as a thread's share of the memory, so that it becomes one run; where its rows
//! turn out larger it becomes several. Runs are numbered by segment and part, so whichever thread made them, their order is that of the rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::Error;
use crate::budget::{Budget, check_space, free_space};
use crate::folder::WorkFolder;
use crate::merge::{SortedRun, merge};
use crate::reading::{Reading, Sources};
use crate::rejects::Rejects;
use crate::sort::{self, Sorted};
use crate::spill::{RunFile, RunReader, RunWriter};
use crate::state::State;

/// A sorted run with its place in the order of runs.
pub(crate) enum Run {
    Memory { order: (u64, u32), sorted: Sorted, bytes: u64 },
    File(RunFile),
}

impl Run {
    fn order(&self) -> (u64, u32) {
        match self {
            Run::Memory { order, .. } => *order,
            Run::File(run) => run.order,
        }
    }

    /// Their number.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Run::Memory { sorted, .. } => sorted.rows() as u64,
            Run::File(run) => run.rows,
        }
    }
}

/// The sorting half of a build.
pub(crate) struct Gather<'a> {
    pub(crate) sources: &'a Sources<'a>,
    pub(crate) rejects: &'a Rejects,
    pub(crate) budget: &'a Budget,
    pub(crate) folder: &'a WorkFolder,
    pub(crate) state: &'a State,
    pub(crate) schema: SchemaRef,
    pub(crate) segment_rows: u64,
    /// Whether all rows are expected to fit into memory. Then runs stay there as long as they do, and nothing is noted for a next build.
    pub(crate) resident: bool,
}

/// What the threads of one gathering share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    resident: AtomicU64,
}

impl Gather<'_> {
    /// Sorts all rows that are not sorted yet. Returns all runs in their order; `progress` hears how many rows have been read.
    pub(crate) fn runs(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Run>, Error> {
        let segments = self.sources.rows().div_ceil(self.segment_rows);
        let mut rows: u64 = (0..segments).filter_map(|segment| self.state.finished(segment)).sum();
        progress(rows);
        let shared = Shared::default();
        let mut runs: Vec<Run> = self.state.runs().into_iter().map(Run::File).collect();
        let outcomes = thread::scope(|scope| {
            let (read, counts) = channel();
            let workers: Vec<_> = (0..self.budget.threads)
                .map(|_| {
                    let (read, shared) = (read.clone(), &shared);
                    scope.spawn(move || {
                        let outcome = self.work(segments, shared, &read);
                        if outcome.is_err() {
                            shared.stop.store(true, Ordering::Relaxed);
                        }
                        outcome
                    })
                })
                .collect();
            drop(read);
            for count in counts {
                rows += count;
                progress(rows);
            }
            workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for outcome in outcomes {
            runs.extend(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        runs.sort_by_key(Run::order);
        Ok(runs)
    }

    /// Sorts segments as long as there are any. Returns the runs.
    fn work(&self, segments: u64, shared: &Shared, read: &Sender<u64>) -> Result<Vec<Run>, Error> {
        let mut runs = Vec::new();
        loop {
            let segment = shared.next.fetch_add(1, Ordering::Relaxed);
            if segment >= segments || shared.stop.load(Ordering::Relaxed) {
                return Ok(runs);
            }
            if self.state.finished(segment).is_none() {
                runs.extend(self.segment(segment, shared, read)?);
            }
        }
    }

    /// Sorts one segment.
    fn segment(&self, segment: u64, shared: &Shared, read: &Sender<u64>) -> Result<Vec<Run>, Error> {
        let start = segment * self.segment_rows;
        let range = start..self.sources.rows().min(start + self.segment_rows);
        let mut reading = Reading::range(self.sources, self.rejects, &range);
        let mut runs = Vec::new();
        let (mut batches, mut bytes, mut rows, mut in_runs) = (Vec::new(), 0, 0, 0);
        loop {
            let next = reading.next()?;
            let ends = next.is_none();
            if let Some(batch) = next {
                bytes += memory_of(&batch);
                batches.push(batch);
                // Nobody listens only when the build has been given up.
                let _ = read.send(reading.rows() - rows);
                rows = reading.rows();
            }
            if shared.stop.load(Ordering::Relaxed) {
                return Ok(Vec::new());
            }
            if !batches.is_empty() && (ends || bytes >= self.budget.run_bytes) {
                let sorted = Sorted::new(std::mem::take(&mut batches));
                if sorted.rows() > 0 {
                    let order = (segment, u32::try_from(runs.len()).unwrap_or(u32::MAX));
                    runs.push(self.set_aside(order, sorted, bytes, rows - in_runs, shared)?);
                }
                in_runs = rows;
                bytes = 0;
            }
            if ends {
                break;
            }
        }
        if rows != range.end - range.start {
            let message = format!(
                "of rows {} to {} of the source files {rows} could be read: one is damaged",
                range.start, range.end
            );
            return Err(Error::FixRequest(message));
        }
        if !self.resident {
            let files: Vec<_> =
                runs.iter().filter_map(|run| if let Run::File(run) = run { Some(run.clone()) } else { None }).collect();
            self.state.finish(segment, reading.rows(), &files, reading.rejected, &reading.samples)?;
        }
        Ok(runs)
    }

    /// Keeps a run, of which so many rows were read, in memory while that is meant to be and possible, and else writes it to a file.
    fn set_aside(
        &self,
        order: (u64, u32),
        sorted: Sorted,
        bytes: u64,
        rows_read: u64,
        shared: &Shared,
    ) -> Result<Run, Error> {
        if self.resident {
            let resident = shared.resident.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if resident <= self.budget.resident_bytes {
                return Ok(Run::Memory { order, sorted, bytes });
            }
            shared.resident.fetch_sub(bytes, Ordering::Relaxed);
        }
        let (name, path) = self.state.new_run();
        let mut writer = RunWriter::create(&path, &self.schema)?;
        writer.write_sorted(&sorted, bytes)?;
        let (rows, bytes) = writer.finish()?;
        self.check_space(bytes, rows_read)?;
        Ok(Run::File(RunFile { name, order, rows, bytes }))
    }

    /// Looks whether the disk has room for the runs to come if they are like this one, which `rows` that were read have made, so that a build
    /// which must fail fails early.
    fn check_space(&self, bytes: u64, rows: u64) -> Result<(), Error> {
        let runs = self.folder.runs();
        let Some(free) = free_space(&runs) else { return Ok(()) };
        let left = self.sources.rows().saturating_sub(self.state.rows_finished() + rows);
        // The generation is compressed in the same way and about as large as all runs.
        let generation = if self.folder.shares_disk() { self.sources.rows() } else { 0 };
        let needed = u128::from(bytes) * u128::from(left + generation) / u128::from(rows.max(1));
        check_space(&runs, u64::try_from(needed).unwrap_or(u64::MAX), free)
    }

    /// Merges runs until few enough are left to be merged at once.
    pub(crate) fn reduce(&self, mut runs: Vec<Run>) -> Result<Vec<Run>, Error> {
        let fan_in = self.budget.fan_in;
        while runs.len() > fan_in {
            let mut fewer = Vec::with_capacity(runs.len().div_ceil(fan_in));
            let mut rest = runs.into_iter().peekable();
            while rest.peek().is_some() {
                let group: Vec<_> = rest.by_ref().take(fan_in).collect();
                fewer.push(self.merge_to_file(group)?);
            }
            runs = fewer;
        }
        Ok(runs)
    }

    fn merge_to_file(&self, mut group: Vec<Run>) -> Result<Run, Error> {
        if group.len() == 1 {
            return group.pop().ok_or_else(|| Error::FixRequest("no runs to merge".to_owned()));
        }
        let order = group.first().map_or((0, 0), Run::order);
        let files: Vec<_> =
            group.iter().filter_map(|run| if let Run::File(run) = run { Some(run.clone()) } else { None }).collect();
        let (name, path) = self.state.new_run();
        let mut writer = RunWriter::create(&path, &self.schema)?;
        merge(self.open(group)?, self.budget, |rows| writer.write(&rows))?;
        let (rows, bytes) = writer.finish()?;
        let merged = RunFile { name, order, rows, bytes };
        if self.resident {
            for run in &files {
                let path = self.folder.runs().join(&run.name);
                std::fs::remove_file(&path).map_err(Error::disk("remove", &path))?;
            }
        } else {
            self.state.replace(&files, merged.clone())?;
        }
        Ok(Run::File(merged))
    }

    /// Opens runs to be merged.
    pub(crate) fn open(&self, runs: Vec<Run>) -> Result<Vec<SortedRun>, Error> {
        let open = |run| match run {
            Run::Memory { sorted, bytes, .. } => Ok(SortedRun::memory(sorted, bytes)),
            Run::File(run) => {
                let reader = RunReader::open(&self.folder.runs().join(&run.name), run.rows)?;
                Ok(SortedRun::File(Box::new(reader)))
            }
        };
        runs.into_iter().map(open).collect()
    }
}

/// What a batch takes while it waits to be sorted.
pub(crate) fn memory_of(rows: &RecordBatch) -> u64 {
    rows.get_array_memory_size() as u64 + rows.num_rows() as u64 * sort::BYTES_PER_ROW
}
