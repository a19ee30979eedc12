//! What the commands print on stdout: JSON for programs, plain tables and sparing emphasis for people.
//!
//! Emphasis only where stdout is a terminal and NO_COLOR is not set (see no-color.org); tables are the same everywhere.

use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Result;
use chrono::{DateTime, SecondsFormat};
use comfy_table::{CellAlignment, LineStyle, Table, presets};
use serde::Serialize;

/// Prints one line, as `println!` does, but ends the command quietly when nobody reads on (`larder ... | head -1`).
macro_rules! say {
    ($($line:tt)*) => { $crate::output::line(format_args!($($line)*)) };
}
pub(crate) use say;

/// See `say!`.
pub(crate) fn line(text: Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to stdout: {error}");
        }
        std::process::exit(1);
    }
}

/// Prints one JSON document.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table of left-aligned names and right-aligned figures.
pub(crate) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Table {
    table_of_rows(header.map(str::to_owned).to_vec(), rows.into_iter().map(Vec::from))
}

/// The same for any number of columns.
pub(crate) fn table_of_rows(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Bold where that can be seen.
pub(crate) fn bold(text: impl Display) -> String {
    emphasis("1", text)
}

/// Faint where that can be seen.
pub(crate) fn faint(text: impl Display) -> String {
    emphasis("2", text)
}

fn emphasis(code: &str, text: impl Display) -> String {
    let wanted = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
}

/// A moment as RFC 3339 to the second, UTC.
pub(crate) fn moment(unix_ms: i64) -> String {
    match DateTime::from_timestamp_millis(unix_ms) {
        Some(moment) => moment.to_rfc3339_opts(SecondsFormat::Secs, true),
        None => format!("{unix_ms} ms"),
    }
}

/// A duration in its two greatest units: "3 d 4 h", "12 min 5 s", "250 ms".
pub(crate) fn duration(ms: i64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    let Some(first) = units.iter().position(|(_, length)| ms >= *length) else {
        return format!("{ms} ms");
    };
    let (name, length) = units[first];
    let whole = format!("{} {name}", ms / length);
    match units.get(first + 1) {
        Some((name, smaller)) if ms % length >= *smaller => format!("{whole} {} {name}", ms % length / smaller),
        _ => whole,
    }
}

/// Microseconds as milliseconds with two digits.
pub(crate) fn milliseconds(us: u64) -> String {
    format!("{:.2}", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, text) in [
            (0, "0 ms"),
            (-5, "-5 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (725_000, "12 min 5 s"),
            (3_600_000, "1 h"),
            (3_601_000, "1 h"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(i64::MAX), format!("{} ms", i64::MAX));
    }
}
