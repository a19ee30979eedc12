//! From row bytes to Arrow columns, one column at a time, each value read where it lies in its row and as that row's schema stores it: the
//! rows of one column may be of several schemas, in which the feature is narrower, or missing.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, Float32Array, ListArray, PrimitiveArray, PrimitiveBuilder, StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};

use crate::row::{Damaged, Row};
use crate::schema::{Projection, ROW_HEADER_BYTES, Slot, fixed_bytes};
use crate::view::FeatureType;

/// The rows of a column. Nearly always all of them are there and of one schema; then where a feature lies is asked once for all of them.
pub(crate) struct Rows<'a> {
    rows: Vec<Option<Row<'a>>>,
    alike: Option<Alike<'a>>,
}

/// What rows of one schema have in common.
struct Alike<'a> {
    projection: &'a Projection,
    /// The null bitmap of them all: a bit is set where no row is null.
    never_null: Vec<u8>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(rows: Vec<Option<Row<'a>>>) -> Rows<'a> {
        let alike = Alike::of(&rows);
        Rows { rows, alike }
    }

    /// Where a feature lies in all of the rows; `None` when they differ or do not have it.
    fn slot(&self, feature: usize) -> Option<&'a Slot> {
        self.alike.as_ref()?.projection.slots[feature].as_ref()
    }

    /// Which rows have a value in `slot`, which is one of all rows; nothing when all of them have.
    fn nulls(&self, slot: &Slot) -> Option<NullBuffer> {
        let (byte, mask) = (slot.bit / 8, 1 << (slot.bit % 8));
        if self.alike.as_ref().is_some_and(|alike| alike.never_null[byte] & mask != 0) {
            return None;
        }
        let is_valid = |row: &Option<Row<'_>>| row.is_some_and(|row| row.byte(ROW_HEADER_BYTES + byte) & mask != 0);
        Some(NullBuffer::new(bits(self.rows.iter().map(is_valid))))
    }
}

impl<'a> Alike<'a> {
    fn of(rows: &[Option<Row<'a>>]) -> Option<Alike<'a>> {
        let projection = rows.first()?.as_ref()?.projection();
        let bits = projection.slots.iter().flatten().map(|slot| slot.bit);
        let mut never_null = vec![0xFF; bits.max().map_or(0, |bit| bit / 8 + 1)];
        for row in rows {
            let row = row.filter(|row| std::ptr::eq(row.projection(), projection))?;
            for (index, byte) in never_null.iter_mut().enumerate() {
                *byte &= row.byte(ROW_HEADER_BYTES + index);
            }
        }
        Some(Alike { projection, never_null })
    }
}

/// The column of wanted feature `feature` over `rows`; null where there is no row, or no value in it.
pub(crate) fn column(rows: &Rows<'_>, feature: usize, data_type: FeatureType) -> Result<ArrayRef, Damaged> {
    Ok(match data_type {
        FeatureType::Bool => {
            let slots = || rows.rows.iter().map(|row| slot(row, feature));
            let values = bits(slots().map(|found| found.is_some_and(|(row, slot)| row.fixed::<1>(slot.offset) != [0])));
            Arc::new(BooleanArray::new(values, nulls(slots().map(|found| found.is_some()))))
        }
        FeatureType::I32 => Arc::new(primitive::<Int32Type, 4>(rows, feature, i32::from_le_bytes, as_i32)),
        FeatureType::I64 => Arc::new(primitive::<Int64Type, 8>(rows, feature, i64::from_le_bytes, as_i64)),
        FeatureType::F32 => Arc::new(primitive::<Float32Type, 4>(rows, feature, f32::from_le_bytes, as_f32)),
        FeatureType::F64 => Arc::new(primitive::<Float64Type, 8>(rows, feature, f64::from_le_bytes, as_f64)),
        FeatureType::Timestamp => {
            let times = primitive::<TimestampMillisecondType, 8>(rows, feature, i64::from_le_bytes, as_i64);
            Arc::new(times.with_timezone("UTC"))
        }
        FeatureType::Utf8 => {
            let (values, offsets, nulls) = variable(rows, feature, 1)?;
            let text = StringArray::try_new(offsets, values.into(), nulls);
            Arc::new(text.map_err(|_| Damaged("a text is not UTF-8"))?)
        }
        FeatureType::ListF32 => {
            let (bytes, offsets, nulls) = variable(rows, feature, 4)?;
            let (floats, _) = bytes.as_chunks::<4>();
            let values = Float32Array::from_iter_values(floats.iter().map(|b| f32::from_le_bytes(*b)));
            list(Arc::new(values), DataType::Float32, offsets, nulls)?
        }
    })
}

/// A list column.
pub(crate) fn list(
    values: ArrayRef,
    value_type: DataType,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Damaged> {
    let field = Arc::new(Field::new_list_field(value_type, true));
    let list = ListArray::try_new(field, offsets, values, nulls);
    Ok(Arc::new(list.map_err(|_| Damaged("a list has the wrong length"))?))
}

#[inline]
fn slot<'r, 'a>(row: &'r Option<Row<'a>>, feature: usize) -> Option<(&'r Row<'a>, &'a Slot)> {
    let row = row.as_ref()?;
    row.slot(feature).map(|slot| (row, slot))
}

/// Numbers of `N` bytes: `read` where they are stored as declared, `convert` where that is not known.
fn primitive<T: ArrowPrimitiveType, const N: usize>(
    rows: &Rows<'_>,
    feature: usize,
    read: impl Fn([u8; N]) -> T::Native,
    convert: impl Fn(&Row<'_>, &Slot) -> T::Native,
) -> PrimitiveArray<T> {
    if let Some(slot) = rows.slot(feature).filter(|slot| fixed_bytes(slot.data_type) == N) {
        // A null is stored as zeros, so it is read like any other value.
        let value =
            |row: &Option<Row<'_>>| row.as_ref().map_or(T::Native::default(), |row| read(row.fixed(slot.offset)));
        let values: Vec<T::Native> = rows.rows.iter().map(value).collect();
        return PrimitiveArray::new(values.into(), rows.nulls(slot));
    }
    let mut builder = PrimitiveBuilder::with_capacity(rows.rows.len());
    for row in &rows.rows {
        builder.append_option(slot(row, feature).map(|(row, slot)| convert(row, slot)));
    }
    builder.finish()
}

#[inline]
fn as_i32(row: &Row<'_>, slot: &Slot) -> i32 {
    i32::from_le_bytes(row.fixed(slot.offset))
}

#[inline]
fn as_f32(row: &Row<'_>, slot: &Slot) -> f32 {
    f32::from_le_bytes(row.fixed(slot.offset))
}

/// An integer or a point in time. Nearly always it is stored as declared, so the question costs a branch that is always predicted.
#[inline]
fn as_i64(row: &Row<'_>, slot: &Slot) -> i64 {
    match slot.data_type {
        FeatureType::I32 => i64::from(as_i32(row, slot)),
        _ => i64::from_le_bytes(row.fixed(slot.offset)),
    }
}

#[inline]
fn as_f64(row: &Row<'_>, slot: &Slot) -> f64 {
    match slot.data_type {
        FeatureType::I32 => f64::from(as_i32(row, slot)),
        FeatureType::F32 => f64::from(as_f32(row, slot)),
        _ => f64::from_le_bytes(row.fixed(slot.offset)),
    }
}

type Variable = (Vec<u8>, OffsetBuffer<i32>, Option<NullBuffer>);

/// The bytes of a text or list column, one value after the other, with offsets counted in units of `width` bytes. Text is checked to be
/// UTF-8 once for the whole column, where the array is made.
fn variable(rows: &Rows<'_>, feature: usize, width: usize) -> Result<Variable, Damaged> {
    let mut bytes = Vec::with_capacity(rows.rows.len() * 16);
    let mut offsets: Vec<i32> = Vec::with_capacity(rows.rows.len() + 1);
    offsets.push(0);
    let mut append = |value: &[u8]| {
        bytes.extend_from_slice(value);
        let end = i32::try_from(bytes.len() / width);
        offsets.push(end.map_err(|_| Damaged("a column is larger than 2 GiB"))?);
        if value.len().is_multiple_of(width) { Ok(()) } else { Err(Damaged("a list of floats has a broken length")) }
    };
    let nulls = if let Some(slot) = rows.slot(feature) {
        // A null is stored as an empty value.
        for row in &rows.rows {
            append(row.as_ref().map_or(Ok(&[][..]), |row| row.variable(slot))?)?;
        }
        rows.nulls(slot)
    } else {
        let mut valid = Vec::with_capacity(rows.rows.len());
        for row in &rows.rows {
            let value = slot(row, feature).map(|(row, slot)| row.variable(slot)).transpose()?;
            append(value.unwrap_or_default())?;
            valid.push(value.is_some());
        }
        nulls(valid.into_iter())
    };
    // Offsets only grow, so the checks of `new` hold.
    Ok((bytes, OffsetBuffer::new(ScalarBuffer::from(offsets)), nulls))
}

/// Validity of a column; nothing when all of it is valid.
pub(crate) fn nulls(valid: impl ExactSizeIterator<Item = bool>) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(bits(valid));
    (nulls.null_count() > 0).then_some(nulls)
}

/// Bits one after the other. Arrow's own builders ask for memory of a greater alignment, for which allocators go a long way.
fn bits(values: impl ExactSizeIterator<Item = bool>) -> BooleanBuffer {
    let length = values.len();
    let mut words = vec![0u64; length.div_ceil(64)];
    for (index, value) in values.enumerate() {
        words[index / 64] |= u64::from(value) << (index % 64);
    }
    BooleanBuffer::new(Buffer::from_vec(words), 0, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::StoredSchema;
    use crate::schema::{Projection, RowSchema, cannot_serve};
    use crate::test_rows::{self, TYPES, batch, encode_all};
    use crate::view::{FeatureConfig, ViewConfig};
    use arrow::array::new_null_array;
    use arrow::compute::{cast, interleave};
    use proptest::prelude::*;

    /// Rows written under each version.
    const ROWS: usize = 3;

    /// The features of a view at one time. A number says which of them are the same feature at different times.
    type Version = Vec<(usize, FeatureConfig)>;

    /// What may be done to a declaration. Positions count modulo the number of features.
    #[derive(Debug, Clone)]
    enum Change {
        Add(usize, FeatureType),
        Remove(usize),
        Rename(usize),
        Widen(usize, FeatureType),
        Swap(usize, usize),
    }

    fn widens(from: FeatureType, to: FeatureType) -> bool {
        use FeatureType::{F32, F64, I32, I64};
        matches!((from, to), (I32, I64) | (I32, F64) | (F32, F64))
    }

    /// The declaration after a change; `fresh` is a number that names no feature yet.
    fn changed(mut version: Version, change: &Change, fresh: usize) -> Version {
        let count = version.len();
        match *change {
            Change::Add(at, data_type) => {
                version.insert(at % count, (fresh, FeatureConfig::new(format!("f{fresh}"), data_type)));
            }
            Change::Remove(at) if count > 1 => drop(version.remove(at % count)),
            Change::Remove(_) => (),
            Change::Rename(at) => {
                let feature = &mut version[at % count].1;
                let former = std::mem::replace(&mut feature.name, format!("f{fresh}"));
                feature.former_names.insert(0, former);
            }
            Change::Widen(at, to) => {
                // The next feature that can be widened so, if there is one.
                let next = (at..at + count).map(|at| at % count).find(|&at| widens(version[at].1.data_type, to));
                next.into_iter().for_each(|at| version[at].1.data_type = to);
            }
            Change::Swap(one, other) => version.swap(one % count, other % count),
        }
        version
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let wider = prop::sample::select(vec![FeatureType::I64, FeatureType::F64]);
        prop_oneof![
            (any::<usize>(), prop::sample::select(TYPES.to_vec()))
                .prop_map(|(at, data_type)| Change::Add(at, data_type)),
            any::<usize>().prop_map(Change::Remove),
            any::<usize>().prop_map(Change::Rename),
            (0usize..100, wider).prop_map(|(at, to)| Change::Widen(at, to)),
            (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Change::Swap(one, other)),
        ]
    }

    /// All versions of a view, each with its rows as a batch and as bytes.
    struct Written {
        version: Version,
        view: ViewConfig,
        schema: RowSchema,
        batch: arrow::array::RecordBatch,
        rows: Vec<Vec<u8>>,
    }

    fn write(version: Version, mut seed: u64) -> Written {
        let features = version.iter().map(|(_, feature)| feature.clone()).collect();
        let view = ViewConfig { features, ..test_rows::view() };
        view.validate().unwrap();
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 16
        };
        let seeds: Vec<Vec<u64>> = (0..ROWS).map(|_| version.iter().map(|_| next()).collect()).collect();
        let schema = RowSchema::new(&view.features);
        let batch = batch(&view, &seeds);
        let rows = encode_all(&batch, &schema);
        Written { version, view, schema, batch, rows }
    }

    fn stored(view: &ViewConfig) -> StoredSchema {
        let ViewConfig { kind, n, element_key, features, .. } = view.clone();
        StoredSchema { fingerprint: 0, kind, n, element_key, features }
    }

    proptest! {
        /// The model knows which features are the same and lets Arrow convert them; the store knows names only. Every version reads the
        /// rows of every other, mixed in one column, unless a type would have to narrow.
        #[test]
        fn rows_of_every_version_read_as_the_model_says(
            first in prop::collection::vec(prop::sample::select(TYPES.to_vec()), 1..10),
            changes in prop::collection::vec(any_change(), 0..10),
            seed in any::<u64>(),
        ) {
            let first = first.iter().enumerate();
            let first: Version = first.map(|(n, data_type)| (n, FeatureConfig::new(format!("f{n}"), *data_type))).collect();
            let mut versions = vec![first];
            for (step, change) in changes.iter().enumerate() {
                versions.push(changed(versions[step].clone(), change, 1000 + step));
            }
            let seeds = (0..).map(|number| seed.wrapping_add(number));
            let written: Vec<_> = versions.into_iter().zip(seeds).map(|(version, seed)| write(version, seed)).collect();

            for (now, declared) in written.iter().enumerate() {
                let same = |stored: &Written, number: usize| stored.version.iter().position(|(other, _)| *other == number);
                let narrows = |stored: &Written| declared.version.iter().any(|(number, feature)| {
                    let old = same(stored, *number).map(|at| stored.version[at].1.data_type);
                    old.is_some_and(|old| old != feature.data_type && !widens(old, feature.data_type))
                });
                let mut readable = Vec::new();
                for (then, stored_version) in written.iter().enumerate() {
                    let refused = cannot_serve(&stored(&stored_version.view), &declared.view);
                    prop_assert_eq!(refused.is_some(), narrows(stored_version), "{:?}", refused);
                    prop_assert!(then > now || refused.is_none());
                    if refused.is_none() {
                        readable.push(stored_version);
                    }
                }
                let names = || declared.version.iter().map(|(_, feature)| feature.name.as_str());
                let projections: Vec<_> =
                    readable.iter().map(|stored| Projection::new(&stored.schema, &declared.schema, names())).collect();
                let order: Vec<_> = (0..ROWS).flat_map(|row| (0..readable.len()).map(move |from| (from, row))).collect();
                let row = |&(from, row): &(usize, usize)| Row::new(&readable[from].rows[row], &projections[from]).ok();
                let rows: Vec<_> = order.iter().map(row).collect();
                prop_assert!(rows.iter().all(Option::is_some));
                for (index, (number, feature)) in declared.version.iter().enumerate() {
                    let wanted = feature.data_type.arrow_type();
                    let model: Vec<ArrayRef> = readable.iter().map(|stored| match same(stored, *number) {
                        Some(at) => cast(stored.batch.column(2 + at), &wanted).unwrap(),
                        None => new_null_array(&wanted, ROWS),
                    }).collect();
                    let model: Vec<_> = model.iter().map(|array| &**array).collect();
                    let read = column(&Rows::new(rows.clone()), index, feature.data_type).unwrap();
                    prop_assert_eq!(&read, &interleave(&model, &order).unwrap());
                }
            }
        }
    }
}
