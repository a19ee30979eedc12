//! The shape of a view's stored rows and how it may change over time. Each row starts with the fingerprint of the schema it was
//! written under, so rows of several versions live side by side: an added feature reads as null from an older row, a removed one is
//! skipped, and a changed type is refused before any such row is published.

use std::collections::HashMap;

use crate::view::{FeatureConfig, FeatureType, ViewConfig};

/// Bytes before the null bitmap: fingerprint u32, event time i64.
pub(crate) const ROW_HEADER_BYTES: usize = 12;

/// Where one feature lies in a row. Offsets count from the start of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The feature's bit in the null bitmap; set means present.
    pub(crate) bit: usize,
    /// Its value in the fixed part; for text and lists the end of its bytes in the variable part, as a u32.
    pub(crate) offset: usize,
    /// For text and lists: where the preceding end stands; `None` for the first, which starts at 0.
    pub(crate) start: Option<usize>,
}

/// The ordered features of a view at one time, with the row layout that follows from them.
#[derive(Debug)]
pub(crate) struct RowSchema {
    pub(crate) fingerprint: u32,
    pub(crate) features: Vec<FeatureConfig>,
    pub(crate) slots: Vec<Slot>,
    /// Length of header, bitmap and fixed part: the variable part starts here.
    pub(crate) variable_start: usize,
    by_name: HashMap<String, usize>,
}

impl RowSchema {
    pub(crate) fn new(features: &[FeatureConfig]) -> RowSchema {
        let mut offset = ROW_HEADER_BYTES + features.len().div_ceil(8);
        let mut last_variable = None;
        let mut slots = Vec::with_capacity(features.len());
        for (bit, feature) in features.iter().enumerate() {
            let variable = is_variable(feature.data_type);
            let start = last_variable.filter(|_| variable);
            slots.push(Slot { bit, offset, start });
            if variable {
                last_variable = Some(offset);
            }
            offset += fixed_bytes(feature.data_type);
        }
        RowSchema {
            fingerprint: fingerprint(features),
            features: features.to_vec(),
            slots,
            variable_start: offset,
            by_name: features.iter().enumerate().map(|(index, feature)| (feature.name.clone(), index)).collect(),
        }
    }

    pub(crate) fn index_of(&self, feature: &str) -> Option<usize> {
        self.by_name.get(feature).copied()
    }
}

/// A row schema seen through a list of wanted features: what decoding needs, resolved before the first row.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    pub(crate) fingerprint: u32,
    pub(crate) variable_start: usize,
    /// One per wanted feature; `None` where this schema does not have it.
    pub(crate) slots: Vec<Option<Slot>>,
}

impl Projection {
    pub(crate) fn new<'a>(schema: &RowSchema, wanted: impl Iterator<Item = &'a str>) -> Projection {
        Projection {
            fingerprint: schema.fingerprint,
            variable_start: schema.variable_start,
            slots: wanted.map(|name| schema.index_of(name).map(|index| schema.slots[index])).collect(),
        }
    }
}

/// Says why rows of `stored` features cannot be read as `declared`, or nothing when they can: features may come and go, but one that
/// both have must have one type.
pub(crate) fn changed_type(stored: &[FeatureConfig], declared: &[FeatureConfig]) -> Option<String> {
    stored.iter().find_map(|old| {
        let new = declared.iter().find(|new| new.name == old.name && new.data_type != old.data_type)?;
        Some(format!(
            "feature {} is {} there and {} here; a feature never changes its type, give the new meaning a new name",
            old.name, old.data_type, new.data_type
        ))
    })
}

/// Says why a stored schema cannot serve a declared view, or nothing when it can.
pub(crate) fn cannot_serve(stored: &crate::manifest::StoredSchema, view: &ViewConfig) -> Option<String> {
    if stored.kind != view.kind {
        return Some(format!(
            "its rows are of kind {:?} and the view is declared {:?}; give the view a new name and id",
            stored.kind, view.kind
        ));
    }
    if stored.element_key != view.element_key {
        return Some(format!(
            "its element_key is {:?} and the view declares {:?}; give the view a new name and id",
            stored.element_key, view.element_key
        ));
    }
    changed_type(&stored.features, &view.features)
}

fn is_variable(data_type: FeatureType) -> bool {
    matches!(data_type, FeatureType::Utf8 | FeatureType::ListF32)
}

fn fixed_bytes(data_type: FeatureType) -> usize {
    match data_type {
        FeatureType::Bool => 1,
        FeatureType::I32 | FeatureType::F32 | FeatureType::Utf8 | FeatureType::ListF32 => 4,
        FeatureType::I64 | FeatureType::F64 | FeatureType::Timestamp => 8,
    }
}

/// CRC-32 of names and types in order: equal for equal layouts and stable across versions of this program.
pub(crate) fn fingerprint(features: &[FeatureConfig]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for feature in features {
        hasher.update(feature.name.as_bytes());
        hasher.update(b":");
        hasher.update(feature.data_type.to_string().as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &str, data_type: FeatureType) -> FeatureConfig {
        FeatureConfig { name: name.to_string(), data_type }
    }

    #[test]
    fn the_layout_packs_features_in_order() {
        let schema = RowSchema::new(&[
            feature("a", FeatureType::Bool),
            feature("b", FeatureType::Utf8),
            feature("c", FeatureType::I64),
            feature("d", FeatureType::ListF32),
        ]);
        let offsets: Vec<_> = schema.slots.iter().map(|slot| slot.offset).collect();
        assert_eq!(offsets, [13, 14, 18, 26]);
        assert_eq!(schema.variable_start, 30);
        assert_eq!(schema.slots[1].start, None);
        assert_eq!(schema.slots[3].start, Some(14));
    }

    #[test]
    fn the_fingerprint_is_stable_and_tells_layouts_apart() {
        let one = [feature("a", FeatureType::I32), feature("b", FeatureType::Utf8)];
        let other = [feature("b", FeatureType::Utf8), feature("a", FeatureType::I32)];
        assert_eq!(RowSchema::new(&one).fingerprint, crc32fast::hash(b"a:i32\nb:utf8\n"));
        assert_ne!(RowSchema::new(&one).fingerprint, RowSchema::new(&other).fingerprint);
    }

    #[test]
    fn only_a_changed_type_is_refused() {
        let old = [feature("a", FeatureType::I32), feature("gone", FeatureType::Bool)];
        let new = [feature("new", FeatureType::F64), feature("a", FeatureType::I32)];
        assert_eq!(changed_type(&old, &new), None);
        let reason = changed_type(&old, &[feature("a", FeatureType::I64)]).unwrap();
        assert!(reason.starts_with("feature a is i32 there and i64 here"), "{reason}");
    }
}
