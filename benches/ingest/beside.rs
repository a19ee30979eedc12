//! What answers feel of upserts: the 99th percentile of answers while the node takes upserts at half of what it can, by the one without. In turns,
//! with the same questions at the same open-loop rate, one unique text each. Turns in which the generator was the limit, or other programs had the cores, are
//! void: they are counted and no ratio is made of them.

use std::sync::Arc;
use std::time::Duration;

use larder::load::{Arrivals, Ingredients, LoadPlan, Mix, Nodes, Offer, Profile, Report, Shares, Stop, Users, run};
use larder_benches::{Figures, MAX_OTHERS_CORES, Outcome, median, others_cores};

use crate::desk::{Desk, TENANT_NAME, USERS};
use crate::durable::STREAMS;
use crate::writer::{Orders, Writer};

const DEADLINE: Duration = Duration::from_secs(5);
/// Before answers count, so that the writer is at its rate.
const WARM_UP: Duration = Duration::from_secs(1);

/// Sets `answer_p99_ratio` for so many upserts and so many questions a second.
pub(crate) fn measure(
    desk: &Desk,
    [upserts, questions]: [f64; 2],
    turns: usize,
    duration: Duration,
    figures: &mut Figures,
) -> Outcome<()> {
    let ingredients = Ingredients {
        tenants: Some(Shares::one(TENANT_NAME)),
        users: Some(Users::numbered("u", USERS)?),
        unique: true,
        ..Ingredients::default()
    };
    let mut plan = LoadPlan {
        nodes: Nodes::one(desk.address()),
        connections: 4,
        threads: 1,
        max_in_flight: 4_000,
        deadline: DEADLINE,
        warm_up: WARM_UP,
        offer: Offer::Curve(Profile::constant(questions, duration)?, Arrivals::Poisson),
        mix: Arc::new(Mix::new(ingredients, None, 1)?),
        seed: 1,
        first_question: 0,
        command: "bench ingest".to_owned(),
    };
    let orders = Orders { streams: STREAMS, rows_per_request: 1, rate: upserts, duration: duration + WARM_UP };
    let (mut without, mut with, mut ratios, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut void, mut others) = (0, 0.0_f64);
    // The first one is not counted: it makes hot who asks.
    answered(&mut plan)?;
    for _ in 0..turns {
        let before = others_cores()?;
        let alone = answered(&mut plan)?;
        let writer = Writer::start(desk.address(), &orders)?;
        let beside = answered(&mut plan)?;
        rates.push(writer.finish()?.rows_s);
        let here = before.max(others_cores()?);
        others = others.max(here);
        if alone.void || beside.void || here > MAX_OTHERS_CORES {
            void += 1;
        } else {
            ratios.push(beside.p99_ms / alone.p99_ms);
        }
        without.push(alone.p99_ms);
        with.push(beside.p99_ms);
    }
    figures.set("answers_s", questions);
    figures.set("answer_p99_upserts_s", median(&mut rates));
    figures.set("answer_p99_others_cores", others);
    figures.set("answer_p99_void_turns", f64::from(void));
    figures.set("answer_p99_ms", median(&mut without));
    figures.set("answer_p99_upserts_ms", median(&mut with));
    if ratios.is_empty() {
        eprintln!(
            "  void: no turn was on a quiet machine (others had {others:.1} cores); answer_p99_ratio is not written"
        );
    } else {
        figures.set("answer_p99_ratio", median(&mut ratios));
    }
    Ok(())
}

/// What a run found.
struct Answered {
    p99_ms: f64,
    /// The generator was the limit.
    void: bool,
}

/// Asks; nearly all must be answered.
fn answered(plan: &mut LoadPlan) -> Outcome<Answered> {
    let report: Report = run(plan, &Stop::default(), &mut |_| {})?;
    plan.first_question += 10_000_000;
    plan.seed += 1;
    let totals = &report.totals;
    match totals.latency_ms {
        Some(latency) if totals.answered as f64 >= 0.99 * totals.offered as f64 => {
            Ok(Answered { p99_ms: latency.p99, void: report.void })
        }
        _ => Err(format!("only {} of {} questions were answered: {totals:?}", totals.answered, totals.offered).into()),
    }
}
