//! The keys that `larder warm` is told of: from a hot-set file, a list or a log, a column of a CSV or Parquet file. Those that matter most come
//! first, so that what is left undone matters least.
//!
//! What kind a file is shows in its first bytes; CSV is told from a list by a column's being named.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use larder_store::{TenantId, read_hot_set};

use crate::warm_columns::csv_rows;
use crate::warm_columns::parquet_rows;
use crate::warm_ranking::{Gathered, Keys};

/// Longest line of a list or a log that is looked at; longer ones are counted as unusable.
const MAX_LINE_BYTES: usize = 64 << 10;

/// What to read of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// The column of a CSV or Parquet file that has the keys.
    pub(crate) column: Option<String>,
    /// The field of each line of a log, from 1; separated by white space.
    pub(crate) field: Option<usize>,
    /// Only so many keys, those with the greatest values in a column.
    pub(crate) top: Option<(usize, String)>,
}

/// Reads the keys of a tenant; a hot-set file names tenants, all others are of one.
pub(crate) fn read_keys(path: &Path, tenant: TenantId, selection: &Selection) -> Result<Keys> {
    let shown = path.display();
    let Selection { column, field, top } = selection;
    let kind = kind(path, column.is_some())?;
    let fits = match kind {
        Kind::HotSet => column.is_none() && field.is_none(),
        Kind::Parquet | Kind::Csv => field.is_none(),
        Kind::Lines => column.is_none(),
    };
    ensure!(fits, "{shown} is {}: --column is for CSV and Parquet files, --field for logs", kind.name());
    ensure!(
        top.is_none() || matches!(kind, Kind::Parquet | Kind::Csv),
        "{shown} is {}: it has no column to go --by",
        kind.name()
    );
    let read = match (kind, column) {
        (Kind::HotSet, _) => of_hot_set(path, tenant),
        (Kind::Lines, _) => of_lines(path, field.unwrap_or(0)),
        (Kind::Parquet, None) => bail!("{shown} is a Parquet file: say which column has the keys, with --column"),
        (_, column) => {
            let by = top.as_ref().map(|(_, by)| by.as_str());
            let name = column.as_deref().unwrap_or_default();
            let mut gathered = Gathered::new(top.as_ref().map(|(most, _)| *most));
            let mut take = |key: Option<&str>, value: Option<f64>| gathered.take(key, value);
            let rows = if kind == Kind::Csv { csv_rows } else { parquet_rows };
            rows(path, name, by, &mut take).and_then(|()| gathered.finish())
        }
    };
    let read = read.with_context(|| format!("cannot take keys from {shown}"))?;
    ensure!(
        !read.keys.is_empty(),
        "{shown} names no entity of this tenant ({} lines or rows without a key)",
        read.unusable
    );
    Ok(read)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    HotSet,
    Parquet,
    Csv,
    Lines,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::HotSet => "a hot-set file",
            Kind::Parquet => "a Parquet file",
            Kind::Csv => "read as CSV",
            Kind::Lines => "read line by line",
        }
    }
}

fn kind(path: &Path, has_column: bool) -> Result<Kind> {
    let mut first = Vec::new();
    let opened = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    opened.take(8).read_to_end(&mut first).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(match first.as_slice() {
        b"LARDERHS" => Kind::HotSet,
        magic if magic.starts_with(b"PAR1") => Kind::Parquet,
        _ if has_column => Kind::Csv,
        _ => Kind::Lines,
    })
}

/// In the order of the file: most recently used first.
fn of_hot_set(path: &Path, tenant: TenantId) -> Result<Keys> {
    let mut gathered = Gathered::new(None);
    for entry in read_hot_set(path)? {
        let entry = entry?;
        if entry.tenant == tenant && !gathered.knows(&entry.entity) {
            gathered.take(Some(&entry.entity), None)?;
        }
    }
    gathered.finish()
}

/// The line, or its field of that number; empty lines are passed over.
fn of_lines(path: &Path, field: usize) -> Result<Keys> {
    let mut gathered = Gathered::new(None);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        // What is longer is read on in pieces, and none of them is a key.
        let read = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return gathered.finish();
        }
        if read == MAX_LINE_BYTES && !line.ends_with(b"\n") {
            reader.skip_until(b'\n')?;
            gathered.pass_over();
            continue;
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            gathered.pass_over();
            continue;
        };
        let text = text.trim_end_matches(['\n', '\r']);
        match field {
            0 if text.is_empty() => {}
            0 => gathered.take(Some(text), None)?,
            field => gathered.take(text.split_whitespace().nth(field - 1), None)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    use larder_store::{HotSetEntry, write_hot_set};
    use parquet::arrow::ArrowWriter;
    use std::path::PathBuf;
    use std::sync::Arc;

    const TENANT: TenantId = TenantId(1);

    fn written(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn keys(path: &Path, selection: &Selection) -> Result<Vec<String>, String> {
        read_keys(path, TENANT, selection).map(|read| read.keys).map_err(|error| format!("{error:#}"))
    }

    fn top(most: usize, by: &str) -> Selection {
        Selection { column: Some("user_id".into()), top: Some((most, by.into())), field: None }
    }

    #[test]
    fn lists_and_logs_name_the_most_asked_first() {
        let folder = tempfile::tempdir().unwrap();
        let list = written(&folder, "keys.txt", "bob\r\n\nada lovelace\nzoë\nbob\n\u{7f}".as_bytes());
        assert_eq!(keys(&list, &Selection::default()).unwrap(), ["bob", "ada lovelace", "zoë", "\u{7f}"]);
        let log = written(&folder, "access.log", b"10:01 GET ada 200\n10:02 GET bob\n10:03\n\xff\n10:04 GET bob 500");
        let third = Selection { field: Some(3), ..Selection::default() };
        assert_eq!(
            read_keys(&log, TENANT, &third).unwrap(),
            Keys { keys: vec!["bob".into(), "ada".into()], unusable: 2 }
        );
        let long = format!("{}\nada\n{}\n", "x".repeat(3 * MAX_LINE_BYTES), "y".repeat(257));
        let long = written(&folder, "long.txt", long.as_bytes());
        assert_eq!(
            read_keys(&long, TENANT, &Selection::default()).unwrap(),
            Keys { keys: vec!["ada".into()], unusable: 2 }
        );
        let none = keys(&written(&folder, "none.txt", b"\n\n"), &Selection::default()).unwrap_err();
        assert!(none.ends_with("none.txt names no entity of this tenant (0 lines or rows without a key)"), "{none}");
        let absent = keys(&folder.path().join("absent"), &Selection::default()).unwrap_err();
        assert!(absent.contains("cannot read") && absent.contains("absent"), "{absent}");
    }

    #[test]
    fn a_hot_set_is_read_for_one_tenant_and_each_key_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hot-set");
        let entry =
            |view_id, tenant, entity: &str| HotSetEntry { view_id, tenant: TenantId(tenant), entity: entity.into() };
        let entries = [entry(1, 1, "ada"), entry(2, 1, "ada"), entry(1, 2, "eve"), entry(2, 1, "bob")];
        write_hot_set(&path, entries).unwrap();
        assert_eq!(keys(&path, &Selection::default()).unwrap(), ["ada", "bob"]);
        let refused = keys(&path, &top(1, "x")).unwrap_err();
        assert!(refused.contains("hot-set is a hot-set file: --column is for CSV and Parquet files"), "{refused}");
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[20] ^= 1;
        let refused = keys(&written(&folder, "damaged", &damaged), &Selection::default()).unwrap_err();
        assert!(refused.contains("cannot take keys from"), "{refused}");
    }

    #[test]
    fn columns_of_csv_and_parquet_files_are_ranked() {
        let folder = tempfile::tempdir().unwrap();
        let csv =
            written(&folder, "users.csv", b"id,user_id,orders\n1,ada,3\n2,bob,\n3,eve,20\n4,zoe,-1\n5,ada,25\n6,,9\n");
        assert_eq!(keys(&csv, &top(2, "orders")).unwrap(), ["ada", "eve"]);
        let all = Selection { column: Some("user_id".into()), ..Selection::default() };
        assert_eq!(read_keys(&csv, TENANT, &all).unwrap().unusable, 1);
        assert_eq!(keys(&csv, &all).unwrap(), ["ada", "bob", "eve", "zoe"]);
        let refused = keys(&csv, &top(2, "order")).unwrap_err();
        assert!(refused.contains("no column \"order\"; it has id, user_id, orders"), "{refused}");
        let refused = keys(&written(&folder, "bad.csv", b"user_id,orders\nada,many\n"), &top(1, "orders")).unwrap_err();
        assert!(refused.contains("row 1: \"many\" in column orders is no number"), "{refused}");

        let columns: [(&str, ArrayRef); 4] = [
            ("user_id", Arc::new(StringArray::from(vec![Some("ada"), None, Some("bob"), Some("eve"), Some("bob")]))),
            ("orders", Arc::new(Int64Array::from(vec![Some(1), Some(9), Some(2), None, Some(7)]))),
            ("spent", Arc::new(Float64Array::from(vec![1e300, 0.0, f64::NAN, -0.0, -5.0]))),
            ("seen", Arc::new(TimestampMicrosecondArray::from(vec![5, 4, 3, 2, 1]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let parquet = written(&folder, "users.parquet", &bytes);
        assert_eq!(keys(&parquet, &all).unwrap(), ["bob", "ada", "eve"]);
        assert_eq!(keys(&parquet, &top(1, "orders")).unwrap(), ["bob"]);
        assert_eq!(keys(&parquet, &top(9, "orders")).unwrap(), ["bob", "ada"]);
        assert_eq!(keys(&parquet, &top(9, "spent")).unwrap(), ["ada", "eve", "bob"]);
        assert_eq!(keys(&parquet, &top(2, "seen")).unwrap(), ["ada", "bob"]);
        let refused = keys(&parquet, &top(1, "user_id")).unwrap_err();
        assert!(refused.contains("column user_id is Utf8; --by takes numbers and times"), "{refused}");
        let refused = keys(&parquet, &Selection::default()).unwrap_err();
        assert!(refused.contains("say which column has the keys"), "{refused}");
        let cut = written(&folder, "cut.parquet", &bytes[..bytes.len() - 9]);
        assert!(keys(&cut, &all).unwrap_err().contains("cut.parquet"));
    }
}
