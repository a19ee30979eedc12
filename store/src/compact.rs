//! Taking erased rows out of the files. An erasure is in force as soon as it is recorded; this is the second half, which leaves no byte of the
//! entity in any file of the store.
//!
//! Files are rewritten by RocksDB itself: the rows are deleted (or, where a history has newer elements, replaced) by one synced write for each
//! file, together with the record's new count, and then that file alone is compacted. A crash in between leaves a small file on
//! top of the one it changes; the next start compacts it before anything is counted.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::sync::Arc;

use rocksdb::WriteBatch;

use crate::Error;
use crate::cold::ColdPart;
use crate::cold_scan::ColdRow;
use crate::cold_writer::ColdWriter;
use crate::delta::Delta;
use crate::elements::{self, Elements};
use crate::erasure::{Erasure, ErasureRecord};
use crate::files;
use crate::generation::{Generation, Pair};
use crate::key::{self, GenerationId, MAX_ENTITY_BYTES, PREFIX_BYTES};
use crate::live::{Touched, read_key, tell_hot};
use crate::manifest::ManifestFile;
use crate::meta::{self, MetaRecord};
use crate::plan::View;
use crate::publish;
use crate::row::{Damaged, event_time_ms};
use crate::store::Inner;
use crate::view::{TenantId, ViewKind};
use crate::warm::{BaseFile, Family};

/// Live values looked at while writers wait.
const CHUNK: usize = 256;

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
    if entity.is_empty() || entity.len() > MAX_ENTITY_BYTES {
        let length = entity.len();
        let message = format!("an entity of {length} bytes, allowed are 1 to {MAX_ENTITY_BYTES}");
        return Err(Error::FixRequest(message));
    }
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
    let files = inner.warm.base_files()?;
    for view in &inner.views {
        for tenant in inner.generations.load().tenants(view.config.id) {
            if inner.erasures.has(tenant) {
                compact_generations(inner, view, tenant, &files, &mut compacted)?;
            }
        }
    }
    compact_cold(inner, &mut compacted)?;
    // The log still holds what was written live; it goes when everything in it has reached a file.
    inner.warm.flush()?;
    Ok(compacted)
}

fn compact_live(inner: &Inner, compacted: &mut Compacted) -> Result<(), Error> {
    let end = [0xFF; key::LIVE_PREFIX_BYTES + 1];
    let mut from = Vec::new();
    let mut taken = Vec::new();
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
            let mut left = Vec::new();
            if !delta.changes.is_empty() {
                delta.encode(&mut left);
            }
            inner.warm.replace_live(&mut batch, live_key, &left)?;
            taken.push(live_key.clone());
        }
        if !batch.is_empty() {
            inner.warm.write_synced(batch)?;
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    compacted.live += taken.len() as u64;
    inner.warm.flush()?;
    inner.warm.outlive_snapshots();
    for live_key in taken {
        inner.warm.compact(Family::Live, &live_key, &live_key)?;
    }
    Ok(())
}

/// What is left of a value: nothing, or a shorter history.
pub(crate) type Left = Option<Vec<u8>>;

fn compact_generations(
    inner: &Inner,
    view: &View,
    tenant: TenantId,
    files: &[BaseFile],
    compacted: &mut Compacted,
) -> Result<(), Error> {
    let Some(mut record) = MetaRecord::read(&inner.warm, view.config.id, tenant)? else { return Ok(()) };
    let ids: Vec<_> = record.generations().map(|manifest| manifest.id()).collect();
    for id in ids {
        for file in files.iter().filter(|file| file.generation() == Some(id)) {
            let erased = find_erased(inner, view, id, file)?;
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
            inner.warm.outlive_snapshots();
            if let Some(((first, _), (last, _))) = erased.first_key_value().zip(erased.last_key_value()) {
                inner.warm.compact(Family::Base, first, last)?;
            }
            compacted.rows += erased.len() as u64;
            compacted.files += 1;
        }
    }
    Ok(())
}

fn find_erased(
    inner: &Inner,
    view: &View,
    id: GenerationId,
    file: &BaseFile,
) -> Result<BTreeMap<Box<[u8]>, Left>, Error> {
    let mut erased = BTreeMap::new();
    for entry in inner.warm.scan_base(file.first_key(), Bound::Included(file.last_key()))? {
        let (base_key, value) = entry?;
        let entity = base_key.get(PREFIX_BYTES..).and_then(key::read_entity);
        let erased_ms = entity.and_then(|entity| inner.erasures.erased_ms(id.tenant, &entity));
        let Some(erased_ms) = erased_ms else { continue };
        let damaged = |damaged: Damaged| Error::damaged(inner.warm.path(), format!("a row: {}", damaged.0));
        let left = left(view, &value, erased_ms).map_err(damaged)?;
        if left.as_deref() != Some(&*value) {
            erased.insert(base_key, left);
        }
    }
    Ok(erased)
}

/// Rewrites the cold files that hold erased entities: a new file is written beside the old one, the record names it, and then the old one goes
/// with its last reader.
fn compact_cold(inner: &Inner, compacted: &mut Compacted) -> Result<(), Error> {
    for view in &inner.views {
        for tenant in inner.generations.load().tenants(view.config.id) {
            if !inner.erasures.has(tenant) {
                continue;
            }
            let Some(pair) = inner.generations.load().pair(view.config.id, tenant).cloned() else { continue };
            let live = compact_cold_of(inner, view, &pair.live, compacted)?;
            let previous = pair.previous.as_ref().map(|previous| compact_cold_of(inner, view, previous, compacted));
            publish::swap(inner, Pair { live, previous: previous.transpose()?, incoming: None });
        }
    }
    Ok(())
}

/// The generation as it is afterwards: itself, where none of its files had to be rewritten.
fn compact_cold_of(
    inner: &Inner,
    view: &View,
    generation: &Arc<Generation>,
    compacted: &mut Compacted,
) -> Result<Arc<Generation>, Error> {
    let manifest = &generation.manifest;
    let mut described = Vec::with_capacity(generation.cold.len());
    let mut old = Vec::new();
    for part in &generation.cold {
        match rewrite_cold(inner, view, generation, part, compacted)? {
            None => described.push(part.described.clone()),
            Some(rewritten) => {
                described.extend(rewritten);
                old.push(part);
            }
        }
    }
    if old.is_empty() {
        return Ok(Arc::clone(generation));
    }
    let Some(mut record) = MetaRecord::read(&inner.warm, view.config.id, manifest.tenant)? else {
        return Ok(Arc::clone(generation));
    };
    let parts = inner.cold_folder.open_parts(manifest, &described)?;
    record.rewritten_cold.insert(manifest.generation, described);
    record.write(&inner.warm)?;
    old.iter().for_each(|part| part.retire());
    compacted.files += old.len() as u64;
    Ok(Generation::new(manifest.clone(), parts, &inner.warm))
}

/// Writes a cold file anew without what is erased; `Some(None)` when nothing is left of it, `None` when nothing in it is erased.
fn rewrite_cold(
    inner: &Inner,
    view: &View,
    generation: &Generation,
    part: &ColdPart,
    compacted: &mut Compacted,
) -> Result<Option<Option<ManifestFile>>, Error> {
    let tenant = generation.manifest.tenant;
    let erased_of = |row: &ColdRow| {
        let erased_ms = inner.erasures.erased_ms(tenant, &row.entity)?;
        Some(left(view, &row.value, erased_ms))
    };
    let damaged = |damaged: Damaged| Error::damaged(part.file.path(), format!("the row of an entity: {}", damaged.0));
    let mut changes = false;
    for row in part.file.scan() {
        let row = row?;
        if let Some(left) = erased_of(&row) {
            changes |= left.map_err(damaged)?.as_deref() != Some(&*row.value);
        }
    }
    if !changes {
        return Ok(None);
    }
    let name = next_name(&part.described.name);
    let path = inner.cold_folder.place(&generation.manifest, &name);
    let mut writer = ColdWriter::create(&path)?;
    let mut entities = 0u64;
    for row in part.file.scan() {
        let row = row?;
        let kept = match erased_of(&row) {
            None => Some(row.value.to_vec()),
            Some(left) => left.map_err(damaged)?,
        };
        compacted.rows += u64::from(kept.as_deref() != Some(&*row.value));
        if let Some(value) = kept {
            writer.append(&row.entity, row.event_time_ms, &value)?;
            entities += 1;
        }
    }
    if entities == 0 {
        drop(writer);
        fs::remove_file(&path).map_err(Error::disk("delete", &path))?;
        return Ok(Some(None));
    }
    writer.finish()?;
    let (bytes, crc32) = files::sync_and_sum(&path)?;
    path.parent().map_or(Ok(()), files::sync_dir)?;
    Ok(Some(Some(ManifestFile { name, bytes, entities, crc32 })))
}

/// The name of a file that is rewritten: `000001.parquet`, `000001-1.parquet`, `000001-2.parquet`.
fn next_name(name: &str) -> String {
    let stem = name.strip_suffix(".parquet").unwrap_or(name);
    let (number, times) = stem.split_once('-').unwrap_or((stem, "0"));
    format!("{number}-{}.parquet", times.parse::<u32>().unwrap_or(0) + 1)
}

/// What an erasure leaves of a value.
pub(crate) fn left(view: &View, value: &[u8], erased_ms: i64) -> Result<Left, Damaged> {
    match view.config.kind {
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
