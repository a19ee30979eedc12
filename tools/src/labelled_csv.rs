//! Labelled questions in CSV: the columns `text` and `category`, and `tenant` and `user` where they matter, in any order.
//!
//! A category becomes an intent's name: letters small, everything but letters and digits an underscore. Whatever cannot be meant is
//! refused with the file and line, because a label that is read wrongly looks like a model that answers wrongly.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use larder_model::{Catalogue, Intent, LabelledQuestion};
use serde::Deserialize;

/// The largest file.
const MAX_BYTES: u64 = 256 << 20;
/// The most questions of one file.
const MAX_QUESTIONS: usize = 1_000_000;
/// The columns there may be; the first two must be.
const COLUMNS: [&str; 4] = ["text", "category", "tenant", "user"];

/// One line.
#[derive(Debug, Deserialize)]
struct Row {
    text: String,
    category: String,
    tenant: Option<String>,
    user: Option<String>,
}

/// The questions of a file, those of `tenant` where one is named.
pub(crate) fn read_questions(path: &Path, tenant: Option<&str>) -> Result<Vec<LabelledQuestion>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let size = file.metadata().with_context(|| format!("cannot read {shown}"))?.len();
    ensure!(size <= MAX_BYTES, "{shown} has {size} bytes; at most {MAX_BYTES} are read");
    let mut reader = csv::Reader::from_reader(file);
    check_columns(reader.headers().with_context(|| format!("{shown} is no CSV in UTF-8"))?, path)?;

    let mut questions = Vec::new();
    let mut tenants = BTreeMap::<String, usize>::new();
    for (number, row) in reader.deserialize::<Row>().enumerate() {
        ensure!(number < MAX_QUESTIONS, "{shown}: at most {MAX_QUESTIONS} questions are read");
        let row = row.with_context(|| format!("{shown}: question {} cannot be read", number + 1))?;
        ensure!(!row.text.trim().is_empty(), "{shown}: question {} has no text", number + 1);
        let intent = intent_name(&row.category);
        ensure!(!intent.is_empty(), "{shown}: question {} has the category {:?}", number + 1, row.category);
        let of = row.tenant.unwrap_or_default();
        *tenants.entry(of.clone()).or_default() += 1;
        if tenant.is_none_or(|tenant| tenant == of) {
            let user = row.user.unwrap_or_default();
            let (asked_at_ms, features) = (0, BTreeMap::new());
            questions.push(LabelledQuestion { tenant: of, user, text: row.text, intent, asked_at_ms, features });
        }
    }
    let known: Vec<&str> = tenants.keys().map(String::as_str).collect();
    if tenant.is_none() && known.len() > 1 {
        bail!("{shown} has questions of several tenants ({}); name one by --tenant", known.join(", "));
    }
    if questions.is_empty() {
        bail!("{shown} has no question{}", tenant.map(|tenant| format!(" of tenant {tenant:?}")).unwrap_or_default());
    }
    Ok(questions)
}

/// A catalogue whose examples are these questions and whose answers nobody will read.
pub(crate) fn catalogue_of(questions: &[LabelledQuestion]) -> Result<Catalogue> {
    let mut examples = BTreeMap::<&str, Vec<String>>::new();
    for question in questions {
        examples.entry(&question.intent).or_default().push(question.text.clone());
    }
    let intent = |(name, examples): (&str, Vec<String>)| Intent {
        name: name.to_owned(),
        title: name.replace('_', " "),
        examples,
        answer: name.to_owned(),
        answer_without_features: name.to_owned(),
    };
    Ok(Catalogue::new(examples.into_iter().map(intent).collect())?)
}

fn check_columns(found: &csv::StringRecord, path: &Path) -> Result<()> {
    let shown = path.display();
    for needed in &COLUMNS[..2] {
        let have = found.iter().collect::<Vec<_>>().join(", ");
        ensure!(
            found.iter().any(|column| column == *needed),
            "{shown} has no column {needed:?}; its first line is {have}"
        );
    }
    for (number, column) in found.iter().enumerate() {
        let allowed = COLUMNS.join(", ");
        ensure!(COLUMNS.contains(&column), "{shown}: column {column:?} is unknown; there may be {allowed}");
        ensure!(
            found.iter().position(|other| other == column) == Some(number),
            "{shown}: column {column:?} is there twice"
        );
    }
    Ok(())
}

/// "Refund not showing up?" as "refund_not_showing_up".
fn intent_name(category: &str) -> String {
    let small = category.trim().to_lowercase();
    let name: String = small.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    name.trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, tenant: Option<&str>) -> Result<Vec<LabelledQuestion>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.csv");
        std::fs::write(&path, text).unwrap();
        read_questions(&path, tenant)
    }

    #[test]
    fn lines_become_questions_and_a_catalogue() {
        let questions =
            read("category,text\nCard lost?,\"Where,\nis it\"\nRefund,Money back\nCard lost?,Gone\n", None).unwrap();
        assert_eq!(questions[0].text, "Where,\nis it");
        let intents: Vec<&str> = questions.iter().map(|question| question.intent.as_str()).collect();
        assert_eq!(intents, ["card_lost", "refund", "card_lost"]);
        let catalogue = catalogue_of(&questions).unwrap();
        let examples: Vec<usize> = catalogue.intents.iter().map(|intent| intent.examples.len()).collect();
        assert_eq!(examples, [2, 1]);
    }

    #[test]
    fn tenants_are_kept_apart() {
        let text = "text,category,tenant,user\na,x,one,u1\nb,x,two,\n";
        let questions = read(text, Some("one")).unwrap();
        assert_eq!((questions.len(), questions[0].user.as_str()), (1, "u1"));
        assert!(read(text, None).unwrap_err().to_string().contains("one, two"));
        assert!(read(text, Some("three")).unwrap_err().to_string().contains("\"three\""));
    }

    #[test]
    fn what_cannot_be_meant_names_file_and_place() {
        let refused = |text: &str| format!("{:#}", read(text, None).unwrap_err());
        for (text, says) in [
            ("text,label\na,b\n", "no column \"category\""),
            ("text,category,colour\na,b,c\n", "\"colour\" is unknown"),
            ("text,category,text\na,b,c\n", "there twice"),
            ("text,category\na,b\n ,b\n", "question 2 has no text"),
            ("text,category\na,?!\n", "question 1 has the category"),
            ("text,category\na,b\na\n", "question 2 cannot be read"),
            ("text,category\n", "no question"),
            ("", "no column"),
        ] {
            let message = refused(text);
            assert!(message.contains(says) && message.contains("questions.csv"), "{message}");
        }
    }
}
