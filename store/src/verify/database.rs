//! RocksDB's part of a store: its logs and its list of files, its tables, and what is known with the database open, the records and the rows.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{StorePart, Verifying, length, table};
use crate::config::StoreConfig;
use crate::delta::Delta;
use crate::key::{GenerationId, LIVE_PREFIX_BYTES};
use crate::live::read_key;
use crate::manifest::ManifestFile;
use crate::meta::{MetaRecord, Records};
use crate::warm::{BaseFile, Warm};
use crate::{Error, files, wal};

/// RocksDB's files in a store's folder.
pub(super) struct Names {
    pub(super) tables: Vec<PathBuf>,
    logs: Vec<PathBuf>,
}

impl Names {
    pub(super) fn list(store: &Path) -> Result<Names, Error> {
        let mut names = Names { tables: Vec::new(), logs: Vec::new() };
        for entry in fs::read_dir(store).map_err(Error::disk("read", store))? {
            let path = entry.map_err(Error::disk("read", store))?.path();
            match path.extension().and_then(OsStr::to_str) {
                Some("sst") => names.tables.push(path),
                Some("log") => names.logs.push(path),
                _ => {}
            }
        }
        names.tables.sort();
        names.logs.sort();
        Ok(names)
    }

    /// Of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().chain(&self.logs).map(|path| length(path)).sum()
    }
}

impl Verifying<'_> {
    /// The write-ahead logs, and the list of files that is in force.
    pub(super) fn logs(&mut self, store: &Path, names: &Names) {
        let current = store.join("CURRENT");
        let in_force = fs::read_to_string(&current).unwrap_or_default();
        let list =
            in_force.strip_suffix('\n').filter(|name| name.starts_with("MANIFEST-") && files::is_plain_name(name));
        match list {
            None => self.damaged(&current, StorePart::FileList, "it names no list of files"),
            Some(name) => self.log(&store.join(name), StorePart::FileList),
        }
        for path in &names.logs {
            self.log(path, StorePart::WriteAheadLog);
        }
    }

    fn log(&mut self, path: &Path, part: StorePart) {
        let found = File::open(path).and_then(wal::find_damage);
        self.done(path);
        self.found(path, part, found.map(|at| at.map(|at| format!("it is damaged at byte {at}"))));
    }

    /// A table: by the checksum of all its bytes where it is known, else block by block.
    pub(super) fn table(&mut self, path: &Path, part: StorePart, described: Option<&ManifestFile>) {
        let whole = described
            .is_some_and(|described| files::sum(path).is_ok_and(|found| found == (described.bytes, described.crc32)));
        self.done(path);
        if whole {
            return;
        }
        let other = "its content is not the one that was published";
        let found = table::find_damage(path);
        let found = found.map(|reason| reason.or_else(|| described.map(|_| other.to_string())));
        self.found(path, part, found);
    }

    /// Everything that is known with the database open.
    pub(super) fn opened(&mut self, config: &StoreConfig, warm: &Warm, names: &Names) -> Result<(), Error> {
        let mut records = Records::default();
        match warm.read_all_meta() {
            Err(error) => self.damaged(&config.path, StorePart::Records, error.to_string()),
            Ok(entries) => {
                for (key, bytes) in entries {
                    if let Err(reason) = records.decode(&key, &bytes) {
                        self.damaged(&config.path, StorePart::Records, reason);
                    }
                }
            }
        }
        self.live_rows(config, warm);
        let described = self.generations(config, warm, &records.generations)?;
        let families = warm.family_files()?;
        for path in &names.tables {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            // A file that the database does not name is left over and goes when the store is opened.
            let Some(family) = families.get(name) else { continue };
            let part = match family.as_str() {
                "base" => StorePart::Rows,
                "live" => StorePart::LiveRows,
                "log" => StorePart::Logs,
                _ => StorePart::Records,
            };
            self.table(path, part, described.get(name));
        }
        self.cold_by_record(config, &records);
        Ok(())
    }

    fn live_rows(&mut self, config: &StoreConfig, warm: &Warm) {
        let mut broken = 0u64;
        let scanned = warm.scan_live(&[], &[0xFF; LIVE_PREFIX_BYTES + 1]).and_then(|mut entries| {
            entries.try_for_each(|entry| {
                let (key, value) = entry?;
                broken += u64::from(read_key(&key).is_none() || Delta::decode(&value).is_err());
                Ok(())
            })
        });
        // The table that cannot be read is named when its blocks are checked.
        if scanned.is_ok() && broken > 0 {
            self.damaged(
                &config.path,
                StorePart::LiveRows,
                format!("live rows of {broken} entities cannot be decoded"),
            );
        }
    }

    /// Compares what the records say of each generation with the tables there are, and returns what is known of those.
    fn generations(
        &mut self,
        config: &StoreConfig,
        warm: &Warm,
        records: &[MetaRecord],
    ) -> Result<HashMap<String, ManifestFile>, Error> {
        let mut of_generation: BTreeMap<GenerationId, Vec<BaseFile>> = BTreeMap::new();
        for file in warm.base_files()? {
            match file.generation() {
                Some(id) => of_generation.entry(id).or_default().push(file),
                None => {
                    let reason = format!("{} holds keys of several generations", file.name);
                    self.damaged(&config.path, StorePart::Rows, reason);
                }
            }
        }
        let mut described = HashMap::new();
        for (record, manifest) in records.iter().flat_map(|record| record.generations().map(move |m| (record, m))) {
            let mut tables = of_generation.remove(&manifest.id()).unwrap_or_default();
            tables.sort_by(|a, b| a.first_key().cmp(b.first_key()));
            // Where users were erased, tables were rewritten, or are about to be: what counts then lies in the logs too.
            if record.erased_entities.contains_key(&manifest.generation) {
                continue;
            }
            let found: u64 = tables.iter().map(|file| file.entities).sum();
            let expected = record.stored_entities(manifest);
            if found != expected {
                let (generation, view) = (manifest.generation, &manifest.view);
                let reason = format!(
                    "generation {generation} of view {view} has {found} entities in its files and {expected} in its record"
                );
                self.damaged(&config.path, StorePart::Database, reason);
            }
            if tables.len() == manifest.files.len() {
                let names = tables.iter().map(|file| file.name.trim_start_matches('/').to_string());
                described.extend(names.zip(manifest.files.iter().cloned()));
            }
        }
        Ok(described)
    }
}
