//! The bytes of a hot-set file.
//!
//! Keys come most recently used first, in blocks of [`BLOCK_ENTRIES`]; a reader that runs out of time has read the best. Within a block
//! they are sorted by view, tenant and entity, and each names only what it does not share with the one before: of a million entities such
//! as `user-00012345` each takes 6 bytes instead of 21, and a block is already in the order in which a store reads fastest.
//!
//! Layout, numbers little-endian: magic, version u16; blocks of count u32, body length u32, body; the number of entries u64; CRC-32 of all
//! that. A body is, per entry: the number of leading bytes shared with the entity before, or [`NEW_GROUP`], view u16, tenant u32 where
//! these differ; the number of further bytes less one; those bytes.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::Error;
use crate::hot_set::{HotSetEntry, MAX_HOT_SET_BYTES, MAX_HOT_SET_ENTRIES};
use crate::key::MAX_ENTITY_BYTES;
use crate::row::Damaged;
use crate::view::TenantId;

const MAGIC: [u8; 8] = *b"LARDERHS";
const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: u64 = 10;
/// The number of entries, the checksum.
const TRAILER_BYTES: u64 = 8 + 4;
pub(super) const BLOCK_ENTRIES: usize = 4096;
/// What an entry takes at most: its entity, and the bytes around it.
const MAX_BLOCK_BYTES: usize = BLOCK_ENTRIES * (MAX_ENTITY_BYTES + 8);
/// Stands in place of a number of shared bytes: view and tenant follow, and nothing is shared.
const NEW_GROUP: u8 = 255;

/// Why a file cannot be read on.
#[derive(Debug)]
pub(crate) enum Fault {
    Disk(io::Error),
    Damaged(String),
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> Error {
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
    pub(super) entries: u64,
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
