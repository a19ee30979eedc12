//! The sample shop: its users and their orders at one moment, and what a node would fetch of them.
//!
//! A shop holds nothing: a customer is drawn from the seed whenever asked for, always the same one, so that a shop may have any number of
//! users. How they are invented is `shop_draw`; this is what they are. The newest order of a user is the one with the greatest event time, as in
//! the `orders` view, and not the one placed last.

use anyhow::Result;
use serde_json::{Value, json};

use crate::shop_activity::Activity;
use crate::shop_draw::{Draw, mixed, user_id};
use crate::shop_locale::Locale;

/// The most features that mean nothing.
pub(crate) const MOST_DISTRACTORS: usize = 50;
/// What a feature that means nothing may say.
pub(crate) const DISTRACTOR_VALUES: [&str; 4] = ["amber", "blue", "coral", "dune"];

/// The name of the profile's n-th feature that means nothing, from 1.
pub(crate) fn distractor(number: usize) -> String {
    format!("distractor_{number}")
}

/// Users and orders at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
    pub(crate) seed: u64,
    /// How many there are.
    pub(crate) users: usize,
    /// Unix milliseconds UTC; nothing in the shop is later.
    pub(crate) now_ms: i64,
    pub(crate) locale: &'static Locale,
    pub(crate) activity: Activity,
    /// Features of each profile that mean nothing.
    pub(crate) distractors: usize,
}

/// A user with all orders, those with the greatest event time first.
#[derive(Debug)]
pub(crate) struct Customer {
    index: usize,
    pub(crate) user: User,
    pub(crate) orders: Vec<Order>,
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
    /// The user's number.
    pub(crate) user: usize,
    pub(crate) order_id: u64,
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
    /// A shop of users who are all alike. The same seed, number of users and moment give the same shop.
    pub(crate) fn new(seed: u64, users: usize, now_ms: i64, locale: &'static Locale) -> Result<Shop> {
        Ok(Shop { seed, users, now_ms, locale, activity: Activity::new(users, 0.0)?, distractors: 0 })
    }

    /// The same shop, whose users buy and ask by Zipf's law with this exponent, the first the most.
    pub(crate) fn with_zipf(self, exponent: f64) -> Result<Shop> {
        Ok(Shop { activity: Activity::new(self.users, exponent)?, ..self })
    }

    /// The same shop, with features in each profile that mean nothing.
    pub(crate) fn with_distractors(self, distractors: usize) -> Shop {
        Shop { distractors, ..self }
    }

    /// The user of that number, from 0, and the orders.
    pub(crate) fn customer(&self, index: usize) -> Customer {
        let mut draw = Draw::new(self, index);
        let orders = draw.orders();
        let user = draw.user(&orders);
        Customer { index, user, orders }
    }

    /// All users' numbers in an order that has nothing to do with them: the `place`-th of it.
    pub(crate) fn shuffled(&self, place: usize) -> usize {
        shuffled(self.users, self.seed, place)
    }

    /// What a feature that means nothing says of a user: always the same, and unrelated to all else.
    pub(crate) fn distractor_value(user: usize, number: usize) -> &'static str {
        let mixed = ((user * MOST_DISTRACTORS + number) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        DISTRACTOR_VALUES[(mixed >> 32) as usize % DISTRACTOR_VALUES.len()]
    }

    /// The value a node would fetch for `view:feature` of a user; null where there is none, `None` for a name the shop
    /// does not have. For the `orders` view it is the value of the newest order.
    pub(crate) fn value(&self, customer: &Customer, feature: &str) -> Option<Value> {
        match feature.split_once(':')? {
            ("profile", name) => match (1..=self.distractors).find(|number| distractor(*number) == name) {
                Some(number) => Some(json!(Shop::distractor_value(customer.index, number))),
                None => customer.user.value(name),
            },
            ("orders", name) => match customer.newest_order() {
                Some(order) => order.value(name),
                None => Some(Value::Null),
            },
            _ => None,
        }
    }
}

/// The `place`-th of the numbers below `count` in an order that the seed decides, each once: a + b * place modulo count, with b coprime to it.
pub(crate) fn shuffled(count: usize, seed: u64, place: usize) -> usize {
    let modulus = count as u64;
    let start = mixed(seed) % modulus;
    let mut step = mixed(seed.wrapping_add(1)) % modulus;
    while divisor(step, modulus) != 1 {
        step = (step + 1) % modulus;
    }
    ((u128::from(step) * place as u128 + u128::from(start)) % u128::from(modulus)) as usize
}

/// The greatest common one; of 0 and n it is n.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

impl Customer {
    /// The user's number, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The newest order by event time: element 0 of the `orders` view.
    pub(crate) fn newest_order(&self) -> Option<&Order> {
        self.orders.first()
    }
}

impl Order {
    /// The key of the user.
    pub(crate) fn user_id(&self) -> String {
        user_id(self.user)
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
            "order_id" => json!(self.order_id.to_string()),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::shop_draw::{DAY_MS, MEAN_ORDERS, MOST_ORDERS_UNEVEN};
    use crate::shop_locale::{CHINESE, ENGLISH};

    const NOW_MS: i64 = 1_790_000_000_000;

    fn shop(seed: u64, users: usize) -> Shop {
        Shop::new(seed, users, NOW_MS, &ENGLISH).unwrap()
    }

    fn customers(shop: &Shop) -> impl Iterator<Item = Customer> {
        (0..shop.users).map(|index| shop.customer(index))
    }

    #[test]
    fn a_customer_is_the_same_whenever_drawn() {
        let draw = |seed, index: usize| format!("{:?}", shop(seed, 300).customer(index));
        assert_eq!(draw(1, 7), draw(1, 7));
        assert_ne!(draw(1, 7), draw(2, 7));
        assert_ne!(draw(1, 7), draw(1, 8));
    }

    #[test]
    fn every_order_tells_a_possible_story() {
        let mut orders = 0;
        for locale in [&ENGLISH, &CHINESE] {
            for Customer { user, orders: own, .. } in customers(&Shop::new(7, 1_000, NOW_MS, locale).unwrap()) {
                orders += own.len();
                own.iter().for_each(|order| check(&user, order));
            }
        }
        assert!(orders > 8_000, "{orders}");
    }

    fn check(user: &User, order: &Order) {
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
        assert!(user.signup_at <= order.placed_at, "{order:?}");
        match order.status {
            "processing" | "in_transit" | "out_for_delivery" => assert!(order.expected_at.unwrap() > NOW_MS),
            "delayed" => assert!((shipped_at..NOW_MS).contains(&order.expected_at.unwrap()), "{order:?}"),
            _ => {}
        }
    }

    #[test]
    fn users_have_0_to_20_orders_and_few_have_none() {
        let counts: Vec<usize> = customers(&shop(3, 5_000)).map(|customer| customer.orders.len()).collect();
        assert_eq!(counts.iter().max(), Some(&20));
        let of = |wanted: usize| counts.iter().filter(|n| **n == wanted).count();
        assert!((50..400).contains(&of(0)), "{}", of(0));
        assert!(of(1) > 4 * of(10), "{} users with one order, {} with ten", of(1), of(10));
        let mean = counts.iter().sum::<usize>() as f64 / 5_000.0;
        assert!((mean / MEAN_ORDERS - 1.0).abs() < 0.05, "{mean}");
    }

    #[test]
    fn an_uneven_shop_has_as_many_orders_and_the_first_users_have_most() {
        let shop = shop(3, 20_000).with_zipf(0.6).unwrap();
        let counts: Vec<usize> = customers(&shop).map(|customer| customer.orders.len()).collect();
        let mean = counts.iter().sum::<usize>() as f64 / 20_000.0;
        assert!((mean / MEAN_ORDERS - 1.0).abs() < 0.08, "{mean}");
        let top: usize = counts[..200].iter().sum();
        // The first hundredth has (n/100)^0.4 / n^0.4 of all: 16 %.
        assert!((0.11..0.21).contains(&(top as f64 / (mean * 20_000.0))), "{top}");
        let steep = self::shop(3, 20_000).with_zipf(2.0).unwrap();
        assert_eq!(steep.customer(0).orders.len(), MOST_ORDERS_UNEVEN as usize, "there is a limit");
    }

    #[test]
    fn order_ids_are_the_shops_own_and_event_times_the_users() {
        for shop in [shop(5, 400), shop(5, 400).with_zipf(1.0).unwrap()] {
            let mut ids = BTreeSet::new();
            for customer in customers(&shop) {
                let times: Vec<i64> = customer.orders.iter().map(|order| order.updated_at).collect();
                assert!(times.windows(2).all(|pair| pair[0] > pair[1]), "{times:?}");
                assert!(customer.orders.iter().all(|order| ids.insert(order.order_id)), "an order id stands twice");
            }
        }
    }

    #[test]
    fn every_user_comes_once_in_the_shuffled_order() {
        for users in [1, 2, 12, 997, 1_000] {
            let order: BTreeSet<usize> = (0..users).map(|place| shuffled(users, 9, place)).collect();
            assert_eq!(order.len(), users);
            assert_eq!(order.last(), Some(&(users - 1)));
        }
        assert_ne!(shuffled(1_000, 9, 1), shuffled(1_000, 10, 1));
        assert!(shuffled(100_000_000, 42, 99_999_999) < 100_000_000);
    }

    #[test]
    fn values_are_what_a_fetch_would_return() {
        let shop = shop(9, 400);
        let first = shop.customer(0);
        assert_eq!(shop.value(&first, "profile:name"), Some(json!(first.user.name)));
        let without = customers(&shop).find(|customer| customer.newest_order().is_none()).unwrap();
        assert_eq!(shop.value(&without, "orders:status"), Some(Value::Null));
        assert_eq!(shop.value(&first, "profile:shoe_size"), None);
        assert_eq!(shop.value(&first, "name"), None);
    }
}
