//! Unpacking a block that RocksDB compressed with LZ4: the unpacked length, and then LZ4's sequences of literals and copies. Only for checking
//! files, a block at a time, where the crate that Parquet files are read with would have to be trusted not to look past its input.

use crate::verify::table::varint;

/// Shortest copy; its length is stored less this.
const MIN_COPY: usize = 4;

/// The unpacked bytes; `None` when they are not what was packed, or more than `most`.
pub(super) fn unpack(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let (length, mut rest) = varint(packed)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= most)?;
    let mut out: Vec<u8> = Vec::with_capacity(length.min(packed.len().saturating_mul(255)));
    loop {
        let (token, after) = rest.split_first()?;
        let (literals, after) = stored_length(usize::from(token >> 4), after)?;
        let (literals, after) = after.split_at_checked(literals)?;
        out.extend_from_slice(literals);
        if after.is_empty() {
            return (out.len() == length).then_some(out);
        }
        let (distance, after) = after.split_first_chunk::<2>()?;
        let (copied, after) = stored_length(usize::from(token & 0xF), after)?;
        let start = out.len().checked_sub(usize::from(u16::from_le_bytes(*distance)))?;
        if start == out.len() || out.len() + copied + MIN_COPY > length {
            return None;
        }
        // A copy may overlap what it makes.
        for at in start..start + copied + MIN_COPY {
            out.push(out[at]);
        }
        rest = after;
    }
}

/// A length of fifteen or more goes on in further bytes, until one is not 255.
fn stored_length(first: usize, bytes: &[u8]) -> Option<(usize, &[u8])> {
    if first < 15 {
        return Some((first, bytes));
    }
    let more = bytes.iter().position(|byte| *byte != 255)?;
    Some((first + 255 * more + usize::from(bytes[more]), &bytes[more + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_and_copies_that_overlap_are_unpacked() {
        // "ab", then nine bytes from two before, then "c".
        assert_eq!(unpack(&[12, 0x25, b'a', b'b', 2, 0, 0x10, b'c'], 99).unwrap(), b"abababababac");
        assert_eq!(unpack(&[12, 0x25, b'a', b'b', 2, 0, 0x10, b'c'], 11), None);
        let long = [&[20, 0xF0, 5][..], &[7; 20]].concat();
        assert_eq!(unpack(&long, 99).unwrap(), [7; 20]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(unpacked) = unpack(&bytes, 1 << 16) {
                prop_assert!(unpacked.len() <= 1 << 16);
            }
        }
    }
}
