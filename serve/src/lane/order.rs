//! The questions that wait, in memory: who comes next, and whether there is room. Their texts stay on disk.
//!
//! Tenants take turns, and within a tenant the oldest question goes first; one that was put back waits for its time without holding up the
//! others. A pure structure: the clock is an argument, Unix milliseconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use larder_store::TenantId;

use crate::lane::config::MAX_WAITING_PER_TENANT;
use crate::lane::ticket::Ticket;

/// A question that waits, or that is being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) ticket: Ticket,
    pub(crate) user: Arc<str>,
    pub(crate) submitted_ms: i64,
    /// Then it fails, unless it is being answered.
    pub(crate) answer_by_ms: i64,
    /// Internal errors so far.
    pub(crate) attempts: u32,
    /// How often it was put back in a row for want of room.
    pub(crate) put_backs: u32,
    /// When it may be tried again; 0 = it was not put back.
    pub(crate) ready_ms: i64,
    /// In the tenant's log; tells it from a later question with the same ticket. Set when it is inserted.
    pub(crate) position: u64,
}

impl Waiting {
    /// As it is when it comes.
    pub(crate) fn new(ticket: Ticket, user: Arc<str>, submitted_ms: i64, answer_by_ms: i64) -> Waiting {
        Waiting { ticket, user, submitted_ms, answer_by_ms, attempts: 0, put_backs: 0, ready_ms: 0, position: 0 }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Order {
    max_waiting: usize,
    max_per_tenant: usize,
    tenants: Vec<TenantOrder>,
    /// The tenant whose turn it is.
    turn: usize,
    total: usize,
}

#[derive(Debug)]
struct TenantOrder {
    tenant: TenantId,
    /// By their positions in the tenant's log, which is the order in which they came.
    questions: BTreeMap<u64, Waiting>,
    tickets: HashMap<Ticket, u64>,
    ready: BTreeSet<u64>,
    /// By the time when they are ready.
    delayed: BTreeSet<(i64, u64)>,
    /// By the time when they fail; those that are being answered are not here.
    overdue_at: BTreeSet<(i64, u64)>,
    /// The last position known to be used.
    last: u64,
}

impl Order {
    pub(crate) fn new(max_waiting: usize, max_per_tenant: usize) -> Order {
        Order { max_waiting, max_per_tenant, tenants: Vec::new(), turn: 0, total: 0 }
    }

    /// Why a tenant may not have `more` questions, if so; `beside` of other tenants come with them.
    pub(crate) fn full(&self, tenant: TenantId, more: usize, beside: usize) -> Option<&'static str> {
        if self.total + more + beside > self.max_waiting {
            return Some("the lane has as many questions as it may keep");
        }
        let Some(own) = self.tenants.iter().find(|own| own.tenant == tenant) else {
            return (more > self.max_per_tenant).then_some(FULL_TENANT);
        };
        // An old question at the front keeps the places of all that came after it, in a log that has only so many.
        let first = own.questions.first_key_value().map_or(own.last, |(position, _)| *position);
        let places = (own.last - first) as usize + more;
        (own.questions.len() + more > self.max_per_tenant || places > MAX_WAITING_PER_TENANT).then_some(FULL_TENANT)
    }

    /// Adds a question that is ready; false where it is there already.
    pub(crate) fn insert(&mut self, tenant: TenantId, position: u64, waiting: Waiting) -> bool {
        let waiting = Waiting { position, ..waiting };
        let at = self.tenants.iter().position(|own| own.tenant == tenant).unwrap_or_else(|| {
            self.tenants.push(TenantOrder::new(tenant));
            self.tenants.len() - 1
        });
        let own = &mut self.tenants[at];
        if own.tickets.contains_key(&waiting.ticket) {
            return false;
        }
        own.last = own.last.max(position);
        own.tickets.insert(waiting.ticket, position);
        own.ready.insert(position);
        own.overdue_at.insert((waiting.answer_by_ms, position));
        own.questions.insert(position, waiting);
        self.total += 1;
        true
    }

    pub(crate) fn get(&self, tenant: TenantId, ticket: Ticket) -> Option<&Waiting> {
        let own = self.tenants.iter().find(|own| own.tenant == tenant)?;
        own.questions.get(own.tickets.get(&ticket)?)
    }

    /// Whether a question that was taken is still wanted: neither withdrawn nor erased, be it that its ticket is another question's by now.
    pub(crate) fn is_wanted(&self, tenant: TenantId, waiting: &Waiting) -> bool {
        self.get(tenant, waiting.ticket).is_some_and(|kept| kept.position == waiting.position)
    }

    /// Whether that user's question waits or is being answered.
    pub(crate) fn is_of(&self, tenant: TenantId, user: &str, ticket: Ticket) -> bool {
        self.get(tenant, ticket).is_some_and(|waiting| &*waiting.user == user)
    }

    /// The next question to be answered. It stays here until it is removed or put back.
    pub(crate) fn take(&mut self, now_ms: i64) -> Option<(TenantId, Waiting)> {
        let tenants = self.tenants.len();
        for at in (0..tenants).map(|offset| (self.turn + offset) % tenants) {
            let own = &mut self.tenants[at];
            own.awake(now_ms);
            let Some(position) = own.ready.pop_first() else { continue };
            let Some(waiting) = own.questions.get(&position).cloned() else { continue };
            own.overdue_at.remove(&(waiting.answer_by_ms, position));
            self.turn = at + 1;
            return Some((own.tenant, waiting));
        }
        None
    }

    /// Gives back a question that was taken, with the failures counted in it; it is ready again at `ready_ms`. One that was removed stays so.
    pub(crate) fn put_back(&mut self, tenant: TenantId, waiting: Waiting, ready_ms: i64) {
        let waiting = Waiting { ready_ms, ..waiting };
        if !self.is_wanted(tenant, &waiting) {
            return;
        }
        let Some(own) = self.tenants.iter_mut().find(|own| own.tenant == tenant) else { return };
        let position = waiting.position;
        own.delayed.insert((ready_ms, position));
        own.overdue_at.insert((waiting.answer_by_ms, position));
        own.questions.insert(position, waiting);
    }

    /// Forgets a question, wherever it stands.
    pub(crate) fn remove(&mut self, tenant: TenantId, ticket: Ticket) -> Option<Waiting> {
        let own = self.tenants.iter_mut().find(|own| own.tenant == tenant)?;
        let position = own.tickets.remove(&ticket)?;
        let waiting = own.questions.remove(&position)?;
        own.ready.remove(&position);
        own.delayed.remove(&(waiting.ready_ms, position));
        own.overdue_at.remove(&(waiting.answer_by_ms, position));
        self.total -= 1;
        Some(waiting)
    }

    /// Questions whose time is over, at most `limit`; those that are being answered are left to that.
    pub(crate) fn overdue(&self, now_ms: i64, limit: usize) -> Vec<(TenantId, Waiting)> {
        let late = |own: &TenantOrder| {
            let late = own.overdue_at.iter().take_while(|(answer_by_ms, _)| *answer_by_ms <= now_ms).take(limit);
            late.filter_map(|(_, at)| Some((own.tenant, own.questions.get(at)?.clone()))).collect::<Vec<_>>()
        };
        self.tenants.iter().flat_map(late).take(limit).collect()
    }

    /// When the next question is ready: not after `now_ms` where one is; none where none waits.
    pub(crate) fn next_ready_ms(&self, now_ms: i64) -> Option<i64> {
        let ready = |own: &TenantOrder| {
            let delayed = own.delayed.first().map(|(ready_ms, _)| *ready_ms);
            if own.ready.is_empty() { delayed } else { Some(now_ms) }
        };
        self.tenants.iter().filter_map(ready).min()
    }

    /// Questions of a tenant that wait or are being answered.
    pub(crate) fn len(&self, tenant: TenantId) -> usize {
        self.tenants.iter().find(|own| own.tenant == tenant).map_or(0, |own| own.questions.len())
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// When the oldest of them was submitted.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        let oldest = |own: &TenantOrder| own.questions.first_key_value().map(|(_, waiting)| waiting.submitted_ms);
        self.tenants.iter().filter_map(oldest).min()
    }
}

const FULL_TENANT: &str = "the lane has as many questions of this tenant as it may keep";

impl TenantOrder {
    fn new(tenant: TenantId) -> TenantOrder {
        TenantOrder {
            tenant,
            questions: BTreeMap::new(),
            tickets: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            overdue_at: BTreeSet::new(),
            last: 0,
        }
    }

    /// Makes those ready whose time has come.
    fn awake(&mut self, now_ms: i64) {
        while let Some((_, position)) = self.delayed.first().filter(|(ready_ms, _)| *ready_ms <= now_ms).copied() {
            self.delayed.pop_first();
            self.ready.insert(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);

    fn waiting(ticket: u128, answer_by_ms: i64) -> Waiting {
        Waiting::new(Ticket(ticket), format!("user-{}", ticket % 2).into(), ticket as i64, answer_by_ms)
    }

    /// Questions 1, 2, 3 of tenant A and 11, 12 of tenant B, at positions of ten times that.
    fn order() -> Order {
        let mut order = Order::new(7, 4);
        for (tenant, number) in [(A, 1), (A, 2), (A, 3), (B, 11), (B, 12)] {
            assert!(order.insert(tenant, number * 10, waiting(number.into(), 1_000)));
        }
        order
    }

    fn taken(order: &mut Order, now_ms: i64) -> Vec<u128> {
        std::iter::from_fn(|| order.take(now_ms)).map(|(_, waiting)| waiting.ticket.0).collect()
    }

    #[test]
    fn tenants_take_turns_and_the_oldest_goes_first() {
        let mut order = order();
        assert_eq!(taken(&mut order, 0), [1, 11, 2, 12, 3]);
        assert_eq!((order.total(), order.len(A), order.oldest_ms()), (5, 3, Some(1)), "taken is not gone");
        order.remove(A, Ticket(1));
        assert_eq!((order.total(), order.len(A), order.oldest_ms()), (4, 2, Some(2)));
        assert!(!order.insert(B, 999, waiting(12, 0)), "it is there already");
        // A tenant that comes late waits for nobody's whole queue.
        let mut order = Order::new(99, 99);
        (1..9).for_each(|number| assert!(order.insert(A, number, waiting(number.into(), 0))));
        order.take(0);
        order.insert(B, 1, waiting(20, 0));
        assert_eq!(taken(&mut order, 0)[..3], [20, 2, 3]);
    }

    #[test]
    fn one_that_was_put_back_comes_again_at_its_time_before_younger_ones() {
        let mut order = order();
        let (tenant, mut first) = order.take(0).unwrap();
        first.attempts = 1;
        order.put_back(tenant, first.clone(), 50);
        assert_eq!(order.next_ready_ms(5), Some(5));
        assert_eq!(taken(&mut order, 49), [11, 2, 12, 3]);
        assert_eq!(order.next_ready_ms(49), Some(50));
        first.ready_ms = 50;
        assert_eq!(order.take(50), Some((A, first.clone())));
        assert_eq!(order.next_ready_ms(50), None);
        order.remove(A, first.ticket);
        order.put_back(A, first, 60);
        assert_eq!((order.take(60), order.total()), (None, 4), "it was withdrawn meanwhile");
        // Its ticket comes again: that is another question.
        let old = order.get(A, Ticket(2)).unwrap().clone();
        assert!(order.is_wanted(A, &old));
        order.remove(A, Ticket(2));
        order.insert(A, 99, waiting(2, 1_000));
        assert!(!order.is_wanted(A, &old) && order.get(A, Ticket(2)).is_some());
    }

    #[test]
    fn a_full_lane_and_a_full_tenant_say_which_is_full() {
        let mut order = order();
        assert_eq!(order.full(A, 1, 0), None);
        assert_eq!(order.full(A, 2, 0), Some(FULL_TENANT));
        assert_eq!(order.full(TenantId(3), 2, 1), Some("the lane has as many questions as it may keep"));
        order.remove(A, Ticket(3));
        assert_eq!(order.full(A, 2, 0), None);
        // The log would trim the oldest.
        let mut order = Order::new(99, 99);
        order.insert(A, 1_000, waiting(1, 0));
        order.insert(A, 1_000 + MAX_WAITING_PER_TENANT as u64, waiting(2, 0));
        assert_eq!(order.full(A, 1, 0), Some(FULL_TENANT));
        order.remove(A, Ticket(1));
        assert_eq!(order.full(A, 1, 0), None);
    }

    #[test]
    fn what_waits_too_long_is_told_unless_it_is_being_answered() {
        let mut order = Order::new(99, 99);
        for (number, answer_by_ms) in [(1, 30), (2, 10), (3, 20)] {
            order.insert(A, number, waiting(number.into(), answer_by_ms));
        }
        let late = |order: &Order, now_ms, limit| {
            order.overdue(now_ms, limit).iter().map(|(_, waiting)| waiting.ticket.0).collect::<Vec<_>>()
        };
        assert_eq!((late(&order, 9, 9), late(&order, 10, 9), late(&order, 30, 2)), (vec![], vec![2], vec![2, 3]));
        let (_, first) = order.take(0).unwrap();
        assert_eq!(late(&order, 30, 9), [2, 3]);
        order.put_back(A, first, 99);
        assert_eq!(late(&order, 30, 9), [2, 3, 1]);
        order.remove(A, Ticket(1));
        assert_eq!((late(&order, 30, 9), order.next_ready_ms(0)), (vec![2, 3], Some(0)));
    }

    #[test]
    fn a_question_is_known_to_its_owner_only() {
        let order = order();
        assert!(order.is_of(A, "user-1", Ticket(1)));
        assert!(!order.is_of(A, "user-0", Ticket(1)) && !order.is_of(B, "user-1", Ticket(1)));
        assert!(order.get(B, Ticket(11)).is_some());
    }
}
