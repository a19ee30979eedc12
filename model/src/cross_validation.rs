//! Chooses the strength of the priors and the number of steps by what fits predict for questions they left out.
//!
//! The questions are divided into five parts; five fits advance together, each leaving one part out, and stop when the loss on all
//! left-out parts together no longer falls. The scores of the best step are kept: they are what calibration and report work on. Each fit
//! has a thread of its own and all sums within it, so that the result does not depend on the number of cores.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::calibration::{PartScores, fit_weights};
use crate::error::Error;
use crate::examples::Examples;
use crate::fit::Fit;
use crate::train::{TrainOptions, TrainProgress, TrainStage};

/// Parts that take turns in being left out.
pub(crate) const FOLDS: usize = 5;
/// Steps between two looks at the questions left out, which cost as much as a step.
const STEPS_PER_LOOK: usize = 4;
/// A loss is clearly lower when it falls by this share; less is not worth further steps.
const CLEARLY: f64 = 1e-3;

/// The prior and number of steps with the least loss on left-out questions, and the scores that fits made on these.
pub(crate) struct Choice {
    pub(crate) weight_spread: f32,
    pub(crate) steps: usize,
    pub(crate) loss: f64,
    /// Each question's by the fit that left it out.
    pub(crate) scores: PartScores,
}

/// Tries every prior in `options`.
pub(crate) fn choose(
    examples: &Examples,
    folds: &[usize],
    options: &TrainOptions,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Choice, Error> {
    let total = options.weight_spreads.len() * options.max_steps;
    let mut best: Option<Choice> = None;
    for (number, weight_spread) in options.weight_spreads.iter().enumerate() {
        let mut report = |step: usize, loss: f64| {
            let done = number * options.max_steps + step;
            let stage = TrainStage::CrossValidation;
            progress(TrainProgress { stage, done, total, held_out_loss: loss as f32 });
        };
        let choice = cross_validate(examples, folds, *weight_spread, options, &mut report)?;
        if best.as_ref().is_none_or(|best| choice.loss < best.loss) {
            best = Some(choice);
        }
    }
    best.ok_or_else(|| Error::fault("training", "no prior was tried"))
}

/// A fit with the questions it leaves out and the thread it runs on.
struct Fold {
    fit: Fit,
    left_out: Vec<usize>,
    thread: ThreadPool,
}

impl Fold {
    /// Some steps, and what the fit then says of the questions it left out.
    fn advance(&mut self, steps: usize, examples: &Examples) -> Result<PartScores, Error> {
        let Fold { fit, left_out, thread } = self;
        thread.install(|| {
            (0..steps).for_each(|_| fit.step());
            Ok(fit.parameters()?.score_examples(examples, left_out))
        })
    }
}

/// Advances one fit per part in step and stops when the loss on the left-out parts together no longer falls.
fn cross_validate(
    examples: &Examples,
    folds: &[usize],
    weight_spread: f32,
    options: &TrainOptions,
    report: &mut dyn FnMut(usize, f64),
) -> Result<Choice, Error> {
    let fold = |fold: usize| {
        let fit = Fit::new(&examples.select(|index| folds[index] != fold), weight_spread, options.learning_rate);
        let left_out = (0..examples.len()).filter(|index| folds[*index] == fold).collect();
        Ok(Fold { fit, left_out, thread: one_thread()? })
    };
    let mut fits = (0..FOLDS).map(fold).collect::<Result<Vec<Fold>, Error>>()?;
    let (all, counted) = ((0..examples.len()).collect::<Vec<_>>(), examples.counted_classes());
    let mut weights = [0.5, 0.5];
    let mut scores = PartScores::zeros(examples.len(), examples.intents + 1);
    let mut best = Choice { weight_spread, steps: 0, loss: f64::INFINITY, scores: scores.clone() };
    let mut clearly_lower = (0, f64::INFINITY);
    let mut step = 0;
    while step < options.max_steps {
        let steps = STEPS_PER_LOOK.min(options.max_steps - step);
        step += steps;
        let advanced: Vec<Result<PartScores, Error>> = std::thread::scope(|scope| {
            let running: Vec<_> = fits.iter_mut().map(|fold| scope.spawn(|| fold.advance(steps, examples))).collect();
            running
                .into_iter()
                .map(|fold| fold.join().unwrap_or_else(|_| Err(Error::fault("training", "a fit panicked"))))
                .collect()
        });
        for (fold, advanced) in fits.iter().zip(advanced) {
            scores.put(&fold.left_out, &advanced?);
        }
        let fitted = fit_weights(&scores, &examples.labels, &all, counted, weights);
        report(step, fitted.loss);
        weights = [fitted.similarity, fitted.vector];
        if fitted.loss < best.loss {
            best = Choice { steps: step, loss: fitted.loss, scores: scores.clone(), ..best };
        }
        if fitted.loss < clearly_lower.1 * (1.0 - CLEARLY) {
            clearly_lower = (step, fitted.loss);
        } else if step - clearly_lower.0 >= options.patience_steps {
            break;
        }
    }
    if best.steps == 0 {
        return Err(Error::fault("training", "the loss is not a number; try a lower learning_rate"));
    }
    Ok(best)
}

/// A pool in which no sum is divided.
pub(crate) fn one_thread() -> Result<ThreadPool, Error> {
    ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| Error::fault("training", error))
}
