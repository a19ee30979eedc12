//! Progress of long work, on stderr: a bar where a person watches, one plain line per stage where nobody does.
//!
//! Results go to stdout and never through here, so that `larder ... | jq` works while the bar runs.

use std::fmt::Display;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// What the position of a bar counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Items,
    /// With how many of them a second are done.
    Rows,
}

/// One stage of long work. Dropped without `done`, its bar disappears and nothing is said: the error follows.
#[derive(Debug)]
pub(crate) struct Stage {
    name: String,
    bar: ProgressBar,
    unit: Unit,
    started: Instant,
}

impl Stage {
    /// Starts a stage whose length is not known (yet).
    pub(crate) fn start(name: impl Into<String>, unit: Unit) -> Stage {
        let name = name.into();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message(name.clone());
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.enable_steady_tick(TICK);
        Stage { name, bar, unit, started: Instant::now() }
    }

    /// Shows another name on the bar; the closing line keeps the first.
    pub(crate) fn rename(&self, name: &'static str) {
        self.bar.set_message(name);
    }

    /// Prints a line that stays, above the bar.
    pub(crate) fn note(&self, what: impl Display) {
        self.bar.suspend(|| eprintln!("{}: {what}", self.name));
    }

    /// Says how far the work has come, and how far it goes.
    pub(crate) fn set(&self, position: u64, total: u64) {
        if total == 0 {
            return;
        }
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.set_style(style(match self.unit {
                Unit::Bytes => "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {eta}",
                Unit::Items => "{spinner} {msg} [{bar:30}] {human_pos}/{human_len} {eta}",
                Unit::Rows => "{spinner} {msg} [{bar:30}] {human_pos}/{human_len} rows, {per_sec}, {eta} left",
            }));
        }
        self.bar.set_position(position);
    }

    /// Ends the stage with one line that stays: what was done, and how long it took.
    pub(crate) fn done(self, what: impl Display) {
        self.bar.finish_and_clear();
        eprintln!("{}: {what} ({:.1} s)", self.name, self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// 1234567 as "1,234,567".
pub(crate) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// 1234567 as "1.18 MiB".
pub(crate) fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

/// How a bar is drawn.
pub(crate) fn style(template: &str) -> ProgressStyle {
    // The templates above are constants; one that did not parse would show indicatif's own style.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
