//! The sample shop: its users and their orders at one moment, and what a node would fetch of them.
//!
//! How they are invented is `shop_draw`; this is what they are. The newest order of a user is the one with the greatest
//! event time, as in the `orders` view, and not the one placed last.

use serde_json::{Value, json};

use crate::shop_draw::Draw;

const FIRST_ORDER_ID: usize = 1_000_001;

/// The most features that mean nothing.
pub(crate) const MOST_DISTRACTORS: usize = 50;
/// What a feature that means nothing may say.
pub(crate) const DISTRACTOR_VALUES: [&str; 4] = ["amber", "blue", "coral", "dune"];

/// The name of the profile's n-th feature that means nothing, from 1.
pub(crate) fn distractor(number: usize) -> String {
    format!("distractor_{number}")
}

/// Users and orders at one moment.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) users: Vec<User>,
    /// By the time they were placed, as a shop's own table would be.
    pub(crate) orders: Vec<Order>,
    /// Per user, the index of the order with the greatest event time.
    newest: Vec<Option<usize>>,
    /// Features of each profile that mean nothing.
    pub(crate) distractors: usize,
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
        let mut draw = Draw::new(seed, now_ms);
        let mut shop =
            Shop { users: Vec::with_capacity(users), orders: Vec::new(), newest: Vec::new(), distractors: 0 };
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

    /// The same shop, with features in each profile that mean nothing.
    pub(crate) fn with_distractors(self, distractors: usize) -> Shop {
        Shop { distractors, ..self }
    }

    /// What a feature that means nothing says of a user: always the same, and unrelated to all else.
    pub(crate) fn distractor_value(user: usize, number: usize) -> &'static str {
        let mixed = ((user * MOST_DISTRACTORS + number) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        DISTRACTOR_VALUES[(mixed >> 32) as usize % DISTRACTOR_VALUES.len()]
    }

    /// The newest order of a user by event time: element 0 of the `orders` view.
    pub(crate) fn newest_order(&self, user: usize) -> Option<&Order> {
        self.newest.get(user).copied().flatten().map(|index| &self.orders[index])
    }

    /// The value a node would fetch for `view:feature` of a user; null where there is none, `None` for a name the shop
    /// does not have. For the `orders` view it is the value of the newest order.
    pub(crate) fn value(&self, user: usize, feature: &str) -> Option<Value> {
        match feature.split_once(':')? {
            ("profile", name) => match (1..=self.distractors).find(|number| distractor(*number) == name) {
                Some(number) => Some(json!(Shop::distractor_value(user, number))),
                None => self.users[user].value(name),
            },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_draw::DAY_MS;

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
