//! Cold files for the unit tests of the modules that read and write them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::basic::Compression;

use crate::cold::layout::Layout;
use crate::cold::writer::ColdWriter;

/// Rows by entity: event time and value.
pub(crate) type ColdRows = BTreeMap<String, (i64, Vec<u8>)>;

/// So small that a few rows make many pages and several row groups.
pub(crate) const SMALL: Layout = Layout { page_bytes: 256, group_bytes: 4096, codec: Compression::LZ4_RAW };

/// Rows of some 40 bytes with entities `user-00000`, `user-00002`, ...: the odd numbers are absent.
pub(crate) fn rows(count: usize) -> ColdRows {
    let row = |number: usize| {
        let value = format!("value {number} {}", "x".repeat(number % 50));
        (format!("user-{:05}", 2 * number), (number as i64 - 7, value.into_bytes()))
    };
    (0..count).map(row).collect()
}

/// Writes a file and returns its path.
pub(crate) fn write(folder: &Path, rows: &ColdRows, layout: Layout) -> PathBuf {
    let path = folder.join("cold.parquet");
    let mut writer = ColdWriter::create_with(&path, "view 1", layout).unwrap();
    for (entity, (event_time_ms, value)) in rows {
        writer.append(entity, *event_time_ms, value).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), rows.len() as u64);
    path
}
