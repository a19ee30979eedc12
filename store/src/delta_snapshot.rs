//! Delta snapshots: the changes between one state and a later one, rows and deletions, as files of their own. Between two full snapshots they cost
//! their makers what has changed, and not what there is.
//!
//! Publishing one reads the live generation in order, with the changes beside it, and writes what comes of both as a new generation, which is
//! published like any other: so a fetch meets one generation as ever, a rollback takes the changes back, and a crash leaves the old state or
//! the new one. Who lay cold and did not change stays cold.
//!
//! A delta holds *everything* that has changed since a time, and can follow whatever shows the state of that time or of a later one: what it
//! says of older changes is known there already, and the newer event time stands. Its files are Parquet files like those of the cold tier, whose
//! rows are live values (`delta.rs`).

mod gathered;
mod writer;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::cold::file::ColdFile;
use crate::cold::scan::ColdRow;
use crate::combine::{Baseline, combine};
use crate::delta::Delta;
use crate::generation::Generation;
use crate::key::GenerationId;
use crate::manifest::{DeltaOf, Manifest, ManifestFile};
use crate::meta::MetaRecord;
use crate::plan::find_view;
use crate::publish::{self, Published, check_succession};
use crate::replace::{self, without_erased};
use crate::row::Damaged;
use crate::store::Inner;
use crate::view::ViewConfig;
use crate::whole::{Entry, entries, times};
use crate::writer::{GenerationWriter, MAX_ROW_BYTES, WriterLimits};
use crate::{Error, files};

pub use writer::DeltaWriter;

/// In the working folder: where the files are linked to while they are read, so that nobody puts others in their place, and where the new
/// generation is written.
const LINKED: &str = "changes";
const APPLIED: &str = "applied";

/// Whose changes a file holds, as the file says it.
fn owner(id: GenerationId) -> String {
    format!("view {} tenant {} delta {}", id.view, id.tenant, id.generation)
}

/// See [`Store::publish`](crate::Store::publish). The caller holds the publish lock, and has checked that the manifest fits views and shard.
pub(crate) fn publish(inner: &Inner, dir: &Path, delta: &Manifest, of: &DeltaOf) -> Result<Published, Error> {
    let Manifest { view, tenant, generation, .. } = delta;
    let refuse = |reason: String| {
        Err(Error::ChooseGeneration(format!("delta {generation} of view {view}, tenant {tenant}: {reason}")))
    };
    let record = MetaRecord::read(&inner.warm, delta.view_id, *tenant)?;
    let live = inner.generations.load().live(delta.view_id, *tenant).cloned();
    let Some((record, live)) = record.zip(live) else {
        return refuse("there is no live generation that it could change: publish a full snapshot first".to_owned());
    };
    if record.live.applied.is_some_and(|applied| applied.checksum == delta.checksum) {
        return Ok(Published::new(&record, None, true));
    }
    check_succession(&record, delta)?;
    if let Some(reason) = cannot_follow(&record.live, delta, of) {
        return refuse(reason);
    }
    replace::clear(inner.warm.path())?;
    let work = inner.warm.path().join(replace::WORK);
    let applied = work.join(APPLIED);
    let built = link(dir, delta, &work.join(LINKED)).and_then(|changes| apply(inner, delta, &changes, &live, &applied));
    let published = built.and_then(|()| publish::publish(inner, &applied));
    if let Err(error) = replace::clear(inner.warm.path()) {
        tracing::warn!(%error, "the working folder of a delta snapshot is not removed, the next one does it");
    }
    published
}

/// Why a delta does not fit behind a generation.
fn cannot_follow(live: &Manifest, delta: &Manifest, of: &DeltaOf) -> Option<String> {
    let (live_ms, since_ms, as_of_ms) = (live.as_of_ms, of.since_ms, delta.as_of_ms);
    let generation = live.generation;
    if live_ms < since_ms {
        return Some(format!(
            "it holds the changes since {since_ms}, and the live generation {generation} shows the state of {live_ms}: what has changed in \
             between is in neither; publish the delta snapshots in between first, or a full one"
        ));
    }
    if as_of_ms < live_ms {
        return Some(format!(
            "it shows the state of {as_of_ms}, and the live generation {generation} the newer one of {live_ms}: nothing is to be done"
        ));
    }
    let shard = live.shard;
    if !delta.shard.covers(shard) {
        let found = delta.shard;
        return Some(format!("it was built for shard {found}, and the live generation {generation} is of {shard}"));
    }
    let layout = |manifest: &Manifest| {
        let schema = &manifest.schema;
        (schema.fingerprint, schema.kind, schema.n, schema.element_key.clone())
    };
    if layout(live) != layout(delta) {
        return Some(format!(
            "the view's declaration has changed since the live generation {generation} was built: publish a full snapshot first"
        ));
    }
    None
}

/// A file of a delta, open where it is linked to, and its path where it came from, which is what people know.
struct Part {
    file: ColdFile,
    from: PathBuf,
}

/// Links the files of a delta to where they are read, each checked.
fn link(dir: &Path, delta: &Manifest, to: &Path) -> Result<Vec<Part>, Error> {
    files::create_dir(to)?;
    let expected = owner(delta.id());
    let link = |file: &ManifestFile| {
        let (from, linked) = (dir.join(&file.name), to.join(&file.name));
        files::link_checked(&from, &linked, file)?;
        let opened = ColdFile::open(&linked)?;
        let (owner, rows, entities) = (opened.owner(), opened.rows(), file.entities);
        if owner != expected || rows != entities {
            let reason = format!("it holds {rows} entities of {owner}, the manifest says {entities} of {expected}");
            return Err(Error::refused(&from, reason));
        }
        Ok(Part { file: opened, from })
    };
    delta.cold.iter().map(link).collect()
}

/// Writes the live generation's rows, as the changes leave them, as a generation into `dir`.
fn apply(inner: &Inner, delta: &Manifest, parts: &[Part], live: &Generation, dir: &Path) -> Result<(), Error> {
    let writer = GenerationWriter::changed(dir, &live.manifest, delta, WriterLimits::default())?;
    let config = live.manifest.view_config();
    let view = find_view(&inner.views, &delta.view)?;
    let baseline = Baseline::new(view, Some(live), None).without_time();
    let mut applying = Applying { inner, live, config, baseline, writer, last: String::new(), done: Done::default() };
    let mut base = entries(inner, live)?.peekable();
    let mut changes = parts.iter().flat_map(|part| part.file.scan().map(move |row| (part, row))).peekable();
    loop {
        // What cannot be read is taken first, and ends it.
        let order = match (base.peek(), changes.peek()) {
            (None, None) => break,
            (Some(Ok(base)), Some((_, Ok(change)))) => base.entity.cmp(&change.entity),
            (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        let entry = if order.is_le() { base.next().transpose()? } else { None };
        match if order.is_ge() { changes.next() } else { None } {
            Some((part, change)) => applying.change(entry.as_ref(), &change?, &part.from)?,
            None => applying.keep(entry)?,
        }
    }
    let Applying { writer, done, .. } = applying;
    let Done { changed, deleted, without_effect, elsewhere } = done;
    let (view, generation) = (&delta.view, delta.generation);
    tracing::info!(%view, generation, changed, deleted, without_effect, elsewhere, "delta snapshot applied");
    writer.finish().map(drop)
}

/// A delta snapshot that is being applied.
struct Applying<'a> {
    inner: &'a Inner,
    live: &'a Generation,
    /// The view as the live generation was built.
    config: ViewConfig,
    baseline: Baseline<'a>,
    writer: GenerationWriter,
    /// The entity changed last.
    last: String,
    done: Done,
}

/// What became of the entities that a delta names.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    /// New, or with other rows.
    changed: u64,
    /// Gone.
    deleted: u64,
    /// As before: something newer was known, or there was nothing to delete.
    without_effect: u64,
    /// Of another shard.
    elsewhere: u64,
}

impl Applying<'_> {
    /// Writes an entity that the delta does not name.
    fn keep(&mut self, entry: Option<Entry>) -> Result<(), Error> {
        let Some(Entry { entity, value, is_cold }) = entry else { return Ok(()) };
        self.put(&entity, value.into_vec(), is_cold)
    }

    /// Writes what a change makes of an entity.
    fn change(&mut self, entry: Option<&Entry>, change: &ColdRow, from: &Path) -> Result<(), Error> {
        let ColdRow { entity, value, .. } = change;
        let wrong = |reason: &str| Error::refused(from, format!("entity {entity:?}: {reason}"));
        if *entity <= self.last {
            return Err(wrong("entities do not ascend"));
        }
        self.last.clone_from(entity);
        if !self.live.manifest.shard.holds(entity) {
            self.done.elsewhere += 1;
            return Ok(());
        }
        if Delta::decode(value).map_err(|damaged| wrong(damaged.0))?.is_cut() {
            return Err(wrong("changes are missing"));
        }
        let base = entry.map(|entry| &*entry.value);
        let changed = combine(&self.config, self.baseline, base, value).map_err(|damaged| self.damaged(damaged))?;
        let is_same = changed.as_deref() == base;
        let counted = match (is_same, &changed) {
            (true, _) => &mut self.done.without_effect,
            (false, Some(_)) => &mut self.done.changed,
            (false, None) => &mut self.done.deleted,
        };
        *counted += 1;
        let is_cold = is_same && entry.is_some_and(|entry| entry.is_cold);
        let Some(changed) = changed.map(Cow::into_owned) else { return Ok(()) };
        if changed.len() > MAX_ROW_BYTES {
            let bytes = changed.len();
            return Err(wrong(&format!("{bytes} bytes with its changes, an entity has at most {MAX_ROW_BYTES}")));
        }
        self.put(entity, changed, is_cold)
    }

    fn put(&mut self, entity: &str, value: Vec<u8>, is_cold: bool) -> Result<(), Error> {
        let value = without_erased(self.inner, self.live, entity, value).map_err(|damaged| self.damaged(damaged))?;
        let Some(value) = value else { return Ok(()) };
        let times_ms = times(self.config.kind, &value).map_err(|damaged| self.damaged(damaged))?;
        self.writer.put(entity, &times_ms, &value, is_cold)
    }

    fn damaged(&self, damaged: Damaged) -> Error {
        Error::damaged(self.inner.warm.path(), format!("a row: {}", damaged.0))
    }
}
