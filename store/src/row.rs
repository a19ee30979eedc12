//! One row as bytes: schema fingerprint u32, event time i64, null bitmap, fixed part, variable part; numbers little-endian.
//!
//! A row is read in place: a reader looks at the feature it wants and allocates nothing. Bytes come from disk, so each length is
//! checked before it is used, and a row that lies about itself is an error, never a panic.

use std::borrow::Cow;

use crate::schema::{Projection, ROW_HEADER_BYTES, RowSchema, Slot};
use crate::view::FeatureType;

/// What is wrong with a stored row or value; the caller adds which key it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) &'static str);

/// A stored row seen through the features that a fetch wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    bytes: &'a [u8],
    projection: &'a Projection,
}

impl<'a> Row<'a> {
    /// The same for a caller that has not compared the fingerprints.
    #[cfg(test)]
    pub(crate) fn new(bytes: &'a [u8], projection: &'a Projection) -> Result<Row<'a>, Damaged> {
        if fingerprint(bytes)? != projection.fingerprint {
            return Err(Damaged("its schema fingerprint is not the expected one"));
        }
        Row::of_known_schema(bytes, projection)
    }

    /// Takes the row apart as far as its lengths are fixed; the caller has compared the fingerprints. Afterwards header, bitmap and fixed part
    /// are known to be there.
    #[inline]
    pub(crate) fn of_known_schema(bytes: &'a [u8], projection: &'a Projection) -> Result<Row<'a>, Damaged> {
        if bytes.len() < projection.variable_start {
            return Err(Damaged("shorter than its fixed part"));
        }
        Ok(Row { bytes, projection })
    }

    pub(crate) fn event_time_ms(&self) -> i64 {
        i64::from_le_bytes(self.fixed(4))
    }

    pub(crate) fn projection(&self) -> &'a Projection {
        self.projection
    }

    /// One byte of header, bitmap or fixed part.
    #[inline]
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    /// Where the wanted feature lies, unless it is null or unknown to this row's schema.
    #[inline]
    pub(crate) fn slot(&self, feature: usize) -> Option<&'a Slot> {
        let slot = self.projection.slots[feature].as_ref()?;
        let byte = self.bytes[ROW_HEADER_BYTES + slot.bit / 8];
        (byte >> (slot.bit % 8) & 1 == 1).then_some(slot)
    }

    /// `N` bytes of the fixed part; offsets come from the schema and lie before `variable_start`, which `new` has checked.
    #[inline]
    pub(crate) fn fixed<const N: usize>(&self, offset: usize) -> [u8; N] {
        fixed(self.bytes, offset)
    }

    /// The bytes of a text or list.
    #[inline]
    pub(crate) fn variable(&self, slot: &Slot) -> Result<&'a [u8], Damaged> {
        variable(self.bytes, self.projection.variable_start, slot)
    }
}

/// The schema fingerprint of a stored row.
#[inline]
pub(crate) fn fingerprint(row: &[u8]) -> Result<u32, Damaged> {
    row.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Damaged("shorter than a row header"))
}

/// The event time of a stored row, whatever its schema.
pub(crate) fn event_time_ms(row: &[u8]) -> Result<i64, Damaged> {
    match row.get(4..ROW_HEADER_BYTES).and_then(|bytes| bytes.first_chunk::<8>()) {
        Some(bytes) => Ok(i64::from_le_bytes(*bytes)),
        None => Err(Damaged("shorter than a row header")),
    }
}

impl RowSchema {
    /// The value that identifies an element of a `last_n` view, read from a row of this schema, whose feature number `feature` it is: the
    /// bytes that [`ElementKeys::push`](crate::encode::ElementKeys::push) made of it.
    pub(crate) fn element_key<'a>(&self, feature: usize, row: &'a [u8]) -> Result<Cow<'a, [u8]>, Damaged> {
        let slot = &self.slots[feature];
        if row.first_chunk::<4>() != Some(&self.fingerprint.to_le_bytes()) || row.len() < self.variable_start {
            return Err(Damaged("an element is not of its schema"));
        }
        if row[ROW_HEADER_BYTES + slot.bit / 8] >> (slot.bit % 8) & 1 == 0 {
            return Err(Damaged("an element key is null"));
        }
        let ordered = |number: i64| {
            let mut bytes = Vec::with_capacity(8);
            push_ordered(number, &mut bytes);
            Cow::Owned(bytes)
        };
        Ok(match slot.data_type {
            FeatureType::I32 => ordered(i64::from(i32::from_le_bytes(fixed(row, slot.offset)))),
            FeatureType::I64 => ordered(i64::from_le_bytes(fixed(row, slot.offset))),
            _ => Cow::Borrowed(variable(row, self.variable_start, slot)?),
        })
    }
}

#[inline]
fn fixed<const N: usize>(row: &[u8], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&row[offset..offset + N]);
    value
}

#[inline]
fn variable<'a>(row: &'a [u8], variable_start: usize, slot: &Slot) -> Result<&'a [u8], Damaged> {
    let end_at = |offset: usize| u32::from_le_bytes(fixed(row, offset)) as usize;
    let start = variable_start + slot.start.map_or(0, end_at);
    let end = variable_start + end_at(slot.offset);
    row.get(start..end).ok_or(Damaged("a text or list reaches past its end"))
}

/// Eight bytes that compare as the numbers do.
pub(crate) fn push_ordered(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&(number ^ i64::MIN).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Rows, column};
    use crate::test_rows::{self, TYPES, batch, encode_all};
    use crate::view::{FeatureConfig, ViewConfig};
    use proptest::prelude::*;

    /// A view with the features that `picks` choose, in that order.
    fn view(picks: &[usize]) -> ViewConfig {
        let features = picks.iter().enumerate();
        ViewConfig {
            features: features.map(|(index, pick)| FeatureConfig::new(format!("f{index}"), TYPES[*pick])).collect(),
            ..test_rows::view()
        }
    }

    fn projection(view: &ViewConfig, schema: &RowSchema) -> Projection {
        Projection::new(schema, schema, view.features.iter().map(|feature| feature.name.as_str()))
    }

    fn rows() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<u64>>)> {
        prop::collection::vec(0..TYPES.len(), 1..20).prop_flat_map(|picks| {
            let row = prop::collection::vec(any::<u64>(), picks.len());
            (Just(picks), prop::collection::vec(row, 1..8))
        })
    }

    proptest! {
        #[test]
        fn every_type_comes_back_as_it_went_in((picks, seeds) in rows()) {
            let view = view(&picks);
            let schema = RowSchema::new(&view.features);
            let batch = batch(&view, &seeds);
            let encoded = encode_all(&batch, &schema);
            let projection = projection(&view, &schema);
            let rows: Vec<_> = encoded.iter().map(|bytes| Some(Row::new(bytes, &projection).unwrap())).collect();
            for (row, seed) in rows.iter().zip(&seeds) {
                prop_assert_eq!(row.unwrap().event_time_ms(), seed[0] as i64);
            }
            for (index, feature) in view.features.iter().enumerate() {
                let read = column(&Rows::new(rows.clone()), index, feature.data_type).unwrap();
                prop_assert_eq!(&read, batch.column(2 + index), "{}", feature.data_type);
            }
        }

        #[test]
        fn a_damaged_row_is_an_error_or_other_values_but_never_a_panic(
            (picks, seeds) in rows(), cut in 0usize..200, flips in prop::collection::vec((0usize..200, any::<u8>()), 0..4)
        ) {
            let view = view(&picks);
            let schema = RowSchema::new(&view.features);
            let projection = projection(&view, &schema);
            let mut bytes = encode_all(&batch(&view, &seeds), &schema).swap_remove(0);
            let whole = bytes.len();
            bytes.truncate(cut.max(1));
            let length = bytes.len();
            for (at, value) in flips {
                bytes[at % length] = value;
            }
            let Ok(row) = Row::new(&bytes, &projection) else { return Ok(()) };
            prop_assert!(length >= schema.variable_start);
            for (index, feature) in view.features.iter().enumerate() {
                let _ = column(&Rows::new(vec![Some(row), None]), index, feature.data_type);
            }
            prop_assert!(length <= whole);
        }
    }

    #[test]
    fn a_row_of_another_schema_is_refused() {
        let (one, other) = (view(&[0]), view(&[1]));
        let schema = RowSchema::new(&one.features);
        let bytes = encode_all(&batch(&one, &[vec![1]]), &schema).swap_remove(0);
        let wrong = projection(&other, &RowSchema::new(&other.features));
        assert_eq!(Row::new(&bytes, &wrong).err(), Some(Damaged("its schema fingerprint is not the expected one")));
        assert!(Row::new(b"", &wrong).is_err());
    }

    #[test]
    fn a_text_that_is_cut_within_a_character_is_an_error() {
        let view = view(&[0]);
        let schema = RowSchema::new(&view.features);
        let mut bytes = encode_all(&batch(&view, &[vec![4]]), &schema).swap_remove(0);
        let last = bytes.len() - 3;
        bytes[last] = 0xFF;
        let projection = projection(&view, &schema);
        let row = Row::new(&bytes, &projection).unwrap();
        assert_eq!(
            column(&Rows::new(vec![Some(row)]), 0, FeatureType::Utf8).err(),
            Some(Damaged("a text is not UTF-8"))
        );
    }
}
