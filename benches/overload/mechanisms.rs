//! What each mechanism buys: the same 4x load, with classes, on nodes that have one of them switched off.

use larder::load::Shares;
use larder_benches::Outcome;

use crate::Bench;
use crate::load::Load;

/// A name for the figure, and the sections that switch the mechanism off.
const SWITCHES: [(&str, &str); 8] = [
    ("all", "[rungs]\ncached = false\n"),
    ("light", "[rungs]\ncached = false\nlight = false\n"),
    ("hysteresis", "[rungs]\ncached = false\nfull_again_below = 1.0\n"),
    ("early_rungs", "[rungs]\ncached = false\nfull_until_vip = 1.0\nfull_until_normal = 1.0\nfull_until_bulk = 1.0\n"),
    (
        "class_weights",
        "[admission]\nvip_weight = 1\nnormal_weight = 1\nbulk_weight = 1\n[rungs]\ncached = false\nlight = false\n",
    ),
    ("standing_queue", "[admission]\nstanding_target_ms = 0\n[rungs]\ncached = false\nlight = false\n"),
    ("batching", "[batcher]\nmax_questions = 1\n[rungs]\ncached = false\n"),
    ("fallback", "[rungs]\ncached = false\nlight = false\nfallback = false\n"),
];

pub(crate) fn measure(bench: &mut Bench, capacity: f64) -> Outcome<()> {
    for (name, sections) in SWITCHES {
        eprintln!("without {name}:");
        let node = bench.node(&format!("without-{name}"), sections)?;
        let classes = Shares::parse(&["vip=0.1,normal=0.8,bulk=0.1".to_owned()])?;
        let load = Load { classes: Some(classes), ..Load::steady(4.0 * capacity, bench.step) };
        let report = bench.generator.run(&node, &load)?;
        let vip = report.classes.get("vip").map_or(0.0, |totals| totals.in_time_share);
        for (key, value) in [
            ("goodput_qps", report.totals.goodput_per_s),
            ("correct_qps", report.totals.correct_per_s),
            ("in_time", report.totals.in_time_share),
            ("vip_in_time", vip),
            ("p99_ms", report.totals.latency_ms.map_or(0.0, |latency| latency.p99)),
        ] {
            bench.figures.set(format!("without_{name}_{key}"), value);
        }
    }
    Ok(())
}
