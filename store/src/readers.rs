//! Reading many keys of the base family. What is in RAM is read on the calling thread; what is not is split over a few reader threads, because
//! RocksDB reads the blocks of one call one after the other, and a disk answers many questions in the time of one.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;
use crate::warm::{Read, Snapshot};

/// Fewer keys than this are read where they are asked for: asking another thread costs as much as a read or two.
const MIN_KEYS_TO_SHARE: usize = 32;
/// Fewest keys of one thread's share.
const MIN_SHARE: usize = 8;

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

    /// One result per key; the keys are sorted.
    pub(crate) fn read<'db>(&self, snapshot: &Snapshot<'db>, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        let Some(pool) = self.pool.as_ref().filter(|_| keys.len() >= MIN_KEYS_TO_SHARE) else {
            return if keys.is_empty() { Ok(Vec::new()) } else { snapshot.read(keys) };
        };
        let mut cached = snapshot.read_cached(keys)?;
        let absent: Vec<usize> = (0..keys.len()).filter(|&index| cached[index].is_none()).collect();
        if absent.is_empty() {
            return Ok(cached.into_iter().flatten().collect());
        }
        let share = absent.len().div_ceil(pool.current_num_threads()).max(MIN_SHARE);
        let read_share = |share: &[usize]| snapshot.read(&share.iter().map(|&index| keys[index]).collect::<Vec<_>>());
        let shares: Vec<_> = match absent.len() <= share {
            true => vec![read_share(&absent)?],
            false => pool.install(|| absent.par_chunks(share).map(read_share).collect::<Result<_, _>>())?,
        };
        for (index, row) in absent.into_iter().zip(shares.into_iter().flatten()) {
            cached[index] = Some(row);
        }
        Ok(cached.into_iter().flatten().collect())
    }
}
