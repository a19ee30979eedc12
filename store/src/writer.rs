//! Building a generation: sorted rows in, a folder of SST and Parquet files with a manifest out. It touches no store, so it runs in another process
//! than the node, and the folder it leaves is either finished (it has a manifest) or worthless.

mod files;
mod limits;

use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};

use crate::encode::{ElementKeys, EncodedRows, RowColumns};
use crate::manifest::{AppliedDelta, Manifest, ManifestSources};
use crate::merge::Group;
use crate::placement::Placement;
use crate::schema::RowSchema;
use crate::shard::Shard;
use crate::view::{TenantId, ViewConfig, ViewKind, check_columns};
use crate::{Error, cold, key};

pub use limits::{MAX_ROW_BYTES, WriterLimits};

pub(crate) use files::OpenCold;
use files::OpenSst;

/// Writes one generation. Rows come in batches sorted by entity; [`finish`](GenerationWriter::finish) makes them a generation, dropping the
/// writer earlier leaves a folder that no store accepts.
pub struct GenerationWriter {
    dir: PathBuf,
    batch_schema: SchemaRef,
    row_schema: Arc<RowSchema>,
    view: ViewConfig,
    limits: WriterLimits,
    placement: Placement,
    manifest: Manifest,
    sst: Option<OpenSst>,
    cold: Option<OpenCold>,
    /// The entity whose rows are being gathered.
    entity: String,
    group: Group,
    /// Set while a call is under way, so that a writer whose call failed is not used on.
    broken: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    encoded: EncodedRows,
}

impl GenerationWriter {
    /// Starts a generation in `dir`, which must be empty or not exist yet.
    ///
    /// # Errors
    /// [`Error::FixConfig`] for a bad view or limit, [`Error::FixInput`] when `dir` holds files, [`Error::CheckDisk`] when it cannot be made.
    pub fn create(
        dir: &Path,
        view: &ViewConfig,
        tenant: TenantId,
        generation: u32,
        as_of_ms: i64,
        limits: WriterLimits,
    ) -> Result<GenerationWriter, Error> {
        view.validate()?;
        limits.validate()?;
        begin_folder(dir, generation)?;
        let row_schema = Arc::new(RowSchema::new(&view.features));
        Ok(GenerationWriter {
            dir: dir.to_path_buf(),
            batch_schema: view.arrow_schema(),
            view: view.clone(),
            limits,
            placement: Placement::default(),
            manifest: Manifest::new(view, row_schema.fingerprint, tenant, generation, as_of_ms),
            row_schema,
            sst: None,
            cold: None,
            entity: String::new(),
            group: Group::new(view),
            broken: false,
            key: Vec::new(),
            value: Vec::new(),
            encoded: EncodedRows::default(),
        })
    }

    /// Starts a generation of rows that are stored already, under the schema and the time of the generation they come from.
    pub(crate) fn again(
        dir: &Path,
        from: &Manifest,
        generation: u32,
        limits: WriterLimits,
    ) -> Result<GenerationWriter, Error> {
        let mut writer =
            GenerationWriter::create(dir, &from.view_config(), from.tenant, generation, from.as_of_ms, limits)?;
        // What stands in no configuration any more: the order of former names, and counts of what was left out once.
        writer.manifest.schema = from.schema.clone();
        writer.manifest.shard = from.shard;
        writer.manifest.duplicates_dropped = from.duplicates_dropped;
        writer.manifest.beyond_n_dropped = from.beyond_n_dropped;
        writer.manifest.sources = from.sources.clone();
        Ok(writer)
    }

    /// The same, of rows that a delta snapshot has changed.
    pub(crate) fn changed(
        dir: &Path,
        from: &Manifest,
        by: &Manifest,
        limits: WriterLimits,
    ) -> Result<GenerationWriter, Error> {
        let mut writer = GenerationWriter::again(dir, from, by.generation, limits)?;
        writer.manifest.as_of_ms = by.as_of_ms;
        writer.manifest.applied = Some(AppliedDelta { to_generation: from.generation, checksum: by.checksum });
        if let (Some(sources), Some(added)) = (&mut writer.manifest.sources, &by.sources) {
            sources.add(added);
        }
        Ok(writer)
    }

    /// Adds a value that is stored already, with the event times of its rows, newest first, to the tier where it belongs. Entities come in
    /// order, each once.
    pub(crate) fn put(&mut self, entity: &str, times_ms: &[i64], value: &[u8], is_cold: bool) -> Result<(), Error> {
        let (Some(&newest_ms), Some(&oldest_ms)) = (times_ms.first(), times_ms.last()) else {
            return Err(Error::FixInput(format!("entity {entity:?}: a value without rows")));
        };
        self.entity.clear();
        self.entity.push_str(entity);
        self.store_in(is_cold, value, times_ms.len() as u64, oldest_ms, newest_ms)
    }

    /// Divides the entities between the tiers. Without this all of them are warm.
    #[must_use]
    pub fn place(mut self, placement: Placement) -> GenerationWriter {
        self.placement = placement;
        self
    }

    /// Builds for one part of all entities; rows of others are refused. Without this the generation is for the whole.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> GenerationWriter {
        self.manifest.shard = shard;
        self
    }

    /// Notes in the manifest what the rows come from.
    #[must_use]
    pub fn built_from(mut self, sources: ManifestSources) -> GenerationWriter {
        self.manifest.sources = Some(sources);
        self
    }

    /// Adds rows: a batch of [`ViewConfig::arrow_schema`], sorted by entity (byte order) within itself and after the batches before it. The
    /// rows of one entity may come in any order of time and may continue in the next batch.
    ///
    /// # Errors
    /// [`Error::FixInput`] says which row breaks which rule; the writer is then of no more use.
    pub fn append(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.begin()?;
        check_columns(&self.manifest.view, &self.batch_schema, batch.schema_ref())?;
        let entities = batch.column(0).as_string::<i32>();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        if entities.null_count() > 0 || times.null_count() > 0 {
            let message = "entity and event time must not be null".to_string();
            return Err(Error::FixInput(message));
        }
        let mut encoded = mem::take(&mut self.encoded);
        let schema = Arc::clone(&self.row_schema);
        let elements = ElementKeys::of_rows(batch, &self.view, &schema);
        encode_each(batch, &schema, &mut encoded, |row, bytes| {
            self.add(row, entities, times.value(row), elements.as_ref(), bytes)
        })?;
        self.encoded = encoded;
        self.broken = false;
        Ok(())
    }

    /// Adds one row, which has been encoded.
    fn add(
        &mut self,
        row: usize,
        entities: &StringArray,
        event_time_ms: i64,
        elements: Option<&ElementKeys<'_>>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let entity = entities.value(row);
        self.begin_entity(entity, row)?;
        let (length, max_row_bytes) = (bytes.len(), self.limits.max_row_bytes);
        if length > max_row_bytes {
            let reason = format!("a row of {length} bytes, max_row_bytes is {max_row_bytes}");
            return Err(wrong_row(row, entity, &reason));
        }
        let is_alone = || row + 1 < entities.len() && entities.value(row + 1) != entity;
        if self.view.kind == ViewKind::Latest && self.group.is_empty() && is_alone() {
            return self.store(bytes, 1, event_time_ms, event_time_ms);
        }
        self.group.add(event_time_ms, |out| {
            if let Some(elements) = elements {
                let missing = || wrong_row(row, entity, "the element key is null");
                elements.push(row, out).ok_or_else(missing)?;
            }
            let start = out.len();
            out.extend_from_slice(bytes);
            Ok(start)
        })
    }

    /// Closes the files, makes them durable and puts the manifest beside them.
    ///
    /// # Errors
    /// [`Error::FixInput`] when no row was added: an empty generation would answer "not found" for everybody.
    pub fn finish(mut self) -> Result<Manifest, Error> {
        self.begin()?;
        self.end_entity()?;
        self.close_sst()?;
        self.close_cold()?;
        if self.manifest.entities == 0 {
            let message =
                format!("no rows for view {}: an empty generation would hide every entity", self.manifest.view);
            return Err(Error::FixInput(message));
        }
        crate::files::sync_dir(&self.dir)?;
        self.manifest.write(&self.dir)?;
        Ok(self.manifest)
    }

    fn begin(&mut self) -> Result<(), Error> {
        if mem::replace(&mut self.broken, true) {
            let message = "an earlier append failed: start the generation again".to_string();
            return Err(Error::FixInput(message));
        }
        Ok(())
    }

    /// Stores the gathered entity when `entity` is another one.
    fn begin_entity(&mut self, entity: &str, row: usize) -> Result<(), Error> {
        if entity == self.entity && !self.group.is_empty() {
            return Ok(());
        }
        check_next(self.manifest.shard, &self.entity, entity, row)?;
        self.end_entity()?;
        self.entity.clear();
        self.entity.push_str(entity);
        Ok(())
    }

    fn end_entity(&mut self) -> Result<(), Error> {
        if self.group.is_empty() {
            return Ok(());
        }
        let mut value = mem::take(&mut self.value);
        value.clear();
        let merged = self.group.finish(&mut value);
        if value.len() > self.limits.max_row_bytes {
            return Err(Error::FixInput(format!(
                "entity {:?}: a value of {} bytes, max_row_bytes is {}",
                self.entity,
                value.len(),
                self.limits.max_row_bytes
            )));
        }
        self.manifest.duplicates_dropped += merged.duplicates;
        self.manifest.beyond_n_dropped += merged.beyond_n;
        self.store(&value, merged.rows, merged.event_time_min_ms, merged.event_time_max_ms)?;
        self.value = value;
        Ok(())
    }

    /// Stores the entity's value where the placement says.
    fn store(&mut self, value: &[u8], rows: u64, oldest_ms: i64, newest_ms: i64) -> Result<(), Error> {
        let is_cold = self.placement.is_cold(&self.entity, newest_ms);
        self.store_in(is_cold, value, rows, oldest_ms, newest_ms)
    }

    fn store_in(
        &mut self,
        is_cold: bool,
        value: &[u8],
        rows: u64,
        oldest_ms: i64,
        newest_ms: i64,
    ) -> Result<(), Error> {
        let counts = &mut self.manifest;
        counts.entities += 1;
        counts.rows += rows;
        counts.event_time_min_ms = counts.event_time_min_ms.min(oldest_ms);
        counts.event_time_max_ms = counts.event_time_max_ms.max(newest_ms);
        match is_cold {
            true => self.put_cold(value, newest_ms),
            false => self.put_warm(value),
        }
    }

    fn put_warm(&mut self, value: &[u8]) -> Result<(), Error> {
        self.key.clear();
        self.key.extend_from_slice(&self.manifest.id().prefix());
        key::push_entity(&mut self.key, self.entity.as_bytes());
        let sst = match &mut self.sst {
            Some(sst) => sst,
            None => self.sst.insert(OpenSst::create(&self.dir, self.manifest.files.len() + 1)?),
        };
        sst.put(&self.key, value)?;
        if sst.bytes() >= self.limits.file_mib << 20 {
            self.close_sst()?;
        }
        Ok(())
    }

    fn put_cold(&mut self, value: &[u8], newest_ms: i64) -> Result<(), Error> {
        let cold = match &mut self.cold {
            Some(cold) => cold,
            None => {
                let owner = cold::owner(self.manifest.id());
                self.cold.insert(OpenCold::create(&self.dir, self.manifest.cold.len() + 1, &owner)?)
            }
        };
        cold.append(&self.entity, newest_ms, value)?;
        if cold.bytes() >= self.limits.file_mib << 20 {
            self.close_cold()?;
        }
        Ok(())
    }

    fn close_sst(&mut self) -> Result<(), Error> {
        if let Some(sst) = self.sst.take() {
            self.manifest.files.push(sst.close()?);
        }
        Ok(())
    }

    fn close_cold(&mut self) -> Result<(), Error> {
        if let Some(cold) = self.cold.take() {
            self.manifest.cold.push(cold.close()?);
        }
        Ok(())
    }
}

/// Makes the folder of a generation, which must be empty or not exist yet.
pub(crate) fn begin_folder(dir: &Path, generation: u32) -> Result<(), Error> {
    crate::files::create_dir(dir)?;
    let mut entries = fs::read_dir(dir).map_err(Error::disk("read", dir))?;
    if entries.next().is_some() {
        let message = format!("{} is not empty: build into a new folder", dir.display());
        return Err(Error::FixInput(message));
    }
    if generation == 0 {
        let message = "generation 0 means none: number generations from 1".to_string();
        return Err(Error::FixInput(message));
    }
    Ok(())
}

/// Refuses an entity that cannot be stored, belongs to another shard, or does not come after the one `before`.
pub(crate) fn check_next(shard: Shard, before: &str, entity: &str, row: usize) -> Result<(), Error> {
    key::check_entity(entity).map_err(|reason| Error::FixInput(format!("row {row}: {reason}")))?;
    if !shard.holds(entity) {
        let right = Shard::of(entity, shard.count());
        let message = format!("row {row}: entity {entity:?} belongs to shard {right}, the generation is for {shard}");
        return Err(Error::FixInput(message));
    }
    if entity < before {
        let message = format!("row {row}: entity {entity:?} after {before:?}, rows must be sorted by entity");
        return Err(Error::FixInput(message));
    }
    Ok(())
}

/// Encodes the rows of a batch, whose columns have been checked, and hands them over one by one.
pub(crate) fn encode_each(
    batch: &RecordBatch,
    schema: &RowSchema,
    encoded: &mut EncodedRows,
    mut take: impl FnMut(usize, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let entities = batch.column(0).as_string::<i32>();
    let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
    let columns = RowColumns::new(batch, schema, times.values());
    encoded.restart();
    while encoded.next() < batch.num_rows() {
        let encoding = columns.encode(encoded.next(), encoded);
        encoding.map_err(|refused| wrong_row(refused.row, entities.value(refused.row), &refused.reason))?;
        for (row, bytes) in encoded.iter() {
            take(row, bytes)?;
        }
    }
    Ok(())
}

pub(crate) fn wrong_row(row: usize, entity: &str, reason: &str) -> Error {
    Error::FixInput(format!("row {row}, entity {entity:?}: {reason}"))
}
