//! `larder plan`: how many nodes a forecast needs, from the measured capacity of one.
//!
//! Arithmetic and no more: the capacity is what `larder load --find-capacity` measured, the peak is the forecast after its growth,
//! and there are enough nodes when they hold the headroom above the peak, and the peak itself without those that are lost.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::load::{MAX_RATE, Report};
use crate::output::{print_json, say, table};

const MAX_HEADROOM: f64 = 10.0;
const MAX_MINUTES: f64 = 1_440.0;
const MAX_LOST: u32 = 10_000;
/// The highest rate that is planned for.
const MAX_PEAK: f64 = 1e9;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("measured").required(true).args(["capacity", "from"]),
    after_help = "Examples:
  larder plan --capacity 620 --forecast 12000
  larder plan --capacity 620 --light-capacity 2400 --forecast 12000 --growth 3.2%/min --minutes 60 --lost-nodes 1
  larder load --tenant demo --questions shop/questions.jsonl --find-capacity --json > capacity.json && larder plan --from capacity.json --forecast 12000"
)]
pub(crate) struct Arguments {
    /// What one node holds, in questions a second, above 0, to 1,000,000
    #[arg(long, value_name = "QPS")]
    capacity: Option<f64>,
    /// The same, from what `larder load --find-capacity --json` printed
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// What is expected of all nodes together, in questions a second, above 0, to 1,000,000,000
    #[arg(long, value_name = "QPS")]
    forecast: f64,
    /// Nodes hold so many times the peak, 1 to 10
    #[arg(long, default_value_t = 1.5)]
    headroom: f64,
    /// The forecast grows so fast, compounded each minute, 0 to 100 %: 3.2%/min
    #[arg(long, value_parser = growth, requires = "minutes", value_name = "PERCENT")]
    growth: Option<f64>,
    /// For so many minutes, 0 to 1440
    #[arg(long, requires = "growth")]
    minutes: Option<f64>,
    /// So many nodes may be lost, and the rest still holds the peak; to 10,000
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_LOST)))]
    lost_nodes: u32,
    /// What one node holds on the rung light: the most that degrading can absorb; no less than the capacity
    #[arg(long, value_name = "QPS")]
    light_capacity: Option<f64>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// What is planned from.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Forecast {
    capacity: f64,
    light_capacity: Option<f64>,
    forecast: f64,
    headroom: f64,
    /// Per minute, and for how many.
    growth: Option<(f64, f64)>,
    lost_nodes: u32,
}

/// How many nodes, and what each then has to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Plan {
    capacity: f64,
    forecast: f64,
    peak: f64,
    headroom: f64,
    lost_nodes: u32,
    nodes: u64,
    /// Of all nodes together.
    holds: f64,
    at_peak: Load,
    /// The same when the lost nodes are gone.
    with_lost_nodes: Option<Load>,
    at_headroom: Load,
    ladder: Option<Ladder>,
}

/// What one node has to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Load {
    nodes: u64,
    qps_per_node: f64,
    /// Of its capacity on the rung full.
    share_of_capacity: f64,
    /// Of the answers that are then made on the rung full; the rest is on light. Only where light's capacity is known.
    full_share: Option<f64>,
}

/// What the rung light can absorb.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ladder {
    light_capacity: f64,
    /// All nodes on light.
    holds: f64,
    /// The same as a multiple of the peak.
    times_peak: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let capacity = match (&arguments.from, arguments.capacity) {
        (Some(file), _) => measured(file)?,
        (None, capacity) => capacity.unwrap_or_default(),
    };
    let plan = Forecast {
        capacity,
        light_capacity: arguments.light_capacity,
        forecast: arguments.forecast,
        headroom: arguments.headroom,
        growth: arguments.growth.zip(arguments.minutes),
        lost_nodes: arguments.lost_nodes,
    }
    .plan()?;
    if arguments.json {
        return print_json(&plan);
    }
    say!("{}", plan.text());
    Ok(())
}

/// The capacity that a search found.
fn measured(file: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of `larder load --json`", file.display()))?;
    let Some(capacity) = report.capacity else {
        bail!("{} has no capacity; make it with `larder load --find-capacity --json`", file.display());
    };
    if report.interrupted {
        bail!("the search that {} tells of was ended before its time; let it end", file.display());
    }
    if capacity.qps == 0.0 {
        bail!("{} says that the node held no rate at all; nothing can be planned with it", file.display());
    }
    if capacity.limited_by_generator {
        eprintln!("note: the generator was the limit of that search; a node may hold more than {}/s", capacity.qps);
    }
    Ok(capacity.qps)
}

/// "3.2%/min" as 0.032.
fn growth(text: &str) -> Result<f64> {
    let number = text.trim().trim_end_matches("/min").trim_end().trim_end_matches('%').trim_end();
    let percent: f64 = number.parse().with_context(|| format!("{text:?} is no growth; write 3.2%/min"))?;
    ensure!((0.0..=100.0).contains(&percent), "a growth of {percent} % a minute: 0 to 100 is allowed");
    Ok(percent / 100.0)
}

impl Forecast {
    fn plan(&self) -> Result<Plan> {
        self.check()?;
        let (growth, minutes) = self.growth.unwrap_or((0.0, 0.0));
        let peak = self.forecast * (1.0 + growth).powf(minutes);
        ensure!(
            peak <= MAX_PEAK,
            "the peak would be {peak:.0} questions a second; {MAX_PEAK:.0} at most can be planned for"
        );
        let for_headroom = nodes_for(peak * self.headroom, self.capacity);
        let for_losses = nodes_for(peak, self.capacity) + u64::from(self.lost_nodes);
        let nodes = for_headroom.max(for_losses);
        let left = nodes - u64::from(self.lost_nodes);
        Ok(Plan {
            capacity: self.capacity,
            forecast: self.forecast,
            peak,
            headroom: self.headroom,
            lost_nodes: self.lost_nodes,
            nodes,
            holds: nodes as f64 * self.capacity,
            at_peak: self.load(peak, nodes),
            with_lost_nodes: (self.lost_nodes > 0).then(|| self.load(peak, left)),
            at_headroom: self.load(peak * self.headroom, nodes),
            ladder: self.light_capacity.map(|light_capacity| {
                let holds = nodes as f64 * light_capacity;
                Ladder { light_capacity, holds, times_peak: holds / peak }
            }),
        })
    }

    fn check(&self) -> Result<()> {
        let rate = |name: &str, value: f64, most: f64| {
            ensure!(value > 0.0 && value <= most, "{name} {value}: above 0, to {most} is allowed");
            Ok(())
        };
        rate("--capacity", self.capacity, MAX_RATE)?;
        rate("--forecast", self.forecast, MAX_PEAK)?;
        ensure!(
            (1.0..=MAX_HEADROOM).contains(&self.headroom),
            "--headroom {}: 1 to {MAX_HEADROOM} is allowed",
            self.headroom
        );
        if let Some((_, minutes)) = self.growth {
            ensure!((0.0..=MAX_MINUTES).contains(&minutes), "--minutes {minutes}: 0 to {MAX_MINUTES} is allowed");
        }
        if let Some(light) = self.light_capacity {
            rate("--light-capacity", light, MAX_RATE)?;
            ensure!(
                light >= self.capacity,
                "--light-capacity {light}: less than the capacity, {}; the rung light is there to hold more",
                self.capacity
            );
        }
        Ok(())
    }

    fn load(&self, all: f64, nodes: u64) -> Load {
        let qps_per_node = all / nodes as f64;
        let full_share = self.light_capacity.map(|light| full_share(qps_per_node, self.capacity, light));
        Load { nodes, qps_per_node, share_of_capacity: qps_per_node / self.capacity, full_share }
    }
}

/// The fewest nodes that hold a rate.
fn nodes_for(rate: f64, capacity: f64) -> u64 {
    let exact = rate / capacity;
    // What is whole but for rounding is whole.
    let nodes = if (exact - exact.round()).abs() < 1e-9 * exact { exact.round() } else { exact.ceil() };
    (nodes as u64).max(1)
}

/// Of the answers of a node that has more to do than the rung full holds: a second is shared by both rungs, each question at the cost
/// that its rung's capacity says.
fn full_share(qps: f64, capacity: f64, light: f64) -> f64 {
    if qps <= capacity {
        return 1.0;
    }
    if light <= capacity {
        return 0.0;
    }
    ((1.0 / qps - 1.0 / light) / (1.0 / capacity - 1.0 / light)).clamp(0.0, 1.0)
}

impl Plan {
    fn text(&self) -> String {
        let Plan { capacity, peak, headroom, nodes, holds, lost_nodes, .. } = self;
        let row = |name: String, load: &Load| {
            let full = load.full_share.map_or("-".to_owned(), percent);
            [name, load.nodes.to_string(), format!("{:.1}", load.qps_per_node), percent(load.share_of_capacity), full]
        };
        let mut rows = vec![row("peak".to_owned(), &self.at_peak)];
        if let Some(lost) = &self.with_lost_nodes {
            rows.push(row(format!("peak, {lost_nodes} lost"), lost));
        }
        rows.push(row(format!("{} of the peak", percent(*headroom)), &self.at_headroom));
        let table = table(["at", "nodes", "a node's questions/s", "of its capacity", "on the rung full"], rows);
        let mut text = format!(
            "{nodes} nodes, each of {capacity} questions a second: they hold {holds:.0}/s, the peak is {peak:.0}/s.\n{table}"
        );
        if let Some(ladder) = &self.ladder {
            text.push_str(&format!(
                "\nWith every answer on the rung light they hold {:.0}/s, {:.2} times the peak; what comes beyond that is refused.",
                ladder.holds, ladder.times_peak
            ));
        }
        text
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Capacity;

    fn forecast(capacity: f64, forecast: f64) -> Forecast {
        Forecast { capacity, light_capacity: None, forecast, headroom: 1.5, growth: None, lost_nodes: 0 }
    }

    #[test]
    fn nodes_hold_the_headroom_above_the_peak() {
        let plan = forecast(620.0, 12_000.0).plan().unwrap();
        assert_eq!((plan.nodes, plan.holds), (30, 18_600.0), "18,000 / 620 = 29.03");
        assert_eq!(plan.at_peak.qps_per_node, 400.0);
        assert_eq!(forecast(600.0, 12_000.0).plan().unwrap().nodes, 30, "18,000 / 600 is 30 and no more");
        assert_eq!(forecast(0.1 + 0.2, 0.6).plan().unwrap().nodes, 3, "rounding adds no node");
        assert_eq!(forecast(620.0, 1.0).plan().unwrap().nodes, 1);
    }

    #[test]
    fn growth_is_compounded_each_minute() {
        let plan = Forecast { growth: Some((0.032, 60.0)), ..forecast(620.0, 12_000.0) }.plan().unwrap();
        assert!((plan.peak - 12_000.0 * 1.032f64.powi(60)).abs() < 1e-6);
        assert_eq!(plan.nodes, (plan.peak * 1.5 / 620.0).ceil() as u64);
    }

    #[test]
    fn what_is_left_after_losses_holds_the_peak() {
        let plan = Forecast { lost_nodes: 1, ..forecast(620.0, 12_000.0) }.plan().unwrap();
        assert_eq!((plan.nodes, plan.with_lost_nodes.unwrap().nodes), (30, 29), "the headroom covers one");
        let few = Forecast { lost_nodes: 2, ..forecast(620.0, 600.0) }.plan().unwrap();
        assert_eq!(few.nodes, 3, "one holds the peak, two may go");
        assert!(few.with_lost_nodes.unwrap().share_of_capacity <= 1.0);
    }

    #[test]
    fn the_ladder_shares_a_nodes_time_between_the_rungs() {
        assert_eq!(full_share(600.0, 600.0, 2_400.0), 1.0);
        assert_eq!(full_share(2_400.0, 600.0, 2_400.0), 0.0);
        assert_eq!(full_share(9_999.0, 600.0, 2_400.0), 0.0);
        // 960 a second, a fifth of them on full: 192 / 600 + 768 / 2400 = 0.64: there is time for more on full.
        let share = full_share(960.0, 600.0, 2_400.0);
        assert!((960.0 * share / 600.0 + 960.0 * (1.0 - share) / 2_400.0 - 1.0).abs() < 1e-9, "{share}");
        let plan = Forecast { light_capacity: Some(2_480.0), ..forecast(620.0, 12_000.0) }.plan().unwrap();
        assert_eq!(plan.ladder.unwrap().times_peak, 30.0 * 2_480.0 / 12_000.0);
        assert!(plan.text().contains("6.20 times the peak"), "{}", plan.text());
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let usual = forecast(620.0, 12_000.0);
        for (wrong, says) in [
            (forecast(0.0, 1.0), "--capacity 0"),
            (forecast(1.0, -1.0), "--forecast -1"),
            (forecast(f64::NAN, 1.0), "--capacity"),
            (Forecast { headroom: 0.9, ..usual }, "1 to 10"),
            (Forecast { light_capacity: Some(100.0), ..usual }, "less than the capacity"),
            (Forecast { growth: Some((0.1, 9_999.0)), ..usual }, "0 to 1440"),
            (Forecast { growth: Some((1.0, 1_000.0)), ..usual }, "1000000000"),
        ] {
            let error = wrong.plan().unwrap_err().to_string();
            assert!(error.contains(says), "{says:?}: {error}");
        }
        assert_eq!(growth("3.2%/min").unwrap(), growth("3.2").unwrap());
        assert!(growth("fast").unwrap_err().to_string().contains("3.2%/min"));
        assert!(growth("101%").unwrap_err().to_string().contains("0 to 100"));
    }

    #[test]
    fn a_capacity_is_read_from_a_report_that_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let write = |report: &Report| std::fs::write(&file, serde_json::to_string(report).unwrap()).unwrap();
        write(&Report { capacity: Some(Capacity { qps: 613.0, ..Capacity::default() }), ..Report::default() });
        assert_eq!(measured(&file).unwrap(), 613.0);
        write(&Report::default());
        assert!(measured(&file).unwrap_err().to_string().contains("--find-capacity"));
        write(&Report { capacity: Some(Capacity::default()), ..Report::default() });
        assert!(measured(&file).unwrap_err().to_string().contains("no rate at all"));
        std::fs::write(&file, "[]").unwrap();
        assert!(measured(&file).unwrap_err().to_string().contains("no report"));
    }
}
