//! Merging sorted runs into one order, with as much memory as two batches of each run.
//!
//! Batches are decoded ahead on threads of their own, one per run at most, so that the thread which compares never waits for a disk or a
//! codec as long as the others keep up. Rows of one entity stay in the order of the runs, and within a run in its order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::interleave_record_batch;
use arrow::error::ArrowError;

use crate::Error;
use crate::budget::{Budget, RUN_BATCH_BYTES};
use crate::sort::{self, Sorted};
use crate::spill::{RunReader, batch_rows};

/// Rows and bytes that are passed on at a time.
const OUT_ROWS: usize = 8192;
const OUT_BYTES: usize = 16 * RUN_BATCH_BYTES;

/// A run, wherever it is.
pub(crate) enum SortedRun {
    Memory {
        sorted: Sorted,
        /// Rows taken so far, and to take at a time.
        taken: usize,
        step: usize,
    },
    File(Box<RunReader>),
    /// Panics when it is read.
    #[cfg(test)]
    Broken,
}

impl SortedRun {
    /// A run that stayed in memory, of that many bytes.
    pub(crate) fn memory(sorted: Sorted, bytes: u64) -> SortedRun {
        let step = batch_rows(sorted.rows(), bytes);
        SortedRun::Memory { sorted, taken: 0, step }
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        match self {
            SortedRun::File(reader) => reader.next(),
            SortedRun::Memory { sorted, taken, .. } if *taken == sorted.rows() => Ok(None),
            SortedRun::Memory { sorted, taken, step } => {
                let end = sorted.rows().min(*taken + *step);
                let batch = sorted.batch(*taken..end).map_err(|error| cannot_sort(&error))?;
                *taken = end;
                Ok(Some(batch))
            }
            #[cfg(test)]
            SortedRun::Broken => panic!("a run that is broken on purpose"),
        }
    }
}

/// A run with the way back of what is read of it. The thread that reads has both or neither, so that whoever waits learns of its end.
struct Lent {
    run: SortedRun,
    reply: SyncSender<Yield>,
}

/// What a run yielded, with the run.
type Yield = (Lent, Result<Option<RecordBatch>, Error>);

/// Merges the runs, given in the order in which their rows were read, and passes batches on in entity order.
pub(crate) fn merge(
    runs: Vec<SortedRun>,
    budget: &Budget,
    out: impl FnMut(RecordBatch) -> Result<(), Error>,
) -> Result<(), Error> {
    let (jobs, wishes) = channel::<Lent>();
    let wishes = Mutex::new(wishes);
    thread::scope(|scope| {
        for _ in 0..budget.threads.min(runs.len()) {
            scope.spawn(|| serve(&wishes));
        }
        // When this ends, in whatever way, the wishes end, and the threads with them.
        Merge::start(runs, jobs, budget.retired_bytes)?.run(out)
    })
}

/// Fulfils wishes, each for the next batch of a run, as long as any can come.
fn serve(wishes: &Mutex<Receiver<Lent>>) {
    loop {
        let wish = wishes.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut lent) = wish else { return };
        // Where reading panics the way back ends here, and the others go on.
        let read = catch_unwind(AssertUnwindSafe(move || {
            let batch = lent.run.next();
            (lent, batch)
        }));
        if let Ok((lent, batch)) = read {
            let reply = lent.reply.clone();
            // A merge that was given up wants no reply.
            let _ = reply.send((lent, batch));
        }
    }
}

/// Where a run stands.
struct Cursor {
    replies: Receiver<Yield>,
    /// The batch's place among those held.
    held: usize,
    entities: StringArray,
    row: usize,
    /// First bytes of the entity, which decide most comparisons.
    start: u64,
    bytes_per_row: usize,
}

impl Cursor {
    fn entity(&self) -> &str {
        self.entities.value(self.row)
    }
}

struct Merge {
    jobs: Sender<Lent>,
    cursors: Vec<Cursor>,
    /// Runs that have rows, as a heap with the least entity first.
    heap: Vec<usize>,
    /// The batches that cursors stand in or that rows still to be passed on lie in.
    held: Vec<RecordBatch>,
    /// Bytes of those that no cursor stands in any more.
    retired: usize,
    max_retired: usize,
    places: Vec<(usize, usize)>,
    place_bytes: usize,
}

impl Merge {
    fn start(runs: Vec<SortedRun>, jobs: Sender<Lent>, max_retired: usize) -> Result<Merge, Error> {
        let mut cursors = Vec::with_capacity(runs.len());
        for run in runs {
            let (reply, replies) = sync_channel(1);
            // The threads live as long as `jobs`, so a wish is always taken.
            let _ = jobs.send(Lent { run, reply });
            let entities = StringArray::from(Vec::<&str>::new());
            cursors.push(Cursor { replies, held: 0, entities, row: 0, start: 0, bytes_per_row: 0 });
        }
        let mut merge = Merge {
            jobs,
            heap: Vec::with_capacity(cursors.len()),
            cursors,
            held: Vec::new(),
            retired: 0,
            max_retired,
            places: Vec::with_capacity(OUT_ROWS),
            place_bytes: 0,
        };
        for run in 0..merge.cursors.len() {
            if merge.next_batch(run)? {
                merge.heap.push(run);
            }
        }
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        Ok(merge)
    }

    fn run(mut self, mut out: impl FnMut(RecordBatch) -> Result<(), Error>) -> Result<(), Error> {
        while let Some(&run) = self.heap.first() {
            let cursor = &mut self.cursors[run];
            self.places.push((cursor.held, cursor.row));
            self.place_bytes += cursor.bytes_per_row;
            cursor.row += 1;
            if cursor.row < cursor.entities.len() {
                cursor.start = sort::start(cursor.entity());
            } else {
                self.retired += self.held[cursor.held].get_array_memory_size();
                if !self.next_batch(run)? {
                    self.heap.swap_remove(0);
                }
            }
            self.sift_down(0);
            if self.places.len() == OUT_ROWS || self.place_bytes >= OUT_BYTES || self.retired > self.max_retired {
                self.pass_on(&mut out)?;
            }
        }
        self.pass_on(&mut out)
    }

    /// Steps into the next batch of a run; false at its end.
    fn next_batch(&mut self, run: usize) -> Result<bool, Error> {
        let cursor = &mut self.cursors[run];
        loop {
            let Ok((lent, batch)) = cursor.replies.recv() else {
                let message = "reading sorted rows panicked, which is a bug: report it with the line above".to_owned();
                return Err(Error::FixRequest(message));
            };
            let Some(batch) = batch? else { return Ok(false) };
            let _ = self.jobs.send(lent);
            if batch.num_rows() == 0 {
                continue;
            }
            cursor.entities = batch.column(0).as_string::<i32>().clone();
            cursor.row = 0;
            cursor.start = sort::start(cursor.entity());
            cursor.bytes_per_row = batch.get_array_memory_size() / batch.num_rows();
            cursor.held = self.held.len();
            self.held.push(batch);
            return Ok(true);
        }
    }

    /// Whether run `a` comes before run `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        let (one, other) = (&self.cursors[a], &self.cursors[b]);
        let order = one.start.cmp(&other.start).then_with(|| one.entity().cmp(other.entity()));
        order.then(a.cmp(&b)).is_lt()
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut least = at;
            for child in [left, right] {
                if child < self.heap.len() && self.before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    /// Passes on the rows gathered so far, and lets go of the batches that only they lie in.
    fn pass_on(&mut self, out: &mut impl FnMut(RecordBatch) -> Result<(), Error>) -> Result<(), Error> {
        if self.places.is_empty() {
            return Ok(());
        }
        let sources: Vec<_> = self.held.iter().collect();
        let rows = interleave_record_batch(&sources, &self.places).map_err(|error| cannot_sort(&error))?;
        self.places.clear();
        (self.place_bytes, self.retired) = (0, 0);
        let mut held = Vec::with_capacity(self.cursors.len());
        for &run in &self.heap {
            let cursor = &mut self.cursors[run];
            held.push(self.held[cursor.held].clone());
            cursor.held = held.len() - 1;
        }
        self.held = held;
        out(rows)
    }
}

fn cannot_sort(error: &ArrowError) -> Error {
    Error::FixRequest(format!("the rows cannot be sorted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    fn run(rows: &[(&str, i64)], step: usize) -> SortedRun {
        let entities: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let batch = RecordBatch::try_from_iter([("entity", entities), ("value", values)]).unwrap();
        SortedRun::Memory { sorted: Sorted::new(vec![batch]), taken: 0, step }
    }

    fn merged(runs: Vec<SortedRun>, budget: &Budget) -> Vec<i64> {
        let mut values = Vec::new();
        merge(runs, budget, |rows| {
            values.extend_from_slice(rows.column(1).as_primitive::<Int64Type>().values());
            Ok(())
        })
        .unwrap();
        values
    }

    #[test]
    fn runs_merge_in_order_and_ties_follow_the_order_of_the_runs() {
        let budget = Budget::new(1, 2);
        let runs = || {
            vec![
                run(&[("b", 1), ("a", 0), ("long-prefix-2", 2), ("b", 3)], 1),
                run(&[], 1),
                run(&[("b", 4), ("long-prefix-1", 5), ("a\0", 6)], 2),
                run(&[("b", 7)], 100),
            ]
        };
        assert_eq!(merged(runs(), &budget), [0, 6, 1, 3, 4, 7, 5, 2]);
        // Passing rows on at every used-up batch changes nothing.
        assert_eq!(merged(runs(), &Budget { retired_bytes: 0, ..budget }), [0, 6, 1, 3, 4, 7, 5, 2]);
        assert!(merged(Vec::new(), &budget).is_empty());
    }

    #[test]
    fn a_reader_that_panics_ends_the_merge_with_an_error() {
        for threads in [1, 4] {
            let runs = vec![run(&[("a", 0), ("b", 1)], 1), SortedRun::Broken, run(&[("c", 2)], 1)];
            let outcome = merge(runs, &Budget::new(1, threads), |_| Ok(()));
            assert!(outcome.unwrap_err().to_string().contains("panicked"), "{threads} threads");
        }
    }

    #[test]
    fn a_merge_that_is_given_up_ends() {
        let rows: Vec<_> = (0..50_000).map(|row| ("user", row)).collect();
        let runs = (0..8).map(|_| run(&rows, 100)).collect();
        let stop = |_| Err(Error::FixRequest("enough".to_owned()));
        assert_eq!(merge(runs, &Budget::new(1, 4), stop).unwrap_err().to_string(), "enough");
    }
}
