//! Building a delta snapshot: sorted changes in, a folder of Parquet files with a manifest out. Like the writer of generations it touches no store,
//! and the folder it leaves is either finished or worthless.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};

use crate::delta_snapshot::gathered::Gathered;
use crate::delta_snapshot::owner;
use crate::encode::{ElementKeys, EncodedRows};
use crate::manifest::{DeltaOf, Manifest, ManifestSources};
use crate::row::Damaged;
use crate::schema::RowSchema;
use crate::shard::Shard;
use crate::view::{TenantId, ViewConfig, ViewKind, check_columns};
use crate::writer::{MAX_ROW_BYTES, OpenCold, WriterLimits, begin_folder, check_next, encode_each, wrong_row};
use crate::{Error, files};

/// Writes one delta snapshot. Changes come in batches sorted by entity; [`finish`](DeltaWriter::finish) makes them a delta snapshot, dropping the
/// writer earlier leaves a folder that no store accepts.
pub struct DeltaWriter {
    dir: PathBuf,
    batch_schema: SchemaRef,
    row_schema: Arc<RowSchema>,
    view: ViewConfig,
    limits: WriterLimits,
    manifest: Manifest,
    counts: DeltaOf,
    file: Option<OpenCold>,
    /// The entity whose changes are being gathered.
    entity: String,
    gathered: Gathered,
    /// Set while a call is under way, so that a writer whose call failed is not used on.
    broken: bool,
    element: Vec<u8>,
    encoded: EncodedRows,
}

impl DeltaWriter {
    /// Starts a delta snapshot in `dir`, which must be empty or not exist yet: of everything that has changed between `since_ms` and `as_of_ms`.
    ///
    /// # Errors
    /// [`Error::FixConfig`] for a bad view or limit, [`Error::FixInput`] when `dir` holds files or the times contradict each other,
    /// [`Error::CheckDisk`] when it cannot be made.
    pub fn create(
        dir: &Path,
        view: &ViewConfig,
        tenant: TenantId,
        generation: u32,
        since_ms: i64,
        as_of_ms: i64,
        limits: WriterLimits,
    ) -> Result<DeltaWriter, Error> {
        view.validate()?;
        limits.validate()?;
        if since_ms > as_of_ms {
            let message = format!(
                "a delta snapshot since {since_ms} that shows the state of {as_of_ms}: that is before it begins"
            );
            return Err(Error::FixInput(message));
        }
        begin_folder(dir, generation)?;
        let row_schema = Arc::new(RowSchema::new(&view.features));
        Ok(DeltaWriter {
            dir: dir.to_path_buf(),
            batch_schema: view.change_schema(),
            gathered: Gathered::new(view.n),
            manifest: Manifest::new(view, row_schema.fingerprint, tenant, generation, as_of_ms),
            view: view.clone(),
            row_schema,
            limits,
            counts: DeltaOf { since_ms, deletions: 0 },
            file: None,
            entity: String::new(),
            broken: false,
            element: Vec::new(),
            encoded: EncodedRows::default(),
        })
    }

    /// Builds for one part of all entities; changes of others are refused. Without this the delta is of the whole, and fits every shard.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> DeltaWriter {
        self.manifest.shard = shard;
        self
    }

    /// Notes in the manifest what the changes come from.
    #[must_use]
    pub fn built_from(mut self, sources: ManifestSources) -> DeltaWriter {
        self.manifest.sources = Some(sources);
        self
    }

    /// Adds changes: a batch of [`ViewConfig::change_schema`], sorted by entity (byte order) within itself and after the batches before it, the
    /// deletions of an entity before its rows. Of changes of one entity (in a `last_n` view: of one element) the newest stands; of equal event
    /// times a deletion before a row, and the later row before the earlier one.
    ///
    /// # Errors
    /// [`Error::FixInput`] names the row and what is wrong with it; the writer is of no use any more then.
    pub fn append(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.begin()?;
        check_columns(&self.manifest.view, &self.batch_schema, batch.schema_ref())?;
        let entities = batch.column(0).as_string::<i32>();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        let deleted = batch.column(batch.num_columns() - 1).as_boolean();
        if entities.null_count() > 0 || times.null_count() > 0 || deleted.null_count() > 0 {
            let message = "entity, event time and whether a row is a deletion must not be null".to_string();
            return Err(Error::FixInput(message));
        }
        let mut encoded = mem::take(&mut self.encoded);
        let schema = Arc::clone(&self.row_schema);
        let elements = ElementKeys::of_rows(batch, &self.view, &schema);
        encode_each(batch, &schema, &mut encoded, |row, bytes| {
            self.begin_entity(entities.value(row), row)?;
            let change = (!deleted.value(row)).then_some(bytes);
            self.add(row, times.value(row), elements.as_ref(), change)
        })?;
        self.encoded = encoded;
        self.broken = false;
        Ok(())
    }

    /// Closes the files, makes them durable and puts the manifest beside them.
    ///
    /// # Errors
    /// [`Error::FixInput`] when no change was added.
    pub fn finish(mut self) -> Result<Manifest, Error> {
        self.begin()?;
        self.end_entity()?;
        self.close_file()?;
        if self.manifest.entities == 0 {
            return Err(Error::FixInput(format!("no changes for view {}", self.manifest.view)));
        }
        self.manifest.delta = Some(self.counts);
        files::sync_dir(&self.dir)?;
        self.manifest.write(&self.dir)?;
        Ok(self.manifest)
    }

    fn begin(&mut self) -> Result<(), Error> {
        if mem::replace(&mut self.broken, true) {
            let message = "an earlier append failed: start the delta snapshot again".to_string();
            return Err(Error::FixInput(message));
        }
        Ok(())
    }

    /// Stores the gathered entity when `entity` is another one.
    fn begin_entity(&mut self, entity: &str, row: usize) -> Result<(), Error> {
        if entity == self.entity && !self.gathered.is_empty() {
            return Ok(());
        }
        check_next(self.manifest.shard, &self.entity, entity, row)?;
        self.end_entity()?;
        self.entity.clear();
        self.entity.push_str(entity);
        Ok(())
    }

    /// Adds a row of the entity, or a deletion where there is none.
    fn add(
        &mut self,
        row: usize,
        event_time_ms: i64,
        elements: Option<&ElementKeys<'_>>,
        bytes: Option<&[u8]>,
    ) -> Result<(), Error> {
        let max_row_bytes = self.limits.max_row_bytes;
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() > max_row_bytes) {
            let reason = format!("a row of {} bytes, max_row_bytes is {max_row_bytes}", bytes.len());
            return Err(wrong_row(row, &self.entity, &reason));
        }
        if bytes.is_none() && self.gathered.has_rows() {
            return Err(wrong_row(
                row,
                &self.entity,
                "a deletion after a row of the same entity, deletions come first",
            ));
        }
        self.element.clear();
        let named = elements.is_none_or(|elements| elements.push(row, &mut self.element).is_some());
        match bytes {
            Some(_) if !named => return Err(wrong_row(row, &self.entity, "the element key is null")),
            None if !named && self.view.kind == ViewKind::LastN => {
                self.gathered.clear(event_time_ms);
                return Ok(());
            }
            _ => {}
        }
        let damaged = |damaged: Damaged| wrong_row(row, &self.entity, damaged.0);
        self.gathered.add(event_time_ms, &self.element, bytes).map_err(damaged)
    }

    fn end_entity(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let (value, left) = self.gathered.finish()?;
        if value.len() > MAX_ROW_BYTES {
            return Err(Error::FixInput(format!(
                "entity {:?}: {} rows and {} deletions take {} bytes, a delta snapshot has at most {MAX_ROW_BYTES} for each entity: delete the \
                 entity as a whole, or publish a full snapshot",
                self.entity,
                left.upserts,
                left.deletions,
                value.len()
            )));
        }
        let counts = &mut self.manifest;
        counts.entities += 1;
        counts.rows += left.upserts + left.deletions;
        counts.duplicates_dropped += left.outdated;
        counts.beyond_n_dropped += left.beyond_n;
        counts.event_time_min_ms = counts.event_time_min_ms.min(left.oldest_ms);
        counts.event_time_max_ms = counts.event_time_max_ms.max(left.newest_ms);
        self.counts.deletions += left.deletions;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let number = self.manifest.cold.len() + 1;
                self.file.insert(OpenCold::create(&self.dir, number, &owner(self.manifest.id()))?)
            }
        };
        file.append(&self.entity, left.newest_ms, &value)?;
        if file.bytes() >= self.limits.file_mib << 20 {
            self.close_file()?;
        }
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), Error> {
        if let Some(file) = self.file.take() {
            self.manifest.cold.push(file.close()?);
        }
        Ok(())
    }
}
