//! The schedule under load, without a thread and on a clock of its own: a node whose fetches and forwards take exactly what they are said to,
//! and what is promised of the order, the rungs and the deadlines.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use larder_store::TenantId;
use proptest::prelude::*;

use crate::config::NodeConfig;
use crate::context::Class;
use crate::error::Refusal;
use crate::rung::{Choice, Rung, Source};
use crate::schedule::admission::{Admission, Permit};
use crate::schedule::line::Entry;
use crate::schedule::price::{Cost, Price};
use crate::schedule::{Entered, Formed, Next, Schedule};

const FETCH: Duration = Duration::from_millis(1);
const FULL: Cost = Cost {
    encoder: 0,
    tokens: 15,
    base: Duration::from_micros(3_000),
    marginal: Duration::from_micros(1_500),
    at_hand: false,
};
const LIGHT: Cost = Cost {
    encoder: 1,
    tokens: 15,
    base: Duration::from_micros(100),
    marginal: Duration::from_micros(150),
    at_hand: true,
};
/// Questions a second that the full rung gets done in batches as large as they may be: 48 in 75 ms.
const CAPACITY: f64 = 640.0;

/// A question to come.
#[derive(Debug, Clone, Copy)]
struct Coming {
    at: Duration,
    class: Class,
    tenant: u32,
    allowance: Duration,
    full: Cost,
    light: Option<Cost>,
}

impl Coming {
    fn at(at: Duration, class: Class) -> Coming {
        Coming { at, class, tenant: 1, allowance: ms(300), full: FULL, light: Some(LIGHT) }
    }

    fn of(self, tenant: u32) -> Coming {
        Coming { tenant, ..self }
    }

    fn without_light(self) -> Coming {
        Coming { light: None, ..self }
    }
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Answered { choice: Choice, at: Duration },
    Refused(Refusal),
    Evicted,
    Expired,
}

/// A batch on its way, with what travels in it.
struct Moving {
    /// Answered by the fetch thread, which takes so long.
    cheap: Vec<((usize, Permit), Choice)>,
    light: Duration,
    /// Answered by the scorer, which takes so long.
    full: Vec<((usize, Permit), Choice)>,
    cost: Duration,
}

/// Questions that are being scored.
struct Scoring {
    done: Instant,
    /// Of the batch, where it is the scorer's.
    number: usize,
    questions: Vec<((usize, Permit), Choice)>,
}

/// A node with one scorer.
struct Simulation {
    start: Instant,
    schedule: Schedule<(usize, Permit)>,
    coming: Vec<Coming>,
    fates: HashMap<usize, Fate>,
    /// Numbers in the line, by question.
    ids: BTreeMap<usize, u64>,
    fetching: Option<(Instant, Moving)>,
    /// What the fetch thread answers itself.
    at_hand: Option<Scoring>,
    ready: Option<Moving>,
    scoring: Option<Scoring>,
    /// How many times the predicted time things take.
    slowness: f64,
    /// What was begun of each class and tenant, in time of the scorer, and when.
    served: Vec<(Duration, Class, u32, Duration)>,
    batches: Vec<usize>,
}

impl Simulation {
    fn new(lines: &str) -> Simulation {
        let config: NodeConfig = NodeConfig::parse(lines).unwrap();
        let start = Instant::now();
        let admission = Admission::new(config.admission.clone(), 1, ms(150), [], start);
        Simulation {
            start,
            schedule: Schedule::new(admission, config.batcher.clone(), config.rungs, 1),
            coming: Vec::new(),
            fates: HashMap::new(),
            ids: BTreeMap::new(),
            fetching: None,
            at_hand: None,
            ready: None,
            scoring: None,
            slowness: 1.0,
            served: Vec::new(),
            batches: Vec::new(),
        }
    }

    /// Lets everything come and ends when nothing is left to do.
    fn run(mut self, mut coming: Vec<Coming>) -> Simulation {
        coming.sort_by_key(|coming| coming.at);
        self.coming = coming;
        let (mut next, mut now) = (0, self.start);
        loop {
            while next < self.coming.len() && self.start + self.coming[next].at <= now {
                self.arrive(next, now);
                next += 1;
            }
            let look_again = self.work(now);
            self.expire(now);
            let arrival = self.coming.get(next).map(|coming| self.start + coming.at);
            let deadline = self.ids.keys().map(|question| self.deadline(*question)).min();
            let fetched = self.fetching.as_ref().map(|(at, _)| *at);
            let scored = self.scoring.as_ref().map(|scoring| scoring.done);
            let light = self.at_hand.as_ref().map(|scoring| scoring.done);
            let Some(at) = [look_again, arrival, deadline, fetched, light, scored].into_iter().flatten().min() else {
                break;
            };
            assert!(at > now, "time stands still at {:?}", now - self.start);
            now = at;
        }
        assert_eq!(self.fates.len(), self.coming.len(), "a question was lost");
        assert_eq!(self.schedule.backlog(now).questions, 0, "a permit was lost");
        self
    }

    fn deadline(&self, question: usize) -> Instant {
        self.start + self.coming[question].at + self.coming[question].allowance
    }

    fn arrive(&mut self, question: usize, now: Instant) {
        let coming = self.coming[question];
        let price = Price { full: Some(coming.full), light: coming.light, cached: false };
        let entry = Entry {
            class: coming.class,
            tenant: TenantId(coming.tenant),
            arrived: now,
            deadline: self.deadline(question),
            price,
        };
        match self.schedule.enter(entry, now, |permit| (question, permit)) {
            Ok(Entered { id, evicted }) => {
                self.ids.insert(question, id);
                for ((victim, _permit), _) in evicted {
                    assert!(self.coming[victim].class >= coming.class, "evicted for a lower class");
                    self.ids.remove(&victim);
                    self.fates.insert(victim, Fate::Evicted);
                }
            }
            Err(refusal) => {
                self.fates.insert(question, Fate::Refused(refusal));
            }
        }
    }

    /// Callers give up at their deadlines.
    fn expire(&mut self, now: Instant) {
        let expired: Vec<usize> = self.ids.keys().copied().filter(|question| self.deadline(*question) <= now).collect();
        for question in expired {
            let id = self.ids.remove(&question).unwrap();
            if self.schedule.leave(id).is_none() {
                self.schedule.late(now);
            }
            self.fates.insert(question, Fate::Expired);
        }
    }

    /// What the threads do now; when the fetch thread wants to look again.
    fn work(&mut self, now: Instant) -> Option<Instant> {
        if let Some(scoring) = self.scoring.take_if(|scoring| scoring.done <= now) {
            self.answer(scoring.questions, now);
            self.schedule.scoring_ended(scoring.number, now);
        }
        if let Some(scoring) = self.at_hand.take_if(|scoring| scoring.done <= now) {
            self.answer(scoring.questions, now);
        }
        let after = |cost: Duration, slowness: f64| now + cost.mul_f64(slowness).max(Duration::from_nanos(1));
        if let Some((_, mut moving)) = self.fetching.take_if(|(at, _)| *at <= now) {
            assert!(self.ready.is_none(), "two batches in one slot");
            let (questions, done) = (std::mem::take(&mut moving.cheap), after(moving.light, self.slowness));
            self.schedule.fetched(!moving.full.is_empty(), now);
            self.batches.push(questions.len() + moving.full.len());
            if !questions.is_empty() {
                self.at_hand = Some(Scoring { done, number: 0, questions });
            }
            if !moving.full.is_empty() {
                self.ready = Some(moving);
            }
        }
        if self.scoring.is_none()
            && let Some(moving) = self.ready.take()
        {
            let number = self.schedule.scoring_began(now);
            self.scoring = Some(Scoring { done: after(moving.cost, self.slowness), number, questions: moving.full });
        }
        if self.fetching.is_some() || self.at_hand.is_some() || self.ready.is_some() {
            return None;
        }
        loop {
            match self.schedule.next(now) {
                Next::Batch(formed) if formed.questions.is_empty() => self.refuse(formed),
                Next::Batch(mut formed) => {
                    let questions = std::mem::take(&mut formed.questions);
                    self.refuse(formed);
                    let number = questions.len();
                    let moving = self.moving(questions, now);
                    self.schedule.handed_out(moving.cost, number, now);
                    self.fetching = Some((now + FETCH, moving));
                    return None;
                }
                Next::WaitUntil(at) => {
                    assert!(self.scoring.is_some(), "an idle scorer is kept waiting");
                    return Some(at);
                }
                Next::Wait => {
                    let idle = self.scoring.is_none() && self.schedule.waiting() > 0;
                    assert!(!idle, "an idle scorer is kept waiting");
                    return None;
                }
            }
        }
    }

    fn refuse(&mut self, formed: Formed<(usize, Permit)>) {
        for ((question, _permit), refusal) in formed.late {
            self.ids.remove(&question);
            self.fates.insert(question, Fate::Refused(refusal));
        }
    }

    fn moving(&mut self, questions: Vec<((usize, Permit), Choice)>, now: Instant) -> Moving {
        let (mut light, mut full) = (Duration::ZERO, Duration::ZERO);
        for ((question, _), choice) in &questions {
            let coming = self.coming[*question];
            let cost = match choice.source {
                Source::Model(Rung::Full) => coming.full,
                Source::Model(Rung::Light) => coming.light.unwrap(),
                Source::Cached(_) | Source::Fallback => continue,
            };
            let part = if choice.source == Source::Model(Rung::Full) { &mut full } else { &mut light };
            let before = *part;
            *part += if part.is_zero() { cost.alone() } else { cost.marginal };
            let spent = *part - before;
            self.served.push((now - self.start, coming.class, coming.tenant, spent));
        }
        let is_full = |(_, choice): &(_, Choice)| choice.source == Source::Model(Rung::Full);
        let (of_full, cheap) = questions.into_iter().partition(is_full);
        Moving { cheap, light, full: of_full, cost: full }
    }

    fn answer(&mut self, questions: Vec<((usize, Permit), Choice)>, now: Instant) {
        for ((question, _permit), choice) in questions {
            self.ids.remove(&question);
            let late = now > self.deadline(question);
            let answered = Fate::Answered { choice, at: now - self.start };
            self.fates.entry(question).or_insert(if late { Fate::Expired } else { answered });
        }
    }

    fn count(&self, wanted: impl Fn(&Coming, &Fate) -> bool) -> usize {
        self.fates.iter().filter(|(question, fate)| wanted(&self.coming[**question], fate)).count()
    }

    /// The part of the questions of some kind that have that fate.
    fn share(&self, of: impl Fn(&Coming) -> bool, wanted: impl Fn(&Fate) -> bool) -> f64 {
        let all = self.coming.iter().filter(|coming| of(coming)).count();
        self.count(|coming, fate| of(coming) && wanted(fate)) as f64 / all as f64
    }

    /// Changes between the full and the light rung, in the order in which questions came.
    fn changes(&self) -> usize {
        let rungs: Vec<Rung> = (0..self.coming.len())
            .filter_map(|question| match self.fates.get(&question) {
                Some(Fate::Answered { choice: Choice { source: Source::Model(rung), .. }, .. }) => Some(*rung),
                _ => None,
            })
            .collect();
        rungs.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn everybody(_: &Coming) -> bool {
    true
}

fn answered(fate: &Fate) -> bool {
    matches!(fate, Fate::Answered { .. })
}

fn on(rung: Rung) -> impl Fn(&Fate) -> bool {
    move |fate| matches!(fate, Fate::Answered { choice, .. } if choice.source == Source::Model(rung))
}

/// Questions at a rate that changes with time, for so many seconds; regular, with the class by the question's number.
fn load(seconds: f64, rate: impl Fn(f64) -> f64, class: impl Fn(usize) -> Class) -> Vec<Coming> {
    let (mut at, mut coming) = (0.0, Vec::new());
    while at < seconds {
        coming.push(Coming::at(Duration::from_secs_f64(at), class(coming.len())));
        at += 1.0 / rate(at);
    }
    coming
}

fn normal(_: usize) -> Class {
    Class::Normal
}

#[test]
fn below_capacity_everybody_has_the_full_model_in_time() {
    let done = Simulation::new("").run(load(5.0, |_| 0.8 * CAPACITY, normal));
    assert_eq!(done.share(everybody, on(Rung::Full)), 1.0);
}

#[test]
fn beyond_capacity_some_are_answered_by_the_light_model_and_nobody_is_refused() {
    for load_factor in [1.2, 2.0, 4.0] {
        let done = Simulation::new("").run(load(5.0, |_| load_factor * CAPACITY, normal));
        let (full, light) = (done.share(everybody, on(Rung::Full)), done.share(everybody, on(Rung::Light)));
        assert!(full + light > 0.9999, "at {load_factor}: {full} and {light}");
        // All of the scorer that the light questions leave.
        let possible = (CAPACITY * 5.0 - light * done.coming.len() as f64 * 0.1) / done.coming.len() as f64;
        assert!(full > 0.75 * possible, "at {load_factor}: {full} of {possible} full");
        assert!(load_factor > 1.3 || full > 0.7, "{full}");
    }
}

#[test]
fn without_a_light_model_the_most_is_answered_and_the_rest_refused_at_once() {
    for load_factor in [1.5, 2.0, 4.0] {
        let coming = load(5.0, |_| load_factor * CAPACITY, normal);
        let done =
            Simulation::new("[rungs]\nfallback = false").run(coming.into_iter().map(Coming::without_light).collect());
        let goodput = done.count(|_, fate| answered(fate)) as f64 / 5.0;
        assert!(goodput > 0.97 * CAPACITY, "at {load_factor}: {goodput}");
        let expired = done.share(everybody, |fate| *fate == Fate::Expired);
        assert_eq!(expired, 0.0, "at {load_factor}");
    }
}

#[test]
fn vips_within_their_weight_wait_for_no_more_than_the_work_that_was_begun() {
    let coming = load(5.0, |_| 4.0 * CAPACITY, |at| if at % 10 == 0 { Class::Vip } else { Class::Normal });
    for coming in [coming.clone(), coming.into_iter().map(Coming::without_light).collect()] {
        let done = Simulation::new("").run(coming);
        let vip = |coming: &Coming| coming.class == Class::Vip;
        assert_eq!(done.share(vip, on(Rung::Full)), 1.0);
        for (question, fate) in done.fates.iter().filter(|(question, _)| vip(&done.coming[**question])) {
            let Fate::Answered { at, .. } = fate else { unreachable!() };
            let waited = *at - done.coming[*question].at;
            // The batch in work, the one in the slot, its own.
            assert!(waited <= ms(75 * 3) + FETCH, "{waited:?}");
        }
    }
}

#[test]
fn a_rung_does_not_change_with_every_batch() {
    type Load = Box<dyn Fn(f64) -> f64>;
    let loads: [(&str, Load); 3] = [
        ("step", Box::new(|at| if at < 2.0 { 0.5 * CAPACITY } else { 1.5 * CAPACITY })),
        ("ramp", Box::new(|at| (0.5 + at * 0.25) * CAPACITY)),
        ("saw", Box::new(|at| if at % 2.0 < 1.0 { 1.6 * CAPACITY } else { 0.4 * CAPACITY })),
    ];
    for (name, rate) in loads {
        let changes = |again_below: f64| {
            let config = format!("[rungs]\nfull_again_below = {again_below:.1}");
            let done = Simulation::new(&config).run(load(8.0, &rate, normal));
            assert!(done.share(everybody, answered) > 0.9999, "{name}");
            (done.changes(), done.batches.len())
        };
        let ((steady, batches), (nervous, _)) = (changes(0.5), changes(1.0));
        assert!(steady * 2 < nervous, "{name}: {steady} changes with hysteresis, {nervous} without");
        assert!(steady < batches, "{name}: {steady} changes in {batches} batches");
    }
}

#[test]
fn the_full_model_is_back_as_soon_as_the_load_is_gone() {
    let rate = |at: f64| if (1.0..3.0).contains(&at) { 4.0 * CAPACITY } else { 0.5 * CAPACITY };
    let done = Simulation::new("").run(load(6.0, rate, normal));
    let after = |coming: &Coming| coming.at > ms(3_300);
    assert_eq!(done.share(after, on(Rung::Full)), 1.0);
}

#[test]
fn what_is_slower_than_predicted_is_let_in_less() {
    let mut node = Simulation::new("[rungs]\nfallback = false");
    node.slowness = 3.0;
    let coming: Vec<_> = load(6.0, |_| 1.5 * CAPACITY, normal).into_iter().map(Coming::without_light).collect();
    let done = node.run(coming);
    let goodput = done.count(|coming, fate| coming.at > ms(2_000) && answered(fate)) as f64 / 4.0;
    assert!(goodput > 0.75 * CAPACITY / 3.0, "{goodput} a second of {}", CAPACITY / 3.0);
}

#[test]
fn a_flood_of_one_tenant_leaves_the_others_their_share() {
    for light in [true, false] {
        let flood = load(4.0, |_| 4.0 * CAPACITY, normal);
        let mut coming: Vec<_> = flood.into_iter().map(|coming| coming.of(1)).collect();
        for tenant in 2..5 {
            coming.extend(load(4.0, |_| 0.2 * CAPACITY, normal).into_iter().map(|coming| coming.of(tenant)));
        }
        if !light {
            coming = coming.into_iter().map(Coming::without_light).collect();
        }
        let done = Simulation::new("").run(coming);
        for tenant in 2..5 {
            // A quarter of the node is its fair share, and it asks for less.
            let full = done.share(|coming| coming.tenant == tenant, on(Rung::Full));
            assert!(full > 0.9, "tenant {tenant}, light {light}: {full}");
            let some = done.share(|coming| coming.tenant == tenant, answered);
            assert!(some > if light { 0.9999 } else { 0.95 }, "tenant {tenant}, light {light}: {some}");
        }
    }
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Vip), Just(Class::Normal), Just(Class::Bulk)]
}

fn coming() -> impl Strategy<Value = Coming> {
    (0..2_000_000u64, class(), 1..6u32, 5..2_000u64, 100..40_000u64, prop::bool::ANY).prop_map(
        |(at_us, class, tenant, allowance, marginal, light)| Coming {
            at: Duration::from_micros(at_us),
            class,
            tenant,
            allowance: ms(allowance),
            full: Cost { marginal: Duration::from_micros(marginal), ..FULL },
            light: light.then_some(Cost { marginal: Duration::from_micros(marginal / 20), ..LIGHT }),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// `run` itself asserts that no idle scorer is kept waiting, that nobody is lost, that every permit comes back and that nobody has
    /// to go for a lower class.
    #[test]
    fn whatever_comes_is_answered_or_refused_and_almost_never_late(coming in prop::collection::vec(coming(), 1..400)) {
        let done = Simulation::new("").run(coming);
        // Those of a lower class are when somebody higher comes after them.
        let late = |class| done.count(|coming, fate| coming.class == class && *fate == Fate::Expired);
        let [vip, normal, bulk] = Class::ALL.map(late);
        prop_assert!(vip * 25 <= done.coming.len() + 25, "{vip} VIPs of {} were let in and late", done.coming.len());
        prop_assert!((normal + bulk) * 5 <= done.coming.len() + 25, "{normal} and {bulk} of {}", done.coming.len());
    }

    /// Everybody wants more than there is: each class gets its weight, each tenant of it the same, up to a batch and a turn.
    #[test]
    fn backlogged_classes_and_tenants_share_by_weight(tenants in 2..5u32, seed in 0..1_000u64) {
        let coming: Vec<_> = (0..3_000u64)
            .map(|number| {
                let class = Class::ALL[(number % 3) as usize];
                let cost = Duration::from_micros(500 + (number * 7_919 + seed * 104_729) % 4_000);
                let question = Coming::at(Duration::ZERO, class).of(1 + (number as u32 / 3) % tenants).without_light();
                Coming { allowance: ms(600_000), full: Cost { marginal: cost, ..FULL }, ..question }
            })
            .collect();
        let config = "[admission]\nmax_questions = 4096\nmax_backlog_ms = 600000\nstanding_target_ms = 0";
        let done = Simulation::new(config).run(coming);
        // As long as all have something waiting: VIPs are done first.
        let of = |class: Class, tenant: Option<u32>| {
            let mine = done.served.iter().filter(|(at, of, who, _)| {
                *at < ms(1_500) && *of == class && tenant.is_none_or(|tenant| *who == tenant)
            });
            mine.map(|(.., cost)| cost.as_secs_f64()).sum::<f64>()
        };
        let [vip, normal, bulk] = Class::ALL.map(|class| of(class, None));
        let whole = vip + normal + bulk;
        for (class, served, weight) in [(Class::Vip, vip, 8.0), (Class::Normal, normal, 3.0), (Class::Bulk, bulk, 1.0)] {
            let fair = whole * weight / 12.0;
            prop_assert!((served - fair).abs() < 0.09, "{class}: {served} s of {fair}");
            for tenant in 1..=tenants {
                let (mine, fair) = (of(class, Some(tenant)), served / f64::from(tenants));
                prop_assert!((mine - fair).abs() < 0.02, "{class} {tenant}: {mine} s of {fair}");
            }
        }
    }
}
