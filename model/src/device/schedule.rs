//! Which device takes the next job: what is known of each device, and the rule.
//!
//! **The rule.** A job goes to the ready device that is predicted to finish it first: the time until the device is free, and the job's
//! tokens by the speed the device has shown in the job's bucket. Of idle devices that is the fastest one; a slow idle device takes a job
//! only when waiting for the fast one would take longer than the job itself. A device that has never run anything of the bucket counts by
//! its speed over all, one that has never run anything as free of cost, so that it is measured once; of equals the first listed is taken.
//! A device on standby takes part only when none is ready, a resting one not before its self-check, a broken one never, and nothing makes a
//! broken one whole.
//!
//! Here are no threads and no clock: time is an argument, and the caller holds the lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::device::bucket::Bucket;
use crate::device::rest::RestRule;
use crate::device::status::{DeviceState, DeviceStatus, Failure, FailureKind};
use crate::metrics;
use crate::text::Tokens;

/// Weight of the newest job in the moving averages.
const NEWEST: f64 = 0.2;

/// The size of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    bucket: Bucket,
    texts: usize,
    tokens: usize,
}

impl Job {
    pub(crate) fn of(tokens: &Tokens) -> Job {
        Job { bucket: Bucket::of_job(tokens), texts: tokens.len(), tokens: tokens.total() }
    }
}

/// What the rule sees of a device.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    state: DeviceState,
    free_in: Duration,
    /// None where nothing is known.
    runs_for: Option<Duration>,
}

/// The rule as above; none where no device can take the job.
fn choose(candidates: &[(usize, Candidate)]) -> Option<usize> {
    let first_to_finish = |state: DeviceState| {
        let able = candidates.iter().filter(|(_, candidate)| candidate.state == state);
        able.min_by_key(|(_, candidate)| candidate.free_in + candidate.runs_for.unwrap_or_default())
    };
    first_to_finish(DeviceState::Ready).or_else(|| first_to_finish(DeviceState::Standby)).map(|(device, _)| *device)
}

/// What is known of every device, in the order of larder.toml.
#[derive(Debug)]
pub(crate) struct Schedule {
    devices: Vec<Entry>,
    rule: RestRule,
}

#[derive(Debug)]
struct Entry {
    status: DeviceStatus,
    /// Its state when it is well.
    well: DeviceState,
    rests_until: Option<Instant>,
    /// Rests in a row, without a job done between them.
    rests: u32,
    jobs: usize,
    /// When the jobs it has are predicted to be done.
    free_at: Option<Instant>,
    /// Tokens a second.
    speeds: BTreeMap<Bucket, f64>,
}

impl Schedule {
    pub(crate) fn new(devices: impl IntoIterator<Item = (String, DeviceState)>, rule: RestRule) -> Schedule {
        let entry = |(name, state)| {
            let (reason, retry_in) = (String::new(), Duration::ZERO);
            let status = DeviceStatus { name, state, reason, failures: 0, retry_in, tokens_per_s: 0.0, texts: 0 };
            let speeds = BTreeMap::new();
            Entry { status, well: state, rests_until: None, rests: 0, jobs: 0, free_at: None, speeds }
        };
        Schedule { devices: devices.into_iter().map(entry).collect(), rule }
    }

    /// Gives a job to a device, if one can take it that is not among those that failed it already.
    pub(crate) fn begin(&mut self, job: &Job, failed: &[usize], now: Instant) -> Option<usize> {
        let open = self.devices.iter().enumerate().filter(|(device, _)| !failed.contains(device));
        let open: Vec<_> = open.map(|(device, entry)| (device, entry.candidate(job, now))).collect();
        let device = choose(&open)?;
        let entry = &mut self.devices[device];
        let runs_for = entry.predict(job).unwrap_or_default();
        entry.jobs += 1;
        entry.free_at = Some(entry.free_at.map_or(now, |free_at| free_at.max(now)) + runs_for);
        Some(device)
    }

    /// Notes a job that was done, and how long the device itself took for it.
    pub(crate) fn finished(&mut self, device: usize, job: &Job, took: Duration, now: Instant) {
        let entry = &mut self.devices[device];
        entry.ended(now);
        entry.status.texts += job.texts as u64;
        (entry.status.failures, entry.rests) = (0, 0);
        entry.learn(job, took);
        metrics::device_encoded(&entry.status.name, job.texts);
    }

    /// Notes a measurement outside the jobs: of a warm-up.
    pub(crate) fn measured(&mut self, device: usize, bucket: Bucket, tokens: usize, took: Duration) {
        self.devices[device].learn(&Job { bucket, texts: bucket.texts, tokens }, took);
    }

    /// Notes a job that came to nothing, whoever is to blame.
    pub(crate) fn abandoned(&mut self, device: usize, now: Instant) {
        self.devices[device].ended(now);
    }

    /// Notes that a device failed a job: it is given up, or counted, or rests from now on for the time returned. A silence is not waited for
    /// several times: each took its caller longer than any question has.
    pub(crate) fn failed(&mut self, device: usize, failure: &Failure, now: Instant) -> Option<Duration> {
        if !failure.kind.may_pass() {
            self.give_up(device, failure);
            return None;
        }
        let status = &mut self.devices[device].status;
        status.failures = status.failures.saturating_add(1);
        metrics::device_failed(&status.name, failure.kind);
        tracing::warn!(device = status.name, kind = failure.kind.label(), failures = status.failures, error = %failure.error, "a device failed a job");
        let working = matches!(status.state, DeviceState::Ready | DeviceState::Standby);
        let enough = status.failures >= self.rule.failures || failure.kind == FailureKind::Silent;
        (working && enough).then(|| self.rest(device, failure, now))
    }

    /// Notes what the self-check of a resting device said: it is well, or given up, or rests on for the time returned.
    pub(crate) fn checked(&mut self, device: usize, outcome: &Result<(), Failure>, now: Instant) -> Option<Duration> {
        let entry = &mut self.devices[device];
        if entry.status.state != DeviceState::Resting {
            return None;
        }
        match outcome {
            Ok(()) => {
                entry.status.state = entry.well;
                entry.status.reason.clear();
                entry.status.failures = 0;
                entry.rests_until = None;
                tracing::info!(device = entry.status.name, "a device is well again");
                None
            }
            Err(failure) if failure.kind.may_pass() => Some(self.rest(device, failure, now)),
            Err(failure) => {
                self.give_up(device, failure);
                None
            }
        }
    }

    fn rest(&mut self, device: usize, failure: &Failure, now: Instant) -> Duration {
        let entry = &mut self.devices[device];
        let rest = self.rule.rest_after(entry.rests);
        entry.rests = entry.rests.saturating_add(1);
        entry.rests_until = Some(now + rest);
        entry.status.state = DeviceState::Resting;
        entry.status.reason = failure.error.to_string();
        let rest_s = rest.as_secs_f64();
        tracing::error!(device = entry.status.name, rest_s, error = %failure.error, "a device rests; a self-check will decide");
        rest
    }

    /// Gives a device up for good; the first reason stays.
    pub(crate) fn give_up(&mut self, device: usize, failure: &Failure) {
        let status = &mut self.devices[device].status;
        if status.state == DeviceState::Broken {
            return;
        }
        status.state = DeviceState::Broken;
        status.reason = failure.error.to_string();
        tracing::error!(device = status.name, kind = failure.kind.label(), error = %failure.error, "a device is broken; it is not used again");
        metrics::device_failed(&status.name, failure.kind);
    }

    pub(crate) fn is_broken(&self, device: usize) -> bool {
        self.devices[device].status.state == DeviceState::Broken
    }

    pub(crate) fn statuses(&self, now: Instant) -> Vec<DeviceStatus> {
        self.devices.iter().map(|entry| entry.status(now)).collect()
    }
}

impl Entry {
    fn status(&self, now: Instant) -> DeviceStatus {
        let until = self.rests_until.filter(|_| self.status.state == DeviceState::Resting);
        let retry_in = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        DeviceStatus { retry_in, ..self.status.clone() }
    }

    fn candidate(&self, job: &Job, now: Instant) -> Candidate {
        let free_in = self.free_at.map_or(Duration::ZERO, |free_at| free_at.saturating_duration_since(now));
        Candidate { state: self.status.state, free_in, runs_for: self.predict(job) }
    }

    fn predict(&self, job: &Job) -> Option<Duration> {
        let over_all = (self.status.tokens_per_s > 0.0).then_some(self.status.tokens_per_s);
        let speed = self.speeds.get(&job.bucket).copied().or(over_all)?;
        Some(Duration::from_secs_f64(job.tokens as f64 / speed))
    }

    fn ended(&mut self, now: Instant) {
        self.jobs = self.jobs.saturating_sub(1);
        // A prediction that was wrong ends with the last job.
        self.free_at = if self.jobs == 0 { None } else { self.free_at.map(|free_at| free_at.max(now)) };
    }

    fn learn(&mut self, job: &Job, took: Duration) {
        if job.tokens == 0 {
            return;
        }
        let measured = job.tokens as f64 / took.as_secs_f64().max(1e-9);
        let averaged = |known: f64| known + NEWEST * (measured - known);
        self.speeds.entry(job.bucket).and_modify(|known| *known = averaged(*known)).or_insert(measured);
        let over_all = &mut self.status.tokens_per_s;
        *over_all = if *over_all > 0.0 { averaged(*over_all) } else { measured };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::status::FailureKind;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn job_of(texts: usize, length: usize) -> Job {
        Job { bucket: Bucket::of(texts, length), texts, tokens: texts * length }
    }

    /// A device that runs a job of 100 tokens in `hundred_ms`, in every bucket.
    fn schedule(devices: &[(DeviceState, u64)]) -> Schedule {
        let names = devices.iter().enumerate().map(|(number, (state, _))| (format!("device-{number}"), *state));
        let mut schedule = Schedule::new(names, RestRule { failures: 3, rest: MS(1000) });
        for (device, (_, hundred_ms)) in devices.iter().enumerate() {
            if *hundred_ms > 0 {
                schedule.measured(device, Bucket::of(1, 16), 100, MS(*hundred_ms));
            }
        }
        schedule
    }

    use DeviceState::{Broken, Ready, Standby};

    #[test]
    fn of_idle_devices_the_fastest_takes_the_job() {
        let mut schedule = schedule(&[(Ready, 10), (Ready, 1), (Ready, 5)]);
        assert_eq!(schedule.begin(&job_of(1, 100), &[], Instant::now()), Some(1));
    }

    #[test]
    fn a_slow_device_helps_only_where_waiting_takes_longer() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 1), (Ready, 10)]);
        let taken: Vec<_> = (0..12).map(|_| schedule.begin(&job_of(1, 100), &[], now).unwrap()).collect();
        // The fast one does ten jobs in the time of one.
        assert_eq!(taken, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn the_speed_is_that_of_the_bucket() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 0), (Ready, 0)]);
        for (device, small_ms, large_ms) in [(0, 1, 500), (1, 4, 50)] {
            schedule.measured(device, Bucket::of(1, 16), 16, MS(small_ms));
            schedule.measured(device, Bucket::of(32, 256), 8192, MS(large_ms));
        }
        assert_eq!(schedule.begin(&job_of(1, 16), &[], now), Some(0), "quick to start");
        assert_eq!(schedule.begin(&job_of(32, 256), &[], now), Some(1), "many at once");
    }

    #[test]
    fn a_device_nobody_has_measured_is_tried_once() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 1), (Ready, 0)]);
        let job = job_of(1, 100);
        assert_eq!(schedule.begin(&job, &[], now), Some(1));
        schedule.finished(1, &job, MS(50), now);
        assert_eq!(schedule.begin(&job, &[], now), Some(0));
        assert_eq!(schedule.statuses(Instant::now())[1].texts, 1);
        assert!((schedule.statuses(Instant::now())[1].tokens_per_s - 2000.0).abs() < 1e-6);
    }

    #[test]
    fn standby_answers_when_nobody_else_does() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 100), (Standby, 1)]);
        assert_eq!(schedule.begin(&job_of(1, 100), &[], now), Some(0));
        assert_eq!(schedule.begin(&job_of(1, 100), &[0], now), Some(1), "device 0 just failed this job");
        schedule.give_up(0, &Failure::new(FailureKind::Panicked, "on purpose"));
        assert_eq!(schedule.begin(&job_of(1, 100), &[], now), Some(1));
        assert_eq!(schedule.statuses(Instant::now())[0].state, Broken);
        assert!(schedule.statuses(Instant::now())[0].reason.contains("on purpose"));
    }

    #[test]
    fn the_first_reason_stays_and_broken_is_for_good() {
        let mut schedule = schedule(&[(Ready, 1)]);
        schedule.give_up(0, &Failure::new(FailureKind::Silent, "first"));
        schedule.give_up(0, &Failure::new(FailureKind::Failed, "second"));
        assert!(schedule.statuses(Instant::now())[0].reason.contains("first"));
        schedule.measured(0, Bucket::of(1, 16), 16, MS(1));
        assert_eq!(schedule.begin(&job_of(1, 16), &[], Instant::now()), None);
    }

    #[test]
    fn what_may_pass_makes_a_device_rest_and_a_check_brings_it_back() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 1), (Standby, 1)]);
        let failure = Failure::new(FailureKind::Failed, "on purpose");
        let job = job_of(1, 16);
        for _ in 0..2 {
            assert_eq!(schedule.failed(0, &failure, now), None);
        }
        assert_eq!(schedule.begin(&job, &[], now), Some(0), "two failures are not three");
        schedule.finished(0, &job, MS(1), now);
        for _ in 0..2 {
            assert_eq!(schedule.failed(0, &failure, now), None, "a job that went well begins the count anew");
        }
        assert_eq!(schedule.failed(0, &failure, now), Some(MS(1000)));
        assert_eq!(schedule.failed(0, &failure, now), None, "a job that was on its way");
        let status = &schedule.statuses(now + MS(400))[0];
        assert_eq!((status.state, status.retry_in, status.failures), (DeviceState::Resting, MS(600), 4));
        assert_eq!(
            schedule.begin(&job, &[], now + MS(5000)),
            Some(1),
            "it is not used before the check, and standby answers"
        );
        assert_eq!(schedule.checked(0, &Err(Failure::new(FailureKind::Failed, "still")), now), Some(MS(2000)));
        assert_eq!(schedule.checked(0, &Ok(()), now), None);
        let status = &schedule.statuses(now)[0];
        assert_eq!((status.state, status.failures, status.reason.as_str()), (Ready, 0, ""));
        assert_eq!(schedule.begin(&job, &[], now), Some(0));
    }

    #[test]
    fn a_silence_rests_at_once_and_a_wrong_check_is_final() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 1)]);
        assert_eq!(schedule.failed(0, &Failure::new(FailureKind::Silent, "no word"), now), Some(MS(1000)));
        let garbage = Err(Failure::new(FailureKind::SelfCheck, "garbage"));
        assert_eq!(schedule.checked(0, &garbage, now), None);
        let status = &schedule.statuses(now)[0];
        assert_eq!((status.state, status.retry_in), (Broken, MS(0)));
        assert_eq!(schedule.checked(0, &Ok(()), now), None);
        assert_eq!(schedule.statuses(now)[0].state, Broken, "nothing makes a broken one whole");
    }

    #[test]
    fn a_wrong_prediction_ends_with_the_last_job() {
        let now = Instant::now();
        let mut schedule = schedule(&[(Ready, 1000), (Ready, 1500)]);
        let job = job_of(1, 100);
        assert_eq!(schedule.begin(&job, &[], now), Some(0));
        schedule.finished(0, &job, MS(1000), now + MS(3));
        assert_eq!(schedule.begin(&job, &[], now + MS(3)), Some(0), "it is free again");
        schedule.abandoned(0, now + MS(4));
        assert_eq!(schedule.begin(&job, &[], now + MS(4)), Some(0));
    }
}
