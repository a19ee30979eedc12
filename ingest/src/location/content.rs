//! What is in a file at a location: reading, copying in either direction, writing, deleting. Nothing is held in memory as a whole that is large.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use object_store::{GetOptions, ObjectStoreExt, WriteMultipart};

use super::local::{create_parent, read_local, write_whole};
use super::{Location, Place};
use crate::Error;
use crate::remote::wait;

/// Bytes that are moved at a time.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file that are on their way at a time.
const PARTS_AT_A_TIME: usize = 4;

impl Location {
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
}
