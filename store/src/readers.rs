//! Reading many keys of the base family. What is in RAM is read on the calling thread; what is not is split over a few reader threads, because
//! RocksDB reads the blocks of one call one after the other, and a disk answers many questions in the time of one.
//!
//! Which of the two it is shows in the time that the first keys take. RocksDB has a mode that promises to read from its cache only, but its
//! MultiGet reads the disk all the same, and leaves what it read out of the cache.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;
use crate::lookup::Room;
use crate::warm::{Read, Snapshot};

/// Keys of the first part, which tells whether the others are in RAM; RocksDB looks up so many together. Each part is twice the one before.
const FIRST_PART: usize = 32;
/// A key from RAM takes about two microseconds, one from the operating system's cache three times that, one from a disk fifty times.
const SLOW_PER_KEY: Duration = Duration::from_micros(6);
/// Fewest keys of one thread's share.
const MIN_SHARE: usize = 8;
/// Keys that a thread of the pool reads before it looks whether the fetch has become too large.
const SHARE_PART: usize = 256;

/// The reader threads.
pub(crate) struct Readers {
    /// None where one thread would do all the work.
    pool: Option<ThreadPool>,
}

impl Readers {
    pub(crate) fn start(threads: usize) -> Result<Readers, rayon::ThreadPoolBuildError> {
        if threads < 2 {
            return Ok(Readers { pool: None });
        }
        let name = |index| format!("larder-read-{index}");
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build()?;
        Ok(Readers { pool: Some(pool) })
    }

    /// One result per key; the keys are sorted. Stops with an error when the rows are more than there is room for.
    pub(crate) fn read<'db>(
        &self,
        snapshot: &Snapshot<'db>,
        keys: &[&[u8]],
        room: &Room,
    ) -> Result<Vec<Read<'db>>, Error> {
        let mut rows = Vec::with_capacity(keys.len());
        let mut size = FIRST_PART;
        while rows.len() < keys.len() {
            let rest = &keys[rows.len()..];
            let part = &rest[..rest.len().min(size)];
            size *= 2;
            let started = Instant::now();
            rows.extend(room.take_in(snapshot.read(part)?)?);
            let slow = started.elapsed() > SLOW_PER_KEY * part.len() as u32;
            if let Some(pool) = self.pool.as_ref().filter(|_| slow) {
                rows.extend(share(pool, snapshot, &keys[rows.len()..], room)?);
            }
        }
        Ok(rows)
    }
}

/// Reads the keys on all threads of the pool.
fn share<'db>(
    pool: &ThreadPool,
    snapshot: &Snapshot<'db>,
    keys: &[&[u8]],
    room: &Room,
) -> Result<Vec<Read<'db>>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let share = keys.len().div_ceil(pool.current_num_threads()).max(MIN_SHARE);
    let read = |keys: &[&[u8]]| -> Result<Vec<_>, Error> {
        let mut rows = Vec::with_capacity(keys.len());
        for part in keys.chunks(SHARE_PART) {
            rows.extend(room.take_in(snapshot.read(part)?)?);
        }
        Ok(rows)
    };
    let shares: Result<Vec<_>, _> = pool.install(|| keys.par_chunks(share).map(read).collect());
    Ok(shares?.into_iter().flatten().collect())
}
