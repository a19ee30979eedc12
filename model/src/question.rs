//! Labelled questions: what a ranking head learns from, one JSON object per line.
//!
//! The features are those logged with the answer at the time. Today's rows would leak the future into training: an order that is
//! delivered now was in transit when its owner asked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::features::{EncodedFeature, Encoding, FeatureEncoder, FeatureValue};

/// The most questions of one file.
const MAX_QUESTIONS: usize = 1_000_000;
/// The longest line of a file.
const MAX_LINE_BYTES: u64 = 256 << 10;

/// A question with its right intent and the features of its user at that time.
///
/// Further keys in a line are ignored, so that a file may say more about its questions than a head needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledQuestion {
    /// The tenant who was asked.
    pub tenant: String,
    /// The user who asked.
    pub user: String,
    /// The question.
    pub text: String,
    /// An intent's name, or `out_of_scope`.
    pub intent: String,
    /// When it was asked, Unix milliseconds UTC.
    pub asked_at_ms: i64,
    /// Values by `view:feature` as logged with the answer; points in time are Unix milliseconds. Absent and null mean missing.
    #[serde(default)]
    pub features: BTreeMap<String, Value>,
}

impl LabelledQuestion {
    /// Reads a file of one JSON object per line; empty lines are skipped.
    pub fn load(path: &Path) -> Result<Vec<LabelledQuestion>, Error> {
        load_lines(path)
    }

    /// Writes phi of this question's user at the time of asking into `out`.
    pub fn encode_features(&self, encoder: &FeatureEncoder, out: &mut [f32]) -> Result<(), Error> {
        let values = encoder.features().iter().map(|feature| self.value(feature)).collect::<Result<Vec<_>, Error>>()?;
        encoder.encode(&values, self.asked_at_ms, out)
    }

    fn value(&self, feature: &EncodedFeature) -> Result<FeatureValue<'_>, Error> {
        let value = match (self.features.get(&feature.feature), &feature.encoding) {
            (None | Some(Value::Null), _) => FeatureValue::Missing,
            (Some(Value::String(text)), _) => FeatureValue::Text(text),
            (Some(Value::Bool(flag)), _) => FeatureValue::Flag(*flag),
            (Some(Value::Number(number)), Encoding::AgeDays(_)) => match number.as_i64() {
                Some(time_ms) => FeatureValue::Time(time_ms),
                None => {
                    return Err(Error::feature(
                        &feature.feature,
                        format!("{number} is not a time in Unix milliseconds"),
                    ));
                }
            },
            (Some(Value::Number(number)), _) => number.as_f64().map_or(FeatureValue::Missing, FeatureValue::Number),
            (Some(other), _) => return Err(Error::feature(&feature.feature, format!("{other} is not a single value"))),
        };
        Ok(value)
    }
}

/// The objects of a file of one JSON object per line; empty lines are skipped.
pub(crate) fn load_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let mut reader = BufReader::new(File::open(path).map_err(|source| Error::reading(path, source))?);
    let mut questions = Vec::new();
    let mut line = String::new();
    for number in 1_usize.. {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE_BYTES + 1)
            .read_line(&mut line)
            .map_err(|source| Error::reading(path, source))?;
        if read == 0 {
            break;
        }
        let refuse = |problem: String| Err(Error::questions(format!("{} line {number}", path.display()), problem));
        if read as u64 > MAX_LINE_BYTES {
            return refuse(format!("is longer than {MAX_LINE_BYTES} bytes"));
        }
        if questions.len() == MAX_QUESTIONS {
            return refuse(format!("at most {MAX_QUESTIONS} questions are allowed"));
        }
        match serde_json::from_str(line.trim()) {
            _ if line.trim().is_empty() => {}
            Ok(question) => questions.push(question),
            Err(error) => return refuse(error.to_string()),
        }
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Vec<LabelledQuestion>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, text).unwrap();
        LabelledQuestion::load(&path)
    }

    const LINE: &str = r#"{"tenant":"demo","user":"7","text":"where is it?","intent":"late","asked_at_ms":86400000,"kind":"ambiguous","features":{"orders:status":"delayed","orders:total":null,"orders:placed_at":0,"profile:points":3}}"#;

    #[test]
    fn lines_become_questions_and_features_phi() {
        let questions = load(&format!("{LINE}\n\n{LINE}")).unwrap();
        assert_eq!(questions.len(), 2);
        let feature = |feature: &str, encoding| EncodedFeature { feature: feature.into(), encoding };
        let encoder = FeatureEncoder::new(vec![
            feature("orders:status", Encoding::OneHot(vec!["delayed".into()])),
            feature("orders:total", Encoding::Log),
            feature("orders:placed_at", Encoding::AgeDays(vec![0.5, 2.0])),
            feature("profile:points", Encoding::Log),
            feature("profile:is_business", Encoding::Flag),
        ])
        .unwrap();
        let mut phi = vec![0.0; encoder.width()];
        questions[0].encode_features(&encoder, &mut phi).unwrap();
        let log_of_3 = 4_f32.ln() / 10.0;
        let expected = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, log_of_3, 0.0, 0.0, 1.0];
        assert!(phi.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{phi:?}");
    }

    #[test]
    fn bad_lines_name_file_and_line() {
        let message = load(&format!("{LINE}\n{{\"tenant\":1}}")).unwrap_err().to_string();
        assert!(message.contains("train.jsonl line 2"), "{message}");
        let long = format!("{LINE}\n{}", "x".repeat(MAX_LINE_BYTES as usize + 1));
        assert!(load(&long).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn values_no_encoding_can_take_name_the_feature() {
        let encoder = |encoding| {
            FeatureEncoder::new(vec![EncodedFeature { feature: "orders:placed_at".into(), encoding }]).unwrap()
        };
        for (value, encoding) in [
            ("\"yesterday\"", Encoding::AgeDays(vec![1.0])),
            ("1.5", Encoding::AgeDays(vec![1.0])),
            ("[1]", Encoding::Log),
        ] {
            let line = LINE.replace("\"orders:placed_at\":0", &format!("\"orders:placed_at\":{value}"));
            let encoder = encoder(encoding);
            let error = load(&line).unwrap()[0].encode_features(&encoder, &mut vec![0.0; encoder.width()]).unwrap_err();
            assert!(error.to_string().contains("orders:placed_at"), "{error}");
        }
    }
}
