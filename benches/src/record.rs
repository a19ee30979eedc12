//! One declaration of a row becomes a struct, the features of a view, and the columns that hold many such rows. A struct of plain fields
//! is what a program without a store would keep, so it is the fairest thing to compare with.

use crate::{Outcome, TextField};

/// A row that arrives field by field.
pub trait ReadFields {
    /// Adds the next field to its column; null when it is not there.
    ///
    /// # Errors
    /// The row cannot be read, or the field is no such value.
    fn read<T: TextField>(&mut self, column: &mut T::Builder) -> Outcome<()>;
}

/// Declares a row type and the type of its columns.
#[macro_export]
macro_rules! record {
    ($(#[$about:meta])* $record:ident, $columns:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "the fields say what they are")]
        pub struct $record {
            $(pub $field: $type,)*
        }

        impl $record {
            /// The names of the fields, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The features of a view with these fields.
            pub fn features() -> Vec<larder_store::FeatureConfig> {
                vec![$(larder_store::FeatureConfig::new(stringify!($field), <$type as $crate::Field>::TYPE)),*]
            }

            /// The columns of many rows, filled one after the other; null where there is no row.
            pub fn columns<'a>(
                rows: impl ExactSizeIterator<Item = Option<&'a $record>> + Clone,
            ) -> Vec<arrow::array::ArrayRef> {
                vec![$({
                    let mut builder = <$type as $crate::Field>::builder(rows.len());
                    for row in rows.clone() {
                        match row {
                            Some(row) => $crate::Field::append(&row.$field, &mut builder),
                            None => <$type as $crate::Field>::append_null(&mut builder),
                        }
                    }
                    <$type as $crate::Field>::finish(builder)
                }),*]
            }

            /// Calls `each` with the name and bytes of every field that is not null.
            pub fn write(&self, mut each: impl FnMut(&'static str, &[u8])) {
                let mut bytes = Vec::new();
                $(if $crate::Field::write(&self.$field, &mut bytes) {
                    each(stringify!($field), &bytes);
                    bytes.clear();
                })*
            }

            /// Calls `each` with the name and value of every field that is not null.
            pub fn scalars(&self, mut each: impl FnMut(&'static str, $crate::Scalar<'_>)) {
                $(if let Some(value) = $crate::TextField::scalar(&self.$field) {
                    each(stringify!($field), value);
                })*
            }

            /// Appends the row packed: which fields are there u32, then numbers and lengths of texts; the texts go to `text`.
            pub fn pack(&self, fixed: &mut Vec<u8>, text: &mut Vec<u8>) {
                let start = fixed.len();
                fixed.extend_from_slice(&[0; 4]);
                let (mut bit, mut valid) = (0, 0u32);
                $(
                    valid |= u32::from($crate::Field::pack(&self.$field, fixed, text)) << bit;
                    bit += 1;
                )*
                debug_assert!(bit <= 32);
                fixed[start..start + 4].copy_from_slice(&valid.to_le_bytes());
            }
        }

        /// Columns under construction, filled row by row.
        #[allow(missing_debug_implementations, reason = "builders have nothing to show")]
        pub struct $columns {
            $($field: <$type as $crate::Field>::Builder,)*
        }

        impl $columns {
            /// Empty columns with room for `rows`.
            pub fn with_capacity(rows: usize) -> $columns {
                $columns { $($field: <$type as $crate::Field>::builder(rows),)* }
            }

            /// Adds a row of nulls.
            pub fn push_null(&mut self) {
                $(<$type as $crate::Field>::append_null(&mut self.$field);)*
            }

            /// Adds a row whose fields are read one after the other; a field that is not there is null.
            #[inline]
            pub fn push_fields(&mut self, row: &mut impl $crate::ReadFields) -> $crate::Outcome<()> {
                $(row.read::<$type>(&mut self.$field)?;)*
                Ok(())
            }

            /// Adds a packed row.
            #[inline]
            pub fn push_packed(&mut self, row: &mut $crate::Packed<'_>) -> Option<()> {
                row.valid = u32::from_le_bytes(row.take()?);
                $(
                    if row.valid & 1 == 1 {
                        <$type as $crate::Field>::append_packed(&mut self.$field, row)?;
                    } else {
                        <$type as $crate::Field>::append_null(&mut self.$field);
                    }
                    row.valid >>= 1;
                )*
                Some(())
            }

            /// The columns.
            pub fn finish(self) -> Vec<arrow::array::ArrayRef> {
                vec![$(<$type as $crate::Field>::finish(self.$field)),*]
            }
        }
    };
}
