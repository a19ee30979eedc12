//! The directory of a cold file: for each page of its rows where the page lies, its checksum and its first key. It is in RAM while the file
//! is open, and it alone says which page a key could be in.

use crate::cold::format::{Fields, START_BYTES};
use crate::key::MAX_ENTITY_BYTES;
use crate::row::Damaged;
use crate::writer::MAX_ROW_BYTES;

/// Largest page on disk: a page ends with the row that fills it, and a codec may add a little to what it cannot compress.
pub(crate) const MAX_PAGE_BYTES: u32 = 2 * MAX_ROW_BYTES as u32;

/// Bytes of an encoded page without its first key.
const ENTRY_BYTES: usize = 8 + 4 * 4 + 2;

/// A page of rows, header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageEntry {
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    pub(crate) rows: u32,
    pub(crate) crc32: u32,
    /// The row group it belongs to, whose filter speaks of its keys.
    pub(crate) group: u32,
}

impl PageEntry {
    /// Where the next page could begin.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }
}

/// All pages of a file, in the order of the file and so of their keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    pages: Vec<PageEntry>,
    /// The first keys of all pages, one after the other, and where each ends. One allocation, not one per page.
    keys: Vec<u8>,
    key_ends: Vec<u32>,
    last_key: Vec<u8>,
    rows: u64,
}

impl Directory {
    /// Adds the next page. Fails when its keys are no longer addressable, which is far beyond the largest tail.
    pub(crate) fn push(&mut self, page: PageEntry, first_key: &[u8], last_key: &[u8]) -> Result<(), Damaged> {
        self.keys.extend_from_slice(first_key);
        self.key_ends.push(u32::try_from(self.keys.len()).map_err(|_| Damaged("too many pages"))?);
        self.pages.push(page);
        self.last_key.clear();
        self.last_key.extend_from_slice(last_key);
        self.rows += u64::from(page.rows);
        Ok(())
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn pages(&self) -> &[PageEntry] {
        &self.pages
    }

    /// Row groups that the pages belong to.
    pub(crate) fn groups(&self) -> usize {
        self.pages.last().map_or(0, |page| page.group as usize + 1)
    }

    pub(crate) fn first_key(&self) -> &[u8] {
        if self.pages.is_empty() { &[] } else { self.key(0) }
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The one page that `key` could be in; `None` when it lies before the first key or behind the last one.
    pub(crate) fn page_of(&self, key: &[u8]) -> Option<usize> {
        if key > self.last_key.as_slice() {
            return None;
        }
        let (mut low, mut high) = (0, self.pages.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    /// Bytes of RAM that it occupies.
    pub(crate) fn resident_bytes(&self) -> usize {
        let per_page = size_of::<PageEntry>() * self.pages.capacity() + size_of::<u32>() * self.key_ends.capacity();
        per_page + self.keys.capacity() + self.last_key.capacity()
    }

    /// Count of pages u32, last key, then each page: offset, bytes, rows, CRC-32, group, first key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.keys.len() + self.pages.len() * ENTRY_BYTES);
        out.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        push_key(&mut out, &self.last_key);
        for (index, page) in self.pages.iter().enumerate() {
            out.extend_from_slice(&page.offset.to_le_bytes());
            for number in [page.bytes, page.rows, page.crc32, page.group] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            push_key(&mut out, self.key(index));
        }
        out
    }

    /// Reads a directory from the front of `tail`, which starts at `tail_start` of the file. Nothing in it is believed: afterwards pages lie
    /// between the seal and the tail, none overlaps another, and their keys ascend.
    pub(crate) fn decode(tail: &[u8], tail_start: u64) -> Result<Directory, Damaged> {
        let mut fields = Fields(tail);
        let cut_short = Damaged("its directory is cut short");
        let count = fields.u32().ok_or(cut_short)? as usize;
        if count == 0 {
            return Err(Damaged("it has no rows"));
        }
        let last_key = key_of(&mut fields)?;
        if fields.0.len() / ENTRY_BYTES < count {
            return Err(cut_short);
        }
        let mut directory = Directory::default();
        directory.pages.reserve_exact(count);
        directory.key_ends.reserve_exact(count);
        let (mut end, mut group, mut previous) = (START_BYTES as u64, 0u32, [].as_slice());
        for _ in 0..count {
            let page = page_of(&mut fields).ok_or(cut_short)?;
            let key = key_of(&mut fields)?;
            let page_end = page.offset.checked_add(u64::from(page.bytes));
            if page.bytes > MAX_PAGE_BYTES || page.offset < end || page_end.is_none_or(|end| end > tail_start) {
                return Err(Damaged("its directory names a page that cannot be there"));
            }
            if page.rows == 0 || !(group..=group.saturating_add(1)).contains(&page.group) || key <= previous {
                return Err(Damaged("its directory is not sorted"));
            }
            (end, group, previous) = (page.end(), page.group, key);
            directory.push(page, key, last_key)?;
        }
        if last_key < previous {
            return Err(Damaged("its directory is not sorted"));
        }
        directory.keys.shrink_to_fit();
        Ok(directory)
    }

    fn key(&self, page: usize) -> &[u8] {
        let start = page.checked_sub(1).map_or(0, |before| self.key_ends[before]);
        &self.keys[start as usize..self.key_ends[page] as usize]
    }
}

fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
}

fn key_of<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], Damaged> {
    let length = fields.u16().map(usize::from);
    let key = length.filter(|length| (1..=MAX_ENTITY_BYTES).contains(length)).and_then(|length| fields.bytes(length));
    key.ok_or(Damaged("its directory holds a key of a length that no key has"))
}

fn page_of(fields: &mut Fields<'_>) -> Option<PageEntry> {
    let (offset, bytes, rows) = (fields.u64()?, fields.u32()?, fields.u32()?);
    Some(PageEntry { offset, bytes, rows, crc32: fields.u32()?, group: fields.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pages in two groups, with the keys b to c, d to f, m to p.
    fn directory() -> Directory {
        let mut directory = Directory::default();
        let pages = [(40, 0, "b", "c"), (100, 0, "d", "f"), (200, 1, "m", "p")];
        for (offset, group, first, last) in pages {
            let page = PageEntry { offset, bytes: 60, rows: 2, crc32: 7, group };
            directory.push(page, first.as_bytes(), last.as_bytes()).unwrap();
        }
        directory
    }

    #[test]
    fn a_key_is_in_the_last_page_that_begins_at_or_before_it() {
        let directory = directory();
        let expected = [("a", None), ("b", Some(0)), ("cc", Some(0)), ("d", Some(1)), ("g", Some(1)), ("m", Some(2))];
        for (key, page) in expected {
            assert_eq!(directory.page_of(key.as_bytes()), page, "{key}");
        }
        assert_eq!(directory.page_of(b"p"), Some(2));
        assert_eq!(directory.page_of(b"pa"), None);
        assert_eq!((directory.rows(), directory.groups()), (6, 2));
        assert_eq!((directory.first_key(), directory.last_key()), (b"b".as_slice(), b"p".as_slice()));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut tail = directory().encode();
        tail.extend_from_slice(b"what follows it");
        assert_eq!(Directory::decode(&tail, 260).unwrap(), directory());
    }

    #[test]
    fn a_directory_that_lies_is_an_error() {
        let good = directory();
        assert!(Directory::decode(&good.encode(), 259).is_err(), "the last page reaches into the tail");
        assert!(Directory::decode(&good.encode(), 10).is_err());
        assert!(Directory::decode(&u32::MAX.to_le_bytes(), 260).is_err());
        assert!(Directory::decode(&Directory::default().encode(), 260).is_err());
        let edits: [fn(&mut Directory); 7] = [
            |d| d.pages[1].offset = 99,
            |d| d.pages[0].offset = 39,
            |d| d.pages[2].offset = u64::MAX,
            |d| d.pages[2].bytes = u32::MAX,
            |d| d.pages[1].rows = 0,
            |d| d.pages[1].group = 2,
            |d| d.keys[1] = b'b',
        ];
        for (number, edit) in edits.iter().enumerate() {
            let mut bad = directory();
            edit(&mut bad);
            assert!(Directory::decode(&bad.encode(), 260).is_err(), "edit {number}");
        }
        let encoded = good.encode();
        for length in 0..encoded.len() {
            assert!(Directory::decode(&encoded[..length], 260).is_err(), "{length} bytes");
        }
    }
}
