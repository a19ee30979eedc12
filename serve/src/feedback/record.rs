//! What is kept of an answer, and its bytes. A number in front says how the rest is laid out, so that a later program can read what an earlier
//! one left; what follows is JSON, in which a field more is no other format.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::Instant;

use larder_model::{AnsweredQuestion, FeedbackRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const FORMAT: u8 = 1;
/// Hexadecimal digits of an answer's id.
const DIGITS: usize = 32;

/// The name of an answer: a number that no other answer has, and that says nothing of how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AnswerId(pub(crate) u128);

impl AnswerId {
    pub(crate) fn random() -> AnswerId {
        // Both hashers have random keys of the system's, which differ.
        let half = || u128::from(RandomState::new().hash_one(Instant::now()));
        AnswerId(half() << 64 | half())
    }
}

impl fmt::Display for AnswerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:0DIGITS$x}", self.0)
    }
}

impl FromStr for AnswerId {
    type Err = ();

    /// The very form that is printed: the store finds an answer by it.
    fn from_str(text: &str) -> Result<AnswerId, ()> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != DIGITS || !text.bytes().all(digit) {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(AnswerId).map_err(|_| ())
    }
}

/// What somebody says of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) helped: bool,
    /// Of the tenant's catalogue, or out of scope.
    pub(crate) right_intent: Option<String>,
}

impl Verdict {
    /// Whether a record says just that.
    pub(crate) fn is_of(&self, record: &FeedbackRecord) -> bool {
        (self.helped, &self.right_intent) == (record.helped, &record.right_intent)
    }
}

/// An answer that waits for feedback. Its tenant is the log's to know, and empty here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptAnswer {
    pub(crate) answer_id: String,
    #[serde(flatten)]
    pub(crate) answer: AnsweredQuestion,
}

/// The bytes of an answer that waits.
pub(crate) fn encode_answer(answer: &KeptAnswer) -> Option<Vec<u8>> {
    encode(answer)
}

/// None for bytes that no program of this format wrote.
pub(crate) fn decode_answer(bytes: &[u8]) -> Option<KeptAnswer> {
    decode(bytes)
}

/// The bytes of an answer with its feedback.
pub(crate) fn encode_feedback(record: &FeedbackRecord) -> Option<Vec<u8>> {
    encode(record)
}

/// None for bytes that no program of this format wrote.
pub(crate) fn decode_feedback(bytes: &[u8]) -> Option<FeedbackRecord> {
    decode(bytes)
}

fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, value).ok()?;
    Some(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes.strip_prefix(&[FORMAT])?).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn answer(user: &str, text: &str) -> AnsweredQuestion {
        AnsweredQuestion {
            tenant: String::new(),
            user: user.to_owned(),
            text: text.to_owned(),
            asked_at_ms: 4_102_444_800_000,
            features: [("orders:status".to_owned(), "delayed".into()), ("orders:total".to_owned(), 0.1.into())].into(),
            answered: "order_delayed".to_owned(),
            confidence: 0.1,
            rung: "full".to_owned(),
            candidates: vec![("order_delayed".to_owned(), 0.1)],
        }
    }

    #[test]
    fn ids_come_back_from_their_text_and_nothing_else_does() {
        for number in [0, 1, u128::MAX / 3, u128::MAX] {
            assert_eq!(AnswerId(number).to_string().parse(), Ok(AnswerId(number)));
        }
        let (upper, signed) = ("F".repeat(32), format!("+{}", "0".repeat(31)));
        for text in ["", "0", &upper, &signed, &"0".repeat(33), &"é".repeat(16)] {
            assert_eq!(text.parse::<AnswerId>(), Err(()), "{text}");
        }
        let ids: std::collections::HashSet<_> = (0..1_000).map(|_| AnswerId::random()).collect();
        assert_eq!(ids.len(), 1_000);
    }

    #[test]
    fn records_come_back_to_the_bit_and_cut_bytes_do_not() {
        let answer = answer("ada", "où est ma commande ?");
        let kept = KeptAnswer { answer_id: AnswerId(5).to_string(), answer: answer.clone() };
        let bytes = encode_answer(&kept).unwrap();
        assert_eq!(decode_answer(&bytes), Some(kept));
        assert!((0..bytes.len()).all(|length| decode_answer(&bytes[..length]).is_none()));
        assert_eq!(decode_answer(&[b"\x02", &bytes[1..]].concat()), None);
        let record = FeedbackRecord::new("id".to_owned(), answer, false, Some("refund".to_owned()), 5);
        let bytes = encode_feedback(&record).unwrap();
        assert_eq!(decode_feedback(&bytes), Some(record.clone()));
        let verdict = |helped, right: Option<&str>| Verdict { helped, right_intent: right.map(str::to_owned) };
        assert!(verdict(false, Some("refund")).is_of(&record));
        assert!(!verdict(false, None).is_of(&record) && !verdict(true, Some("refund")).is_of(&record));
    }
}
