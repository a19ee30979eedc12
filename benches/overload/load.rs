//! Loads on a node: what is asked by whom, at which rate, and that a run whose generator was the limit is made again.

use std::sync::Arc;
use std::time::Duration;

use larder::load::{
    Arrivals, CapacitySearch, Ingredients, LoadPlan, Mix, Nodes, Offer, Profile, Question, Report, Shares, Stop, Users,
    Watched, find_capacity, run,
};
use larder_benches::{Bank, Outcome, ServedNode};

/// The deadline of every question.
const DEADLINE: Duration = Duration::from_millis(300);
/// More questions than any run asks in ten seconds.
const ENDINGS: [&str; 8] = ["", "?", ".", "!", " ?", "??", "...", " !"];
const WARM_UP: Duration = Duration::from_secs(2);
/// A run is made so often before it is taken as it is.
const ATTEMPTS: usize = 3;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) profile: Profile,
    pub(crate) classes: Option<Shares>,
    pub(crate) tenants: Option<Shares>,
    /// The part of the questions that users ask who lie cold.
    pub(crate) cold_share: f64,
}

/// A base load with a peak in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    pub(crate) base: f64,
    pub(crate) peak: f64,
    pub(crate) before: Duration,
    pub(crate) peak_for: Duration,
    pub(crate) after: Duration,
}

impl Load {
    /// The first tenant's users, one rate.
    pub(crate) fn steady(rate: f64, duration: Duration) -> Load {
        // A rate above 0 and a short time are always allowed.
        let profile = Profile::constant(rate, duration).unwrap_or_else(|error| unreachable!("{error}"));
        Load { profile, classes: None, tenants: None, cold_share: 0.0 }
    }

    pub(crate) fn burst(burst: Burst) -> Outcome<Load> {
        let Burst { base, peak, before, peak_for, after } = burst;
        let profile = Profile::start("before", base, base, before)?;
        let profile = profile.then("burst", peak, peak, peak_for)?.then("after", base, base, after)?;
        Ok(Load { profile, classes: None, tenants: None, cold_share: 0.0 })
    }
}

/// Puts loads on nodes.
pub(crate) struct Generator {
    questions: Vec<Question>,
    warm: Vec<String>,
    cold: Vec<String>,
    step: Duration,
    /// So that no run repeats the questions of another.
    asked: u64,
    pub(crate) void_runs: usize,
}

impl Generator {
    pub(crate) fn new(bank: &Bank, step: Duration) -> Outcome<Generator> {
        let lines = std::fs::read_to_string(bank.questions())?;
        let mut questions = Vec::new();
        for line in lines.lines() {
            let question: Question = serde_json::from_str(line)?;
            // Unique letter for letter, so that nothing that remembers texts could help, and the same words, so that they are as hard as they were.
            let plain = question.text.trim_end_matches(['?', '.', '!', ' ']).to_owned();
            for ending in ENDINGS {
                let text = format!("{plain}{ending}");
                questions.push(Question { text, intent: question.intent.clone(), user: None, tenant: None });
            }
        }
        let (warm, cold) = bank.users();
        Ok(Generator { questions, warm, cold, step, asked: 0, void_runs: 0 })
    }

    /// The highest rate at which 99 % are answered in time.
    pub(crate) fn capacity(&mut self, node: &ServedNode) -> Outcome<f64> {
        let plan = self.plan(node, &Load::steady(1.0, self.step))?;
        let options = CapacitySearch { start_rate: 200.0, step: self.step, ..CapacitySearch::default() };
        let mut watch = |watched: Watched<'_>| {
            if let Watched::Tried(step) = watched {
                let totals = &step.totals;
                eprintln!(
                    "  {:.0}/s: {:.2} % in time{}",
                    step.rate,
                    100.0 * totals.in_time_share,
                    if step.void { ", void" } else { "" }
                );
            }
        };
        let report = find_capacity(&plan, &options, &Stop::default(), &mut watch)?;
        self.asked += 10_000_000;
        Ok(report.capacity.ok_or("the search found nothing")?.qps)
    }

    pub(crate) fn run(&mut self, node: &ServedNode, load: &Load) -> Outcome<Report> {
        for attempt in 1.. {
            let plan = self.plan(node, load)?;
            let report = run(&plan, &Stop::default(), &mut |_| {})?;
            self.asked += 10_000_000;
            let totals = &report.totals;
            eprintln!(
                "  {}: {:.0}/s offered, {:.0}/s good, {:.2} % in time, {:.1} % full, p99 {:.0} ms, refused {:?}, expired {}, generator {:.0} %{}",
                load.name(),
                totals.offered_per_s,
                totals.goodput_per_s,
                100.0 * totals.in_time_share,
                100.0 * totals.full_share,
                totals.latency_ms.map_or(0.0, |latency| latency.p99),
                totals.refused_by,
                totals.expired,
                100.0 * report.generator.cpu_share,
                if report.void { ", void" } else { "" }
            );
            if !report.void {
                return Ok(report);
            }
            if attempt == ATTEMPTS {
                self.void_runs += 1;
                return Ok(report);
            }
        }
        Err("no run was made".into())
    }

    fn plan(&self, node: &ServedNode, load: &Load) -> Outcome<LoadPlan> {
        let ingredients = Ingredients {
            questions: self.questions.clone(),
            classes: load.classes.clone(),
            tenants: Some(load.tenants.clone().unwrap_or(Shares::one("bank"))),
            users: Some(Users::listed(self.users(load.cold_share))?),
            unique: false,
        };
        Ok(LoadPlan {
            nodes: Nodes::one(node.address()),
            connections: 8,
            threads: 1,
            max_in_flight: 20_000,
            deadline: DEADLINE,
            warm_up: WARM_UP,
            offer: Offer::Curve(load.profile.clone(), Arrivals::Poisson),
            mix: Arc::new(Mix::new(ingredients, None, 1)?),
            seed: 1,
            first_question: self.asked,
            command: "bench overload".to_owned(),
        })
    }

    /// Warm users, and as many cold ones as make up their share.
    fn users(&self, cold_share: f64) -> Vec<String> {
        let cold = (self.warm.len() as f64 * cold_share / (1.0 - cold_share)) as usize;
        self.warm.iter().chain(self.cold.iter().take(cold)).cloned().collect()
    }
}

impl Load {
    fn name(&self) -> String {
        match (&self.classes, &self.tenants) {
            (Some(_), _) => "classes".to_owned(),
            (_, Some(_)) => "tenants".to_owned(),
            _ if self.cold_share > 0.0 => format!("{:.0} % cold", 100.0 * self.cold_share),
            _ => "steady".to_owned(),
        }
    }
}
