//! Checking every byte of one RocksDB table file, without RocksDB: each block's checksum, the footer's, and that nothing lies between them. RocksDB
//! checks a block when it reads it, and its binding for Rust has no call that reads all of them; reading all keys would miss filters and
//! properties, and stop at the first damage.
//!
//! The format, version 6 or later: blocks, each followed by its compression u8 and its checksum u32; the last block, the meta-index, names
//! all others that hold no rows; the index, one of those, names those that do; the footer of 53 bytes names the meta-index. A checksum is the
//! lower half of XXH3 over block and compression, plus a number made of the block's place, so that a whole block in another's place
//! is noticed too. Numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::verify::lz4;

const FOOTER_BYTES: usize = 53;
const TRAILER_BYTES: u64 = 5;
const MAGIC: u64 = 0x88E2_41B7_85F4_CFF7;
const EXTENDED_MAGIC: [u8; 4] = [0x3E, 0x00, 0x7A, 0x00];
const XXH3: u8 = 4;
/// The versions that have such a footer; RocksDB writes 6 where it is told to and 7 where it is not.
const VERSIONS: std::ops::RangeInclusive<u32> = 6..=7;
const INDEX: &[u8] = b"rocksdb.index";
const UNCOMPRESSED: u8 = 0;
const LZ4: u8 = 4;
/// Largest index block, unpacked; its size on disk is limited by the file's.
const MAX_INDEX_BYTES: usize = 1 << 28;
/// Flags in the number of restart points at the end of a block, of which the second means another layout.
const RESTARTS: u32 = 0x0FFF_FFFF;
const SEPARATED_VALUES: u32 = 1 << 28;

/// Why a file is not as it was written.
#[derive(Debug)]
enum Fault {
    Disk(io::Error),
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Disk(error)
    }
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(reason.into()))
}

/// Says how a file is damaged, if it is.
pub(super) fn find_damage(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    match Table::open(&file, bytes).and_then(|table| table.check()) {
        Ok(()) => Ok(None),
        Err(Fault::Damaged(reason)) => Ok(Some(reason)),
        Err(Fault::Disk(error)) => Err(error),
    }
}

/// Where a block lies, without its trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Handle {
    offset: u64,
    bytes: u64,
}

impl Handle {
    fn end(self) -> Option<u64> {
        self.offset.checked_add(self.bytes)?.checked_add(TRAILER_BYTES)
    }
}

struct Table<'f> {
    file: &'f File,
    footer_offset: u64,
    /// Mixed into every checksum.
    context: u32,
    meta_index: Handle,
}

impl Table<'_> {
    fn open(file: &File, bytes: u64) -> Result<Table<'_>, Fault> {
        let Some(footer_offset) = bytes.checked_sub(FOOTER_BYTES as u64) else {
            return damaged(format!("a file of {bytes} bytes is no table"));
        };
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_offset)?;
        let number = |at: usize| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
        let (stored, context, meta_bytes, version) = (number(5), number(9), number(13), number(41));
        let magic = u64::from(number(49)) << 32 | u64::from(number(45));
        if magic != MAGIC || footer[0] != XXH3 || footer[1..5] != EXTENDED_MAGIC || !VERSIONS.contains(&version) {
            return damaged("its footer is not one that this program writes");
        }
        let mut plain = footer;
        plain[5..9].fill(0);
        if sum(&plain[..FOOTER_BYTES - 1], plain[FOOTER_BYTES - 1], context, footer_offset) != stored {
            return damaged("its footer has another checksum than when it was written");
        }
        let start = footer_offset.checked_sub(TRAILER_BYTES + u64::from(meta_bytes));
        let Some(offset) = start else { return damaged("its footer names a block that cannot be there") };
        let meta_index = Handle { offset, bytes: u64::from(meta_bytes) };
        Ok(Table { file, footer_offset, context, meta_index })
    }

    /// Checks all blocks, and that they fill the file.
    fn check(&self) -> Result<(), Fault> {
        let mut blocks = vec![self.meta_index];
        let meta_index = self.read(self.meta_index)?;
        for (name, handle) in meta_entries(&meta_index)? {
            let block = self.read(handle)?;
            blocks.push(handle);
            if name == INDEX {
                for handle in index_entries(&block)? {
                    self.check_block(handle)?;
                    blocks.push(handle);
                }
            }
        }
        blocks.sort_unstable();
        let mut end = 0;
        for block in blocks {
            if block.offset != end {
                return damaged(format!("what lies at byte {end} belongs to no block"));
            }
            end = block.end().unwrap_or(u64::MAX);
        }
        match end == self.footer_offset {
            true => Ok(()),
            false => damaged(format!("what lies at byte {end} belongs to no block")),
        }
    }

    /// The block's bytes, unpacked.
    fn read(&self, handle: Handle) -> Result<Vec<u8>, Fault> {
        let (mut block, compression) = self.check_block(handle)?;
        match compression {
            UNCOMPRESSED => {}
            LZ4 => match lz4::unpack(&block, MAX_INDEX_BYTES) {
                Some(unpacked) => block = unpacked,
                None => return damaged(format!("the block at byte {} cannot be unpacked", handle.offset)),
            },
            other => return damaged(format!("the block at byte {} has compression {other}", handle.offset)),
        }
        Ok(block)
    }

    /// The block's bytes as they are stored, and how they are compressed, when their checksum is right.
    fn check_block(&self, handle: Handle) -> Result<(Vec<u8>, u8), Fault> {
        if handle.end().is_none_or(|end| end > self.footer_offset) {
            return damaged(format!("a block is named at byte {}, where it cannot be", handle.offset));
        }
        let mut block = vec![0; (handle.bytes + TRAILER_BYTES) as usize];
        self.file.read_exact_at(&mut block, handle.offset)?;
        let Some((rest, stored)) = block.split_last_chunk::<4>() else { return damaged("a block has no trailer") };
        let Some((compression, content)) = rest.split_last() else { return damaged("a block has no trailer") };
        let compression = *compression;
        if sum(content, compression, self.context, handle.offset) != u32::from_le_bytes(*stored) {
            return damaged(format!(
                "the block at byte {} has another checksum than when it was written",
                handle.offset
            ));
        }
        block.truncate(handle.bytes as usize);
        Ok((block, compression))
    }
}

/// The checksum of some bytes and one more, at a place in a file.
fn sum(bytes: &[u8], last: u8, context: u32, offset: u64) -> u32 {
    let plain = xxh3_64(bytes) as u32 ^ u32::from(last).wrapping_mul(0x6B90_83D9);
    let place = (offset as u32).wrapping_add((offset >> 32) as u32);
    let modifier = if context == 0 { 0 } else { context ^ place };
    plain.wrapping_add(modifier)
}

/// The entries of a block, without its restart points.
fn entries(block: &[u8]) -> Result<&[u8], Fault> {
    let Some((rest, packed)) = block.split_last_chunk::<4>() else { return damaged("a block is cut short") };
    let packed = u32::from_le_bytes(*packed);
    let restarts = (packed & RESTARTS) as usize * 4;
    match rest.len().checked_sub(restarts).filter(|_| packed & SEPARATED_VALUES == 0) {
        Some(length) => Ok(&rest[..length]),
        None => damaged("a block is not laid out as this program writes it"),
    }
}

/// Names and places of the blocks that hold no rows.
fn meta_entries(block: &[u8]) -> Result<Vec<(Vec<u8>, Handle)>, Fault> {
    let mut rest = entries(block)?;
    let mut found: Vec<(Vec<u8>, Handle)> = Vec::new();
    while !rest.is_empty() {
        let read = || {
            let (shared, rest) = varint(rest)?;
            let (own, rest) = varint(rest)?;
            let (value_bytes, rest) = varint(rest)?;
            let (own, rest) = rest.split_at_checked(usize::try_from(own).ok()?)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(value_bytes).ok()?)?;
            let before = found.last().map_or(&[][..], |(name, _)| name);
            let name = [before.get(..usize::try_from(shared).ok()?)?, own].concat();
            let (handle, _) = handle(value)?;
            Some((name, handle, rest))
        };
        let Some((name, handle, after)) = read() else { return damaged("its meta-index cannot be read") };
        found.push((name, handle));
        rest = after;
    }
    Ok(found)
}

/// Places of the blocks that hold rows. An entry whose key shares bytes with the one before only says how its block's size differs.
fn index_entries(block: &[u8]) -> Result<Vec<Handle>, Fault> {
    let mut rest = entries(block)?;
    let mut found: Vec<Handle> = Vec::new();
    while !rest.is_empty() {
        let read = || {
            let (shared, rest) = varint(rest)?;
            let (own, rest) = varint(rest)?;
            let (_, rest) = rest.split_at_checked(usize::try_from(own).ok()?)?;
            if shared == 0 {
                return handle(rest);
            }
            let before = found.last()?;
            let (difference, rest) = varint(rest)?;
            let difference = (difference >> 1) as i64 ^ -((difference & 1) as i64);
            let bytes = before.bytes.checked_add_signed(difference)?;
            Some((Handle { offset: before.end()?, bytes }, rest))
        };
        let Some((handle, after)) = read() else { return damaged("its index cannot be read") };
        found.push(handle);
        rest = after;
    }
    Ok(found)
}

fn handle(bytes: &[u8]) -> Option<(Handle, &[u8])> {
    let (offset, rest) = varint(bytes)?;
    let (bytes, rest) = varint(rest)?;
    Some((Handle { offset, bytes }, rest))
}

/// A number in groups of seven bits, least first.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7F).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{build_points, points_rows, view};
    use crate::{GenerationWriter, TenantId, WriterLimits};
    use std::fs;

    #[test]
    fn every_flipped_bit_of_a_table_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = build_points(folder.path(), 1, 1).join("000001.sst");
        assert_eq!(find_damage(&path).unwrap(), None);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            assert!(find_damage(&path).unwrap().is_some(), "byte {at} of {}", whole.len());
        }
        for length in [0, 1, FOOTER_BYTES - 1, FOOTER_BYTES, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(find_damage(&path).unwrap().is_some(), "cut to {length}");
        }
    }

    #[test]
    fn a_table_of_many_blocks_has_a_packed_index() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("built");
        let limits = WriterLimits::default();
        let mut writer = GenerationWriter::create(&dir, &view(), TenantId(1), 1, 0, limits).unwrap();
        let names: Vec<_> = (0..50_000).map(|number| format!("user-{number:08}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        writer.append(&points_rows(&names, 0, 7)).unwrap();
        writer.finish().unwrap();
        let path = dir.join("000001.sst");
        assert_eq!(find_damage(&path).unwrap(), None);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 300) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert!(find_damage(&path).unwrap().is_some(), "byte {at} of {}", whole.len());
        }
    }

    #[test]
    fn numbers_of_any_length_are_read() {
        assert_eq!(varint(&[0x7F, 9]), Some((127, &[9][..])));
        assert_eq!(varint(&[0x80, 0x01]), Some((128, &[][..])));
        assert_eq!(varint(&[0x80; 3]), None);
        assert_eq!(varint(&[0x80; 20]), None);
    }
}
