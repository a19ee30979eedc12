//! What most people use instead: Redis 7 on loopback, on the other core, holding the same rows twice. Once as hashes, as feature stores
//! keep them: a profile's fields by name, an order's as `3:total`, numbers as their bytes, an event time beside them, asked for with
//! HGETALL in one pipeline or one call after the other. Once packed, each view's row as one string, asked for with one MGET.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use larder_benches::{
    Answer, Batch, Figures, NOW_MS, ORDERS_PER_USER, Order, OrderColumns, Outcome, Packed, Profile, ProfileColumns,
    ReadFields, TTL_S, in_turns, is_live, name, on_core, orders, profile, sum,
};
use larder_store::Status;

use crate::hashmap::lists;
use crate::resp::{Connection, encoded};
use crate::store::{Reader, Shop};

/// The core of the server.
const SERVER_CORE: usize = 1;
/// Users written in one pipeline.
const USERS_AT_ONCE: usize = 200;
/// Batches of the slow way, which needs no more for a steady median.
const MAX_SLOW_BATCHES: usize = 200;
/// The field that holds the event time.
const TIME: &str = "_ts";

/// A Redis server with all users in it; it ends with this value.
pub(crate) struct Redis {
    server: Child,
    connection: Connection,
    layout: Layout,
}

/// The names of all fields in the order in which they were written, as Redis sends them.
struct Layout {
    time: Vec<u8>,
    profile: Vec<Vec<u8>>,
    orders: Vec<Vec<Vec<u8>>>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Redis {
    /// Starts a server and fills it; `None`, and it says so, where there is no Redis.
    pub(crate) fn start(shop: &Shop) -> Outcome<Option<Redis>> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = on_core(SERVER_CORE, "redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        // Compact hashes, which Redis reads fastest and in the order in which they were written.
        command.args(["--hash-max-listpack-entries", "512", "--loglevel", "warning"]);
        let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let Some(stream) = connect(port, &mut server)? else {
            println!(
                "redis-server is missing or does not start (apt-get install redis-server): its figures are left out"
            );
            return Ok(None);
        };
        let mut redis = Redis { server, connection: Connection::new(stream)?, layout: Layout::new() };
        redis.fill(shop)?;
        Ok(Some(redis))
    }

    /// Sets `redis_pipeline_vs_<tier>` and `redis_n_plus_1_vs_<tier>`.
    pub(crate) fn measure_hashes(
        &mut self,
        reader: &Reader,
        tier: &str,
        batches: &[Batch],
        figures: &mut Figures,
    ) -> Outcome<()> {
        for batch in batches.iter().take(10) {
            let ours = Answer::of(reader.fetch(&batch.names)?);
            if ours != self.pipeline(batch)? || ours != self.one_by_one(batch)? {
                return Err("the store and Redis fill different columns".into());
            }
        }
        let (ours, theirs) =
            in_turns(batches, |batch| reader.fetch_and_sum(batch), |batch| sum(&self.pipeline(batch)?))?;
        figures.set(format!("redis_pipeline_beside_{tier}_us"), theirs);
        figures.set(format!("redis_pipeline_vs_{tier}"), theirs / ours);
        let some = &batches[..batches.len().min(MAX_SLOW_BATCHES)];
        let (ours, theirs) =
            in_turns(some, |batch| reader.fetch_and_sum(batch), |batch| sum(&self.one_by_one(batch)?))?;
        figures.set(format!("redis_n_plus_1_beside_{tier}_us"), theirs);
        figures.set(format!("redis_n_plus_1_vs_{tier}"), theirs / ours);
        Ok(())
    }

    /// Sets `redis_mget_packed_vs_hot`.
    pub(crate) fn measure_packed(&mut self, reader: &Reader, batches: &[Batch], figures: &mut Figures) -> Outcome<()> {
        for batch in batches.iter().take(10) {
            if Answer::of(reader.fetch(&batch.names)?) != self.packed(batch)? {
                return Err("the store and Redis's packed rows fill different columns".into());
            }
        }
        let (ours, theirs) = in_turns(batches, |batch| reader.fetch_and_sum(batch), |batch| sum(&self.packed(batch)?))?;
        figures.set("redis_mget_packed_us", theirs);
        figures.set("redis_mget_packed_vs_hot", theirs / ours);
        Ok(())
    }

    /// One pipeline of HGETALL, a hash per user and view.
    fn pipeline(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        for prefix in [b"profile:".as_slice(), b"orders:"] {
            for name in &batch.names {
                self.connection.begin(2);
                self.connection.part(b"HGETALL");
                self.connection.key(prefix, name);
            }
        }
        self.connection.send()?;
        let mut rows = Rows::new(batch.names.len());
        for _ in &batch.names {
            rows.push_profile(&mut self.connection, &self.layout)?;
        }
        for _ in &batch.names {
            rows.push_orders(&mut self.connection, &self.layout)?;
        }
        rows.finish()
    }

    /// One HGETALL per user and view, each waited for: what a loop over entities and feature views does.
    fn one_by_one(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        let mut rows = Rows::new(batch.names.len());
        for name in &batch.names {
            self.connection.begin(2);
            self.connection.part(b"HGETALL");
            self.connection.key(b"profile:", name);
            self.connection.send()?;
            rows.push_profile(&mut self.connection, &self.layout)?;
            self.connection.begin(2);
            self.connection.part(b"HGETALL");
            self.connection.key(b"orders:", name);
            self.connection.send()?;
            rows.push_orders(&mut self.connection, &self.layout)?;
        }
        rows.finish()
    }

    /// One MGET of the packed rows.
    fn packed(&mut self, batch: &Batch) -> Outcome<Vec<Answer>> {
        self.connection.begin(1 + 2 * batch.names.len());
        self.connection.part(b"MGET");
        for prefix in [b"p:".as_slice(), b"o:"] {
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

    fn fill(&mut self, shop: &Shop) -> Outcome<()> {
        let connection = &mut self.connection;
        let (mut fixed, mut text) = (Vec::new(), Vec::new());
        for start in (0..shop.users).step_by(USERS_AT_ONCE) {
            let some = start..shop.users.min(start + USERS_AT_ONCE);
            for user in some.clone() {
                let live = is_live(user);
                let (at, profile) = profile(user, live);
                let mut fields = vec![(TIME.to_string(), at.to_le_bytes().to_vec())];
                profile.write(|name, bytes| fields.push((name.to_string(), bytes.to_vec())));
                hset(connection, b"profile:", &name(user), &fields);
                fixed.extend_from_slice(&at.to_le_bytes());
                profile.pack(&mut fixed, &mut text);
                set(connection, b"p:", &name(user), &mut fixed, &mut text);

                let orders = orders(user, live);
                let at = orders.first().map_or(0, |(at, _)| *at);
                let mut fields = vec![(TIME.to_string(), at.to_le_bytes().to_vec())];
                fixed.extend_from_slice(&at.to_le_bytes());
                fixed.push(orders.len() as u8);
                for (index, (_, order)) in orders.iter().enumerate() {
                    order.write(|name, bytes| fields.push((format!("{index}:{name}"), bytes.to_vec())));
                    order.pack(&mut fixed, &mut text);
                }
                hset(connection, b"orders:", &name(user), &fields);
                set(connection, b"o:", &name(user), &mut fixed, &mut text);
            }
            connection.send()?;
            for _ in some {
                for _ in ["profile", "orders"] {
                    connection.integer()?;
                    connection.simple()?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until the server answers; `None` when it has ended instead.
fn connect(port: u16, server: &mut Child) -> Outcome<Option<TcpStream>> {
    for _ in 0..500 {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return Ok(Some(stream));
        }
        if server.try_wait()?.is_some() {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
    server.kill()?;
    server.wait()?;
    Ok(None)
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

impl Layout {
    fn new() -> Layout {
        let order = |index: usize| Order::NAMES.iter().map(|name| encoded(&format!("{index}:{name}"))).collect();
        Layout {
            time: encoded(TIME),
            profile: Profile::NAMES.iter().map(|name| encoded(name)).collect(),
            orders: (0..ORDERS_PER_USER).map(order).collect(),
        }
    }
}

/// A hash that is being read: fields come in the order in which they were written, those that are null are not there.
struct Hash<'a> {
    connection: &'a mut Connection,
    fields_left: usize,
    names: &'a [Vec<u8>],
}

impl ReadFields for Hash<'_> {
    #[inline]
    fn read(&mut self, field: usize) -> Outcome<Option<&[u8]>> {
        if self.fields_left == 0 || !self.connection.skip_if(&self.names[field])? {
            return Ok(None);
        }
        self.fields_left -= 1;
        self.connection.bulk()
    }
}

/// Both views under construction.
struct Rows {
    profiles: ProfileColumns,
    profile_status: Vec<Status>,
    profile_at: Vec<i64>,
    orders: OrderColumns,
    order_counts: Vec<usize>,
    order_status: Vec<Status>,
    order_at: Vec<i64>,
}

impl Rows {
    fn new(users: usize) -> Rows {
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
    fn push_profile(&mut self, connection: &mut Connection, layout: &Layout) -> Outcome<()> {
        let (fields, at) = open_hash(connection, layout)?;
        let status = status(at);
        self.profile_status.push(status);
        self.profile_at.push(at.unwrap_or(0));
        if status == Status::NotFound {
            self.profiles.push_null();
            return Ok(());
        }
        let mut hash = Hash { connection, fields_left: fields, names: &layout.profile };
        self.profiles.push_fields(&mut hash)?;
        all_read(hash.fields_left)
    }

    #[inline]
    fn push_orders(&mut self, connection: &mut Connection, layout: &Layout) -> Outcome<()> {
        let (mut fields, at) = open_hash(connection, layout)?;
        self.order_status.push(status(at));
        self.order_at.push(at.unwrap_or(0));
        let mut count = 0;
        while fields > 0 && count < ORDERS_PER_USER {
            let mut hash = Hash { connection, fields_left: fields, names: &layout.orders[count] };
            self.orders.push_fields(&mut hash)?;
            fields = hash.fields_left;
            count += 1;
        }
        self.order_counts.push(count);
        all_read(fields)
    }

    #[inline]
    fn push_packed_profile(&mut self, packed: Option<&[u8]>) -> Option<()> {
        let Some(packed) = packed else {
            self.profile_status.push(Status::NotFound);
            self.profile_at.push(0);
            self.profiles.push_null();
            return Some(());
        };
        let mut row = open_packed(packed)?;
        let at = i64::from_le_bytes(row.take()?);
        self.profile_status.push(status(Some(at)));
        self.profile_at.push(at);
        self.profiles.push_packed(&mut row)
    }

    #[inline]
    fn push_packed_orders(&mut self, packed: Option<&[u8]>) -> Option<()> {
        let Some(packed) = packed else {
            self.order_status.push(Status::NotFound);
            self.order_at.push(0);
            self.order_counts.push(0);
            return Some(());
        };
        let mut row = open_packed(packed)?;
        let at = i64::from_le_bytes(row.take()?);
        let [count] = row.take()?;
        self.order_status.push(status(Some(at)));
        self.order_at.push(at);
        self.order_counts.push(count.into());
        (0..count).try_for_each(|_| self.orders.push_packed(&mut row))
    }

    fn finish(self) -> Outcome<Vec<Answer>> {
        Ok(vec![
            Answer { columns: self.profiles.finish(), status: self.profile_status, event_time_ms: self.profile_at },
            Answer {
                columns: lists(self.orders.finish(), self.order_counts)?,
                status: self.order_status,
                event_time_ms: self.order_at,
            },
        ])
    }
}

/// Begins to read a hash: how many fields follow its event time, and that. `None` when there is no such hash.
fn open_hash(connection: &mut Connection, layout: &Layout) -> Outcome<(usize, Option<i64>)> {
    let fields = connection.array()? / 2;
    if fields == 0 {
        return Ok((0, None));
    }
    if !connection.skip_if(&layout.time)? {
        return Err("a hash does not begin with its event time".into());
    }
    let at = connection.bulk()?.and_then(|bytes| Some(i64::from_le_bytes(bytes.try_into().ok()?)));
    Ok((fields - 1, Some(at.ok_or("an event time of another length")?)))
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

fn all_read(fields_left: usize) -> Outcome<()> {
    if fields_left > 0 {
        return Err(format!("{fields_left} fields of a hash were not expected there").into());
    }
    Ok(())
}
