//! Values as general clients of key-value stores write and read them: texts as they are, numbers in decimal, true as 1. How a value becomes
//! text is the client's own affair, so it is handed the value; to read the text again is the program's, so that is done here.

use crate::{Field, Time};

/// A value to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the variants say what they are")]
pub enum Scalar<'a> {
    Text(&'a str),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
}

/// A type of values that can be written as text.
pub trait TextField: Field {
    /// The value; `None` for null. A time is its Unix milliseconds.
    fn scalar(&self) -> Option<Scalar<'_>>;
    /// Adds a value from its text; `None` for text that is no such value.
    fn append_text(builder: &mut Self::Builder, text: &[u8]) -> Option<()>;
}

macro_rules! number {
    ($type:ty, $scalar:ident) => {
        impl TextField for $type {
            #[inline]
            fn scalar(&self) -> Option<Scalar<'_>> {
                Some(Scalar::$scalar(*self))
            }
            #[inline]
            fn append_text(builder: &mut Self::Builder, text: &[u8]) -> Option<()> {
                let value: $type = str::from_utf8(text).ok()?.parse().ok()?;
                value.append(builder);
                Some(())
            }
        }
    };
}

number!(i32, I32);
number!(i64, I64);
number!(f32, F32);
number!(f64, F64);

impl TextField for Time {
    #[inline]
    fn scalar(&self) -> Option<Scalar<'_>> {
        self.0.scalar()
    }
    #[inline]
    fn append_text(builder: &mut Self::Builder, text: &[u8]) -> Option<()> {
        Time(str::from_utf8(text).ok()?.parse().ok()?).append(builder);
        Some(())
    }
}

impl TextField for bool {
    #[inline]
    fn scalar(&self) -> Option<Scalar<'_>> {
        Some(Scalar::Bool(*self))
    }
    #[inline]
    fn append_text(builder: &mut Self::Builder, text: &[u8]) -> Option<()> {
        match text {
            b"0" => false.append(builder),
            b"1" => true.append(builder),
            _ => return None,
        }
        Some(())
    }
}

impl TextField for Box<str> {
    #[inline]
    fn scalar(&self) -> Option<Scalar<'_>> {
        Some(Scalar::Text(self))
    }
    #[inline]
    fn append_text(builder: &mut Self::Builder, text: &[u8]) -> Option<()> {
        Self::append_bytes(builder, text)
    }
}

impl<T: TextField> TextField for Option<T> {
    #[inline]
    fn scalar(&self) -> Option<Scalar<'_>> {
        self.as_ref().and_then(T::scalar)
    }
    #[inline]
    fn append_text(builder: &mut T::Builder, text: &[u8]) -> Option<()> {
        T::append_text(builder, text)
    }
}
