//! What a request costs the node besides the forward, beside a server that does nothing but gRPC; and what batching saves. The server runs on
//! one core and the generator on the other, at one open-loop rate.
//!
//! The rate is about what a node answers on one core at its peak, below the full rung: then processor time counts. At lower rates waking idle
//! threads is most of what either server costs.
//!
//! LARDER_BENCH_SECONDS=1 shortens every run, LARDER_BENCH_RATE=500 changes the rate.

mod echo;

use std::time::Duration;

use larder::load::{
    Arrivals, Ingredients, LoadPlan, Mix, Nodes, Offer, Profile, Question, Report, Shares, Stop, Totals, Users, run,
};
use larder_benches::{Bank, CpuTimes, Figures, LOAD_CORE, Outcome, ServedNode, median, only_core, setting};

use crate::echo::Echo;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs of each side, in turns: many short ones, because a machine's speed changes between them.
const TURNS: usize = 13;
/// Users of a run: all of them hot after the first.
const USERS: usize = 2_000;
/// More than a node can answer from the full rung on one core.
const BATCHED_RATE: f64 = 1_000.0;
/// Threads that fetch and score, by the beginning of their names.
const FETCH_AND_SCORE: [&str; 3] = ["larder-fetch", "larder-score", "model-"];

fn main() -> Outcome<()> {
    if let Some(outcome) = echo::as_child() {
        return outcome;
    }
    let Some(bank) = Bank::prepare()? else {
        println!("bench serve: banking77 is not under LARDER_SHARED; nothing is written");
        return Ok(());
    };
    only_core(LOAD_CORE)?;
    let bench = Bench {
        mix: mix(&bank)?,
        rate: setting("LARDER_BENCH_RATE", 2000)? as f64,
        duration: Duration::from_secs(setting("LARDER_BENCH_SECONDS", 3)? as u64),
        bank,
    };
    let mut figures = Figures::new("serve");
    bench.answer_beside_echo(&mut figures)?;
    bench.batching(&mut figures)?;
    figures.write()
}

struct Bench {
    bank: Bank,
    mix: std::sync::Arc<Mix>,
    rate: f64,
    duration: Duration,
}

impl Bench {
    /// The node with an encoder that is a look-up, and the bare server, in turns; and the node when it refuses everything.
    fn answer_beside_echo(&self, figures: &mut Figures) -> Outcome<()> {
        let settings = self.bank.settings_without_forward("[rungs]\ncached = false\n");
        let node = ServedNode::start(self.bank.folder(), "without-forward", &settings, &[])?;
        let strict =
            self.bank.settings_with_limit("[store]\npath = \"data/refusing\"\ncold_path = \"data/refusing-cold\"\n");
        let strict = ServedNode::start(self.bank.folder(), "refusing", &strict, &[])?;
        let echo = Echo::start(&node)?;
        // The first ones warm all of them up: what is hot stays hot.
        for address in [node.address(), strict.address(), echo.address()] {
            self.run(address, self.rate)?;
        }
        let (mut ours, mut refusing, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            ours.push(self.cost(node.address(), &|| node.cpu(), |totals| totals.answered)?);
            bare.push(self.cost(echo.address(), &|| echo.cpu(), |totals| totals.answered)?);
            refusing.push(self.cost(strict.address(), &|| strict.cpu(), |totals| totals.refused)?);
        }
        let mut ratios: Vec<_> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
        let mut beyond: Vec<_> = refusing.iter().zip(&bare).map(|(refusing, bare)| refusing - bare).collect();
        figures.set("answer_cpu_us", median(&mut ours));
        figures.set("echo_cpu_us", median(&mut bare));
        figures.set("answer_cpu_vs_echo", median(&mut ratios));
        figures.set("refusal_cpu_us", median(&mut refusing));
        figures.set("refusal_beyond_echo_us", median(&mut beyond));
        Ok(())
    }

    /// Processor time of a server for each question of a run, nearly all of which must end as they should.
    fn cost(
        &self,
        address: &str,
        cpu: &dyn Fn() -> Outcome<CpuTimes>,
        as_they_should: fn(&Totals) -> u64,
    ) -> Outcome<f64> {
        let before = cpu()?;
        let report = self.run(address, self.rate)?;
        let after = cpu()?;
        let by_name: Vec<_> = after.by_name(&before).into_iter().filter(|(_, used)| !used.is_zero()).collect();
        let (offered, ended) = (report.totals.offered, as_they_should(&report.totals));
        eprintln!("  {ended} of {offered}, {by_name:?}");
        if (ended as f64) < 0.99 * offered as f64 {
            return Err(format!("only {ended} of {offered} ended as they should: {:?}", report.totals).into());
        }
        Ok(after.since(&before, &[""]).as_secs_f64() * 1e6 / offered as f64)
    }

    /// Both at more than they can do, so that batches are as large as they may be.
    fn batching(&self, figures: &mut Figures) -> Outcome<()> {
        let common = "[store]\nhot_capacity_mib = 0\n[rungs]\nlight = false\ncached = false\nfallback = false\n";
        let mut ratios = Vec::new();
        for _ in 0..3 {
            let cost = |name: &str, batcher: &str| -> Outcome<f64> {
                let settings = self.bank.settings(&format!("{batcher}{common}"));
                let node = ServedNode::start(self.bank.folder(), name, &settings, &[])?;
                self.run(node.address(), BATCHED_RATE)?;
                let before = node.cpu()?;
                let report = self.run(node.address(), BATCHED_RATE)?;
                let spent = node.cpu()?.since(&before, &FETCH_AND_SCORE).as_secs_f64() * 1e6;
                Ok(spent / report.totals.answered as f64)
            };
            let single = cost("one-by-one", "[batcher]\nmax_questions = 1\n")?;
            let batched = cost("batched", "")?;
            figures.set("fetch_and_score_us_single", single);
            figures.set("fetch_and_score_us_batched", batched);
            ratios.push(single / batched);
        }
        figures.set("batching_gain_warm", median(&mut ratios));
        Ok(())
    }

    fn run(&self, address: &str, rate: f64) -> Outcome<Report> {
        let plan = LoadPlan {
            nodes: Nodes::one(address),
            connections: 8,
            threads: 1,
            max_in_flight: 20_000,
            deadline: Duration::from_millis(300),
            warm_up: Duration::ZERO,
            offer: Offer::Curve(Profile::constant(rate, self.duration)?, Arrivals::Poisson),
            mix: self.mix.clone(),
            seed: 1,
            first_question: 0,
            command: "bench serve".to_owned(),
        };
        let report = run(&plan, &Stop::default(), &mut |_| {})?;
        if report.void {
            eprintln!("  the generator was the limit: {:?}", report.generator);
        }
        Ok(report)
    }
}

fn mix(bank: &Bank) -> Outcome<std::sync::Arc<Mix>> {
    let mut questions = Vec::new();
    for line in std::fs::read_to_string(bank.questions())?.lines() {
        let question: Question = serde_json::from_str(line)?;
        questions.push(Question::plain(&question.text));
    }
    let (mut users, _) = bank.users();
    users.truncate(USERS);
    let ingredients = Ingredients {
        questions,
        tenants: Some(Shares::one("bank")),
        users: Some(Users::listed(users)?),
        ..Ingredients::default()
    };
    Ok(std::sync::Arc::new(Mix::new(ingredients, None, 1)?))
}
