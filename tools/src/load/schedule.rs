//! When each question is sent: decided before the run and by nothing the node does, which is what makes the load open-loop.
//!
//! Arrivals of a rate curve are the unit steps of its integral: random ones (a Poisson process) or even ones. The inverse of
//! each straight piece's integral is exact, so a ramp offers what its area says. The same seed gives the same times.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::profile::{Piece, Profile};
use super::trace::Trace;

/// How questions are spread over a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independently of each other, as customers come: the gaps are exponential.
    Poisson,
    /// At even distances.
    Uniform,
}

/// What is offered, and when.
#[derive(Debug, Clone)]
pub enum Offer {
    /// Arrivals drawn from a rate curve.
    Curve(Profile, Arrivals),
    /// Arrivals as they were recorded.
    Trace(Arc<Trace>),
}

impl Offer {
    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        match self {
            Offer::Curve(profile, _) => profile.duration(),
            Offer::Trace(trace) => trace.duration(),
        }
    }

    /// Its arrivals after a warm-up: a curve's first rate is offered for so long before the curve begins; of a trace the first part counts
    /// as warm-up.
    pub(crate) fn schedule(&self, warm_up: Duration, seed: u64) -> Schedule {
        match self {
            Offer::Trace(trace) => Schedule::Trace { trace: Arc::clone(trace), next: 0 },
            Offer::Curve(profile, arrivals) => {
                let mut pieces = Vec::with_capacity(profile.pieces().len() + 1);
                if !warm_up.is_zero() {
                    let rate = profile.first_rate();
                    let seconds = warm_up.as_secs_f64();
                    pieces.push(Piece { seconds, from: rate, to: rate, phase: 0, end: seconds });
                }
                pieces.extend(profile.pieces());
                Schedule::Curve(Box::new(Curve::new(pieces, *arrivals, seed)))
            }
        }
    }
}

/// The times of all questions, in their order, counted from the start of the warm-up.
#[derive(Debug)]
pub(crate) enum Schedule {
    Curve(Box<Curve>),
    Trace { trace: Arc<Trace>, next: usize },
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self {
            Schedule::Curve(curve) => curve.next(),
            Schedule::Trace { trace, next } => {
                let at = trace.lines().get(*next)?.at;
                *next += 1;
                Some(at)
            }
        }
    }
}

/// Arrivals of straight pieces.
#[derive(Debug)]
pub(crate) struct Curve {
    pieces: Vec<Piece>,
    arrivals: Arrivals,
    rng: StdRng,
    piece: usize,
    /// Seconds into the piece.
    within: f64,
    /// Seconds before the piece.
    before: f64,
    first: bool,
}

impl Curve {
    fn new(pieces: Vec<Piece>, arrivals: Arrivals, seed: u64) -> Curve {
        Curve { pieces, arrivals, rng: StdRng::seed_from_u64(seed), piece: 0, within: 0.0, before: 0.0, first: true }
    }

    /// How much of the integral lies between the last arrival and the next.
    fn step(&mut self) -> f64 {
        let first = std::mem::replace(&mut self.first, false);
        match self.arrivals {
            Arrivals::Poisson => -(1.0 - self.rng.random::<f64>()).ln(),
            Arrivals::Uniform if first => 0.5,
            Arrivals::Uniform => 1.0,
        }
    }

    fn next(&mut self) -> Option<Duration> {
        let mut step = self.step();
        loop {
            let piece = self.pieces.get(self.piece)?;
            let left = piece.offered(piece.seconds) - piece.offered(self.within);
            if step < left {
                let slope = (piece.to - piece.from) / piece.seconds;
                let rate = piece.from + slope * self.within;
                // Of a x + b x^2 / 2 = step, in the form that loses no digits where b is small.
                self.within += 2.0 * step / (rate + (rate * rate + 2.0 * slope * step).max(0.0).sqrt());
                return Some(Duration::from_secs_f64(self.before + self.within.min(piece.seconds)));
            }
            step -= left;
            self.before += piece.seconds;
            self.within = 0.0;
            self.piece += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(profile: Profile, arrivals: Arrivals, warm_up: f64, seed: u64) -> Vec<f64> {
        let schedule = Offer::Curve(profile, arrivals).schedule(Duration::from_secs_f64(warm_up), seed);
        schedule.map(|at| at.as_secs_f64()).collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn even_arrivals_of_a_ramp_follow_its_integral() {
        let found = times(Profile::ramp(0.0, 10.0, seconds(10)).unwrap(), Arrivals::Uniform, 0.0, 0);
        assert_eq!(found.len(), 50);
        for (number, at) in found.iter().enumerate() {
            // The integral of t is t^2 / 2.
            assert!((at * at / 2.0 - (number as f64 + 0.5)).abs() < 1e-6, "{number}: {at}");
        }
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let found = times(Profile::constant(1_000.0, seconds(60)).unwrap(), Arrivals::Poisson, 0.0, 7);
        assert!((found.len() as f64 - 60_000.0).abs() < 4.0 * 60_000f64.sqrt(), "{}", found.len());
        let gaps: Vec<f64> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "an exponential's deviation is its mean");
        let longer_than_mean = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
        assert!((longer_than_mean - (-1f64).exp()).abs() < 0.01, "{longer_than_mean}");
    }

    #[test]
    fn each_piece_offers_its_area_also_behind_a_warm_up_and_a_jump() {
        let profile =
            Profile::steps(&[200.0, 1_000.0], seconds(10)).unwrap().then("down", 1_000.0, 0.0, seconds(10)).unwrap();
        let found = times(profile, Arrivals::Poisson, 5.0, 3);
        assert!(found.is_sorted());
        let between = |from: f64, to: f64| found.iter().filter(|at| (from..to).contains(*at)).count() as f64;
        for (from, to, area) in
            [(0.0, 5.0, 1_000.0), (5.0, 15.0, 2_000.0), (15.0, 25.0, 10_000.0), (25.0, 35.0, 5_000.0)]
        {
            assert!((between(from, to) - area).abs() < 4.0 * f64::sqrt(area), "{from} to {to}: {}", between(from, to));
        }
        assert_eq!(between(35.0, f64::MAX), 0.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        let draw = |seed| times(Profile::ramp(10.0, 50.0, seconds(5)).unwrap(), Arrivals::Poisson, 1.0, seed);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
