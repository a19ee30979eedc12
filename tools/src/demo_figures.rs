//! The demo's figures: what became of its questions, how many were answered rightly, and where the time went.

use std::collections::BTreeMap;

use anyhow::Result;
use hdrhistogram::Histogram;
use larder_model::{Catalogue, OUT_OF_SCOPE};
use larder_serve::v1;
use serde::Serialize;

use crate::answer_text::{STAGES, intent};
use crate::bag_of_words::{BagOfWords, longest_shared_run, words};
use crate::demo_ask::Asked;
use crate::shop_questions::QuestionKind;

/// Everything that the figures are made from.
pub(crate) struct Session<'a> {
    pub(crate) asked: &'a [Asked],
    pub(crate) catalogue: &'a Catalogue,
    /// `(intent, text)` of the training questions.
    pub(crate) trained: &'a [(String, String)],
    /// What the node counted while the questions were asked.
    pub(crate) hot_hits: u64,
    pub(crate) warm_hits: u64,
}

/// The figures; as JSON the names are these.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) correct: usize,
    /// As the customer saw it, network included.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) batches: usize,
    pub(crate) mean_batch: f64,
    pub(crate) largest_batch: u32,
    pub(crate) hot_hits: u64,
    pub(crate) warm_hits: u64,
    /// By kind of question; the last is all of them.
    pub(crate) quality: Vec<Quality>,
    /// By stage on the node, then "node" and "customer", each the whole.
    pub(crate) times: Vec<Times>,
    /// The most words in a row that a test question shares with a text the model has seen.
    pub(crate) longest_shared_run: usize,
    pub(crate) wrong: Vec<Wrong>,
}

/// Right answers of one kind of question, the model's beside those of the nearest neighbour by words.
#[derive(Debug, Serialize)]
pub(crate) struct Quality {
    /// "plain", "ambiguous", "out_of_scope" or "all".
    pub(crate) questions: &'static str,
    pub(crate) asked: usize,
    pub(crate) right: usize,
    pub(crate) right_by_words: usize,
}

/// Percentiles of one stage.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) stage: &'static str,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// A question that was not answered rightly.
#[derive(Debug, Serialize)]
pub(crate) struct Wrong {
    pub(crate) text: String,
    pub(crate) user: String,
    pub(crate) expected: String,
    pub(crate) got: String,
}

impl Session<'_> {
    /// All figures.
    pub(crate) fn figures(&self) -> Result<Figures> {
        let whole = Times::of("customer", self.asked.iter().map(|asked| asked.latency_us))?;
        let sizes = self.batch_sizes();
        Ok(Figures {
            answered: self.replies().count(),
            refused: self.asked.len() - self.replies().count(),
            correct: self.asked.iter().filter(|asked| asked.is_right()).count(),
            p50_ms: whole.p50_ms,
            p99_ms: whole.p99_ms,
            batches: sizes.len(),
            mean_batch: f64::from(sizes.iter().sum::<u32>()) / sizes.len().max(1) as f64,
            largest_batch: sizes.into_iter().max().unwrap_or(0),
            hot_hits: self.hot_hits,
            warm_hits: self.warm_hits,
            quality: self.quality(),
            times: self.times(whole)?,
            longest_shared_run: self.longest_shared_run(),
            wrong: self.asked.iter().filter(|asked| !asked.is_right()).map(Wrong::of).collect(),
        })
    }

    fn replies(&self) -> impl Iterator<Item = &v1::AnswerReply> {
        self.asked.iter().filter_map(|asked| asked.outcome.as_ref().ok())
    }

    fn quality(&self) -> Vec<Quality> {
        let baseline = BagOfWords::new(self.seen_texts());
        let by_words = |asked: &&Asked| {
            let expected = asked.test.question.intent.as_str();
            baseline.nearest(&asked.test.question.text).map_or(OUT_OF_SCOPE, |near| near.label) == expected
        };
        let of = |questions: &'static str, kind: Option<QuestionKind>| {
            let of_kind: Vec<&Asked> =
                self.asked.iter().filter(|asked| kind.is_none_or(|kind| asked.test.kind == kind)).collect();
            Quality {
                questions,
                asked: of_kind.len(),
                right: of_kind.iter().filter(|asked| asked.is_right()).count(),
                right_by_words: of_kind.into_iter().filter(by_words).count(),
            }
        };
        vec![
            of("plain", Some(QuestionKind::Plain)),
            of("ambiguous", Some(QuestionKind::Ambiguous)),
            of("out_of_scope", Some(QuestionKind::OutOfScope)),
            of("all", None),
        ]
    }

    fn times(&self, whole: Times) -> Result<Vec<Times>> {
        let timings = || self.replies().filter_map(|reply| reply.timings.as_ref());
        let mut times = Vec::with_capacity(STAGES.len() + 2);
        for (stage, time) in STAGES {
            times.push(Times::of(stage, timings().map(|timings| time(timings).into()))?);
        }
        times.push(Times::of("node", timings().map(|timings| timings.total_us.into()))?);
        times.push(whole);
        Ok(times)
    }

    /// The size of each batch that answered one of the questions.
    fn batch_sizes(&self) -> Vec<u32> {
        let batches = self.replies().filter_map(|reply| reply.batch.as_ref());
        let sizes: BTreeMap<u64, u32> = batches.map(|batch| (batch.id, batch.size)).collect();
        sizes.into_values().collect()
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

impl Figures {
    /// The last line, for people and for programs.
    pub(crate) fn final_line(&self) -> String {
        let Figures { answered, correct, p50_ms, p99_ms, batches, mean_batch, hot_hits, .. } = self;
        format!(
            "demo: answered={answered} correct={correct} p50_ms={p50_ms:.2} p99_ms={p99_ms:.2} batches={batches} \
             mean_batch={mean_batch:.2} hot_hits={hot_hits}"
        )
    }
}

impl Times {
    fn of(stage: &'static str, values_us: impl Iterator<Item = u64>) -> Result<Times> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for value in values_us {
            histogram.record(value)?;
        }
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Ok(Times { stage, p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: ms(histogram.max()) })
    }
}

impl Wrong {
    fn of(asked: &Asked) -> Wrong {
        let question = &asked.test.question;
        let got = match &asked.outcome {
            Ok(reply) => intent(reply),
            Err(status) => format!("refused: {:?} {}", status.code(), status.message()),
        };
        Wrong { text: question.text.clone(), user: question.user.clone(), expected: question.intent.clone(), got }
    }
}
