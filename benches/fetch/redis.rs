//! Redis 7 on loopback, on the other core, holding the same rows: a hash per user and view, as feature stores keep them (a profile's fields
//! by name, an order's as `3:total`, the event time beside them), asked for with HGETALL in one pipeline or one call after the other.
//!
//! It is read by two clients, because Redis is one thing and what it costs to use another. `redis_pipeline_*` and `redis_n_plus_1_*` are
//! the stock client: the `redis` crate with numbers as text, which is what people would otherwise run. `redis_lean_*` are the leanest
//! client one could write, with numbers as bytes: the most that Redis could give. `redis_mget_packed_vs_hot` is the lean client's as well:
//! each view's row as one packed string, all in one MGET, decoded by code of one's own whatever the client.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use larder_benches::{Answer, Batch, Figures, Outcome, in_turns, on_core, sum};

use crate::lean::LeanClient;
use crate::stock::StockClient;
use crate::store::{Reader, Shop};

/// The core of the server.
const SERVER_CORE: usize = 1;
/// Users written in one pipeline.
const USERS_AT_ONCE: usize = 200;
/// Batches of the slow way, which needs no more for a steady median.
const MAX_SLOW_BATCHES: usize = 200;

/// Both clients of a Redis server with all users in it; the server ends with this value.
pub(crate) struct Redis {
    stock: StockClient,
    lean: LeanClient,
    _server: Server,
}

/// The server's process, killed when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
        let mut server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let Some(stream) = server.connect(port)? else {
            println!(
                "redis-server is missing or does not start (apt-get install redis-server): its figures are left out"
            );
            return Ok(None);
        };
        let (stock, lean) = (StockClient::connect(port)?, LeanClient::new(stream)?);
        let mut redis = Redis { stock, lean, _server: server };
        for start in (0..shop.users).step_by(USERS_AT_ONCE) {
            let some = start..shop.users.min(start + USERS_AT_ONCE);
            redis.stock.write(some.clone())?;
            redis.lean.write(some)?;
        }
        Ok(Some(redis))
    }

    /// Sets `<way>_beside_<tier>_us` and `<way>_vs_<tier>`, the ways being `redis_pipeline`, `redis_lean_pipeline`, `redis_n_plus_1` and
    /// `redis_lean_n_plus_1`.
    pub(crate) fn measure_hashes(
        &mut self,
        reader: &Reader,
        tier: &str,
        batches: &[Batch],
        figures: &mut Figures,
    ) -> Outcome<()> {
        let Redis { stock, lean, .. } = self;
        let mut measure = |way: &str, batches: &[Batch], read: Read<'_>| -> Outcome<()> {
            let (ours, theirs) = compare(way, reader, batches, read)?;
            figures.set(format!("{way}_beside_{tier}_us"), theirs);
            figures.set(format!("{way}_vs_{tier}"), theirs / ours);
            Ok(())
        };
        measure("redis_pipeline", batches, &mut |batch| stock.pipeline(batch))?;
        measure("redis_lean_pipeline", batches, &mut |batch| lean.pipeline(batch))?;
        let some = &batches[..batches.len().min(MAX_SLOW_BATCHES)];
        measure("redis_n_plus_1", some, &mut |batch| stock.one_by_one(batch))?;
        measure("redis_lean_n_plus_1", some, &mut |batch| lean.one_by_one(batch))
    }

    /// Sets `redis_mget_packed_us` and `redis_mget_packed_vs_hot`.
    pub(crate) fn measure_packed(&mut self, reader: &Reader, batches: &[Batch], figures: &mut Figures) -> Outcome<()> {
        let (ours, theirs) = compare("redis_mget_packed", reader, batches, &mut |batch| self.lean.packed(batch))?;
        figures.set("redis_mget_packed_us", theirs);
        figures.set("redis_mget_packed_vs_hot", theirs / ours);
        Ok(())
    }
}

/// A way to read the rows of a batch from Redis.
type Read<'a> = &'a mut dyn FnMut(&Batch) -> Outcome<Vec<Answer>>;

/// The median times of our fetch and of a way to read Redis, in turns, after the first answers were found to be the same in every value.
fn compare(way: &str, reader: &Reader, batches: &[Batch], read: Read<'_>) -> Outcome<(f64, f64)> {
    for batch in batches.iter().take(10) {
        if Answer::of(reader.fetch(&batch.names)?) != read(batch)? {
            return Err(format!("the store and {way} fill different columns").into());
        }
    }
    in_turns(batches, |batch| reader.fetch_and_sum(batch), |batch| sum(&read(batch)?))
}

impl Server {
    /// Waits until the server answers; `None` when it has ended instead, or does not answer in time.
    fn connect(&mut self, port: u16) -> Outcome<Option<TcpStream>> {
        for _ in 0..500 {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return Ok(Some(stream));
            }
            if self.0.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}
