//! Axes of a chart: from values to places on the page, and which round values are named.

/// A linear or logarithmic scale from values to pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// Values from `low` to `high` at places from `start` to `end`.
    pub(crate) fn linear(low: f64, high: f64, start: f64, end: f64) -> Scale {
        Scale { low, high: if high > low { high } else { low + 1.0 }, start, end, logarithmic: false }
    }

    /// The same by orders of magnitude; `low` is above 0.
    pub(crate) fn logarithmic(low: f64, high: f64, start: f64, end: f64) -> Scale {
        Scale { low, high: if high > low { high } else { low * 10.0 }, start, end, logarithmic: true }
    }

    /// The place of a value; one outside goes to the edge.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Round values within the scale, about `wanted` of them on a linear one.
    pub(crate) fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.logarithmic { self.decades() } else { self.even(wanted) }
    }

    fn even(&self, wanted: usize) -> Vec<f64> {
        let step = round_step((self.high - self.low) / wanted.max(1) as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// 1, 2 and 5 of every decade; only the 1s where there are many decades.
    fn decades(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let digits: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = (first..=last).flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        all.filter(|value| (self.low * 0.999..=self.high * 1.001).contains(value)).collect()
    }
}

/// The least of 1, 2, 5, 10, ... (and their decades) that is no less than `step`.
pub(crate) fn round_step(step: f64) -> f64 {
    if step <= 0.0 || !step.is_finite() {
        return 1.0;
    }
    let decade = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * decade)
        .into_iter()
        .find(|round| *round >= step * 0.999_999)
        .unwrap_or(10.0 * decade)
}

/// A round value no less than this one, to end an axis at.
pub(crate) fn round_end(value: f64) -> f64 {
    let step = round_step(value / 4.0);
    (value / step - 1e-9).ceil().max(1.0) * step
}

/// A value in few letters: 1.5k, 20, 0.5.
pub(crate) fn short(value: f64) -> String {
    let plain = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value {
        value if value >= 1e6 => format!("{}M", plain(value / 1e6)),
        value if value >= 10_000.0 => format!("{}k", plain(value / 1e3)),
        value => plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_maps_its_ends_and_its_middle() {
        let linear = Scale::linear(0.0, 200.0, 10.0, 110.0);
        assert_eq!([0.0, 100.0, 200.0, 999.0].map(|value| linear.at(value)), [10.0, 60.0, 110.0, 110.0]);
        let down = Scale::logarithmic(1.0, 100.0, 100.0, 0.0);
        assert_eq!([0.0, 1.0, 10.0, 100.0].map(|value| down.at(value).round()), [100.0, 100.0, 50.0, 0.0]);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::linear(0.0, 97.0, 0.0, 1.0).ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(Scale::linear(0.0, 0.5, 0.0, 1.0).ticks(5).len(), 6);
        assert_eq!(Scale::logarithmic(2.0, 300.0, 0.0, 1.0).ticks(5), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(Scale::logarithmic(0.1, 10_000.0, 0.0, 1.0).ticks(5).len(), 6);
        for step in [0.0013, 0.7, 1.0, 3.0, 42.0, 99_999.0] {
            let round = round_step(step);
            assert!(round >= step * 0.999 && round <= 2.5 * step, "{step}: {round}");
        }
        assert_eq!(
            [round_end(97.0), round_end(100.0), round_end(1_301.0), round_end(0.0)],
            [100.0, 100.0, 1_500.0, 1.0]
        );
    }

    #[test]
    fn a_scale_of_nothing_is_still_a_scale() {
        assert!(Scale::linear(0.0, 0.0, 0.0, 100.0).at(0.0).is_finite());
        assert!(Scale::logarithmic(5.0, 5.0, 0.0, 100.0).ticks(4).len() > 1);
        assert_eq!(round_step(f64::NAN), 1.0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.5, 20.0, 1_500.0, 12_000.0, 2.5e6].map(short), ["0.5", "20", "1500", "12k", "2.5M"]);
    }
}
