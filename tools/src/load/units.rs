//! How durations, rates and ranges are typed: 500ms, 30s, 5m, 1h; 100..2000; 100,200,400.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::profile::{MAX_DURATION, MAX_RATE};

/// A duration with its unit; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => bail!("{text:?} is no duration; write 500ms, 30s, 5m or 1h"),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no duration; write 500ms, 30s, 5m or 1h"))?;
    let whole = number * seconds;
    ensure!(whole <= MAX_DURATION.as_secs_f64(), "{text:?} is longer than 24 h");
    Ok(Duration::from_secs_f64(whole))
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
    fn durations_have_units() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("30", 30_000), ("1.5m", 90_000), ("2min", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "5 s", "5d", "-5s", "1.2.3s"] {
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
