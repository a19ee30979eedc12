//! Taking erased rows out of the files. An erasure is in force as soon as it is recorded; this is the second half, which leaves no byte of the
//! entity in any file of the store.
//!
//! Files are rewritten by RocksDB itself: the rows are deleted (or, where a history has newer elements, replaced) by one synced write for each
//! file, together with the record's new count, and then that file alone is compacted. A crash in between leaves a small file on
//! top of the one it changes; the next start, or the next call, compacts it before anything is counted. Nothing is compacted while a fetch
//! still sees the rows as they were: RocksDB would keep them.

mod cold;

use std::collections::BTreeMap;
use std::ops::Bound;

use rocksdb::WriteBatch;

use crate::Error;
use crate::checkpoint;
use crate::delta::Delta;
use crate::elements::{self, Elements};
use crate::erasure::{Erasure, ErasureRecord};
use crate::key::{self, PREFIX_BYTES};
use crate::live::{Touched, read_key, tell_hot};
use crate::meta::{self, MetaRecord};
use crate::replace;
use crate::row::{Damaged, event_time_ms};
use crate::staging;
use crate::store::Inner;
use crate::view::{TenantId, ViewKind};
use crate::warm::{BaseFile, Family};

/// Live values looked at while writers wait.
const CHUNK: usize = 256;

/// How often the live family is compacted until nothing deleted is left in it.
const MAX_ATTEMPTS: usize = 4;

/// What a compaction took out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Rows of generations; a history from which elements were taken counts once.
    pub rows: u64,
    /// Entities whose live rows were taken out.
    pub live: u64,
    /// Files that were rewritten.
    pub files: u64,
}

/// See [`Store::erase`](crate::Store::erase). The caller holds the lock of whoever changes meta.
pub(crate) fn erase(inner: &Inner, tenant: TenantId, entity: &str, now_ms: i64) -> Result<(), Error> {
    key::check_entity(entity).map_err(Error::FixRequest)?;
    let erasure = Erasure::of(tenant, entity);
    let erased_ms = inner.erasures.get(erasure).map_or(now_ms, |record| record.erased_ms.max(now_ms));
    let record = ErasureRecord { erased_ms };
    {
        // A live row that was being written has arrived before, or is left out afterwards.
        let _alone = inner.live.write_alone();
        meta::write_erasure(&inner.warm, erasure, &record)?;
        inner.erasures.insert(erasure, record);
    }
    let touched: Vec<_> = inner.views.iter().map(|view| Touched::new(view.config.id, tenant, entity)).collect();
    tell_hot(inner, &touched);
    inner.cold.active.forget(tenant, entity);
    Ok(())
}

/// See [`Store::compact_erased`](crate::Store::compact_erased). The caller holds the lock of whoever changes meta.
pub(crate) fn compact_erased(inner: &Inner) -> Result<Compacted, Error> {
    let mut compacted = Compacted::default();
    if inner.erasures.is_empty() {
        return Ok(compacted);
    }
    compact_live(inner, &mut compacted)?;
    inner.warm.finish_compactions()?;
    let files = inner.warm.base_files()?;
    // Views that are no longer declared included.
    for (view, tenant) in inner.generations.load().views() {
        if inner.erasures.has(tenant) {
            compact_generations(inner, view, tenant, &files, &mut compacted)?;
        }
    }
    cold::compact(inner, &mut compacted)?;
    // Logs know no entities; what their owners removed goes with the rest.
    inner.warm.compact_log()?;
    // The log still holds what was written live; it goes when everything in it has reached a file.
    inner.warm.flush()?;
    // Having written that down, RocksDB misses no file any more.
    staging::settle(inner.warm.path())?;
    replace::clear(inner.warm.path())?;
    checkpoint::clear(inner.warm.path(), &inner.cold_folder)?;
    inner.warm.outlive_files()?;
    Ok(compacted)
}

fn compact_live(inner: &Inner, compacted: &mut Compacted) -> Result<(), Error> {
    let end = [0xFF; key::LIVE_PREFIX_BYTES + 1];
    let mut from = Vec::new();
    let mut met = false;
    loop {
        let _alone = inner.live.write_alone();
        let chunk: Vec<_> = inner.warm.scan_live(&from, &end)?.take(CHUNK).collect::<Result<_, _>>()?;
        let Some((last, _)) = chunk.last() else { break };
        from = [last, &[0][..]].concat();
        let mut batch = WriteBatch::default();
        for (live_key, value) in &chunk {
            let erased_ms =
                read_key(live_key).and_then(|(_, tenant, entity)| inner.erasures.erased_ms(tenant, &entity));
            let Some(erased_ms) = erased_ms else { continue };
            let damaged = |damaged: Damaged| Error::damaged(inner.warm.path(), format!("a live row: {}", damaged.0));
            let mut delta = Delta::decode(value).map_err(damaged)?;
            delta.changes.retain(|change| change.event_time_ms > erased_ms);
            if delta.is_cleared_by(erased_ms) {
                delta.forget_clearing();
            }
            let mut left = Vec::new();
            if !delta.is_empty() {
                delta.encode(&mut left);
            }
            met = true;
            if left != **value {
                inner.warm.replace_live(&mut batch, live_key, &left)?;
                compacted.live += 1;
            }
        }
        if !batch.is_empty() {
            inner.warm.write_synced(batch)?;
        }
    }
    inner.warm.flush()?;
    // Deletions in the files may be of a call that was cut short: their keys are not to be seen any more, but what they delete is still there.
    let mut unfinished = met || inner.warm.live_has_deletions()?;
    for _ in 0..MAX_ATTEMPTS {
        if !unfinished {
            return Ok(());
        }
        inner.warm.outlive_snapshots()?;
        inner.warm.compact(Family::Live, &[], &end)?;
        // A compaction that RocksDB was doing by itself at the same moment may have taken files that this one then left out.
        unfinished = inner.warm.live_has_deletions()?;
    }
    match unfinished {
        true => Err(Error::TryAgain("live rows cannot be rewritten yet, their files are busy; try again".to_string())),
        false => Ok(()),
    }
}

/// What is left of a value: nothing, or a shorter history.
pub(crate) type Left = Option<Vec<u8>>;

fn compact_generations(
    inner: &Inner,
    view: u16,
    tenant: TenantId,
    files: &[BaseFile],
    compacted: &mut Compacted,
) -> Result<(), Error> {
    let Some(mut record) = MetaRecord::read(&inner.warm, view, tenant)? else { return Ok(()) };
    let generations: Vec<_> = record.generations().map(|manifest| (manifest.id(), manifest.schema.kind)).collect();
    for (id, kind) in generations {
        for file in files.iter().filter(|file| file.generation() == Some(id)) {
            let erased = find_erased(inner, tenant, kind, file)?;
            if erased.is_empty() {
                continue;
            }
            let mut batch = WriteBatch::default();
            for (base_key, left) in &erased {
                inner.warm.replace_base(&mut batch, base_key, left.as_deref())?;
            }
            record.note_erased(id.generation, erased.values().filter(|left| left.is_none()).count() as u64);
            record.add_to(&inner.warm, &mut batch)?;
            inner.warm.write_synced(batch)?;
            inner.warm.flush()?;
            inner.warm.finish_compactions()?;
            compacted.rows += erased.len() as u64;
            compacted.files += 1;
        }
    }
    Ok(())
}

/// What a file holds of erased entities, and what is to be left of each value.
fn find_erased(
    inner: &Inner,
    tenant: TenantId,
    kind: ViewKind,
    file: &BaseFile,
) -> Result<BTreeMap<Box<[u8]>, Left>, Error> {
    let mut erased = BTreeMap::new();
    for entry in inner.warm.scan_base(file.first_key(), Bound::Included(file.last_key()))? {
        let (base_key, value) = entry?;
        let entity = base_key.get(PREFIX_BYTES..).and_then(key::read_entity);
        let erased_ms = entity.and_then(|entity| inner.erasures.erased_ms(tenant, &entity));
        let Some(erased_ms) = erased_ms else { continue };
        let damaged = |damaged: Damaged| Error::damaged(inner.warm.path(), format!("a row: {}", damaged.0));
        let left = left(kind, &value, erased_ms).map_err(damaged)?;
        if left.as_deref() != Some(&*value) {
            erased.insert(base_key, left);
        }
    }
    Ok(erased)
}

/// What an erasure leaves of a value.
pub(crate) fn left(kind: ViewKind, value: &[u8], erased_ms: i64) -> Result<Left, Damaged> {
    match kind {
        ViewKind::Latest => Ok((event_time_ms(value)? > erased_ms).then(|| value.to_vec())),
        ViewKind::LastN => newer(value, erased_ms),
    }
}

/// The elements of a history that are newer than an erasure.
fn newer(value: &[u8], erased_ms: i64) -> Result<Left, Damaged> {
    let mut rows = Vec::new();
    for row in Elements::new(value)? {
        let row = row?;
        if event_time_ms(row)? > erased_ms {
            rows.push(row);
        }
    }
    let mut left = Vec::new();
    if rows.is_empty() {
        return Ok(None);
    }
    elements::encode(rows.into_iter(), &mut left);
    Ok(Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points_rows, publish_points, view};
    use crate::{Store, StoreConfig, Write, WriteKind};
    use std::fs;

    /// Whether a text is in a file of rows.
    fn stored(folder: &std::path::Path, text: &str) -> bool {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut ssts = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
        ssts.any(|path| fs::read(path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes()))
    }

    #[test]
    fn a_compaction_that_a_fetch_held_up_is_finished_by_the_next_call_or_the_next_start() {
        for (live, reopens) in [(false, false), (false, true), (true, false), (true, true)] {
            let folder = tempfile::tempdir().unwrap();
            let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
            let mut store = Store::open(&config, &[view()]).unwrap();
            // The marks are entities: the first key of a block is stored as it is.
            publish_points(&store, folder.path(), 1, 1);
            if live {
                let rows = points_rows(&["ada"], 5, 50);
                let write = Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows };
                store.write(&[write], 5).unwrap();
                store.0.warm.flush().unwrap();
            }
            assert!(stored(&config.path, "ada"));
            store.erase(TenantId(1), "ada", 9).unwrap();
            let reading = store.0.warm.snapshot();
            for _ in 0..2 {
                let refused = store.compact_erased().unwrap_err().to_string();
                assert!(refused.contains("a fetch still reads what they held before; try again"), "{refused}");
            }
            drop(reading);
            if reopens {
                drop(store);
                store = Store::open(&config, &[view()]).unwrap();
            }
            store.compact_erased().unwrap();
            assert!(!stored(&config.path, "ada"), "live: {live}, reopened: {reopens}");
            drop(store);
            Store::open(&config, &[view()]).unwrap();
        }
    }
}
