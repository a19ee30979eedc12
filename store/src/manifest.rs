//! The description of a built generation, `manifest.json` in its folder: what it holds, under which schema, in which files with which
//! checksums. The writer puts it there last, so a folder without one is not a generation; publish believes nothing it cannot check
//! against it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files;
use crate::key::GenerationId;
use crate::shard::Shard;
use crate::view::{FeatureConfig, TenantId, ViewConfig, ViewKind};

/// The manifest's name in a generation's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Source files that a manifest names, at most.
pub const MAX_NAMED_SOURCES: usize = 200;
/// Bytes at the end of a source file that its checksum in the manifest is of, at most.
pub const SOURCE_END_BYTES: u64 = 64 << 10;

/// The version of manifest and row format that this program writes and reads.
const FORMAT: u32 = 1;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// What a generation holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this description and of the rows it describes.
    pub format: u32,
    /// The tenant whose rows these are.
    pub tenant: TenantId,
    /// The view's name.
    pub view: String,
    /// The view's number, as in the keys.
    pub view_id: u16,
    /// The generation's number; greater is newer.
    pub generation: u32,
    /// The time whose state the snapshot shows, Unix milliseconds UTC.
    pub as_of_ms: i64,
    /// The part of all entities that the generation was built for: it holds rows of no other.
    #[serde(default, skip_serializing_if = "Shard::is_whole")]
    pub shard: Shard,
    /// Rows stored; for `last_n` the elements.
    pub rows: u64,
    /// Entities, which is the number of keys.
    pub entities: u64,
    /// Rows left out because the entity (for `last_n` the element) had a newer one.
    pub duplicates_dropped: u64,
    /// Elements left out because the entity had `n` newer ones.
    pub beyond_n_dropped: u64,
    /// Least event time stored.
    pub event_time_min_ms: i64,
    /// Greatest event time stored.
    pub event_time_max_ms: i64,
    /// The schema that the rows were written under.
    pub schema: StoredSchema,
    /// The SST files, in key order.
    pub files: Vec<ManifestFile>,
    /// The Parquet files of the entities that are placed in the cold tier, in order of their entities. Of a delta snapshot all its files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cold: Vec<ManifestFile>,
    /// Says that this is no whole generation but the changes since an earlier state; rows then counts the changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaOf>,
    /// The delta snapshot that made this generation out of the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedDelta>,
    /// What it was built from; absent in older ones, and where rows came from nowhere that has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<ManifestSources>,
    /// CRC-32 of this description with this field 0, so that an edited or half-copied manifest is noticed.
    pub checksum: u32,
}

/// What a delta snapshot holds the changes of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaOf {
    /// It holds everything that has changed since then, Unix milliseconds UTC: it can follow any generation that shows the state of this time
    /// or of a later one.
    pub since_ms: i64,
    /// Of its changes, deletions.
    pub deletions: u64,
}

/// The delta snapshot that a generation was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedDelta {
    /// The generation that it changed.
    pub to_generation: u32,
    /// The checksum in the delta snapshot's manifest.
    pub checksum: u32,
}

/// The schema of stored rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSchema {
    /// Identifies the layout; each row starts with it.
    pub fingerprint: u32,
    /// One row or the newest `n` elements per entity.
    pub kind: ViewKind,
    /// `last_n` only: how many elements were kept.
    pub n: Option<u32>,
    /// `last_n` only: the feature that identifies an element.
    pub element_key: Option<String>,
    /// Names and types, in the order of the layout. Former names are as the declaration had them: with them a declaration from before a
    /// renaming finds the feature too.
    pub features: Vec<FeatureConfig>,
}

/// One file of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// The file's name in the generation's folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The entities in it.
    pub entities: u64,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// What a generation was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestSources {
    /// Files read.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows in them.
    pub rows_read: u64,
    /// Rows left out because their keys cannot be stored.
    pub rows_rejected: u64,
    /// The first of the files, at most [`MAX_NAMED_SOURCES`]: a store keeps this with every generation.
    pub named: Vec<ManifestSource>,
}

/// One file that a generation was built from, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestSource {
    /// Its path or URL.
    pub location: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last changed, Unix milliseconds UTC.
    pub modified_ms: i64,
    /// The object store's name for exactly this content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// CRC-32 of its end, of at most [`SOURCE_END_BYTES`], where a Parquet file describes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_crc32: Option<u32>,
}

impl ManifestSources {
    /// Takes in the files that a delta snapshot was built from.
    pub(crate) fn add(&mut self, other: &ManifestSources) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.rows_read = self.rows_read.saturating_add(other.rows_read);
        self.rows_rejected = self.rows_rejected.saturating_add(other.rows_rejected);
        self.named.extend_from_slice(&other.named);
        self.named.truncate(MAX_NAMED_SOURCES);
    }
}

impl StoredSchema {
    /// The schema of rows that are written now.
    pub(crate) fn of(view: &ViewConfig, fingerprint: u32) -> StoredSchema {
        StoredSchema {
            fingerprint,
            kind: view.kind,
            n: view.n,
            element_key: view.element_key.clone(),
            features: view.features.clone(),
        }
    }
}

impl Manifest {
    /// A manifest of an empty generation; the writer fills in counts and files.
    pub(crate) fn new(
        view: &ViewConfig,
        fingerprint: u32,
        tenant: TenantId,
        generation: u32,
        as_of_ms: i64,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            tenant,
            view: view.name.clone(),
            view_id: view.id,
            generation,
            as_of_ms,
            shard: Shard::default(),
            rows: 0,
            entities: 0,
            duplicates_dropped: 0,
            beyond_n_dropped: 0,
            event_time_min_ms: i64::MAX,
            event_time_max_ms: i64::MIN,
            schema: StoredSchema::of(view, fingerprint),
            files: Vec::new(),
            cold: Vec::new(),
            delta: None,
            applied: None,
            sources: None,
            checksum: 0,
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.all_files().map(|file| file.bytes).sum()
    }

    pub(crate) fn id(&self) -> GenerationId {
        GenerationId { view: self.view_id, tenant: self.tenant, generation: self.generation }
    }

    /// Reads and checks the manifest in `dir`.
    ///
    /// # Errors
    /// [`Error::RebuildGeneration`] when there is none or it is not whole, [`Error::CheckDisk`] when it cannot be read.
    pub fn read(dir: &Path) -> Result<Manifest, Error> {
        let path = dir.join(MANIFEST_FILE);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = format!("it has no {MANIFEST_FILE}, so it was never finished");
                return Err(Error::refused(dir, reason));
            }
            Err(error) => return Err(Error::disk("read", &path)(error)),
        };
        if length > MAX_MANIFEST_BYTES {
            let reason = format!("{length} bytes, a manifest has at most {MAX_MANIFEST_BYTES}");
            return Err(Error::refused(&path, reason));
        }
        let bytes = fs::read(&path).map_err(Error::disk("read", &path))?;
        Manifest::decode(&bytes).map_err(|reason| Error::refused(&path, reason))
    }

    /// Sets the checksum and puts the manifest into `dir`, all of it or nothing.
    pub(crate) fn write(&mut self, dir: &Path) -> Result<(), Error> {
        self.checksum = self.computed_checksum();
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::disk("write", dir)(std::io::Error::other(e)))?;
        files::write_whole(&dir.join(MANIFEST_FILE), &bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, String> {
        let broken = |error: serde_json::Error| format!("not a manifest: {error}");
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(broken)?;
        if value["format"] != FORMAT {
            let found = &value["format"];
            return Err(format!("format {found}, this program reads format {FORMAT}"));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(broken)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The declaration that these rows were built under, as far as rows depend on it.
    pub(crate) fn view_config(&self) -> ViewConfig {
        ViewConfig {
            name: self.view.clone(),
            id: self.view_id,
            kind: self.schema.kind,
            // No feature can have these names.
            entity_key: "the entity".to_string(),
            event_time: "the event time".to_string(),
            ttl_s: None,
            n: self.schema.n,
            element_key: self.schema.element_key.clone(),
            features: self.schema.features.clone(),
        }
    }

    /// Entities in the SST files.
    pub(crate) fn warm_entities(&self) -> u64 {
        self.files.iter().map(|file| file.entities).sum()
    }

    fn all_files(&self) -> impl Iterator<Item = &ManifestFile> {
        self.files.iter().chain(&self.cold)
    }

    /// Checks that the manifest is as it was written and does not contradict itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        let computed = self.computed_checksum();
        if self.checksum != computed {
            let found = self.checksum;
            return Err(format!("checksum {found}, its content has {computed}: it was changed"));
        }
        let sum = |count: fn(&ManifestFile) -> u64| {
            self.all_files().try_fold(0, |sum: u64, file| sum.checked_add(count(file)))
        };
        let counted = sum(|file| file.entities) == Some(self.entities) && sum(|file| file.bytes).is_some();
        let deletions_fit = self.delta.is_none_or(|delta| delta.deletions <= self.rows && self.files.is_empty());
        if !counted || !deletions_fit || self.rows < self.entities || self.entities == 0 {
            return Err("its counts contradict each other".to_string());
        }
        let mut names = HashSet::new();
        if let Some(file) = self.all_files().find(|file| !names.insert(&file.name)) {
            return Err(format!("it names {:?} twice", file.name));
        }
        match self.all_files().find(|file| !files::is_plain_name(&file.name)) {
            Some(file) => Err(format!("{:?} is not a plain file name", file.name)),
            None => Ok(()),
        }
    }

    pub(crate) fn computed_checksum(&self) -> u32 {
        let plain = Manifest { checksum: 0, ..self.clone() };
        // Serialising plain data to memory cannot fail; an empty result would only fail the comparison.
        crc32fast::hash(&serde_json::to_vec(&plain).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::view;

    #[test]
    fn what_it_was_built_from_is_kept_and_may_be_absent() {
        let mut manifest = Manifest::new(&view(), 7, TenantId(1), 1, 0);
        manifest.files = vec![ManifestFile { name: "a.sst".into(), bytes: 1, entities: 1, crc32: 0 }];
        (manifest.rows, manifest.entities) = (1, 1);
        manifest.checksum = manifest.computed_checksum();
        let older = serde_json::to_string(&manifest).unwrap();
        assert!(!older.contains("sources"));
        assert_eq!(Manifest::decode(older.as_bytes()).unwrap(), manifest);
        let source = ManifestSource {
            location: "s3://bucket/a.parquet".into(),
            bytes: 5,
            modified_ms: 6,
            etag: Some("\"x\"".into()),
            end_crc32: None,
        };
        let sources = ManifestSources { files: 1, bytes: 5, rows_read: 3, rows_rejected: 2, named: vec![source] };
        manifest.sources = Some(sources);
        assert!(manifest.check().is_err(), "the checksum is of the sources too");
        manifest.checksum = manifest.computed_checksum();
        assert_eq!(Manifest::decode(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
    }

    #[test]
    fn forged_counts_that_overflow_are_refused() {
        let mut manifest = Manifest::new(&view(), 7, TenantId(1), 1, 0);
        let file = |name: &str, bytes| ManifestFile { name: name.into(), bytes, entities: 1 << 63, crc32: 0 };
        manifest.files = vec![file("a.sst", 1), file("b.sst", u64::MAX)];
        (manifest.rows, manifest.entities) = (9, 1);
        manifest.checksum = manifest.computed_checksum();
        assert_eq!(manifest.check(), Err("its counts contradict each other".to_string()));
    }
}
