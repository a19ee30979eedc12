//! The answer catalogue: a tenant's intents, each with example questions and answer templates, read from TOML.
//!
//! The catalogue's version is the SHA-256 of its content, so that a head trained for one catalogue is refused for another whatever the
//! files are called, and reformatting the file changes nothing. Templates are text here; the node compiles them.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// The name of the class for questions that no intent answers; no intent may have it.
pub const OUT_OF_SCOPE: &str = "out_of_scope";

/// The largest catalogue file.
const MAX_BYTES: u64 = 256 << 20;
/// The most intents of a catalogue.
const MAX_INTENTS: usize = 5_000;
/// The most examples of all intents together.
const MAX_EXAMPLES: usize = 2_000_000;
/// The longest example question.
const MAX_EXAMPLE_CHARS: usize = 2_000;
/// The longest intent name.
const MAX_NAME_CHARS: usize = 64;
/// The longest title.
const MAX_TITLE_CHARS: usize = 200;
/// The longest answer template.
const MAX_ANSWER_CHARS: usize = 20_000;

/// One thing a user may want, and what to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Unique, of `[a-z0-9_]`; the label of training questions.
    pub name: String,
    /// The intent in words, for people.
    pub title: String,
    /// Questions as users ask them; the similarity of a question to an intent is that to its nearest example.
    pub examples: Vec<String>,
    /// The answer as a template over the user's features.
    pub answer: String,
    /// The answer where the user's features are unknown: plain text, shown as it is.
    pub answer_without_features: String,
}

/// A checked catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// SHA-256 of the content, in hexadecimal.
    pub version: String,
    /// The intents in the file's order, which is the order of every score.
    pub intents: Vec<Intent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    #[serde(default)]
    intent: Vec<Intent>,
}

impl Catalogue {
    /// Reads and checks a catalogue file of `[[intent]]` tables.
    pub fn load(path: &Path) -> Result<Catalogue, Error> {
        let size = std::fs::metadata(path).map_err(|source| Error::reading(path, source))?.len();
        if size > MAX_BYTES {
            return Err(Error::catalogue(
                path.display().to_string(),
                format!("{size} bytes; at most {MAX_BYTES} are allowed"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::reading(path, source))?;
        Catalogue::from_toml(&text).map_err(|error| match error {
            Error::FixCatalogue { place, problem } => Error::catalogue(format!("{}: {place}", path.display()), problem),
            other => other,
        })
    }

    /// Reads and checks a catalogue from TOML text.
    pub fn from_toml(text: &str) -> Result<Catalogue, Error> {
        let file: CatalogueFile = toml::from_str(text).map_err(|error| Error::catalogue("TOML", error.to_string()))?;
        Catalogue::new(file.intent)
    }

    /// Checks intents that come from elsewhere than a file.
    pub fn new(intents: Vec<Intent>) -> Result<Catalogue, Error> {
        check(&intents)?;
        let canonical = serde_json::to_vec(&intents).map_err(|error| Error::fault("hashing the catalogue", error))?;
        let version = Sha256::digest(&canonical).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Catalogue { version, intents })
    }

    /// The position of an intent by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.intents.iter().position(|intent| intent.name == name)
    }
}

fn check(intents: &[Intent]) -> Result<(), Error> {
    if intents.is_empty() || intents.len() > MAX_INTENTS {
        return Err(Error::catalogue(
            "[[intent]]",
            format!("{} intents; allowed are 1 to {MAX_INTENTS}", intents.len()),
        ));
    }
    let examples: usize = intents.iter().map(|intent| intent.examples.len()).sum();
    if examples > MAX_EXAMPLES {
        return Err(Error::catalogue("examples", format!("{examples} in all; at most {MAX_EXAMPLES} are allowed")));
    }
    let mut names = HashSet::new();
    for (number, intent) in intents.iter().enumerate() {
        check_name(number, &intent.name)?;
        if !names.insert(intent.name.as_str()) {
            return Err(Error::catalogue(format!("intent {}", intent.name), "this name appears twice"));
        }
        check_texts(intent)?;
    }
    Ok(())
}

fn check_name(number: usize, name: &str) -> Result<(), Error> {
    let place = || format!("intent number {} ({name:?})", number + 1);
    let well_formed = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !well_formed {
        return Err(Error::catalogue(place(), format!("a name is 1 to {MAX_NAME_CHARS} of a-z, 0-9 and _")));
    }
    if name == OUT_OF_SCOPE {
        return Err(Error::catalogue(place(), "this name is kept for questions that no intent answers"));
    }
    Ok(())
}

fn check_texts(intent: &Intent) -> Result<(), Error> {
    let refuse =
        |field: &str, problem: String| Err(Error::catalogue(format!("intent {}: {field}", intent.name), problem));
    if intent.examples.is_empty() {
        return refuse("examples", "at least one example question is needed".to_owned());
    }
    for (number, example) in intent.examples.iter().enumerate() {
        if example.trim().is_empty() || example.chars().count() > MAX_EXAMPLE_CHARS {
            return refuse(
                &format!("example {}", number + 1),
                format!("must have 1 to {MAX_EXAMPLE_CHARS} characters"),
            );
        }
    }
    let fields = [
        ("title", &intent.title, MAX_TITLE_CHARS),
        ("answer", &intent.answer, MAX_ANSWER_CHARS),
        ("answer_without_features", &intent.answer_without_features, MAX_ANSWER_CHARS),
    ];
    for (field, text, most) in fields {
        if text.trim().is_empty() || text.chars().count() > most {
            return refuse(field, format!("must have 1 to {most} characters"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(name: &str) -> Intent {
        Intent {
            name: name.to_owned(),
            title: "Where is my order".to_owned(),
            examples: vec!["Where is my order?".to_owned()],
            answer: "On its way.".to_owned(),
            answer_without_features: "Please log in.".to_owned(),
        }
    }

    fn refused(intents: Vec<Intent>) -> String {
        Catalogue::new(intents).unwrap_err().to_string()
    }

    const TOML: &str = r#"
        [[intent]]
        name = "order_status"
        title = "Where is my order"
        examples = ["Where is my order?"]
        answer = "On its way."
        answer_without_features = "Please log in."
    "#;

    #[test]
    fn the_version_follows_the_content_and_not_the_form() {
        let catalogue = Catalogue::from_toml(TOML).unwrap();
        assert_eq!(catalogue, Catalogue::from_toml(&TOML.replace("        ", "")).unwrap());
        assert_eq!(catalogue.version.len(), 64);
        assert_eq!(catalogue.position("order_status"), Some(0));
        assert_eq!(catalogue.position("refund"), None);
        let other = Catalogue::from_toml(&TOML.replace("On its way.", "It is on its way.")).unwrap();
        assert_ne!(catalogue.version, other.version);
        let (one, two) = (intent("one"), intent("two"));
        let forth = Catalogue::new(vec![one.clone(), two.clone()]).unwrap();
        assert_ne!(forth.version, Catalogue::new(vec![two, one]).unwrap().version, "scores depend on the order");
    }

    #[test]
    fn every_rule_is_enforced_and_named() {
        assert!(refused(vec![]).contains("1 to 5000"));
        assert!(refused((0..=MAX_INTENTS).map(|i| intent(&format!("i{i}"))).collect()).contains("5001 intents"));
        assert!(refused(vec![intent("a"), intent("a")]).contains("twice"));
        for name in ["", "Refund", "re fund", "re-fund", &"x".repeat(MAX_NAME_CHARS + 1)] {
            assert!(refused(vec![intent(name)]).contains("a-z"), "{name}");
        }
        assert!(refused(vec![intent(OUT_OF_SCOPE)]).contains("kept"));
        let with = |change: fn(&mut Intent)| {
            let mut changed = intent("changed");
            change(&mut changed);
            refused(vec![changed])
        };
        assert!(with(|intent| intent.examples.clear()).contains("at least one example"));
        assert!(with(|intent| intent.examples.push(" ".into())).contains("example 2"));
        assert!(with(|intent| intent.examples.push("x".repeat(MAX_EXAMPLE_CHARS + 1))).contains("2000"));
        assert!(with(|intent| intent.examples = vec!["x".into(); MAX_EXAMPLES + 1]).contains("2000001 in all"));
        assert!(with(|intent| intent.title.clear()).contains("title"));
        assert!(with(|intent| intent.answer.clear()).contains("changed: answer:"));
        assert!(with(|intent| intent.answer_without_features.clear()).contains("answer_without_features"));
    }

    #[test]
    fn bad_files_say_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue.toml");
        assert!(Catalogue::load(&path).unwrap_err().to_string().contains("cannot read"));
        std::fs::write(&path, TOML.replace("order_status", "Order")).unwrap();
        let message = Catalogue::load(&path).unwrap_err().to_string();
        assert!(message.contains("catalogue.toml") && message.contains("intent number 1"), "{message}");
        std::fs::write(&path, TOML.replace("title", "titel")).unwrap();
        let message = Catalogue::load(&path).unwrap_err().to_string();
        assert!(message.contains("titel"), "{message}");
        std::fs::write(&path, TOML).unwrap();
        assert_eq!(Catalogue::load(&path).unwrap().intents.len(), 1);
    }
}
