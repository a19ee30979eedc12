//! The waiting questions in the order in which they are served: fair between classes by weight, and between the tenants of a class.
//!
//! Classes share the scorer by start-time fair queueing (Goyal, Vin, Cheng 1996): each has a virtual time that advances by cost over
//! weight, the least is next, and at a tie the higher class. A class that was idle starts at the virtual time of the others, so that it
//! saves up nothing; one that asks for less than its share is always ahead of those that ask for more. So VIPs are served first as long as
//! they keep within their weight, and no class starves. Inside a class, tenants take turns by deficit round robin (Shreedhar, Varghese
//! 1995) over cost, in the variant that learns the cost after the fact, because the rung is chosen when a question's turn comes; within
//! a tenant the oldest is first.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use larder_store::TenantId;

use crate::context::Class;
use crate::schedule::price::Price;

/// Credit that a tenant gets when its turn comes.
const QUANTUM: Duration = Duration::from_millis(1);
/// The least that a served question is charged: cached answers are not for nothing.
const LEAST_CHARGE: Duration = Duration::from_micros(20);

/// What the schedule knows of a waiting question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) class: Class,
    pub(crate) tenant: TenantId,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) price: Price,
}

impl Entry {
    /// The time between arrival and deadline.
    pub(crate) fn allowance(&self) -> Duration {
        self.deadline.saturating_duration_since(self.arrived)
    }
}

/// The waiting questions; `T` is what travels with each.
#[derive(Debug)]
pub(crate) struct Line<T> {
    waiting: HashMap<u64, (Entry, T)>,
    next_id: u64,
    classes: [ClassLine; 3],
    total: Sum,
}

/// Waiting questions added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) questions: usize,
    /// Predicted time on each question's best rung.
    pub(crate) best: Duration,
    /// The same on its cheapest rung with a model.
    pub(crate) cheapest: Duration,
}

#[derive(Debug)]
struct ClassLine {
    class: Class,
    weight: u32,
    /// Seconds of service over weight.
    virtual_time: f64,
    /// The tenants with waiting questions, whose turn it is in front.
    turns: VecDeque<TenantId>,
    tenants: HashMap<TenantId, TenantLine>,
    sum: Sum,
}

#[derive(Debug, Default)]
struct TenantLine {
    /// Oldest first. Some may have left.
    ids: VecDeque<u64>,
    /// Nanoseconds of service it may still have in this turn.
    credit: i64,
    /// Whether its last question was given a lower rung because of the load.
    degraded: bool,
    sum: Sum,
}

impl<T> Line<T> {
    /// With the classes' weights.
    pub(crate) fn new(weight: impl Fn(Class) -> u32) -> Line<T> {
        let class = |class| ClassLine {
            class,
            weight: weight(class).max(1),
            virtual_time: 0.0,
            turns: VecDeque::new(),
            tenants: HashMap::new(),
            sum: Sum::default(),
        };
        Line { waiting: HashMap::new(), next_id: 0, classes: Class::ALL.map(class), total: Sum::default() }
    }

    pub(crate) fn total(&self) -> Sum {
        self.total
    }

    pub(crate) fn of_class(&self, class: Class) -> Sum {
        self.classes[class as usize].sum
    }

    /// Adds a question at the end of its tenant's line and returns its number.
    pub(crate) fn push(&mut self, entry: Entry, payload: T) -> u64 {
        let now = self.virtual_now();
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.insert(id, (entry, payload));
        let class = &mut self.classes[entry.class as usize];
        if class.sum.questions == 0 {
            class.virtual_time = class.virtual_time.max(now);
        }
        let tenant = class.tenants.entry(entry.tenant).or_insert_with(|| {
            class.turns.push_back(entry.tenant);
            TenantLine::default()
        });
        tenant.ids.push_back(id);
        for sum in [&mut tenant.sum, &mut class.sum, &mut self.total] {
            sum.add(&entry.price);
        }
        id
    }

    /// The least virtual time of a class with waiting questions or, with nobody waiting, the greatest of all: where an idle class begins.
    fn virtual_now(&self) -> f64 {
        let busy = self.classes.iter().filter(|class| class.sum.questions > 0).map(|class| class.virtual_time);
        let all = self.classes.iter().map(|class| class.virtual_time);
        busy.min_by(f64::total_cmp).or_else(|| all.max_by(f64::total_cmp)).unwrap_or_default()
    }

    /// Takes a question out that does not wait any longer; none if it was taken already.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let (entry, payload) = self.waiting.remove(&id)?;
        let class = &mut self.classes[entry.class as usize];
        for sum in [&mut class.sum, &mut self.total] {
            sum.subtract(&entry.price);
        }
        if let Some(tenant) = class.tenants.get_mut(&entry.tenant) {
            tenant.sum.subtract(&entry.price);
            if tenant.sum.questions == 0 {
                class.tenants.remove(&entry.tenant);
                class.turns.retain(|waiting| *waiting != entry.tenant);
            }
        }
        Some(payload)
    }

    /// The question whose turn it is.
    pub(crate) fn next(&mut self) -> Option<(u64, Entry)> {
        let busy = self.classes.iter_mut().filter(|class| class.sum.questions > 0);
        let class = busy.min_by(|one, other| one.virtual_time.total_cmp(&other.virtual_time))?;
        loop {
            let turn = *class.turns.front()?;
            let tenant = class.tenants.get_mut(&turn)?;
            while tenant.ids.front().is_some_and(|id| !self.waiting.contains_key(id)) {
                tenant.ids.pop_front();
            }
            if tenant.credit > 0 || class.turns.len() == 1 {
                let id = *tenant.ids.front()?;
                return Some((id, self.waiting.get(&id)?.0));
            }
            tenant.credit += nanos(QUANTUM);
            class.turns.rotate_left(1);
        }
    }

    /// Takes a question to be served, and charges its class and its tenant with what it costs.
    pub(crate) fn serve(&mut self, id: u64, cost: Duration) -> Option<T> {
        let entry = self.waiting.get(&id)?.0;
        let charge = cost.max(LEAST_CHARGE);
        let class = &mut self.classes[entry.class as usize];
        class.virtual_time += charge.as_secs_f64() / f64::from(class.weight);
        if let Some(tenant) = class.tenants.get_mut(&entry.tenant) {
            // Alone, a tenant owes nothing to others who come later.
            let floor = if class.turns.len() == 1 { -nanos(QUANTUM) } else { i64::MIN };
            tenant.credit = tenant.credit.saturating_sub(nanos(charge)).max(floor);
        }
        self.remove(id)
    }

    /// The longest that a question of a class and tenant waits for those who wait now, itself included: for all of them, or what its
    /// class or its tenant is sure to get done of its own, whichever is less.
    pub(crate) fn ahead(&self, class: Class, tenant: TenantId, time: impl Fn(&Sum) -> Duration) -> Duration {
        let line = &self.classes[class as usize];
        let weights: u32 = self
            .classes
            .iter()
            .filter(|other| other.sum.questions > 0 || other.class == class)
            .map(|other| other.weight)
            .sum();
        let share = f64::from(line.weight) / f64::from(weights);
        let own = line.tenants.get(&tenant).map_or(Duration::ZERO, |tenant| time(&tenant.sum));
        let tenants = line.tenants.len() + usize::from(!line.tenants.contains_key(&tenant));
        let of_class = time(&line.sum).div_f64(share);
        let of_tenant = own.mul_f64(tenants as f64 / share);
        time(&self.total).min(of_class).min(of_tenant)
    }

    /// Whether the tenant's last question of that class was given a lower rung because of the load.
    pub(crate) fn degraded(&self, class: Class, tenant: TenantId) -> bool {
        self.classes[class as usize].tenants.get(&tenant).is_some_and(|tenant| tenant.degraded)
    }

    pub(crate) fn set_degraded(&mut self, class: Class, tenant: TenantId, degraded: bool) {
        if let Some(tenant) = self.classes[class as usize].tenants.get_mut(&tenant) {
            tenant.degraded = degraded;
        }
    }

    /// Who must go for a newcomer, when there is no room: the newest of the longest line of the lowest class below the newcomer's or, where
    /// nobody is below, of a tenant of its own class that has more waiting than the newcomer's would have.
    pub(crate) fn victim(&self, newcomer: &Entry) -> Option<u64> {
        let below = self.classes.iter().rev().filter(|class| class.class > newcomer.class);
        let lower = below.filter_map(|class| Some((class, class.longest()?))).next();
        let (_, longest) = lower.or_else(|| {
            let class = &self.classes[newcomer.class as usize];
            let own = class.tenants.get(&newcomer.tenant).map_or(Duration::ZERO, |tenant| tenant.sum.cheapest);
            let longest = class.longest()?;
            (longest.sum.cheapest > own + newcomer.price.cheapest_shared()).then_some((class, longest))
        })?;
        longest.ids.iter().rev().find(|id| self.waiting.contains_key(id)).copied()
    }

    /// Everything that waits, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.values().map(|(entry, _)| entry)
    }

    /// Everybody out.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        let ids: Vec<u64> = self.waiting.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

impl ClassLine {
    fn longest(&self) -> Option<&TenantLine> {
        self.tenants.values().max_by_key(|tenant| tenant.sum.cheapest)
    }
}

impl Sum {
    fn add(&mut self, price: &Price) {
        self.questions += 1;
        self.best += price.best_shared();
        self.cheapest += price.cheapest_shared();
    }

    fn subtract(&mut self, price: &Price) {
        self.questions -= 1;
        self.best = self.best.saturating_sub(price.best_shared());
        self.cheapest = self.cheapest.saturating_sub(price.cheapest_shared());
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
