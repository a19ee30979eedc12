//! How many questions a second are offered, second by second: a rate curve of straight pieces that can be integrated exactly.
//!
//! Every shape of load is such a curve: a constant, a ramp, steps, a sale. Its pieces carry names, so that a report can tell
//! the cliff from the climb. Arrival times are drawn from the curve elsewhere (`schedule`).

use std::time::Duration;

use anyhow::{Result, ensure};

/// The highest rate that may be asked for, in questions a second.
pub const MAX_RATE: f64 = 1_000_000.0;
/// The longest run.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3_600);
/// The most pieces with names of their own.
const MAX_PHASES: usize = 64;

/// A straight piece of the curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    pub(crate) seconds: f64,
    /// Rate at its beginning, in questions a second.
    pub(crate) from: f64,
    /// Rate at its end.
    pub(crate) to: f64,
    /// Index of its name.
    pub(crate) phase: usize,
    /// When it ends, in seconds from the beginning of the curve.
    pub(crate) end: f64,
}

impl Piece {
    /// Questions offered within the first `seconds` of it.
    pub(crate) fn offered(&self, seconds: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        seconds * (self.from + slope * seconds / 2.0)
    }
}

/// A rate curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pieces: Vec<Piece>,
    phases: Vec<String>,
}

impl Profile {
    /// The same rate all the time.
    pub fn constant(rate: f64, duration: Duration) -> Result<Profile> {
        Profile::start("steady", rate, rate, duration)
    }

    /// A rate that goes from one to another, linearly.
    pub fn ramp(from: f64, to: f64, duration: Duration) -> Result<Profile> {
        Profile::start("ramp", from, to, duration)
    }

    /// One rate after the other, each for the same time.
    pub fn steps(rates: &[f64], each: Duration) -> Result<Profile> {
        let Some((first, rest)) = rates.split_first() else { anyhow::bail!("name at least one step") };
        let mut profile = Profile::start(&step_name(*first), *first, *first, each)?;
        for rate in rest {
            profile = profile.then(&step_name(*rate), *rate, *rate, each)?;
        }
        Ok(profile)
    }

    /// A curve of one piece.
    pub fn start(phase: &str, from: f64, to: f64, duration: Duration) -> Result<Profile> {
        Profile { pieces: Vec::new(), phases: Vec::new() }.then(phase, from, to, duration)
    }

    /// The same curve with a piece at its end. A piece with the last one's name belongs to the same phase.
    pub fn then(mut self, phase: &str, from: f64, to: f64, duration: Duration) -> Result<Profile> {
        for rate in [from, to] {
            ensure!(
                rate.is_finite() && (0.0..=MAX_RATE).contains(&rate),
                "a rate of {rate} questions a second: 0 to {MAX_RATE} is allowed"
            );
        }
        ensure!(from > 0.0 || to > 0.0, "a rate of 0 questions a second offers nothing; name one above 0");
        ensure!(!duration.is_zero(), "a duration of 0 offers nothing; name one above 0, such as 30s");
        let whole = self.duration().saturating_add(duration);
        ensure!(whole <= MAX_DURATION, "the run would take {} s; at most 24 h are allowed", whole.as_secs());
        if self.phases.last().is_none_or(|last| last != phase) {
            self.phases.push(phase.to_owned());
        }
        ensure!(self.phases.len() <= MAX_PHASES, "more than {MAX_PHASES} steps");
        let phase = self.phases.len() - 1;
        self.pieces.push(Piece { seconds: duration.as_secs_f64(), from, to, phase, end: whole.as_secs_f64() });
        Ok(self)
    }

    /// The names of its phases, in their order.
    pub fn phases(&self) -> &[String] {
        &self.phases
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.pieces.last().map_or(0.0, |piece| piece.end))
    }

    /// How many questions it offers, on average over all seeds.
    pub fn offered(&self) -> f64 {
        self.pieces.iter().map(|piece| piece.offered(piece.seconds)).sum()
    }

    /// The rate at its beginning; that of the first moment which has one.
    pub fn first_rate(&self) -> f64 {
        self.pieces.first().map_or(0.0, |piece| if piece.from > 0.0 { piece.from } else { piece.to.min(1.0) })
    }

    /// The highest rate.
    pub fn peak(&self) -> f64 {
        self.pieces.iter().map(|piece| piece.from.max(piece.to)).fold(0.0, f64::max)
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The phase that a moment belongs to, in seconds from the beginning.
    pub(crate) fn phase_at(&self, seconds: f64) -> usize {
        let at = self.pieces.partition_point(|piece| piece.end <= seconds);
        self.pieces.get(at).or(self.pieces.last()).map_or(0, |piece| piece.phase)
    }
}

fn step_name(rate: f64) -> String {
    format!("{rate}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_a_curve_offers_is_its_area() {
        assert_eq!(Profile::constant(500.0, 30 * SECOND).unwrap().offered(), 15_000.0);
        assert_eq!(Profile::ramp(100.0, 300.0, 10 * SECOND).unwrap().offered(), 2_000.0);
        let steps = Profile::steps(&[100.0, 200.0, 400.0], 10 * SECOND).unwrap();
        assert_eq!((steps.offered(), steps.duration(), steps.peak()), (7_000.0, 30 * SECOND, 400.0));
        assert_eq!(steps.phases(), ["100/s", "200/s", "400/s"]);
        assert_eq!([0.0, 9.9, 10.0, 29.0, 99.0].map(|at| steps.phase_at(at)), [0, 0, 1, 2, 2]);
    }

    #[test]
    fn pieces_of_one_name_are_one_phase() {
        let profile = Profile::start("climb", 1.0, 2.0, SECOND).unwrap().then("climb", 2.0, 4.0, SECOND).unwrap();
        assert_eq!(profile.phases(), ["climb"]);
        assert_eq!(profile.phase_at(1.5), 0);
    }

    #[test]
    fn what_cannot_be_offered_is_refused() {
        for (rate, says) in [(0.0, "above 0"), (-1.0, "0 to 1000000"), (1_000_001.0, "1000000"), (f64::NAN, "1000000")]
        {
            let error = Profile::constant(rate, SECOND).unwrap_err().to_string();
            assert!(error.contains(says), "{rate}: {error}");
        }
        assert!(Profile::constant(1.0, Duration::ZERO).unwrap_err().to_string().contains("above 0"));
        assert!(Profile::constant(1.0, MAX_DURATION + SECOND).unwrap_err().to_string().contains("24 h"));
        assert!(Profile::steps(&[1.0; 65], SECOND).is_ok(), "equal steps are one phase");
        let many: Vec<f64> = (1..=65).map(f64::from).collect();
        assert!(Profile::steps(&many, SECOND).unwrap_err().to_string().contains("64"));
    }
}
