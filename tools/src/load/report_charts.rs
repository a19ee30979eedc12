//! Which curves a report is drawn with.

use std::collections::BTreeSet;

use super::axis::round_end;
use super::chart::{Chart, Curve, Mark};
use super::report::{Report, Second};

/// The most points of a curve; longer runs are drawn in stretches of several seconds.
const MOST_POINTS: usize = 400;
/// The shortest last second that a rate is made of.
const SHORTEST: f64 = 0.1;
const RUNG_COLOURS: [(&str, &str); 4] =
    [("full", "green"), ("light", "teal"), ("cached", "blue"), ("fallback", "violet")];
const CURVE_COLOURS: [&str; 5] = ["blue", "green", "amber", "violet", "teal"];

/// The charts of a report; none of what it has no figures for.
pub(crate) fn charts(report: &Report) -> Vec<Chart> {
    let stretches = stretches(&report.series, report.totals.seconds);
    let mut charts = Vec::new();
    charts.extend(search(report));
    if stretches.len() > 1 {
        charts.extend([rates(&stretches), latencies(report, &stretches), ends(&stretches)]);
    }
    charts.extend(distribution(report));
    charts
}

/// Several seconds in a row: rates are their mean, percentiles their worst.
struct Stretch {
    middle: f64,
    seconds: f64,
    sum: Second,
}

/// The seconds of a run that lasted so long: its last second may be shorter than one.
fn stretches(series: &[Second], lasted: f64) -> Vec<Stretch> {
    let length = series.len().div_ceil(MOST_POINTS).max(1);
    let one = |seconds: &[Second]| {
        let mut sum = Second::default();
        for second in seconds {
            sum.offered += second.offered;
            sum.answered += second.answered;
            sum.in_time += second.in_time;
            sum.goodput += second.goodput;
            sum.refused += second.refused;
            sum.expired += second.expired;
            sum.failed += second.failed;
            sum.not_sent += second.not_sent;
            for (rung, answered) in &second.rungs {
                *sum.rungs.entry(rung.clone()).or_default() += answered;
            }
            sum.p50_ms = greater(sum.p50_ms, second.p50_ms);
            sum.p99_ms = greater(sum.p99_ms, second.p99_ms);
        }
        let first = seconds.first().map_or(0, |second| second.second) as f64;
        let length = (seconds.len() as f64).min((lasted - first).max(SHORTEST));
        Stretch { middle: first + length / 2.0, seconds: length, sum }
    };
    series.chunks(length).map(one).collect()
}

fn greater(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

fn whole(stretches: &[Stretch]) -> (f64, f64) {
    let first = stretches.first().map_or(0.0, |stretch| stretch.middle - stretch.seconds / 2.0);
    (first, stretches.last().map_or(1.0, |stretch| stretch.middle + stretch.seconds / 2.0))
}

/// A value of every stretch at its middle, the first and the last one carried on to the edges of the chart.
fn to_the_edges(stretches: &[Stretch], of: impl Fn(&Stretch) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    let (start, end) = whole(stretches);
    let mut points = Vec::with_capacity(stretches.len() + 2);
    points.extend(stretches.first().map(|first| (start, of(first))));
    points.extend(stretches.iter().map(|stretch| (stretch.middle, of(stretch))));
    points.extend(stretches.last().map(|last| (end, of(last))));
    points
}

/// Offered, goodput and refused, each second.
fn rates(stretches: &[Stretch]) -> Chart {
    let curve = |name: &str, colour, mark, of: fn(&Second) -> u64| Curve {
        name: name.to_owned(),
        colour,
        mark,
        points: to_the_edges(stretches, |stretch| Some(of(&stretch.sum) as f64 / stretch.seconds)),
    };
    let highest = stretches.iter().map(|stretch| stretch.sum.offered as f64 / stretch.seconds).fold(1.0, f64::max);
    Chart {
        title: "Offered, goodput, refused".to_owned(),
        x_label: "seconds",
        y_label: "questions a second",
        x: whole(stretches),
        y: (0.0, round_end(highest)),
        logarithmic: false,
        x_ticks: Vec::new(),
        curves: vec![
            curve("offered", "grey", Mark::Line, |second| second.offered),
            curve("goodput", "green", Mark::Filled, |second| second.goodput),
            curve("refused", "red", Mark::Line, |second| second.refused),
        ],
    }
}

/// Median and p99 of the answers, each second, with the deadline.
fn latencies(report: &Report, stretches: &[Stretch]) -> Chart {
    let curve = |name: &str, colour, of: fn(&Second) -> Option<f64>| Curve {
        name: name.to_owned(),
        colour,
        mark: Mark::Line,
        points: to_the_edges(stretches, |stretch| of(&stretch.sum)),
    };
    let x = whole(stretches);
    let deadline = Curve {
        name: format!("deadline, {} ms", report.deadline_ms),
        colour: "red",
        mark: Mark::Limit,
        points: vec![(x.0, Some(report.deadline_ms)), (x.1, Some(report.deadline_ms))],
    };
    let values = || stretches.iter().flat_map(|stretch| [stretch.sum.p50_ms, stretch.sum.p99_ms]).flatten();
    Chart {
        title: "Latency of the answers".to_owned(),
        x_label: "seconds",
        y_label: "ms",
        x,
        y: milliseconds(values().fold(f64::MAX, f64::min), values().fold(report.deadline_ms, f64::max)),
        logarithmic: true,
        x_ticks: Vec::new(),
        curves: vec![
            curve("median", "blue", |second| second.p50_ms),
            curve("p99", "amber", |second| second.p99_ms),
            deadline,
        ],
    }
}

/// What became of the questions of each second, in percent, answers by their rung.
fn ends(stretches: &[Stretch]) -> Chart {
    let curve = |name: String, colour, of: &dyn Fn(&Second) -> u64| Curve {
        name,
        colour,
        mark: Mark::Stacked,
        points: to_the_edges(stretches, |stretch| {
            Some(100.0 * of(&stretch.sum) as f64 / stretch.sum.offered.max(1) as f64)
        }),
    };
    let named: BTreeSet<&String> = stretches.iter().flat_map(|stretch| stretch.sum.rungs.keys()).collect();
    let mut rungs: Vec<&String> = named.into_iter().collect();
    // From the best rung at the bottom to the last resort.
    let known = |rung: &str| RUNG_COLOURS.iter().position(|(name, _)| *name == rung).unwrap_or(RUNG_COLOURS.len());
    rungs.sort_by_key(|rung| known(rung));
    let mut curves: Vec<Curve> = rungs
        .into_iter()
        .map(|rung| {
            let colour = RUNG_COLOURS.get(known(rung)).map_or("grey", |(_, colour)| colour);
            curve(rung.clone(), colour, &|second| second.rungs.get(rung).copied().unwrap_or_default())
        })
        .collect();
    curves.push(curve("refused".to_owned(), "red", &|second| second.refused));
    curves.push(curve("expired".to_owned(), "amber", &|second| second.expired));
    curves.push(curve("failed or not sent".to_owned(), "grey", &|second| second.failed + second.not_sent));
    curves.retain(|curve| curve.points.iter().any(|(_, value)| value.is_some_and(|value| value > 0.0)));
    Chart {
        title: "What became of the questions".to_owned(),
        x_label: "seconds",
        y_label: "percent of those offered",
        x: whole(stretches),
        y: (0.0, 100.0),
        logarithmic: false,
        x_ticks: Vec::new(),
        curves,
    }
}

/// Latency by percentile: every nine more is as wide as the one before.
fn distribution(report: &Report) -> Option<Chart> {
    let place = |percentile: f64| -(1.0 - percentile / 100.0).max(1e-6).log10();
    let all = report.distribution.first()?;
    // Percentiles that so few answers cannot tell apart are left out.
    let most = report.totals.answered as f64;
    let known = |percentile: f64| percentile == 0.0 || (1.0 - percentile / 100.0) * most >= 0.999;
    let end = all
        .points
        .iter()
        .map(|(percentile, _)| *percentile)
        .filter(|percentile| known(*percentile))
        .fold(90.0, f64::max);
    let curves = report.distribution.iter().zip(CURVE_COLOURS).map(|(one, colour)| Curve {
        name: one.name.clone(),
        colour,
        mark: Mark::Line,
        points: one.points.iter().filter(|(at, _)| *at <= end).map(|(at, ms)| (place(*at), Some(*ms))).collect(),
    });
    let mut curves: Vec<Curve> = curves.collect();
    let values = || curves.iter().flat_map(|curve| curve.points.iter().filter_map(|(_, value)| *value));
    let y = milliseconds(values().fold(f64::MAX, f64::min), values().fold(report.deadline_ms, f64::max));
    curves.push(Curve {
        name: format!("deadline, {} ms", report.deadline_ms),
        colour: "red",
        mark: Mark::Limit,
        points: vec![(0.0, Some(report.deadline_ms)), (place(end), Some(report.deadline_ms))],
    });
    let ticks = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];
    Some(Chart {
        title: "Latency by percentile".to_owned(),
        x_label: "percentile of the answers",
        y_label: "ms",
        x: (0.0, place(end)),
        y,
        logarithmic: true,
        x_ticks: ticks.iter().filter(|tick| **tick <= end).map(|tick| (place(*tick), format!("{tick}"))).collect(),
        curves,
    })
}

/// Goodput over the rate offered, in the steps of a search.
fn search(report: &Report) -> Option<Chart> {
    let steps = report.capacity.as_ref()?.steps.iter().filter(|step| !step.void);
    let mut steps: Vec<(f64, f64)> = steps.map(|step| (step.totals.offered_per_s, step.totals.goodput_per_s)).collect();
    if steps.len() < 2 {
        return None;
    }
    steps.sort_by(|one, other| one.0.total_cmp(&other.0));
    let end = round_end(steps.iter().map(|(offered, _)| *offered).fold(1.0, f64::max));
    let dotted = |name: &str, colour, mark, points: Vec<(f64, f64)>| Curve {
        name: name.to_owned(),
        colour,
        mark,
        points: points.into_iter().map(|(x, y)| (x, Some(y))).collect(),
    };
    Some(Chart {
        title: "Goodput over the rate offered".to_owned(),
        x_label: "offered, questions a second",
        y_label: "goodput a second",
        x: (0.0, end),
        y: (0.0, end),
        logarithmic: false,
        x_ticks: Vec::new(),
        curves: vec![
            dotted("all that is offered", "grey", Mark::Limit, vec![(0.0, 0.0), (end, end)]),
            dotted("goodput", "green", Mark::Dotted, steps),
        ],
    })
}

/// A logarithmic range that holds both with some room.
fn milliseconds(least: f64, most: f64) -> (f64, f64) {
    let least = if least.is_finite() && least < most { least.max(0.01) } else { most / 10.0 };
    let (low, high) = (10f64.powf((least / 1.2).log10().floor()), most * 1.3);
    // From the greatest of 1, 2, 5 below the least value.
    let low = [5.0, 2.0].iter().map(|digit| digit * low).find(|value| *value <= least / 1.1).unwrap_or(low);
    (low.max(0.01), high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::synthetic::report;

    #[test]
    fn every_figure_has_its_chart() {
        let titles: Vec<String> = charts(&report()).into_iter().map(|chart| chart.title).collect();
        assert_eq!(
            titles,
            [
                "Goodput over the rate offered",
                "Offered, goodput, refused",
                "Latency of the answers",
                "What became of the questions",
                "Latency by percentile"
            ]
        );
        assert!(charts(&Report::default()).is_empty());
    }

    #[test]
    fn long_runs_are_drawn_in_stretches_that_keep_the_mean_rate_and_the_worst_latency() {
        let second =
            |second: u64| Second { second, offered: second % 2 * 10, p99_ms: Some(second as f64), ..Second::default() };
        let series: Vec<Second> = (0..1_000).map(second).collect();
        let found = stretches(&series, 999.5);
        assert_eq!(
            (found.len(), found[0].seconds, found[333].seconds),
            (334, 3.0, 0.5),
            "999 is alone in the last stretch"
        );
        assert_eq!(found[1].sum.p99_ms, Some(5.0));
        let mean = found.iter().map(|one| one.sum.offered as f64).sum::<f64>() / 1_000.0;
        assert_eq!(mean, 5.0);
    }

    #[test]
    fn shares_of_a_second_add_up_to_all_of_it() {
        let chart = charts(&report()).into_iter().find(|chart| chart.title.starts_with("What")).unwrap();
        for at in 0..chart.curves[0].points.len() {
            let sum: f64 = chart.curves.iter().filter_map(|curve| curve.points[at].1).sum();
            assert!((sum - 100.0).abs() < 1.0, "{sum} % in stretch {at}");
        }
    }
}
