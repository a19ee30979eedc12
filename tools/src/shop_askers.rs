//! Who asks a sample shop's questions: for each text a user whom it fits, drawn when looked at, so that a shop of a hundred million users costs no
//! more than a small one.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::shop::{Customer, Shop, shuffled};

/// How many users are looked at for one who can ask a text; rarer ones a shop does not have.
const MOST_LOOKED_AT: usize = 100_000;

/// Whether a user has the values that a text needs.
pub(crate) fn suits(shop: &Shop, customer: &Customer, needs: &BTreeMap<String, Value>) -> bool {
    needs.iter().all(|(feature, value)| shop.value(customer, feature).as_ref() == Some(value))
}

/// One of two parts of the users, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Half {
    Even,
    Odd,
}

/// Users who ask, each at most once as long as others suit as well.
pub(crate) struct Askers<'a> {
    shop: &'a Shop,
    half: Half,
    /// Users of the half.
    count: usize,
    /// Places in the half's own order.
    asked: HashSet<usize>,
    cursor: usize,
    /// Who was looked at, with the newest order alone.
    seen: HashMap<usize, Customer>,
}

impl<'a> Askers<'a> {
    pub(crate) fn new(shop: &'a Shop, half: Half) -> Askers<'a> {
        let count = match half {
            Half::Even => shop.users.div_ceil(2),
            Half::Odd => shop.users / 2,
        };
        Askers { shop, half, count, asked: HashSet::new(), cursor: 0, seen: HashMap::new() }
    }

    pub(crate) fn next(&mut self, suits: impl Fn(&Customer) -> bool) -> Option<&Customer> {
        let mut again = None;
        let mut fresh = None;
        for step in 0..self.count.min(MOST_LOOKED_AT) {
            let place = (self.cursor + step) % self.count;
            let has_asked = self.asked.contains(&place);
            if (has_asked && again.is_some()) || !suits(self.at(place)) {
                continue;
            }
            if !has_asked {
                fresh = Some(place);
                break;
            }
            again = Some(place);
        }
        let place = fresh.or(again)?;
        self.asked.insert(place);
        self.cursor = place + 1;
        Some(self.at(place))
    }

    /// The user at a place of an order that has nothing to do with the users.
    fn at(&mut self, place: usize) -> &Customer {
        let (shop, half, count) = (self.shop, self.half, self.count);
        self.seen.entry(place).or_insert_with(|| {
            let user = match half {
                Half::Even => 2 * shuffled(count, shop.seed ^ 0xE7E4, place),
                Half::Odd => 2 * shuffled(count, shop.seed ^ 0x0DD5, place) + 1,
            };
            let mut customer = shop.customer(user);
            customer.orders.truncate(1);
            customer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_locale::ENGLISH;

    fn shop(users: usize) -> Shop {
        Shop::new(3, users, 1_790_000_000_000, &ENGLISH).unwrap()
    }

    #[test]
    fn every_user_asks_once_before_one_asks_again() {
        let shop = shop(7);
        let mut askers = Askers::new(&shop, Half::Odd);
        let any: Vec<usize> = (0..4).filter_map(|_| Some(askers.next(|_| true)?.index())).collect();
        let mut distinct = any[..3].to_vec();
        distinct.sort_unstable();
        assert_eq!((distinct, any[3]), (vec![1, 3, 5], any[0]));
        assert_eq!(askers.next(|customer| customer.index() == 5).map(Customer::index), Some(5));
        assert!(askers.next(|customer| customer.index() == 4).is_none());
        let mut even = Askers::new(&shop, Half::Even);
        assert!((0..4).all(|_| even.next(|_| true).unwrap().index().is_multiple_of(2)));
    }

    #[test]
    fn a_hundred_million_users_are_asked_as_fast_as_a_few() {
        let shop = shop(100_000_000);
        let mut askers = Askers::new(&shop, Half::Odd);
        for _ in 0..50 {
            let found = askers.next(|customer| customer.user.tier == "gold").unwrap();
            assert_eq!((found.user.tier, found.index() % 2), ("gold", 1));
        }
        assert!(askers.seen.len() < 5_000, "{}", askers.seen.len());
    }
}
