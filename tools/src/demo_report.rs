//! What the demo shows a person: ten of its questions as one would want to read them, and the figures of all of them.

use std::collections::BTreeSet;

use crate::answer_text::short;
use crate::demo_ask::Asked;
use crate::demo_figures::Figures;
use crate::output::{bold, faint, say, table};
use crate::shop_questions::QuestionKind;

const PLAIN_SHOWN: usize = 5;
const AMBIGUOUS_PAIRS_SHOWN: usize = 2;

/// Ten questions: plain ones, the same words from different users, and one that is handed over.
pub(crate) fn show_examples(asked: &[Asked]) {
    say!("");
    for (number, asked) in examples(asked).into_iter().enumerate() {
        let question = &asked.test.question;
        say!("{:2}. {} {}", number + 1, bold(&question.text), faint(format!("({})", question.user)));
        match &asked.outcome {
            Ok(reply) => say!("    {}\n    {}\n", reply.answer, faint(short(reply))),
            Err(status) => say!("    refused: {}\n", status.message()),
        }
    }
}

fn examples(asked: &[Asked]) -> Vec<&Asked> {
    let of_kind = |kind| asked.iter().filter(move |asked| asked.test.kind == kind && asked.is_right());
    let mut plain: Vec<&Asked> = of_kind(QuestionKind::Plain).collect();
    plain.sort_by_key(|asked| !names_an_order(asked));
    let mut intents = BTreeSet::new();
    plain.retain(|asked| intents.insert(asked.test.question.intent.as_str()));
    plain.truncate(PLAIN_SHOWN);
    let ambiguous: Vec<&Asked> = of_kind(QuestionKind::Ambiguous).collect();
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::new();
    for (index, first) in ambiguous.iter().enumerate() {
        let twin = ambiguous[index + 1..].iter().find(|second| are_a_pair(first, second));
        if let Some(second) = twin
            && seen.insert(group_of(first, &ambiguous))
        {
            pairs.extend([*first, *second]);
        }
    }
    pairs.truncate(2 * AMBIGUOUS_PAIRS_SHOWN);
    plain.into_iter().chain(pairs).chain(of_kind(QuestionKind::OutOfScope).take(1)).collect()
}

/// The tables, and every wrong answer.
pub(crate) fn show_summary(figures: &Figures) {
    say!("{}", quality(figures));
    say!("{}", times(figures));
    let Figures { batches, mean_batch, largest_batch, hot_hits, warm_hits, .. } = figures;
    say!(
        "{batches} batches, {mean_batch:.1} questions each on average, {largest_batch} at most; {hot_hits} hot and {warm_hits} warm reads"
    );
    say!(
        "No test question shares more than {} words in a row with a text the model has seen.",
        figures.longest_shared_run
    );
    for wrong in &figures.wrong {
        say!("wrong: {:?} ({}), expected {}: {}", wrong.text, wrong.user, wrong.expected, wrong.got);
    }
}

/// Right answers by kind, the model's beside those of the nearest neighbour by words.
fn quality(figures: &Figures) -> comfy_table::Table {
    let rows = figures.quality.iter().map(|quality| {
        let share = |right: usize| format!("{right} ({:.1} %)", 100.0 * right as f64 / quality.asked.max(1) as f64);
        let name = match quality.questions {
            "ambiguous" => "ambiguous, decided by a feature",
            "out_of_scope" => "out of scope, to be handed over",
            name => name,
        };
        [name.to_owned(), quality.asked.to_string(), share(quality.right), share(quality.right_by_words)]
    });
    table(["questions", "asked", "right: Larder", "right: bag of words"], rows)
}

/// Percentiles of every stage on the node, and of the whole as the customer saw it.
fn times(figures: &Figures) -> comfy_table::Table {
    let rows = figures.times.iter().map(|times| {
        let name = match times.stage {
            "node" => "node, whole",
            "customer" => "customer, whole",
            stage => stage,
        };
        let [p50, p90, p99, max] =
            [times.p50_ms, times.p90_ms, times.p99_ms, times.max_ms].map(|ms| format!("{ms:.2}"));
        [name.to_owned(), p50, p90, p99, max]
    });
    table(["time in ms", "p50", "p90", "p99", "max"], rows)
}

/// The same words from two users who mean different things.
fn are_a_pair(first: &Asked, second: &Asked) -> bool {
    let (first, second) = (&first.test.question, &second.test.question);
    first.text == second.text && first.user != second.user && first.intent != second.intent
}

/// The least intent that shares words with this one: names the group of an ambiguous question.
fn group_of<'a>(asked: &'a Asked, ambiguous: &[&'a Asked]) -> &'a str {
    let text = &asked.test.question.text;
    let same = ambiguous.iter().filter(|other| other.test.question.text == *text);
    same.map(|other| other.test.question.intent.as_str()).min().unwrap_or_default()
}

/// Whether the answer names an order: the shop's order numbers have seven digits.
fn names_an_order(asked: &Asked) -> bool {
    let digits = |answer: &str| answer.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() == 7);
    asked.outcome.as_ref().is_ok_and(|reply| digits(&reply.answer))
}
