//! The command itself: makes the plan, shows how the run comes along, and brings out the report.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget};

use super::arguments::Arguments;
use super::capacity::{Watched, find_capacity};
use super::load_plan::{LoadPlan, Stop};
use super::report::{Report, Step};
use super::report_html::html;
use super::report_text::{ms, percent, text};
use super::run::{Progress, run as run_plan};
use super::scenario::Scenario;
use crate::client::block_on;
use crate::files::write_whole;
use crate::output::{print_json, say};
use crate::progress::style;

/// Runs `larder load`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let plan = arguments.plan(command_line())?;
    let stop = stop_on_interrupt()?;
    let line = Line::new();
    let report = match arguments.scenario {
        Some(scenario) => play(arguments, plan, scenario, &stop, &line)?,
        None if arguments.find_capacity => search(arguments, &plan, &stop, &line)?,
        None => run_plan(&plan, &stop, &mut |progress| line.show("", progress))?,
    };
    line.clear();
    if let Some(file) = &arguments.report {
        write_whole(file, html(&report).as_bytes())?;
    }
    if arguments.json {
        return print_json(&report);
    }
    say!("{}", text(&report));
    Ok(())
}

/// Plays a scenario, after a search for the capacity where that is not known.
fn play(arguments: &Arguments, mut plan: LoadPlan, scenario: Scenario, stop: &Stop, line: &Line) -> Result<Report> {
    let mut searched = None;
    let capacity = match arguments.capacity {
        Some(capacity) => capacity,
        None => {
            let report = search(arguments, &plan, stop, line)?;
            let found = report.capacity.clone().unwrap_or_default();
            if stop.is_asked() {
                return Ok(report);
            }
            if found.qps == 0.0 {
                bail!(
                    "the node answers less than one question a second in time, so there is nothing to scale the scenario to; look at `larder load --find-capacity`"
                );
            }
            plan.first_question = u64::from(u32::MAX);
            searched.insert(found).qps
        }
    };
    plan.offer = arguments.scenario_offer(scenario, capacity)?;
    let mut report = run_plan(&plan, stop, &mut |progress| line.show(scenario.name(), progress))?;
    report.scenario = Some(scenario.name().to_owned());
    report.capacity = searched;
    report.drift = Report::drift(&report.series).filter(|_| scenario == Scenario::Soak);
    Ok(report)
}

fn search(arguments: &Arguments, plan: &LoadPlan, stop: &Stop, line: &Line) -> Result<Report> {
    find_capacity(plan, &arguments.search(), stop, &mut |watched| match watched {
        Watched::Trying(rate, progress) => line.show(&format!("{rate}/s"), progress),
        Watched::Tried(step) => line.keep(&told(step)),
    })
}

fn told(step: &Step) -> String {
    let verdict = if step.void { "void: the generator was the limit" } else { step.verdict() };
    let p99 = step.totals.latency_ms.map_or(String::new(), |latency| format!(", p99 {} ms", ms(latency.p99)));
    format!("{}/s: {verdict}, {} in time{p99}", step.rate, percent(step.totals.in_time_share))
}

/// The line that shows how a run comes along, where a person watches.
struct Line(ProgressBar);

impl Line {
    fn new() -> Line {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {wide_msg}"));
        Line(bar)
    }

    fn show(&self, name: &str, progress: &Progress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let seconds = |duration: Duration| duration.as_secs();
        let name = if name.is_empty() { String::new() } else { format!("{name}  ") };
        let when = format!("{}/{} s", seconds(progress.elapsed).min(seconds(progress.whole)), seconds(progress.whole));
        let what = match (&progress.recent, progress.warming_up) {
            (_, true) => "warming up".to_owned(),
            (None, false) => String::new(),
            (Some(second), false) => format!(
                "offered {}/s  goodput {}/s  refused {}/s  p99 {} ms  full {}",
                second.offered,
                second.goodput,
                second.refused,
                second.p99_ms.map_or("-".to_owned(), ms),
                second.full_share().map_or("-".to_owned(), percent),
            ),
        };
        self.0.set_message(format!("{name}{when}  {what}  in flight {}", progress.in_flight));
        self.0.tick();
    }

    /// Says something that stays.
    fn keep(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// The first Ctrl-C ends the sending and the report is made of what was sent; the second no longer waits for replies; the third ends
/// the process.
fn stop_on_interrupt() -> Result<Stop> {
    let stop = Stop::default();
    let asked = stop.clone();
    let listen = move || {
        block_on(async {
            for _ in 0..2 {
                if tokio::signal::ctrl_c().await.is_err() {
                    return;
                }
                asked.ask();
            }
            // Once listened to, the signal no longer ends the process by itself.
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        })
    };
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(listen).context("cannot start a thread")?;
    Ok(stop)
}

/// What was typed, for the report.
fn command_line() -> String {
    let quoted = |word: String| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=.,:/+%".contains(c));
        if plain && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    format!("larder {}", words.join(" "))
}
