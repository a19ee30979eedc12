//! Proving that a closed store is whole: every checksum of every file, and that the records, the rows and the files fit together. Nothing is
//! changed, and what is found is told with what it costs and what helps.
//!
//! A file of a generation has the checksum of all its bytes in the generation's manifest. RocksDB's other tables are checked block by block
//! (`table.rs`), its logs record by record, cold files page by page where their own checksum is not right, so that it shows what is lost.

mod lz4;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::cold::file::{ColdFile, ColdReads};
use crate::cold::{ColdFolder, is_cold_name};
use crate::config::StoreConfig;
use crate::delta::Delta;
use crate::hot_set::read_hot_set;
use crate::key::{GenerationId, LIVE_PREFIX_BYTES};
use crate::live::read_key;
use crate::manifest::{MANIFEST_FILE, Manifest, ManifestFile};
use crate::meta::{MetaRecord, Records};
use crate::warm::{BaseFile, Warm};
use crate::{Error, files, wal};

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything that is not as it was written; empty when all is well.
    pub damages: Vec<Damage>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the folder where no single file is at fault.
    pub path: PathBuf,
    /// What it is.
    pub part: StorePart,
    /// What is wrong with it.
    pub reason: String,
}

/// The parts of a store, by what their damage costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePart {
    /// A table of generations' rows.
    Rows,
    /// A table of live rows, or a row in one.
    LiveRows,
    /// A table of logs.
    Logs,
    /// The table of records, or a record.
    Records,
    /// A table whose family cannot be told, because the database cannot be opened.
    Table,
    /// A write-ahead log.
    WriteAheadLog,
    /// RocksDB's list of its files.
    FileList,
    /// The database as a whole: it does not open.
    Database,
    /// The tail of a cold file, or the whole of it.
    ColdFile,
    /// Pages of a cold file.
    ColdPages,
    /// The hot-set file.
    HotSet,
    /// A file of a generation that is not published yet.
    Built,
}

impl StorePart {
    /// What the part is called.
    pub fn label(self) -> &'static str {
        match self {
            StorePart::Rows => "rows",
            StorePart::LiveRows => "live rows",
            StorePart::Logs => "logs",
            StorePart::Records => "records",
            StorePart::Table => "table",
            StorePart::WriteAheadLog => "write-ahead log",
            StorePart::FileList => "file list",
            StorePart::Database => "database",
            StorePart::ColdFile => "cold file",
            StorePart::ColdPages => "cold pages",
            StorePart::HotSet => "hot set",
            StorePart::Built => "built generation",
        }
    }

    /// What its damage means.
    pub fn means(self) -> &'static str {
        match self {
            StorePart::Rows => "fetches of the users whose rows lie there fail; all others are answered",
            StorePart::LiveRows => "live rows since the last snapshot are lost there, and fetches that need them fail",
            StorePart::Logs => "questions of the async lane, or answers to them, are lost there",
            StorePart::Records => "what is live cannot be told, so the store does not open",
            StorePart::Table => "what lies there cannot be read, or the store does not open",
            StorePart::WriteAheadLog => "acknowledged writes would be lost, so the store does not open",
            StorePart::FileList | StorePart::Database => "the store does not open",
            StorePart::ColdFile => "the store does not open without it",
            StorePart::ColdPages => "the users whose rows lie there are answered \"not in time\"",
            StorePart::HotSet => "nothing but warmth is lost",
            StorePart::Built => "it would be refused",
        }
    }

    /// What helps.
    pub fn advice(self) -> &'static str {
        match self {
            StorePart::Rows | StorePart::ColdPages => {
                "publish the view's snapshot again (`larder ingest load`), or restore a backup (`larder restore`)"
            }
            StorePart::HotSet => "delete it",
            StorePart::Built => "build it again (`larder ingest build`)",
            _ => "restore a backup (`larder restore`), or load the snapshots into an empty store",
        }
    }
}

/// Checks a closed store, and the hot-set file if there is one. `progress` is told how many bytes of how many are done.
///
/// Not to be called in a process that has the same store open: the lock that keeps others out is the process's own.
///
/// # Errors
/// [`Error::CloseOtherProcess`] when the store is open elsewhere, [`Error::FixRequest`] when there is none, [`Error::CheckDisk`] when its
/// folder cannot be listed. A file that cannot be read is a damage and no error.
pub fn verify_store(
    config: &StoreConfig,
    hot_set: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, Error> {
    let _held = hold(&config.path)?;
    let names = Names::list(&config.path)?;
    let mut verifying = Verifying { progress, verified: Verified::default(), total: 0 };
    verifying.total = names.bytes() + folder_bytes(&config.cold_path);
    verifying.logs(&config.path, &names);
    // What RocksDB would do with logs that are damaged nobody wants to know.
    let opened = if verifying.verified.damages.is_empty() { Some(Warm::open_to_look(config)) } else { None };
    match opened {
        Some(Ok(warm)) => verifying.opened(config, &warm, &names)?,
        closed => {
            for path in &names.tables {
                verifying.table(path, StorePart::Table, None);
            }
            verifying.cold_by_name(&config.cold_path);
            if let (Some(Err(error)), true) = (closed, verifying.verified.damages.is_empty()) {
                verifying.damaged(&config.path, StorePart::Database, error.to_string());
            }
        }
    }
    if let Some(path) = hot_set.filter(|path| path.exists()) {
        verifying.hot_set(path);
    }
    Ok(verifying.verified)
}

/// Checks the folder of a generation that was built and not published. Whatever is wrong with it, that it is no generation included, is a damage.
pub fn verify_generation(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Verified {
    let mut verifying = Verifying { progress, verified: Verified::default(), total: folder_bytes(dir) };
    let path = dir.join(MANIFEST_FILE);
    verifying.done(&path);
    match Manifest::read(dir) {
        Err(error) => verifying.damaged(&path, StorePart::Built, error.to_string()),
        Ok(manifest) => {
            for described in &manifest.files {
                verifying.table(&dir.join(&described.name), StorePart::Built, Some(described));
            }
            for described in &manifest.cold {
                verifying.cold(&dir.join(&described.name), described, Some(StorePart::Built));
            }
        }
    }
    verifying.verified
}

/// Keeps other processes from opening the store, as RocksDB itself does it.
fn hold(store: &Path) -> Result<File, Error> {
    if !store.join("CURRENT").exists() {
        return Err(Error::FixRequest(format!("there is no store in {}", store.display())));
    }
    let path = store.join("LOCK");
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let lock = lock.map_err(Error::disk("open", &path))?;
    match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Err(Error::CloseOtherProcess { path: store.to_path_buf() })
        }
        Err(error) => Err(Error::disk("lock", &path)(error.into())),
    }
}

/// RocksDB's files in a store's folder.
struct Names {
    tables: Vec<PathBuf>,
    logs: Vec<PathBuf>,
}

impl Names {
    fn list(store: &Path) -> Result<Names, Error> {
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

    fn bytes(&self) -> u64 {
        self.tables.iter().chain(&self.logs).map(|path| length(path)).sum()
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|metadata| metadata.is_file()).map(|file| file.len()).sum()
}

/// A check under way.
struct Verifying<'a> {
    progress: &'a mut dyn FnMut(u64, u64),
    verified: Verified,
    total: u64,
}

impl Verifying<'_> {
    fn damaged(&mut self, path: &Path, part: StorePart, reason: impl Into<String>) {
        self.verified.damages.push(Damage { path: path.to_path_buf(), part, reason: reason.into() });
    }

    /// Counts a file that was read.
    fn done(&mut self, path: &Path) {
        self.verified.files += 1;
        self.verified.bytes += length(path);
        (self.progress)(self.verified.bytes, self.total.max(self.verified.bytes));
    }

    /// Takes in what a check of a file found.
    fn found(&mut self, path: &Path, part: StorePart, found: io::Result<Option<String>>) {
        match found {
            Ok(None) => {}
            Ok(Some(reason)) => self.damaged(path, part, reason),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.damaged(path, part, "it is not there"),
            Err(error) => self.damaged(path, part, format!("it cannot be read: {error}")),
        }
    }

    /// The write-ahead logs, and the list of files that is in force.
    fn logs(&mut self, store: &Path, names: &Names) {
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
    fn table(&mut self, path: &Path, part: StorePart, described: Option<&ManifestFile>) {
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
    fn opened(&mut self, config: &StoreConfig, warm: &Warm, names: &Names) -> Result<(), Error> {
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

    fn cold_by_record(&mut self, config: &StoreConfig, records: &Records) {
        let name = records.name.as_deref().unwrap_or_default();
        let folder = match ColdFolder::open(&config.cold_path, name) {
            Ok(folder) => folder,
            Err(error) => return self.damaged(&config.cold_path, StorePart::ColdFile, error.to_string()),
        };
        for record in &records.generations {
            for manifest in record.generations() {
                for described in record.cold_files(manifest) {
                    self.cold(&folder.place(manifest, &described.name), described, None);
                }
            }
        }
    }

    /// A cold file, by the checksum of all its bytes; where that is not right it is looked what is lost. `part` overrules what that is called.
    fn cold(&mut self, path: &Path, described: &ManifestFile, part: Option<StorePart>) {
        let sum = files::sum(path);
        self.done(path);
        match sum {
            Ok(found) if found == (described.bytes, described.crc32) => {}
            Ok((bytes, _)) if bytes != described.bytes => {
                let reason = format!("it has {bytes} bytes, its record says {}", described.bytes);
                self.damaged(path, part.unwrap_or(StorePart::ColdFile), reason);
            }
            Ok(_) => {
                let (found, reason) = look_into(path).unwrap_or((
                    StorePart::ColdPages,
                    "its content is not the one that was published, outside of what the store reads".to_string(),
                ));
                self.damaged(path, part.unwrap_or(found), reason);
            }
            Err(error) => self.found(path, part.unwrap_or(StorePart::ColdFile), Err(error)),
        }
    }

    /// The cold files by their names, where the records cannot be read.
    fn cold_by_name(&mut self, folder: &Path) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(is_cold_name)).collect();
        paths.sort();
        for path in paths {
            self.done(&path);
            if let Some((part, reason)) = look_into(&path) {
                self.damaged(&path, part, reason);
            }
        }
    }

    fn hot_set(&mut self, path: &Path) {
        let read = read_hot_set(path).and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop)));
        self.done(path);
        if let Err(error) = read {
            self.damaged(path, StorePart::HotSet, error.to_string());
        }
    }
}

/// Which part of a cold file is damaged, if any of those that the store reads is.
fn look_into(path: &Path) -> Option<(StorePart, String)> {
    let file = match ColdFile::open(path) {
        Ok(file) => file,
        Err(error) => return Some((StorePart::ColdFile, error.to_string())),
    };
    let (mut pages, mut rows, mut first) = (0u64, 0u64, None);
    for (index, entry) in file.pages().iter().enumerate() {
        let range = entry.offset..entry.end();
        let page = file.read_range(&range, &mut ColdReads::default());
        let page = page.and_then(|stored| file.unpack(index, &stored, range.start));
        if page.is_err() {
            pages += 1;
            rows += u64::from(entry.rows);
            first.get_or_insert(entry.offset);
        }
    }
    let all = file.pages().len();
    first.map(|first| {
        (StorePart::ColdPages, format!("{pages} of its {all} pages, with {rows} entities; the first at byte {first}"))
    })
}
