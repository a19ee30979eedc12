//! Columns that stand in the names of folders, as Hive, Spark and others write them: `day=2026-01-02/part-0.parquet`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, UInt32Array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use larder_store::FeatureType;

use crate::convert::Wanted;

/// How null is written in a folder's name.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns in the folders of a path below a source, and their values; `None` is null. The file's own name is none.
pub(crate) fn partitions(relative: &str) -> Vec<(String, Option<String>)> {
    let folders = relative.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs.map(|(name, value)| (unescape(name), (value != NULL).then(|| unescape(value)))).collect()
}

/// One row of a partition's value, of the type that the view declares.
pub(crate) fn value(text: Option<&str>, wanted: Wanted) -> Result<ArrayRef, String> {
    let target = match wanted {
        Wanted::Entity => DataType::Utf8,
        Wanted::Feature(FeatureType::ListF32) => return Err("a folder's name holds no list".to_owned()),
        // Arrow knows zones by their offsets only, without a table of their names.
        Wanted::Feature(FeatureType::Timestamp) => DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())),
        Wanted::Feature(data_type) => data_type.arrow_type(),
    };
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let strictly = CastOptions { safe: false, ..CastOptions::default() };
    let text = text.unwrap_or_default();
    let refused = |_| format!("the folder says {text:?}, which is no {}", wanted.name());
    let value = cast_with_options(&column, &target, &strictly).map_err(refused)?;
    Ok(match value.as_primitive_opt::<TimestampMillisecondType>() {
        Some(times) => Arc::new(times.clone().with_timezone("UTC")),
        None => value,
    })
}

/// The one row, `rows` times.
pub(crate) fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef, String> {
    take(value, &UInt32Array::from(vec![0; rows]), None).map_err(|error| error.to_string())
}

/// Undoes %3A and the like; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        // A number may have a sign, an escape may not.
        let digits = after.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = &after[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;
    use arrow::datatypes::Int32Type;

    #[test]
    fn folders_name_columns_and_files_do_not() {
        let found = partitions("shop/day=2026-01-02/at=10%3A00/none=__HIVE_DEFAULT_PARTITION__/a=b.parquet");
        let expected = [("day", Some("2026-01-02")), ("at", Some("10:00")), ("none", None)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(found, expected);
        assert!(partitions("x.parquet").is_empty());
        assert_eq!(unescape("100%/%zz%é%e4"), "100%/%zz%é%e4", "what is no escape, or no text afterwards");
        assert_eq!(unescape("%+5%-1% 7%41"), "%+5%-1% 7A", "no digits");
    }

    #[test]
    fn values_take_the_declared_type_or_are_refused() {
        let number = value(Some("-7"), Wanted::Feature(FeatureType::I32)).unwrap();
        let number = repeated(&number, 3).unwrap();
        assert_eq!(number.as_primitive::<Int32Type>().values(), &[-7, -7, -7]);
        for (text, ms) in
            [("1970-01-03", 172_800_000), ("1970-01-01 00:00:01", 1_000), ("1970-01-01T01:00:00+01:00", 0)]
        {
            let time = value(Some(text), Wanted::Feature(FeatureType::Timestamp)).unwrap();
            assert_eq!(time.as_primitive::<TimestampMillisecondType>().value(0), ms, "{text}");
            assert_eq!(time.data_type(), &FeatureType::Timestamp.arrow_type());
        }
        assert!(value(None, Wanted::Feature(FeatureType::F64)).unwrap().is_null(0));
        let refused = value(Some("2147483648"), Wanted::Feature(FeatureType::I32)).unwrap_err();
        assert_eq!(refused, "the folder says \"2147483648\", which is no i32");
        assert!(value(Some("soon"), Wanted::Feature(FeatureType::Timestamp)).is_err());
        assert!(value(Some("1"), Wanted::Feature(FeatureType::ListF32)).is_err());
    }
}
