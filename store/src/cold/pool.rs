//! Threads of their own for reading cold files, so that a fetch waits for a slow disk as long as it wants to and no longer.
//!
//! A fetch hands over jobs and a deadline. It gets back what was read by then; what is read later goes to a closure, which can put it
//! where the next fetch finds it. Handing over never waits: the queue is bounded, and jobs that find no room are refused at once. So are all
//! jobs while the breaker is open, but one when it wants a trial: a disk that hangs holds these threads and nobody else.

use std::io;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::breaker::Breaker;
use crate::cold::call::{Call, ColdAnswer, ColdOutcome, Late, Read, Task, Work};
use crate::cold::file::ColdFile;
use crate::cold::queue::SharedQueue;
use crate::cold::watch::Watch;
use crate::faults::Faults;

/// Keys that one job reads, when [`ColdJob::split`] makes it. A job answers as a whole: with 8 seeks of about 10 ms on a disk that turns
/// it answers within a tenth of a second, and what a deadline cuts off is never much.
const KEYS_PER_JOB: usize = 8;

/// Keys to be looked up in one file. They are sorted and distinct; keys that the file cannot contain are better left out before.
#[derive(Debug)]
pub(crate) struct ColdJob {
    pub(crate) file: Arc<ColdFile>,
    pub(crate) keys: Vec<Box<str>>,
}

impl ColdJob {
    /// Cuts sorted keys into jobs that several threads can share and of which some may be in time when not all are.
    pub(crate) fn split(file: &Arc<ColdFile>, keys: Vec<Box<str>>) -> impl Iterator<Item = ColdJob> {
        let mut keys = keys.into_iter().peekable();
        iter::from_fn(move || {
            keys.peek()?;
            Some(ColdJob { file: Arc::clone(file), keys: keys.by_ref().take(KEYS_PER_JOB).collect() })
        })
    }
}

/// The threads and their queue. Dropping it forgets what is queued and waits for the reads that have begun.
pub(crate) struct ColdPool {
    queue: Arc<SharedQueue>,
    watch: Arc<Watch>,
    threads: Vec<JoinHandle<()>>,
}

impl ColdPool {
    /// Starts the threads. `max_queued`, at least 1, is in jobs, beside those being read. Fails when a thread cannot be started.
    pub(crate) fn start(
        threads: usize,
        max_queued: usize,
        breaker: Breaker,
        faults: Arc<Faults>,
    ) -> io::Result<ColdPool> {
        let queue = Arc::new(SharedQueue::new(max_queued));
        let watch = Arc::new(Watch::new(threads, Arc::clone(&queue), breaker, faults));
        let mut pool = ColdPool { queue, watch, threads: Vec::new() };
        for number in 0..threads {
            let (queue, watch) = (Arc::clone(&pool.queue), Arc::clone(&pool.watch));
            let work = move || work(&queue, &watch, number);
            pool.threads.push(thread::Builder::new().name("larder-cold".into()).spawn(work)?);
        }
        Ok(pool)
    }

    /// Reads the jobs, until all are read or the deadline has passed, and returns what became of each, in their order. `late` is called, on
    /// one of the pool's threads, with the position and the answer of each job that is read after this has returned. With a deadline in the
    /// past nothing is waited for and every answer is late.
    pub(crate) fn read(
        &self,
        jobs: Vec<ColdJob>,
        deadline: Instant,
        late: impl Fn(usize, ColdAnswer) + Send + Sync + 'static,
    ) -> Vec<ColdOutcome> {
        let work = |ColdJob { file, keys }| {
            let path = file.path().to_path_buf();
            let read: Read =
                Box::new(move |keys, reads| file.read(&keys.iter().map(|key| &**key).collect::<Vec<_>>(), reads));
            Work { path, keys, read }
        };
        self.run(jobs.into_iter().map(work).collect(), deadline, Box::new(late))
    }

    /// The breaker over the cold tier.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.watch.breaker
    }

    fn run(&self, mut work: Vec<Work>, deadline: Instant, late: Late) -> Vec<ColdOutcome> {
        let (jobs, now) = (work.len(), Instant::now());
        let refused = |jobs| iter::repeat_with(|| ColdOutcome::Refused).take(jobs);
        if jobs == 0 {
            return Vec::new();
        }
        let Ok(pass) = self.watch.breaker.ask(now) else { return refused(jobs).collect() };
        if pass.is_trial() {
            work.truncate(1);
        }
        let call = Arc::new(Call::new(work.len(), now < deadline, late));
        let tasks = work.into_iter().enumerate();
        let tasks = tasks.map(|(index, work)| Task { work, index, deadline, pass, call: Arc::clone(&call) });
        for index in self.queue.submit(tasks) {
            call.refuse(index);
        }
        let mut outcomes = call.wait_until(deadline);
        self.watch.fetch_ended(pass, &outcomes, Instant::now());
        outcomes.extend(refused(jobs - outcomes.len()));
        outcomes
    }
}

impl Drop for ColdPool {
    fn drop(&mut self) {
        // Dropped after the lock: a task may hold the last handle of a file.
        let forgotten = self.queue.close();
        drop(forgotten);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What each thread does until the queue is closed. A task that panics, or the closure it calls, ends with itself.
fn work(queue: &SharedQueue, watch: &Watch, thread: usize) {
    while let Some(task) = queue.next() {
        let _ = catch_unwind(AssertUnwindSafe(|| task.run(watch, thread)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::breaker::{BreakerConfig, BreakerState};
    use crate::cold::call::Values;
    use crate::cold::test_files::{SMALL, rows, write};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// Long enough never to pass in a test that does not hang.
    const FAR: Duration = Duration::from_secs(60);

    fn pool(threads: usize, max_queued: usize) -> ColdPool {
        // Of failures on purpose there are many here.
        breaking(threads, max_queued, BreakerConfig { failures: 1000, ..BreakerConfig::default() })
    }

    fn breaking(threads: usize, max_queued: usize, config: BreakerConfig) -> ColdPool {
        ColdPool::start(threads, max_queued, Breaker::new("cold", config, 0), Arc::default()).unwrap()
    }

    fn job(name: &str, read: impl FnOnce() -> Result<Values, Error> + Send + 'static) -> Work {
        Work { path: name.into(), keys: vec![name.into()], read: Box::new(move |_, _| read()) }
    }

    /// Work that begins by saying so and ends when it is let go, with one absent value.
    fn blocked(name: &str) -> (Work, Receiver<()>, Sender<()>) {
        let ((begun, has_begun), (let_go, wait)) = (channel(), channel());
        let read = move || {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            Ok(vec![None])
        };
        (job(name, read), has_begun, let_go)
    }

    /// A closure for late answers that passes on position and key.
    fn late() -> (Late, Receiver<(usize, Box<str>)>) {
        let (sender, receiver) = channel();
        (Box::new(move |index, answer| sender.send((index, answer.keys[0].clone())).unwrap()), receiver)
    }

    fn never() -> Late {
        Box::new(|_, answer| panic!("{answer:?} is late"))
    }

    #[test]
    fn files_are_read_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(100);
        let file = Arc::new(ColdFile::open(&write(folder.path(), &rows, SMALL)).unwrap());
        let keys = rows.keys().map(|entity| entity.as_str().into()).chain(["zzz".into()]).collect();
        let jobs: Vec<ColdJob> = ColdJob::split(&file, keys).collect();
        assert_eq!(jobs.len(), 101usize.div_ceil(KEYS_PER_JOB));
        let pool = pool(2, 100);
        let outcomes = pool.read(jobs, Instant::now() + FAR, |_, _| panic!("late"));
        let (mut expected, mut preads) = (rows.values(), 0);
        for outcome in outcomes {
            let ColdOutcome::Read(answer) = outcome else { panic!("{outcome:?}") };
            preads += answer.reads.preads;
            for (key, value) in answer.keys.iter().zip(answer.values.unwrap()) {
                let expected = expected.next().map(|(_, value)| value.as_slice());
                assert_eq!(value.as_deref(), expected, "{key}");
            }
        }
        assert!(preads > 0);
    }

    #[test]
    fn a_fetch_goes_on_at_its_deadline_and_what_is_read_later_goes_to_the_closure() {
        let pool = pool(1, 10);
        let (slow, has_begun, let_go) = blocked("slow");
        let (late, receiver) = late();
        let outcomes = pool.run(vec![slow], Instant::now() + Duration::from_millis(20), late);
        assert!(matches!(outcomes[..], [ColdOutcome::NotInTime]));
        has_begun.recv().unwrap();
        let_go.send(()).unwrap();
        assert_eq!(receiver.recv().unwrap(), (0, "slow".into()));
        drop(pool);
        assert!(receiver.recv().is_err(), "nothing else is late");
    }

    #[test]
    fn a_deadline_in_the_past_waits_for_nothing_and_still_reads() {
        let pool = pool(1, 10);
        let (late, receiver) = late();
        let outcomes = pool.run(vec![job("a", || Ok(vec![None]))], Instant::now(), late);
        // The thread may have been quicker than this one.
        match &outcomes[0] {
            ColdOutcome::Read(answer) => assert!(answer.values.is_ok()),
            ColdOutcome::NotInTime => assert_eq!(receiver.recv().unwrap(), (0, "a".into())),
            ColdOutcome::Refused => panic!("refused"),
        }
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let pool = pool(1, 1);
        let (slow, has_begun, let_go) = blocked("slow");
        thread::scope(|scope| {
            let first = scope.spawn(|| pool.run(vec![slow], Instant::now() + FAR, never()));
            has_begun.recv().unwrap();
            let jobs = ["queued", "too many"].map(|name| job(name, || Ok(vec![None])));
            let second = scope.spawn(|| pool.run(jobs.into(), Instant::now() + FAR, never()));
            while pool.queue.len() == 0 {
                thread::yield_now();
            }
            let third = pool.run(vec![job("third", || Ok(vec![None]))], Instant::now() + FAR, never());
            assert!(matches!(third[0], ColdOutcome::Refused));
            let_go.send(()).unwrap();
            assert!(matches!(first.join().unwrap()[0], ColdOutcome::Read(_)));
            let second = second.join().unwrap();
            assert!(matches!(second[..], [ColdOutcome::Read(_), ColdOutcome::Refused]));
        });
    }

    #[test]
    fn an_error_and_a_panic_concern_their_own_job_and_the_threads_live_on() {
        let pool = pool(1, 10);
        for _ in 0..3 {
            let jobs = vec![
                job("bad", || Err(Error::FixRequest("bad".into()))),
                job("broken", || panic!("a test")),
                job("good", || Ok(vec![None])),
            ];
            let outcomes = pool.run(jobs, Instant::now() + FAR, never());
            let answers: Vec<_> = outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    ColdOutcome::Read(answer) => answer.values.map_err(|error| error.to_string()),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(answers[0], Err("bad".to_string()));
            assert!(answers[1].as_ref().is_err_and(|error| error.contains("broken") && error.contains("panicked")));
            assert_eq!(answers[2], Ok(vec![None]));
        }
        // Nor does a closure for late answers that panics end a thread.
        let (slow, has_begun, let_go) = blocked("slow");
        pool.run(vec![slow], Instant::now(), never());
        has_begun.recv().unwrap();
        let_go.send(()).unwrap();
        let outcomes = pool.run(vec![job("good", || Ok(vec![None]))], Instant::now() + FAR, never());
        assert!(matches!(outcomes[0], ColdOutcome::Read(_)));
    }

    #[test]
    fn dropping_the_pool_forgets_what_is_queued() {
        let pool = pool(1, 10);
        let (slow, has_begun, let_go) = blocked("slow");
        let (late, receiver) = late();
        pool.run(vec![slow, job("queued", || Ok(vec![None]))], Instant::now(), late);
        has_begun.recv().unwrap();
        let closed = pool.queue.close();
        assert_eq!(closed.len(), 1);
        drop(closed);
        let_go.send(()).unwrap();
        drop(pool);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(0, "slow".into())]);
    }

    fn bad() -> Work {
        job("bad", || Err(Error::FixRequest("bad".into())))
    }

    fn good() -> Work {
        job("good", || Ok(vec![None]))
    }

    #[test]
    fn failed_reads_open_the_breaker_and_one_trial_closes_it() {
        let open = Duration::from_millis(20);
        let pool = breaking(1, 10, BreakerConfig { failures: 2, open, max_open: open, ..BreakerConfig::default() });
        for _ in 0..2 {
            assert_eq!(pool.breaker().status(Instant::now()).state, BreakerState::Closed);
            pool.run(vec![bad()], Instant::now() + FAR, never());
        }
        assert_eq!(pool.breaker().status(Instant::now()).failures, 2);
        // Open until the trial is due; then the first of the jobs is it.
        let outcomes = loop {
            let outcomes = pool.run(vec![good(), good(), good()], Instant::now() + FAR, never());
            if !matches!(outcomes[..], [ColdOutcome::Refused, ColdOutcome::Refused, ColdOutcome::Refused]) {
                break outcomes;
            }
            thread::yield_now();
        };
        assert!(matches!(outcomes[..], [ColdOutcome::Read(_), ColdOutcome::Refused, ColdOutcome::Refused]));
        assert_eq!(pool.breaker().status(Instant::now()).state, BreakerState::Closed);
        let outcomes = pool.run(vec![good(), good()], Instant::now() + FAR, never());
        assert!(matches!(outcomes[..], [ColdOutcome::Read(_), ColdOutcome::Read(_)]));
    }

    #[test]
    fn a_disk_that_hangs_opens_it_and_then_nobody_waits_or_queues() {
        let config = BreakerConfig { timeout: Duration::from_millis(30), ..BreakerConfig::default() };
        let pool = breaking(1, 100, config);
        let (slow, has_begun, let_go) = blocked("hangs");
        let (late, _receiver) = late();
        pool.run(vec![slow], Instant::now(), late);
        has_begun.recv().unwrap();
        let mut fetches = 0;
        while pool.breaker().status(Instant::now()).state == BreakerState::Closed {
            let outcomes = pool.run(vec![good()], Instant::now() + Duration::from_millis(5), Box::new(|_, _| ()));
            assert!(matches!(outcomes[..], [ColdOutcome::NotInTime | ColdOutcome::Refused]));
            fetches += 1;
            assert!(fetches < 1000, "the breaker stays closed");
        }
        assert!(fetches >= 5);
        assert_eq!(pool.queue.len(), 0, "what waited for the disk is forgotten");
        let outcomes = pool.run(vec![good()], Instant::now() + FAR, never());
        assert!(matches!(outcomes[..], [ColdOutcome::Refused]), "at once");
        let_go.send(()).unwrap();
    }

    #[test]
    fn a_damaged_page_is_no_failure_of_the_disk() {
        let pool = breaking(1, 10, BreakerConfig { failures: 1, ..BreakerConfig::default() });
        let damaged = job("damaged", || Err(Error::damaged("a page".as_ref(), "a test")));
        let outcomes = pool.run(vec![damaged, good()], Instant::now() + FAR, never());
        assert!(matches!(outcomes[..], [ColdOutcome::Read(_), ColdOutcome::Read(_)]));
        assert_eq!(pool.breaker().status(Instant::now()).failures, 0);
    }

    #[test]
    fn a_disk_that_is_slow_and_works_is_no_failure() {
        let pool = breaking(1, 10, BreakerConfig { failures: 1, ..BreakerConfig::default() });
        for _ in 0..3 {
            let (slow, has_begun, let_go) = blocked("slow");
            let (late, receiver) = late();
            let outcomes = pool.run(vec![slow], Instant::now() + Duration::from_millis(1), late);
            assert!(matches!(outcomes[..], [ColdOutcome::NotInTime]));
            has_begun.recv().unwrap();
            let_go.send(()).unwrap();
            assert_eq!(receiver.recv().unwrap(), (0, "slow".into()));
        }
        assert_eq!(pool.breaker().status(Instant::now()).state, BreakerState::Closed);
    }
}
