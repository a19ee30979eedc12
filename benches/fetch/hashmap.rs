//! The least a hot fetch could cost: a loop over a hash map from integers to ready-made structs that fills the same Arrow columns, and
//! knows times to live as the store does.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::Field;
use foldhash::fast::RandomState;
use larder_benches::{
    Answer, Batch, Figures, NOW_MS, Order, Outcome, Profile, TTL_S, User, in_turns, is_live, orders, profile, sum,
};
use larder_store::Status;

use crate::store::{Reader, Shop};

/// All users in RAM.
pub(crate) type Users = HashMap<u64, User, RandomState>;

/// Sets `hot_vs_hashmap`.
pub(crate) fn measure(shop: &Shop, reader: &Reader, batches: &[Batch], figures: &mut Figures) -> Outcome<()> {
    let users = collect(shop);
    let look_up_and_sum = |batch: &Batch| sum(&look_up(&users, &batch.users)?);
    for batch in batches.iter().take(10) {
        if Answer::of(reader.fetch(&batch.names)?) != look_up(&users, &batch.users)? {
            return Err("the store and the hash map fill different columns".into());
        }
    }
    let (ours, theirs) = in_turns(batches, |batch| reader.fetch_and_sum(batch), look_up_and_sum)?;
    figures.set("hot_us", ours);
    figures.set("hashmap_us", theirs);
    figures.set("hot_vs_hashmap", ours / theirs);
    Ok(())
}

/// The users of the shop, live rows included.
pub(crate) fn collect(shop: &Shop) -> Users {
    let user = |user| {
        let live = is_live(user);
        let (profile_at, profile) = profile(user, live);
        (user as u64, User { profile, profile_at, orders: orders(user, live) })
    };
    (0..shop.users).map(user).collect()
}

/// The hand-written equal of the fetch: one look-up per user, one loop per column.
pub(crate) fn look_up(users: &Users, batch: &[usize]) -> Outcome<Vec<Answer>> {
    let alive = |event_time_ms: i64| NOW_MS < event_time_ms + TTL_S as i64 * 1000;
    let found: Vec<_> = batch.iter().map(|&user| users.get(&(user as u64))).collect();

    let status = |at: Option<i64>| match at {
        Some(at) if alive(at) => Status::Present,
        Some(_) => Status::Expired,
        None => Status::NotFound,
    };
    let at: Vec<_> = found.iter().map(|user| user.map(|user| user.profile_at)).collect();
    let profiles = Answer {
        columns: Profile::columns(
            found.iter().map(|user| user.filter(|user| alive(user.profile_at)).map(|user| &user.profile)),
        ),
        status: at.iter().map(|at| status(*at)).collect(),
        event_time_ms: at.iter().map(|at| at.unwrap_or(0)).collect(),
    };

    let at: Vec<_> = found.iter().map(|user| user.and_then(|user| Some(user.orders.first()?.0))).collect();
    let (mut visible, mut lengths) = (Vec::with_capacity(20 * batch.len()), Vec::with_capacity(batch.len()));
    for user in &found {
        let before = visible.len();
        let orders = user.iter().flat_map(|user| &user.orders);
        visible.extend(orders.take_while(|(at, _)| alive(*at)).map(|(_, order)| Some(order)));
        lengths.push(visible.len() - before);
    }
    let orders = Answer {
        columns: lists(Order::columns(visible.iter().copied()), lengths)?,
        status: at.iter().map(|at| status(*at)).collect(),
        event_time_ms: at.iter().map(|at| at.unwrap_or(0)).collect(),
    };
    Ok(vec![profiles, orders])
}

/// Columns of elements as lists, one per user; a user without elements has null.
pub(crate) fn lists(elements: Vec<ArrayRef>, lengths: Vec<usize>) -> Outcome<Vec<ArrayRef>> {
    let nulls = NullBuffer::from_iter(lengths.iter().map(|length| *length > 0));
    let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = |values: ArrayRef| -> Outcome<ArrayRef> {
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        Ok(Arc::new(ListArray::try_new(field, offsets.clone(), values, nulls.clone())?))
    };
    elements.into_iter().map(list).collect()
}
