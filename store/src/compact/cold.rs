//! Taking erased rows out of the cold files, which are never changed in place.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cold::ColdPart;
use crate::cold::scan::ColdRow;
use crate::cold::writer::ColdWriter;
use crate::compact::{Compacted, left};
use crate::generation::{Generation, Pair};
use crate::manifest::ManifestFile;
use crate::meta::MetaRecord;
use crate::row::Damaged;
use crate::store::Inner;
use crate::{Error, files, publish};

/// Rewrites the cold files that hold erased entities: a new file is written beside the old one, the record names it, and then the old one goes
/// with its last reader.
pub(super) fn compact(inner: &Inner, compacted: &mut Compacted) -> Result<(), Error> {
    let mut gone = Vec::new();
    for (view, tenant) in inner.generations.load().views() {
        if !inner.erasures.has(tenant) {
            continue;
        }
        let pair = || inner.generations.load().pair(view, tenant).cloned();
        // The table follows the record after each generation, so that a failure of the next leaves them alike.
        if let Some(pair) = pair() {
            let live = compact_generation(inner, &pair.live, compacted, &mut gone)?;
            publish::swap(inner, Pair { live, ..pair });
        }
        if let Some(pair) = pair()
            && let Some(previous) = &pair.previous
        {
            let previous = Some(compact_generation(inner, previous, compacted, &mut gone)?);
            publish::swap(inner, Pair { previous, ..pair });
        }
    }
    inner.warm.wait_until(|| Ok(!gone.iter().any(|path| path.exists())))
}

/// The generation as it is afterwards: itself, where none of its files had to be rewritten.
fn compact_generation(
    inner: &Inner,
    generation: &Arc<Generation>,
    compacted: &mut Compacted,
    gone: &mut Vec<PathBuf>,
) -> Result<Arc<Generation>, Error> {
    let manifest = &generation.manifest;
    let mut described = Vec::with_capacity(generation.cold.len());
    let mut old = Vec::new();
    for part in &generation.cold {
        match rewrite(inner, generation, part, compacted)? {
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
    let Some(mut record) = MetaRecord::read(&inner.warm, manifest.view_id, manifest.tenant)? else {
        return Ok(Arc::clone(generation));
    };
    let parts = inner.cold_folder.open_parts(manifest, &described)?;
    record.rewritten_cold.insert(manifest.generation, described);
    record.write(&inner.warm)?;
    for part in &old {
        part.retire();
        gone.push(part.file.path().to_path_buf());
    }
    compacted.files += old.len() as u64;
    Ok(Generation::new(manifest.clone(), parts, &inner.warm))
}

/// Writes a cold file anew without what is erased; `Some(None)` when nothing is left of it, `None` when nothing in it is erased.
fn rewrite(
    inner: &Inner,
    generation: &Generation,
    part: &ColdPart,
    compacted: &mut Compacted,
) -> Result<Option<Option<ManifestFile>>, Error> {
    let (tenant, kind) = (generation.manifest.tenant, generation.manifest.schema.kind);
    let erased_of = |row: &ColdRow| {
        let erased_ms = inner.erasures.erased_ms(tenant, &row.entity)?;
        Some(left(kind, &row.value, erased_ms))
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
    // What a call that failed left; no record names it.
    if path.exists() {
        fs::remove_file(&path).map_err(Error::disk("delete", &path))?;
    }
    let mut writer = ColdWriter::create(&path, part.file.owner())?;
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
