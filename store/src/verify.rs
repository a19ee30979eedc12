//! Proving that a closed store is whole: every checksum of every file, and that the records, the rows and the files fit together. Nothing is
//! changed, and what is found is told with what it costs and what helps.
//!
//! A file of a generation has the checksum of all its bytes in the generation's manifest. RocksDB's other tables are checked block by block
//! (`table.rs`), its logs record by record, cold files page by page where their own checksum is not right, so that it shows what is lost.

mod cold;
mod damage;
mod database;
mod hold;
mod lz4;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use crate::Error;
use crate::config::StoreConfig;
use crate::hot_set::read_hot_set;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::warm::Warm;

pub use damage::{Damage, StorePart, Verified};
use database::Names;

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
    let _held = hold::hold(&config.path)?;
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

    fn hot_set(&mut self, path: &Path) {
        let read = read_hot_set(path).and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop)));
        self.done(path);
        if let Err(error) = read {
            self.damaged(path, StorePart::HotSet, error.to_string());
        }
    }
}
