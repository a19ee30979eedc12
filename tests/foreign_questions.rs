//! The encoder understands customers' questions that nobody here wrote: banking77, found below LARDER_SHARED.

use std::collections::BTreeMap;
use std::path::Path;

use larder_model::{Catalogue, CatalogueIndex, Intent};

use crate::model_parity::encoder;
use crate::support::shared_data;

/// Examples and questions taken of each of the 77 categories: enough to tell understanding from chance within seconds.
const EXAMPLES: usize = 10;
const QUESTIONS: usize = 3;

/// Texts by category, the first `limit` of each.
pub(crate) fn read(file: &Path, limit: usize) -> BTreeMap<String, Vec<String>> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records(&std::fs::read_to_string(file).unwrap()).into_iter().skip(1) {
        let [text, category] = record.try_into().unwrap();
        let texts = texts.entry(category).or_default();
        if texts.len() < limit {
            texts.push(text.trim().to_owned());
        }
    }
    texts
}

/// Comma-separated records with quoted fields, line breaks within quotes included.
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !quoted => {}
            other => field.push(other),
        }
    }
    records
}

#[test]
fn the_nearest_example_names_the_category_of_most_foreign_questions() {
    let Some(train) = shared_data("the_nearest_example_names_the_category", "banking77/train.csv") else { return };
    let examples = read(&train, EXAMPLES);
    let questions = read(&train.with_file_name("test.csv"), QUESTIONS);
    assert_eq!((examples.len(), questions.len()), (77, 77));

    let names: Vec<&String> = examples.keys().collect();
    let intent = |(at, examples): (usize, &Vec<String>)| Intent {
        name: format!("category_{at}"),
        title: names[at].clone(),
        examples: examples.clone(),
        answer: "An answer.".to_owned(),
        answer_without_features: "An answer.".to_owned(),
    };
    let catalogue = Catalogue::new(examples.values().enumerate().map(intent).collect()).unwrap();
    let index = CatalogueIndex::build(encoder(), &catalogue, &mut |_, _| {}).unwrap();

    let asked: Vec<(usize, &str)> = questions
        .iter()
        .flat_map(|(category, texts)| {
            let at = names.iter().position(|name| *name == category).unwrap();
            texts.iter().map(move |text| (at, text.as_str()))
        })
        .collect();
    let texts: Vec<&str> = asked.iter().map(|(_, text)| *text).collect();
    let cosines = index.best_cosines(&encoder().encode_texts(&texts).unwrap()).unwrap();
    let nearest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let right = cosines.chunks_exact(77).zip(&asked).filter(|(row, (category, _))| nearest(row) == *category).count();
    let share = right as f64 / asked.len() as f64;
    assert!(share > 0.75, "{right} of {} right; with all of train.csv the figure is 92 %", asked.len());
}
