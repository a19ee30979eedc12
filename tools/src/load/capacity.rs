//! Measures a node's capacity: the highest Poisson rate at which enough answers are in time.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::load_plan::{LoadPlan, Stop};
use super::profile::{MAX_RATE, Profile};
use super::report::{Capacity, Generator, Report, Step};
use super::run::{Progress, run};
use super::schedule::{Arrivals, Offer};
use super::search::{Search, Tried};

/// A step that says nothing of the node is made again, up to so many times in all: something else may have had the core for a moment.
const MOST_VOIDS: u32 = 3;

/// How a capacity is searched for.
#[derive(Debug, Clone, Copy)]
pub struct CapacitySearch {
    /// The first rate tried.
    pub start_rate: f64,
    /// How long each rate is offered, without its warm-up.
    pub step: Duration,
    /// The share of all questions offered whose answers must be in time.
    pub least_in_time_share: f64,
    /// The search ends when it knows the capacity to this part of it.
    pub resolution: f64,
}

impl Default for CapacitySearch {
    fn default() -> CapacitySearch {
        let step = Duration::from_secs(10);
        CapacitySearch { start_rate: 50.0, step, least_in_time_share: 0.99, resolution: 0.02 }
    }
}

/// What is watched of a search.
#[derive(Debug)]
pub enum Watched<'a> {
    /// The rate that is being tried, and how far that has come.
    Trying(f64, &'a Progress),
    /// A step that is over.
    Tried(&'a Step),
}

/// Searches. The plan's own offer is not used, all else of it is; every step goes on in the mix where the last one ended. The report is
/// that of the best step (of the last one where none held), with `capacity` set.
pub fn find_capacity(
    plan: &LoadPlan,
    options: &CapacitySearch,
    stop: &Stop,
    watch: &mut dyn FnMut(Watched<'_>),
) -> Result<Report> {
    let CapacitySearch { start_rate, step, least_in_time_share, resolution } = *options;
    ensure!(
        (0.01..=1.0).contains(&least_in_time_share),
        "a share in time of {least_in_time_share}: 0.01 to 1 is allowed"
    );
    let mut search = Search::new(start_rate, MAX_RATE, resolution);
    let mut plan = plan.clone();
    let mut steps: Vec<Step> = Vec::new();
    let mut voids = 0;
    let (mut best, mut last): (Option<Report>, Option<Report>) = (None, None);
    while let Some(rate) = search.next() {
        plan.offer = Offer::Curve(Profile::constant(rate, step)?, Arrivals::Poisson);
        plan.seed = plan.seed.wrapping_add(1);
        let report = run(&plan, stop, &mut |progress| watch(Watched::Trying(rate, progress)))?;
        // Warm-up included; twice, as arrivals are random.
        plan.first_question += (2.0 * rate * (step + plan.warm_up).as_secs_f64()).ceil() as u64;
        if report.interrupted {
            last = last.or(Some(report));
            break;
        }
        let held = report.totals.in_time_share >= least_in_time_share;
        let tried = judge(held, &report.generator);
        steps.push(Step { rate, held, void: tried == Tried::Void, totals: report.totals.clone() });
        voids = if tried == Tried::Void { voids + 1 } else { 0 };
        if voids == 0 || voids == MOST_VOIDS {
            search.tried(rate, tried);
            voids = 0;
        }
        steps.last().into_iter().for_each(|step| watch(Watched::Tried(step)));
        if tried == Tried::Held {
            best = Some(report);
        } else {
            last = Some(report);
        }
    }
    let capacity = Capacity {
        qps: search.capacity().unwrap_or_default(),
        least_in_time_share,
        limited_by_generator: search.is_limited(),
        steps,
    };
    let report = best.or(last).unwrap_or_default();
    Ok(Report { capacity: Some(capacity), interrupted: stop.is_asked(), ..report })
}

/// What a step says of the node. One that held although it was sent late has held: lateness brings questions in bunches, and counts
/// against the deadline.
fn judge(held: bool, generator: &Generator) -> Tried {
    match held {
        true if generator.overworked() => Tried::Void,
        true => Tried::Held,
        false if generator.starved() => Tried::Void,
        false => Tried::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::Latency;

    #[test]
    fn a_generator_that_is_late_cannot_fail_a_node_and_one_without_cpu_says_nothing() {
        let late = Some(Latency { mean: 9.0, p50: 9.0, p90: 9.0, p99: 90.0, p999: 90.0, max: 90.0 });
        for (held, cpu_share, lag_ms, tried) in [
            (true, 0.3, None, Tried::Held),
            (false, 0.3, None, Tried::Missed),
            (true, 0.9, None, Tried::Void),
            (false, 0.9, None, Tried::Void),
            (true, 0.3, late, Tried::Held),
            (false, 0.3, late, Tried::Void),
        ] {
            assert_eq!(
                judge(held, &Generator { cpu_share, lag_ms, ..Generator::default() }),
                tried,
                "{held} {cpu_share}"
            );
        }
    }
}
