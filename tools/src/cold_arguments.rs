//! `--cold-after` and `--active`, which several commands take: who goes into the cold tier.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use larder_ingest::ColdRule;

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

#[derive(Debug, Args)]
pub(crate) struct ColdArguments {
    /// Place entities cold whose newest row is older than this, counted back from the snapshot's as-of: days or hours, such as 90d or 36h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    cold_after: Option<Duration>,
    /// Hot-set file whose entities stay warm whatever their age: a node writes one to STORE/hot-set when it stops
    #[arg(long, value_name = "FILE", requires = "cold_after")]
    active: Option<PathBuf>,
}

impl ColdArguments {
    /// The rule they state; `None` = everybody is warm.
    pub(crate) fn rule(&self) -> Option<ColdRule> {
        self.cold_after.map(|cold_after| ColdRule { cold_after, active: self.active.clone() })
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("d", DAY_S), ("h", HOUR_S)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    // A u32 keeps out signs, spaces and what no clock has seen.
    let duration = found.and_then(|(number, seconds)| Some(u64::from(number.parse::<u32>().ok()?) * seconds));
    match duration.filter(|_| !text.starts_with('+')) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("must be a whole number of days or hours, such as 90d or 36h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_days_or_hours() {
        assert_eq!(parse_duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_duration("36h"), Ok(Duration::from_secs(36 * 3_600)));
        assert_eq!(parse_duration("0d"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("4294967295d"), Ok(Duration::from_secs(4_294_967_295 * 86_400)));
        for bad in ["", "d", "90", "-1d", "+1d", "1.5d", "1 d", "90D", "90x", "1d12h", "4294967296d", "é"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
