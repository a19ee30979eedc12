//! Calibrates a trained head and reports how good it is, from predictions on questions that no fit had seen.
//!
//! The calibration and threshold that the report uses on one part of the questions come from the other parts; the head itself gets
//! those of all parts together.

use serde::Serialize;

use crate::calibration::{
    Calibration, PartScores, choose_threshold, energy_of_intents, fit_weights, log_loss, strangeness,
};
use crate::cross_validation::{Choice, FOLDS};
use crate::evaluation::{Evaluation, Judged};
use crate::examples::Examples;
use crate::ranking::Ranking;
use crate::train::TrainRequest;

/// How good the head is on questions it has not seen; shares are of 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainReport {
    /// Questions trained on.
    pub questions: usize,
    /// Of these out of scope.
    pub out_of_scope_questions: usize,
    /// Intents of the catalogue without a training question; they are known from their examples alone.
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
    /// How well the confidence tells right first places from wrong ones; absent where all are alike.
    pub auroc: Option<f32>,
    /// Mean negative log likelihood, calibrated.
    pub log_loss: f32,
    /// What similarity and features count in the head.
    pub similarity_weight: f32,
    /// What the question's vector counts in the head.
    pub vector_weight: f32,
    /// The head's threshold.
    pub threshold: f32,
    /// The head's scale of the cosine.
    pub scale: f32,
    /// The prior that did best.
    pub weight_spread: f32,
    /// Steps of the final fit.
    pub steps: usize,
}

/// Weights of the parts and threshold from the left-out scores of the questions `rows`.
pub(crate) fn calibrate(
    examples: &Examples,
    scores: &PartScores,
    rows: &[usize],
    wrong_answer_cost: f32,
) -> Calibration {
    let intents = examples.intents;
    let weights = fit_weights(scores, &examples.labels, rows, examples.counted_classes(), [0.5, 0.5]);
    let mut calibration = Calibration {
        similarity: weights.similarity as f32,
        vector: weights.vector as f32,
        out_of_scope: None,
        threshold: 0.0,
    };
    if examples.counted_classes() == intents {
        let energies = rows.iter().map(|row| energy_of_intents(&scores.combined(*row, &calibration)));
        calibration.out_of_scope = Some(strangeness(energies));
    }
    let rankings: Vec<(Ranking, Option<usize>)> = rows
        .iter()
        .map(|row| {
            let label = examples.labels[*row];
            let ranking = Ranking::from_scores(&scores.combined(*row, &calibration), 0.0);
            (ranking, (label < intents).then_some(label))
        })
        .collect();
    Calibration { threshold: choose_threshold(&rankings, wrong_answer_cost), ..calibration }
}

/// What the head would have done on every question, by the fit, calibration and threshold that left it out.
pub(crate) fn report(
    request: &TrainRequest<'_>,
    examples: &Examples,
    folds: &[usize],
    chosen: &Choice,
    calibration: Calibration,
    scale: f32,
) -> TrainReport {
    let (intents, cost) = (examples.intents, request.options.wrong_answer_cost);
    let by_fold: Vec<Calibration> = (0..FOLDS)
        .map(|fold| {
            let others: Vec<usize> = (0..examples.len()).filter(|index| folds[*index] != fold).collect();
            calibrate(examples, &chosen.scores, &others, cost)
        })
        .collect();
    let (mut judged, mut loss, mut nearest) = (Vec::with_capacity(examples.len()), 0.0, 0);
    for (index, fold) in folds.iter().enumerate() {
        let (cosines, _, label) = examples.question(index);
        let scores = chosen.scores.combined(index, &by_fold[*fold]);
        loss += log_loss(&scores, label);
        nearest += usize::from(label < intents && is_nearest(cosines, label));
        let ranking = Ranking::from_scores(&scores, by_fold[*fold].threshold);
        judged.push(Judged { ranking, label: (label < intents).then_some(label) });
    }
    let evaluation = Evaluation::of(&judged, request.catalogue);
    let trained: Vec<bool> = (0..intents).map(|intent| examples.labels.contains(&intent)).collect();
    let without = request.catalogue.intents.iter().zip(trained).filter(|(_, trained)| !trained);
    let in_scope = evaluation.questions - evaluation.out_of_scope_questions;
    TrainReport {
        questions: evaluation.questions,
        out_of_scope_questions: evaluation.out_of_scope_questions,
        intents_without_questions: without.map(|(intent, _)| intent.name.clone()).collect(),
        accuracy: evaluation.accuracy,
        top_1: evaluation.top_1,
        top_3: evaluation.top_3,
        similarity_top_1: nearest as f32 / in_scope.max(1) as f32,
        handed_over: evaluation.handed_over,
        out_of_scope_handed_over: evaluation.out_of_scope_handed_over,
        ece: evaluation.ece,
        auroc: evaluation.auroc,
        log_loss: (loss / examples.len().max(1) as f64) as f32,
        similarity_weight: calibration.similarity,
        vector_weight: calibration.vector,
        threshold: calibration.threshold,
        scale,
        weight_spread: chosen.weight_spread,
        steps: chosen.steps,
    }
}

/// Whether similarity alone puts that intent first; ties go to the first, as in a ranking.
fn is_nearest(cosines: &[f32], label: usize) -> bool {
    let nearer =
        |(intent, cosine): (usize, &f32)| *cosine > cosines[label] || (intent < label && *cosine == cosines[label]);
    !cosines.iter().enumerate().any(nearer)
}
