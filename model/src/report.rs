//! Calibrates a trained head and reports how good it is, from predictions on questions that no fit had seen.
//!
//! The temperature and threshold that the report uses on one part of the questions come from the other parts; the head itself gets the
//! ones of all parts together.

use serde::Serialize;

use crate::calibration::{choose_threshold, expected_calibration_error, fit_temperature, log_loss};
use crate::cross_validation::{Choice, FOLDS};
use crate::examples::Examples;
use crate::head::Calibration;
use crate::ranking::Ranking;
use crate::train::TrainRequest;

/// How good the head is on questions it has not seen; shares are of 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainReport {
    /// Questions trained on.
    pub questions: usize,
    /// Of these out of scope.
    pub out_of_scope_questions: usize,
    /// Intents of the catalogue without a training question; they rank by similarity.
    pub intents_without_questions: Vec<String>,
    /// Share of all questions treated rightly: answered with the right intent, or out of scope and handed over.
    pub accuracy: f32,
    /// Share of questions in scope whose right intent came first, handed over or not.
    pub top_1: f32,
    /// Share of questions in scope whose right intent was among the three candidates.
    pub top_3: f32,
    /// The share that similarity alone brings to the first place.
    pub similarity_top_1: f32,
    /// Share of questions in scope that were handed over.
    pub handed_over: f32,
    /// Share of questions out of scope that were handed over.
    pub out_of_scope_handed_over: f32,
    /// Expected calibration error of the confidence, 15 bins.
    pub ece: f32,
    /// Mean negative log likelihood, calibrated.
    pub log_loss: f32,
    /// The head's temperature.
    pub temperature: f32,
    /// The head's threshold.
    pub threshold: f32,
    /// The head's scale of the cosine.
    pub scale: f32,
    /// The prior that did best.
    pub weight_spread: f32,
    /// Steps of the final fit.
    pub steps: usize,
}

/// Temperature and threshold from the left-out scores of the questions that `of` names.
pub(crate) fn calibrate(
    examples: &Examples,
    chosen: &Choice,
    of: impl Fn(usize) -> bool,
    wrong_answer_cost: f32,
) -> Calibration {
    let classes = examples.intents + 1;
    let rows: Vec<usize> = (0..examples.len()).filter(|index| of(*index)).collect();
    let row = |index: usize| &chosen.scores[index * classes..][..classes];
    let scores: Vec<f32> = rows.iter().flat_map(|index| row(*index)).copied().collect();
    let labels: Vec<usize> = rows.iter().map(|index| examples.labels[*index]).collect();
    let temperature = fit_temperature(&scores, classes, &labels);
    let rankings: Vec<(Ranking, Option<usize>)> = scores
        .chunks_exact(classes)
        .zip(labels)
        .map(|(scores, label)| {
            (Ranking::from_scores(scores, temperature, 0.0), (label < examples.intents).then_some(label))
        })
        .collect();
    Calibration { temperature, threshold: choose_threshold(&rankings, wrong_answer_cost) }
}

/// What the head would have done on every question, by the fit, temperature and threshold that left it out.
pub(crate) fn report(
    request: &TrainRequest<'_>,
    examples: &Examples,
    folds: &[usize],
    chosen: &Choice,
    calibration: Calibration,
    scale: f32,
) -> TrainReport {
    let (intents, classes) = (examples.intents, examples.intents + 1);
    let cost = request.options.wrong_answer_cost;
    let by_fold: Vec<Calibration> =
        (0..FOLDS).map(|fold| calibrate(examples, chosen, |index| folds[index] != fold, cost)).collect();
    let mut counts = Counts::default();
    let mut answers = Vec::with_capacity(examples.len());
    let mut calibrated = Vec::with_capacity(chosen.scores.len());
    for (index, scores) in chosen.scores.chunks_exact(classes).enumerate() {
        let (cosines, _, label) = examples.question(index);
        let Calibration { temperature, threshold } = by_fold[folds[index]];
        let ranking = Ranking::from_scores(scores, temperature, threshold);
        calibrated.extend(scores.iter().map(|score| score / temperature));
        answers.push((ranking.confidence, ranking.best == label));
        counts.add(&ranking, cosines, (label < intents).then_some(label));
    }
    let trained: Vec<bool> = (0..intents).map(|intent| examples.labels.contains(&intent)).collect();
    let without = request.catalogue.intents.iter().zip(trained).filter(|(_, trained)| !trained);
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f32 / of as f32 };
    TrainReport {
        questions: examples.len(),
        out_of_scope_questions: counts.outside,
        intents_without_questions: without.map(|(intent, _)| intent.name.clone()).collect(),
        accuracy: share(counts.treated_rightly, examples.len()),
        top_1: share(counts.first, counts.inside),
        top_3: share(counts.among_three, counts.inside),
        similarity_top_1: share(counts.nearest, counts.inside),
        handed_over: share(counts.inside_handed_over, counts.inside),
        out_of_scope_handed_over: share(counts.outside_handed_over, counts.outside),
        ece: expected_calibration_error(answers),
        log_loss: log_loss(&calibrated, classes, &examples.labels, 1.0),
        temperature: calibration.temperature,
        threshold: calibration.threshold,
        scale,
        weight_spread: chosen.weight_spread,
        steps: chosen.steps,
    }
}

#[derive(Default)]
struct Counts {
    inside: usize,
    outside: usize,
    treated_rightly: usize,
    first: usize,
    among_three: usize,
    nearest: usize,
    inside_handed_over: usize,
    outside_handed_over: usize,
}

impl Counts {
    fn add(&mut self, ranking: &Ranking, cosines: &[f32], label: Option<usize>) {
        let Some(label) = label else {
            self.outside += 1;
            self.outside_handed_over += usize::from(ranking.hand_over);
            self.treated_rightly += usize::from(ranking.hand_over);
            return;
        };
        self.inside += 1;
        self.inside_handed_over += usize::from(ranking.hand_over);
        self.treated_rightly += usize::from(!ranking.hand_over && ranking.best == label);
        self.first += usize::from(ranking.best == label);
        self.among_three += usize::from(ranking.candidates.iter().any(|(intent, _)| *intent == label));
        // Ties go to the first, as in a ranking.
        let nearer =
            |(intent, cosine): (usize, &f32)| *cosine > cosines[label] || (intent < label && *cosine == cosines[label]);
        self.nearest += usize::from(!cosines.iter().enumerate().any(nearer));
    }
}
