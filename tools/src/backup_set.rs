//! A set of backups at one location: the files of all of them, each once and named by its content, and a manifest for each backup, which is
//! written last, so that a backup that was cut short is none.
//!
//! ```text
//! files/3f2a...    a file of the store, named by its SHA-256
//! backups/20261120T182233.500Z.json    which files make the store of that moment
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use larder_ingest::Location;
use serde::{Deserialize, Serialize};

use crate::files::sha256;

/// Version of the manifest.
const FORMAT: u32 = 1;
/// Largest manifest that is read: some hundred thousand files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Bytes of a remote file that are read at a time.
const PART_BYTES: u64 = 8 << 20;
const FILES: &str = "files";
const BACKUPS: &str = "backups";

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backup {
    format: u32,
    /// The moment, as it is named.
    pub(crate) id: String,
    /// The moment in Unix milliseconds UTC: every write that was acknowledged before it is in the backup.
    pub(crate) taken_at_ms: i64,
    /// The store's own name.
    pub(crate) store_name: String,
    /// The version of the program that made it.
    version: String,
    pub(crate) files: Vec<BackupFile>,
    /// SHA-256 of this description with this field empty.
    checksum: String,
}

/// A file of a store, and the one at the location that has its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupFile {
    pub(crate) folder: Folder,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Which of a store's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Folder {
    Store,
    Cold,
}

impl Backup {
    /// A backup of a moment, without files yet.
    pub(crate) fn new(taken_at: DateTime<Utc>, store_name: &str) -> Backup {
        Backup {
            format: FORMAT,
            id: taken_at.format("%Y%m%dT%H%M%S%.3fZ").to_string(),
            taken_at_ms: taken_at.timestamp_millis(),
            store_name: store_name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            files: Vec::new(),
            checksum: String::new(),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn computed_checksum(&self) -> Result<String> {
        let plain = Backup { checksum: String::new(), ..self.clone() };
        Ok(sha256(serde_json::to_vec(&plain)?.as_slice())?)
    }

    fn decode(bytes: &[u8]) -> Result<Backup> {
        let backup: Backup = serde_json::from_slice(bytes).context("it is not a description of a backup")?;
        ensure!(backup.format == FORMAT, "it has format {}, this program reads {FORMAT}", backup.format);
        ensure!(backup.checksum == backup.computed_checksum()?, "its checksum is not that of its content");
        let mut names = HashSet::new();
        for file in &backup.files {
            let hexadecimal = file.sha256.len() == 64 && file.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure!(is_plain(&file.name) && hexadecimal, "it names a file {:?} that no backup has", file.name);
            ensure!(names.insert((file.folder, &file.name)), "it names {:?} twice", file.name);
        }
        Ok(backup)
    }
}

/// True for a name that stays inside its folder.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(plain)
}

/// The backups at a location.
#[derive(Debug)]
pub(crate) struct BackupSet {
    location: Location,
}

impl BackupSet {
    pub(crate) fn at(text: &str) -> Result<BackupSet> {
        Ok(BackupSet { location: Location::parse(text)? })
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The finished backups, oldest first.
    pub(crate) fn list(&self) -> Result<Vec<Backup>> {
        let found = self.location.join(BACKUPS).list()?;
        let mut backups = Vec::with_capacity(found.len());
        for file in found.iter().filter(|file| file.relative.ends_with(".json")) {
            let read = file.location.read(MAX_MANIFEST_BYTES)?;
            backups.push(Backup::decode(&read).with_context(|| format!("{} is damaged", file.location))?);
        }
        backups.sort_by(|a: &Backup, b| a.id.cmp(&b.id));
        Ok(backups)
    }

    /// The contents that are there, by their names, with their lengths.
    pub(crate) fn contents(&self) -> Result<BTreeMap<String, u64>> {
        let found = self.location.join(FILES).list()?;
        Ok(found.into_iter().map(|file| (file.relative, file.bytes)).collect())
    }

    fn content(&self, file: &BackupFile) -> Location {
        self.location.join(FILES).join(&file.sha256)
    }

    /// Copies a file of this machine there.
    pub(crate) fn put(&self, from: &Path, file: &BackupFile) -> Result<()> {
        let copied = self.content(file).upload(from)?;
        ensure!(copied == file.bytes, "{} changed while it was copied", from.display());
        Ok(())
    }

    /// Makes a backup whole.
    pub(crate) fn finish(&self, mut backup: Backup) -> Result<Backup> {
        backup.files.sort();
        backup.checksum = backup.computed_checksum()?;
        let location = self.location.join(BACKUPS).join(&format!("{}.json", backup.id));
        ensure!(location.find()?.is_none(), "there is a backup {} already", backup.id);
        location.write(serde_json::to_vec_pretty(&backup)?)?;
        Ok(backup)
    }

    /// Deletes all but the newest backups, and then what no backup needs any more. Returns how many backups went.
    pub(crate) fn keep_newest(&self, keep: usize) -> Result<usize> {
        let backups = self.list()?;
        let (old, kept) = backups.split_at(backups.len().saturating_sub(keep));
        for backup in old {
            self.location.join(BACKUPS).join(&format!("{}.json", backup.id)).delete()?;
        }
        let needed: HashSet<_> =
            kept.iter().flat_map(|backup| &backup.files).map(|file| file.sha256.as_str()).collect();
        for content in self.contents()?.keys().filter(|content| !needed.contains(content.as_str())) {
            self.location.join(FILES).join(content).delete()?;
        }
        Ok(old.len())
    }

    /// Checks a file of a backup where it lies.
    pub(crate) fn check(&self, backup: &Backup, file: &BackupFile) -> Result<()> {
        let content = self.content(file);
        let found = content.find()?.map(|found| found.bytes);
        let sum = match found {
            Some(bytes) if bytes == file.bytes => Some(sha256(Reading { location: &content, at: 0, end: bytes })?),
            _ => None,
        };
        self.judge(backup, file, found, sum.as_deref())
    }

    /// Copies a file of a backup to a path of this machine, checked.
    pub(crate) fn get(&self, backup: &Backup, file: &BackupFile, to: &Path) -> Result<()> {
        let content = self.content(file);
        let found = content.find()?.map(|found| found.bytes);
        let sum = match found {
            Some(bytes) if bytes == file.bytes => {
                content.download(to)?;
                Some(crate::files::sha256_file(to)?)
            }
            _ => None,
        };
        self.judge(backup, file, found, sum.as_deref())
    }

    fn judge(&self, backup: &Backup, file: &BackupFile, bytes: Option<u64>, sum: Option<&str>) -> Result<()> {
        let wrong = match (bytes, sum) {
            (None, _) => "is not there".to_owned(),
            (_, Some(sum)) if sum == file.sha256 => return Ok(()),
            (_, Some(_)) => "has another content than when it was written".to_owned(),
            (Some(bytes), None) => format!("has {bytes} bytes instead of {}", file.bytes),
        };
        bail!(
            "backup {} is damaged: {}, which is {} of the store, {wrong}; take another backup with --backup, `larder restore --list` shows them",
            backup.id,
            self.content(file),
            file.name
        )
    }
}

/// A file at a location, part by part.
struct Reading<'a> {
    location: &'a Location,
    at: u64,
    end: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.end.min(self.at + PART_BYTES.min(out.len() as u64));
        let part = self.location.read_range(self.at..end, None).map_err(io::Error::other)?;
        out[..part.len()].copy_from_slice(&part);
        self.at += part.len() as u64;
        Ok(part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(folder: &Path) -> BackupSet {
        BackupSet { location: Location::local(folder) }
    }

    fn file(folder: &Path, name: &str, content: &str) -> (std::path::PathBuf, BackupFile) {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        let sha256 = sha256(content.as_bytes()).unwrap();
        (path, BackupFile { folder: Folder::Store, name: name.to_owned(), bytes: content.len() as u64, sha256 })
    }

    #[test]
    fn a_backup_is_one_when_its_description_is_there_and_old_ones_go_with_what_only_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let set = set(&folder.path().join("backups of a store"));
        let moment = |s| DateTime::from_timestamp(1_800_000_000 + s, 500_000_000).unwrap();
        for (number, content) in ["one", "two", "three"].into_iter().enumerate() {
            let mut backup = Backup::new(moment(number as i64), "store");
            for (path, file) in [file(folder.path(), "a.sst", "same"), file(folder.path(), "b.sst", content)] {
                set.put(&path, &file).unwrap();
                backup.files.push(file);
            }
            assert_eq!(set.list().unwrap().len(), number, "not before it is finished");
            set.finish(backup).unwrap();
        }
        assert_eq!(set.contents().unwrap().len(), 4);
        assert_eq!(set.keep_newest(2).unwrap(), 1);
        let left = set.list().unwrap();
        assert_eq!((left.len(), set.contents().unwrap().len()), (2, 3));
        assert!(left.iter().all(|backup| backup.files.iter().all(|file| set.check(backup, file).is_ok())));
    }

    #[test]
    fn what_was_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let set = set(folder.path());
        let (path, file) = file(folder.path(), "a.sst", "content");
        set.put(&path, &file).unwrap();
        let backup = Backup { files: vec![file.clone()], ..Backup::new(Utc::now(), "store") };
        let backup = set.finish(backup).unwrap();
        set.get(&backup, &file, &folder.path().join("restored")).unwrap();
        let at = folder.path().join("files").join(&file.sha256);
        for (content, says) in
            [(Some("cantent"), "another content"), (Some("c"), "has 1 bytes"), (None, "is not there")]
        {
            match content {
                Some(content) => std::fs::write(&at, content).unwrap(),
                None => std::fs::remove_file(&at).unwrap(),
            }
            for outcome in [set.check(&backup, &file), set.get(&backup, &file, &folder.path().join("restored"))] {
                let message = outcome.unwrap_err().to_string();
                assert!(
                    message.contains(says) && message.contains("a.sst") && message.contains(&file.sha256),
                    "{message}"
                );
            }
        }
        let described = folder.path().join("backups").join(format!("{}.json", backup.id));
        let text = std::fs::read_to_string(&described).unwrap().replace("a.sst", "b.sst");
        std::fs::write(&described, text).unwrap();
        assert!(format!("{:#}", set.list().unwrap_err()).contains("checksum is not that of its content"));
    }

    #[test]
    fn a_forged_name_cannot_reach_outside() {
        for name in ["../CURRENT", "/etc/passwd", "..", ".hidden", ""] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("000123.sst") && is_plain("profile-1-7-000001.parquet"));
    }
}
