//! Chooses the strength of the features' prior and the number of steps by what fits predict for questions they left out.
//!
//! The questions are divided into five parts; five fits advance together, each leaving one part out, and stop when the loss on all
//! left-out parts together no longer falls. The scores of the best step are kept: they are what calibration and report work on.

use rayon::ThreadPool;

use crate::calibration::log_loss;
use crate::error::Error;
use crate::examples::Examples;
use crate::fit::Fit;
use crate::parameters::Parameters;
use crate::train::{TrainOptions, TrainProgress, TrainStage};

/// Parts that take turns in being left out.
pub(crate) const FOLDS: usize = 5;
/// A loss is clearly lower when it falls by this share; less is not worth further steps.
const CLEARLY: f32 = 1e-3;

/// The prior and number of steps with the least loss on left-out questions, and the scores that fits made on these.
pub(crate) struct Choice {
    pub(crate) weight_spread: f32,
    pub(crate) steps: usize,
    pub(crate) loss: f32,
    /// `[questions, classes]`, each row by the fit that left its question out.
    pub(crate) scores: Vec<f32>,
}

/// Tries every prior in `options`.
pub(crate) fn choose(
    examples: &Examples,
    folds: &[usize],
    options: &TrainOptions,
    thread: &ThreadPool,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Choice, Error> {
    let total = options.weight_spreads.len() * options.max_steps;
    let mut best: Option<Choice> = None;
    for (number, weight_spread) in options.weight_spreads.iter().enumerate() {
        let mut report = |step: usize, held_out_loss: f32| {
            let done = number * options.max_steps + step;
            progress(TrainProgress { stage: TrainStage::CrossValidation, done, total, held_out_loss });
        };
        let choice = cross_validate(examples, folds, *weight_spread, options, thread, &mut report)?;
        if best.as_ref().is_none_or(|best| choice.loss < best.loss) {
            best = Some(choice);
        }
    }
    best.ok_or_else(|| Error::fault("training", "no prior was tried"))
}

/// Advances one fit per part in step and stops when the loss on the left-out parts together no longer falls.
fn cross_validate(
    examples: &Examples,
    folds: &[usize],
    weight_spread: f32,
    options: &TrainOptions,
    thread: &ThreadPool,
    report: &mut dyn FnMut(usize, f32),
) -> Result<Choice, Error> {
    let classes = examples.intents + 1;
    let mut fits: Vec<Fit> = (0..FOLDS)
        .map(|fold| Fit::new(&examples.select(|index| folds[index] != fold), weight_spread, options.learning_rate))
        .collect();
    let mut best = Choice { weight_spread, steps: 0, loss: f32::INFINITY, scores: Vec::new() };
    let mut clearly_lower = (0, f32::INFINITY);
    for step in 1..=options.max_steps {
        thread.install(|| fits.iter_mut().for_each(Fit::step));
        let parameters = fits.iter().map(Fit::parameters).collect::<Result<Vec<Parameters>, Error>>()?;
        let mut scores = vec![0.0; examples.len() * classes];
        for (index, row) in scores.chunks_exact_mut(classes).enumerate() {
            let (cosines, phi, _) = examples.question(index);
            parameters[folds[index]].score(cosines, phi, row);
        }
        let loss = log_loss(&scores, classes, &examples.labels, 1.0);
        report(step, loss);
        if loss < best.loss {
            best = Choice { weight_spread, steps: step, loss, scores };
        }
        if loss < clearly_lower.1 * (1.0 - CLEARLY) {
            clearly_lower = (step, loss);
        } else if step - clearly_lower.0 >= options.patience_steps {
            break;
        }
    }
    if best.steps == 0 {
        return Err(Error::fault("training", "the loss is not a number; try a lower learning_rate"));
    }
    Ok(best)
}
