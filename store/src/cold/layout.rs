//! How the parquet crate is told to lay out a cold file: columns, pages, filters, and what each setting was measured to cost.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::cold::format::FORMAT;

/// Where a footer names the format, for readers other than ours.
const FORMAT_KEY: &str = "larder.cold.format";
/// Where a footer says whose rows the file holds.
const OWNER_KEY: &str = "larder.cold.owner";
const ROW_KEY: &str = "larder.cold.row";
const ROW_TEXT: &str = "value bytes, entity, event time as i64, bytes of the entity as u16; little-endian";

/// The columns. None is nullable, so a page holds its values and nothing else.
const SCHEMA: &str = "message larder_cold {
    REQUIRED BYTE_ARRAY key (STRING);
    REQUIRED INT64 event_time (TIMESTAMP(MILLIS, true));
    REQUIRED BYTE_ARRAY row;
}";
pub(crate) const KEY_COLUMN: usize = 0;
pub(crate) const ROW_COLUMN: usize = 2;

/// False positives of the filter, at most: of a hundred absent keys one costs a read. The sizes of Parquet's filters are powers of two, so
/// the true rate is lower by as much as a size is rounded up; in the measurement below it was 0.35 %.
const FILTER_FALSE_POSITIVES: f64 = 0.01;

/// What a writer may choose; a reader takes it from the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// A page of `row` is closed when it holds this many bytes before compression.
    pub(crate) page_bytes: usize,
    /// A row group is closed when its rows have this many bytes.
    pub(crate) group_bytes: usize,
    /// Codec of all columns.
    pub(crate) codec: Compression,
}

/// The layout of every file that the store writes. Measured with 10 M rows of 185 bytes (numbers, floats, a few words), 100 random keys,
/// everything in the page cache; always one read per found key:
///
/// ```text
/// page    codec  file      KiB per key  us per key  RAM per M keys
///  8 KiB  none   2103 MiB  8.3           2          2.8 MB
///  8 KiB  LZ4    1419 MiB  5.6           6          2.8 MB
///  8 KiB  ZSTD   1190 MiB  4.7          27          2.8 MB
/// 16 KiB  none   2094 MiB  16            3          2.2 MB
/// 16 KiB  LZ4    1386 MiB  11            6          2.2 MB
/// 16 KiB  ZSTD   1157 MiB  8.9          32          2.2 MB
/// 32 KiB  none   2089 MiB  32            3          1.9 MB
/// 32 KiB  LZ4    1368 MiB  21           12          1.9 MB
/// 32 KiB  ZSTD   1128 MiB  17           45          1.9 MB
/// ```
pub(crate) const LAYOUT: Layout = Layout { page_bytes: PAGE_BYTES, group_bytes: GROUP_BYTES, codec: CODEC };
/// Half of it would save 30 us of a disk's 10 ms and cost a quarter more RAM; twice of it costs twice the time in the processor.
const PAGE_BYTES: usize = 16 << 10;
/// A third smaller than without; ZSTD saves another sixth, for five times the work per key.
const CODEC: Compression = Compression::LZ4_RAW;
/// A group is in memory while it is written, once as rows and once as pages. Larger ones would save nothing: neither the directory nor the
/// filters grow with their number.
const GROUP_BYTES: usize = 16 << 20;

impl Layout {
    /// Properties of the columns key and event_time, which the store itself never reads: laid out for those who scan them.
    pub(crate) fn file_properties(self, owner: &str) -> WriterPropertiesPtr {
        let format = KeyValue::new(FORMAT_KEY.to_string(), FORMAT.to_string());
        let owner = KeyValue::new(OWNER_KEY.to_string(), owner.to_string());
        let row = KeyValue::new(ROW_KEY.to_string(), ROW_TEXT.to_string());
        let (key, event_time) = (ColumnPath::from("key"), ColumnPath::from("event_time"));
        let sorted = SortingColumn { column_idx: KEY_COLUMN as i32, descending: false, nulls_first: false };
        let properties = WriterProperties::builder()
            .set_created_by(concat!("larder-store ", env!("CARGO_PKG_VERSION")).to_string())
            .set_key_value_metadata(Some(vec![format, owner, row]))
            .set_sorting_columns(Some(vec![sorted]))
            .set_compression(self.codec)
            .set_dictionary_enabled(false)
            .set_column_encoding(key.clone(), Encoding::DELTA_BYTE_ARRAY)
            .set_column_encoding(event_time, Encoding::DELTA_BINARY_PACKED)
            .set_column_bloom_filter_fpp(key, FILTER_FALSE_POSITIVES)
            // In the tail, so that opening a file reads them with everything else.
            .set_bloom_filter_position(BloomFilterPosition::End);
        Arc::new(properties.build())
    }

    /// Properties of the column row: plain values in small pages, without statistics, which would repeat whole rows.
    pub(crate) fn row_properties(self) -> WriterPropertiesPtr {
        let properties = WriterProperties::builder()
            .set_compression(self.codec)
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::PLAIN)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_data_page_size_limit(self.page_bytes)
            .set_data_page_row_count_limit(usize::MAX)
            // Looks at the size of a page after each row.
            .set_write_batch_size(1);
        Arc::new(properties.build())
    }
}

/// The three columns.
pub(crate) fn schema() -> Result<TypePtr, ParquetError> {
    parse_message_type(SCHEMA).map(Arc::new)
}

/// True when a footer's metadata names this format.
pub(crate) fn names_format(metadata: &[KeyValue]) -> bool {
    let ours = FORMAT.to_string();
    metadata.iter().any(|entry| entry.key == FORMAT_KEY && entry.value.as_ref() == Some(&ours))
}

/// Whose rows the file holds.
pub(crate) fn owner(metadata: &[KeyValue]) -> Option<String> {
    metadata.iter().find(|entry| entry.key == OWNER_KEY)?.value.clone()
}
