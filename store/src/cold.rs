//! The cold tier of a store: a folder of Parquet files, each of one generation, named by the records of meta and by nothing else. A file that no
//! record names is deleted when the store is opened, so the folder knows to which store it belongs.

pub(crate) mod lookup;
mod call;
pub(crate) mod directory;
pub(crate) mod file;
mod format;
mod layout;
mod page;
pub(crate) mod pool;
mod queue;
pub(crate) mod scan;
mod tail;
mod watch;
#[cfg(test)]
pub(crate) mod test_files;
pub(crate) mod writer;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::cold::file::ColdFile;
use crate::files;
use crate::key::GenerationId;
use crate::manifest::{Manifest, ManifestFile};
use crate::metrics;

/// Says whose folder it is.
pub(crate) const OWNER_FILE: &str = "owner";

/// One file of a generation, open. When it is retired it is deleted as its last holder lets go of it.
#[derive(Debug)]
pub(crate) struct ColdPart {
    pub(crate) file: Arc<ColdFile>,
    pub(crate) described: ManifestFile,
    retired: AtomicBool,
}

impl ColdPart {
    /// Marks the file as no longer named by meta.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether the file may hold an entity.
    pub(crate) fn may_contain(&self, entity: &str) -> bool {
        entity.as_bytes() >= self.file.first_key()
            && entity.as_bytes() <= self.file.last_key()
            && self.file.may_contain(entity)
    }
}

impl Drop for ColdPart {
    fn drop(&mut self) {
        if !self.retired.load(Ordering::Acquire) {
            return;
        }
        let path = self.file.path();
        if let Err(error) = fs::remove_file(path) {
            metrics::record_drop_failure();
            tracing::warn!(path = %path.display(), %error, "cold file not deleted, it goes at the next start");
        }
    }
}

/// The folder.
#[derive(Debug)]
pub(crate) struct ColdFolder {
    path: PathBuf,
    /// The owner file, locked for as long as the store is open; none while the folder is not this store's. Nothing is deleted without it.
    held: Mutex<Option<File>>,
}

impl ColdFolder {
    /// Takes the folder for the store named `owner`, if it is this store's. It is made when the first file comes.
    pub(crate) fn open(path: &Path, owner: &str) -> Result<ColdFolder, Error> {
        let held = hold(path, owner)?;
        Ok(ColdFolder { path: path.to_path_buf(), held: Mutex::new(held) })
    }

    /// Makes the folder, and this store its owner.
    pub(crate) fn claim(&self, owner: &str) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(());
        }
        files::create_dir(&self.path)?;
        let mut entries = fs::read_dir(&self.path).map_err(Error::disk("read", &self.path))?;
        let path = self.path.join(OWNER_FILE);
        if !path.exists() && entries.next().is_some() {
            let allowed = "the folder holds other files; name one that is empty or does not exist";
            return Err(Error::config("store.cold_path", self.path.display(), allowed));
        }
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(owner.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::disk("write", &path))?;
                files::sync_dir(&self.path)?;
            }
            // Another store was faster, or this one was killed here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::disk("create", &path)(error)),
        }
        *held = hold(&self.path, owner)?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder is this store's, and locked by it.
    pub(crate) fn is_held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Where a file of a generation lies.
    pub(crate) fn place(&self, manifest: &Manifest, name: &str) -> PathBuf {
        self.path.join(format!("{}-{}-{}-{name}", manifest.view, manifest.tenant, manifest.generation))
    }

    /// Opens a generation's files and checks that they are those described.
    pub(crate) fn open_parts(
        &self,
        manifest: &Manifest,
        described: &[ManifestFile],
    ) -> Result<Vec<Arc<ColdPart>>, Error> {
        let mut parts: Vec<Arc<ColdPart>> = Vec::with_capacity(described.len());
        for described in described {
            let path = self.place(manifest, &described.name);
            let file = Arc::new(ColdFile::open(&path)?);
            if file.owner() != owner(manifest.id()) {
                let (found, expected) = (file.owner(), owner(manifest.id()));
                return Err(Error::damaged(&path, format!("it is of {found}, its record is of {expected}")));
            }
            let length = fs::metadata(&path).map_err(Error::disk("read", &path))?.len();
            if length != described.bytes || file.rows() != described.entities {
                let rows = file.rows();
                let reason = format!(
                    "{} has {length} bytes and {rows} entities, its record says {} and {}",
                    path.display(),
                    described.bytes,
                    described.entities
                );
                return Err(Error::damaged(&self.path, reason));
            }
            if parts.last().is_some_and(|before| before.file.last_key() >= file.first_key()) {
                return Err(Error::damaged(&self.path, format!("{} overlaps the file before it", path.display())));
            }
            parts.push(Arc::new(ColdPart { file, described: described.clone(), retired: AtomicBool::new(false) }));
        }
        Ok(parts)
    }

    /// Deletes every file that is not among `named`: what an interrupted publish or drop left.
    pub(crate) fn delete_unnamed(&self, named: &HashSet<PathBuf>) -> Result<(), Error> {
        if self.held.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.path).map_err(Error::disk("read", &self.path))? {
            let path = entry.map_err(Error::disk("read", &self.path))?.path();
            let ours = path.file_name().and_then(OsStr::to_str).is_some_and(is_cold_name);
            if ours && !named.contains(&path) {
                tracing::info!(path = %path.display(), "deleting a cold file that no record names");
                fs::remove_file(&path).map_err(Error::disk("delete", &path))?;
            }
        }
        Ok(())
    }

    /// Brings a generation's files in from the folder it was built in, and checks each against its description. What was brought in is
    /// taken out again when one is wrong.
    pub(crate) fn bring_in(&self, manifest: &Manifest, dir: &Path) -> Result<Vec<Arc<ColdPart>>, Error> {
        let bring = |described: &ManifestFile| {
            let (from, to) = (dir.join(&described.name), self.place(manifest, &described.name));
            // Only the remains of a publish that failed at its last step can be there.
            if to.exists() {
                fs::remove_file(&to).map_err(Error::disk("delete", &to))?;
            }
            files::link_checked(&from, &to, described)
        };
        let parts = manifest.cold.iter().try_for_each(bring).and_then(|()| {
            files::sync_dir(&self.path)?;
            self.open_parts(manifest, &manifest.cold).map_err(|error| match error {
                // It is not the store that is damaged.
                Error::RestoreStore { path, reason } => Error::refused(dir, format!("{}: {reason}", path.display())),
                error => error,
            })
        });
        if parts.is_err() {
            for described in &manifest.cold {
                let _ = fs::remove_file(self.place(manifest, &described.name));
            }
        }
        parts
    }
}

/// Makes a store that has another name now the owner of the folder that it had; the store is closed.
pub(crate) fn rename_owner(folder: &Path, owner: &str) -> Result<(), Error> {
    let path = folder.join(OWNER_FILE);
    if path.exists() { files::write_whole(&path, owner.as_bytes()) } else { Ok(()) }
}

/// Whose rows a cold file holds, as the file says it.
pub(crate) fn owner(id: GenerationId) -> String {
    format!("view {} tenant {} generation {}", id.view, id.tenant, id.generation)
}

/// Locks the owner file of a folder that says it is `owner`'s; none where it says nothing yet.
fn hold(folder: &Path, owner: &str) -> Result<Option<File>, Error> {
    let path = folder.join(OWNER_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::disk("open", &path)(error)),
    };
    let mut found = String::new();
    Read::by_ref(&mut file).take(64).read_to_string(&mut found).map_err(Error::disk("read", &path))?;
    if found.trim() != owner {
        let allowed = "the folder belongs to another store; give each store a folder of its own";
        return Err(Error::config("store.cold_path", folder.display(), allowed));
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let allowed = "a copy of this store has the folder open; give the copy a folder of its own";
            Err(Error::config("store.cold_path", folder.display(), allowed))
        }
        Err(TryLockError::Error(error)) => Err(Error::disk("lock", &path)(error)),
    }
}

/// True for `view-tenant-generation-000001.parquet`, and for the name it has after it was rewritten, `...-000001-1.parquet`.
pub(crate) fn is_cold_name(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".parquet") else { return false };
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = stem.rsplit('-').collect();
    let named = |parts: &[&str]| {
        // The file, the generation, the tenant, and at least one part for the view.
        parts.len() > 3 && parts[0].len() >= 6 && parts[..3].iter().all(number)
    };
    named(&parts) || parts.split_first().is_some_and(|(times, rest)| number(times) && named(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_store_gives_are_its_own() {
        for ours in ["profile-1-7-000001.parquet", "my-view-1-7-000001-2.parquet", "v.1-0-1-1000000.parquet"] {
            assert!(is_cold_name(ours), "{ours}");
        }
        for other in [
            "orders.parquet",
            "part-00000.parquet",
            "2026-11-20.parquet",
            "orders-2026-11-20.parquet",
            "profile-1-7-000001.csv",
            "1-7-000001.parquet",
        ] {
            assert!(!is_cold_name(other), "{other}");
        }
    }

    #[test]
    fn a_folder_is_taken_by_one_store_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cold");
        let open = |owner| ColdFolder::open(&path, owner);
        let (one, other) = (open("one").unwrap(), open("other").unwrap());
        one.claim("one").unwrap();
        one.claim("one").unwrap();
        let refused = |outcome: Result<(), Error>, reason: &str| {
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        };
        refused(other.claim("other"), "belongs to another store");
        refused(open("other").map(drop), "belongs to another store");
        refused(open("one").map(drop), "a copy of this store has the folder open");
        drop(one);
        open("one").unwrap();

        let full = tempfile::tempdir().unwrap();
        fs::write(full.path().join("orders.parquet"), b"somebody's").unwrap();
        let outcome = ColdFolder::open(full.path(), "one").unwrap().claim("one");
        refused(outcome, "the folder holds other files");
    }
}
