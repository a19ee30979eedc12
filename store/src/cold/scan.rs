//! Reading a whole cold file in order, for rewriting it. Unlike a lookup it reads in long strides, so a disk that turns runs at full speed.

use bytes::Bytes;

use crate::Error;
use crate::cold::file::{ColdFile, ColdReads};
use crate::cold::page::Page;

/// One row of a cold file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColdRow {
    pub(crate) entity: String,
    pub(crate) event_time_ms: i64,
    pub(crate) value: Bytes,
}

/// The rows of a file by ascending entity; after an error it ends.
pub(crate) struct ColdScan<'a> {
    file: &'a ColdFile,
    /// The page after `page`.
    next_page: usize,
    /// What the last read returned, where in the file that began, and the first page that is not in it.
    stored: Bytes,
    stored_from: u64,
    stored_until: usize,
    page: Page,
    position: usize,
}

impl ColdFile {
    /// All rows in order.
    pub(crate) fn scan(&self) -> ColdScan<'_> {
        ColdScan {
            file: self,
            next_page: 0,
            stored: Bytes::new(),
            stored_from: 0,
            stored_until: 0,
            page: Page::default(),
            position: 0,
        }
    }
}

impl ColdScan<'_> {
    fn next_row(&mut self) -> Result<Option<ColdRow>, Error> {
        let damaged = |reason: String| Error::damaged(self.file.path(), reason);
        loop {
            if let Some(record) = self.page.next_record(&mut self.position).map_err(damaged)? {
                let entity =
                    str::from_utf8(record.entity).map_err(|_| damaged("an entity is not UTF-8".to_string()))?;
                let value = self.page.share(record.value);
                return Ok(Some(ColdRow { entity: entity.to_string(), event_time_ms: record.event_time_ms, value }));
            }
            let pages = self.file.pages().len();
            if self.next_page == pages {
                return Ok(None);
            }
            if self.next_page == self.stored_until {
                let (range, count) = self.file.next_read(self.next_page..pages);
                self.stored = self.file.read_range(&range, &mut ColdReads::default())?;
                (self.stored_from, self.stored_until) = (range.start, self.next_page + count);
            }
            self.page = self.file.unpack(self.next_page, &self.stored, self.stored_from)?;
            (self.next_page, self.position) = (self.next_page + 1, 0);
        }
    }
}

impl Iterator for ColdScan<'_> {
    type Item = Result<ColdRow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if row.is_err() {
            (self.next_page, self.stored_until) = (self.file.pages().len(), 0);
            self.page = Page::default();
        }
        row.transpose()
    }
}
