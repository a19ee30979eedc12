//! Which Parquet columns fit which feature types, and how they become the view's own. A conversion never loses anything but fractions of
//! a millisecond: integers and floats only widen, decimals keep every digit, text stays text, and what does not fit is refused before a row
//! is read.

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, FieldRef, Schema, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use larder_store::{FeatureType, ViewConfig};

const MS_PER_DAY: i64 = 86_400_000;
/// Digits of a decimal that the type holds whatever they are.
const I32_DIGITS: u8 = 9;
const I64_DIGITS: u8 = 18;
/// Digits of a decimal that a float gives back unchanged.
const F64_DIGITS: u8 = 15;

/// What a column is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The entity key, as text.
    Entity,
    /// A feature, or the event time.
    Feature(FeatureType),
}

impl Wanted {
    /// Whether a column of Arrow type `found` can be used.
    pub(crate) fn accepts(self, found: &DataType) -> bool {
        use DataType::{
            Boolean, Date32, Date64, Dictionary, FixedSizeList, Float16, Float32, Float64, Int8, Int16, Int32, Int64,
            LargeList, LargeUtf8, List, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
        };
        if let Dictionary(_, value) = found {
            return self.accepts(value);
        }
        if let Some((digits, scale)) = decimal(found) {
            return match self {
                Wanted::Entity => scale == 0,
                Wanted::Feature(FeatureType::I32) => scale == 0 && digits <= I32_DIGITS,
                Wanted::Feature(FeatureType::I64) => scale == 0 && digits <= I64_DIGITS,
                Wanted::Feature(FeatureType::F64) => scale >= 0 && digits <= F64_DIGITS,
                Wanted::Feature(_) => false,
            };
        }
        match self {
            Wanted::Entity => {
                matches!(found, Utf8 | LargeUtf8 | Utf8View | UInt64)
                    || Wanted::Feature(FeatureType::I64).accepts(found)
            }
            Wanted::Feature(FeatureType::Bool) => matches!(found, Boolean),
            Wanted::Feature(FeatureType::I32) => matches!(found, Int8 | Int16 | Int32 | UInt8 | UInt16),
            Wanted::Feature(FeatureType::I64) => {
                matches!(found, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32)
            }
            Wanted::Feature(FeatureType::F32) => matches!(found, Float16 | Float32),
            Wanted::Feature(FeatureType::F64) => {
                matches!(found, Float16 | Float32 | Float64 | Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32)
            }
            Wanted::Feature(FeatureType::Utf8) => matches!(found, Utf8 | LargeUtf8 | Utf8View),
            Wanted::Feature(FeatureType::Timestamp) => matches!(found, Timestamp(_, _) | Date32 | Date64),
            Wanted::Feature(FeatureType::ListF32) => match found {
                List(item) | LargeList(item) | FixedSizeList(item, _) => item.data_type() == &Float32,
                _ => false,
            },
        }
    }

    /// The position of the column that is meant, by the first of its names that is there, if one is; or what is wrong with it.
    pub(crate) fn find(self, view: &ViewConfig, found: &Schema, names: &[&str]) -> Result<Option<usize>, String> {
        let columns = |name: &str| {
            let named = move |(_, field): &(usize, &FieldRef)| field.name() == name;
            found.fields().iter().enumerate().filter(named).take(2).collect::<Vec<_>>()
        };
        let there = names.iter().map(|name| (*name, columns(name))).find(|(_, columns)| !columns.is_empty());
        let Some((name, columns)) = there else { return Ok(None) };
        let &[(position, field)] = columns.as_slice() else { return Err(format!("column {name} is there twice")) };
        if !self.accepts(field.data_type()) {
            let (kind, accepted, found) = (self.name(), self.accepted(), field.data_type());
            return Err(format!("column {name} is {found}, view {} expects {kind}, which takes {accepted}", view.name));
        }
        Ok(Some(position))
    }

    /// The types that `accepts` takes, for messages.
    pub(crate) fn accepted(self) -> &'static str {
        match self {
            Wanted::Entity => "text or an integer",
            Wanted::Feature(FeatureType::Bool) => "a boolean",
            Wanted::Feature(FeatureType::I32) => "an integer of at most 32 bits",
            Wanted::Feature(FeatureType::I64) => "an integer of at most 64 bits, signed",
            Wanted::Feature(FeatureType::F32) => "a 32-bit float",
            Wanted::Feature(FeatureType::F64) => {
                "a float, a decimal of at most 15 digits, or an integer of at most 32 bits"
            }
            Wanted::Feature(FeatureType::Utf8) => "text",
            Wanted::Feature(FeatureType::Timestamp) => "a timestamp or a date",
            Wanted::Feature(FeatureType::ListF32) => "a list of 32-bit floats",
        }
    }

    /// The view's name for the wanted type.
    pub(crate) fn name(self) -> String {
        match self {
            Wanted::Entity => "entity_key".to_string(),
            Wanted::Feature(data_type) => data_type.to_string(),
        }
    }

    /// Converts an accepted column. Fails for a value out of range, such as a date beyond the years that milliseconds reach.
    pub(crate) fn convert(self, column: &ArrayRef) -> Result<ArrayRef, String> {
        if let DataType::Dictionary(_, value) = column.data_type() {
            let plain = cast(column, value).map_err(|error| error.to_string())?;
            return self.convert(&plain);
        }
        let target = match self {
            Wanted::Entity => DataType::Utf8,
            Wanted::Feature(data_type) => data_type.arrow_type(),
        };
        if column.data_type() == &target {
            return Ok(ArrayRef::clone(column));
        }
        match self {
            Wanted::Feature(FeatureType::Timestamp) => milliseconds(column),
            _ => cast(column, &target).map_err(|error| error.to_string()),
        }
    }
}

/// Digits and digits behind the point of a decimal.
fn decimal(found: &DataType) -> Option<(u8, i8)> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    match found {
        Decimal32(digits, scale) | Decimal64(digits, scale) | Decimal128(digits, scale) | Decimal256(digits, scale) => {
            Some((*digits, *scale))
        }
        _ => None,
    }
}

/// A point in time of any unit as milliseconds UTC, rounded down. A time zone does not matter, Arrow holds the instant; a time without a
/// zone is taken as UTC.
fn milliseconds(column: &ArrayRef) -> Result<ArrayRef, String> {
    let times = match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => map::<TimestampSecondType>(column, |s| s.checked_mul(1000)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => map::<TimestampMillisecondType>(column, Some),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            map::<TimestampMicrosecondType>(column, |us| Some(us.div_euclid(1000)))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            map::<TimestampNanosecondType>(column, |ns| Some(ns.div_euclid(1_000_000)))
        }
        DataType::Date32 => map::<Date32Type>(column, |days| Some(i64::from(days) * MS_PER_DAY)),
        DataType::Date64 => map::<Date64Type>(column, Some),
        other => return Err(format!("{other} is no point in time")),
    };
    Ok(std::sync::Arc::new(times?.with_timezone("UTC")))
}

fn map<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    ms: impl Fn(T::Native) -> Option<i64>,
) -> Result<TimestampMillisecondArray, String> {
    let times: &PrimitiveArray<T> = column.as_primitive();
    times
        .try_unary(|time| ms(time).ok_or(arrow::error::ArrowError::ArithmeticOverflow(String::new())))
        .map_err(|_| "a time is too far from 1970 for milliseconds".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Decimal128Array, Int32Array, StringArray, StringDictionaryBuilder, TimestampNanosecondArray,
        TimestampSecondArray, UInt64Array,
    };
    use arrow::datatypes::{Float64Type, Int32Type};
    use std::sync::Arc;

    const TIME: Wanted = Wanted::Feature(FeatureType::Timestamp);

    fn ms(column: impl Array + 'static) -> Vec<Option<i64>> {
        let column: ArrayRef = Arc::new(column);
        assert!(TIME.accepts(column.data_type()));
        let times = TIME.convert(&column).unwrap();
        assert_eq!(times.data_type(), &FeatureType::Timestamp.arrow_type());
        times.as_primitive::<TimestampMillisecondType>().iter().collect()
    }

    #[test]
    fn times_round_down_also_before_1970() {
        assert_eq!(
            ms(TimestampNanosecondArray::from(vec![Some(1_999_999), Some(-1), None])),
            [Some(1), Some(-1), None]
        );
        assert_eq!(ms(TimestampSecondArray::from(vec![-2]).with_timezone("+05:00")), [Some(-2000)]);
        assert_eq!(ms(Date32Array::from(vec![2])), [Some(172_800_000)]);
    }

    #[test]
    fn a_time_out_of_range_is_an_error() {
        let column: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        assert!(TIME.convert(&column).unwrap_err().contains("too far"));
    }

    #[test]
    fn keys_become_decimal_text() {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 7]));
        let keys = Wanted::Entity.convert(&column).unwrap();
        assert_eq!(keys.as_string::<i32>(), &StringArray::from(vec!["18446744073709551615", "7"]));
    }

    #[test]
    fn dictionaries_are_resolved() {
        let mut builder = StringDictionaryBuilder::<Int32Type>::new();
        builder.extend([Some("gold"), None, Some("gold")]);
        let column: ArrayRef = Arc::new(builder.finish());
        let text = Wanted::Feature(FeatureType::Utf8).convert(&column).unwrap();
        assert_eq!(text.as_string::<i32>(), &StringArray::from(vec![Some("gold"), None, Some("gold")]));
    }

    #[test]
    fn decimals_are_taken_where_no_digit_can_be_lost() {
        let of = |digits, scale| DataType::Decimal128(digits, scale);
        let accepts = |wanted, found: &DataType| Wanted::Feature(wanted).accepts(found);
        assert!(accepts(FeatureType::F64, &of(15, 2)) && !accepts(FeatureType::F64, &of(16, 2)));
        assert!(accepts(FeatureType::I64, &of(18, 0)) && !accepts(FeatureType::I64, &of(19, 0)));
        assert!(accepts(FeatureType::I32, &of(9, 0)) && !accepts(FeatureType::I32, &of(9, 1)));
        assert!(Wanted::Entity.accepts(&of(38, 0)) && !Wanted::Entity.accepts(&of(10, 2)));
        assert!(!accepts(FeatureType::F32, &of(3, 1)) && !accepts(FeatureType::Utf8, &of(3, 1)));

        let prices = Decimal128Array::from(vec![Some(123_456_789_012_345), Some(-1), Some(10), None]);
        let column: ArrayRef = Arc::new(prices.with_precision_and_scale(15, 2).unwrap());
        let floats = Wanted::Feature(FeatureType::F64).convert(&column).unwrap();
        let expected = [Some(1_234_567_890_123.45), Some(-0.01), Some(0.1), None];
        assert_eq!(floats.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), expected);
        let keys = Decimal128Array::from(vec![12_345_678_901_234_567_890_i128, 0]);
        let column: ArrayRef = Arc::new(keys.with_precision_and_scale(38, 0).unwrap());
        let keys = Wanted::Entity.convert(&column).unwrap();
        assert_eq!(keys.as_string::<i32>(), &StringArray::from(vec!["12345678901234567890", "0"]));
    }

    #[test]
    fn nothing_narrows() {
        let accepts = |wanted, found: &DataType| Wanted::Feature(wanted).accepts(found);
        assert!(accepts(FeatureType::F64, &DataType::Int32) && !accepts(FeatureType::F64, &DataType::Int64));
        assert!(!accepts(FeatureType::I32, &DataType::Int64) && !accepts(FeatureType::I64, &DataType::UInt64));
        assert!(!accepts(FeatureType::F32, &DataType::Float64) && !accepts(FeatureType::Utf8, &DataType::Int32));
        let column: ArrayRef = Arc::new(Int32Array::from(vec![7]));
        let wide = Wanted::Feature(FeatureType::F64).convert(&column).unwrap();
        assert_eq!(wide.data_type(), &DataType::Float64);
    }
}
