//! The generator's clock: a timer with the kernel's resolution, and the CPU time of the thread that asks.
//!
//! tokio's own timers go by whole milliseconds, which would send questions in bunches and add half a millisecond to every latency.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of one thread.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// A timer within the runtime that calls.
    #[expect(
        deprecated,
        reason = "`new` is unsound for types whose descriptor may change, which an OwnedFd's does not; its successor is unsafe"
    )]
    pub(crate) fn new() -> Result<Pacer> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("cannot make a timer")?;
        Ok(Pacer { timer: AsyncFd::new(timer).context("cannot watch a timer")? })
    }

    /// Waits until that moment; returns at once when it has passed.
    pub(crate) async fn until(&self, moment: Instant) -> Result<()> {
        let wait = moment.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        self.set(wait).context("cannot set a timer")?;
        loop {
            let mut ready = self.timer.readable().await.context("cannot wait for a timer")?;
            let fired = ready.try_io(|timer| {
                let mut expirations = [0; 8];
                rustix::io::read(timer, &mut expirations).map_err(io::Error::from)
            });
            match fired {
                // Woken for nothing.
                Err(_) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(result) => return result.map(|_| ()).context("cannot read a timer"),
            }
        }
    }

    fn set(&self, wait: Duration) -> rustix::io::Result<()> {
        // A duration that does not fit is never asked for: runs are shorter than a day.
        let value =
            Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: never, it_value: value })?;
        Ok(())
    }
}

/// CPU time that this thread has taken so far, in seconds.
pub(crate) fn thread_cpu_s() -> f64 {
    let taken = clock_gettime(ClockId::ThreadCPUTime);
    taken.tv_sec as f64 + taken.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_is_not_met_early_and_a_past_one_at_once() {
        let pacer = Pacer::new().unwrap();
        for us in [50, 300, 2_000] {
            let moment = Instant::now() + Duration::from_micros(us);
            pacer.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
        pacer.until(Instant::now()).await.unwrap();
        assert!(thread_cpu_s() > 0.0);
    }
}
