//! Redis at its best: the leanest client one could write for exactly these rows. Numbers are stored as their bytes, requests are written
//! straight into the send buffer, replies are read straight out of the receive buffer into the columns, with no allocation per value.
//! Nobody has such a client; it shows how much of the distance is Redis itself, and how much the client that people have. It alone reads
//! packed rows, each view's row as one string, which take a format of one's own in any case.

use std::net::TcpStream;
use std::ops::Range;

use larder_benches::{Answer, Batch, Outcome, ReadFields, TextField, is_live, name, orders, profile};

use crate::resp::{Connection, encoded};
use crate::rows::{ReadHash, Rows, TIME, order_field, orders_fields, profile_fields};

/// The beginnings of keys: of hashes, and of packed rows.
const PROFILE_HASH: &[u8] = b"profile_bytes:";
const ORDERS_HASH: &[u8] = b"orders_bytes:";
const PROFILE_PACKED: &[u8] = b"p:";
const ORDERS_PACKED: &[u8] = b"o:";

/// A connection of our own making.
pub(crate) struct LeanClient {
    connection: Connection,
    layout: Layout,
}

/// The names of all fields in the order in which they were written, as Redis sends them.
struct Layout {
    time: Vec<u8>,
    profile: Vec<Vec<u8>>,
    orders: Vec<Vec<u8>>,
}

impl LeanClient {
    /// Speaks over `stream`.
    pub(crate) fn new(stream: TcpStream) -> Outcome<LeanClient> {
        let layout = Layout {
            time: encoded(TIME),
            profile: profile_fields().map(|name| encoded(&name)).collect(),
            orders: orders_fields().map(|name| encoded(&name)).collect(),
        };
        Ok(LeanClient { connection: Connection::new(stream)?, layout })
    }

    /// Writes the rows of some users, as hashes and packed.
    pub(crate) fn write(&mut self, users: Range<usize>) -> Outcome<()> {
        let connection = &mut self.connection;
        let (mut fixed, mut text) = (Vec::new(), Vec::new());
        for user in users.clone() {
            let live = is_live(user);
            let (at, profile) = profile(user, live);
            let mut fields = vec![(TIME.to_string(), at.to_le_bytes().to_vec())];
            profile.write(|name, bytes| fields.push((name.to_string(), bytes.to_vec())));
            hset(connection, PROFILE_HASH, &name(user), &fields);
            fixed.extend_from_slice(&at.to_le_bytes());
            profile.pack(&mut fixed, &mut text);
            set(connection, PROFILE_PACKED, &name(user), &mut fixed, &mut text);

            let orders = orders(user, live);
            let at = orders.first().map_or(0, |(at, _)| *at);
            let mut fields = vec![(TIME.to_string(), at.to_le_bytes().to_vec())];
            fixed.extend_from_slice(&at.to_le_bytes());
            fixed.push(orders.len() as u8);
            for (index, (_, order)) in orders.iter().enumerate() {
                order.write(|name, bytes| fields.push((order_field(index, name), bytes.to_vec())));
                order.pack(&mut fixed, &mut text);
            }
            hset(connection, ORDERS_HASH, &name(user), &fields);
            set(connection, ORDERS_PACKED, &name(user), &mut fixed, &mut text);
        }
        connection.send()?;
        for _ in users {
            for _ in ["profile", "orders"] {
                connection.integer()?;
                connection.simple()?;
            }
        }
        Ok(())
    }

    /// One pipeline of HGETALL, a hash per user and view.
    pub(crate) fn pipeline(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        for prefix in [PROFILE_HASH, ORDERS_HASH] {
            for name in &batch.names {
                hgetall(&mut self.connection, prefix, name);
            }
        }
        self.connection.send()?;
        let mut rows = Rows::new(batch.names.len());
        for _ in &batch.names {
            rows.push_profile(Hash::open(&mut self.connection, &self.layout.time, &self.layout.profile)?)?;
        }
        for _ in &batch.names {
            rows.push_orders(Hash::open(&mut self.connection, &self.layout.time, &self.layout.orders)?)?;
        }
        rows.finish()
    }

    /// One HGETALL per user and view, each waited for.
    pub(crate) fn one_by_one(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        let mut rows = Rows::new(batch.names.len());
        for name in &batch.names {
            hgetall(&mut self.connection, PROFILE_HASH, name);
            self.connection.send()?;
            rows.push_profile(Hash::open(&mut self.connection, &self.layout.time, &self.layout.profile)?)?;
            hgetall(&mut self.connection, ORDERS_HASH, name);
            self.connection.send()?;
            rows.push_orders(Hash::open(&mut self.connection, &self.layout.time, &self.layout.orders)?)?;
        }
        rows.finish()
    }

    /// One MGET of the packed rows.
    pub(crate) fn packed(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        self.connection.begin(1 + 2 * batch.names.len());
        self.connection.part(b"MGET");
        for prefix in [PROFILE_PACKED, ORDERS_PACKED] {
            for name in &batch.names {
                self.connection.key(prefix, name);
            }
        }
        self.connection.send()?;
        let mut rows = Rows::new(batch.names.len());
        if self.connection.array()? != 2 * batch.names.len() {
            return Err("redis answered another number of values".into());
        }
        for _ in &batch.names {
            let packed = self.connection.bulk()?;
            rows.push_packed_profile(packed).ok_or("a packed profile is damaged")?;
        }
        for _ in &batch.names {
            let packed = self.connection.bulk()?;
            rows.push_packed_orders(packed).ok_or("packed orders are damaged")?;
        }
        rows.finish()
    }
}

fn hgetall(connection: &mut Connection, prefix: &[u8], name: &str) {
    connection.begin(2);
    connection.part(b"HGETALL");
    connection.key(prefix, name);
}

fn hset(connection: &mut Connection, prefix: &[u8], name: &str, fields: &[(String, Vec<u8>)]) {
    connection.begin(2 + 2 * fields.len());
    connection.part(b"HSET");
    connection.key(prefix, name);
    for (field, value) in fields {
        connection.part(field.as_bytes());
        connection.part(value);
    }
}

/// Sets a packed row: the length of its fixed part, the fixed part, the texts. Empties both.
fn set(connection: &mut Connection, prefix: &[u8], name: &str, fixed: &mut Vec<u8>, text: &mut Vec<u8>) {
    let mut row = (fixed.len() as u32).to_le_bytes().to_vec();
    row.append(fixed);
    row.append(text);
    connection.begin(3);
    connection.part(b"SET");
    connection.key(prefix, name);
    connection.part(&row);
}

/// A hash that is being received.
struct Hash<'a> {
    connection: &'a mut Connection,
    fields_left: usize,
    time: &'a [u8],
    names: std::slice::Iter<'a, Vec<u8>>,
}

impl<'a> Hash<'a> {
    #[inline]
    fn open(connection: &'a mut Connection, time: &'a [u8], names: &'a [Vec<u8>]) -> Outcome<Hash<'a>> {
        let fields_left = connection.array()? / 2;
        Ok(Hash { connection, fields_left, time, names: names.iter() })
    }
}

impl ReadFields for Hash<'_> {
    #[inline]
    fn read<T: TextField>(&mut self, column: &mut T::Builder) -> Outcome<()> {
        let name = self.names.next().ok_or("a hash has no such field")?;
        if self.fields_left == 0 || !self.connection.skip_if(name)? {
            T::append_null(column);
            return Ok(());
        }
        self.fields_left -= 1;
        let bytes = self.connection.bulk()?;
        Ok(bytes.and_then(|bytes| T::append_bytes(column, bytes)).ok_or("a field holds something else")?)
    }
}

impl ReadHash for Hash<'_> {
    #[inline]
    fn event_time(&mut self) -> Outcome<Option<i64>> {
        if self.fields_left == 0 {
            return Ok(None);
        }
        if !self.connection.skip_if(self.time)? {
            return Err("a hash does not begin with its event time".into());
        }
        self.fields_left -= 1;
        let at = self.connection.bulk()?.and_then(|bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?)));
        Ok(Some(at.ok_or("an event time of another length")?))
    }

    #[inline]
    fn fields_left(&self) -> usize {
        self.fields_left
    }
}
