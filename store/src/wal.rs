//! A look through RocksDB's write-ahead logs, and its manifest, which is a log too, before RocksDB reads them. A crash leaves at most the last
//! record torn, and RocksDB rightly drops it; but it also takes a record whose length is damaged for a torn one and silently drops all acknowledged
//! writes after it, and some damaged types make it read on forever. Here a log passes only if what cannot be read is its very end.
//!
//! Every write is synced before the next one is begun, so a record that begins after an unreadable one proves that the unreadable one had been
//! whole. What cannot be told from a torn end is damage to the length of the last record itself.
//!
//! The format: blocks of 32 KiB; records of CRC-32C (masked) u32, length u16, type u8 and bytes, little-endian; a record that does not fit into the
//! rest of a block is continued by others (First, Middle, Last); fewer than 7 bytes at a block's end are padding.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::Error;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;

/// The types that begin a write: all of it, or its first part.
const FULL: u8 = 1;
const FIRST: u8 = 2;
/// Types of log files that are used again, which ours never are. RocksDB reads them differently.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Checks the logs in a store's folder, and the manifest in force.
pub(crate) fn check_logs(store: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::disk("read", store))?,
    };
    let in_force = fs::read_to_string(store.join("CURRENT")).unwrap_or_default();
    for entry in entries {
        let path = entry.map_err(Error::disk("read", store))?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !is_log && path.file_name().is_none_or(|name| name != in_force.trim_end()) {
            continue;
        }
        match File::open(&path).and_then(find_damage) {
            Ok(None) => {}
            Ok(Some(at)) => {
                let name = path.file_name().unwrap_or_default().display();
                let reason = format!("{name} is damaged at byte {at}, and what comes after that would be lost");
                return Err(Error::damaged(store, reason));
            }
            // Another process has the store open, which RocksDB will say.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::disk("read", &path)(error)),
        }
    }
    Ok(())
}

/// Where a log is damaged, other than by a torn end.
pub(crate) fn find_damage(mut log: impl Read) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let (mut start, mut torn) = (0, None);
    loop {
        block.clear();
        log.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut rest = 0;
        if torn.is_none() {
            match walk(&block) {
                End::Whole => rest = block.len(),
                End::Torn(at) => (torn, rest) = (Some(start + at as u64), at + 1),
                End::Damaged(at) => return Ok(Some(start + at as u64)),
            }
        }
        if (rest..block.len()).any(|at| begins_write(&block[at..])) {
            return Ok(torn);
        }
        start += block.len() as u64;
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
    }
}

/// How a block ends.
enum End {
    Whole,
    /// There a record begins that the block does not hold all of.
    Torn(usize),
    /// There something lies that never was a record.
    Damaged(usize),
}

fn walk(block: &[u8]) -> End {
    let mut at = 0;
    while let Some(header) = block[at..].first_chunk::<HEADER_BYTES>() {
        let end = at + HEADER_BYTES + length(header);
        if *header == [0; HEADER_BYTES] && block[at..].iter().all(|byte| *byte == 0) {
            return End::Torn(at);
        }
        if RECYCLED.contains(&header[6]) {
            return End::Damaged(at);
        }
        if end > block.len() {
            return End::Torn(at);
        }
        if !is_whole(&block[at..end]) {
            return End::Damaged(at);
        }
        at = end;
    }
    End::Whole
}

/// Whether the bytes begin with a whole record that begins a write.
fn begins_write(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return false };
    let record = bytes.get(..HEADER_BYTES + length(header));
    matches!(header[6], FULL | FIRST) && record.is_some_and(is_whole)
}

fn length(header: &[u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_le_bytes([header[4], header[5]]))
}

fn is_whole(record: &[u8]) -> bool {
    let Some((stored, _)) = record.split_first_chunk() else { return false };
    u32::from_le_bytes(*stored) == sum(&record[6..])
}

/// The checksum of a record's type and bytes. Masked, because a log may hold checksums that are summed again.
fn sum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// A record as RocksDB writes it.
#[cfg(test)]
pub(crate) fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let summed = [&[kind], bytes].concat();
    [&sum(&summed).to_le_bytes()[..], &(bytes.len() as u16).to_le_bytes(), &summed].concat()
}

/// A log with the right checksum in each record that its first block holds.
#[cfg(test)]
pub(crate) fn with_right_sums(log: &[u8]) -> Vec<u8> {
    let mut log = log.to_vec();
    let mut at = 0;
    while let Some(header) = log[at..].first_chunk::<HEADER_BYTES>() {
        let end = at + HEADER_BYTES + length(header);
        if end > log.len().min(BLOCK_BYTES) {
            break;
        }
        let sum = sum(&log[at + 6..end]);
        log[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three blocks: one write that fills the first and goes on in the second, then small ones.
    fn log() -> Vec<u8> {
        let mut log = record(FIRST, &vec![7; BLOCK_BYTES - HEADER_BYTES]);
        log.extend(record(4, b"the end of the first write"));
        while log.len() < 2 * BLOCK_BYTES + 300 {
            let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
            match room {
                0..HEADER_BYTES => log.extend(vec![0; room]),
                _ => log.extend(record(FULL, &vec![log.len() as u8; 100.min(room - HEADER_BYTES)])),
            }
        }
        log
    }

    fn damage(log: &[u8]) -> Option<u64> {
        find_damage(log).unwrap()
    }

    #[test]
    fn a_log_may_end_anywhere_and_with_zeros() {
        let log = log();
        for length in (0..log.len()).filter(|length| length % 97 == 0 || length % BLOCK_BYTES < 40) {
            assert_eq!(damage(&log[..length]), None, "cut to {length}");
            assert_eq!(damage(&[&log[..length - length % BLOCK_BYTES], &vec![0; 50_000]].concat()), None);
        }
        assert_eq!(damage(&log), None);
    }

    #[test]
    fn a_changed_bit_is_found_unless_it_cannot_be_told_from_a_torn_end() {
        let log = log();
        let last = log.len() - HEADER_BYTES - 100;
        assert!(is_whole(&log[last..]));
        for at in (0..log.len()).filter(|at| at % 61 == 0 || at % BLOCK_BYTES < 400 || *at >= last) {
            for bit in 0..8 {
                let mut changed = log.clone();
                changed[at] ^= 1 << bit;
                let padding = log[at..].iter().take(HEADER_BYTES).all(|byte| *byte == 0);
                let length_of_last = (last + 4..last + 6).contains(&at);
                match damage(&changed) {
                    Some(found) => assert!(found <= at as u64, "bit {bit} of byte {at} was found at {found}"),
                    None => assert!(length_of_last || padding, "bit {bit} of byte {at}"),
                }
            }
        }
    }
}
