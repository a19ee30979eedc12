//! Trains a ranking head from labelled questions and says how good it is on questions it has not seen.
//!
//! Questions are divided into five parts; five fits advance together, each leaving one part out, and stop when the loss on what they
//! left out no longer falls. That picks the number of steps and the strength of the priors, and its predictions on left-out
//! questions give calibration, threshold and the report. The head itself is then fitted to all questions for as many steps.
//!
//! The report is honest in this sense: no prediction in it was made by a fit that had seen the question or another of the same
//! words, and calibration and threshold used on a part come from the other parts. Two numbers, the steps and the prior, are chosen on
//! all parts. A question that is itself an example of the catalogue is never compared with itself, or it would teach that the right
//! intent is always at cosine 1; what the catalogue says of it otherwise, it says when serving too.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, OUT_OF_SCOPE};
use crate::cross_validation::{FOLDS, choose, one_thread};
use crate::embeddings::Embeddings;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::examples::{Examples, divide};
use crate::features::{FeatureEncoder, FeatureValue};
use crate::fit::Fit;
use crate::head::Head;
use crate::index::CatalogueIndex;
use crate::question::LabelledQuestion;
use crate::report::{TrainReport, calibrate, report};

/// The fewest different texts that can be learned from.
const MIN_TEXTS: usize = 4 * FOLDS;
/// The most texts, questions and examples, times intents, which decides the memory of a training: some 60 bytes each, for every part.
const MAX_SCORES: usize = 20_000_000;
/// Questions encoded between two reports of progress.
const QUESTIONS_PER_STEP: usize = 256;

/// How to train; the defaults suit catalogues of tens of intents with a handful of questions each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Decides the division into parts, and nothing else.
    pub seed: u64,
    /// Steps of a fit at most.
    pub max_steps: usize,
    /// Steps without a clearly lower held-out loss after which a fit stops.
    pub patience_steps: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Priors of the feature weights that are tried, as spreads, those of the other weights in proportion; a small one trusts words over
    /// features and examples over what was learned.
    pub weight_spreads: Vec<f32>,
    /// What a wrong answer costs where a right one counts 1 and a hand-over of a question in scope counts 0.
    pub wrong_answer_cost: f32,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            seed: 1,
            max_steps: 400,
            patience_steps: 40,
            learning_rate: 0.1,
            weight_spreads: vec![1.0, 2.0, 4.0],
            wrong_answer_cost: 0.5,
        }
    }
}

impl TrainOptions {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=100_000).contains(&self.max_steps) {
            return Err(Error::config("max_steps", self.max_steps, "allowed are 1 to 100000"));
        }
        if self.patience_steps == 0 {
            return Err(Error::config("patience_steps", 0, "at least 1"));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return Err(Error::config("learning_rate", self.learning_rate, "above 0, at most 1"));
        }
        let spreads = &self.weight_spreads;
        if !(1..=16).contains(&spreads.len()) || spreads.iter().any(|spread| !(0.001..=1000.0).contains(spread)) {
            return Err(Error::config("weight_spreads", format!("{spreads:?}"), "1 to 16 values from 0.001 to 1000"));
        }
        if !(0.0..=100.0).contains(&self.wrong_answer_cost) {
            return Err(Error::config("wrong_answer_cost", self.wrong_answer_cost, "allowed are 0 to 100"));
        }
        Ok(())
    }
}

/// What to train from.
#[derive(Debug, Clone, Copy)]
pub struct TrainRequest<'a> {
    /// The encoder the head will be used with.
    pub encoder: &'a Encoder,
    /// The catalogue the head will be used with.
    pub catalogue: &'a Catalogue,
    /// The catalogue's index, built by the same encoder.
    pub index: &'a CatalogueIndex,
    /// The encodings of the feature service.
    pub features: &'a FeatureEncoder,
    /// The questions; they may be examples of the catalogue.
    pub questions: &'a [LabelledQuestion],
    /// How to train.
    pub options: &'a TrainOptions,
}

/// Where a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainProgress {
    /// What is being done.
    pub stage: TrainStage,
    /// Units done: questions while encoding, steps of all fits later.
    pub done: usize,
    /// Units at most; a fit may stop early.
    pub total: usize,
    /// The held-out loss of the latest step, 0 before there is one.
    pub held_out_loss: f32,
}

/// The stages of a training, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainStage {
    /// Encoding the questions.
    Encoding,
    /// Fits that leave out a part each.
    CrossValidation,
    /// The fit on all questions.
    FinalFit,
}

impl Head {
    /// Trains a head; the same request gives the same head.
    ///
    /// # Errors
    /// `FixQuestions` naming the question, `FixConfig` for an option, `ReportFault` when the device fails.
    pub fn train(
        request: TrainRequest<'_>,
        progress: &mut dyn FnMut(TrainProgress),
    ) -> Result<(Head, TrainReport), Error> {
        request.options.validate()?;
        let labels = labels(request.catalogue, request.questions)?;
        let examples = examples(&request, labels, progress)?;
        let groups: Vec<String> = request.questions.iter().map(|question| group(&question.text)).collect();
        let folds = divide(&examples.labels, &groups, FOLDS, request.options.seed);
        let chosen = choose(&examples, &folds, request.options, progress)?;

        let thread = one_thread()?;
        let mut fit = Fit::new(&examples, chosen.weight_spread, request.options.learning_rate);
        for done in 1..=chosen.steps {
            thread.install(|| fit.step());
            let (stage, total) = (TrainStage::FinalFit, chosen.steps);
            progress(TrainProgress { stage, done, total, held_out_loss: chosen.loss as f32 });
        }
        let parameters = fit.parameters()?;
        let all: Vec<usize> = (0..examples.len()).collect();
        let calibration = calibrate(&examples, &chosen.scores, &all, request.options.wrong_answer_cost);
        let report = report(&request, &examples, &folds, &chosen, calibration, parameters.scale);
        let (catalogue, name) = (request.catalogue, request.encoder.name());
        Ok((Head::new(catalogue, name, request.features, parameters, calibration, examples.len()), report))
    }
}

fn labels(catalogue: &Catalogue, questions: &[LabelledQuestion]) -> Result<Vec<usize>, Error> {
    let texts = questions.len() + catalogue.intents.iter().map(|intent| intent.examples.len()).sum::<usize>();
    if texts.saturating_mul(catalogue.intents.len()) > MAX_SCORES {
        let problem = format!(
            "{texts} questions and examples for {} intents; their product may be at most {MAX_SCORES}",
            catalogue.intents.len()
        );
        return Err(Error::questions("all", problem));
    }
    let texts = questions.iter().map(|question| group(&question.text)).collect::<HashSet<_>>().len();
    if texts < MIN_TEXTS {
        let problem =
            format!("{texts} different texts; at least {MIN_TEXTS} are needed, below that use similarity alone");
        return Err(Error::questions("all", problem));
    }
    let names: HashMap<&str, usize> =
        catalogue.intents.iter().enumerate().map(|(position, intent)| (intent.name.as_str(), position)).collect();
    let label = |(number, question): (usize, &LabelledQuestion)| match question.intent.as_str() {
        OUT_OF_SCOPE => Ok(catalogue.intents.len()),
        name => names.get(name).copied().ok_or_else(|| {
            let problem = format!("intent {name:?} is neither in the catalogue nor {OUT_OF_SCOPE:?}");
            Error::questions(format!("question {}", number + 1), problem)
        }),
    };
    questions.iter().enumerate().map(label).collect()
}

/// Questions of the same words belong together, whoever asked.
fn group(text: &str) -> String {
    text.trim().to_lowercase()
}

fn examples(
    request: &TrainRequest<'_>,
    labels: Vec<usize>,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Examples, Error> {
    let (intents, width) = (request.catalogue.intents.len(), request.features.width());
    if request.index.intents() != intents {
        let problem = format!("the index has {} intents, the catalogue {intents}", request.index.intents());
        return Err(Error::fault("training", problem));
    }
    let (catalogue, questions) = (CatalogueTexts::of(request)?, request.questions);
    let vectors = vectors(request, &catalogue, progress)?;
    let itself: Vec<&[usize]> = questions.iter().map(|question| catalogue.numbers(&question.text)).collect();
    let mut cosines = Vec::with_capacity(questions.len() * intents);
    for first in (0..questions.len()).step_by(QUESTIONS_PER_STEP) {
        let step: Vec<usize> = (first..questions.len().min(first + QUESTIONS_PER_STEP)).collect();
        let best = request.index.best_cosines_without(&vectors.select(&step), |question| itself[first + question]);
        cosines.extend(best?);
    }

    let asked: HashSet<usize> = itself.iter().flat_map(|numbers| numbers.iter().copied()).collect();
    let further: Vec<usize> = (0..catalogue.intents.len()).filter(|number| !asked.contains(number)).collect();

    let mut phi = vec![0.0; questions.len() * width];
    for (number, question) in questions.iter().enumerate() {
        let place = |error: Error| Error::questions(format!("question {}", number + 1), error.to_string());
        question.encode_features(request.features, &mut phi[number * width..][..width]).map_err(place)?;
    }
    let mut unknown_user = vec![0.0; width];
    let nothing = vec![FeatureValue::Missing; request.features.features().len()];
    request.features.encode(&nothing, 0, &mut unknown_user)?;
    Ok(Examples {
        dimension: vectors.dimension,
        vectors: vectors.data,
        cosines,
        phi,
        labels,
        unknown_user,
        further_vectors: catalogue.vectors.select(&further).data,
        further_labels: further.iter().map(|number| catalogue.intents[*number]).collect(),
        intents,
        width,
    })
}

/// The catalogue's examples, numbered through all intents.
struct CatalogueTexts {
    vectors: Embeddings,
    intents: Vec<usize>,
    by_words: HashMap<String, Vec<usize>>,
    by_text: HashMap<String, usize>,
}

impl CatalogueTexts {
    fn of(request: &TrainRequest<'_>) -> Result<CatalogueTexts, Error> {
        let vectors = request.index.vectors();
        let (mut intents, mut by_words) = (Vec::new(), HashMap::<String, Vec<usize>>::new());
        let mut by_text = HashMap::new();
        for (number, intent) in request.catalogue.intents.iter().enumerate() {
            for example in &intent.examples {
                by_words.entry(group(example)).or_default().push(intents.len());
                by_text.insert(example.clone(), intents.len());
                intents.push(number);
            }
        }
        if vectors.len() != intents.len() {
            return Err(Error::fault("training", "the index was built from another catalogue"));
        }
        Ok(CatalogueTexts { vectors, intents, by_words, by_text })
    }

    /// The examples of the same words.
    fn numbers(&self, text: &str) -> &[usize] {
        self.by_words.get(&group(text)).map_or(&[], Vec::as_slice)
    }
}

/// The questions' vectors; those of questions that are examples are there already.
fn vectors(
    request: &TrainRequest<'_>,
    catalogue: &CatalogueTexts,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Embeddings, Error> {
    let total = request.questions.len();
    let dimension = request.encoder.dimension();
    let mut vectors = Embeddings::zeros(dimension, total);
    let mut tell = |done| {
        progress(TrainProgress { stage: TrainStage::Encoding, done, total, held_out_loss: 0.0 });
    };
    let mut new = Vec::new();
    for (number, question) in request.questions.iter().enumerate() {
        match catalogue.by_text.get(&question.text) {
            Some(example) => vectors.row_mut(number).copy_from_slice(catalogue.vectors.row(*example)),
            None => new.push(number),
        }
    }
    let mut done = total - new.len();
    tell(done);
    for step in new.chunks(QUESTIONS_PER_STEP) {
        let texts: Vec<&str> = step.iter().map(|number| request.questions[*number].text.as_str()).collect();
        let encoded = request.encoder.encode_texts(&texts)?;
        for (row, number) in step.iter().enumerate() {
            vectors.row_mut(*number).copy_from_slice(encoded.row(row));
        }
        done += step.len();
        tell(done);
    }
    Ok(vectors)
}
