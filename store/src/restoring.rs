//! Folders into which a store is being restored. As long as the mark is there they are no store: without it RocksDB would take a folder with half
//! of its files for an empty one, and delete them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::config::StoreConfig;
use crate::{Error, files};

/// The mark.
const MARK: &str = "restoring";

/// The two folders of a store that is being restored. Dropped before it is finished, it leaves the mark, and what came after it has to begin anew.
#[derive(Debug)]
pub struct Restoring {
    folders: [PathBuf; 2],
}

impl Restoring {
    /// Marks the folders of `config`, which must be empty, or hold nothing but what an earlier restore began.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when one of them holds anything else, [`Error::CheckDisk`] when they cannot be made.
    pub fn begin(config: &StoreConfig) -> Result<Restoring, Error> {
        config.validate()?;
        let folders = [config.path.clone(), config.cold_path.clone()];
        folders.iter().try_for_each(|folder| check_free(folder))?;
        for folder in &folders {
            if folder.join(MARK).exists() {
                empty(folder)?;
            }
            files::create_dir(folder)?;
            let mark = folder.join(MARK);
            File::create(&mark).and_then(|file| file.sync_all()).map_err(Error::disk("create", &mark))?;
            files::sync_dir(folder)?;
        }
        Ok(Restoring { folders })
    }

    /// Says that everything is there. From now on the folders are a store.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when the marks cannot be removed.
    pub fn finish(self) -> Result<(), Error> {
        for folder in self.folders.iter().rev() {
            // The names of what was brought in before the mark goes.
            files::sync_dir(folder)?;
            let mark = folder.join(MARK);
            fs::remove_file(&mark).map_err(Error::disk("delete", &mark))?;
            files::sync_dir(folder)?;
        }
        Ok(())
    }
}

/// Refuses a folder whose restore was cut short.
pub(crate) fn check(store: &Path) -> Result<(), Error> {
    match store.join(MARK).exists() {
        true => Err(Error::damaged(store, "its restore was cut short or found damage; run `larder restore` again")),
        false => Ok(()),
    }
}

fn check_free(folder: &Path) -> Result<(), Error> {
    if !folder.exists() || folder.join(MARK).exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(folder).map_err(Error::disk("read", folder))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => {
            let folder = folder.display();
            let message = format!(
                "{folder} is not empty: a restore overwrites nothing; move what is there away, or name another folder"
            );
            Err(Error::FixRequest(message))
        }
    }
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
    use super::*;
    use crate::Store;
    use crate::test_rows::view;

    #[test]
    fn half_a_store_is_none_and_a_store_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            path: folder.path().join("store"),
            cold_path: folder.path().join("cold"),
            ..StoreConfig::default()
        };
        let restoring = Restoring::begin(&config).unwrap();
        fs::write(config.path.join("000007.sst"), b"half").unwrap();
        drop(restoring);
        let refused = Store::open(&config, &[view()]).unwrap_err().to_string();
        assert!(
            refused.contains("its restore was cut short") && refused.contains("run `larder restore` again"),
            "{refused}"
        );
        // Again, and now to the end; nothing of the first attempt stays.
        Restoring::begin(&config).unwrap().finish().unwrap();
        assert!(fs::read_dir(&config.path).unwrap().next().is_none());
        drop(Store::open(&config, &[view()]).unwrap());
        let refused = Restoring::begin(&config).unwrap_err().to_string();
        assert!(refused.contains("is not empty: a restore overwrites nothing"), "{refused}");
    }
}
