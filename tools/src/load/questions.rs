//! What is asked: a file of texts, labelled or not, or a few questions that any shop's customers ask.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The most questions to draw from.
pub const MAX_QUESTIONS: usize = 1_000_000;

const BUILT_IN: [&str; 16] = [
    "where is my order?",
    "when will my parcel arrive?",
    "can I still cancel what I ordered?",
    "how do I send something back?",
    "I have not received my refund yet",
    "my package was damaged when it came",
    "how can I change my delivery address?",
    "I forgot my password",
    "do you sell gift cards?",
    "the payment did not go through, what now?",
    "I was charged twice",
    "can I get an invoice for my last purchase?",
    "how many loyalty points do I have?",
    "the tracking number does not work",
    "which delivery service brings my parcel?",
    "I would like to speak to a person",
];

/// A question as it stands in the file: what `larder sample` writes has more fields, which say nothing here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// The right intent; `out_of_scope` is answered rightly by handing over. Absent = not known.
    #[serde(default)]
    pub intent: Option<String>,
    /// Who asks it; absent = anybody.
    #[serde(default)]
    pub user: Option<String>,
    /// The tenant it is put to; absent = any.
    #[serde(default)]
    pub tenant: Option<String>,
}

impl Question {
    /// A text that anybody may ask.
    pub fn plain(text: &str) -> Question {
        Question { text: text.to_owned(), intent: None, user: None, tenant: None }
    }
}

/// The questions any shop's customers ask, without labels.
pub(crate) fn built_in() -> Vec<Question> {
    BUILT_IN.into_iter().map(Question::plain).collect()
}

/// Reads plain lines, or JSON lines with text and optionally intent, user and tenant.
pub(crate) fn read(path: &Path) -> Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} has no usable questions", path.display()))
}

fn parse(text: &str) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let question = match line.trim_start().starts_with('{') {
            true => serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?,
            false => Question::plain(line.trim()),
        };
        ensure!(!question.text.trim().is_empty(), "line {}: the text is empty", number + 1);
        questions.push(question);
        ensure!(questions.len() <= MAX_QUESTIONS, "more than {MAX_QUESTIONS} questions");
    }
    ensure!(!questions.is_empty(), "it has no line; each is a text, or a JSON object with a text");
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_labelled_lines_are_read() {
        let found = parse(
            "where is it?\n\n{\"text\": \"my parcel?\", \"intent\": \"order_in_transit\", \"user\": \"u1\", \"tenant\": \"demo\", \
             \"kind\": \"plain\", \"asked_at_ms\": 1, \"features\": {}}\n",
        )
        .unwrap();
        assert_eq!(found[0], Question::plain("where is it?"));
        assert_eq!(found[1].intent.as_deref(), Some("order_in_transit"));
        assert_eq!((found[1].user.as_deref(), found[1].tenant.as_deref()), (Some("u1"), Some("demo")));
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, says) in [("\n", "no line"), ("a\n{\"txt\": 1}", "line 2"), ("{\"text\": \" \"}", "line 1")] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
