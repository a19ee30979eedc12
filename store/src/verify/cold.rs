//! The cold files of a store, by their records, or where these cannot be read by their names.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::{StorePart, Verifying};
use crate::cold::file::{ColdFile, ColdReads};
use crate::cold::{ColdFolder, is_cold_name};
use crate::config::StoreConfig;
use crate::files;
use crate::manifest::ManifestFile;
use crate::meta::Records;

impl Verifying<'_> {
    pub(super) fn cold_by_record(&mut self, config: &StoreConfig, records: &Records) {
        let name = records.name.as_deref().unwrap_or_default();
        let folder = match ColdFolder::open(&config.cold_path, name) {
            Ok(folder) => folder,
            Err(error) => return self.damaged(&config.cold_path, StorePart::ColdFile, error.to_string()),
        };
        for record in &records.generations {
            for manifest in record.generations() {
                for described in record.cold_files(manifest) {
                    self.cold(&folder.place(manifest, &described.name), described, None);
                }
            }
        }
    }

    /// A cold file, by the checksum of all its bytes; where that is not right it is looked what is lost. `part` overrules what that is called.
    pub(super) fn cold(&mut self, path: &Path, described: &ManifestFile, part: Option<StorePart>) {
        let sum = files::sum(path);
        self.done(path);
        match sum {
            Ok(found) if found == (described.bytes, described.crc32) => {}
            Ok((bytes, _)) if bytes != described.bytes => {
                let reason = format!("it has {bytes} bytes, its record says {}", described.bytes);
                self.damaged(path, part.unwrap_or(StorePart::ColdFile), reason);
            }
            Ok(_) => {
                let (found, reason) = look_into(path).unwrap_or((
                    StorePart::ColdPages,
                    "its content is not the one that was published, outside of what the store reads".to_string(),
                ));
                self.damaged(path, part.unwrap_or(found), reason);
            }
            Err(error) => self.found(path, part.unwrap_or(StorePart::ColdFile), Err(error)),
        }
    }

    /// The cold files by their names, where the records cannot be read.
    pub(super) fn cold_by_name(&mut self, folder: &Path) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(is_cold_name)).collect();
        paths.sort();
        for path in paths {
            self.done(&path);
            if let Some((part, reason)) = look_into(&path) {
                self.damaged(&path, part, reason);
            }
        }
    }
}

/// Which part of a cold file is damaged, if any of those that the store reads is.
fn look_into(path: &Path) -> Option<(StorePart, String)> {
    let file = match ColdFile::open(path) {
        Ok(file) => file,
        Err(error) => return Some((StorePart::ColdFile, error.to_string())),
    };
    let (mut pages, mut rows, mut first) = (0u64, 0u64, None);
    for (index, entry) in file.pages().iter().enumerate() {
        let range = entry.offset..entry.end();
        let page = file.read_range(&range, &mut ColdReads::default());
        let page = page.and_then(|stored| file.unpack(index, &stored, range.start));
        if page.is_err() {
            pages += 1;
            rows += u64::from(entry.rows);
            first.get_or_insert(entry.offset);
        }
    }
    let all = file.pages().len();
    first.map(|first| {
        (StorePart::ColdPages, format!("{pages} of its {all} pages, with {rows} entities; the first at byte {first}"))
    })
}
