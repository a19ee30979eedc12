//! The rows of the benchmarks: invented customers of an invented shop, each a function of its number. A profile has 30 features of all
//! kinds, a history 20 orders of 5 features, an account 12 features in about 150 bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::error::ArrowError;
use larder_store::{TenantId, ViewConfig, ViewKind};

use crate::{Time, record};

/// The time at which all benchmarks fetch, Unix milliseconds UTC.
pub const NOW_MS: i64 = 1_800_000_000_000;
/// The state that the snapshots show is this old; live rows are newer.
pub const SNAPSHOT_MS: i64 = NOW_MS - DAY_MS / 2;
/// Whose rows these are.
pub const TENANT: TenantId = TenantId(1);
/// The number of the first generation of each view.
pub const GENERATION: u32 = 1;
/// Time to live of every view, seconds.
pub const TTL_S: u64 = 63_072_000;
/// Orders of each user.
pub const ORDERS_PER_USER: usize = 20;
/// One user in this many has live rows.
pub const LIVE_EVERY: usize = 20;

/// The name of the view of profiles.
pub const PROFILE: &str = "profile";
/// The name of the view of orders.
pub const ORDERS: &str = "orders";
/// The name of the view of accounts.
pub const ACCOUNT: &str = "account";

const DAY_MS: i64 = 86_400_000;

record! {
    /// What a shop knows about a customer.
    Profile, ProfileColumns {
        name: Box<str>,
        city: Box<str>,
        country: Box<str>,
        language: Box<str>,
        tier: Box<str>,
        device: Box<str>,
        segment: Box<str>,
        campaign: Option<Box<str>>,
        signup_at: Time,
        last_seen_at: Time,
        born_at: Time,
        last_refund_at: Option<Time>,
        loyalty_points: i64,
        orders_total: i64,
        visits_total: i64,
        items_total: i64,
        tickets_total: i64,
        store_credit: f64,
        spent_total: f64,
        spent_90d: f64,
        basket_mean: f64,
        refunded_total: f64,
        churn_score: f32,
        fraud_score: f32,
        return_rate: f32,
        open_rate: f32,
        visits_7d: i32,
        visits_30d: i32,
        is_business: bool,
        is_subscribed: bool,
    }
}

record! {
    /// One order of a history.
    Order, OrderColumns {
        order_id: Box<str>,
        status: Box<str>,
        quantity: i32,
        total: f64,
        delivered_at: Option<Time>,
    }
}

record! {
    /// A smaller row, about 150 bytes with its key, for the benchmarks of many rows.
    Account, AccountColumns {
        name: Box<str>,
        city: Box<str>,
        tier: Box<str>,
        note: Option<Box<str>>,
        opened_at: Time,
        points: i64,
        visits: i64,
        balance: f64,
        spent: f64,
        churn_score: f32,
        level: i32,
        is_business: bool,
    }
}

/// A user as a program would hold it that has no store. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The profile.
    pub profile: Profile,
    /// When it became true.
    pub profile_at: i64,
    /// The orders with the times at which they became true, newest first.
    pub orders: Vec<(i64, Order)>,
}

/// The key of a user.
pub fn name(user: usize) -> String {
    format!("user_{user:08}")
}

/// Whether a user's rows were changed after the snapshot.
pub fn is_live(user: usize) -> bool {
    user % LIVE_EVERY == 7
}

/// The profile of a user with its event time: of the snapshot, or as a live write changed it.
pub fn profile(user: usize, live: bool) -> (i64, Profile) {
    let number = user as i64;
    let pick = |from: &[&str], salt: usize| -> Box<str> { from[(user * 31 + salt) % from.len()].into() };
    let profile = Profile {
        name: format!("Customer Number {user}").into(),
        city: format!("City of {}", user % 500).into(),
        country: pick(&["DE", "FR", "PL", "NL", "ES", "IT"], 1),
        language: pick(&["de", "fr", "pl", "nl", "es", "it", "en"], 2),
        tier: pick(&["basic", "silver", "gold"], 3),
        device: pick(&["android", "iphone", "desktop", "tablet"], 4),
        segment: format!("segment-{:03}", user % 250).into(),
        campaign: user.is_multiple_of(3).then(|| format!("campaign-{}", user % 40).into()),
        signup_at: Time(NOW_MS - number % 2000 * DAY_MS),
        last_seen_at: Time(NOW_MS - number % 90 * DAY_MS / 2),
        born_at: Time(NOW_MS - (7000 + number % 20_000) * DAY_MS),
        last_refund_at: user.is_multiple_of(4).then_some(Time(NOW_MS - number % 700 * DAY_MS)),
        loyalty_points: number * 13 % 9000 + i64::from(live),
        orders_total: number % 400,
        visits_total: number * 7 % 5000,
        items_total: number * 3 % 1900,
        tickets_total: number % 9,
        store_credit: (user % 100) as f64 / 4.0,
        spent_total: (user % 90_000) as f64 / 8.0,
        spent_90d: (user % 4000) as f64 / 16.0,
        basket_mean: (user % 300) as f64 / 2.0,
        refunded_total: (user % 50) as f64 / 4.0,
        churn_score: (user % 1000) as f32 / 1024.0,
        fraud_score: (user % 777) as f32 / 1024.0,
        return_rate: (user % 100) as f32 / 128.0,
        open_rate: (user % 64) as f32 / 64.0,
        visits_7d: (user % 30) as i32,
        visits_30d: (user % 130) as i32,
        is_business: user.is_multiple_of(7),
        is_subscribed: user % 5 > 1,
    };
    (NOW_MS - if live { 10 } else { DAY_MS }, profile)
}

/// The orders of a user with their event times, newest first. A live write has changed the newest one.
pub fn orders(user: usize, live: bool) -> Vec<(i64, Order)> {
    let order = |index: usize| {
        let number = (user * ORDERS_PER_USER + ORDERS_PER_USER - index) as i64;
        let changed = live && index == 0;
        let status = ["processing", "in_transit", "out_for_delivery", "delivered", "cancelled"];
        let at = if changed { NOW_MS - 10 } else { NOW_MS - (1 + index as i64) * DAY_MS };
        let order = Order {
            order_id: format!("{number:010}").into(),
            status: status[if changed { 3 } else { (user + index) % status.len() }].into(),
            quantity: 1 + (index % 5) as i32,
            total: (number % 50_000) as f64 / 4.0,
            delivered_at: (index > 1).then_some(Time(NOW_MS - index as i64 * DAY_MS + 3_600_000)),
        };
        (at, order)
    };
    (0..ORDERS_PER_USER).map(order).collect()
}

/// The account of a user; `generation` changes its numbers, so that generations differ.
fn account(user: usize, generation: u32) -> Account {
    let number = user as i64 + i64::from(generation);
    Account {
        name: format!("Customer Number {user}").into(),
        city: format!("City of {}", user % 500).into(),
        tier: ["basic", "silver", "gold"][user % 3].into(),
        note: user.is_multiple_of(3).then(|| format!("called about order {:07}", user * 7 % 9_999_991).into()),
        opened_at: Time(NOW_MS - number % 2000 * DAY_MS),
        points: number * 13 % 9000,
        visits: number * 7 % 5000,
        balance: (number % 100_000) as f64 / 4.0,
        spent: (number % 777_777) as f64 / 8.0,
        churn_score: (number % 1000) as f32 / 1024.0,
        level: (number % 40) as i32,
        is_business: user.is_multiple_of(7),
    }
}

fn view(name: &str, id: u16, features: Vec<larder_store::FeatureConfig>) -> ViewConfig {
    ViewConfig {
        name: name.to_string(),
        id,
        kind: ViewKind::Latest,
        entity_key: "user_id".to_string(),
        event_time: "updated_at".to_string(),
        ttl_s: Some(TTL_S),
        n: None,
        element_key: None,
        features,
    }
}

/// The view of profiles.
pub fn profile_view() -> ViewConfig {
    view(PROFILE, 1, Profile::features())
}

/// The view of orders.
pub fn orders_view() -> ViewConfig {
    ViewConfig {
        kind: ViewKind::LastN,
        n: Some(ORDERS_PER_USER as u32),
        element_key: Some("order_id".to_string()),
        ..view(ORDERS, 2, Order::features())
    }
}

/// The view of accounts.
pub fn account_view() -> ViewConfig {
    view(ACCOUNT, 3, Account::features())
}

/// The profiles of some users, as the canonical batch of the view.
pub fn profile_batch(users: impl Iterator<Item = usize>, live: bool) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<_> = users.map(|user| (name(user), profile(user, live))).collect();
    let columns = Profile::columns(rows.iter().map(|(_, (_, profile))| Some(profile)));
    batch(&profile_view(), rows.iter().map(|(name, (at, _))| (name.as_str(), *at)), columns)
}

/// The newest `count` orders of some users, one row each, as the canonical batch of the view.
pub fn orders_batch(users: impl Iterator<Item = usize>, live: bool, count: usize) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<_> = users
        .flat_map(|user| {
            let name = name(user);
            orders(user, live).into_iter().take(count).map(move |(at, order)| (name.clone(), at, order))
        })
        .collect();
    let columns = Order::columns(rows.iter().map(|(_, _, order)| Some(order)));
    batch(&orders_view(), rows.iter().map(|(name, at, _)| (name.as_str(), *at)), columns)
}

/// Accounts, as the canonical batch of the view.
pub fn account_batch(users: impl Iterator<Item = usize>, generation: u32) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<_> = users.map(|user| (name(user), account(user, generation))).collect();
    let columns = Account::columns(rows.iter().map(|(_, account)| Some(account)));
    batch(&account_view(), rows.iter().map(|(name, _)| (name.as_str(), NOW_MS - DAY_MS)), columns)
}

fn batch<'a>(
    view: &ViewConfig,
    keys: impl Iterator<Item = (&'a str, i64)> + Clone,
    columns: Vec<ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let entities = StringArray::from_iter_values(keys.clone().map(|(entity, _)| entity));
    let times = TimestampMillisecondArray::from_iter_values(keys.map(|(_, at)| at)).with_timezone("UTC");
    let mut all: Vec<ArrayRef> = vec![Arc::new(entities), Arc::new(times)];
    all.extend(columns);
    RecordBatch::try_new(view.arrow_schema(), all)
}
