//! How durations, rates and ranges are typed: 500ms, 30s, 5m, 1h; 100..2000; 100,200,400.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::profile::{MAX_DURATION, MAX_RATE};
use crate::durations;

/// A duration with its unit, of a day at most; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let counts_seconds = text.ends_with(|c: char| c.is_ascii_digit());
    let duration = durations::duration(&if counts_seconds { format!("{text}s") } else { text.to_owned() })?;
    ensure!(duration <= MAX_DURATION, "{text:?} is longer than 24 h");
    Ok(duration)
}

/// A rate above 0, in questions a second.
pub(crate) fn rate(text: &str) -> Result<f64> {
    let rate: f64 =
        text.trim().parse().with_context(|| format!("{text:?} is no rate; write questions a second, such as 500"))?;
    ensure!(rate > 0.0 && rate <= MAX_RATE, "{rate} questions a second: above 0, to {MAX_RATE} is allowed");
    Ok(rate)
}

/// Two rates, as 100..2000.
pub(crate) fn ramp(text: &str) -> Result<(f64, f64)> {
    let (from, to) =
        text.split_once("..").with_context(|| format!("{text:?} is no ramp; write two rates, such as 100..2000"))?;
    Ok((rate(from)?, rate(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_last_a_day_at_most() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("30", 30_000), ("1.5m", 90_000), ("1d", 86_400_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "5 s", "-5"] {
            assert!(duration(text).unwrap_err().to_string().contains("30s"), "{text}");
        }
        assert!(duration("25h").unwrap_err().to_string().contains("24 h"));
    }

    #[test]
    fn rates_have_limits() {
        assert_eq!(ramp("100..2000").unwrap(), (100.0, 2_000.0));
        for text in ["0", "-5", "1000001", "NaN", "inf"] {
            assert!(rate(text).unwrap_err().to_string().contains("1000000"), "{text}");
        }
        assert!(rate("many").unwrap_err().to_string().contains("500"));
        assert!(ramp("100-200").unwrap_err().to_string().contains("100..2000"));
    }
}
