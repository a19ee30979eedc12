//! How the sample shop is invented: every random choice about a user and an order.
//!
//! The data is made up but consistent, because answers are rendered from it: an order that is still being packed has no
//! shipping date, a parcel on its way has not arrived, a return follows a delivery, nothing happens before its user
//! signed up or after `now_ms`. Statuses of the newest order are spread evenly enough that every question that depends
//! on one finds its users; older orders are long delivered or cancelled.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::shop::{Order, Shop, User};

const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Nothing in the shop is older than this, except when a user signed up. One day less than the views' TTL.
const OLDEST_MS: i64 = 729 * DAY_MS;
/// Of a user who is as active as the mean.
const MOST_ORDERS: u32 = 20;
/// Of the most active user of a shop whose users are unlike. Its view keeps the newest 20.
pub(crate) const MOST_ORDERS_UNEVEN: u32 = 1_000;
/// The mean of a user's orders where all are alike: the mean of 1 to 20 under Zipf's law, less those who have none.
pub(crate) const MEAN_ORDERS: f64 = 5.39;
const USERS_WITHOUT_ORDERS: f64 = 0.03;
const FIRST_ORDER_ID: u64 = 1_000_001;

/// The random choices about one user, in one place and in one order. They depend on the shop's seed and the user's number alone, so that users
/// can be drawn in any order, by several threads, and again.
pub(crate) struct Draw<'a> {
    shop: &'a Shop,
    index: usize,
    rng: StdRng,
    now_ms: i64,
}

impl Draw<'_> {
    pub(crate) fn new(shop: &Shop, index: usize) -> Draw<'_> {
        let rng = StdRng::seed_from_u64(mixed(shop.seed ^ mixed(index as u64 + 1)));
        Draw { shop, index, rng, now_ms: shop.now_ms }
    }

    /// The user, who has signed up before placing the first of `orders`.
    pub(crate) fn user(&mut self, orders: &[Order]) -> User {
        let locale = self.shop.locale;
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
            id: user_id(self.index),
            name: (locale.full_name)(self.pick(locale.first_names), self.pick(locale.last_names)),
            city: has_city.then(|| self.pick(locale.cities)),
            tier,
            language: has_language.then(|| self.pick(locale.languages)),
            signup_at,
            loyalty_points,
            store_credit: f64::from(credit_cents) / 100.0,
            is_business: is_business(self.index),
            updated_at: self.between(oldest_update, self.now_ms - 1),
        }
    }

    /// All orders of the user, newest event first.
    pub(crate) fn orders(&mut self) -> Vec<Order> {
        let count = self.order_count();
        if count == 0 {
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
        let mut orders = vec![self.order(status, None)];
        let newest_placed_at = orders[0].placed_at;
        for _ in 1..count {
            let status = self.weighted(&[("delivered", 92), ("cancelled", 8)]);
            orders.push(self.order(status, Some(newest_placed_at)));
        }
        self.number(&mut orders);
        // Event times of one user differ, so that "the newest" is never a matter of luck.
        orders.sort_by_key(|order| std::cmp::Reverse((order.updated_at, order.order_id)));
        for index in 1..orders.len() {
            let ceiling = orders[index - 1].updated_at - 1;
            orders[index].updated_at = orders[index].updated_at.min(ceiling);
        }
        orders
    }

    /// Numbers a user's orders by when they were placed, from a range of the user's own: nobody needs to know all orders of the shop.
    fn number(&self, orders: &mut [Order]) {
        let most = if self.shop.activity.is_uneven() { MOST_ORDERS_UNEVEN } else { MOST_ORDERS };
        let first = FIRST_ORDER_ID + self.index as u64 * u64::from(most);
        orders.sort_by_key(|order| order.placed_at);
        for (order, id) in orders.iter_mut().zip(first..) {
            order.order_id = id;
            order.tracking = order.shipped_at.map(|_| format!("LD{:09}", u128::from(id) * 7_919 % 1_000_000_000));
        }
    }

    /// How many orders the user has: none, or 1 to 20, the chance of n falling as 1/n (Zipf), and that times as many as the user is more
    /// active than the mean.
    fn order_count(&mut self) -> u32 {
        let none = self.rng.random_bool(USERS_WITHOUT_ORDERS);
        let usual = self.usual_order_count();
        let activity = &self.shop.activity;
        if none || !activity.is_uneven() {
            return if none { 0 } else { usual };
        }
        let scaled = f64::from(usual) * activity.of(self.index);
        // Rounded by lot, so that the mean stays.
        let rounded = scaled.floor() + f64::from(u8::from(self.rng.random_bool(scaled.fract())));
        rounded.min(f64::from(MOST_ORDERS_UNEVEN)) as u32
    }

    fn usual_order_count(&mut self) -> u32 {
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
    fn order(&mut self, status: &'static str, before: Option<i64>) -> Order {
        let (now, locale) = (self.now_ms, self.shop.locale);
        let (item, price_cents) = self.pick(locale.items);
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
            user: self.index,
            order_id: 0,
            item,
            quantity,
            total: f64::from(price_cents) * f64::from(quantity) / 100.0,
            status,
            payment_status: self.payment_status(status),
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
            order.carrier = Some(self.pick(locale.carriers));
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
    fn payment_status(&mut self, status: &str) -> &'static str {
        match status {
            "processing" => self.weighted(&[("paid", 60), ("pending", 20), ("failed", 20)]),
            "cancelled" => self.weighted(&[("paid", 60), ("failed", 40)]),
            _ if is_business(self.index) => self.weighted(&[("paid", 70), ("pending", 30)]),
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

/// The key of the user of that number, from 0: u0000001 and so on, with more digits where seven are too few.
pub(crate) fn user_id(index: usize) -> String {
    format!("u{:07}", index + 1)
}

/// Every twelfth user buys for a business.
fn is_business(user: usize) -> bool {
    user % 12 == 7
}

/// Spreads numbers over all 64 bits (the finaliser of splitmix64).
pub(crate) fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
