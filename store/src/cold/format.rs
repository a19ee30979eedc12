//! The layout of a cold file: an ordinary Parquet file with columns key, event_time and row, sorted by key, in which a reader that knows
//! the layout finds a row with one small read.
//!
//! ```text
//! "PAR1" | seal | row groups: key, event_time, row | directory | bloom filters | page indexes | footer | its length | "PAR1"
//!                                                   ^ the tail: read and checked whole when the file is opened
//! ```
//!
//! Three things are added to what every Parquet reader understands, and every Parquet reader passes over them:
//!
//! - `row` holds a *record*: the store's value bytes, then the entity, the event time and the entity's length again. So a lookup reads a page
//!   of `row` and nothing else. With the plain layout it would read a page of `key` first and then one of `row`, which on a spinning disk
//!   is twice the time. The price is the length of the entity and ten bytes for each row, before compression.
//! - The *directory* names each page of `row` with its first key and its checksum. The parquet crate writes no page checksums, and its
//!   page index cannot tell which keys a page of another column holds.
//! - The *seal* is written last, over zeros: how long the file is, where the tail begins, the tail's checksum. So a file that was cut
//!   short, never finished or damaged is known before any of its bytes is decoded.

use crate::row::Damaged;

/// Raised whenever an older reader could read a file wrongly.
pub(crate) const FORMAT: u32 = 1;

const PARQUET_MAGIC: [u8; 4] = *b"PAR1";
const SEAL_MAGIC: [u8; 8] = *b"LARDCOLD";

/// Bytes before the first row group: Parquet's magic and the seal.
pub(crate) const START_BYTES: usize = 40;

/// Largest tail that is written or read. It is in RAM while a file is opened.
pub(crate) const MAX_TAIL_BYTES: u64 = 1 << 30;

/// Bytes of a record beside its value and its entity.
const RECORD_END_BYTES: usize = 8 + 2;

/// What stands behind Parquet's magic: magic, format, file length, start and CRC-32 of the tail, CRC-32 of all bytes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) file_bytes: u64,
    pub(crate) tail_start: u64,
    pub(crate) tail_crc32: u32,
}

impl Seal {
    /// The first bytes of a finished file.
    pub(crate) fn encode(&self) -> [u8; START_BYTES] {
        let mut start = [0; START_BYTES];
        start[..4].copy_from_slice(&PARQUET_MAGIC);
        start[4..12].copy_from_slice(&SEAL_MAGIC);
        start[12..16].copy_from_slice(&FORMAT.to_le_bytes());
        start[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        start[24..32].copy_from_slice(&self.tail_start.to_le_bytes());
        start[32..36].copy_from_slice(&self.tail_crc32.to_le_bytes());
        let crc32 = crc32fast::hash(&start[..36]);
        start[36..].copy_from_slice(&crc32.to_le_bytes());
        start
    }

    /// Reads a file's first bytes; the error says what they are instead.
    pub(crate) fn decode(start: &[u8; START_BYTES]) -> Result<Seal, String> {
        if start[..4] != PARQUET_MAGIC {
            return Err("not a Parquet file".to_string());
        }
        if start[4..] == [0; START_BYTES - 4] {
            return Err("it was never finished".to_string());
        }
        if start[4..12] != SEAL_MAGIC {
            return Err("a Parquet file, but not one that the cold tier wrote".to_string());
        }
        if crc32fast::hash(&start[..36]).to_le_bytes() != start[36..] {
            return Err("its seal has another checksum than when it was written".to_string());
        }
        let mut rest = Fields(&start[12..]);
        match (rest.u32(), rest.u64(), rest.u64(), rest.u32()) {
            (Some(FORMAT), Some(file_bytes), Some(tail_start), Some(tail_crc32)) => {
                Ok(Seal { file_bytes, tail_start, tail_crc32 })
            }
            (format, ..) => Err(format!("format {} of cold files, this version reads {FORMAT}", format.unwrap_or(0))),
        }
    }
}

/// What one value of `row` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) entity: &'a [u8],
    pub(crate) event_time_ms: i64,
    pub(crate) value: &'a [u8],
}

impl<'a> Record<'a> {
    /// Appends the record; the writer has checked that the entity is at most [`MAX_ENTITY_BYTES`](crate::MAX_ENTITY_BYTES) long.
    pub(crate) fn push_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.value);
        out.extend_from_slice(self.entity);
        out.extend_from_slice(&self.event_time_ms.to_le_bytes());
        out.extend_from_slice(&(self.entity.len() as u16).to_le_bytes());
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Record<'a>, Damaged> {
        let split = || {
            let (rest, length) = bytes.split_last_chunk::<2>()?;
            let (rest, time) = rest.split_last_chunk::<8>()?;
            let (value, entity) = rest.split_at_checked(rest.len().checked_sub(u16::from_le_bytes(*length).into())?)?;
            Some(Record { entity, event_time_ms: i64::from_le_bytes(*time), value })
        };
        split().ok_or(Damaged("a record is shorter than it says"))
    }

    /// Bytes that [`push_to`](Record::push_to) appends.
    pub(crate) fn len(&self) -> usize {
        self.value.len() + self.entity.len() + RECORD_END_BYTES
    }
}

/// Little-endian numbers and byte strings, taken from the front as long as there are any.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for (entity, value) in [("ada", b"value".as_slice()), ("\0", b""), ("b", &[0; 300])] {
            let record = Record { entity: entity.as_bytes(), event_time_ms: -5, value };
            let mut bytes = Vec::new();
            record.push_to(&mut bytes);
            assert_eq!(bytes.len(), record.len());
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn a_record_that_is_too_short_is_an_error() {
        let mut bytes = Vec::new();
        Record { entity: b"ada", event_time_ms: 1, value: b"" }.push_to(&mut bytes);
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[bytes.len() - length..]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_seal_is_read_as_it_was_written_and_each_of_its_bytes_counts() {
        let seal = Seal { file_bytes: 1 << 40, tail_start: 7, tail_crc32: 9 };
        let start = seal.encode();
        assert_eq!(Seal::decode(&start), Ok(seal));
        for position in 0..START_BYTES {
            let mut damaged = start;
            damaged[position] ^= 0x10;
            assert!(Seal::decode(&damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let mut start = Seal { file_bytes: 1, tail_start: 1, tail_crc32: 1 }.encode();
        start[12] = 7;
        let crc32 = crc32fast::hash(&start[..36]);
        start[36..].copy_from_slice(&crc32.to_le_bytes());
        assert_eq!(Seal::decode(&start).unwrap_err(), "format 7 of cold files, this version reads 1");
    }
}
