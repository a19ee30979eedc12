//! The description of one backup: which files make the store of which moment. It is read with suspicion, because it lies where others may write.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::files::sha256;

/// Version of the description.
const FORMAT: u32 = 1;

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

    /// The files in order, under a checksum.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.files.sort();
        self.checksum = self.computed_checksum()?;
        Ok(())
    }

    fn computed_checksum(&self) -> Result<String> {
        let plain = Backup { checksum: String::new(), ..self.clone() };
        Ok(sha256(serde_json::to_vec(&plain)?.as_slice())?)
    }

    /// Reads a description; an error says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Backup> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_name_cannot_reach_outside() {
        for name in ["../CURRENT", "/etc/passwd", "..", ".hidden", ""] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("000123.sst") && is_plain("profile-1-7-000001.parquet"));
    }

    #[test]
    fn what_was_changed_or_is_something_else_is_refused() {
        let file = |name: &str| BackupFile {
            folder: Folder::Store,
            name: name.to_owned(),
            bytes: 7,
            sha256: sha256(name.as_bytes()).unwrap(),
        };
        let sealed = |files: Vec<BackupFile>| {
            let mut backup = Backup { files, ..Backup::new(Utc::now(), "store") };
            backup.seal().unwrap();
            serde_json::to_string_pretty(&backup).unwrap()
        };
        let whole = sealed(vec![file("b.sst"), file("a.sst")]);
        assert_eq!(Backup::decode(whole.as_bytes()).unwrap().files, [file("a.sst"), file("b.sst")]);
        let refused = |text: &str| format!("{:#}", Backup::decode(text.as_bytes()).unwrap_err());
        assert!(refused(&whole.replace("a.sst", "c.sst")).contains("checksum is not that of its content"));
        assert!(refused(&whole.replace("\"format\": 1", "\"format\": 2")).contains("it has format 2"));
        assert!(refused(&whole[..whole.len() / 2]).contains("not a description of a backup"));
        assert!(refused(&sealed(vec![file("a.sst"), file("a.sst")])).contains("twice"));
        assert!(refused(&sealed(vec![file("../a.sst")])).contains("that no backup has"));
    }
}
