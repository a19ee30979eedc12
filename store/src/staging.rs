//! The folder where a generation's files wait between being checked and being linked; inside the store's folder, so that linking is a rename. A
//! publish that was cut short leaves it behind, and the next start removes it.
//!
//! When RocksDB fails to write down that it has taken files in, it deletes them, although what it wrote may be on the disk all the same: the next
//! start would miss them and refuse the whole store. So files whose linking failed are kept until one succeeds, and put back if they are missed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::files::remove_dir;

const STAGING: &str = "incoming";
/// Files whose linking failed.
const KEPT: &str = "unlinked";

/// Makes the folder, empty.
pub(crate) fn create(store: &Path) -> Result<PathBuf, Error> {
    clear(store)?;
    let staging = store.join(STAGING);
    fs::create_dir(&staging).map_err(Error::disk("create", &staging))?;
    Ok(staging)
}

/// Removes the folder.
pub(crate) fn clear(store: &Path) -> Result<(), Error> {
    remove_dir(&store.join(STAGING))
}

/// Keeps the staged files, whose linking failed. Of several failures the first is the one whose files may be missed: after it nothing was written.
pub(crate) fn keep(store: &Path) -> Result<(), Error> {
    let (staging, kept) = (store.join(STAGING), store.join(KEPT));
    match kept.exists() {
        true => Ok(()),
        false => fs::rename(&staging, &kept).map_err(Error::disk("rename", &staging)),
    }
}

/// Removes the files that were kept, because nobody will miss them any more.
pub(crate) fn settle(store: &Path) -> Result<(), Error> {
    remove_dir(&store.join(KEPT))
}

/// Puts kept files back, if there are any, so that the file with the number `missing` is one of them. RocksDB numbers the files of one linking in their
/// order; which of them it missed first it does not say. `open` tries: it refuses files that are in each other's place.
pub(crate) fn put_back<T>(store: &Path, missing: u64, open: impl Fn() -> Option<T>) -> Result<Option<T>, Error> {
    let staged = [KEPT, STAGING].map(|folder| files(&store.join(folder)));
    let guesses = staged.iter().flat_map(|staged| (0..staged.len() as u64).map(move |before| (staged, before)));
    for (staged, before) in guesses {
        let numbers = missing.saturating_sub(before)..;
        let names: Vec<_> = numbers.take(staged.len()).map(|number| store.join(format!("{number:06}.sst"))).collect();
        if names.iter().any(|name| name.exists()) {
            continue;
        }
        for (file, name) in staged.iter().zip(&names) {
            fs::hard_link(file, name).map_err(Error::disk("link", file))?;
        }
        if let Some(opened) = open() {
            return Ok(Some(opened));
        }
        for name in &names {
            fs::remove_file(name).map_err(Error::disk("remove", name))?;
        }
    }
    Ok(None)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}
