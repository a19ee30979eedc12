//! Where files come from and go to: a path of this machine, or a URL of an object store (S3, Google Cloud Storage, Azure, HTTP). Snapshots
//! are read from locations, backups are written to them.
//!
//! Everything waits until it is done; nothing here is kept open, so that a location can be used by many threads. What is written locally is
//! durable and whole, or absent; what is written to an object store is whole or absent by the store's own promise.

mod content;
mod local;
mod url;

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use reqwest::Url;
use tokio_stream::StreamExt;

use crate::Error;
use crate::remote::{connect, is_about_credentials, refusal, wait};

pub(crate) use local::write_whole;
use local::{file_name, found_local, list_local, modified_ns};
use url::below;
pub use url::without_secrets;

/// Files that one listing returns at most.
const MAX_LISTED_FILES: usize = 1_000_000;

/// A file or a folder, here or in an object store.
#[derive(Clone)]
pub struct Location(Place);

#[derive(Clone)]
enum Place {
    Local(PathBuf),
    Remote { store: Arc<dyn ObjectStore>, path: ObjectPath, url: Url },
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it is.
    pub location: Location,
    /// Its path below what was listed, with `/` between names; its name when it is itself what was asked for.
    pub relative: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last changed, Unix nanoseconds UTC.
    pub modified_ns: i64,
    /// The object store's name for exactly this content; local files have none.
    pub etag: Option<String>,
}

impl FoundFile {
    /// Refuses a local file that has become another one since it was found.
    pub(crate) fn check_unchanged(&self, metadata: &fs::Metadata) -> Result<(), Error> {
        if (metadata.len(), modified_ns(metadata)) == (self.bytes, self.modified_ns) {
            return Ok(());
        }
        let path = PathBuf::from(self.location.to_string());
        Err(Error::source(&path, "was changed while it was read: build again when nothing writes to it"))
    }
}

impl Location {
    /// A path, or a URL whose scheme is `file`, `s3`, `gs`, `az`, `abfs`, `http` or `https`. Credentials, regions and endpoints come from the
    /// environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`). Nothing is asked of the store yet.
    ///
    /// # Errors
    /// [`Error::FixRequest`] when it is no URL of a known store or holds a password or a query, [`Error::CheckLocation`] for settings that
    /// contradict each other.
    pub fn parse(text: &str) -> Result<Location, Error> {
        if !text.contains("://") {
            return match text {
                "" => Err(Error::FixRequest("an empty path names nothing".to_owned())),
                path => Ok(Location::local(path)),
            };
        }
        let refused = |reason: &str| Error::FixRequest(format!("{}: {reason}", without_secrets(text)));
        let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
        match url.scheme() {
            "file" => {
                return url.to_file_path().map(Location::local).map_err(|()| refused("not a path of this machine"));
            }
            "s3" | "s3a" | "gs" | "az" | "azure" | "adl" | "abfs" | "abfss" | "http" | "https" => {}
            _ => return Err(refused("known are paths and URLs with file, s3, gs, az, abfs, http and https")),
        }
        if url.password().is_some() {
            return Err(refused("a URL does not hold the password: it would show in logs; set it in the environment"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("what follows ? or # is not sent; credentials come from the environment"));
        }
        let (store, path) = connect(&url).map_err(|error| refusal("use", url.as_str(), &error))?;
        Ok(Location(Place::Remote { store, path, url }))
    }

    /// A path of this machine.
    pub fn local(path: impl Into<PathBuf>) -> Location {
        Location(Place::Local(path.into()))
    }

    /// The path, if it is one of this machine.
    pub fn as_local(&self) -> Option<&Path> {
        match &self.0 {
            Place::Local(path) => Some(path),
            Place::Remote { .. } => None,
        }
    }

    /// A file below this folder; names are separated by `/`.
    #[must_use]
    pub fn join(&self, relative: &str) -> Location {
        let names = relative.split('/').filter(|name| !name.is_empty());
        Location(match &self.0 {
            Place::Local(path) => Place::Local(names.fold(path.clone(), |path, name| path.join(name))),
            Place::Remote { store, path, url } => {
                let path = names.clone().fold(path.clone(), |path, name| path.join(name));
                Place::Remote { store: store.clone(), path, url: below(url, names) }
            }
        })
    }

    /// The file at this location; `None` when there is none, and for a folder.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when that cannot be told.
    pub fn find(&self) -> Result<Option<FoundFile>, Error> {
        match &self.0 {
            Place::Local(path) => match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => Ok(None),
                Ok(metadata) => Ok(Some(found_local(path, file_name(path), &metadata))),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::disk("read", path)(error)),
            },
            // The root of a bucket is no object, and a name that ends with / is that of a folder.
            Place::Remote { path, url, .. } if path.is_root() || url.path().ends_with('/') => Ok(None),
            Place::Remote { store, path, .. } => {
                let (store, at) = (store.clone(), path.clone());
                match wait(async move { store.head(&at).await }) {
                    Ok(meta) => Ok(Some(self.found_remote(path.filename().unwrap_or_default().to_owned(), self, meta))),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(self.refused("look at", &error)),
                }
            }
        }
    }

    /// The file, or all files below the folder at this location, in order of their relative paths. A folder that is not there is empty.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when it cannot be read, [`Error::FixRequest`] for more than a million files.
    pub fn list(&self) -> Result<Vec<FoundFile>, Error> {
        if let Some(file) = self.find()? {
            return Ok(vec![file]);
        }
        let mut files = Vec::new();
        match &self.0 {
            Place::Local(path) if path.exists() => list_local(path, "", &mut files)?,
            Place::Local(_) => {}
            Place::Remote { store, path, url } => {
                let (listed_store, folder) = (store.clone(), path.clone());
                let listed = wait(async move {
                    let mut listing = listed_store.list(Some(&folder));
                    let mut found = Vec::new();
                    while let Some(meta) = listing.next().await {
                        found.push(meta?);
                        if found.len() > MAX_LISTED_FILES {
                            break;
                        }
                    }
                    Ok(found)
                });
                for meta in listed.map_err(|error| self.unlisted(&error))? {
                    let Some(names) = meta.location.prefix_match(path) else { continue };
                    let relative = names.map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join("/");
                    // The store's own name for it, of which nothing is to be escaped once more.
                    let path = meta.location.clone();
                    let url = below(url, relative.split('/'));
                    let location = Location(Place::Remote { store: store.clone(), path, url });
                    files.push(location.found_remote(relative, &location, meta));
                }
            }
        }
        if files.len() > MAX_LISTED_FILES {
            return Err(Error::FixRequest(format!(
                "{self} holds more than {MAX_LISTED_FILES} files: name a part of it"
            )));
        }
        files.sort_by(|a, b| a.relative.cmp(&b.relative));
        Ok(files)
    }

    /// Why a folder could not be listed. Of a plain HTTP server only files can be had.
    fn unlisted(&self, error: &object_store::Error) -> Error {
        match &self.0 {
            Place::Remote { url, .. } if url.scheme().starts_with("http") && !is_about_credentials(error) => {
                let reason =
                    "there is no such file, and folders are listed only over WebDAV: name the files".to_owned();
                Error::CheckLocation { action: "read", location: self.to_string(), reason }
            }
            _ => self.refused("list", error),
        }
    }

    fn refused(&self, action: &'static str, error: &object_store::Error) -> Error {
        refusal(action, &self.to_string(), error)
    }

    fn found_remote(&self, relative: String, location: &Location, meta: ObjectMeta) -> FoundFile {
        let modified_ns = meta.last_modified.timestamp_nanos_opt().unwrap_or(0);
        FoundFile { location: location.clone(), relative, bytes: meta.size, modified_ns, etag: meta.e_tag }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Local(path) => path.display().fmt(f),
            Place::Remote { url, .. } => url.fmt(f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Location) -> bool {
        match (&self.0, &other.0) {
            (Place::Local(one), Place::Local(other)) => one == other,
            (Place::Remote { url: one, .. }, Place::Remote { url: other, .. }) => one == other,
            _ => false,
        }
    }
}

impl Eq for Location {}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Location {
        Location::local(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_local_file_that_has_become_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        fs::write(&path, "today").unwrap();
        let found = Location::local(&path).find().unwrap().unwrap();
        found.check_unchanged(&fs::metadata(&path).unwrap()).unwrap();
        // What an export does: another file takes the place, of the same length too.
        let next = folder.path().join("next");
        fs::write(&next, "later").unwrap();
        File::options()
            .append(true)
            .open(&next)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(1))
            .unwrap();
        fs::rename(&next, &path).unwrap();
        let message = found.check_unchanged(&fs::metadata(&path).unwrap()).unwrap_err().to_string();
        assert!(message.contains("a.parquet") && message.contains("changed while it was read"), "{message}");
    }
}
