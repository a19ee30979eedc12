//! The shape of a view's stored rows and how it may change over time. Each row starts with the fingerprint of the schema it was
//! written under, so rows of several versions live side by side, and each version is read as the view is declared now: an added feature
//! is null in an older row, a removed one is skipped, a renamed one is found under its other name, and a widened one is converted, which
//! never loses anything. Any other change of type is refused before such a row is published or read.

use std::collections::HashMap;

use crate::manifest::StoredSchema;
use crate::view::{FeatureConfig, FeatureType, ViewConfig};

/// Bytes before the null bitmap: fingerprint u32, event time i64.
pub(crate) const ROW_HEADER_BYTES: usize = 12;

/// Where one feature lies in a row. Offsets count from the start of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The type it is stored as, which may be narrower than the declared one.
    pub(crate) data_type: FeatureType,
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
    by_former_name: HashMap<String, usize>,
}

impl RowSchema {
    pub(crate) fn new(features: &[FeatureConfig]) -> RowSchema {
        let mut offset = ROW_HEADER_BYTES + features.len().div_ceil(8);
        let mut last_variable = None;
        let mut slots = Vec::with_capacity(features.len());
        for (bit, &FeatureConfig { data_type, .. }) in features.iter().enumerate() {
            let variable = is_variable(data_type);
            let start = last_variable.filter(|_| variable);
            slots.push(Slot { data_type, bit, offset, start });
            if variable {
                last_variable = Some(offset);
            }
            offset += fixed_bytes(data_type);
        }
        let names = features.iter().enumerate();
        RowSchema {
            fingerprint: fingerprint(features),
            features: features.to_vec(),
            slots,
            variable_start: offset,
            by_name: names.clone().map(|(index, feature)| (feature.name.clone(), index)).collect(),
            by_former_name: names
                .flat_map(|(index, feature)| feature.former_names.iter().map(move |name| (name.clone(), index)))
                .collect(),
        }
    }

    pub(crate) fn index_of(&self, feature: &str) -> Option<usize> {
        self.by_name.get(feature).copied()
    }

    /// The feature of these stored rows that `declared` calls `wanted`: the one of that name, else the one of its latest former name, else
    /// one that was renamed after that declaration was made and says so itself.
    pub(crate) fn stored_as(&self, declared: &RowSchema, wanted: &str) -> Option<usize> {
        let wanted = &declared.features[declared.index_of(wanted)?];
        let former = || wanted.former_names.iter().find_map(|name| self.index_of(name));
        let renamed_since = || {
            let index = *self.by_former_name.get(&wanted.name)?;
            let stored = &self.features[index];
            let latest = stored.former_names.iter().find(|name| declared.by_name.contains_key(*name))?;
            (!declared.knows(&stored.name) && *latest == wanted.name).then_some(index)
        };
        self.index_of(&wanted.name).or_else(former).or_else(renamed_since)
    }

    /// Whether a feature has this name or had it.
    fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.by_former_name.contains_key(name)
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
    /// Where rows of `stored` hold the features that `declared` calls `wanted`. A type that cannot be read as declared, which
    /// [`cannot_serve`] refuses long before, counts as absent: its bytes are never taken for something else.
    pub(crate) fn new<'a>(
        stored: &RowSchema,
        declared: &RowSchema,
        wanted: impl Iterator<Item = &'a str>,
    ) -> Projection {
        let slot = |name: &str| {
            let slot = stored.slots[stored.stored_as(declared, name)?];
            let data_type = declared.features[declared.index_of(name)?].data_type;
            reads_as(slot.data_type, data_type).then_some(slot)
        };
        Projection {
            fingerprint: stored.fingerprint,
            variable_start: stored.variable_start,
            slots: wanted.map(slot).collect(),
        }
    }
}

/// Says why rows of a stored schema cannot be read as the view is declared, or nothing when they can. Stored schemas need not fit each
/// other: each is read on its own.
pub(crate) fn cannot_serve(stored: &StoredSchema, view: &ViewConfig) -> Option<String> {
    if stored.kind != view.kind {
        return Some(format!(
            "its rows are of kind {:?} and the view is declared {:?}; give the view a new name and id",
            stored.kind, view.kind
        ));
    }
    let (rows, declared) = (RowSchema::new(&stored.features), RowSchema::new(&view.features));
    let element_key = view.element_key.as_deref();
    let resolved = element_key.and_then(|key| rows.stored_as(&declared, key));
    let resolved = resolved.map(|index| &rows.features[index].name);
    if stored.element_key.as_ref() != resolved || element_key.is_some() != resolved.is_some() {
        let (stored, declared) = (stored.element_key.as_deref().unwrap_or("nothing"), element_key.unwrap_or("nothing"));
        return Some(format!(
            "its element_key is {stored} and the view declares {declared}; give the view a new name and id"
        ));
    }
    view.features.iter().find_map(|wanted| {
        let index = rows.stored_as(&declared, &wanted.name)?;
        cannot_read(&rows.features[index], wanted)
    })
}

/// Says why the values of a stored feature cannot be read as the declared one, or nothing when they can.
fn cannot_read(stored: &FeatureConfig, declared: &FeatureConfig) -> Option<String> {
    let (old, new) = (stored.data_type, declared.data_type);
    if reads_as(old, new) {
        return None;
    }
    let feature = if stored.name == declared.name {
        format!("feature {} is stored as {old}", declared.name)
    } else {
        format!("feature {} is stored as {} of type {old}", declared.name, stored.name)
    };
    Some(format!(
        "{feature} and declared as {new}; a type may only widen, i32 to i64 or f64 and f32 to f64: give another meaning a new name"
    ))
}

/// Whether each value of a stored type is a value of the declared one too.
fn reads_as(stored: FeatureType, declared: FeatureType) -> bool {
    use FeatureType::{F32, F64, I32, I64};
    stored == declared || matches!((stored, declared), (I32, I64 | F64) | (F32, F64))
}

fn is_variable(data_type: FeatureType) -> bool {
    matches!(data_type, FeatureType::Utf8 | FeatureType::ListF32)
}

/// Bytes of a value in the fixed part.
pub(crate) fn fixed_bytes(data_type: FeatureType) -> usize {
    match data_type {
        FeatureType::Bool => 1,
        FeatureType::I32 | FeatureType::F32 | FeatureType::Utf8 | FeatureType::ListF32 => 4,
        FeatureType::I64 | FeatureType::F64 | FeatureType::Timestamp => 8,
    }
}

/// CRC-32 of names and types in order: equal for equal layouts and stable across versions of this program. Former names are part of a
/// declaration, not of a layout.
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
    use crate::test_rows::{self, TYPES};
    use crate::view::ViewKind;

    fn feature(name: &str, data_type: FeatureType) -> FeatureConfig {
        FeatureConfig::new(name, data_type)
    }

    fn renamed(name: &str, former: &[&str]) -> FeatureConfig {
        let former_names = former.iter().map(ToString::to_string).collect();
        FeatureConfig { former_names, ..feature(name, FeatureType::I32) }
    }

    /// For each declared feature the name it is stored under.
    fn resolved<'a>(stored: &'a [FeatureConfig], declared: &[FeatureConfig]) -> Vec<Option<&'a str>> {
        let (rows, declared) = (RowSchema::new(stored), RowSchema::new(declared));
        let stored_as = |wanted: &FeatureConfig| Some(stored[rows.stored_as(&declared, &wanted.name)?].name.as_str());
        declared.features.iter().map(stored_as).collect()
    }

    fn refusal(stored: &ViewConfig, declared: &ViewConfig) -> Option<String> {
        let ViewConfig { kind, n, element_key, features, .. } = stored.clone();
        cannot_serve(&StoredSchema { fingerprint: 0, kind, n, element_key, features }, declared)
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
        let declared = [renamed("a", &["z"]), feature("b", FeatureType::Utf8)];
        assert_eq!(RowSchema::new(&one).fingerprint, RowSchema::new(&declared).fingerprint);
    }

    #[test]
    fn a_feature_is_found_by_its_name_then_by_its_latest_former_name() {
        let declared = [renamed("c", &["b", "a"])];
        assert_eq!(resolved(&[renamed("a", &[]), renamed("b", &[]), renamed("c", &[])], &declared), [Some("c")]);
        assert_eq!(resolved(&[renamed("a", &[]), renamed("b", &[])], &declared), [Some("b")]);
        assert_eq!(resolved(&[renamed("a", &[]), renamed("x", &[])], &declared), [Some("a")]);
        assert_eq!(resolved(&[renamed("x", &[])], &declared), [None]);
    }

    #[test]
    fn a_declaration_from_before_a_renaming_finds_the_renamed_feature() {
        let stored = [renamed("c", &["b", "a"])];
        assert_eq!(resolved(&stored, &[renamed("a", &[])]), [Some("c")]);
        assert_eq!(resolved(&stored, &[renamed("b", &["a"])]), [Some("c")]);
        // A stored feature answers for one declared feature: for the one of its own name, or of its latest former name.
        assert_eq!(resolved(&stored, &[renamed("a", &[]), renamed("c", &[])]), [None, Some("c")]);
        assert_eq!(resolved(&stored, &[renamed("a", &[]), renamed("d", &["c"])]), [None, Some("c")]);
        assert_eq!(resolved(&stored, &[renamed("a", &[]), renamed("b", &[])]), [None, Some("c")]);
    }

    #[test]
    fn a_type_may_widen_and_do_nothing_else() {
        use FeatureType::{F32, F64, I32, I64};
        let view_of = |features| ViewConfig { features, ..test_rows::view() };
        let wider = [(I32, I64), (I32, F64), (F32, F64)];
        for (old, new) in TYPES.iter().flat_map(|old| TYPES.iter().map(move |new| (*old, *new))) {
            let stored = view_of(vec![feature("gone", FeatureType::Bool), feature("a", old)]);
            let expected = |stored: &str| {
                (old != new && !wider.contains(&(old, new))).then(|| {
                    format!(
                        "feature a is stored as {stored} and declared as {new}; a type may only widen, i32 to i64 or f64 and f32 \
                         to f64: give another meaning a new name"
                    )
                })
            };
            let declared = view_of(vec![feature("added", FeatureType::Utf8), feature("a", new)]);
            assert_eq!(refusal(&stored, &declared), expected(&old.to_string()));
            // What is refused would not be read either.
            let schemas = (RowSchema::new(&stored.features), RowSchema::new(&declared.features));
            let slots = Projection::new(&schemas.0, &schemas.1, ["added", "a"].into_iter()).slots;
            assert_eq!((slots[0], slots[1].is_some()), (None, refusal(&stored, &declared).is_none()));
            // The same under another name.
            let stored = view_of(vec![feature("b", old)]);
            let declared = view_of(vec![FeatureConfig { former_names: vec!["b".to_string()], ..feature("a", new) }]);
            assert_eq!(refusal(&stored, &declared), expected(&format!("b of type {old}")));
        }
    }

    #[test]
    fn kind_and_element_key_stay() {
        let view_of = |key: &str, features: &[FeatureConfig]| ViewConfig {
            kind: ViewKind::LastN,
            n: Some(3),
            element_key: Some(key.to_string()),
            features: features.to_vec(),
            ..test_rows::view()
        };
        let stored = view_of("a", &[renamed("a", &[]), renamed("b", &[])]);
        assert_eq!(refusal(&stored, &ViewConfig { n: Some(9), ..stored.clone() }), None);
        assert_eq!(refusal(&stored, &view_of("c", &[renamed("b", &[]), renamed("c", &["a"])])), None);
        assert_eq!(refusal(&stored, &view_of("a", &[feature("a", FeatureType::I64)])), None);
        let other = |key: &str| {
            Some(format!("its element_key is a and the view declares {key}; give the view a new name and id"))
        };
        assert_eq!(refusal(&stored, &view_of("b", &stored.features)), other("b"));
        assert_eq!(refusal(&stored, &view_of("c", &[renamed("c", &[])])), other("c"));
        assert_eq!(refusal(&stored, &view_of("c", &[renamed("c", &["b"])])), other("c"));
        let keyless = ViewConfig { element_key: None, features: vec![renamed("b", &[])], ..stored.clone() };
        assert!(refusal(&keyless, &stored).unwrap().starts_with("its element_key is nothing and the view declares a;"));
        let latest = ViewConfig { kind: ViewKind::Latest, n: None, element_key: None, ..stored.clone() };
        let kind = "its rows are of kind LastN and the view is declared Latest; give the view a new name and id";
        assert_eq!(refusal(&stored, &latest).as_deref(), Some(kind));
        assert!(refusal(&latest, &stored).unwrap().starts_with("its rows are of kind Latest and"));
    }
}
