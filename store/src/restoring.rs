//! Folders into which a store is being restored. As long as the mark is there they are no store: without it RocksDB would take a folder with half
//! of its files for an empty one, and delete them.
//!
//! Each of the two folders has a mark, and that of `store.path` alone decides. It comes first and goes first; what a crash between the two leaves
//! in `store.cold_path` goes when the store is opened.
//!
//! A restored store gets a name of its own, because the one that it is a copy of may go on: they share neither a cold folder nor backups.

use std::fs::{self, File};
use std::path::Path;

use crate::cold::{ColdFolder, rename_owner};
use crate::config::StoreConfig;
use crate::warm::Warm;
use crate::{Error, files, meta};

/// The mark.
const MARK: &str = "restoring";

/// The two folders of a store that is being restored. Dropped before it is finished, it leaves the mark, and what came after it has to begin anew.
#[derive(Debug)]
pub struct Restoring {
    config: StoreConfig,
}

impl Restoring {
    /// Marks the folders of `config`, which must be empty, or hold nothing but what an earlier restore began.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when one of them holds anything else, [`Error::CheckDisk`] when they cannot be made.
    pub fn begin(config: &StoreConfig) -> Result<Restoring, Error> {
        config.validate()?;
        let StoreConfig { path, cold_path, .. } = config;
        // What lies cold belongs to an earlier attempt only while the store itself does.
        let is_again = is_marked(path);
        for folder in [path, cold_path] {
            if !(is_again && is_marked(folder)) {
                check_free(folder)?;
            }
        }
        for folder in [path, cold_path] {
            if is_marked(folder) {
                empty(folder)?;
            }
            files::create_dir(folder)?;
            let mark = folder.join(MARK);
            File::create(&mark).and_then(|file| file.sync_all()).map_err(Error::disk("create", &mark))?;
            files::sync_dir(folder)?;
        }
        Ok(Restoring { config: config.clone() })
    }

    /// Says that everything is there: draws the store's new name, and from now on the folders are a store.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when no store was brought, those of opening one, [`Error::CheckDisk`] when the marks cannot be removed.
    pub fn finish(self) -> Result<(), Error> {
        let StoreConfig { path, cold_path, .. } = &self.config;
        if !path.join("CURRENT").exists() {
            return Err(Error::FixRequest(format!(
                "no store was restored to {}: its files are missing",
                path.display()
            )));
        }
        let name = meta::rename(&Warm::open(&self.config)?)?;
        rename_owner(cold_path, &name)?;
        // The names of what was brought in before the marks go. Where nothing lies cold no owner says whose the folder is, so its mark is gone
        // before anybody could find it there.
        files::sync_dir(path)?;
        files::sync_dir(cold_path)?;
        if holds_nothing(cold_path)? {
            unmark(cold_path)?;
        }
        unmark(path)?;
        unmark(cold_path)
    }
}

/// Refuses a folder whose restore was cut short.
pub(crate) fn check(store: &Path) -> Result<(), Error> {
    match is_marked(store) {
        true => Err(Error::damaged(store, "its restore was cut short or found damage; run `larder restore` again")),
        false => Ok(()),
    }
}

/// Removes the mark that a restore left which was cut short at its last step, from the cold folder of the store that it made.
pub(crate) fn clear(cold: &ColdFolder) -> Result<(), Error> {
    if cold.is_held() { unmark(cold.path()) } else { Ok(()) }
}

fn is_marked(folder: &Path) -> bool {
    folder.join(MARK).exists()
}

/// Removes a folder's mark, durably; one that is not there is removed already.
fn unmark(folder: &Path) -> Result<(), Error> {
    if !is_marked(folder) {
        return Ok(());
    }
    let mark = folder.join(MARK);
    fs::remove_file(&mark).map_err(Error::disk("delete", &mark))?;
    files::sync_dir(folder)
}

/// Whether a folder is empty, but for a mark.
fn holds_nothing(folder: &Path) -> Result<bool, Error> {
    for entry in fs::read_dir(folder).map_err(Error::disk("read", folder))? {
        if entry.map_err(Error::disk("read", folder))?.file_name() != MARK {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_free(folder: &Path) -> Result<(), Error> {
    if !folder.exists() || holds_nothing(folder)? {
        return Ok(());
    }
    let folder = folder.display();
    let message =
        format!("{folder} is not empty: a restore overwrites nothing; move what is there away, or name another folder");
    Err(Error::FixRequest(message))
}

/// Takes out what an earlier restore brought, its mark last.
fn empty(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::disk("read", folder))? {
        let path = entry.map_err(Error::disk("read", folder))?.path();
        if path.file_name().is_some_and(|name| name == MARK) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::disk("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::Store;
    use crate::test_rows::view;

    fn config(folder: &Path) -> StoreConfig {
        StoreConfig { path: folder.join("store"), cold_path: folder.join("cold"), ..StoreConfig::default() }
    }

    fn open(config: &StoreConfig) -> Result<Store, Error> {
        Store::open(config, &[view()])
    }

    /// A closed store with its name; with something in its cold folder, or nothing.
    fn made(has_cold: bool) -> (TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&config(folder.path())).unwrap();
        let name = store.0.name.clone();
        if has_cold {
            store.0.cold_folder.claim(&name).unwrap();
        }
        (folder, name)
    }

    /// Puts a copy of a store where one is being restored.
    fn bring(from: &Path, to: &Path) {
        for name in ["store", "cold"] {
            for entry in fs::read_dir(from.join(name)).into_iter().flatten().flatten() {
                fs::copy(entry.path(), to.join(name).join(entry.file_name())).unwrap();
            }
        }
    }

    fn names(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn half_a_store_is_none_and_a_store_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let restoring = Restoring::begin(&config).unwrap();
        fs::write(config.path.join("000007.sst"), b"half").unwrap();
        fs::write(config.cold_path.join("profile-1-7-000001.parquet"), b"half").unwrap();
        let refused = restoring.finish().unwrap_err().to_string();
        assert!(refused.contains("its files are missing"), "{refused}");
        let refused = open(&config).unwrap_err().to_string();
        assert!(
            refused.contains("its restore was cut short") && refused.contains("run `larder restore` again"),
            "{refused}"
        );
        // Again, and now to the end; nothing of the first attempt stays.
        let restoring = Restoring::begin(&config).unwrap();
        assert_eq!((names(&config.path).len(), names(&config.cold_path).len()), (1, 1));
        bring(made(false).0.path(), folder.path());
        restoring.finish().unwrap();
        assert!(names(&config.cold_path).is_empty() && !is_marked(&config.path));
        drop(open(&config).unwrap());
        let refused = Restoring::begin(&config).unwrap_err().to_string();
        assert!(refused.contains("is not empty: a restore overwrites nothing"), "{refused}");
    }

    #[test]
    fn a_restored_store_has_a_name_of_its_own_and_knows_the_one_it_had() {
        let mut former = Vec::new();
        let (mut from, mut name) = made(true);
        for _ in 0..2 {
            let folder = tempfile::tempdir().unwrap();
            let config = config(folder.path());
            let restoring = Restoring::begin(&config).unwrap();
            bring(from.path(), folder.path());
            restoring.finish().unwrap();
            former.push(name);
            let store = open(&config).unwrap();
            assert_eq!(store.0.former_names, former);
            assert!(!former.contains(&store.0.name) && store.0.cold_folder.is_held());
            (from, name) = (folder, store.0.name.clone());
        }
    }

    #[test]
    fn a_crash_between_the_two_marks_leaves_a_store_and_its_cold_files_are_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let restoring = Restoring::begin(&config).unwrap();
        bring(made(true).0.path(), folder.path());
        restoring.finish().unwrap();
        // What is there after a crash between the two.
        fs::write(config.cold_path.join(MARK), b"").unwrap();
        let other = StoreConfig { path: folder.path().join("other"), ..config.clone() };
        let refused = Restoring::begin(&other).unwrap_err().to_string();
        assert!(refused.contains("cold is not empty"), "{refused}");
        drop(open(&config).unwrap());
        assert!(!is_marked(&config.cold_path), "the store's next start removes it");
    }
}
