//! Devices for tests: the CPU in an accelerator's place, and flaws that strike when a test wants them to.
//!
//! None of this can be reached from larder.toml. A rehearsed accelerator goes the whole way of a GPU (its own thread, padded buckets,
//! self-check, warm-up) on Burn's CPU backend, which is how that way is tested on machines without one.

use crate::device_status::Failure;
use crate::embeddings::Embeddings;
use crate::error::Error;

/// A device of `Devices::rehearse`.
#[derive(Debug, Clone)]
pub enum Rehearsal {
    /// A CPU with a pool of its own and this many threads.
    Cpu {
        /// Threads of its pool.
        threads: usize,
        /// What goes wrong with it.
        flaw: Option<Flaw>,
    },
    /// The way of an accelerator.
    Accelerator {
        /// What goes wrong with it.
        flaw: Option<Flaw>,
    },
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub struct Flaw {
    /// Jobs that go well first; none for what goes wrong in the self-check.
    pub after_jobs: usize,
    /// What then happens.
    pub kind: FlawKind,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlawKind {
    /// The device panics, as a CUDA device does whose kernel does not start.
    Panic,
    /// The device says that it failed.
    Error,
    /// It returns values that are no numbers, and says all went well.
    NotANumber,
    /// It returns vectors that are not of length 1.
    NotUnit,
    /// It returns garbage from the start.
    Garbage,
}

impl Flaw {
    /// What a job returns on a device with that flaw.
    pub(crate) fn strike(flaw: Option<&mut Flaw>, mut embeddings: Embeddings) -> Result<Embeddings, Failure> {
        let Some(flaw) = flaw else { return Ok(embeddings) };
        if flaw.after_jobs > 0 {
            flaw.after_jobs -= 1;
            return Ok(embeddings);
        }
        match flaw.kind {
            #[expect(clippy::panic, reason = "that is what is rehearsed")]
            FlawKind::Panic => panic!("a rehearsed panic"),
            FlawKind::Error => return Err(Error::fault("a rehearsal", "a rehearsed error").into()),
            FlawKind::NotANumber => embeddings.data.fill(f32::NAN),
            FlawKind::NotUnit => embeddings.data.iter_mut().for_each(|value| *value *= 2.0),
            FlawKind::Garbage => embeddings.data.reverse(),
        }
        Ok(embeddings)
    }

    /// What the self-check sees on a device with that flaw.
    pub(crate) fn at_start(flaw: Option<&Flaw>, mut embeddings: Embeddings) -> Embeddings {
        if flaw.is_some_and(|flaw| flaw.kind == FlawKind::Garbage) {
            embeddings.data.reverse();
        }
        embeddings
    }
}
