//! The hot-set file: which keys a node used last. A node writes it when it drains and reads it before it is ready, and a build reads it
//! to tell active entities from others. It holds no rows: who loses it loses warmth and nothing else.

mod blocks;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::vec;

use crate::view::TenantId;
use crate::{Error, files};

#[cfg(test)]
pub(crate) use blocks::Fault;
pub(crate) use blocks::{Blocks, encode};

/// Most entries that a hot-set file holds.
pub const MAX_HOT_SET_ENTRIES: u64 = 1 << 24;
/// Largest hot-set file.
pub const MAX_HOT_SET_BYTES: u64 = 1 << 30;

/// One key that was used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HotSetEntry {
    /// The view's number.
    pub view_id: u16,
    /// Whose entity it is.
    pub tenant: TenantId,
    /// The entity.
    pub entity: String,
}

/// Writes `entries`, most recently used first, so that after a crash the file is whole or as it was before. Takes as many as the limits
/// [`MAX_HOT_SET_ENTRIES`] and [`MAX_HOT_SET_BYTES`] allow and returns how many these were. An entity that no store can hold, because it
/// is empty or too long, is left out; so is a repeat close behind its first.
///
/// # Errors
/// [`Error::CheckDisk`] when the file cannot be written.
pub fn write_hot_set(path: &Path, entries: impl IntoIterator<Item = HotSetEntry>) -> Result<u64, Error> {
    files::write_whole_with(path, |file| encode(entries, file))
}

/// Opens a hot-set file, having checked that all of it is as it was written.
///
/// # Errors
/// [`Error::DeleteFile`] when it is damaged or of another version, [`Error::CheckDisk`] when it cannot be read or is not there.
pub fn read_hot_set(path: &Path) -> Result<HotSet, Error> {
    if !fs::metadata(path).map_err(Error::disk("read", path))?.is_file() {
        return Err(Error::disk("read", path)(io::Error::other("it is no file")));
    }
    let open = || Blocks::open(BufReader::with_capacity(1 << 16, File::open(path)?));
    let blocks = open().map_err(|fault| fault.at(path))?;
    Ok(HotSet { blocks, path: path.to_path_buf(), block: Vec::new().into_iter() })
}

/// The entries of a hot-set file, read block by block.
#[derive(Debug)]
pub struct HotSet {
    blocks: Blocks<BufReader<File>>,
    path: PathBuf,
    block: vec::IntoIter<HotSetEntry>,
}

impl HotSet {
    /// How many entries the file holds.
    pub fn entries(&self) -> u64 {
        self.blocks.entries
    }
}

impl Iterator for HotSet {
    type Item = Result<HotSetEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.block.len() == 0 {
            match self.blocks.next_block() {
                Ok(block) => self.block = block.into_iter(),
                Err(fault) => return Some(Err(fault.at(&self.path))),
            }
        }
        self.block.next().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::blocks::{BLOCK_ENTRIES, HEADER_BYTES};
    use super::*;
    use crate::key::MAX_ENTITY_BYTES;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn entry(view_id: u16, tenant: u32, entity: impl Into<String>) -> HotSetEntry {
        HotSetEntry { view_id, tenant: TenantId(tenant), entity: entity.into() }
    }

    fn read(path: &Path) -> Result<Vec<HotSetEntry>, Error> {
        read_hot_set(path)?.collect()
    }

    fn any_entry() -> impl Strategy<Value = HotSetEntry> {
        let entity = prop_oneof!["[ab\0é用]{1,6}", "a{250,256}b?"];
        (0u16..3, 0u32..3, entity).prop_map(|(view_id, tenant, entity)| entry(view_id, tenant, entity))
    }

    proptest! {
        #[test]
        fn entries_come_back(entries in prop::collection::vec(any_entry(), 0..200)) {
            let mut bytes = Vec::new();
            let written = encode(entries.iter().cloned(), &mut bytes).unwrap();
            let mut blocks = Blocks::open(io::Cursor::new(bytes)).unwrap();
            let expected: BTreeSet<_> = entries.into_iter().filter(|entry| entry.entity.len() <= MAX_ENTITY_BYTES).collect();
            prop_assert_eq!(written, expected.len() as u64);
            prop_assert_eq!(blocks.next_block().unwrap(), expected.into_iter().collect::<Vec<_>>());
            prop_assert!(blocks.next_block().unwrap().is_empty());
        }
    }

    #[test]
    fn the_most_recent_block_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hot-set");
        let used = |index: usize| entry(1, 1, format!("user-{:06}", (index * 7919) % 10_000));
        assert_eq!(write_hot_set(&path, (0..10_000).map(used)).unwrap(), 10_000);
        let hot_set = read_hot_set(&path).unwrap();
        assert_eq!(hot_set.entries(), 10_000);
        let read: Vec<_> = hot_set.map(Result::unwrap).collect();
        for (block, range) in read.chunks(BLOCK_ENTRIES).zip([0..4096, 4096..8192, 8192..10_000]) {
            assert!(block.is_sorted());
            assert_eq!(block.iter().cloned().collect::<BTreeSet<_>>(), range.map(used).collect());
        }
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes < 10_000 * 6, "{bytes} bytes");
    }

    #[test]
    fn an_entity_that_cannot_be_stored_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hot-set");
        let entries = [entry(1, 1, ""), entry(1, 1, "x".repeat(257)), entry(1, 1, "x".repeat(256)), entry(1, 1, "ada")];
        assert_eq!(write_hot_set(&path, entries.clone()).unwrap(), 2);
        assert_eq!(read(&path).unwrap(), [entries[3].clone(), entries[2].clone()]);
        assert_eq!(write_hot_set(&path, []).unwrap(), 0);
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn each_changed_or_missing_byte_is_noticed_and_the_message_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hot-set");
        write_hot_set(&path, (0..20).map(|user| entry(1, 1, format!("user-{user}")))).unwrap();
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::DeleteFile { .. }), "{error:?}");
            error.to_string()
        };
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 0x10;
            refused(&changed);
            refused(&good[..at]);
        }
        let message = refused(&good[..good.len() - 1]);
        let expected = "its checksum is not that of its content; delete it, nothing is lost but warmth";
        assert!(message.contains(expected) && message.contains(&path.display().to_string()), "{message}");
        assert!(refused(b"").contains("0 bytes is no length of a hot-set file"));
        let absent = read(&folder.path().join("absent")).unwrap_err();
        assert!(matches!(absent, Error::CheckDisk { .. }), "{absent:?}");
        let no_file = read(folder.path()).unwrap_err().to_string();
        assert!(no_file.contains("it is no file"), "{no_file}");
    }

    #[test]
    fn a_lying_file_with_a_right_checksum_is_an_error() {
        let mut good = Vec::new();
        encode([entry(1, 1, "ada"), entry(1, 1, "adb"), entry(1, 2, "ada")], &mut good).unwrap();
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            let end = bytes.len() - 4;
            let crc = crc32fast::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_le_bytes());
            match Blocks::open(io::Cursor::new(bytes)).and_then(|mut blocks| blocks.next_block()) {
                Err(Fault::Damaged(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        let (block, body) = (HEADER_BYTES as usize, HEADER_BYTES as usize + 8);
        assert_eq!(changed(8, 9), "version 9, this program reads version 1");
        assert_eq!(changed(block, 0), "the size of a block is impossible");
        assert_eq!(changed(block, 4), "the size of a block is impossible");
        assert_eq!(changed(block, 2), "a block is longer than its entries");
        assert_eq!(changed(block + 7, 1), "the size of a block is impossible");
        assert_eq!(changed(block + 5, 9), "it ends too early");
        assert_eq!(changed(body, 0), "a block begins without view and tenant");
        assert_eq!(changed(body + 7, 200), "a block ends within an entry");
        assert_eq!(changed(body + 8, 0xFF), "an entity is not UTF-8");
        assert_eq!(changed(body + 11, 9), "an entity shares more than there is");
    }
}
