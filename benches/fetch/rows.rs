//! Both views of a batch under construction, filled user by user from what Redis sent: from hashes, in the way of either client, or from
//! packed rows. Says too how a user's rows lie in a hash. Fields are expected in the order in which they were written and Redis keeps
//! them, so that one comparison finds a field and no client pays for a search.

use larder_benches::{
    Answer, NOW_MS, ORDERS_PER_USER, Order, OrderColumns, Outcome, Packed, Profile, ProfileColumns, ReadFields, TTL_S,
};
use larder_store::Status;

use crate::hashmap::lists;

/// The field that holds the event time, and comes first.
pub(crate) const TIME: &str = "_ts";

/// The fields of a profile's hash after its event time.
pub(crate) fn profile_fields() -> impl Iterator<Item = String> {
    Profile::NAMES.iter().map(|name| name.to_string())
}

/// The fields of the hash of a user's orders after its event time.
pub(crate) fn orders_fields() -> impl Iterator<Item = String> {
    (0..ORDERS_PER_USER).flat_map(|index| Order::NAMES.iter().map(move |name| order_field(index, name)))
}

/// A field of the order at a position: `3:total`.
pub(crate) fn order_field(index: usize, name: &str) -> String {
    format!("{index}:{name}")
}

/// A hash that a client reads: its event time, then its fields.
pub(crate) trait ReadHash: ReadFields {
    /// Reads the event time; `None` when there is no such hash.
    fn event_time(&mut self) -> Outcome<Option<i64>>;
    /// How many fields were not read yet.
    fn fields_left(&self) -> usize;
}

/// Both views of some users.
pub(crate) struct Rows {
    profiles: ProfileColumns,
    profile_status: Vec<Status>,
    profile_at: Vec<i64>,
    orders: OrderColumns,
    order_counts: Vec<usize>,
    order_status: Vec<Status>,
    order_at: Vec<i64>,
}

impl Rows {
    pub(crate) fn new(users: usize) -> Rows {
        Rows {
            profiles: ProfileColumns::with_capacity(users),
            profile_status: Vec::with_capacity(users),
            profile_at: Vec::with_capacity(users),
            orders: OrderColumns::with_capacity(users * ORDERS_PER_USER),
            order_counts: Vec::with_capacity(users),
            order_status: Vec::with_capacity(users),
            order_at: Vec::with_capacity(users),
        }
    }

    #[inline]
    pub(crate) fn push_profile(&mut self, mut hash: impl ReadHash) -> Outcome<()> {
        let at = hash.event_time()?;
        self.begin_profile(at);
        if at.is_none() {
            self.profiles.push_null();
            return Ok(());
        }
        self.profiles.push_fields(&mut hash)?;
        all_read(&hash)
    }

    #[inline]
    pub(crate) fn push_orders(&mut self, mut hash: impl ReadHash) -> Outcome<()> {
        let at = hash.event_time()?;
        let mut count = 0;
        while hash.fields_left() > 0 && count < ORDERS_PER_USER {
            self.orders.push_fields(&mut hash)?;
            count += 1;
        }
        self.end_orders(at, count);
        all_read(&hash)
    }

    #[inline]
    pub(crate) fn push_packed_profile(&mut self, packed: Option<&[u8]>) -> Option<()> {
        let Some(packed) = packed else {
            self.begin_profile(None);
            self.profiles.push_null();
            return Some(());
        };
        let mut row = open_packed(packed)?;
        self.begin_profile(Some(i64::from_le_bytes(row.take()?)));
        self.profiles.push_packed(&mut row)
    }

    #[inline]
    pub(crate) fn push_packed_orders(&mut self, packed: Option<&[u8]>) -> Option<()> {
        let Some(packed) = packed else {
            self.end_orders(None, 0);
            return Some(());
        };
        let mut row = open_packed(packed)?;
        let at = i64::from_le_bytes(row.take()?);
        let [count] = row.take()?;
        (0..count).try_for_each(|_| self.orders.push_packed(&mut row))?;
        self.end_orders(Some(at), count.into());
        Some(())
    }

    pub(crate) fn finish(self) -> Outcome<Vec<Answer>> {
        Ok(vec![
            Answer { columns: self.profiles.finish(), status: self.profile_status, event_time_ms: self.profile_at },
            Answer {
                columns: lists(self.orders.finish(), self.order_counts)?,
                status: self.order_status,
                event_time_ms: self.order_at,
            },
        ])
    }

    #[inline]
    fn begin_profile(&mut self, at: Option<i64>) {
        self.profile_status.push(status(at));
        self.profile_at.push(at.unwrap_or(0));
    }

    #[inline]
    fn end_orders(&mut self, at: Option<i64>, count: usize) {
        self.order_status.push(status(at));
        self.order_at.push(at.unwrap_or(0));
        self.order_counts.push(count);
    }
}

fn open_packed(row: &[u8]) -> Option<Packed<'_>> {
    let (length, row) = row.split_first_chunk::<4>()?;
    let (fixed, text) = row.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(Packed { valid: 0, fixed, text: str::from_utf8(text).ok()? })
}

fn status(at: Option<i64>) -> Status {
    match at {
        Some(at) if NOW_MS < at + TTL_S as i64 * 1000 => Status::Present,
        Some(_) => Status::Expired,
        None => Status::NotFound,
    }
}

/// A field that nobody asked for would be a null in the answer.
fn all_read(hash: &impl ReadHash) -> Outcome<()> {
    match hash.fields_left() {
        0 => Ok(()),
        left => Err(format!("{left} fields of a hash were not expected there").into()),
    }
}
