//! Feedback: answers as a node gave them, and whether they helped. One JSON object per line of a file, from which a ranking head learns
//! beside labelled questions.
//!
//! The features are those that the answer was made with, so what is learned is what was known at the time. Not all feedback says what would
//! have been right: an answer that did not help, and of which nobody knows better, teaches a head nothing and is counted only.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::{Catalogue, OUT_OF_SCOPE};
use crate::error::Error;
use crate::question::{LabelledQuestion, load_lines};

/// An answer as it was given, with what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnsweredQuestion {
    /// The tenant who was asked.
    pub tenant: String,
    /// The user who asked.
    pub user: String,
    /// The question.
    pub text: String,
    /// When it was asked, Unix milliseconds UTC.
    pub asked_at_ms: i64,
    /// The values that the ranking head saw, by `view:feature`; points in time are Unix milliseconds, missing ones null.
    #[serde(default)]
    pub features: BTreeMap<String, Value>,
    /// The intent of the answer; empty where it was handed over.
    pub answered: String,
    /// The probability of the best intent.
    pub confidence: f32,
    /// What made the answer: "full", "light" or "cached".
    pub rung: String,
    /// The best intents with their probabilities, the best first.
    #[serde(default)]
    pub candidates: Vec<(String, f32)>,
}

/// An answer with what somebody said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackRecord {
    /// Names the answer.
    pub answer_id: String,
    /// The answer.
    #[serde(flatten)]
    pub answer: AnsweredQuestion,
    /// Whether it helped.
    pub helped: bool,
    /// What would have been right, as far as somebody knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_intent: Option<String>,
    /// When it was said, Unix milliseconds UTC.
    pub judged_at_ms: i64,
    /// What a head learns of it: the right intent, or the answer's own where it helped. A line that has it is a labelled question too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
}

impl FeedbackRecord {
    /// An answer, whether it helped and what would have been right. A hand-over that helped does not say that the question is out of scope.
    pub fn new(
        answer_id: String,
        answer: AnsweredQuestion,
        helped: bool,
        right_intent: Option<String>,
        judged_at_ms: i64,
    ) -> FeedbackRecord {
        let confirmed = (helped && !answer.answered.is_empty()).then(|| answer.answered.clone());
        let intent = right_intent.clone().or(confirmed);
        FeedbackRecord { answer_id, answer, helped, right_intent, judged_at_ms, intent }
    }

    /// Reads a file of one JSON object per line; empty lines are skipped.
    ///
    /// # Errors
    /// Names the file and the line that cannot be read.
    pub fn load(path: &Path) -> Result<Vec<FeedbackRecord>, Error> {
        load_lines(path)
    }
}

/// What became of the lines of feedback.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FeedbackCounts {
    /// Lines of the tenant.
    pub records: usize,
    /// Learned from: the answer was right.
    pub confirmed: usize,
    /// Learned from: another intent would have been right.
    pub corrected: usize,
    /// Left out: nobody knew what would have been right.
    pub without_intent: usize,
    /// Left out: the catalogue has that intent no more.
    pub unknown_intent: usize,
    /// Left out: the same user said something later of the same words with the same features.
    pub superseded: usize,
}

/// The questions of a tenant that feedback makes, and what became of all lines.
///
/// Of one user's equal words with equal features only what was said last counts, so that nobody teaches a head by saying the same a thousand times.
/// The same words of another day, when the user's order had moved on, are another question.
pub fn learnable(
    records: Vec<FeedbackRecord>,
    tenant: &str,
    catalogue: &Catalogue,
) -> (Vec<LabelledQuestion>, FeedbackCounts) {
    let records: Vec<FeedbackRecord> = records.into_iter().filter(|record| record.answer.tenant == tenant).collect();
    let mut counts = FeedbackCounts { records: records.len(), ..FeedbackCounts::default() };
    let mut last: HashMap<[String; 3], (i64, usize)> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let said = (record.judged_at_ms, number);
        let latest = last.entry(question(&record.answer)).or_insert(said);
        *latest = said.max(*latest);
    }
    let mut questions = Vec::new();
    for (number, record) in records.into_iter().enumerate() {
        if last.get(&question(&record.answer)).is_some_and(|(_, latest)| *latest != number) {
            counts.superseded += 1;
            continue;
        }
        let FeedbackRecord { answer, intent, .. } = record;
        let Some(intent) = intent else {
            counts.without_intent += 1;
            continue;
        };
        if intent != OUT_OF_SCOPE && catalogue.position(&intent).is_none() {
            counts.unknown_intent += 1;
            continue;
        }
        match intent == answer.answered {
            true => counts.confirmed += 1,
            false => counts.corrected += 1,
        }
        let AnsweredQuestion { tenant, user, text, asked_at_ms, features, .. } = answer;
        questions.push(LabelledQuestion { tenant, user, text, intent, asked_at_ms, features });
    }
    (questions, counts)
}

/// What makes two answers be about the same question.
fn question(answer: &AnsweredQuestion) -> [String; 3] {
    let features = Value::from_iter(answer.features.clone());
    [answer.user.clone(), answer.text.trim().to_lowercase(), features.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Intent;

    fn answer(user: &str, text: &str, answered: &str) -> AnsweredQuestion {
        AnsweredQuestion {
            tenant: "demo".to_owned(),
            user: user.to_owned(),
            text: text.to_owned(),
            asked_at_ms: 7,
            features: [("orders:status".to_owned(), "delayed".into())].into(),
            answered: answered.to_owned(),
            confidence: 0.75,
            rung: "full".to_owned(),
            candidates: vec![("late".to_owned(), 0.75)],
        }
    }

    fn said(answer: AnsweredQuestion, helped: bool, right: Option<&str>, at_ms: i64) -> FeedbackRecord {
        FeedbackRecord::new("id".to_owned(), answer, helped, right.map(str::to_owned), at_ms)
    }

    fn catalogue() -> Catalogue {
        let intent = |name: &str| Intent {
            name: name.to_owned(),
            title: name.to_owned(),
            examples: vec![format!("{name}?")],
            answer: "Sorry.".to_owned(),
            answer_without_features: "Sorry.".to_owned(),
        };
        Catalogue::new(vec![intent("late"), intent("refund")]).unwrap()
    }

    #[test]
    fn a_line_with_an_intent_is_a_labelled_question_too() {
        let record = said(answer("ada", "where is it?", "late"), true, None, 9);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<FeedbackRecord>(&line).unwrap(), record);
        let question: LabelledQuestion = serde_json::from_str(&line).unwrap();
        assert_eq!((question.intent.as_str(), question.asked_at_ms), ("late", 7));
        assert_eq!(question.features["orders:status"], "delayed");
    }

    #[test]
    fn what_was_right_is_taken_from_what_was_said() {
        let intent = |answered, helped, right| said(answer("ada", "x", answered), helped, right, 0).intent;
        assert_eq!(intent("late", true, None).as_deref(), Some("late"));
        assert_eq!(intent("late", false, Some("refund")).as_deref(), Some("refund"));
        assert_eq!(intent("late", false, None), None);
        assert_eq!(intent("", true, None), None, "a person helped; with what is not known");
        assert_eq!(intent("", false, Some(OUT_OF_SCOPE)).as_deref(), Some(OUT_OF_SCOPE));
    }

    #[test]
    fn every_line_is_learned_from_or_counted() {
        let mut other = said(answer("ada", "x", "late"), true, None, 0);
        other.answer.tenant = "other".to_owned();
        let mut next_day = said(answer("ada", "where is it?", "late"), true, None, 4);
        next_day.answer.features.insert("orders:status".to_owned(), "delivered".into());
        let records = vec![
            other,
            next_day,
            said(answer("ada", "where is it?", "late"), true, None, 5),
            said(answer("ada", "Where is it? ", "late"), false, Some("refund"), 8),
            said(answer("ada", "where is it?", "late"), true, None, 6),
            said(answer("bob", "where is it?", "late"), true, None, 1),
            said(answer("bob", "hm", "late"), false, None, 2),
            said(answer("bob", "hm hm", "late"), false, Some("gone"), 3),
            said(answer("bob", "2 + 2?", "late"), false, Some(OUT_OF_SCOPE), 3),
        ];
        let (questions, counts) = learnable(records, "demo", &catalogue());
        let learned: Vec<_> = questions.iter().map(|question| (&*question.user, &*question.intent)).collect();
        assert_eq!(learned, [("ada", "late"), ("ada", "refund"), ("bob", "late"), ("bob", OUT_OF_SCOPE)]);
        let expected = FeedbackCounts {
            records: 8,
            confirmed: 2,
            corrected: 2,
            without_intent: 1,
            unknown_intent: 1,
            superseded: 2,
        };
        assert_eq!(counts, expected);
    }
}
