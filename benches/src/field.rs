//! The value types of the benchmarks' rows. A type says once how its values become a feature, an Arrow column and bytes, so that every
//! baseline holds and fills exactly what the store does.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMillisecondBuilder,
};
use larder_store::FeatureType;

/// A point in time, Unix milliseconds UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time(pub i64);

/// What is left to read of a packed row: its numbers and text lengths, and its texts, checked to be UTF-8 all at once.
#[derive(Debug)]
pub struct Packed<'a> {
    /// Which fields are not null, the next one lowest.
    pub valid: u32,
    /// Numbers, little-endian, and lengths of texts, u16.
    pub fixed: &'a [u8],
    /// All texts, one after the other.
    pub text: &'a str,
}

impl<'a> Packed<'a> {
    /// Takes the next `N` fixed bytes.
    #[inline]
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.fixed.split_first_chunk::<N>()?;
        self.fixed = rest;
        Some(*value)
    }

    #[inline]
    fn take_text(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.take()?);
        let (value, rest) = self.text.split_at_checked(length.into())?;
        self.text = rest;
        Some(value)
    }
}

/// A type of values. Readers answer `None` for bytes that are not such a value.
pub trait Field: Sized {
    /// The feature's type.
    const TYPE: FeatureType;
    /// What its Arrow column is built with.
    type Builder;

    /// An empty column with room for `capacity` values.
    fn builder(capacity: usize) -> Self::Builder;
    /// Adds the value.
    fn append(&self, builder: &mut Self::Builder);
    /// Adds a null.
    fn append_null(builder: &mut Self::Builder);
    /// The column.
    fn finish(builder: Self::Builder) -> ArrayRef;

    /// The value as bytes: numbers little-endian. False, and nothing written, for null.
    fn write(&self, out: &mut Vec<u8>) -> bool;
    /// Adds a value from its bytes.
    fn append_bytes(builder: &mut Self::Builder, bytes: &[u8]) -> Option<()>;

    /// Adds the value to a packed row. False for null.
    fn pack(&self, fixed: &mut Vec<u8>, text: &mut Vec<u8>) -> bool;
    /// Adds the next value of a packed row.
    fn append_packed(builder: &mut Self::Builder, row: &mut Packed<'_>) -> Option<()>;
}

macro_rules! number {
    ($type:ty, $feature:ident, $builder:ty, $new:expr, $to:expr, $from:expr) => {
        impl Field for $type {
            const TYPE: FeatureType = FeatureType::$feature;
            type Builder = $builder;

            #[inline]
            fn builder(capacity: usize) -> $builder {
                $new(<$builder>::with_capacity(capacity))
            }
            #[inline]
            fn append(&self, builder: &mut $builder) {
                builder.append_value(self.value());
            }
            #[inline]
            fn append_null(builder: &mut $builder) {
                builder.append_null();
            }
            #[inline]
            fn finish(mut builder: $builder) -> ArrayRef {
                Arc::new(builder.finish())
            }
            #[inline]
            fn write(&self, out: &mut Vec<u8>) -> bool {
                out.extend_from_slice(&$to(self.value()));
                true
            }
            #[inline]
            fn append_bytes(builder: &mut $builder, bytes: &[u8]) -> Option<()> {
                builder.append_value($from(bytes.try_into().ok()?));
                Some(())
            }
            #[inline]
            fn pack(&self, fixed: &mut Vec<u8>, _: &mut Vec<u8>) -> bool {
                self.write(fixed)
            }
            #[inline]
            fn append_packed(builder: &mut $builder, row: &mut Packed<'_>) -> Option<()> {
                builder.append_value($from(row.take()?));
                Some(())
            }
        }
    };
}

/// The number inside, which for most types is the value itself.
trait Value {
    type Inner;
    fn value(&self) -> Self::Inner;
}

macro_rules! itself {
    ($($type:ty),*) => {
        $(impl Value for $type {
            type Inner = $type;
            #[inline]
            fn value(&self) -> $type {
                *self
            }
        })*
    };
}

itself!(i32, i64, f32, f64, bool);

impl Value for Time {
    type Inner = i64;
    #[inline]
    fn value(&self) -> i64 {
        self.0
    }
}

number!(i32, I32, Int32Builder, |new| new, i32::to_le_bytes, i32::from_le_bytes);
number!(i64, I64, Int64Builder, |new| new, i64::to_le_bytes, i64::from_le_bytes);
number!(f32, F32, Float32Builder, |new| new, f32::to_le_bytes, f32::from_le_bytes);
number!(f64, F64, Float64Builder, |new| new, f64::to_le_bytes, f64::from_le_bytes);
number!(bool, Bool, BooleanBuilder, |new| new, |value| [u8::from(value)], |[byte]: [u8; 1]| byte != 0);
number!(
    Time,
    Timestamp,
    TimestampMillisecondBuilder,
    |new: TimestampMillisecondBuilder| new.with_timezone("UTC"),
    i64::to_le_bytes,
    i64::from_le_bytes
);

impl Field for Box<str> {
    const TYPE: FeatureType = FeatureType::Utf8;
    type Builder = StringBuilder;

    #[inline]
    fn builder(capacity: usize) -> StringBuilder {
        StringBuilder::with_capacity(capacity, capacity * 16)
    }
    #[inline]
    fn append(&self, builder: &mut StringBuilder) {
        builder.append_value(self);
    }
    #[inline]
    fn append_null(builder: &mut StringBuilder) {
        builder.append_null();
    }
    #[inline]
    fn finish(mut builder: StringBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.as_bytes());
        true
    }
    #[inline]
    fn append_bytes(builder: &mut StringBuilder, bytes: &[u8]) -> Option<()> {
        builder.append_value(str::from_utf8(bytes).ok()?);
        Some(())
    }
    fn pack(&self, fixed: &mut Vec<u8>, text: &mut Vec<u8>) -> bool {
        fixed.extend_from_slice(&(self.len() as u16).to_le_bytes());
        self.write(text)
    }
    #[inline]
    fn append_packed(builder: &mut StringBuilder, row: &mut Packed<'_>) -> Option<()> {
        builder.append_value(row.take_text()?);
        Some(())
    }
}

/// A value that may be null.
impl<T: Field> Field for Option<T> {
    const TYPE: FeatureType = T::TYPE;
    type Builder = T::Builder;

    #[inline]
    fn builder(capacity: usize) -> T::Builder {
        T::builder(capacity)
    }
    #[inline]
    fn append(&self, builder: &mut T::Builder) {
        match self {
            Some(value) => value.append(builder),
            None => T::append_null(builder),
        }
    }
    #[inline]
    fn append_null(builder: &mut T::Builder) {
        T::append_null(builder);
    }
    #[inline]
    fn finish(builder: T::Builder) -> ArrayRef {
        T::finish(builder)
    }
    #[inline]
    fn write(&self, out: &mut Vec<u8>) -> bool {
        self.as_ref().is_some_and(|value| value.write(out))
    }
    #[inline]
    fn append_bytes(builder: &mut T::Builder, bytes: &[u8]) -> Option<()> {
        T::append_bytes(builder, bytes)
    }
    fn pack(&self, fixed: &mut Vec<u8>, text: &mut Vec<u8>) -> bool {
        self.as_ref().is_some_and(|value| value.pack(fixed, text))
    }
    #[inline]
    fn append_packed(builder: &mut T::Builder, row: &mut Packed<'_>) -> Option<()> {
        T::append_packed(builder, row)
    }
}
