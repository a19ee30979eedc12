//! Feature values to the numbers a ranking head reads (phi), by the encodings that the feature service declares.
//!
//! Every encoding has a slot of its own for "missing", so that an unknown user is a case the head has learned and not a user whose
//! every number is 0. The encodings are saved with a head, and a head is refused where they differ.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The most values of one `one_hot` vocabulary.
const MAX_ONE_HOT_VALUES: usize = 1_000;
/// The longest value of a `one_hot` vocabulary.
const MAX_ONE_HOT_CHARS: usize = 200;
/// The most bounds of one `age_days`.
const MAX_AGE_BOUNDS: usize = 64;
/// The most numbers of a whole phi.
const MAX_WIDTH: usize = 8_192;
/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;
/// Brings `log` of everyday counts and amounts (up to some 20,000) into the range of the other encodings, 0 to 1.
const LOG_SCALE: f64 = 0.1;

/// How one feature becomes numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// One slot per value of the vocabulary, one for any other value, one for missing.
    OneHot(Vec<String>),
    /// `sign(x) * ln(1 + |x|) / 10`, and a slot for missing.
    Log,
    /// The age of a point in time in days, as one slot per bucket between ascending bounds, and one for missing. The first bucket is
    /// everything below the first bound, the future included; negative bounds tell futures apart.
    AgeDays(Vec<f64>),
    /// 1 or 0, and a slot for missing.
    Flag,
}

/// A feature with its encoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodedFeature {
    /// `view:feature`; of a `last_n` view the newest element's.
    pub feature: String,
    /// How it becomes numbers.
    pub encoding: Encoding,
}

/// One value to encode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeatureValue<'a> {
    /// Null, not found or expired.
    Missing,
    /// A text.
    Text(&'a str),
    /// A number; one that is not finite counts as missing.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Unix milliseconds UTC.
    Time(i64),
}

/// Encodes the values of one feature service.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureEncoder {
    features: Vec<EncodedFeature>,
    width: usize,
}

impl FeatureEncoder {
    /// Checks the declared encodings; an empty list is allowed and gives a phi of width 0.
    pub fn new(features: Vec<EncodedFeature>) -> Result<FeatureEncoder, Error> {
        for (position, feature) in features.iter().enumerate() {
            if features[..position].iter().any(|earlier| earlier.feature == feature.feature) {
                return Err(Error::feature(&feature.feature, "is encoded twice"));
            }
            feature.encoding.check().map_err(|problem| Error::feature(&feature.feature, problem))?;
        }
        let width = features.iter().map(|feature| feature.encoding.width()).sum();
        if width > MAX_WIDTH {
            let problem = format!("all encodings together make {width} numbers; at most {MAX_WIDTH} are allowed");
            return Err(Error::feature("*", problem));
        }
        Ok(FeatureEncoder { features, width })
    }

    /// Numbers per user.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features in the order in which `encode` takes their values.
    pub fn features(&self) -> &[EncodedFeature] {
        &self.features
    }

    /// Writes phi of one user into `out`, which has `width()` places.
    ///
    /// # Errors
    /// `FixFeatures` for a value of a type that the encoding cannot take, or a wrong number of values or places.
    pub fn encode(&self, values: &[FeatureValue<'_>], now_ms: i64, out: &mut [f32]) -> Result<(), Error> {
        if values.len() != self.features.len() || out.len() != self.width {
            let problem = format!(
                "{} values into {} places; the encodings take {} into {}",
                values.len(),
                out.len(),
                self.features.len(),
                self.width
            );
            return Err(Error::feature("*", problem));
        }
        out.fill(0.0);
        let mut rest = out;
        for (feature, value) in self.features.iter().zip(values) {
            let (slots, after) = rest.split_at_mut(feature.encoding.width());
            feature
                .encoding
                .encode(*value, now_ms, slots)
                .map_err(|problem| Error::feature(&feature.feature, problem))?;
            rest = after;
        }
        Ok(())
    }
}

impl Encoding {
    /// Numbers this encoding makes, "missing" included.
    pub fn width(&self) -> usize {
        match self {
            Encoding::OneHot(values) => values.len() + 2,
            Encoding::AgeDays(bounds) => bounds.len() + 2,
            Encoding::Log | Encoding::Flag => 2,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Encoding::Log | Encoding::Flag => Ok(()),
            Encoding::OneHot(values) => {
                if !(1..=MAX_ONE_HOT_VALUES).contains(&values.len()) {
                    return Err(format!("one_hot has {} values; allowed are 1 to {MAX_ONE_HOT_VALUES}", values.len()));
                }
                for (position, value) in values.iter().enumerate() {
                    if value.is_empty() || value.chars().count() > MAX_ONE_HOT_CHARS {
                        return Err(format!(
                            "one_hot value {} must have 1 to {MAX_ONE_HOT_CHARS} characters",
                            position + 1
                        ));
                    }
                    if values[..position].contains(value) {
                        return Err(format!("one_hot value {value:?} appears twice"));
                    }
                }
                Ok(())
            }
            Encoding::AgeDays(bounds) => {
                if !(1..=MAX_AGE_BOUNDS).contains(&bounds.len()) {
                    return Err(format!("age_days has {} bounds; allowed are 1 to {MAX_AGE_BOUNDS}", bounds.len()));
                }
                let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
                if !ascending || bounds.iter().any(|bound| !bound.is_finite()) {
                    return Err("age_days bounds must be finite and strictly ascending".to_owned());
                }
                Ok(())
            }
        }
    }

    /// Sets the slots of one value; they are 0 on entry and the last one means missing.
    fn encode(&self, value: FeatureValue<'_>, now_ms: i64, slots: &mut [f32]) -> Result<(), String> {
        let missing = slots.len() - 1;
        match (self, value) {
            (_, FeatureValue::Missing) => slots[missing] = 1.0,
            (Encoding::Log, FeatureValue::Number(number)) if !number.is_finite() => slots[missing] = 1.0,
            (Encoding::Log, FeatureValue::Number(number)) => {
                slots[0] = (number.signum() * number.abs().ln_1p() * LOG_SCALE) as f32;
            }
            (Encoding::Flag, FeatureValue::Flag(flag)) => slots[0] = f32::from(flag),
            (Encoding::OneHot(values), FeatureValue::Text(text)) => {
                slots[values.iter().position(|known| known == text).unwrap_or(values.len())] = 1.0;
            }
            (Encoding::OneHot(values), FeatureValue::Number(number)) => {
                let text = number.to_string();
                slots[values.iter().position(|known| *known == text).unwrap_or(values.len())] = 1.0;
            }
            (Encoding::OneHot(values), FeatureValue::Flag(flag)) => {
                let text = if flag { "true" } else { "false" };
                slots[values.iter().position(|known| known == text).unwrap_or(values.len())] = 1.0;
            }
            (Encoding::AgeDays(bounds), FeatureValue::Time(time_ms)) => {
                let age = (now_ms as f64 - time_ms as f64) / DAY_MS;
                slots[bounds.partition_point(|bound| *bound <= age)] = 1.0;
            }
            (encoding, value) => return Err(format!("{} cannot encode {}", encoding.name(), value.kind())),
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self {
            Encoding::OneHot(_) => "one_hot (texts, numbers, flags)",
            Encoding::Log => "log (numbers)",
            Encoding::AgeDays(_) => "age_days (points in time)",
            Encoding::Flag => "flag (yes or no)",
        }
    }
}

impl FeatureValue<'_> {
    fn kind(self) -> &'static str {
        match self {
            FeatureValue::Missing => "a missing value",
            FeatureValue::Text(_) => "a text",
            FeatureValue::Number(_) => "a number",
            FeatureValue::Flag(_) => "a flag",
            FeatureValue::Time(_) => "a point in time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_760_000_000_000;
    const DAY: i64 = DAY_MS as i64;

    fn encoder(encoding: Encoding) -> Result<FeatureEncoder, Error> {
        FeatureEncoder::new(vec![EncodedFeature { feature: "orders:x".into(), encoding }])
    }

    fn encode(encoding: Encoding, value: FeatureValue<'_>) -> Vec<f32> {
        let encoder = encoder(encoding).unwrap();
        let mut out = vec![9.0; encoder.width()];
        encoder.encode(&[value], NOW, &mut out).unwrap();
        out
    }

    #[test]
    fn one_hot_has_slots_for_other_and_missing() {
        let statuses = || Encoding::OneHot(vec!["1".into(), "delayed".into(), "true".into()]);
        assert_eq!(encode(statuses(), FeatureValue::Text("delayed")), [0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(encode(statuses(), FeatureValue::Text("lost")), [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(encode(statuses(), FeatureValue::Missing), [0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(encode(statuses(), FeatureValue::Number(1.0)), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(encode(statuses(), FeatureValue::Number(1.5)), [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(encode(statuses(), FeatureValue::Flag(true)), [0.0, 0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn log_is_signed_and_small() {
        assert_eq!(encode(Encoding::Log, FeatureValue::Number(0.0)), [0.0, 0.0]);
        let [found, _] = encode(Encoding::Log, FeatureValue::Number(-99.0))[..] else { panic!() };
        assert!((found + 100_f32.ln() / 10.0).abs() < 1e-6);
        assert_eq!(encode(Encoding::Log, FeatureValue::Missing), [0.0, 1.0]);
        assert_eq!(encode(Encoding::Log, FeatureValue::Number(f64::NAN)), [0.0, 1.0]);
        assert!(encode(Encoding::Log, FeatureValue::Number(f64::MAX))[0].is_finite());
    }

    #[test]
    fn age_buckets_are_half_open_and_know_the_future() {
        let bounds = || Encoding::AgeDays(vec![0.0, 1.0, 30.0]);
        let bucket =
            |age_ms: i64| encode(bounds(), FeatureValue::Time(NOW - age_ms)).iter().position(|slot| *slot == 1.0);
        assert_eq!(bucket(-1), Some(0));
        assert_eq!(bucket(0), Some(1));
        assert_eq!(bucket(DAY - 1), Some(1));
        assert_eq!(bucket(DAY), Some(2));
        assert_eq!(bucket(30 * DAY), Some(3));
        assert_eq!(encode(bounds(), FeatureValue::Missing), [0.0, 0.0, 0.0, 0.0, 1.0]);
        encode(bounds(), FeatureValue::Time(i64::MIN));
    }

    #[test]
    fn flag_tells_no_from_missing() {
        assert_eq!(encode(Encoding::Flag, FeatureValue::Flag(true)), [1.0, 0.0]);
        assert_eq!(encode(Encoding::Flag, FeatureValue::Flag(false)), [0.0, 0.0]);
        assert_eq!(encode(Encoding::Flag, FeatureValue::Missing), [0.0, 1.0]);
    }

    #[test]
    fn features_lie_one_after_the_other() {
        let feature = |name: &str, encoding| EncodedFeature { feature: name.into(), encoding };
        let encoder = FeatureEncoder::new(vec![
            feature("profile:tier", Encoding::OneHot(vec!["gold".into()])),
            feature("profile:points", Encoding::Log),
            feature("profile:is_business", Encoding::Flag),
        ])
        .unwrap();
        assert_eq!(encoder.width(), 7);
        let mut out = vec![0.0; 7];
        let values = [FeatureValue::Text("gold"), FeatureValue::Missing, FeatureValue::Flag(true)];
        encoder.encode(&values, NOW, &mut out).unwrap();
        assert_eq!(out, [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        assert!(encoder.encode(&values[..2], NOW, &mut out).is_err());
        assert!(encoder.encode(&values, NOW, &mut out[..6]).is_err());
        let nothing = FeatureEncoder::new(vec![]).unwrap();
        nothing.encode(&[], NOW, &mut []).unwrap();
        assert_eq!(nothing.width(), 0);
    }

    #[test]
    fn bad_declarations_and_values_name_the_feature() {
        let bad = [
            Encoding::OneHot(vec![]),
            Encoding::OneHot(vec!["a".into(), "a".into()]),
            Encoding::OneHot(vec![String::new()]),
            Encoding::OneHot((0..=MAX_ONE_HOT_VALUES).map(|i| i.to_string()).collect()),
            Encoding::AgeDays(vec![]),
            Encoding::AgeDays(vec![1.0, 1.0]),
            Encoding::AgeDays(vec![f64::NAN]),
        ];
        for encoding in bad {
            assert!(encoder(encoding).unwrap_err().to_string().contains("orders:x"));
        }
        let twice = EncodedFeature { feature: "a:b".into(), encoding: Encoding::Log };
        assert!(FeatureEncoder::new(vec![twice.clone(), twice]).unwrap_err().to_string().contains("twice"));
        let many = Encoding::OneHot((0..MAX_ONE_HOT_VALUES).map(|i| i.to_string()).collect());
        let many = (0..9).map(|i| EncodedFeature { feature: format!("a:{i}"), encoding: many.clone() }).collect();
        assert!(FeatureEncoder::new(many).unwrap_err().to_string().contains("8192"));
        let refused = [
            (Encoding::Log, FeatureValue::Text("7")),
            (Encoding::Flag, FeatureValue::Number(1.0)),
            (Encoding::AgeDays(vec![1.0]), FeatureValue::Number(1.0)),
            (Encoding::OneHot(vec!["a".into()]), FeatureValue::Time(0)),
        ];
        for (encoding, value) in refused {
            let encoder = encoder(encoding).unwrap();
            let message = encoder.encode(&[value], NOW, &mut vec![0.0; encoder.width()]).unwrap_err().to_string();
            assert!(message.contains("orders:x") && message.contains("cannot encode"), "{message}");
        }
    }

    #[test]
    fn encodings_read_as_they_are_written_in_larder_toml() {
        #[derive(Deserialize)]
        struct Table {
            encode: Vec<Encoding>,
        }
        let text = r#"encode = [{ one_hot = ["a", "b"] }, "log", { age_days = [1, 7.5] }, "flag"]"#;
        let expected = [
            Encoding::OneHot(vec!["a".into(), "b".into()]),
            Encoding::Log,
            Encoding::AgeDays(vec![1.0, 7.5]),
            Encoding::Flag,
        ];
        assert_eq!(toml::from_str::<Table>(text).unwrap().encode, expected);
        assert!(toml::from_str::<Table>(r#"encode = ["square"]"#).is_err());
    }
}
