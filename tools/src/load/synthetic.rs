//! A report of a run that never was, for tests of the page: a sale on a node of 600 questions a second.

use super::outcome::Outcome;
use super::profile::Profile;
use super::report::{Capacity, Generator, Phase, Report, Step};
use super::scenario::Scenario;
use super::schedule::{Arrivals, Offer};
use super::tally::{Parts, Place, Tally};

const CAPACITY: f64 = 600.0;

/// The report.
pub(crate) fn report() -> Report {
    let profile = Scenario::Sale618.profile(CAPACITY, 6.0, std::time::Duration::from_secs(60)).unwrap();
    let classes = ["bulk", "normal", "vip"].map(str::to_owned);
    let parts = Parts { phases: 3, classes: 3, tenants: 1, shards: 0, threads: 1 };
    let mut tally = Tally::new(parts, 500).unwrap();
    for (number, at) in
        Offer::Curve(profile.clone(), Arrivals::Poisson).schedule(std::time::Duration::ZERO, 3).enumerate()
    {
        let seconds = at.as_secs_f64();
        let phase = profile.phase_at(seconds);
        let class = match number % 10 {
            0 => 2,
            1..8 => 1,
            _ => 0,
        };
        let place = Place { second: seconds as usize, phase, class, tenant: 0, node: 0, labelled: true };
        tally.offered(place);
        tally.sent(40 + (number % 97) as u64);
        // A number between 0 and 1 that looks random, with a tail.
        let draw = (number as f64 * 0.618_033_988_75).fract();
        let tail = 1.0 / (1.0 - draw * 0.999);
        let (rung, ms) = match phase {
            1 if class == 2 => ("full", 40.0 + 30.0 * draw),
            1 => ("light", 120.0 + 90.0 * draw + tail.min(80.0)),
            _ => ("full", 8.0 + 60.0 * draw * seconds / 200.0 + tail.min(150.0)),
        };
        let outcome = match (phase, class) {
            (1, 0) => Outcome::Refused("queue_full".into()),
            (1, 1) if draw > 0.7 => Outcome::Refused("predicted_late".into()),
            (1, 1) if draw > 0.69 => Outcome::Expired,
            _ => Outcome::Answered { rung: rung.into(), handed_over: number % 20 == 0, correct: number % 12 != 0 },
        };
        tally.settled(place, &outcome, (ms * 1_000.0) as u64, ms <= 300.0);
    }
    let seconds = profile.duration().as_secs_f64();
    let totals = tally.all.totals(seconds);
    let phases = profile.phases().iter().zip(&tally.phases).zip([160.0, 10.0, 20.0]);
    let step = |rate: f64| {
        let mut totals = totals.clone();
        (totals.offered_per_s, totals.goodput_per_s) = (rate, rate.min(CAPACITY - (rate - CAPACITY).max(0.0) * 0.05));
        totals.in_time_share = (CAPACITY / rate).min(0.998);
        Step { rate, held: rate <= CAPACITY, void: false, totals }
    };
    Report {
        command: "larder load --rate 'never was' --scenario 618 --time-scale 6 --class vip=0.1,normal=0.7,bulk=0.2"
            .to_owned(),
        started_ms: 1_795_000_000_000,
        scenario: Some("618".to_owned()),
        seed: 3,
        deadline_ms: 300.0,
        connections: 8,
        generator: Generator { cpu_share: 0.31, cpu_share_busiest_second: 0.52, ..tally.generator() },
        classes: classes.iter().cloned().zip(tally.classes.iter().map(|slice| slice.totals(seconds))).collect(),
        phases: phases
            .map(|((name, slice), seconds)| Phase { name: name.clone(), totals: slice.totals(seconds) })
            .collect(),
        capacity: Some(Capacity {
            qps: CAPACITY,
            least_in_time_share: 0.99,
            limited_by_generator: false,
            steps: [50.0, 100.0, 200.0, 400.0, 800.0, 600.0, 700.0, 650.0].map(step).to_vec(),
        }),
        distribution: tally.distribution(&classes),
        totals,
        series: tally.into_series(),
        ..Report::default()
    }
}

#[test]
fn the_synthetic_run_is_a_whole_sale() {
    let report = report();
    assert_eq!(report.series.len(), 190);
    assert_eq!(report.totals.unfinished, 0);
    let sale = Scenario::Sale618.profile(CAPACITY, 6.0, std::time::Duration::from_secs(60)).unwrap();
    assert!((report.totals.offered as f64 / Profile::offered(&sale) - 1.0).abs() < 0.02);
}
