//! How durations are typed: 500ms, 30s, 5m, 36h, 90d.

use std::time::Duration;

use anyhow::{Result, bail};

/// Longest duration that can be typed: 2^32 days, which no clock has seen.
const MAX_SECONDS: f64 = 86_400.0 * 4_294_967_296.0;

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => bail!("{text:?} is no duration; write 500ms, 30s, 5m, 36h or 90d"),
    };
    match number.parse::<f64>().map(|number| number * seconds) {
        Ok(whole) if whole < MAX_SECONDS => Ok(Duration::from_secs_f64(whole)),
        _ => bail!("{text:?} is no duration; write 500ms, 30s, 5m, 36h or 90d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("2min", 120_000),
            ("36h", 36 * 3_600_000),
            ("90d", 90 * 86_400_000),
            ("0d", 0),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        assert_eq!(duration("4294967295d").unwrap(), Duration::from_secs(4_294_967_295 * 86_400));
        for text in ["", "s", "90", "-1d", "+1d", "1 d", "5 s", "90D", "90x", "1d12h", "1.2.3s", "4294967296d", "é"] {
            assert!(duration(text).unwrap_err().to_string().contains("90d"), "{text}");
        }
    }
}
