//! The books of a run: every question is entered when it is due and once more when its end is known.
//!
//! One lock around all of it serves every thread: an entry takes less than a microsecond. Time comes in as numbers.

use std::collections::BTreeMap;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::outcome::Outcome;
use super::report::{Distribution, Generator, Second};
use super::series::Series;
use super::slice::{Slice, latencies, latency, round};

/// Where a question is entered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    /// In which second of the run it is due.
    pub(crate) second: usize,
    pub(crate) phase: usize,
    pub(crate) class: usize,
    pub(crate) tenant: usize,
    pub(crate) node: usize,
    pub(crate) labelled: bool,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) all: Slice,
    pub(crate) phases: Vec<Slice>,
    pub(crate) classes: Vec<Slice>,
    pub(crate) tenants: Vec<Slice>,
    /// Of nodes that share the users; empty where one has all.
    pub(crate) shards: Vec<Slice>,
    series: Series,
    lag: Histogram<u32>,
    /// What was said of the first failure of each kind.
    first_failures: BTreeMap<String, String>,
    /// CPU and wall seconds of each thread.
    threads: Vec<(f64, f64)>,
    busiest_second: f64,
}

/// How many parts a tally tells apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) phases: usize,
    pub(crate) classes: usize,
    pub(crate) tenants: usize,
    pub(crate) shards: usize,
    pub(crate) threads: usize,
}

impl Tally {
    /// Empty books; questions are heard of within `horizon` seconds.
    pub(crate) fn new(parts: Parts, horizon: usize) -> Result<Tally> {
        let slices = |count| (0..count).map(|_| Slice::new()).collect::<Result<Vec<Slice>>>();
        Ok(Tally {
            all: Slice::new()?,
            phases: slices(parts.phases)?,
            classes: slices(parts.classes)?,
            tenants: slices(parts.tenants)?,
            shards: slices(parts.shards)?,
            series: Series::new(horizon),
            lag: latencies()?,
            first_failures: BTreeMap::new(),
            threads: vec![(0.0, 0.0); parts.threads],
            busiest_second: 0.0,
        })
    }

    /// A question is due.
    pub(crate) fn offered(&mut self, place: Place) {
        self.each_slice(place, Slice::offered);
        self.series.offered(place.second);
    }

    /// Its end is known, so many microseconds after it was due.
    pub(crate) fn settled(&mut self, place: Place, outcome: &Outcome, latency_us: u64, in_time: bool) {
        self.each_slice(place, |slice| slice.settled(outcome, latency_us, in_time, place.labelled));
        self.series.settled(place.second, outcome, latency_us, in_time);
        if let Outcome::Failed { kind, message } = outcome
            && !self.first_failures.contains_key(kind.as_ref())
        {
            self.first_failures.insert(kind.to_string(), message.clone());
        }
    }

    /// It was sent so many microseconds late.
    pub(crate) fn sent(&mut self, lag_us: u64) {
        self.lag.saturating_record(lag_us);
    }

    /// A thread took so much CPU time within so much wall time.
    pub(crate) fn worked(&mut self, thread: usize, cpu_s: f64, wall_s: f64) {
        if let Some((cpu, wall)) = self.threads.get_mut(thread) {
            *cpu += cpu_s;
            *wall += wall_s;
        }
        // Shorter stretches say little.
        if wall_s >= 0.5 {
            self.busiest_second = self.busiest_second.max(cpu_s / wall_s);
        }
    }

    /// What the generator needed.
    pub(crate) fn generator(&self) -> Generator {
        let shares = self.threads.iter().filter(|(_, wall)| *wall > 0.0).map(|(cpu, wall)| cpu / wall);
        Generator {
            threads: self.threads.len(),
            cpu_share: round(shares.fold(0.0, f64::max)),
            cpu_share_busiest_second: round(self.busiest_second),
            lag_ms: latency(&self.lag),
        }
    }

    /// What was said of the first failure of each kind.
    pub(crate) fn first_failures(&self) -> BTreeMap<String, String> {
        self.first_failures.clone()
    }

    /// A second that is over; its last answers may be missing.
    pub(crate) fn recent(&self) -> Option<Second> {
        self.series.recent(1)
    }

    /// Latencies by percentile, of all and of each class, if there are several.
    pub(crate) fn distribution(&self, classes: &[String]) -> Vec<Distribution> {
        let named = classes.iter().map(String::as_str).zip(&self.classes);
        let named = std::iter::once(("all", &self.all)).chain(named.filter(|_| classes.len() > 1));
        let points = |slice: &Slice| -> Option<Vec<(f64, f64)>> {
            let at = |percentile: &f64| slice.answer_ms_at(percentile / 100.0).map(|ms| (*percentile, ms));
            PERCENTILES.iter().map(at).collect()
        };
        named.filter_map(|(name, slice)| Some(Distribution { name: name.to_owned(), points: points(slice)? })).collect()
    }

    /// Second by second.
    pub(crate) fn into_series(self) -> Vec<Second> {
        self.series.finish()
    }

    fn each_slice(&mut self, place: Place, mut enter: impl FnMut(&mut Slice)) {
        enter(&mut self.all);
        let parts = [
            (&mut self.phases, place.phase),
            (&mut self.classes, place.class),
            (&mut self.tenants, place.tenant),
            (&mut self.shards, place.node),
        ];
        for (slices, at) in parts {
            slices.get_mut(at).into_iter().for_each(&mut enter);
        }
    }
}

/// Where a distribution is drawn.
const PERCENTILES: [f64; 25] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 96.0, 97.0, 98.0, 99.0, 99.5,
    99.75, 99.9, 99.95, 99.975, 99.99, 99.999,
];

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: Parts = Parts { phases: 2, classes: 2, tenants: 1, shards: 2, threads: 2 };

    #[test]
    fn a_question_is_entered_in_every_part_it_belongs_to() {
        let mut tally = Tally::new(PARTS, 5).unwrap();
        let place = Place { second: 0, phase: 1, class: 0, tenant: 0, node: 1, labelled: false };
        tally.offered(place);
        tally.sent(250);
        tally.settled(place, &Outcome::Refused("queue_full".into()), 700, true);
        let refused = |slices: &[Slice]| slices.iter().map(|slice| slice.totals(1.0).refused).collect::<Vec<_>>();
        assert_eq!(
            (refused(&tally.phases), refused(&tally.classes), refused(&tally.tenants)),
            (vec![0, 1], vec![1, 0], vec![1])
        );
        assert_eq!(refused(&tally.shards), [0, 1]);
        assert_eq!(tally.all.totals(1.0).offered, 1);
        assert_eq!(tally.generator().lag_ms.unwrap().max, 0.25);
        assert!(tally.distribution(&["vip".to_owned(), "normal".to_owned()]).is_empty(), "nothing was answered");
        assert_eq!(tally.into_series()[0].refused, 1);
    }

    #[test]
    fn the_busiest_thread_is_the_generators_share() {
        let mut tally = Tally::new(PARTS, 5).unwrap();
        for (thread, cpu) in [(0, 0.2), (1, 0.5), (0, 0.2), (1, 0.9)] {
            tally.worked(thread, cpu, 1.0);
        }
        tally.worked(0, 0.1, 0.1);
        let generator = tally.generator();
        assert_eq!((generator.cpu_share, generator.cpu_share_busiest_second), (0.7, 0.9));
    }
}
