//! The cold tier of a store: a folder of Parquet files, each of one generation, named by the records of meta and by nothing else. A file that no
//! record names is deleted when the store is opened, so the folder knows to which store it belongs.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::cold_file::ColdFile;
use crate::files;
use crate::manifest::{Manifest, ManifestFile};
use crate::metrics;

/// Says whose folder it is.
const OWNER_FILE: &str = "owner";
const EXTENSION: &str = "parquet";

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
    /// Whether the folder said at the start that it is this store's. Nothing is deleted in a folder that did not.
    owned: bool,
}

impl ColdFolder {
    /// Takes the folder for the store named `owner`. It is made when the first file comes.
    pub(crate) fn open(path: &Path, owner: &str) -> Result<ColdFolder, Error> {
        let folder = |owned| ColdFolder { path: path.to_path_buf(), owned };
        match fs::read_to_string(path.join(OWNER_FILE)) {
            Ok(found) if found.trim() == owner => Ok(folder(true)),
            Ok(_) => {
                let allowed = "the folder belongs to another store; give each store a folder of its own";
                Err(Error::config("store.cold_path", path.display(), allowed))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(folder(false)),
            Err(error) => Err(Error::disk("read", &path.join(OWNER_FILE))(error)),
        }
    }

    /// Makes the folder, and this store its owner.
    pub(crate) fn claim(&self, owner: &str) -> Result<(), Error> {
        files::create_dir(&self.path)?;
        let path = self.path.join(OWNER_FILE);
        if path.exists() { Ok(()) } else { files::write_whole(&path, owner.as_bytes()) }
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
        if !self.owned {
            return Ok(());
        }
        for entry in fs::read_dir(&self.path).map_err(Error::disk("read", &self.path))? {
            let path = entry.map_err(Error::disk("read", &self.path))?.path();
            if path.extension().is_some_and(|found| found == EXTENSION) && !named.contains(&path) {
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
            self.open_parts(manifest, &manifest.cold)
        });
        if parts.is_err() {
            for described in &manifest.cold {
                let _ = fs::remove_file(self.place(manifest, &described.name));
            }
        }
        parts
    }
}
