//! The hot-set file: which keys a node used last. A node writes it when it drains and reads it before it is ready, and a build reads it
//! to tell active entities from others. It holds no rows: who loses it loses warmth and nothing else.
//!
//! Keys come most recently used first, in blocks of [`BLOCK_ENTRIES`]; a reader that runs out of time has read the best. Within a block
//! they are sorted by view, tenant and entity, and each names only what it does not share with the one before: of a million entities such
//! as `user-00012345` each takes 6 bytes instead of 21, and a block is already in the order in which a store reads fastest.
//!
//! Layout, numbers little-endian: magic, version u16; blocks of count u32, body length u32, body; the number of entries u64; CRC-32 of all
//! that. A body is, per entry: the number of leading bytes shared with the entity before, or [`NEW_GROUP`], view u16, tenant u32 where
//! these differ; the number of further bytes less one; those bytes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::vec;

use crate::key::MAX_ENTITY_BYTES;
use crate::row::Damaged;
use crate::view::TenantId;
use crate::{Error, files};

/// Most entries that a hot-set file holds.
pub const MAX_HOT_SET_ENTRIES: u64 = 1 << 24;
/// Largest hot-set file.
pub const MAX_HOT_SET_BYTES: u64 = 1 << 30;

const MAGIC: [u8; 8] = *b"LARDERHS";
const VERSION: u16 = 1;
const HEADER_BYTES: u64 = 10;
/// The number of entries, the checksum.
const TRAILER_BYTES: u64 = 8 + 4;
const BLOCK_ENTRIES: usize = 4096;
/// What an entry takes at most: its entity, and the bytes around it.
const MAX_BLOCK_BYTES: usize = BLOCK_ENTRIES * (MAX_ENTITY_BYTES + 8);
/// Stands in place of a number of shared bytes: view and tenant follow, and nothing is shared.
const NEW_GROUP: u8 = 255;

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

/// Why a file cannot be read on.
#[derive(Debug)]
pub(crate) enum Fault {
    Disk(io::Error),
    Damaged(String),
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        match self {
            Fault::Disk(error) => Error::disk("read", path)(error),
            Fault::Damaged(reason) => Error::DeleteFile { path: path.to_path_buf(), reason },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Damaged("it ends too early".into()),
            _ => Fault::Disk(error),
        }
    }
}

impl From<Damaged> for Fault {
    fn from(damaged: Damaged) -> Fault {
        Fault::Damaged(damaged.0.into())
    }
}

/// The blocks of an opened file.
#[derive(Debug)]
pub(crate) struct Blocks<R> {
    source: R,
    entries: u64,
    /// Entries not yet read.
    left: u64,
}

impl<R: Read + Seek> Blocks<R> {
    /// Checks everything but the blocks' insides, reading the file once, and stands before the first block.
    pub(crate) fn open(mut source: R) -> Result<Blocks<R>, Fault> {
        let length = source.seek(SeekFrom::End(0))?;
        source.rewind()?;
        if !(HEADER_BYTES + TRAILER_BYTES..=MAX_HOT_SET_BYTES).contains(&length) {
            return Err(Fault::Damaged(format!("{length} bytes is no length of a hot-set file")));
        }
        let (magic, version) = (take::<8>(&mut source)?, u16::from_le_bytes(take(&mut source)?));
        if magic != MAGIC {
            return Err(Damaged("it is no hot-set file").into());
        }
        if version != VERSION {
            return Err(Fault::Damaged(format!("version {version}, this program reads version {VERSION}")));
        }
        source.rewind()?;
        let mut summed = Summed::new(io::sink());
        io::copy(&mut source.by_ref().take(length - 4), &mut summed)?;
        if u32::from_le_bytes(take(&mut source)?) != summed.crc.finalize() {
            return Err(Damaged("its checksum is not that of its content").into());
        }
        source.seek(SeekFrom::Start(length - TRAILER_BYTES))?;
        let entries = u64::from_le_bytes(take(&mut source)?);
        source.seek(SeekFrom::Start(HEADER_BYTES))?;
        Ok(Blocks { source, entries, left: entries })
    }

    /// The next block, sorted; empty after the last. After an error there is none.
    pub(crate) fn next_block(&mut self) -> Result<Vec<HotSetEntry>, Fault> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        let left = std::mem::take(&mut self.left);
        let count = u32::from_le_bytes(take(&mut self.source)?);
        let length = u32::from_le_bytes(take(&mut self.source)?);
        if u64::from(count) > left || !(1..=BLOCK_ENTRIES as u32).contains(&count) || length as usize > MAX_BLOCK_BYTES
        {
            return Err(Damaged("the size of a block is impossible").into());
        }
        let mut body = Vec::new();
        self.source.by_ref().take(length.into()).read_to_end(&mut body)?;
        if body.len() < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let block = decode_block(&body, count as usize)?;
        self.left = left - u64::from(count);
        Ok(block)
    }
}

fn take<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn encode(entries: impl IntoIterator<Item = HotSetEntry>, file: &mut dyn Write) -> io::Result<u64> {
    let mut file = Summed::new(file);
    file.write_all(&MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    let storable = |entry: &HotSetEntry| (1..=MAX_ENTITY_BYTES).contains(&entry.entity.len());
    let mut entries = entries.into_iter().filter(storable).take(MAX_HOT_SET_ENTRIES as usize);
    let mut written = 0;
    let mut body = Vec::new();
    loop {
        let mut block: Vec<_> = entries.by_ref().take(BLOCK_ENTRIES).collect();
        block.sort_unstable();
        block.dedup();
        body.clear();
        encode_block(&block, &mut body);
        if block.is_empty() || file.bytes + 8 + body.len() as u64 + TRAILER_BYTES > MAX_HOT_SET_BYTES {
            break;
        }
        file.write_all(&(block.len() as u32).to_le_bytes())?;
        file.write_all(&(body.len() as u32).to_le_bytes())?;
        file.write_all(&body)?;
        written += block.len() as u64;
    }
    file.write_all(&written.to_le_bytes())?;
    let crc = file.crc.clone().finalize();
    file.write_all(&crc.to_le_bytes())?;
    Ok(written)
}

fn encode_block(block: &[HotSetEntry], out: &mut Vec<u8>) {
    let mut before: Option<&HotSetEntry> = None;
    for entry in block {
        let entity = entry.entity.as_bytes();
        let same_group = before.filter(|before| (before.view_id, before.tenant) == (entry.view_id, entry.tenant));
        let shared = match same_group {
            Some(before) => {
                let pairs = before.entity.bytes().zip(entry.entity.bytes());
                let shared = pairs.take(usize::from(NEW_GROUP) - 1).take_while(|(one, other)| one == other).count();
                out.push(shared as u8);
                shared
            }
            None => {
                out.push(NEW_GROUP);
                out.extend_from_slice(&entry.view_id.to_le_bytes());
                out.extend_from_slice(&entry.tenant.0.to_le_bytes());
                0
            }
        };
        // Sorted, distinct and not empty: at least one byte differs from the entity before.
        let rest = &entity[shared..];
        out.push((rest.len() - 1) as u8);
        out.extend_from_slice(rest);
        before = Some(entry);
    }
}

fn decode_block(mut body: &[u8], count: usize) -> Result<Vec<HotSetEntry>, Damaged> {
    let cut = Damaged("a block ends within an entry");
    let mut block: Vec<HotSetEntry> = Vec::with_capacity(count.min(body.len() / 3));
    for _ in 0..count {
        let (shared, rest) = body.split_first().ok_or(cut)?;
        body = rest;
        let (view_id, tenant, shared) = if *shared == NEW_GROUP {
            let (view_id, rest) = body.split_first_chunk().ok_or(cut)?;
            let (tenant, rest) = rest.split_first_chunk().ok_or(cut)?;
            body = rest;
            (u16::from_le_bytes(*view_id), TenantId(u32::from_le_bytes(*tenant)), &[][..])
        } else {
            let before = block.last().ok_or(Damaged("a block begins without view and tenant"))?;
            let shared = before.entity.as_bytes().get(..usize::from(*shared));
            (before.view_id, before.tenant, shared.ok_or(Damaged("an entity shares more than there is"))?)
        };
        let (length, rest) = body.split_first().ok_or(cut)?;
        let (own, rest) = rest.split_at_checked(usize::from(*length) + 1).ok_or(cut)?;
        body = rest;
        if shared.len() + own.len() > MAX_ENTITY_BYTES {
            return Err(Damaged("an entity is too long"));
        }
        let entity = String::from_utf8([shared, own].concat()).map_err(|_| Damaged("an entity is not UTF-8"))?;
        block.push(HotSetEntry { view_id, tenant, entity });
    }
    if body.is_empty() { Ok(block) } else { Err(Damaged("a block is longer than its entries")) }
}

/// Counts and sums what passes to a writer.
struct Summed<W> {
    inner: W,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl<W> Summed<W> {
    fn new(inner: W) -> Summed<W> {
        Summed { inner, crc: crc32fast::Hasher::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.crc.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
