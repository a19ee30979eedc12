//! One page of rows: checked against its checksum, unpacked by the parquet crate, and walked record by record.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page as ParquetPage, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::serialized_reader::SerializedPageReader;

use crate::cold::directory::PageEntry;
use crate::cold::format::Record;

/// The records of one page, one after the other: a length u32 and so many bytes.
#[derive(Debug, Default)]
pub(crate) struct Page {
    values: Bytes,
}

impl Page {
    /// Unpacks a page whose bytes on disk are `stored`. Nothing is decoded before the checksum is right, so damage cannot make the decoder
    /// panic or ask for memory; the error says what is wrong.
    pub(crate) fn unpack(stored: Bytes, entry: &PageEntry, codec: &PageCodec) -> Result<Page, String> {
        let fault = |what: &str| format!("the page at byte {} {what}", entry.offset);
        if crc32fast::hash(&stored) != entry.crc32 {
            return Err(fault("has another checksum than when it was written"));
        }
        match guarded(|| codec.unpack(stored, entry)) {
            Ok(Some(ParquetPage::DataPage { buf, num_values, encoding: Encoding::PLAIN, .. }))
                if num_values == entry.rows =>
            {
                Ok(Page { values: buf })
            }
            Ok(_) => Err(fault("is not laid out as a page of rows is")),
            Err(reason) => Err(fault(&format!("cannot be unpacked: {reason}"))),
        }
    }

    /// The record at `position`, which starts at 0 and is moved behind it; `None` behind the last one.
    pub(crate) fn next_record(&self, position: &mut usize) -> Result<Option<Record<'_>>, String> {
        let rest = self.values.get(*position..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let record = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = u32::from_le_bytes(*length) as usize;
            *position += 4 + length;
            rest.get(..length)
        });
        let record = record.ok_or_else(|| "a row reaches past the end of its page".to_string())?;
        Record::decode(record).map(Some).map_err(|damaged| damaged.0.to_string())
    }

    /// A part of a record as bytes that keep the page in memory; nothing is copied.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        self.values.slice_ref(part)
    }
}

/// How the pages of a file are unpacked: the metadata of a column chunk that begins at byte 0, since each page is handed over alone.
#[derive(Debug)]
pub(crate) struct PageCodec(ColumnChunkMetaData);

impl PageCodec {
    /// Takes type and compression from any column chunk of rows of the file.
    pub(crate) fn of(chunk: &ColumnChunkMetaData) -> Result<PageCodec, ParquetError> {
        let same = ColumnChunkMetaData::builder(chunk.column_descr_ptr());
        same.set_compression_codec(chunk.compression_codec()).set_data_page_offset(0).build().map(PageCodec)
    }

    fn unpack(&self, stored: Bytes, entry: &PageEntry) -> Result<Option<ParquetPage>, ParquetError> {
        let location = PageLocation { offset: 0, compressed_page_size: stored.len() as i32, first_row_index: 0 };
        let rows = entry.rows as usize;
        SerializedPageReader::new(stored.into(), &self.0, rows, Some(vec![location]))?.get_next_page()
    }
}

/// Runs a part of the parquet crate, some of whose decoders panic on bytes that nobody would write; that is an error here.
pub(crate) fn guarded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(_) => Err("its decoder panicked".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: &[&[u8]]) -> Page {
        let mut values = Vec::new();
        for record in records {
            values.extend_from_slice(&(record.len() as u32).to_le_bytes());
            values.extend_from_slice(record);
        }
        Page { values: values.into() }
    }

    #[test]
    fn records_are_walked_in_order() {
        let mut records = [Vec::new(), Vec::new()];
        Record { entity: b"ada", event_time_ms: 1, value: b"first" }.push_to(&mut records[0]);
        Record { entity: b"bob", event_time_ms: 2, value: b"" }.push_to(&mut records[1]);
        let page = page(&[&records[0], &records[1]]);
        let mut position = 0;
        assert_eq!(page.next_record(&mut position).unwrap().unwrap().value, b"first");
        let bob = page.next_record(&mut position).unwrap().unwrap();
        assert_eq!((bob.entity, bob.event_time_ms), (b"bob".as_slice(), 2));
        assert_eq!(page.share(bob.entity), b"bob".as_slice());
        assert_eq!(page.next_record(&mut position), Ok(None));
    }

    #[test]
    fn a_row_that_reaches_past_its_page_is_an_error() {
        for values in [[9, 0, 0, 0, 1].as_slice(), &[1, 0, 0], &[0xFF; 8], &[2, 0, 0, 0, 1, 1]] {
            let page = Page { values: Bytes::from_static(values) };
            assert!(page.next_record(&mut 0).is_err(), "{values:?}");
        }
    }

    #[test]
    fn a_decoder_that_panics_is_an_error() {
        let outcome: Result<(), String> = guarded(|| panic!("a test"));
        assert_eq!(outcome.unwrap_err(), "its decoder panicked");
    }
}
