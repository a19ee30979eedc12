//! The sample shop: its users and their orders, drawn from a seed.
//!
//! The data is invented but consistent, because answers are rendered from it: an order that is still being packed
//! has no shipping date, a parcel on its way has not arrived, a return follows a delivery, nothing happens before
//! its user signed up or after `now_ms`. Statuses of the newest order are spread evenly enough that every question
//! that depends on one finds its users; older orders are mostly long delivered.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::shop_words::{CARRIERS, CITIES, FIRST_NAMES, ITEMS, LANGUAGES, LAST_NAMES};

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Nothing in the shop is older than this, except when a user signed up. One day less than the views' TTL.
const OLDEST_MS: i64 = 729 * DAY_MS;
const MOST_ORDERS: u32 = 20;
const USERS_WITHOUT_ORDERS: f64 = 0.03;
const FIRST_ORDER_ID: usize = 1_000_001;

/// Users and orders at one moment.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) users: Vec<User>,
    /// By the time they were placed, as a shop's own table would be.
    pub(crate) orders: Vec<Order>,
    /// Per user, the index of the order with the greatest event time.
    newest: Vec<Option<usize>>,
}

#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) city: Option<&'static str>,
    pub(crate) tier: &'static str,
    pub(crate) language: Option<&'static str>,
    pub(crate) signup_at: i64,
    pub(crate) loyalty_points: i64,
    pub(crate) store_credit: f64,
    pub(crate) is_business: bool,
    pub(crate) updated_at: i64,
}

#[derive(Debug)]
pub(crate) struct Order {
    /// Index into `Shop::users`.
    pub(crate) user: usize,
    pub(crate) order_id: String,
    pub(crate) item: &'static str,
    pub(crate) quantity: i32,
    pub(crate) total: f64,
    pub(crate) status: &'static str,
    pub(crate) payment_status: &'static str,
    pub(crate) return_status: &'static str,
    pub(crate) carrier: Option<&'static str>,
    pub(crate) tracking: Option<String>,
    pub(crate) placed_at: i64,
    pub(crate) shipped_at: Option<i64>,
    pub(crate) expected_at: Option<i64>,
    pub(crate) delivered_at: Option<i64>,
    pub(crate) updated_at: i64,
}

impl Shop {
    /// Draws a shop. The same seed, number of users and moment give the same shop.
    pub(crate) fn generate(seed: u64, users: usize, now_ms: i64) -> Shop {
        let mut draw = Draw { rng: StdRng::seed_from_u64(seed), now_ms };
        let mut shop = Shop { users: Vec::with_capacity(users), orders: Vec::new(), newest: Vec::new() };
        for index in 0..users {
            let orders = draw.orders_of(index);
            shop.users.push(draw.user(index, &orders));
            shop.orders.extend(orders);
        }
        shop.orders.sort_by_key(|order| (order.placed_at, order.user));
        shop.newest = vec![None; users];
        for (index, order) in shop.orders.iter_mut().enumerate() {
            order.order_id = (FIRST_ORDER_ID + index).to_string();
            if order.shipped_at.is_some() {
                order.tracking = Some(format!("LD{:09}", (FIRST_ORDER_ID + index) * 7_919 % 1_000_000_000));
            }
        }
        for (index, order) in shop.orders.iter().enumerate() {
            let newest = &mut shop.newest[order.user];
            if newest.is_none_or(|other| shop.orders[other].updated_at < order.updated_at) {
                *newest = Some(index);
            }
        }
        shop
    }

    /// The newest order of a user by event time: element 0 of the `orders` view.
    pub(crate) fn newest_order(&self, user: usize) -> Option<&Order> {
        self.newest.get(user).copied().flatten().map(|index| &self.orders[index])
    }

    /// The value a node would fetch for `view:feature` of a user; null where there is none, `None` for a name the shop
    /// does not have. For the `orders` view it is the value of the newest order.
    pub(crate) fn value(&self, user: usize, feature: &str) -> Option<Value> {
        match feature.split_once(':')? {
            ("profile", name) => self.users[user].value(name),
            ("orders", name) => match self.newest_order(user) {
                Some(order) => order.value(name),
                None => Some(Value::Null),
            },
            _ => None,
        }
    }
}

impl User {
    fn value(&self, feature: &str) -> Option<Value> {
        Some(match feature {
            "name" => json!(self.name),
            "city" => json!(self.city),
            "tier" => json!(self.tier),
            "language" => json!(self.language),
            "signup_at" => json!(self.signup_at),
            "loyalty_points" => json!(self.loyalty_points),
            "store_credit" => json!(self.store_credit),
            "is_business" => json!(self.is_business),
            _ => return None,
        })
    }
}

impl Order {
    fn value(&self, feature: &str) -> Option<Value> {
        Some(match feature {
            "order_id" => json!(self.order_id),
            "item" => json!(self.item),
            "quantity" => json!(self.quantity),
            "total" => json!(self.total),
            "status" => json!(self.status),
            "payment_status" => json!(self.payment_status),
            "return_status" => json!(self.return_status),
            "carrier" => json!(self.carrier),
            "tracking" => json!(self.tracking),
            "placed_at" => json!(self.placed_at),
            "shipped_at" => json!(self.shipped_at),
            "expected_at" => json!(self.expected_at),
            "delivered_at" => json!(self.delivered_at),
            _ => return None,
        })
    }
}

/// The random choices, in one place and in one order.
struct Draw {
    rng: StdRng,
    now_ms: i64,
}

impl Draw {
    fn user(&mut self, index: usize, orders: &[Order]) -> User {
        let first_order = orders.iter().map(|order| order.placed_at).min();
        let first_seen = first_order.unwrap_or_else(|| self.now_ms - self.days(0.0, 700.0));
        let signup_at = first_seen - self.days(0.0, 900.0);
        let oldest_update = signup_at.max(self.now_ms - OLDEST_MS);
        let tier = self.weighted(&[("basic", 65), ("silver", 25), ("gold", 10)]);
        let loyalty_points = match tier {
            "gold" => self.rng.random_range(2_000..12_000),
            "silver" => self.rng.random_range(500..2_000),
            _ => self.rng.random_range(0..500),
        };
        let has_credit = self.rng.random_bool(0.2);
        let credit_cents = if has_credit { self.rng.random_range(5..200) * 50 } else { 0 };
        let has_city = self.rng.random_bool(0.97);
        let has_language = self.rng.random_bool(0.95);
        User {
            id: user_id(index),
            name: format!("{} {}", self.pick(&FIRST_NAMES), self.pick(&LAST_NAMES)),
            city: has_city.then(|| self.pick(&CITIES)),
            tier,
            language: has_language.then(|| self.pick(&LANGUAGES)),
            signup_at,
            loyalty_points,
            store_credit: f64::from(credit_cents) / 100.0,
            is_business: is_business(index),
            updated_at: self.between(oldest_update, self.now_ms - 1),
        }
    }

    /// All orders of one user; ids and tracking numbers come later, when all orders of the shop are in order.
    fn orders_of(&mut self, user: usize) -> Vec<Order> {
        if self.rng.random_bool(USERS_WITHOUT_ORDERS) {
            return Vec::new();
        }
        let status = self.weighted(&[
            ("processing", 18),
            ("in_transit", 18),
            ("out_for_delivery", 12),
            ("delayed", 12),
            ("delivered", 32),
            ("cancelled", 8),
        ]);
        let mut orders = vec![self.order(user, status, None)];
        let newest_placed_at = orders[0].placed_at;
        for _ in 1..self.order_count() {
            let status = self.weighted(&[("delivered", 92), ("cancelled", 8)]);
            orders.push(self.order(user, status, Some(newest_placed_at)));
        }
        // Event times of one user differ, so that "the newest" is never a matter of luck.
        orders.sort_by_key(|order| std::cmp::Reverse(order.updated_at));
        for index in 1..orders.len() {
            let ceiling = orders[index - 1].updated_at - 1;
            orders[index].updated_at = orders[index].updated_at.min(ceiling);
        }
        orders
    }

    /// 1 to 20, the chance of n falling as 1/n (Zipf).
    fn order_count(&mut self) -> u32 {
        let harmonic: f64 = (1..=MOST_ORDERS).map(|n| 1.0 / f64::from(n)).sum();
        let mut left = self.rng.random_range(0.0..harmonic);
        (1..MOST_ORDERS)
            .find(|n| {
                left -= 1.0 / f64::from(*n);
                left < 0.0
            })
            .unwrap_or(MOST_ORDERS)
    }

    /// One order in the given status; with `before`, placed earlier than that.
    fn order(&mut self, user: usize, status: &'static str, before: Option<i64>) -> Order {
        let now = self.now_ms;
        let (item, price_cents) = self.pick(&ITEMS);
        let quantity = self.weighted(&[(1, 70), (2, 18), (3, 8), (4, 4)]);
        let placed_at = match (status, before) {
            // Long enough ago to have been delivered.
            (_, Some(before)) => self.between(now - OLDEST_MS, before.min(now - 4 * DAY_MS) - 1),
            ("processing", None) => now - self.days(0.01, 2.0),
            ("in_transit", None) => now - self.days(1.5, 5.0),
            ("out_for_delivery", None) => now - self.days(2.0, 6.0),
            ("delayed", None) => now - self.days(5.0, 15.0),
            ("cancelled", None) => now - self.days(0.1, 120.0),
            (_, None) => now - self.recent_days(3.0, 720.0),
        };
        let mut order = Order {
            user,
            order_id: String::new(),
            item,
            quantity,
            total: f64::from(price_cents) * f64::from(quantity) / 100.0,
            status,
            payment_status: self.payment_status(user, status),
            return_status: "none",
            carrier: None,
            tracking: None,
            placed_at,
            shipped_at: None,
            expected_at: None,
            delivered_at: None,
            updated_at: placed_at + self.days(0.001, 0.01),
        };
        if !matches!(status, "processing" | "cancelled") {
            order.shipped_at = Some(self.between(placed_at + HOUR_MS, (placed_at + DAY_MS).min(now - HOUR_MS)));
            order.carrier = Some(self.pick(&CARRIERS));
        }
        let since = order.shipped_at.unwrap_or(placed_at);
        match status {
            "processing" => order.expected_at = Some(now + self.days(2.0, 5.0)),
            "in_transit" => order.expected_at = Some(now + self.days(1.0, 4.0)),
            "out_for_delivery" => order.expected_at = Some(now + self.days(0.3, 0.9)),
            // The day that was missed.
            "delayed" => order.expected_at = Some(now - self.days(0.5, 4.0)),
            "delivered" => self.deliver(&mut order, since),
            _ => order.updated_at = self.between(placed_at + 1, (placed_at + DAY_MS).min(now - 1)),
        }
        if matches!(status, "in_transit" | "out_for_delivery" | "delayed") {
            order.updated_at = self.between(since.max(now - DAY_MS), now - 1);
        }
        order.updated_at = order.updated_at.min(now - 1);
        order
    }

    /// The parcel arrived; perhaps it is coming back.
    fn deliver(&mut self, order: &mut Order, shipped_at: i64) {
        let delivered_at = (shipped_at + self.days(0.5, 4.0)).min(self.now_ms - HOUR_MS);
        order.delivered_at = Some(delivered_at);
        order.expected_at = Some((delivered_at + self.days(-1.0, 1.0)).max(shipped_at + HOUR_MS));
        order.return_status = match self.now_ms - delivered_at {
            age if age < 30 * DAY_MS => {
                self.weighted(&[("none", 40), ("requested", 20), ("received", 20), ("refunded", 20)])
            }
            _ => self.weighted(&[("none", 85), ("refunded", 15)]),
        };
        order.updated_at = match order.return_status {
            "none" => delivered_at,
            _ => self.between(delivered_at, (delivered_at + 20 * DAY_MS).min(self.now_ms - 1)),
        };
    }

    /// Business customers may pay after the delivery; otherwise only an order that has not left can be unpaid.
    fn payment_status(&mut self, user: usize, status: &str) -> &'static str {
        match status {
            "processing" => self.weighted(&[("paid", 60), ("pending", 20), ("failed", 20)]),
            "cancelled" => self.weighted(&[("paid", 60), ("failed", 40)]),
            _ if is_business(user) => self.weighted(&[("paid", 70), ("pending", 30)]),
            _ => "paid",
        }
    }

    fn weighted<T: Copy>(&mut self, choices: &[(T, u32)]) -> T {
        let mut left = self.rng.random_range(0..choices.iter().map(|(_, weight)| weight).sum::<u32>());
        for (value, weight) in choices {
            if left < *weight {
                return *value;
            }
            left -= weight;
        }
        choices[choices.len() - 1].0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        // The word lists are constants and not empty.
        *list.choose(&mut self.rng).unwrap_or(&list[0])
    }

    /// A duration of `least` to `most` days, in milliseconds.
    fn days(&mut self, least: f64, most: f64) -> i64 {
        (self.rng.random_range(least..most) * DAY_MS as f64) as i64
    }

    /// As `days`, but short durations are as likely as long ones on a logarithmic scale.
    fn recent_days(&mut self, least: f64, most: f64) -> i64 {
        (self.rng.random_range(least.ln()..most.ln()).exp() * DAY_MS as f64) as i64
    }

    /// A moment from `first` to `last`, or `first` when that is already later.
    fn between(&mut self, first: i64, last: i64) -> i64 {
        if last <= first { first } else { self.rng.random_range(first..=last) }
    }
}

fn user_id(index: usize) -> String {
    format!("u{:07}", index + 1)
}

/// Every twelfth user buys for a business.
fn is_business(user: usize) -> bool {
    user % 12 == 7
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    #[test]
    fn the_same_seed_draws_the_same_shop() {
        let shop = |seed| format!("{:?}", Shop::generate(seed, 300, NOW_MS));
        assert_eq!(shop(1), shop(1));
        assert_ne!(shop(1), shop(2));
    }

    #[test]
    fn every_order_tells_a_possible_story() {
        let shop = Shop::generate(7, 2_000, NOW_MS);
        assert!(shop.orders.len() > 6_000, "{}", shop.orders.len());
        for order in &shop.orders {
            let sent = !matches!(order.status, "processing" | "cancelled");
            assert_eq!(order.shipped_at.is_some(), sent, "{order:?}");
            assert_eq!(order.tracking.is_some(), sent, "{order:?}");
            assert_eq!(order.carrier.is_some(), sent, "{order:?}");
            assert_eq!(order.delivered_at.is_some(), order.status == "delivered", "{order:?}");
            assert!(order.return_status == "none" || order.status == "delivered", "{order:?}");
            assert_eq!(order.expected_at.is_some(), order.status != "cancelled", "{order:?}");
            let shipped_at = order.shipped_at.unwrap_or(order.placed_at);
            let delivered_at = order.delivered_at.unwrap_or(shipped_at);
            let story = [NOW_MS - 731 * DAY_MS, order.placed_at, shipped_at, delivered_at, NOW_MS];
            assert!(story.is_sorted(), "{order:?}");
            assert!(order.updated_at >= order.placed_at && order.updated_at < NOW_MS, "{order:?}");
            assert!(shop.users[order.user].signup_at <= order.placed_at, "{order:?}");
            match order.status {
                "processing" | "in_transit" | "out_for_delivery" => assert!(order.expected_at.unwrap() > NOW_MS),
                "delayed" => assert!((shipped_at..NOW_MS).contains(&order.expected_at.unwrap()), "{order:?}"),
                _ => {}
            }
        }
    }

    #[test]
    fn users_have_0_to_20_orders_and_few_have_none() {
        let shop = Shop::generate(3, 5_000, NOW_MS);
        let mut counts = vec![0usize; 5_000];
        shop.orders.iter().for_each(|order| counts[order.user] += 1);
        assert_eq!(counts.iter().max(), Some(&20));
        let without = counts.iter().filter(|n| **n == 0).count();
        assert!((50..400).contains(&without), "{without}");
        let (one, ten) = (counts.iter().filter(|n| **n == 1).count(), counts.iter().filter(|n| **n == 10).count());
        assert!(one > 4 * ten, "{one} users with one order, {ten} with ten");
    }

    #[test]
    fn the_newest_order_is_the_one_with_the_greatest_event_time() {
        let shop = Shop::generate(5, 500, NOW_MS);
        for user in 0..500 {
            let mut times: Vec<i64> =
                shop.orders.iter().filter(|order| order.user == user).map(|order| order.updated_at).collect();
            times.sort_unstable();
            assert_eq!(shop.newest_order(user).map(|order| order.updated_at), times.last().copied());
            times.dedup();
            assert_eq!(times.len(), shop.orders.iter().filter(|order| order.user == user).count());
        }
    }

    #[test]
    fn values_are_what_a_fetch_would_return() {
        let shop = Shop::generate(9, 400, NOW_MS);
        assert_eq!(shop.value(0, "profile:name"), Some(json!(shop.users[0].name)));
        let user = (0..400).find(|user| shop.newest_order(*user).is_none()).unwrap();
        assert_eq!(shop.value(user, "orders:status"), Some(Value::Null));
        assert_eq!(shop.value(0, "profile:shoe_size"), None);
        assert_eq!(shop.value(0, "name"), None);
    }
}
