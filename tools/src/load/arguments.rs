//! What `larder load` is told, and how that becomes a plan.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args};
use rand::RngExt;

use super::capacity::CapacitySearch;
use super::load_plan::{LoadPlan, MAX_IN_FLIGHT};
use super::mix::{Ingredients, Mix};
use super::profile::Profile;
use super::questions;
use super::scenario::Scenario;
use super::schedule::{Arrivals, Offer};
use super::shares::Shares;
use super::trace::Trace;
use super::units::{duration, ramp, rate};
use super::users::Users;
use crate::node_address::NodeAddress;

const DEFAULT_DURATION: Duration = Duration::from_secs(30);
const DEFAULT_SOAK: Duration = Duration::from_secs(3_600);
const DEFAULT_WARM_UP: Duration = Duration::from_secs(2);
/// Questions in flight for each connection, unless --max-in-flight says otherwise: what a node takes on one by default.
const IN_FLIGHT_PER_CONNECTION: usize = 1_000;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("shape").required(true).args(["rate", "ramp", "steps", "trace", "scenario", "find_capacity"]),
    after_help = "Questions are sent when they are due, whatever the replies do, and latency counts from then. A run whose generator took more than
80 % of a core is void, and the report says so.

Examples:
  larder load --tenant demo --user-count 1000 --rate 200 --duration 30s
  larder load --tenant demo --questions shop/questions.jsonl --find-capacity
  larder load --tenant demo --questions shop/questions.jsonl --scenario 618 --capacity 600 --time-scale 10 --report sale.html
  larder load --tenant demo --tenant other=0.2 --class vip=0.1,normal=0.8,bulk=0.1 --ramp 100..2000 --duration 2m
  larder load --tenant demo --user-count 1000 --zipf 1 --unique --steps 100,200,400 --step-duration 10s --json
  larder load --shards 10.0.0.7:7700,10.0.0.8:7700 --tenant demo --user-count 1000 --rate 400"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeAddress,

    /// Questions a second, above 0, to 1,000,000
    #[arg(long, value_parser = rate, help_heading = "How much (one of)")]
    rate: Option<f64>,
    /// From one rate to another, linearly within --duration: 100..2000
    #[arg(long, value_parser = ramp, value_name = "FROM..TO", help_heading = "How much (one of)")]
    ramp: Option<(f64, f64)>,
    /// One rate after the other, each for --step-duration: 100,200,400; at most 64
    #[arg(long, value_parser = rate, value_delimiter = ',', value_name = "RATES", help_heading = "How much (one of)")]
    steps: Option<Vec<f64>>,
    /// As recorded: JSON lines with offset_ms and optionally class, tenant, user, text; at most 10,000,000
    #[arg(long, value_name = "FILE", help_heading = "How much (one of)")]
    trace: Option<PathBuf>,
    /// A load with a story, scaled to --capacity
    #[arg(long, value_enum, help_heading = "How much (one of)")]
    pub(crate) scenario: Option<Scenario>,
    /// Search for the highest Poisson rate with at least 99 % of the answers in time
    #[arg(long, help_heading = "How much (one of)")]
    pub(crate) find_capacity: bool,

    /// How long, to 24h [default: 30s; for the soak 1h]
    #[arg(long, value_parser = duration, conflicts_with_all = ["steps", "trace", "find_capacity"], help_heading = "How long")]
    duration: Option<Duration>,
    /// How long each of the --steps, and each step of a search, lasts
    #[arg(long, value_parser = duration, default_value = "10s", help_heading = "How long")]
    step_duration: Duration,
    /// Offered before the run counts; 0s = nothing [default: 2s; of a trace 0s, and then it is the trace's own first part]
    #[arg(long, value_parser = duration, help_heading = "How long")]
    warm_up: Option<Duration>,
    /// The node's capacity in questions a second, for scenarios [default: searched for first]
    #[arg(long, value_parser = rate, help_heading = "How long")]
    pub(crate) capacity: Option<f64>,
    /// Scenarios run so many times as fast, 1 to 60 [default: 1]
    #[arg(long, help_heading = "How long")]
    time_scale: Option<f64>,
    /// The first rate that a search tries
    #[arg(long, value_parser = rate, default_value = "50", help_heading = "How long")]
    start_rate: f64,
    /// How questions are spread over a second; a search is always Poisson
    #[arg(long, value_enum, default_value = "poisson", help_heading = "How long")]
    arrivals: Arrivals,

    /// Classes and their shares: vip=0.1,normal=0.8,bulk=0.1 [default: all normal]
    #[arg(long = "class", value_name = "SHARES", help_heading = "Who asks what")]
    classes: Vec<String>,
    /// Tenants and their shares: demo=0.9,other=0.1, or one; at most 256 [default: each question's own, or the node's default]
    #[arg(long = "tenant", value_name = "SHARES", help_heading = "Who asks what")]
    tenants: Vec<String>,
    /// Users, one per line; at most 10,000,000 [default: each question's own, or nobody, and then answers are made without features]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user_count"], help_heading = "Who asks what")]
    users: Option<PathBuf>,
    /// So many users, named as the sample shop names its own: u0000001 and so on; at most 10,000,000
    #[arg(long, value_name = "N", help_heading = "Who asks what")]
    user_count: Option<usize>,
    /// What the names of --user-count begin with
    #[arg(long, default_value = "u", requires = "user_count", help_heading = "Who asks what")]
    user_prefix: String,
    /// Users ask by Zipf's law with this exponent, 0 to 4: at 1 the second asks half as often as the first [default: all alike]
    #[arg(long, value_name = "S", help_heading = "Who asks what")]
    zipf: Option<f64>,
    /// Texts: plain lines, or JSON lines with text and optionally intent, user, tenant, as `larder sample` writes; with an intent, right
    /// answers are counted; at most 1,000,000 [default: 16 of any shop]
    #[arg(long, value_name = "FILE", help_heading = "Who asks what")]
    questions: Option<PathBuf>,
    /// Make every text unique, by an opener and a closer, so that caches of texts cannot help
    #[arg(long, help_heading = "Who asks what")]
    unique: bool,
    /// Of arrivals and all draws [default: another one each time; the report names it]
    #[arg(long, help_heading = "Who asks what")]
    seed: Option<u64>,

    /// HTTP/2 connections to each node, which take turns, 1 to 1,000 in all
    #[arg(long, default_value_t = 8, help_heading = "How it is sent")]
    connections: usize,
    /// Threads that send, each with connections of its own, 1 to 64
    #[arg(long, default_value_t = 1, help_heading = "How it is sent")]
    threads: usize,
    /// Questions in flight beyond which none is sent, and counted as not sent; to 1,000,000 [default: 1,000 for each connection]
    #[arg(long, value_name = "N", help_heading = "How it is sent")]
    max_in_flight: Option<usize>,
    /// Sent with every question; an answer is in time within it, counted from when the question was due; 1 to 90,000
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=90_000), help_heading = "How it is sent")]
    deadline_ms: u64,

    /// Print the report as JSON
    #[arg(long, help_heading = "What comes out")]
    pub(crate) json: bool,
    /// Also write it as a page of its own, with curves
    #[arg(long, value_name = "FILE", help_heading = "What comes out")]
    pub(crate) report: Option<PathBuf>,
}

impl Arguments {
    /// The plan. Where a capacity is searched for, it offers the rate that the search tries first.
    pub(crate) fn plan(&self, command: String) -> Result<LoadPlan> {
        // clap drops `requires` where what is required excludes something that is there.
        if self.scenario.is_none() && (self.capacity.is_some() || self.time_scale.is_some()) {
            bail!("--capacity and --time-scale scale a --scenario; name one, or leave them out");
        }
        let nodes = self.node.nodes()?;
        let trace = self.trace.as_deref().map(Trace::read).transpose()?.map(Arc::new);
        let seed = self.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
        let offer = self.offer(trace.clone())?;
        let mix = Mix::new(self.ingredients()?, trace.as_deref(), seed)?;
        let in_flight =
            IN_FLIGHT_PER_CONNECTION.saturating_mul(self.connections).saturating_mul(nodes.addresses().len());
        let usual_warm_up = if trace.is_some() { Duration::ZERO } else { DEFAULT_WARM_UP };
        let plan = LoadPlan {
            nodes,
            connections: self.connections,
            threads: self.threads,
            max_in_flight: self.max_in_flight.unwrap_or(in_flight.min(MAX_IN_FLIGHT)),
            deadline: Duration::from_millis(self.deadline_ms),
            warm_up: self.warm_up.unwrap_or(usual_warm_up),
            offer,
            mix: Arc::new(mix),
            seed,
            first_question: 0,
            command,
        };
        plan.check()?;
        Ok(plan)
    }

    /// The curve of the scenario on a node of that capacity.
    pub(crate) fn scenario_offer(&self, scenario: Scenario, capacity: f64) -> Result<Offer> {
        let profile =
            scenario.profile(capacity, self.time_scale.unwrap_or(1.0), self.duration.unwrap_or(DEFAULT_SOAK))?;
        Ok(Offer::Curve(profile, self.arrivals))
    }

    /// How a capacity is searched for.
    pub(crate) fn search(&self) -> CapacitySearch {
        CapacitySearch { start_rate: self.start_rate, step: self.step_duration, ..CapacitySearch::default() }
    }

    fn offer(&self, trace: Option<Arc<Trace>>) -> Result<Offer> {
        if let Some(trace) = trace {
            return Ok(Offer::Trace(trace));
        }
        if let Some(scenario) = self.scenario {
            return self.scenario_offer(scenario, self.capacity.unwrap_or(self.start_rate));
        }
        let duration = self.duration.unwrap_or(DEFAULT_DURATION);
        let profile = match (self.rate, self.ramp, &self.steps) {
            (Some(rate), ..) => Profile::constant(rate, duration)?,
            (_, Some((from, to)), _) => Profile::ramp(from, to, duration)?,
            (.., Some(rates)) => Profile::steps(rates, self.step_duration)?,
            _ => Profile::constant(self.start_rate, self.step_duration)?,
        };
        Ok(Offer::Curve(profile, self.arrivals))
    }

    fn ingredients(&self) -> Result<Ingredients> {
        let shares = |texts: &[String], option: &str| -> Result<Option<Shares>> {
            if texts.is_empty() {
                Ok(None)
            } else {
                Shares::parse(texts).map(Some).with_context(|| format!("{option} is wrong"))
            }
        };
        let mut users = match (&self.users, self.user_count) {
            (Some(file), _) => Some(Users::read(file)?),
            (None, Some(count)) => Some(Users::numbered(&self.user_prefix, count)?),
            (None, None) => None,
        };
        if let Some(exponent) = self.zipf {
            ensure!(users.is_some(), "--zipf says how often each user asks; name them with --users or --user-count");
            users = users.map(|users| users.zipf(exponent)).transpose()?;
        }
        Ok(Ingredients {
            questions: self.questions.as_deref().map(questions::read).transpose()?.unwrap_or_default(),
            classes: shares(&self.classes, "--class")?,
            tenants: shares(&self.tenants, "--tenant")?,
            users,
            unique: self.unique,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(line: &str) -> Result<LoadPlan> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Line::try_parse_from(words)?.arguments.plan(line.to_owned())
    }

    #[test]
    fn one_line_is_one_plan() {
        let found =
            plan("--tenant demo --user-count 10 --rate 500 --duration 2s --deadline-ms 250 --connections 3 --seed 9")
                .unwrap();
        assert_eq!((found.connections, found.max_in_flight, found.seed), (3, 3_000, 9));
        assert_eq!((found.deadline, found.warm_up), (Duration::from_millis(250), Duration::from_secs(2)));
        let Offer::Curve(profile, Arrivals::Poisson) = found.offer else { panic!("{:?}", found.offer) };
        assert_eq!(profile.offered(), 1_000.0);
        let sharded = plan("--shards a:1,b:1,c:1 --rate 5 --connections 2").unwrap();
        assert_eq!(
            (sharded.nodes.addresses(), sharded.max_in_flight),
            (&["a:1", "b:1", "c:1"].map(str::to_owned)[..], 6_000)
        );
        let Offer::Curve(profile, _) = plan("--steps 100,200 --step-duration 5s").unwrap().offer else { panic!() };
        assert_eq!((profile.offered(), profile.phases().len()), (1_500.0, 2));
    }

    #[test]
    fn wrong_lines_say_what_is_allowed() {
        for (line, says) in [
            ("", "--rate"),
            ("--rate 5 --ramp 1..2", "cannot be used with"),
            ("--rate 0", "above 0, to 1000000"),
            ("--rate 2000000", "1000000"),
            ("--ramp 5", "100..2000"),
            ("--rate 5 --duration soon", "30s"),
            ("--rate 5 --class vip=0,normal=0", "add up to nothing"),
            ("--rate 5 --class gold", "vip, normal and bulk"),
            ("--rate 5 --tenant =3", "names nobody"),
            ("--rate 5 --zipf 1", "--user-count"),
            ("--rate 5 --user-count 0", "1 to 10000000"),
            ("--rate 5 --connections 0", "1 to 1000"),
            ("--rate 5 --shards a:1,b:1 --addr c:1", "cannot be used with"),
            ("--rate 5 --shards a:1,b:1 --connections 501", "to each of 2 nodes = 501: 1 to 500"),
            ("--rate 5 --connections 2 --threads 3", "one of its own"),
            ("--rate 5 --deadline-ms 0", "1..=90000"),
            ("--scenario carnival", "618, midnight, soak"),
            ("--scenario 618 --capacity 100 --time-scale 99", "1 to 60"),
            ("--rate 5 --capacity 100", "--scenario"),
            ("--trace /nowhere/trace.jsonl", "/nowhere/trace.jsonl"),
            ("--rate 5 --questions /nowhere/q.jsonl", "/nowhere/q.jsonl"),
        ] {
            let error = format!("{:#}", plan(line).unwrap_err());
            assert!(error.contains(says), "{line:?} does not say {says:?}: {error}");
        }
    }
}
