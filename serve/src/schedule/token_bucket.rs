//! A tenant's allowance of questions a second: a token bucket.

use std::time::{Duration, Instant};

/// Fills at `per_s` up to `burst`; every question let in takes one.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_s: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Full.
    pub(crate) fn new(per_s: f64, burst: f64, now: Instant) -> TokenBucket {
        TokenBucket { per_s, burst, tokens: burst, filled: now }
    }

    /// Whether there is a token; if not, when there will be.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.per_s).min(self.burst);
        if self.tokens >= 1.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_s))
    }

    /// Takes one.
    pub(crate) fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10.0, 3.0, start);
        let mut passed = |after_ms: u64| {
            let checked = bucket.check(start + Duration::from_millis(after_ms));
            checked.inspect(|()| bucket.take())
        };
        assert!([0, 0, 0].into_iter().all(|after| passed(after).is_ok()));
        assert_eq!(passed(0), Err(Duration::from_millis(100)));
        assert!(passed(99).is_err());
        assert!(passed(101).is_ok() && passed(101).is_err());
        let refilled = (0..9).filter(|_| passed(60_000).is_ok()).count();
        assert_eq!(refilled, 3, "no more than the burst, however long nobody asked");
    }
}
