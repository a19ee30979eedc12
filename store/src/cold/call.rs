//! The jobs of one fetch on their way through the pool: each is answered once, to the fetch while it waits and to its closure afterwards.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Error;
use crate::breaker::Pass;
use crate::cold::file::ColdReads;
use crate::cold::watch::Watch;

/// The values of a job's keys, in their order; `None` for those that the file does not hold.
pub(crate) type Values = Vec<Option<Arc<[u8]>>>;

/// What became of a job that was read.
#[derive(Debug)]
pub(crate) struct ColdAnswer {
    pub(crate) keys: Vec<Box<str>>,
    pub(crate) values: Result<Values, Error>,
    pub(crate) reads: ColdReads,
}

/// What a fetch knows of a job when it goes on.
#[derive(Debug)]
pub(crate) enum ColdOutcome {
    /// It was read before the deadline, well or not.
    Read(ColdAnswer),
    /// It was not read by then. If it ever is, the answer goes to the closure.
    NotInTime,
    /// The queue was full; nobody will read it.
    Refused,
}

/// What is done with the answer to the job of a given position among its fetch's jobs, when it comes too late.
pub(crate) type Late = Box<dyn Fn(usize, ColdAnswer) + Send + Sync>;
pub(crate) type Read = Box<dyn FnOnce(&[Box<str>], &mut ColdReads) -> Result<Values, Error> + Send>;

/// What a thread does: a closure, so that it can be tested without files. The path is for the error should it panic.
pub(crate) struct Work {
    pub(crate) path: PathBuf,
    pub(crate) keys: Vec<Box<str>>,
    pub(crate) read: Read,
}

/// Work on its way: for which call, at which position, and until when it is waited for.
pub(crate) struct Task {
    pub(crate) work: Work,
    pub(crate) index: usize,
    pub(crate) deadline: Instant,
    /// By which the breaker let its fetch through.
    pub(crate) pass: Pass,
    pub(crate) call: Arc<Call>,
}

impl Task {
    /// Does the work on one of the pool's threads and answers. A panic of the work is an answer too; one of the closure for late answers goes on to the caller.
    pub(crate) fn run(self, watch: &Watch, thread: usize) {
        let Work { path, keys, read } = self.work;
        let mut reads = ColdReads::default();
        let values = watch.read(thread, self.pass, &path, || {
            let values = catch_unwind(AssertUnwindSafe(|| read(&keys, &mut reads)));
            values.unwrap_or_else(|_| Err(Error::damaged(&path, "reading it panicked")))
        });
        self.call.answer(self.index, ColdAnswer { keys, values, reads });
    }
}

/// The jobs of one fetch.
pub(crate) struct Call {
    gathered: Mutex<Gathered>,
    complete: Condvar,
    late: Late,
}

struct Gathered {
    outcomes: Vec<ColdOutcome>,
    outstanding: usize,
    /// False as soon as the fetch has gone on.
    waiting: bool,
}

impl Call {
    /// A call that nobody waits for, `waiting` being false, gives every answer to the closure, however fast it comes.
    pub(crate) fn new(jobs: usize, waiting: bool, late: Late) -> Call {
        let outcomes = (0..jobs).map(|_| ColdOutcome::NotInTime).collect();
        let gathered = Mutex::new(Gathered { outcomes, outstanding: jobs, waiting });
        Call { gathered, complete: Condvar::new(), late }
    }

    /// Says that nobody will do a job. A fetch that has gone on knows it as late.
    pub(crate) fn refuse(&self, index: usize) {
        let mut gathered = self.lock();
        if !gathered.waiting {
            return;
        }
        gathered.outcomes[index] = ColdOutcome::Refused;
        self.count(&mut gathered);
    }

    /// Exactly one of the two gets an answer: the fetch, or the closure.
    pub(crate) fn answer(&self, index: usize, answer: ColdAnswer) {
        let mut gathered = self.lock();
        if !gathered.waiting {
            drop(gathered);
            return (self.late)(index, answer);
        }
        gathered.outcomes[index] = ColdOutcome::Read(answer);
        self.count(&mut gathered);
    }

    fn count(&self, gathered: &mut Gathered) {
        gathered.outstanding -= 1;
        if gathered.outstanding == 0 {
            self.complete.notify_one();
        }
    }

    /// What became of the jobs, as soon as all are answered or the deadline has passed.
    pub(crate) fn wait_until(&self, deadline: Instant) -> Vec<ColdOutcome> {
        let mut gathered = self.lock();
        while gathered.outstanding > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            gathered = self.complete.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        gathered.waiting = false;
        mem::take(&mut gathered.outcomes)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn each_answer_goes_to_the_fetch_or_to_the_closure() {
        let (sender, late) = channel();
        let call = Call::new(3, true, Box::new(move |index, answer| sender.send((index, answer.keys)).unwrap()));
        let answer =
            |key: &str| ColdAnswer { keys: vec![key.into()], values: Ok(Vec::new()), reads: ColdReads::default() };
        call.refuse(2);
        call.answer(1, answer("fast"));
        let outcomes = call.wait_until(Instant::now());
        let [ColdOutcome::NotInTime, ColdOutcome::Read(fast), ColdOutcome::Refused] = outcomes.as_slice() else {
            panic!("{outcomes:?}")
        };
        assert_eq!(&*fast.keys[0], "fast");
        call.answer(0, answer("slow"));
        drop(call);
        assert_eq!(late.iter().collect::<Vec<_>>(), [(0, vec!["slow".into()])]);
    }
}
