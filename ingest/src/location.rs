//! Where files come from and go to: a path of this machine, or a URL of an object store (S3, Google Cloud Storage, Azure, HTTP). Snapshots
//! are read from locations, backups are written to them.
//!
//! Everything waits until it is done; nothing here is kept open, so that a location can be used by many threads. What is written locally is
//! durable and whole, or absent; what is written to an object store is whole or absent by the store's own promise.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart};
use reqwest::Url;
use tokio_stream::StreamExt;

use crate::Error;
use crate::remote::{connect, is_about_credentials, refusal, wait};

/// Files that one listing returns at most.
const MAX_LISTED_FILES: usize = 1_000_000;
/// Bytes that are moved at a time.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file that are on their way at a time.
const PARTS_AT_A_TIME: usize = 4;

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

    /// Bytes of the file; fewer where it ends before. With an ETag the read fails when the file has another by now.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when it is not there or cannot be read.
    pub fn read_range(&self, range: Range<u64>, etag: Option<&str>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match &self.0 {
            Place::Local(path) => read_local(path, range).map_err(Error::disk("read", path)),
            Place::Remote { store, path, .. } => {
                let (store, path) = (store.clone(), path.clone());
                let options = GetOptions::new().with_range(Some(range)).with_if_match(etag);
                let read = wait(async move { store.get_opts(&path, options).await?.bytes().await });
                read.map_err(|error| self.refused("read", &error))
            }
        }
    }

    /// The whole file, of at most `max_bytes`.
    ///
    /// # Errors
    /// As for [`Location::read_range`], and [`Error::FixRequest`] when it is larger.
    pub fn read(&self, max_bytes: u64) -> Result<Bytes, Error> {
        let bytes = self.length()?;
        if bytes > max_bytes {
            return Err(Error::FixRequest(format!("{self} has {bytes} bytes, at most {max_bytes} are read")));
        }
        self.read_range(0..bytes, None)
    }

    /// Copies the file to a path of this machine, which is whole and durable afterwards, or absent.
    ///
    /// # Errors
    /// As for [`Location::read_range`], and [`Error::CheckDisk`] when `to` cannot be written.
    pub fn download(&self, to: &Path) -> Result<u64, Error> {
        let found = self.find()?.ok_or_else(|| self.absent())?;
        let mut failed = None;
        let written = write_whole(to, |file| {
            let mut at = 0;
            while at < found.bytes {
                let end = found.bytes.min(at + PART_BYTES as u64);
                match self.read_range(at..end, found.etag.as_deref()) {
                    Ok(part) if part.len() as u64 == end - at => file.write_all(&part)?,
                    Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
                    Err(error) => {
                        failed = Some(error);
                        return Err(ErrorKind::Other.into());
                    }
                }
                at = end;
            }
            Ok(())
        });
        match (failed, written) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(found.bytes),
        }
    }

    /// Writes the file, in place of one that is there. Folders above it are made where they are missing.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when it cannot be written.
    pub fn write(&self, content: impl Into<Bytes>) -> Result<(), Error> {
        let content = content.into();
        match &self.0 {
            Place::Local(path) => {
                create_parent(path)?;
                write_whole(path, |file| file.write_all(&content))
            }
            Place::Remote { store, path, .. } => {
                let (store, path) = (store.clone(), path.clone());
                let put = wait(async move { store.put(&path, content.into()).await });
                put.map(drop).map_err(|error| self.refused("write", &error))
            }
        }
    }

    /// Copies a file of this machine to this location, in place of one that is there, and returns its length.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when one cannot be read or the other cannot be written.
    pub fn upload(&self, from: &Path) -> Result<u64, Error> {
        let bytes = fs::metadata(from).map_err(Error::disk("read", from))?.len();
        let mut file = File::open(from).map_err(Error::disk("open", from))?;
        match &self.0 {
            Place::Local(path) => {
                create_parent(path)?;
                write_whole(path, |to| io::copy(&mut file, to).map(drop))?;
            }
            // A server that takes only whole files, as HTTP servers do, takes these.
            Place::Remote { .. } if bytes <= PART_BYTES as u64 => {
                self.write(fs::read(from).map_err(Error::disk("read", from))?)?;
            }
            Place::Remote { store, path, .. } => {
                let (store, path) = (store.clone(), path.clone());
                let sent = wait(async move {
                    let upload = store.put_multipart(&path).await?;
                    let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
                    let mut part = vec![0; PART_BYTES];
                    loop {
                        parts.wait_for_capacity(PARTS_AT_A_TIME).await?;
                        match file.read(&mut part) {
                            Ok(0) => break,
                            Ok(count) => parts.write(&part[..count]),
                            Err(error) => {
                                parts.abort().await?;
                                return Ok(Err(error));
                            }
                        }
                    }
                    parts.finish().await.map(|_| Ok(()))
                });
                sent.map_err(|error| self.refused("write", &error))?.map_err(Error::disk("read", from))?;
            }
        }
        Ok(bytes)
    }

    /// Deletes the file; one that is not there is deleted already.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] or [`Error::CheckLocation`] when it stays.
    pub fn delete(&self) -> Result<(), Error> {
        match &self.0 {
            Place::Local(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::disk("remove", path)(error)),
                _ => Ok(()),
            },
            Place::Remote { store, path, .. } => {
                let (store, path) = (store.clone(), path.clone());
                match wait(async move { store.delete(&path).await }) {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(self.refused("delete", &error)),
                }
            }
        }
    }

    fn length(&self) -> Result<u64, Error> {
        Ok(self.find()?.ok_or_else(|| self.absent())?.bytes)
    }

    fn absent(&self) -> Error {
        let reason = "there is no such file".to_owned();
        Error::CheckLocation { action: "read", location: self.to_string(), reason }
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

/// The URL with more names behind it.
fn below<'a>(url: &Url, names: impl Iterator<Item = &'a str>) -> Url {
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(names);
    }
    url
}

/// A URL that was refused, for messages: nothing of it that may be a secret.
fn without_secrets(text: &str) -> String {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    match (text.find("://"), text[..end].rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…@{}", &text[..scheme], &text[at + 1..end]),
        _ => text[..end].to_owned(),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn found_local(path: &Path, relative: String, metadata: &fs::Metadata) -> FoundFile {
    let (bytes, modified_ns) = (metadata.len(), modified_ns(metadata));
    FoundFile { location: Location::local(path), relative, bytes, modified_ns, etag: None }
}

fn modified_ns(metadata: &fs::Metadata) -> i64 {
    let seconds = metadata.mtime().saturating_mul(1_000_000_000);
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(seconds)
}

fn list_local(folder: &Path, above: &str, files: &mut Vec<FoundFile>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::disk("read", folder))? {
        let path = entry.map_err(Error::disk("read", folder))?.path();
        let metadata = fs::metadata(&path).map_err(Error::disk("read", &path))?;
        let relative = if above.is_empty() { file_name(&path) } else { format!("{above}/{}", file_name(&path)) };
        if metadata.is_dir() {
            list_local(&path, &relative, files)?;
        } else {
            files.push(found_local(&path, relative, &metadata));
        }
        if files.len() > MAX_LISTED_FILES {
            break;
        }
    }
    Ok(())
}

fn read_local(path: &Path, range: Range<u64>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let end = range.end.min(file.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

fn create_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Error::disk("create", parent)),
        None => Ok(()),
    }
}

/// Writes a file so that it is whole and durable, or absent (or the old one).
pub(crate) fn write_whole(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = File::create(temporary)?;
        content(&mut file)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(temporary);
        Error::disk("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
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
