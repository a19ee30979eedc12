//! Loads with a story: the shapes that shops and banks have met, scaled to what one node can take.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::profile::Profile;

const MINUTE: f64 = 60.0;
/// Growth of the sale's load in a minute.
const SALE_GROWTH: f64 = 1.032;
const SALE_MINUTES: i32 = 16;
const SOAK_WAVE: f64 = 0.05;
/// The most that time can be compressed.
pub const MAX_TIME_SCALE: f64 = 60.0;

/// A load with a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The sale of 18 June: 60 % of capacity, +3.2 % a minute for 16 minutes, at once 2.5 times capacity for a minute, then two minutes at 60 %
    #[value(name = "618")]
    Sale618,
    /// 20 % of capacity for 30 s, 15 times that within one second, held for a minute, back within one second, a minute at 20 %
    Midnight,
    /// 70 % of capacity with small waves, for an hour or --duration: does anything drift?
    Soak,
}

impl Scenario {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Sale618 => "618",
            Scenario::Midnight => "midnight",
            Scenario::Soak => "soak",
        }
    }

    /// Its curve on a node of that capacity. Time runs `time_scale` times as fast, but for the one second of midnight; `duration` is that
    /// of the soak.
    pub fn profile(self, capacity: f64, time_scale: f64, duration: Duration) -> Result<Profile> {
        ensure!(
            (1.0..=MAX_TIME_SCALE).contains(&time_scale),
            "a time scale of {time_scale}: 1 to {MAX_TIME_SCALE} is allowed"
        );
        let scaled = |seconds: f64| Duration::from_secs_f64(seconds / time_scale);
        let second = Duration::from_secs(1);
        match self {
            Scenario::Sale618 => {
                let base = 0.6 * capacity;
                let at = |minute| base * SALE_GROWTH.powi(minute);
                let mut profile = Profile::start("climb", at(0), at(1), scaled(MINUTE))?;
                for minute in 1..SALE_MINUTES {
                    profile = profile.then("climb", at(minute), at(minute + 1), scaled(MINUTE))?;
                }
                let cliff = 2.5 * capacity;
                profile.then("cliff", cliff, cliff, scaled(MINUTE))?.then("after", base, base, scaled(2.0 * MINUTE))
            }
            Scenario::Midnight => {
                let (base, peak) = (0.2 * capacity, 15.0 * 0.2 * capacity);
                Profile::start("before", base, base, scaled(30.0))?
                    .then("surge", base, peak, second)?
                    .then("midnight", peak, peak, scaled(MINUTE))?
                    .then("ebb", peak, base, second)?
                    .then("after", base, base, scaled(MINUTE))
            }
            Scenario::Soak => {
                let (low, high) = (0.7 * capacity * (1.0 - SOAK_WAVE), 0.7 * capacity * (1.0 + SOAK_WAVE));
                let mut left = duration.as_secs_f64();
                ensure!(left > 0.0, "a duration of 0 offers nothing; name one above 0, such as 1h");
                let mut profile: Option<Profile> = None;
                let (mut from, mut to) = (low, high);
                while left > 0.0 {
                    let half = (MINUTE / 2.0).min(left);
                    let end = from + (to - from) * half / (MINUTE / 2.0);
                    let length = Duration::from_secs_f64(half);
                    profile = Some(match profile {
                        None => Profile::start("soak", from, end, length)?,
                        Some(profile) => profile.then("soak", from, end, length)?,
                    });
                    left -= half;
                    (from, to) = (to, from);
                }
                profile.map_or_else(|| Profile::constant(low, duration), Ok)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn the_sale_climbs_to_capacity_and_jumps() {
        let sale = Scenario::Sale618.profile(1_000.0, 1.0, HOUR).unwrap();
        assert_eq!((sale.first_rate(), sale.peak(), sale.duration().as_secs()), (600.0, 2_500.0, 19 * 60));
        assert_eq!(sale.phases(), ["climb", "cliff", "after"]);
        let top = sale.pieces()[15].to;
        assert!((990.0..1_000.0).contains(&top), "{top}");
        let fast = Scenario::Sale618.profile(1_000.0, 10.0, HOUR).unwrap();
        assert!((fast.offered() - sale.offered() / 10.0).abs() < 1e-6);
    }

    #[test]
    fn midnight_is_fifteen_times_the_base_within_one_second_whatever_the_time_scale() {
        for scale in [1.0, 10.0] {
            let midnight = Scenario::Midnight.profile(600.0, scale, HOUR).unwrap();
            let surge = midnight.pieces()[1];
            assert_eq!((surge.seconds, surge.from, surge.to), (1.0, 120.0, 1_800.0));
        }
    }

    #[test]
    fn the_soak_lasts_as_long_as_it_is_told_to_at_70_percent() {
        for seconds in [10, 90, 3_600] {
            let duration = Duration::from_secs(seconds);
            let soak = Scenario::Soak.profile(1_000.0, 1.0, duration).unwrap();
            assert_eq!((soak.duration(), soak.phases().len()), (duration, 1));
            assert!((soak.offered() / seconds as f64 - 700.0).abs() <= 35.0);
        }
        let pieces = Scenario::Soak.profile(1_000.0, 1.0, HOUR).unwrap();
        assert!(pieces.pieces().windows(2).all(|pair| (pair[0].to - pair[1].from).abs() < 1e-9), "no jumps");
    }

    #[test]
    fn time_cannot_be_stretched() {
        let error = Scenario::Midnight.profile(1.0, 0.5, HOUR).unwrap_err().to_string();
        assert!(error.contains("1 to 60"), "{error}");
    }
}
