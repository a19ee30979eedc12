//! The store at one moment, as a copy that costs no room: RocksDB's files and the cold files under a second name, in folders inside the store's
//! own. A backup copies them away while the store goes on; then they are released.
//!
//! Records, snapshots, live rows and logs are of one moment because RocksDB sees to it, and the cold files belong to it because nobody may
//! change the records meanwhile. There is one checkpoint at a time; what a process that died left goes when the store is opened, when the next one is made,
//! and when erased users are taken out of the files.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::checkpoint::Checkpoint as RocksCheckpoint;

use crate::cold::{ColdFolder, OWNER_FILE};
use crate::meta::MetaRecord;
use crate::store::{Inner, Store};
use crate::{Error, files};

/// The folder's name, in `store.path` and in `store.cold_path`.
const FOLDER: &str = "checkpoint";
/// What RocksDB calls it until it is whole.
const UNFINISHED: &str = "checkpoint.tmp";

/// A store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store's own name, by which backups of one store are told from those of another.
    pub store_name: String,
    /// The names of the stores that it was restored from, the latest last.
    pub former_names: Vec<String>,
    /// The folder that stands for `store.path`.
    pub store: PathBuf,
    /// The folder that stands for `store.cold_path`; `None` when nothing lies cold.
    pub cold: Option<PathBuf>,
}

impl Store {
    /// Makes a checkpoint, in place of an earlier one. Every row whose write was acknowledged before the call is in it. Nobody may change
    /// its files; the store itself never does.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when the files cannot be linked, [`Error::FreeSpace`] or [`Error::RestartStore`] when live rows cannot be written
    /// into files.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        // Nothing is published, erased or taken out meanwhile.
        let _changing = self.lock();
        let inner = &*self.0;
        release(inner)?;
        let made = make(inner);
        if made.is_err() {
            let _ = release(inner);
        }
        made
    }

    /// Removes the checkpoint, if there is one.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when its folders cannot be removed.
    pub fn release_checkpoint(&self) -> Result<(), Error> {
        let _changing = self.lock();
        release(&self.0)
    }
}

fn make(inner: &Inner) -> Result<Checkpoint, Error> {
    let path = inner.warm.path();
    let store = std::path::absolute(path).map_err(Error::disk("find", path))?.join(FOLDER);
    let checkpoint = RocksCheckpoint::new(&inner.warm.db);
    let made = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(&store));
    made.map_err(|error| inner.warm.refused_write(error))?;
    let cold = link_cold(inner)?;
    let (store_name, former_names) = (inner.name.clone(), inner.former_names.clone());
    Ok(Checkpoint { store_name, former_names, store, cold })
}

/// Gives the cold files that the records name a second name each.
fn link_cold(inner: &Inner) -> Result<Option<PathBuf>, Error> {
    let own = inner.cold_folder.path();
    let folder = std::path::absolute(own).map_err(Error::disk("find", own))?.join(FOLDER);
    let mut made = None;
    let mut pairs: Vec<_> = inner.generations.load().views().collect();
    pairs.sort_unstable();
    for (view, tenant) in pairs {
        let Some(record) = MetaRecord::read(&inner.warm, view, tenant)? else { continue };
        for manifest in record.generations() {
            for described in record.cold_files(manifest) {
                if made.is_none() {
                    files::create_dir(&folder)?;
                    // Copied: whoever opens the store locks this file, and a lock is shared by all names of a file.
                    let (from, to) = (own.join(OWNER_FILE), folder.join(OWNER_FILE));
                    fs::copy(&from, &to).map_err(Error::disk("copy", &from))?;
                    made = Some(folder.clone());
                }
                let from = inner.cold_folder.place(manifest, &described.name);
                let to = folder.join(from.file_name().unwrap_or_default());
                files::link_or_copy(&from, &to)?;
            }
        }
    }
    Ok(made)
}

fn release(inner: &Inner) -> Result<(), Error> {
    clear(inner.warm.path(), &inner.cold_folder)
}

/// Removes what a checkpoint left in a store's folders, or one that was not finished.
pub(crate) fn clear(store: &Path, cold: &ColdFolder) -> Result<(), Error> {
    files::remove_dir(&store.join(FOLDER))?;
    files::remove_dir(&store.join(UNFINISHED))?;
    match cold.is_held() {
        true => files::remove_dir(&cold.path().join(FOLDER)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points, points_rows, publish_points, view};
    use crate::{StoreConfig, TenantId, Write, WriteKind, verify_store};

    #[test]
    fn a_checkpoint_is_a_store_of_its_own_and_is_left_alone_by_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            path: folder.path().join("store"),
            cold_path: folder.path().join("cold"),
            ..StoreConfig::default()
        };
        let store = Store::open(&config, &[view()]).unwrap();
        publish_points(&store, folder.path(), 1, 1);
        let write = |points| {
            let rows = points_rows(&["ada"], points, points);
            let write = Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows };
            store.write(&[write], 1_000).unwrap();
        };
        write(50);
        let made = store.checkpoint().unwrap();
        assert_eq!(made.cold, None, "nothing lies cold");
        write(60);
        for generation in 2..5 {
            publish_points(&store, folder.path(), 1, generation);
        }
        let of_checkpoint =
            StoreConfig { path: made.store.clone(), cold_path: folder.path().join("other-cold"), ..config.clone() };
        assert_eq!(verify_store(&of_checkpoint, None, &mut |_, _| ()).unwrap().damages, []);
        let copy = Store::open(&of_checkpoint, &[view()]).unwrap();
        assert_eq!((points(&copy, 1), points(&store, 1)), (vec![50, 1], vec![60, 4]));
        drop(copy);

        store.release_checkpoint().unwrap();
        assert!(!made.store.exists());
        store.checkpoint().unwrap();
        drop(store);
        Store::open(&config, &[view()]).unwrap();
        assert!(!made.store.exists(), "what nobody released goes at the next start");
    }
}
