//! What a node does when more is asked than it can answer: goodput, correct answers, VIPs, fairness, recovery, faults. The node runs on one
//! core and the generator on the other, open-loop, in time counted from when each question was due. See docs/overload.md.
//!
//! LARDER_BENCH_SECONDS=2 shortens every step, LARDER_BENCH_CAPACITY=600 leaves the search for the capacity out, and
//! LARDER_BENCH_MECHANISMS=1 adds a run with each mechanism switched off.

mod load;
mod mechanisms;

use std::thread;
use std::time::Duration;

use larder::load::{Report, Shares};
use larder_benches::{Bank, Figures, LOAD_CORE, Outcome, ServedNode, median, only_core, run_larder, setting};

use crate::load::{Burst, Generator, Load};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Nothing below the full rung, and nothing remembered.
const FULL_ONLY: &str = "[rungs]\nlight = false\ncached = false\nfallback = false\n";
/// All rungs, and nothing remembered.
const LADDER: &str = "[rungs]\ncached = false\n";
/// Where the goodput is looked at, in capacities.
const CURVE: [f64; 6] = [0.8, 1.0, 1.2, 1.5, 2.0, 4.0];
/// Tenants of the fairness run: one floods, the others ask a little more than their fair share.
const FLOOD: f64 = 3.0;
const MODEST: f64 = 0.3;
/// Runs of what is compared with another run.
const ROUNDS: usize = 3;

fn main() -> Outcome<()> {
    let Some(bank) = Bank::prepare()? else {
        println!("bench overload: banking77 is not under LARDER_SHARED; nothing is written");
        return Ok(());
    };
    only_core(LOAD_CORE)?;
    let step = Duration::from_secs(setting("LARDER_BENCH_SECONDS", 10)? as u64);
    let mut bench = Bench { generator: Generator::new(&bank, step)?, bank, step, figures: Figures::new("overload") };
    let capacity = bench.capacity()?;
    bench.figures.set("capacity_qps", capacity);
    let off = bench.goodput(capacity)?;
    bench.ladder(capacity, &off)?;
    bench.vips(capacity)?;
    bench.fairness(capacity, &off)?;
    bench.recovery(capacity)?;
    bench.chaos(capacity)?;
    bench.ingest(capacity)?;
    if setting("LARDER_BENCH_MECHANISMS", 0)? > 0 {
        mechanisms::measure(&mut bench, capacity)?;
    }
    bench.figures.set("void_runs", bench.generator.void_runs as f64);
    bench.figures.write()
}

struct Bench {
    bank: Bank,
    generator: Generator,
    step: Duration,
    figures: Figures,
}

/// What the full rung alone did.
struct FullOnly {
    best_goodput: f64,
    correct_at_4x: f64,
}

impl Bench {
    fn node(&self, name: &str, sections: &str) -> Outcome<ServedNode> {
        ServedNode::start(self.bank.folder(), name, &self.bank.settings(sections), &[])
    }

    fn capacity(&mut self) -> Outcome<f64> {
        let given = setting("LARDER_BENCH_CAPACITY", 0)?;
        if given > 0 {
            return Ok(given as f64);
        }
        let node = self.node("capacity", FULL_ONLY)?;
        self.generator.capacity(&node)
    }

    /// Every load several times in turns, because the machine is not the same all the time.
    fn goodput(&mut self, capacity: f64) -> Outcome<FullOnly> {
        let node = self.node("full-only", FULL_ONLY)?;
        let mut runs: Vec<Vec<Report>> = vec![Vec::new(); CURVE.len()];
        for _ in 0..ROUNDS {
            for (at, factor) in CURVE.iter().enumerate() {
                runs[at].push(self.generator.run(&node, &Load::steady(factor * capacity, self.step))?);
            }
        }
        let middle =
            |runs: &[Report], of: &dyn Fn(&Report) -> f64| median(&mut runs.iter().map(of).collect::<Vec<_>>());
        let mut goodput = Vec::new();
        for (factor, runs) in CURVE.iter().zip(&runs) {
            goodput.push(middle(runs, &|run| run.totals.goodput_per_s));
            self.figures.set(format!("goodput_qps_{factor}x"), middle(runs, &|run| run.totals.goodput_per_s));
            let p99 = |run: &Report| run.totals.latency_ms.map_or(0.0, |latency| latency.p99);
            self.figures.set(format!("p99_ms_{factor}x"), middle(runs, &p99));
        }
        let best_goodput = goodput.iter().copied().fold(0.0, f64::max);
        for (factor, goodput) in CURVE.iter().zip(goodput).filter(|(factor, _)| **factor >= 2.0) {
            self.figures.set(format!("goodput_{factor}x"), goodput / best_goodput);
        }
        self.figures.set("goodput_best_qps", best_goodput);
        let correct_at_4x = middle(&runs[CURVE.len() - 1], &|run| run.totals.correct_per_s);
        Ok(FullOnly { best_goodput, correct_at_4x })
    }

    fn ladder(&mut self, capacity: f64, off: &FullOnly) -> Outcome<()> {
        let node = self.node("ladder", LADDER)?;
        let steady = self.generator.run(&node, &Load::steady(1.2 * capacity, 2 * self.step))?;
        self.figures.set("full_share_1_2x", steady.totals.full_share);
        self.figures.set("in_time_1_2x", steady.totals.in_time_share);
        let on = self.generator.run(&node, &Load::steady(4.0 * capacity, self.step))?.totals;
        self.figures.set("correct_4x_ladder", on.correct_per_s / off.correct_at_4x);
        self.figures.set("correct_qps_4x_ladder", on.correct_per_s);
        self.figures.set("in_time_4x_ladder", on.in_time_share);
        let fallback = on.rungs.get("fallback").map_or(0, |rung| rung.in_time);
        self.figures.set("fallback_share_4x", fallback as f64 / on.in_time as f64);
        self.figures.set("full_share_4x", on.full_share);
        Ok(())
    }

    fn vips(&mut self, capacity: f64) -> Outcome<()> {
        let node = self.node("vips", LADDER)?;
        let classes = Shares::parse(&["vip=0.1,normal=0.8,bulk=0.1".to_owned()])?;
        let load = Load { classes: Some(classes), ..Load::steady(4.0 * capacity, 2 * self.step) };
        let report = self.generator.run(&node, &load)?;
        let vip = report.classes.get("vip").ok_or("no VIP asked")?;
        self.figures.set("vip_in_time", vip.in_time_share);
        self.figures.set("vip_refused", vip.refused as f64 / vip.offered as f64);
        self.figures.set("vip_full_share", vip.full_share);
        self.figures.set("vip_p99_ms", vip.latency_ms.map_or(0.0, |latency| latency.p99));
        let bulk = report.classes.get("bulk").ok_or("no bulk asked")?;
        self.figures.set("bulk_in_time", bulk.in_time_share);
        Ok(())
    }

    /// Without the lower rungs, which would give everybody enough.
    fn fairness(&mut self, capacity: f64, off: &FullOnly) -> Outcome<()> {
        let node = self.node("fairness", FULL_ONLY)?;
        let tenants = Shares::parse(&[format!("bank={FLOOD},second={MODEST},third={MODEST},fourth={MODEST}")])?;
        let load = Load { tenants: Some(tenants), ..Load::steady((FLOOD + 3.0 * MODEST) * capacity, 2 * self.step) };
        let report = self.generator.run(&node, &load)?;
        let goodput = |tenant: &str| report.tenants.get(tenant).map_or(0.0, |totals| totals.goodput_per_s);
        let smallest = ["second", "third", "fourth"].map(goodput).into_iter().fold(f64::MAX, f64::min);
        self.figures.set("fairness", smallest / (report.totals.goodput_per_s / 4.0));
        self.figures.set("fairness_goodput", report.totals.goodput_per_s / off.best_goodput);
        Ok(())
    }

    fn recovery(&mut self, capacity: f64) -> Outcome<()> {
        let node = self.node("recovery", LADDER)?;
        let burst = Burst {
            base: 0.5 * capacity,
            peak: 4.0 * capacity,
            before: 2 * self.step,
            peak_for: 6 * self.step,
            after: 2 * self.step,
        };
        let report = self.generator.run(&node, &Load::burst(burst)?)?;
        let (began, ended) = (burst.before.as_secs(), (burst.before + burst.peak_for).as_secs());
        // The worst of the seconds before is normal.
        let before = report.series.iter().filter(|second| second.second < began).filter_map(|second| second.p99_ms);
        let normal = before.fold(0.0, f64::max);
        self.figures.set("p99_ms_before_burst", normal);
        let p99 = report.series.iter().filter(|second| (began..ended).contains(&second.second));
        self.figures.set("p99_ms_in_burst", median(&mut p99.filter_map(|second| second.p99_ms).collect::<Vec<_>>()));
        self.figures.set("in_time_in_burst", report.phases.get(1).map_or(0.0, |burst| burst.totals.in_time_share));
        // Until the first three seconds in a row that are good.
        let after: Vec<_> = report.series.iter().filter(|second| second.second >= ended).collect();
        let until = |good: &dyn Fn(&larder::load::Second) -> bool| {
            let first = after.windows(3).position(|seconds| seconds.iter().all(|second| good(second)));
            first.unwrap_or(after.len()) as f64
        };
        self.figures.set("recover_s", until(&|second| second.p99_ms.is_none_or(|p99| p99 <= normal)));
        self.figures.set("rung_return_s", until(&|second| second.full_share().is_none_or(|share| share >= 0.999)));
        Ok(())
    }

    /// Generations are made live while questions are answered.
    fn ingest(&mut self, capacity: f64) -> Outcome<()> {
        let node = self.node("ingest", LADDER)?;
        let config = self.bank.folder().join("ingest.toml").to_string_lossy().into_owned();
        let load = Load::steady(0.7 * capacity, self.step);
        let p99 = |report: Report| report.totals.latency_ms.map_or(0.0, |latency| latency.p99);
        let mut ratios = Vec::new();
        for turn in 0..ROUNDS {
            let built = self.bank.build_orders(&config, turn)?;
            let without = p99(self.generator.run(&node, &load)?);
            let publishing = thread::spawn({
                let (config, pause) = (config.clone(), self.step / 3);
                move || {
                    for generation in built {
                        thread::sleep(pause);
                        if let Err(error) = run_larder(&["ingest", "publish", "--config", &config, &generation]) {
                            eprintln!("  publishing failed: {error}");
                        }
                    }
                }
            });
            let with = p99(self.generator.run(&node, &load)?);
            publishing.join().map_err(|_| "the publishing thread panicked")?;
            ratios.push(with / without);
        }
        self.figures.set("ingest_p99_ratio", median(&mut ratios));
        Ok(())
    }

    /// The cold tier takes up to a second for each read, and a fifth of the users lie there.
    fn chaos(&mut self, capacity: f64) -> Outcome<()> {
        let settings = self.bank.settings(LADDER);
        let node = ServedNode::start(self.bank.folder(), "chaos", &settings, &["--allow-chaos"])?;
        let mut ratios = Vec::new();
        for turn in 0..ROUNDS {
            let load = Load { cold_share: 0.2, ..Load::steady(0.9 * capacity, self.step) };
            let without = self.generator.run(&node, &load)?.totals.goodput_per_s;
            self.set_cold_latency(1_000)?;
            let with = self.generator.run(&node, &load)?.totals;
            self.set_cold_latency(0)?;
            ratios.push(with.goodput_per_s / without);
            if turn == 0 {
                self.figures.set("chaos_in_time", with.in_time_share);
            }
        }
        self.figures.set("chaos_goodput", median(&mut ratios));
        Ok(())
    }

    fn set_cold_latency(&self, ms: u64) -> Outcome<()> {
        let (config, setting) = (self.bank.folder().join("chaos.toml"), format!("cold_latency_ms={ms}"));
        run_larder(&["chaos", "--config", &config.to_string_lossy(), "--set", &setting]).map(|_| ())
    }
}
