//! Redis as people use it: through the `redis` crate, in the way its documentation shows, on one blocking connection. Hashes hold what the
//! crate makes of the values, numbers in decimal; HGETALL brings them back in one pipeline, or one call after the other. Replies are taken
//! as the crate's own `Value`, the cheapest form it has: no map and no `String` is made of them.

use std::ops::Range;

use ::redis::{Client, Cmd, Connection, Value, cmd, pipe};
use larder_benches::{Answer, Batch, Outcome, ReadFields, Scalar, TextField, is_live, name, orders, profile};

use crate::rows::{ReadHash, Rows, TIME, order_field, orders_fields, profile_fields};

/// A connection of the `redis` crate.
pub(crate) struct StockClient {
    connection: Connection,
    profile_fields: Vec<String>,
    orders_fields: Vec<String>,
}

impl StockClient {
    /// Connects to a server on this machine.
    pub(crate) fn connect(port: u16) -> Outcome<StockClient> {
        Ok(StockClient {
            connection: Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection()?,
            profile_fields: profile_fields().collect(),
            orders_fields: orders_fields().collect(),
        })
    }

    /// Writes the rows of some users.
    pub(crate) fn write(&mut self, users: Range<usize>) -> Outcome<()> {
        let mut pipeline = pipe();
        for user in users {
            let live = is_live(user);
            let (at, profile) = profile(user, live);
            let mut command = cmd("HSET");
            command.arg(profile_key(&name(user))).arg(TIME).arg(at);
            profile.scalars(|name, value| add(&mut command, name, value));
            pipeline.add_command(command).ignore();

            let orders = orders(user, live);
            let mut command = cmd("HSET");
            command.arg(orders_key(&name(user))).arg(TIME).arg(orders.first().map_or(0, |(at, _)| *at));
            for (index, (_, order)) in orders.iter().enumerate() {
                order.scalars(|name, value| add(&mut command, &order_field(index, name), value));
            }
            pipeline.add_command(command).ignore();
        }
        Ok(pipeline.exec(&mut self.connection)?)
    }

    /// One pipeline of HGETALL, a hash per user and view.
    pub(crate) fn pipeline(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        let mut pipeline = pipe();
        for name in &batch.names {
            pipeline.cmd("HGETALL").arg(profile_key(name));
        }
        for name in &batch.names {
            pipeline.cmd("HGETALL").arg(orders_key(name));
        }
        let reply: Value = pipeline.query(&mut self.connection)?;
        let hashes = reply.as_sequence().ok_or("a pipeline is answered with an array")?;
        let (profiles, orders) = hashes.split_at_checked(batch.names.len()).ok_or("replies are missing")?;
        let mut rows = Rows::new(batch.names.len());
        for hash in profiles {
            rows.push_profile(Hash::open(hash, &self.profile_fields)?)?;
        }
        for hash in orders {
            rows.push_orders(Hash::open(hash, &self.orders_fields)?)?;
        }
        rows.finish()
    }

    /// One HGETALL per user and view, each waited for: what a loop over entities and feature views does.
    pub(crate) fn one_by_one(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        let mut rows = Rows::new(batch.names.len());
        for name in &batch.names {
            let hash: Value = cmd("HGETALL").arg(profile_key(name)).query(&mut self.connection)?;
            rows.push_profile(Hash::open(&hash, &self.profile_fields)?)?;
            let hash: Value = cmd("HGETALL").arg(orders_key(name)).query(&mut self.connection)?;
            rows.push_orders(Hash::open(&hash, &self.orders_fields)?)?;
        }
        rows.finish()
    }
}

fn profile_key(name: &str) -> String {
    format!("profile:{name}")
}

fn orders_key(name: &str) -> String {
    format!("orders:{name}")
}

/// Adds a field and its value, which the crate writes as it writes all values of that type.
fn add(command: &mut Cmd, name: &str, value: Scalar<'_>) {
    command.arg(name);
    match value {
        Scalar::Text(value) => command.arg(value),
        Scalar::I32(value) => command.arg(value),
        Scalar::I64(value) => command.arg(value),
        Scalar::F32(value) => command.arg(value),
        Scalar::F64(value) => command.arg(value),
        Scalar::Bool(value) => command.arg(value),
    };
}

/// A reply to HGETALL: names and values in turns.
struct Hash<'a> {
    values: &'a [Value],
    names: std::slice::Iter<'a, String>,
}

impl<'a> Hash<'a> {
    fn open(reply: &'a Value, names: &'a [String]) -> Outcome<Hash<'a>> {
        let values = reply.as_sequence().ok_or("HGETALL is answered with an array")?;
        Ok(Hash { values, names: names.iter() })
    }

    /// The text of the next field, if that is the one of this name.
    #[inline]
    fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        match self.values {
            [Value::BulkString(field), Value::BulkString(text), rest @ ..] if field == name.as_bytes() => {
                self.values = rest;
                Some(text)
            }
            _ => None,
        }
    }
}

impl ReadFields for Hash<'_> {
    #[inline]
    fn read<T: TextField>(&mut self, column: &mut T::Builder) -> Outcome<()> {
        let name = self.names.next().ok_or("a hash has no such field")?;
        match self.take(name) {
            Some(text) => T::append_text(column, text).ok_or_else(|| format!("{name} holds something else"))?,
            None => T::append_null(column),
        }
        Ok(())
    }
}

impl ReadHash for Hash<'_> {
    fn event_time(&mut self) -> Outcome<Option<i64>> {
        if self.values.is_empty() {
            return Ok(None);
        }
        let text = self.take(TIME).ok_or("a hash does not begin with its event time")?;
        Ok(Some(str::from_utf8(text)?.parse()?))
    }

    fn fields_left(&self) -> usize {
        self.values.len() / 2
    }
}
