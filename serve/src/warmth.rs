//! Warmth over a restart: a draining node notes which keys are hot, and a starting one reads their rows before it is ready, and those of the keys
//! that larder.toml names, so that the customers of the first minute do not pay for the restart. A node that runs is warmed by the Admin call.
//!
//! All of it is a convenience. Whatever goes wrong here is logged, and the node starts or stops as it would without.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use larder_store::{EntityRef, Error, FeatureRef, HotUsage, MAX_ENTITY_BYTES, Plan, Status, Store, TenantId};

use crate::config::{NodeConfig, ServiceConfig};
use crate::engine::Engine;
use crate::pipeline::now_ms;

/// Keys that a start reads at a time.
const CHUNK: usize = 1_000;
/// Most bytes of one line of a file of keys that are looked at: a key has fewer.
const MAX_LINE_BYTES: u64 = 4 << 10;

/// Reads, before the node is ready, what was hot at the last stop, and then the keys that larder.toml names, for no longer than
/// node.warm_timeout_s together.
pub(crate) fn before_ready(engine: &Engine, config: &NodeConfig) {
    let limit = Duration::from_secs(config.node.warm_timeout_s);
    if limit.is_zero() {
        return;
    }
    let until = Instant::now() + limit;
    restore(&engine.store, &config.hot_set_file(), until);
    for tenant in &config.tenants {
        let Some(file) = &tenant.warm_keys else { continue };
        let (began, path) = (Instant::now(), file.display());
        let service = config.service(&tenant.service).map(ServiceConfig::references).unwrap_or_default();
        let of_node = |key: &str| config.node.shard.holds(key);
        match read_keys(engine, &service, TenantId(tenant.id), file, of_node, until) {
            Ok(Read { keys, hot, end }) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(%path, tenant = tenant.name, keys, hot, %end, seconds, "keys of warm_keys read");
            }
            Err(error) => {
                tracing::warn!(%path, tenant = tenant.name, %error, "the keys of warm_keys are not all read");
            }
        }
    }
}

/// What was read of a file of keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    keys: usize,
    /// Of these, keys of which all was hot when they had been read.
    hot: usize,
    /// Why it ended: "complete", "time_up" or "hot_tier_full".
    end: &'static str,
}

/// Reads the rows of a file's keys, one per line, into the hot tier: as many as there is time and room for.
fn read_keys(
    engine: &Engine,
    features: &[FeatureRef],
    tenant: TenantId,
    file: &Path,
    of_node: impl Fn(&str) -> bool,
    until: Instant,
) -> Result<Read, Box<dyn std::error::Error>> {
    let plan = engine.store.compile(features)?;
    let mut lines = BufReader::new(File::open(file)?);
    let mut read = Read::default();
    let mut share = engine.store.hot_usage().share();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut ended = false;
        while chunk.len() < CHUNK && !ended {
            match next_key(&mut lines)? {
                Line::Key(key) if of_node(&key) => chunk.push(key),
                Line::Key(_) | Line::Unusable => {}
                Line::End => ended = true,
            }
        }
        read.end = if Instant::now() >= until { "time_up" } else { "complete" };
        if chunk.is_empty() || read.end == "time_up" {
            return Ok(read);
        }
        let warmed = warm(engine, &plan, tenant, &chunk, false)?;
        read.keys += chunk.len();
        read.hot += warmed.hot;
        let before = std::mem::replace(&mut share, warmed.usage.share());
        // Another chunk like this one would push out what came in first.
        if !ended && share + (share - before).max(0.0) > 1.0 {
            read.end = "hot_tier_full";
            return Ok(read);
        }
    }
}

/// A line of a file of keys.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Key(String),
    /// Empty, no UTF-8, or longer than any key.
    Unusable,
    End,
}

fn next_key(lines: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
        return Ok(Line::End);
    }
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    let key = std::str::from_utf8(&line).unwrap_or_default().trim_end_matches(['\n', '\r']);
    let usable = (1..=MAX_ENTITY_BYTES).contains(&key.len());
    Ok(if usable { Line::Key(key.to_owned()) } else { Line::Unusable })
}

/// What came of warming entities.
#[derive(Debug)]
pub(crate) struct Warmed {
    /// Entities that a view knows something of.
    pub(crate) found: usize,
    /// Entities of which all was hot before, and after.
    pub(crate) already_hot: usize,
    pub(crate) hot: usize,
    pub(crate) usage: HotUsage,
}

/// Reads entities into the hot tier, or only looks which are there.
pub(crate) fn warm(
    engine: &Engine,
    plan: &Plan,
    tenant: TenantId,
    entities: &[String],
    look_only: bool,
) -> Result<Warmed, Error> {
    let store = &engine.store;
    let entities: Vec<EntityRef<'_>> = entities.iter().map(|entity| EntityRef { tenant, entity }).collect();
    let hot = || Ok::<_, Error>(store.are_hot(plan, &entities)?.into_iter().filter(|hot| *hot).count());
    let already_hot = hot()?;
    if look_only {
        return Ok(Warmed { found: 0, already_hot, hot: already_hot, usage: store.hot_usage() });
    }
    let fetched = store.fetch(plan, &entities, now_ms())?;
    engine.counters.fetched(&fetched.stats);
    let present = |row: &usize| fetched.views.iter().any(|view| view.status[*row] == Status::Present);
    let found = (0..entities.len()).filter(present).count();
    // Waits until what was read has come in.
    let usage = store.hot_usage();
    Ok(Warmed { found, already_hot, hot: hot()?, usage })
}

/// Reads what the file names into the hot tier, until it is done or the time is up. A file that cannot be used is deleted.
fn restore(store: &Store, file: &Path, until: Instant) {
    let began = Instant::now();
    if !file.exists() {
        return;
    }
    let path = file.display();
    match store.import_hot_set(file, until) {
        Ok(imported) => {
            let (seconds, complete) = (began.elapsed().as_secs_f64(), imported.complete);
            tracing::info!(%path, entries = imported.entries, made_hot = imported.made_hot, complete, seconds, "hot set read");
        }
        Err(error) => {
            tracing::warn!(%error, "the hot set is not read; starting without it");
            if matches!(error, Error::DeleteFile { .. })
                && let Err(error) = std::fs::remove_file(file)
            {
                tracing::warn!(%path, %error, "the damaged hot-set file cannot be deleted");
            }
        }
    }
}

/// Writes which keys are hot. Where that fails, the file of the stop before stays.
pub(crate) fn keep(store: &Store, file: &Path) {
    let began = Instant::now();
    match store.export_hot_set(file) {
        Ok(entries) => {
            let (path, seconds) = (file.display(), began.elapsed().as_secs_f64());
            tracing::info!(%path, entries, seconds, "hot set kept");
        }
        Err(error) => tracing::warn!(%error, "the hot set is not kept; the next start will be without it"),
    }
}

/// Deletes the file, if there is one, and what a stop that was cut short left of the next: they name users, and some of them may have been
/// erased since.
pub fn forget_hot_set(file: &Path) -> io::Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".tmp");
    for file in [file, Path::new(&unfinished)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_one_on_a_line() {
        let long = "x".repeat(2 * MAX_LINE_BYTES as usize);
        let text = format!("ada\r\n\nbob the builder\n{long}\n{}\nzoë", "y".repeat(257));
        let mut lines = BufReader::new([text.as_bytes(), b"\n\xff\xfe\n"].concat().leak() as &[u8]);
        let mut read = Vec::new();
        loop {
            match next_key(&mut lines).unwrap() {
                Line::End => break,
                line => read.push(line),
            }
        }
        let key = |key: &str| Line::Key(key.to_owned());
        let unusable = || Line::Unusable;
        let expected = [key("ada"), unusable(), key("bob the builder"), unusable(), unusable(), key("zoë"), unusable()];
        assert_eq!(read, expected);
        assert_eq!(next_key(&mut lines).unwrap(), Line::End);
    }
}
