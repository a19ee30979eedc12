//! The value of a `last_n` key: count u32, the end of each element u32, then the element rows, newest first; little-endian, ends count
//! from the first row. All elements of an entity are one value, so that a fetch finds them with one key.

use crate::row::Damaged;
use crate::view::MAX_N;

/// Appends a value that holds `rows`, newest first.
pub(crate) fn encode<'a>(rows: impl ExactSizeIterator<Item = &'a [u8]> + Clone, out: &mut Vec<u8>) {
    out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    let mut end = 0u32;
    for row in rows.clone() {
        end += row.len() as u32;
        out.extend_from_slice(&end.to_le_bytes());
    }
    for row in rows {
        out.extend_from_slice(row);
    }
}

/// The element rows of a value, newest first, read in place.
pub(crate) struct Elements<'a> {
    ends: &'a [u8],
    rows: &'a [u8],
    start: usize,
}

impl<'a> Elements<'a> {
    /// Checks count and table of ends; each element's own length is checked as it is read.
    pub(crate) fn new(value: &'a [u8]) -> Result<Elements<'a>, Damaged> {
        let Some((count, rest)) = value.split_first_chunk::<4>() else {
            return Err(Damaged("shorter than its element count"));
        };
        let count = u32::from_le_bytes(*count);
        if count == 0 || count > MAX_N {
            return Err(Damaged("its element count is not allowed"));
        }
        match rest.split_at_checked(count as usize * 4) {
            Some((ends, rows)) => Ok(Elements { ends, rows, start: 0 }),
            None => Err(Damaged("shorter than its table of elements")),
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        let (end, rest) = self.ends.split_first_chunk::<4>()?;
        let end = u32::from_le_bytes(*end) as usize;
        let row = self.rows.get(self.start..end);
        self.ends = rest;
        self.start = end;
        Some(row.ok_or(Damaged("an element reaches past its end")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_in_order() {
        let rows: [&[u8]; 3] = [b"new", b"", b"old row"];
        let mut value = Vec::new();
        encode(rows.iter().copied(), &mut value);
        let read: Vec<_> = Elements::new(&value).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, rows);
    }

    #[test]
    fn a_damaged_value_is_an_error() {
        let mut value = Vec::new();
        encode([b"abc".as_slice(), b"de"].into_iter(), &mut value);
        for length in 0..value.len() {
            let outcome = Elements::new(&value[..length]).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
            assert!(outcome.is_err(), "{length} bytes were accepted");
        }
        let mut lying = value.clone();
        lying[4] = 200;
        assert!(Elements::new(&lying).unwrap().any(|row| row.is_err()));
        lying[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Elements::new(&lying).is_err());
    }
}
