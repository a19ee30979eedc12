//! Promise: a head trained on a catalogue's own examples answers questions that nobody here wrote better than similarity does, its
//! confidence can be believed, and questions of intents it never saw are told apart: banking77, found below LARDER_SHARED.
//!
//! A part small enough for every run, all of it taken from train.csv; `larder model eval` on all of it gives the figures of docs/models.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::foreign_questions::read;
use crate::support::command::run;
use crate::support::{encoder_folder, shared_data};

/// Every so many of the 77 categories is taken.
const EVERY: usize = 6;
/// Texts of each category: examples first, then questions.
const EXAMPLES: usize = 30;
const QUESTIONS: usize = 20;

/// Writes a CSV of texts by category.
fn write(file: &Path, header: &str, texts: &BTreeMap<&String, &[String]>) {
    let quoted = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
    let line = |category: &String, text: &String| format!("{},{}\n", quoted(text), quoted(category));
    let lines: String =
        texts.iter().flat_map(|(category, texts)| texts.iter().map(move |text| line(category, text))).collect();
    fs::write(file, format!("{header}\n{lines}")).unwrap();
}

#[test]
fn a_head_trained_on_foreign_examples_answers_well_and_knows_what_it_does_not_know() {
    let Some(train) = shared_data("a_head_trained_on_foreign_examples", "banking77/train.csv") else { return };
    let texts = read(&train, EXAMPLES + QUESTIONS);
    let taken: Vec<(&String, &Vec<String>)> =
        texts.iter().filter(|(_, texts)| texts.len() == EXAMPLES + QUESTIONS).step_by(EVERY).collect();
    let folder = tempfile::tempdir().unwrap();
    let (catalogue, questions) = (folder.path().join("catalogue.csv"), folder.path().join("questions.csv"));
    write(&catalogue, "text,category", &taken.iter().map(|(name, texts)| (*name, &texts[..EXAMPLES])).collect());
    write(&questions, "text,category", &taken.iter().map(|(name, texts)| (*name, &texts[EXAMPLES..])).collect());
    let [catalogue, questions] = [&catalogue, &questions].map(|file| file.to_str().unwrap());
    let encoder = encoder_folder();
    let eval = ["model", "eval", "--catalogue", catalogue, "--questions", questions];
    let options = ["--encoder", encoder.to_str().unwrap(), "--left-out-intents", "2", "--draws", "2", "--json"];
    let ran = run(&[&eval[..], &options].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    let rungs: Value = serde_json::from_str(&ran.stdout).unwrap();
    let (rung, figure) = (&rungs[0], |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}")));
    let evaluation = &rung["evaluation"];
    assert_eq!(evaluation["questions"], taken.len() * QUESTIONS);
    assert_eq!(evaluation["intents"].as_array().unwrap().len(), taken.len());
    let top_1 = figure(&evaluation["top_1"]);
    assert!(top_1 >= 0.95, "{top_1}");
    assert!(figure(&evaluation["top_3"]) >= 0.98, "{evaluation}");
    assert!(figure(&evaluation["ece"]) <= 0.08, "{evaluation}");
    assert!(figure(&evaluation["auroc"]) >= 0.85, "{evaluation}");
    assert!(figure(&evaluation["most_confident_80"]) >= 0.98, "{evaluation}");
    let draws = rung["left_out"].as_array().unwrap();
    assert_eq!(draws.len(), 2);
    assert_ne!(draws[0]["intents"], draws[1]["intents"]);
    for draw in draws {
        assert_eq!(draw["questions"], 2 * QUESTIONS);
        assert!(figure(&draw["auroc"]) >= 0.85, "{draw}");
    }
    assert!(figure(&rung["time"]["single_us"]) > 0.0);

    // What training saw of itself: not that every question is its own example, and not much else than the test then shows.
    let report = &rung["training"]["report"];
    let by_similarity = figure(&report["similarity_top_1"]);
    assert!(by_similarity < 0.99, "{by_similarity}: questions were compared with themselves");
    assert!((figure(&report["top_1"]) - top_1).abs() < 0.05, "{report} {top_1}");
    let weights = [&report["similarity_weight"], &report["vector_weight"]].map(figure);
    assert!(weights.iter().all(|weight| *weight > 0.05), "both parts count: {weights:?}");
}

#[test]
fn files_that_cannot_be_meant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [good, bad] = ["good.csv", "bad.csv"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&good, "text,category\nwhere is my card,card\nmy card is lost,card\n").unwrap();
    let encoder = encoder_folder().display().to_string();
    let refused = |arguments: &[&str], says: &str| {
        let ran = run(&[&["model", "eval"], arguments].concat());
        assert_eq!(ran.code, Some(1), "{}", ran.stdout);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    };
    fs::write(&bad, "text,label\nwhere is my card,card\n").unwrap();
    refused(&["--catalogue", &good, "--questions", &bad, "--encoder", &encoder], "bad.csv has no column \"category\"");
    fs::write(&bad, "text,category\nwhere is my car,car\n").unwrap();
    refused(
        &["--catalogue", &good, "--questions", &bad, "--encoder", &encoder],
        "the catalogue has no category \"car\"",
    );
    fs::write(&bad, "text,category\nwhere is it,card\n").unwrap();
    refused(&["--catalogue", &good, "--questions", &bad, "--encoder", &encoder], "6 intents cannot be left out of 1");
    let few = ["--catalogue", &good, "--questions", &bad, "--encoder", &encoder, "--left-out-intents", "0"];
    refused(&few, "2 different texts; at least 20 are needed");
}
