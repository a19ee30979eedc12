//! The `[store]` section of the configuration: where the store lives and how much memory its tiers may take. Views have their own
//! declaration, see `view.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::breaker::BreakerConfig;
use crate::shard::Shard;

/// Rows that wait to become hot, in MiB at most.
const WAITING_MIB: u64 = 32;
/// Where each part of the hot tier notes the last writes.
const BYTES_PER_HOT_SHARD: u64 = 32 << 10;

/// Settings of a store. Every size is a limit of what it names. On top of them come:
///
/// - a second buffer of `live_buffer_mib`, which fills while the first is written into a file;
/// - a second filter of `live_filter_mib`, while it is made anew after a pruning;
/// - up to 32 MiB of rows that wait to become hot;
/// - 32 KiB for each of `hot_shards`, where the last writes are noted;
/// - about 2 bytes for each key of the warm tier, for index and filter blocks;
/// - the directories and filters of the cold files, which `larder_store_cold_index_bytes` shows.
///
/// With `hot_capacity_requests` the hot tier's rows are counted, and its bytes are not bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The folder that holds the database. It is created when missing; one process at a time may open it.
    pub path: PathBuf,
    /// Bytes of rows, keys and bookkeeping the hot tier may hold, in MiB. 0 turns the hot tier off.
    pub hot_capacity_mib: u64,
    /// Instead of a size: how many requests' rows the hot tier holds, a request being one entity with all its views. The bytes
    /// are then as many as those rows have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hot_capacity_requests: Option<u64>,
    /// Independent parts of the hot tier, each with a lock for its table and one for its note of the last writes: with one part, whoever makes
    /// rows hot or writes live ones would hold up everybody else.
    pub hot_shards: usize,
    /// Uncompressed blocks of the warm tier kept in RAM, in MiB. Index and filter blocks come on top: about 2 bytes per key.
    pub block_cache_mib: u64,
    /// RAM for knowing which entities have live rows, in MiB: 16 bits for each of them keep needless reads at one in a hundred.
    /// It is there twice while it is made anew.
    pub live_filter_mib: u64,
    /// Live rows held in RAM before they are written into files, in MiB. A second buffer as large fills while the first is written.
    pub live_buffer_mib: u64,
    /// Threads that share the reads of a large batch whose rows are not in RAM. With one, the calling thread reads them itself.
    pub read_threads: usize,
    /// The folder of the cold tier's Parquet files; it may lie on a slow disk of its own, and not within `path`. One store has it; together
    /// with `path` it is one unit, to be backed up and moved together.
    pub cold_path: PathBuf,
    /// How long a fetch waits for the cold tier, in milliseconds. What comes later is hot for the next fetch.
    pub cold_budget_ms: u64,
    /// Threads that read the cold tier, and nothing else.
    pub cold_threads: usize,
    /// Most reads that wait for those threads; one read is of up to eight keys.
    pub cold_queue: usize,
    /// How long a read of the cold tier may take, in milliseconds; one that takes longer has failed.
    pub cold_timeout_ms: u64,
    /// Failed reads in a row after which the cold tier is left alone: its keys are answered "not in time" at once.
    pub cold_breaker_failures: u32,
    /// How long it is left alone the first time, in milliseconds; one trial read then decides. Each failed trial doubles it.
    pub cold_breaker_open_ms: u64,
    /// The longest it is left alone, in milliseconds.
    pub cold_breaker_max_open_ms: u64,
    /// Most keys (entities times views) one fetch may ask for.
    pub max_fetch_keys: usize,
    /// The part of all entities that this store has; generations that do not hold it are refused. No setting of this section: a node has
    /// one shard, for all that it does.
    #[serde(skip)]
    pub shard: Shard,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            path: PathBuf::from("data/store"),
            hot_capacity_mib: 256,
            hot_capacity_requests: None,
            hot_shards: 8,
            block_cache_mib: 256,
            live_filter_mib: 8,
            live_buffer_mib: 64,
            read_threads: 4,
            cold_path: PathBuf::from("data/cold"),
            cold_budget_ms: 25,
            cold_threads: 2,
            cold_queue: 1024,
            cold_timeout_ms: 1_500,
            cold_breaker_failures: 5,
            cold_breaker_open_ms: 30_000,
            cold_breaker_max_open_ms: 300_000,
            max_fetch_keys: 131_072,
            shard: Shard::default(),
        }
    }
}

impl StoreConfig {
    /// Checks every setting against its allowed range.
    ///
    /// # Errors
    /// [`Error::FixConfig`] names the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        let within = |key: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let allowed = format!("must be between {low} and {high}");
            Err(Error::config(format!("store.{key}"), value, allowed))
        };
        if self.path.as_os_str().is_empty() {
            return Err(Error::config("store.path", "\"\"", "must name a folder"));
        }
        within("hot_capacity_mib", self.hot_capacity_mib, 0, 1 << 20)?;
        within("hot_shards", self.hot_shards as u64, 1, 1024)?;
        let inside =
            absolute(&self.cold_path).zip(absolute(&self.path)).is_some_and(|(cold, own)| cold.starts_with(own));
        if self.cold_path.as_os_str().is_empty() || inside {
            let allowed = "must name a folder of its own, outside of store.path";
            return Err(Error::config("store.cold_path", self.cold_path.display(), allowed));
        }
        within("cold_budget_ms", self.cold_budget_ms, 0, 60_000)?;
        within("cold_threads", self.cold_threads as u64, 1, 256)?;
        within("cold_queue", self.cold_queue as u64, 1, 1 << 20)?;
        within("cold_timeout_ms", self.cold_timeout_ms, 1, 60_000)?;
        within("cold_breaker_failures", self.cold_breaker_failures.into(), 1, 1_000)?;
        within("cold_breaker_open_ms", self.cold_breaker_open_ms, 1, 3_600_000)?;
        within("cold_breaker_max_open_ms", self.cold_breaker_max_open_ms, self.cold_breaker_open_ms, 3_600_000)?;
        if let Some(requests) = self.hot_capacity_requests {
            within("hot_capacity_requests", requests, 0, 1 << 40)?;
        }
        within("block_cache_mib", self.block_cache_mib, 8, 1 << 20)?;
        within("live_filter_mib", self.live_filter_mib, 1, 1 << 14)?;
        within("live_buffer_mib", self.live_buffer_mib, 1, 1 << 14)?;
        within("read_threads", self.read_threads as u64, 1, 256)?;
        within("max_fetch_keys", self.max_fetch_keys as u64, 1, 1 << 20)
    }

    /// Bytes that the store may take at most for what has a limit here: the sizes, and what comes on top of them whatever the data. Index and
    /// filter blocks and the cold files' directories grow with the data and are not among them, nor is a hot tier that is counted in requests.
    pub fn budget_bytes(&self) -> u64 {
        let hot_mib = if self.hot_capacity_requests.is_some() { 0 } else { self.hot_capacity_mib };
        let mib = hot_mib + self.block_cache_mib + 2 * self.live_filter_mib + 2 * self.live_buffer_mib + WAITING_MIB;
        (mib << 20) + self.hot_shards as u64 * BYTES_PER_HOT_SHARD
    }

    pub(crate) fn cold_breaker(&self) -> BreakerConfig {
        BreakerConfig {
            failures: self.cold_breaker_failures,
            open: Duration::from_millis(self.cold_breaker_open_ms),
            max_open: Duration::from_millis(self.cold_breaker_max_open_ms),
            timeout: Duration::from_millis(self.cold_timeout_ms),
        }
    }
}

fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_bad_value_is_named() {
        StoreConfig::default().validate().unwrap();
        let bad = StoreConfig { hot_shards: 0, ..StoreConfig::default() };
        let message = bad.validate().unwrap_err().to_string();
        assert_eq!(message, "store.hot_shards = 0: must be between 1 and 1024");
        let bad = StoreConfig { cold_breaker_max_open_ms: 1, ..StoreConfig::default() };
        let message = bad.validate().unwrap_err().to_string();
        assert_eq!(message, "store.cold_breaker_max_open_ms = 1: must be between 30000 and 3600000");
    }

    #[test]
    fn a_breaker_is_the_same_whoever_makes_it() {
        assert_eq!(StoreConfig::default().cold_breaker(), BreakerConfig::default());
    }

    #[test]
    fn the_cold_tier_has_a_folder_of_its_own() {
        for inside in ["data/store", "./data/store", "data/store/cold"] {
            let bad = StoreConfig { cold_path: inside.into(), ..StoreConfig::default() };
            let message = bad.validate().unwrap_err().to_string();
            assert!(message.contains("outside of store.path"), "{message}");
        }
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let error = serde_json::from_str::<StoreConfig>(r#"{"hot_capacity": 1}"#).unwrap_err();
        assert!(error.to_string().contains("hot_capacity"), "{error}");
    }
}
