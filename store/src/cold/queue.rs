//! The queue before the pool's threads: bounded, and in favour of those who still wait.
//!
//! A task whose deadline has passed is still worth doing, for what its fetch wants done with late answers, but never at the cost of one
//! that somebody waits for: it is taken only when nothing else is queued, and when the queue is full it makes room.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::cold::call::Task;

/// The queue as fetches and threads share it.
pub(crate) struct SharedQueue {
    queue: Mutex<Queue>,
    ready: Condvar,
}

impl SharedQueue {
    pub(crate) fn new(max_queued: usize) -> SharedQueue {
        let queue = Queue { tasks: VecDeque::new(), max_queued, closed: false };
        SharedQueue { queue: Mutex::new(queue), ready: Condvar::new() }
    }

    /// Queues the tasks, without waiting, and returns the indexes of those that found no room.
    pub(crate) fn submit(&self, tasks: impl Iterator<Item = Task>) -> Vec<usize> {
        let (mut refused, mut displaced) = (Vec::new(), Vec::new());
        let mut queue = self.lock();
        let now = Instant::now();
        for task in tasks {
            match queue.push(task, now) {
                Pushed::Queued => self.ready.notify_one(),
                Pushed::InPlaceOf(task) => displaced.push(task),
                Pushed::Full(task) => refused.push(task.index),
            }
        }
        drop(queue);
        refused
    }

    /// Ends the threads, each after the task it is at, and returns what nobody will do.
    pub(crate) fn close(&self) -> VecDeque<Task> {
        let mut queue = self.lock();
        queue.closed = true;
        self.ready.notify_all();
        mem::take(&mut queue.tasks)
    }

    /// Takes out everything that waits.
    pub(crate) fn clear(&self) -> VecDeque<Task> {
        mem::take(&mut self.lock().tasks)
    }

    /// Waits for the next task; `None` once the queue is closed.
    pub(crate) fn next(&self) -> Option<Task> {
        let mut queue = self.lock();
        while !queue.closed {
            if let Some(task) = queue.pop(Instant::now()) {
                return Some(task);
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().tasks.len()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Queue {
    tasks: VecDeque<Task>,
    max_queued: usize,
    closed: bool,
}

enum Pushed {
    Queued,
    /// The queue was full; this one's deadline had passed, and it went.
    InPlaceOf(Task),
    Full(Task),
}

impl Queue {
    fn push(&mut self, task: Task, now: Instant) -> Pushed {
        if self.tasks.len() < self.max_queued {
            self.tasks.push_back(task);
            return Pushed::Queued;
        }
        let expired = self.tasks.iter().position(|queued| queued.deadline <= now);
        match expired.and_then(|expired| self.tasks.remove(expired)) {
            Some(expired) => {
                self.tasks.push_back(task);
                Pushed::InPlaceOf(expired)
            }
            None => Pushed::Full(task),
        }
    }

    /// The oldest task that somebody waits for, or else the oldest.
    fn pop(&mut self, now: Instant) -> Option<Task> {
        let awaited = self.tasks.iter().position(|task| task.deadline > now);
        self.tasks.remove(awaited.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{Breaker, BreakerConfig};
    use crate::cold::call::{Call, Work};
    use std::sync::Arc;
    use std::time::Duration;

    fn task(name: &str, deadline: Instant) -> Task {
        let work = Work { path: name.into(), keys: Vec::new(), read: Box::new(|_, _| Ok(Vec::new())) };
        let pass = Breaker::new("test", BreakerConfig::default(), 0).ask(deadline).unwrap();
        Task { work, index: 0, deadline, pass, call: Arc::new(Call::new(1, true, Box::new(|_, _| ()))) }
    }

    #[test]
    fn nobody_waits_behind_what_nobody_waits_for() {
        let now = Instant::now();
        let (past, future) = (now - Duration::from_millis(1), now + Duration::from_secs(60));
        let mut queue = Queue { tasks: VecDeque::new(), max_queued: 3, closed: false };
        for (name, deadline) in [("old", past), ("older", past), ("first", future)] {
            assert!(matches!(queue.push(task(name, deadline), now), Pushed::Queued));
        }
        let name = |task: &Task| task.work.path.to_str().map(str::to_string).unwrap();
        let Pushed::InPlaceOf(displaced) = queue.push(task("second", future), now) else { panic!() };
        assert_eq!(name(&displaced), "old");
        let order: Vec<String> = std::iter::from_fn(|| queue.pop(now)).map(|task| name(&task)).collect();
        assert_eq!(order, ["first", "second", "older"]);
        for name in ["a", "b", "c"] {
            queue.push(task(name, future), now);
        }
        assert!(matches!(queue.push(task("d", future), now), Pushed::Full(_)));
    }
}
