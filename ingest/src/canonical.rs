//! Record batches that come from elsewhere, as the batches of a view: columns are matched by name and converted by the same rules as those of a
//! snapshot's files.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use larder_store::{FeatureType, ViewConfig};

use crate::Error;
use crate::convert::Wanted;

/// How the columns of a schema become those of a view.
#[derive(Debug, Clone)]
pub struct Canonical {
    schema: SchemaRef,
    /// For each of its columns the position in the foreign schema; none where a deletion names no element.
    columns: Vec<(Option<usize>, Wanted)>,
}

impl Canonical {
    /// For rows of a view: every column must be there, by its name or a former one. Further columns are left out.
    ///
    /// # Errors
    /// [`Error::FixRequest`] names the column, what was found and what is expected.
    pub fn of_rows(view: &ViewConfig, found: &Schema) -> Result<Canonical, Error> {
        let mut columns = keys(view, found)?;
        for feature in &view.features {
            let names = std::iter::once(&feature.name).chain(&feature.former_names);
            let names: Vec<&str> = names.map(String::as_str).collect();
            let wanted = Wanted::Feature(feature.data_type);
            columns.push((Some(find(view, found, &names, wanted)?), wanted));
        }
        Ok(Canonical { schema: view.arrow_schema(), columns })
    }

    /// For deletions in a view: entity, event time, and in a history the element key, without which all elements are deleted.
    ///
    /// # Errors
    /// [`Error::FixRequest`] names the column, what was found and what is expected.
    pub fn of_deletions(view: &ViewConfig, found: &Schema) -> Result<Canonical, Error> {
        let mut columns = keys(view, found)?;
        let element = view.features.iter().find(|feature| Some(&feature.name) == view.element_key.as_ref());
        if let Some(feature) = element {
            let names = std::iter::once(&feature.name).chain(&feature.former_names);
            let names: Vec<&str> = names.map(String::as_str).collect();
            let wanted = Wanted::Feature(feature.data_type);
            let named = found.fields().iter().any(|field| names.contains(&field.name().as_str()));
            columns.push((if named { Some(find(view, found, &names, wanted)?) } else { None }, wanted));
        }
        Ok(Canonical { schema: view.deletion_schema(), columns })
    }

    /// The view's batch of a batch of the schema that this was made for.
    ///
    /// # Errors
    /// [`Error::FixRequest`] names column and row: a key that is null, a value out of range, or more than `max_bytes` of text where few bytes
    /// stand for many.
    pub fn convert(&self, batch: &RecordBatch, max_bytes: usize) -> Result<RecordBatch, Error> {
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut left = max_bytes;
        for ((position, wanted), field) in self.columns.iter().zip(self.schema.fields()) {
            let column = match position {
                Some(position) => convert(batch.column(*position), *wanted, field, left)?,
                None => new_null_array(field.data_type(), batch.num_rows()),
            };
            left = left.saturating_sub(column.to_data().get_slice_memory_size().unwrap_or(0));
            columns.push(column);
        }
        let wrong = |error: arrow::error::ArrowError| Error::FixRequest(error.to_string());
        RecordBatch::try_new(self.schema.clone(), columns).map_err(wrong)
    }
}

/// The entity keys of a batch: of the column of that name, or, without one, of its only column.
///
/// # Errors
/// [`Error::FixRequest`] where there is no such column, or it holds no keys.
pub fn entities(batch: &RecordBatch, column: Option<&str>, max_bytes: usize) -> Result<StringArray, Error> {
    let schema = batch.schema_ref();
    let position = match column {
        Some(name) => schema.index_of(name).map_err(|_| {
            Error::FixRequest(format!("there is no column {name} with the keys; the columns are {}", names_of(schema)))
        })?,
        None if batch.num_columns() == 1 => 0,
        None => {
            let names = names_of(schema);
            return Err(Error::FixRequest(format!(
                "one column of keys is expected, or the name of one; the columns are {names}"
            )));
        }
    };
    let field = &schema.fields()[position];
    if !Wanted::Entity.accepts(field.data_type()) {
        let (name, found) = (field.name(), field.data_type());
        let accepted = Wanted::Entity.accepted();
        return Err(Error::FixRequest(format!("column {name} is {found}, keys are {accepted}")));
    }
    let target = Arc::new(field.as_ref().clone().with_nullable(false));
    Ok(convert(batch.column(position), Wanted::Entity, &target, max_bytes)?.as_string::<i32>().clone())
}

fn keys(view: &ViewConfig, found: &Schema) -> Result<Vec<(Option<usize>, Wanted)>, Error> {
    let time = Wanted::Feature(FeatureType::Timestamp);
    let entity = find(view, found, &[&view.entity_key], Wanted::Entity)?;
    Ok(vec![(Some(entity), Wanted::Entity), (Some(find(view, found, &[&view.event_time], time)?), time)])
}

/// The position of the column of the first of these names that is there.
fn find(view: &ViewConfig, found: &Schema, names: &[&str], wanted: Wanted) -> Result<usize, Error> {
    let position = wanted.find(view, found, names).map_err(Error::FixRequest)?;
    position.ok_or_else(|| {
        let (name, kind) = (names.first().copied().unwrap_or_default(), wanted.name());
        let columns = names_of(found);
        Error::FixRequest(format!("column {name} ({kind}) of view {} is missing, there are {columns}", view.name))
    })
}

fn names_of(schema: &Schema) -> String {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).take(32).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn convert(column: &ArrayRef, wanted: Wanted, target: &FieldRef, max_bytes: usize) -> Result<ArrayRef, Error> {
    let name = target.name();
    let wrong = |reason: String| Error::FixRequest(format!("column {name}: {reason}"));
    match resolved_bytes(column) {
        Some(bytes) if bytes <= max_bytes => {}
        Some(bytes) => return Err(wrong(format!("its texts are {bytes} bytes, {max_bytes} are allowed at once"))),
        None => return Err(wrong("a dictionary of lists is not taken".to_owned())),
    }
    let converted = wanted.convert(column).map_err(wrong)?;
    if !target.is_nullable() && converted.null_count() > 0 {
        let row = (0..converted.len()).find(|row| converted.is_null(*row)).unwrap_or_default();
        return Err(wrong(format!("row {row} is null, which a key may not be")));
    }
    Ok(converted)
}

/// Bytes of a column of texts that refer to what is stored once, when each has its own; 0 for columns that hold what they say.
fn resolved_bytes(column: &ArrayRef) -> Option<usize> {
    match column.data_type() {
        DataType::Utf8View => Some(column.as_string_view().iter().flatten().map(str::len).sum()),
        DataType::Dictionary(_, value) => {
            let dictionary = column.as_any_dictionary();
            let values = dictionary.values();
            let length: Box<dyn Fn(usize) -> usize> = match value.as_ref() {
                DataType::Utf8 => Box::new(|at| values.as_string::<i32>().value(at).len()),
                DataType::LargeUtf8 => Box::new(|at| values.as_string::<i64>().value(at).len()),
                DataType::Utf8View => Box::new(|at| values.as_string_view().value(at).len()),
                value if value.is_primitive() || *value == DataType::Boolean => return Some(0),
                _ => return None,
            };
            if values.is_empty() {
                return Some(0);
            }
            let keys = dictionary.normalized_keys().into_iter().enumerate();
            Some(keys.filter(|(row, _)| column.is_valid(*row)).map(|(_, key)| length(key)).sum())
        }
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array, StringDictionaryBuilder, TimestampNanosecondArray};
    use arrow::datatypes::{Field, Int32Type, Int64Type, TimestampMillisecondType};
    use larder_store::{FeatureConfig, ViewKind};

    fn orders() -> ViewConfig {
        let mut paid = FeatureConfig::new("paid", FeatureType::I64);
        paid.former_names = vec!["total".to_owned()];
        ViewConfig {
            name: "orders".to_owned(),
            id: 1,
            kind: ViewKind::LastN,
            entity_key: "user".to_owned(),
            event_time: "at".to_owned(),
            ttl_s: None,
            n: Some(3),
            element_key: Some("order_id".to_owned()),
            features: vec![FeatureConfig::new("order_id", FeatureType::Utf8), paid],
        }
    }

    fn dictionary(values: &[&str]) -> ArrayRef {
        let mut builder = StringDictionaryBuilder::<Int32Type>::new();
        values.iter().for_each(|value| builder.append_value(value));
        Arc::new(builder.finish())
    }

    fn foreign() -> RecordBatch {
        let columns: [(&str, ArrayRef); 5] = [
            ("total", Arc::new(Int32Array::from(vec![Some(5), None]))),
            ("note", dictionary(&["x", "y"])),
            ("order_id", dictionary(&["a", "a"])),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![7_000_000, 8_000_000]))),
            ("user", Arc::new(Int64Array::from(vec![11, 12]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn columns_are_matched_by_name_and_converted() {
        let (view, batch) = (orders(), foreign());
        let rows = Canonical::of_rows(&view, &batch.schema()).unwrap().convert(&batch, 100).unwrap();
        assert_eq!(rows.schema(), view.arrow_schema());
        assert_eq!(rows["user"].as_string::<i32>().value(1), "12");
        assert_eq!(rows["at"].as_primitive::<TimestampMillisecondType>().values(), &[7, 8]);
        assert_eq!(rows["order_id"].as_string::<i32>().value(1), "a");
        assert_eq!(rows["paid"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(5), None]);

        let deletions = Canonical::of_deletions(&view, &batch.schema()).unwrap().convert(&batch, 100).unwrap();
        assert_eq!(deletions.schema(), view.deletion_schema());
        let whole = batch.project(&[3, 4]).unwrap();
        let deletions = Canonical::of_deletions(&view, &whole.schema()).unwrap().convert(&whole, 100).unwrap();
        assert_eq!(deletions["order_id"].null_count(), 2, "all elements");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_column() {
        let view = orders();
        let refused = |batch: &RecordBatch| {
            let canonical = Canonical::of_rows(&view, &batch.schema());
            canonical.and_then(|canonical| canonical.convert(batch, 100)).unwrap_err().to_string()
        };
        let missing = refused(&foreign().project(&[0, 2, 4]).unwrap());
        assert_eq!(missing, "column at (timestamp) of view orders is missing, there are total, order_id, user");
        let with = |name: &str, column: ArrayRef| {
            let batch = foreign();
            let (mut fields, mut columns) = (batch.schema().fields().to_vec(), batch.columns().to_vec());
            let at = batch.schema().index_of(name).unwrap();
            fields[at] = Arc::new(Field::new(name, column.data_type().clone(), true));
            columns[at] = column;
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
        };
        let wrong = refused(&with("total", dictionary(&["5", "6"])));
        assert!(wrong.contains("total is Dictionary(") && wrong.contains("expects i64"), "{wrong}");
        let null = refused(&with("user", Arc::new(Int64Array::from(vec![Some(1), None]))));
        assert_eq!(null, "column user: row 1 is null, which a key may not be");
        // Few bytes that stand for many.
        let long = "x".repeat(60);
        let large = refused(&with("order_id", dictionary(&[&long, &long])));
        // 32 of the 100 went to the columns before.
        assert!(large.contains("120 bytes, 68 are allowed"), "{large}");
    }

    #[test]
    fn keys_are_the_only_column_or_the_named_one() {
        let keys = |column| entities(&foreign(), column, 100).map(|keys| keys.value(0).to_owned());
        assert_eq!(keys(Some("user")).unwrap(), "11");
        assert!(keys(None).unwrap_err().to_string().contains("one column of keys is expected"));
        assert!(keys(Some("name")).unwrap_err().to_string().contains("no column name"));
        assert!(keys(Some("at")).unwrap_err().to_string().contains("keys are text or an integer"));
        assert_eq!(entities(&foreign().project(&[4]).unwrap(), None, 100).unwrap().len(), 2);
    }
}
