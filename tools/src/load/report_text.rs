//! A report as a person reads it in a terminal.

use super::report::{Capacity, Latency, MAX_GENERATOR_CPU, MAX_LAG_P99_MS, Report, Step, Totals};
use crate::output::table_of_rows;
use crate::progress::count;

/// The whole of it.
pub(crate) fn text(report: &Report) -> String {
    let mut parts = vec![heading(report)];
    if let Some(capacity) = &report.capacity {
        parts.push(table_of(step_rows(capacity)));
    }
    parts.push(table_of(figure_rows(report)));
    parts.push(table_of(end_rows(&report.totals)));
    parts.extend(remarks(report));
    parts.join("\n")
}

/// Rows of which the first names the columns.
fn table_of(rows: Vec<Vec<String>>) -> String {
    let mut rows = rows.into_iter();
    table_of_rows(rows.next().unwrap_or_default(), rows).to_string()
}

fn heading(report: &Report) -> String {
    let Report { totals, deadline_ms, connections, seed, shards, .. } = report;
    let to_each = if shards.is_empty() { String::new() } else { format!(" to each of {} nodes", shards.len()) };
    let scenario = report.scenario.as_ref().map(|name| format!("scenario {name}: ")).unwrap_or_default();
    format!(
        "{scenario}{} questions in {} s ({:.1}/s), deadline {deadline_ms} ms, {connections} connections{to_each}, seed {seed}",
        count(totals.offered),
        totals.seconds,
        totals.offered_per_s
    )
}

/// The parts of the run, one line each; the first line names the columns.
pub(crate) fn figure_rows(report: &Report) -> Vec<Vec<String>> {
    let header = [
        "", "offered/s", "in time", "goodput/s", "correct/s", "full", "refused", "p50 ms", "p90", "p99", "p99.9", "max",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec(), row("all".to_owned(), &report.totals)];
    rows.extend(report.phases.iter().map(|phase| row(format!("phase {}", phase.name), &phase.totals)));
    for (kind, parts) in [("class", &report.classes), ("tenant", &report.tenants)] {
        if parts.len() > 1 {
            rows.extend(parts.iter().map(|(name, totals)| row(format!("{kind} {name}"), totals)));
        }
    }
    rows.extend(report.shards.iter().map(|shard| row(format!("shard {}", shard.name), &shard.totals)));
    rows
}

fn row(name: String, totals: &Totals) -> Vec<String> {
    let at = |of: fn(&Latency) -> f64| totals.latency_ms.as_ref().map_or("-".to_owned(), |latency| ms(of(latency)));
    vec![
        name,
        format!("{:.1}", totals.offered_per_s),
        percent(totals.in_time_share),
        format!("{:.1}", totals.goodput_per_s),
        if totals.labelled == 0 { "-".to_owned() } else { format!("{:.1}", totals.correct_per_s) },
        percent(totals.full_share),
        percent(part(totals.refused, totals.offered)),
        at(|latency| latency.p50),
        at(|latency| latency.p90),
        at(|latency| latency.p99),
        at(|latency| latency.p999),
        at(|latency| latency.max),
    ]
}

/// Every end by its name.
fn named_ends(totals: &Totals) -> Vec<(String, u64)> {
    let mut ends: Vec<(String, u64)> = Vec::new();
    ends.extend(totals.rungs.iter().map(|(rung, counts)| (format!("answered: {rung}"), counts.answered)));
    ends.extend(totals.refused_by.iter().map(|(reason, count)| (format!("refused: {reason}"), *count)));
    ends.push(("expired".to_owned(), totals.expired));
    ends.extend(totals.failed_by.iter().map(|(kind, count)| (format!("failed: {kind}"), *count)));
    ends.push(("not sent: too many in flight".to_owned(), totals.not_sent));
    ends.push(("unfinished".to_owned(), totals.unfinished));
    ends.retain(|(_, count)| *count > 0);
    ends
}

/// What became of the questions; the first line names the columns.
pub(crate) fn end_rows(totals: &Totals) -> Vec<Vec<String>> {
    let header = ["ended as", "questions", "share"].map(str::to_owned).to_vec();
    let row = |(name, number): (String, u64)| vec![name, count(number), percent(part(number, totals.offered))];
    std::iter::once(header).chain(named_ends(totals).into_iter().map(row)).collect()
}

/// The steps of a search, in their order; the first line names the columns.
pub(crate) fn step_rows(capacity: &Capacity) -> Vec<Vec<String>> {
    let header = ["step", "", "in time", "goodput/s", "p99 ms"].map(str::to_owned).to_vec();
    let row = |step: &Step| {
        let p99 = step.totals.latency_ms.map_or("-".to_owned(), |latency| ms(latency.p99));
        vec![
            format!("{}/s", step.rate),
            step.verdict().to_owned(),
            percent(step.totals.in_time_share),
            format!("{:.1}", step.totals.goodput_per_s),
            p99,
        ]
    };
    std::iter::once(header).chain(capacity.steps.iter().map(row)).collect()
}

/// What must be known to read the figures right.
pub(crate) fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(capacity) = &report.capacity {
        let share = percent(capacity.least_in_time_share);
        remarks.push(match (capacity.qps > 0.0, capacity.limited_by_generator) {
            (true, false) => format!("Capacity: {} questions a second with {share} of the answers in time.", capacity.qps),
            (true, true) => format!(
                "Capacity: at least {} questions a second; beyond that the generator was the limit (--threads, a core of its own).",
                capacity.qps
            ),
            (false, true) => "Capacity: not known, the generator was the limit at every rate; give it a core of its own.".to_owned(),
            (false, false) => format!("Capacity: none; at no rate were {share} of the answers in time."),
        });
    }
    for (kind, message) in &report.first_failures {
        remarks.push(format!("The first failure of the kind {kind}: {message}"));
    }
    if report.totals.refused_by.contains_key("unknown_tenant") {
        remarks.push("The node does not serve a tenant that was asked for, or has no default one: name its tenants with --tenant.".to_owned());
    }
    if report.totals.handed_over > 0 {
        let share = percent(part(report.totals.handed_over, report.totals.answered));
        remarks.push(format!("{} answers ({share}) hand over to a person.", count(report.totals.handed_over)));
    }
    if let Some(latency) = report.totals.refusal_latency_ms {
        remarks.push(format!("Refusals took {} ms at the median, {} ms at p99.", ms(latency.p50), ms(latency.p99)));
    }
    if let Some(drift) = report.drift {
        remarks.push(format!(
            "Drift: p99 {} ms in the first fifth of the run, {} ms in the last: {:.2} times.",
            ms(drift.first_p99_ms),
            ms(drift.last_p99_ms),
            drift.ratio
        ));
    }
    let generator = &report.generator;
    let lag = generator.lag_ms.map_or(String::new(), |lag| {
        format!("; sends late by {} ms at p50, {} ms at p99, {} ms at most", ms(lag.p50), ms(lag.p99), ms(lag.max))
    });
    remarks.push(format!(
        "Generator: {} of a core ({} in its busiest second), {} {}{lag}.",
        percent(generator.cpu_share),
        percent(generator.cpu_share_busiest_second),
        generator.threads,
        if generator.threads == 1 { "thread" } else { "threads" }
    ));
    if report.void {
        let why = match generator.overworked() {
            true => format!("it took over {} of its core", percent(MAX_GENERATOR_CPU)),
            false => format!("others kept it from its core, and it sent later than {MAX_LAG_P99_MS} ms at p99"),
        };
        remarks.push(format!(
            "VOID: the generator was the limit ({why}), so these figures say nothing of the node. Give it a core of its own, more --threads, \
             or a lower rate."
        ));
    }
    if report.interrupted {
        remarks.push("The run was ended before its time.".to_owned());
    }
    remarks
}

fn part(of: u64, whole: u64) -> f64 {
    super::slice::share(of, whole)
}

/// A share for people: 99.95 %.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == percent.round() { format!("{percent} %") } else { format!("{percent:.2} %") }
}

/// Milliseconds with three digits that count.
pub(crate) fn ms(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::{Generator, Phase, RungCounts};

    #[test]
    fn a_text_report_says_what_became_of_every_question() {
        let totals = Totals {
            seconds: 10.0,
            offered: 1_000,
            answered: 800,
            refused: 150,
            expired: 50,
            rungs: [
                ("full".to_owned(), RungCounts { answered: 700, ..Default::default() }),
                ("light".to_owned(), RungCounts { answered: 100, ..Default::default() }),
            ]
            .into(),
            refused_by: [("queue_full".to_owned(), 150)].into(),
            ..Totals::default()
        };
        let ends = named_ends(&totals);
        assert_eq!(ends.iter().map(|(_, count)| count).sum::<u64>(), 1_000, "{ends:?}");
        let report = Report {
            phases: vec![Phase { name: "cliff".to_owned(), totals: totals.clone() }],
            totals,
            generator: Generator { threads: 1, cpu_share: 0.93, ..Generator::default() },
            void: true,
            interrupted: true,
            ..Report::default()
        };
        let text = text(&report);
        for part in [
            "1,000 questions in 10 s",
            "answered: full",
            "refused: queue_full",
            "phase cliff",
            "VOID",
            "93 % of a core",
            "before its time",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
