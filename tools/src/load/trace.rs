//! A recorded load: when each question came, and where known who asked what. One JSON object per line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use larder_serve::Class;
use serde::Deserialize;

use super::profile::MAX_DURATION;

/// The most lines of a trace.
const MAX_LINES: usize = 10_000_000;

/// A line as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    offset_ms: f64,
    class: Option<Class>,
    tenant: Option<String>,
    user: Option<String>,
    text: Option<String>,
}

/// One recorded question. What is absent is drawn from the mix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TraceLine {
    /// From the start of the trace.
    pub(crate) at: Duration,
    pub(crate) class: Option<Class>,
    pub(crate) tenant: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) text: Option<String>,
}

/// A recorded load, in the order of its times.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    lines: Vec<TraceLine>,
}

impl Trace {
    /// Reads a file of JSON lines with offset_ms and optionally class, tenant, user and text.
    pub fn read(path: &Path) -> Result<Trace> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Trace::parse(&text).with_context(|| format!("{} is no trace", path.display()))
    }

    /// The same from the text of such a file.
    pub fn parse(text: &str) -> Result<Trace> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let Recorded { offset_ms, class, tenant, user, text } =
                serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?;
            let most = MAX_DURATION.as_millis() as f64;
            ensure!(
                (0.0..=most).contains(&offset_ms),
                "line {}: offset_ms = {offset_ms}: 0 to {most} is allowed (24 h)",
                number + 1
            );
            lines.push(TraceLine { at: Duration::from_secs_f64(offset_ms / 1_000.0), class, tenant, user, text });
            ensure!(lines.len() <= MAX_LINES, "more than {MAX_LINES} lines");
        }
        ensure!(!lines.is_empty(), "it has no line; each is a JSON object such as {{\"offset_ms\": 12.5}}");
        lines.sort_by_key(|line| line.at);
        Ok(Trace { lines })
    }

    /// Until its last question.
    pub fn duration(&self) -> Duration {
        self.lines.last().map_or(Duration::ZERO, |line| line.at)
    }

    pub(crate) fn lines(&self) -> &[TraceLine] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_in_the_order_of_its_times() {
        let trace = Trace::parse(
            "{\"offset_ms\": 20.5, \"class\": \"vip\", \"user\": \"u1\"}\n\n{\"offset_ms\": 0, \"text\": \"where is it?\"}\n",
        )
        .unwrap();
        assert_eq!(trace.duration(), Duration::from_micros(20_500));
        assert_eq!(trace.lines()[0].text.as_deref(), Some("where is it?"));
        assert_eq!((trace.lines()[1].class, trace.lines()[1].user.as_deref()), (Some(Class::Vip), Some("u1")));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, says) in [
            ("", "no line"),
            ("{\"offset_ms\": -1}", "offset_ms = -1"),
            ("{\"offset_ms\": 1}\n{\"offset\": 1}", "line 2"),
            ("{\"offset_ms\": 1, \"class\": \"gold\"}", "vip"),
            ("{\"offset_ms\": 1e12}", "24 h"),
        ] {
            let error = format!("{:#}", Trace::parse(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
