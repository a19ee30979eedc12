//! What the demo shows: ten of its questions as a person would want to read them, and the figures of all of them.

use std::collections::BTreeSet;

use anyhow::Result;
use hdrhistogram::Histogram;
use larder_model::{Catalogue, OUT_OF_SCOPE};
use larder_serve::v1;

use crate::answer_text::{STAGES, intent, short};
use crate::bag_of_words::{BagOfWords, longest_shared_run, words};
use crate::demo_ask::Asked;
use crate::output::{bold, faint, milliseconds, say, table};
use crate::shop_questions::QuestionKind;

const PLAIN_SHOWN: usize = 5;
const AMBIGUOUS_PAIRS_SHOWN: usize = 2;

/// Everything that the figures are made from.
pub(crate) struct Report<'a> {
    pub(crate) asked: &'a [Asked],
    pub(crate) catalogue: &'a Catalogue,
    /// `(intent, text)` of the training questions.
    pub(crate) trained: &'a [(String, String)],
    /// What the node counted while the questions were asked.
    pub(crate) hot_hits: u64,
    pub(crate) warm_hits: u64,
}

impl Report<'_> {
    /// Ten questions: plain ones, the same words from different users, and one that is handed over.
    pub(crate) fn show_examples(&self) {
        say!("");
        for (number, asked) in self.examples().into_iter().enumerate() {
            let question = &asked.test.question;
            say!("{:2}. {} {}", number + 1, bold(&question.text), faint(format!("({})", question.user)));
            match &asked.outcome {
                Ok(reply) => say!("    {}\n    {}\n", reply.answer, faint(short(reply))),
                Err(status) => say!("    refused: {}\n", status.message()),
            }
        }
    }

    fn examples(&self) -> Vec<&Asked> {
        let of_kind = |kind| self.asked.iter().filter(move |asked| asked.test.kind == kind && asked.is_right());
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
    pub(crate) fn show_summary(&self) -> Result<()> {
        say!("{}", self.quality());
        say!("{}", self.latency()?);
        let sizes = self.batch_sizes();
        say!(
            "{} batches, {:.1} questions each on average, {} at most; {} hot and {} warm reads",
            sizes.len(),
            self.mean_batch(),
            sizes.iter().max().unwrap_or(&0),
            self.hot_hits,
            self.warm_hits
        );
        say!(
            "No test question shares more than {} words in a row with a text the model has seen.",
            self.longest_shared_run()
        );
        for asked in self.asked.iter().filter(|asked| !asked.is_right()) {
            let question = &asked.test.question;
            let got = match &asked.outcome {
                Ok(reply) => intent(reply),
                Err(status) => format!("refused: {:?} {}", status.code(), status.message()),
            };
            say!("wrong: {:?} ({}), expected {}: {got}", question.text, question.user, question.intent);
        }
        Ok(())
    }

    /// The last line, for people and for programs.
    pub(crate) fn final_line(&self) -> Result<String> {
        let latencies = histogram(self.asked.iter().map(|asked| asked.latency_us))?;
        Ok(format!(
            "demo: answered={} correct={} p50_ms={} p99_ms={} batches={} mean_batch={:.2} hot_hits={}",
            self.replies().count(),
            self.asked.iter().filter(|asked| asked.is_right()).count(),
            milliseconds(latencies.value_at_quantile(0.5)),
            milliseconds(latencies.value_at_quantile(0.99)),
            self.batch_sizes().len(),
            self.mean_batch(),
            self.hot_hits
        ))
    }

    fn replies(&self) -> impl Iterator<Item = &v1::AnswerReply> {
        self.asked.iter().filter_map(|asked| asked.outcome.as_ref().ok())
    }

    /// Right answers by kind, the model's beside those of the nearest neighbour by words.
    fn quality(&self) -> comfy_table::Table {
        let baseline = BagOfWords::new(self.seen_texts());
        let by_words = |asked: &Asked| {
            let expected = asked.test.question.intent.as_str();
            baseline.nearest(&asked.test.question.text).map_or(OUT_OF_SCOPE, |near| near.label) == expected
        };
        let row = |name: &str, kinds: &[QuestionKind]| {
            let of_kinds = || self.asked.iter().filter(|asked| kinds.contains(&asked.test.kind));
            let total = of_kinds().count();
            let share = |right: usize| format!("{right} ({:.1} %)", 100.0 * right as f64 / total.max(1) as f64);
            [
                name.to_owned(),
                total.to_string(),
                share(of_kinds().filter(|asked| asked.is_right()).count()),
                share(of_kinds().filter(|asked| by_words(asked)).count()),
            ]
        };
        let all = [QuestionKind::Plain, QuestionKind::Ambiguous, QuestionKind::OutOfScope];
        table(
            ["questions", "asked", "right: Larder", "right: bag of words"],
            [
                row("plain", &all[..1]),
                row("ambiguous, decided by a feature", &all[1..2]),
                row("out of scope, to be handed over", &all[2..]),
                row("all", &all),
            ],
        )
    }

    /// Percentiles of every stage on the node, and of the whole as the customer saw it.
    fn latency(&self) -> Result<comfy_table::Table> {
        let timings = || self.replies().filter_map(|reply| reply.timings.as_ref());
        let mut rows = Vec::new();
        for (stage, time) in STAGES {
            rows.push(percentiles(stage, timings().map(|timings| time(timings).into()))?);
        }
        rows.push(percentiles("node, whole", timings().map(|timings| timings.total_us.into()))?);
        rows.push(percentiles("customer, whole", self.asked.iter().map(|asked| asked.latency_us))?);
        Ok(table(["time in ms", "p50", "p90", "p99", "max"], rows))
    }

    /// The size of each batch that answered one of the questions.
    fn batch_sizes(&self) -> Vec<u32> {
        let batches = self.replies().filter_map(|reply| reply.batch.as_ref());
        let sizes: std::collections::BTreeMap<u64, u32> = batches.map(|batch| (batch.id, batch.size)).collect();
        sizes.into_values().collect()
    }

    fn mean_batch(&self) -> f64 {
        let sizes = self.batch_sizes();
        f64::from(sizes.iter().sum::<u32>()) / sizes.len().max(1) as f64
    }

    /// `(label, text)` of all that the model was shown: the catalogue's examples and the training questions.
    fn seen_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let examples = self
            .catalogue
            .intents
            .iter()
            .flat_map(|intent| intent.examples.iter().map(|example| (intent.name.as_str(), example.as_str())));
        examples.chain(self.trained.iter().map(|(intent, text)| (intent.as_str(), text.as_str())))
    }

    fn longest_shared_run(&self) -> usize {
        let seen: Vec<Vec<String>> = self.seen_texts().map(|(_, text)| words(text)).collect();
        let longest = |asked: &Asked| {
            let question = words(&asked.test.question.text);
            seen.iter().map(|text| longest_shared_run(&question, text)).max().unwrap_or(0)
        };
        self.asked.iter().map(longest).max().unwrap_or(0)
    }
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

fn percentiles(name: &str, values_us: impl Iterator<Item = u64>) -> Result<[String; 5]> {
    let histogram = histogram(values_us)?;
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    Ok([name.to_owned(), at(0.5), at(0.9), at(0.99), milliseconds(histogram.max())])
}

fn histogram(values_us: impl Iterator<Item = u64>) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    for value in values_us {
        histogram.record(value)?;
    }
    Ok(histogram)
}
