//! A report as a page of its own: curves, tables and the command, in one file that needs nothing from outside.

use std::fmt::Write;

use super::chart::escaped;
use super::report::{Report, Totals};
use super::report_charts::charts;
use super::report_text::{end_rows, figure_rows, ms, percent, remarks, step_rows};
use super::slice::share;
use crate::output::moment;
use crate::progress::count;

const STYLE: &str = include_str!("report_html.css");

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let title = match (&report.scenario, &report.capacity) {
        (Some(scenario), _) => format!("Load: scenario {scenario}"),
        (None, Some(_)) => "Load: capacity".to_owned(),
        (None, None) => "Load".to_owned(),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title} - larder</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    let _ = writeln!(
        page,
        "<h1>{title}</h1>\n<p class=\"soft\">{}: {} questions in {} s, deadline {} ms, {} connections, seed {}</p>",
        moment(report.started_ms),
        count(report.totals.offered),
        report.totals.seconds,
        report.deadline_ms,
        report.connections,
        report.seed
    );
    let _ = writeln!(page, "<pre><code>{}</code></pre>", escaped(&report.command));
    let (void, notes): (Vec<String>, Vec<String>) =
        remarks(report).into_iter().partition(|remark| remark.starts_with("VOID"));
    for remark in void {
        let _ = writeln!(page, "<p class=\"void\">{}</p>", escaped(&remark));
    }
    page.push_str(&tiles(&report.totals));
    for remark in notes {
        let _ = writeln!(page, "<p class=\"soft\">{}</p>", escaped(&remark));
    }
    for chart in charts(report) {
        page.push_str(&chart.html());
    }
    if let Some(capacity) = &report.capacity {
        page.push_str(&table("Steps of the search", &step_rows(capacity)));
    }
    page.push_str(&table("Figures", &figure_rows(report)));
    page.push_str(&table("What became of the questions", &end_rows(&report.totals)));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// The figures to see first.
fn tiles(totals: &Totals) -> String {
    let latency = |of: fn(&super::report::Latency) -> f64| {
        totals.latency_ms.as_ref().map_or("-".to_owned(), |latency| format!("{} ms", ms(of(latency))))
    };
    let mut tiles = vec![
        ("offered/s", format!("{:.1}", totals.offered_per_s)),
        ("goodput/s", format!("{:.1}", totals.goodput_per_s)),
        ("in time", percent(totals.in_time_share)),
        ("median", latency(|latency| latency.p50)),
        ("p99", latency(|latency| latency.p99)),
        ("refused", percent(share(totals.refused, totals.offered))),
    ];
    if totals.labelled > 0 {
        tiles.push(("correct/s", format!("{:.1}", totals.correct_per_s)));
    }
    let tile = |(name, value): &(&str, String)| format!("<div class=\"tile\"><b>{value}</b><span>{name}</span></div>");
    format!("<div class=\"tiles\">{}</div>\n", tiles.iter().map(tile).collect::<String>())
}

/// A table; its first row is its header.
fn table(title: &str, rows: &[Vec<String>]) -> String {
    let mut html = format!("<section>\n<h2>{title}</h2>\n<div class=\"scroll\"><table>\n");
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html.push_str("</table></div>\n</section>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::synthetic::report;

    #[test]
    fn the_page_needs_nothing_from_outside_and_holds_every_chart() {
        let page = html(&report());
        for outside in ["<script", "http://", "https://", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for part in
            ["<!DOCTYPE html>", "prefers-color-scheme: dark", "cliff", "larder load --rate", "queue_full", "viewBox"]
        {
            assert!(page.contains(part), "{part} is missing");
        }
        assert_eq!(page.matches("<figure>").count(), page.matches("</figure>").count());
        assert!(page.matches("<svg").count() >= 4);
        assert!(!page.contains("NaN"), "a place that is none");
        assert!(page.len() < 1_000_000, "{}", page.len());
    }

    #[test]
    fn a_run_of_which_nothing_came_back_has_a_page_too() {
        let page = html(&Report::default());
        assert!(page.ends_with("</html>\n") && !page.contains("NaN"));
    }

    #[test]
    fn what_was_typed_cannot_become_markup() {
        let page = html(&Report { command: "larder load '<script>alert(1)</script>'".to_owned(), ..Report::default() });
        assert!(!page.contains("<script"));
    }

    /// `LARDER_PAGE=FILE` keeps the page of the synthetic run, to look at it.
    #[test]
    fn the_page_can_be_looked_at() {
        if let Some(file) = std::env::var_os("LARDER_PAGE") {
            std::fs::write(file, html(&report())).unwrap();
        }
    }
}
