//! A set of backups at one location: the files of all of them, each once and named by its content, and a description of each backup, which is
//! written last, so that a backup that was cut short is none.
//!
//! ```text
//! files/3f2a...    a file of the store, named by its SHA-256
//! backups/20261120T182233.500Z.json    which files make the store of that moment
//! ```
//!
//! Several commands may work here at the same time. So a file goes only when no description names it and it has lain there for a day: a backup
//! that is under way may be about to name it.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use larder_ingest::{FoundFile, Location};

use crate::backup_manifest::{Backup, BackupFile};
use crate::files::sha256;

/// Largest description that is read: some hundred thousand files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Bytes of a remote file that are read at a time.
const PART_BYTES: u64 = 8 << 20;
/// How long a file is kept that no backup needs; longer than copying a store takes.
const SAFE_AGE: Duration = Duration::from_secs(24 * 3_600);
const FILES: &str = "files";
const BACKUPS: &str = "backups";

/// What is at a location.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// The finished backups, oldest first.
    pub(crate) backups: Vec<Backup>,
    /// Descriptions that are damaged, or of another program.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A description that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) id: String,
    pub(crate) location: Location,
    pub(crate) reason: String,
}

/// What went because it was old.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) backups: usize,
    /// Whether their files stay, because a description that cannot be read may name them.
    pub(crate) held_back: bool,
}

impl Listed {
    /// Names of the contents that the backups need.
    fn contents(&self) -> HashSet<&str> {
        self.backups.iter().flat_map(|backup| &backup.files).map(|file| file.sha256.as_str()).collect()
    }

    /// Says which descriptions cannot be read; whoever has another backup goes on.
    pub(crate) fn tell_unreadable(&self) {
        for Unreadable { location, reason, .. } in &self.unreadable {
            eprintln!("{location} is damaged and is passed over: {reason}");
        }
    }
}

/// How long a file has been there.
fn age(file: &FoundFile, now: DateTime<Utc>) -> Duration {
    let modified = DateTime::from_timestamp_nanos(file.modified_ns);
    (now - modified).to_std().unwrap_or_default()
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

    /// The finished backups, oldest first, and what passes for one and cannot be read.
    pub(crate) fn list(&self) -> Result<Listed> {
        let mut listed = Listed::default();
        for file in self.location.join(BACKUPS).list()? {
            let Some(id) = file.relative.strip_suffix(".json") else { continue };
            if file.bytes > MAX_MANIFEST_BYTES {
                let reason = format!("it has {} bytes, at most {MAX_MANIFEST_BYTES} are read", file.bytes);
                listed.unreadable.push(Unreadable { id: id.to_owned(), location: file.location, reason });
                continue;
            }
            let bytes = match file.location.read_range(0..file.bytes, None) {
                Ok(bytes) => bytes,
                // Another command has just deleted it.
                Err(_) if file.location.find()?.is_none() => continue,
                Err(error) => return Err(error.into()),
            };
            let decoded = Backup::decode(&bytes).and_then(|backup| {
                ensure!(backup.id == id, "it describes the backup {}", backup.id);
                Ok(backup)
            });
            match decoded {
                Ok(backup) => listed.backups.push(backup),
                Err(error) => {
                    let reason = format!("{error:#}");
                    listed.unreadable.push(Unreadable { id: id.to_owned(), location: file.location, reason });
                }
            }
        }
        listed.backups.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listed)
    }

    /// The contents that are there, by their names.
    pub(crate) fn contents(&self) -> Result<BTreeMap<String, FoundFile>> {
        let found = self.location.join(FILES).list()?;
        Ok(found.into_iter().map(|file| (file.relative.clone(), file)).collect())
    }

    /// The contents that a new backup may count on, with their lengths: those that a backup names, and those that nobody deletes for long.
    pub(crate) fn reusable(&self, listed: &Listed, now: DateTime<Utc>) -> Result<BTreeMap<String, u64>> {
        let named = listed.contents();
        let counts = |file: &FoundFile| named.contains(file.relative.as_str()) || age(file, now) < SAFE_AGE / 2;
        let contents = self.contents()?.into_values().filter(counts);
        Ok(contents.map(|file| (file.relative, file.bytes)).collect())
    }

    /// The files of a backup whose contents are not there.
    pub(crate) fn missing<'b>(&self, backup: &'b Backup) -> Result<Vec<&'b BackupFile>> {
        let contents = self.contents()?;
        let is_there = |file: &BackupFile| contents.get(&file.sha256).is_some_and(|found| found.bytes == file.bytes);
        Ok(backup.files.iter().filter(|file| !is_there(file)).collect())
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
        backup.seal()?;
        let location = self.description(&backup.id);
        ensure!(location.find()?.is_none(), "there is a backup {} already", backup.id);
        location.write(serde_json::to_vec_pretty(&backup)?)?;
        Ok(backup)
    }

    fn description(&self, id: &str) -> Location {
        self.location.join(BACKUPS).join(&format!("{id}.json"))
    }

    /// Deletes all but the newest backups, and then what no backup needs any more.
    pub(crate) fn keep_newest(&self, keep: usize, now: DateTime<Utc>) -> Result<Deleted> {
        let backups = self.list()?.backups;
        let old = &backups[..backups.len().saturating_sub(keep)];
        for backup in old {
            self.description(&backup.id).delete()?;
        }
        // Contents come before the description that names them, so they are listed first here.
        let contents = self.contents()?;
        let left = self.list()?;
        let held_back = !left.unreadable.is_empty();
        if !held_back {
            let needed = left.contents();
            for file in contents.values() {
                if !needed.contains(file.relative.as_str()) && age(file, now) >= SAFE_AGE {
                    file.location.delete()?;
                }
            }
        }
        Ok(Deleted { backups: old.len(), held_back })
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
    use crate::backup_manifest::Folder;

    fn set(folder: &Path) -> BackupSet {
        BackupSet { location: Location::local(folder) }
    }

    fn file(folder: &Path, name: &str, content: &str) -> (std::path::PathBuf, BackupFile) {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        let sha256 = sha256(content.as_bytes()).unwrap();
        (path, BackupFile { folder: Folder::Store, name: name.to_owned(), bytes: content.len() as u64, sha256 })
    }

    fn moment(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + s, 500_000_000).unwrap()
    }

    /// A set of so many backups, which share one file and have one each.
    fn made(folder: &Path, backups: i64) -> BackupSet {
        let set = set(&folder.join("backups of a store"));
        for number in 0..backups {
            let mut backup = Backup::new(moment(number), "store");
            for (path, file) in [file(folder, "a.sst", "same"), file(folder, "b.sst", &number.to_string())] {
                set.put(&path, &file).unwrap();
                backup.files.push(file);
            }
            assert_eq!(set.list().unwrap().backups.len() as i64, number, "not before it is finished");
            set.finish(backup).unwrap();
        }
        set
    }

    fn is_whole(set: &BackupSet) -> bool {
        let listed = set.list().unwrap();
        listed.backups.iter().all(|backup| backup.files.iter().all(|file| set.check(backup, file).is_ok()))
    }

    #[test]
    fn old_backups_go_with_what_only_they_need_once_that_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let set = made(folder.path(), 3);
        assert_eq!(set.contents().unwrap().len(), 4);
        assert_eq!(set.keep_newest(2, Utc::now()).unwrap(), Deleted { backups: 1, held_back: false });
        assert_eq!(set.contents().unwrap().len(), 4, "a backup under way may be about to name what is young");
        let (path, upload) = file(folder.path(), "c.sst", "of a backup under way");
        let tomorrow = Utc::now() + 2 * SAFE_AGE;
        assert_eq!(set.keep_newest(2, tomorrow).unwrap(), Deleted { backups: 0, held_back: false });
        assert_eq!((set.list().unwrap().backups.len(), set.contents().unwrap().len()), (2, 3));
        set.put(&path, &upload).unwrap();
        set.keep_newest(1, Utc::now()).unwrap();
        assert!(set.contents().unwrap().contains_key(&upload.sha256) && is_whole(&set));
    }

    #[test]
    fn a_damaged_description_stops_nobody_and_what_it_may_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let set = made(folder.path(), 3);
        let id = set.list().unwrap().backups[1].id.clone();
        let described = folder.path().join("backups of a store/backups").join(format!("{id}.json"));
        let whole = std::fs::read(&described).unwrap();
        std::fs::write(&described, &whole[..whole.len() / 2]).unwrap();
        let listed = set.list().unwrap();
        assert_eq!((listed.backups.len(), listed.unreadable.len()), (2, 1));
        assert_eq!(listed.unreadable[0].id, id);
        assert!(listed.unreadable[0].reason.contains("not a description of a backup"));
        let tomorrow = Utc::now() + 2 * SAFE_AGE;
        assert_eq!(set.keep_newest(1, tomorrow).unwrap(), Deleted { backups: 1, held_back: true });
        assert_eq!(set.contents().unwrap().len(), 4);
        // Under the name of another it is not believed either.
        std::fs::write(described.with_file_name("20300101T000000.000Z.json"), &whole).unwrap();
        assert!(set.list().unwrap().unreadable.iter().any(|other| other.reason.contains("it describes the backup")));
    }

    #[test]
    fn what_nobody_names_is_not_counted_on_once_it_may_be_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let set = made(folder.path(), 1);
        let (path, stray) = file(folder.path(), "c.sst", "of a backup that was cut short");
        set.put(&path, &stray).unwrap();
        let listed = set.list().unwrap();
        let counted = |now| set.reusable(&listed, now).unwrap().contains_key(&stray.sha256);
        assert!(counted(Utc::now()) && !counted(Utc::now() + SAFE_AGE));
        assert_eq!(set.reusable(&listed, Utc::now() + SAFE_AGE).unwrap().len(), 2);
        // What another command has deleted after all is missed.
        let backup = &listed.backups[0];
        assert!(set.missing(backup).unwrap().is_empty());
        set.content(&backup.files[1]).delete().unwrap();
        assert_eq!(set.missing(backup).unwrap(), [&backup.files[1]]);
    }

    #[test]
    fn what_was_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let set = set(folder.path());
        let (path, file) = file(folder.path(), "a.sst", "content");
        set.put(&path, &file).unwrap();
        let mut backup = Backup::new(Utc::now(), "store");
        backup.files.push(file.clone());
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
    }
}
