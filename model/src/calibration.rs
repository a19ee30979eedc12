//! Turns scores into probabilities that can be believed, measures how far they can, and picks the hand-over threshold.
//!
//! Temperature scaling and the expected calibration error follow Guo et al. 2017, "On Calibration of Modern Neural Networks". All
//! functions are pure; what they are given must be scores on questions that the head did not learn from.

use crate::ranking::Ranking;

/// Bins of the expected calibration error.
const BINS: usize = 15;
/// Where the temperature is searched.
const TEMPERATURES: (f32, f32) = (0.05, 20.0);
/// Thresholds that are tried between 0 and 1.
const THRESHOLD_STEPS: usize = 100;
/// Steps to either side over which a threshold's use is averaged.
const NEIGHBOURHOOD: usize = 5;

/// Class probabilities of one row of scores.
pub(crate) fn softmax(scores: &[f32], temperature: f32) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut probabilities: Vec<f32> = scores.iter().map(|score| ((score - most) / temperature).exp()).collect();
    let sum: f32 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|probability| *probability /= sum);
    probabilities
}

/// Mean negative log likelihood of the right classes; `scores` holds one row of `classes` values per label.
pub(crate) fn log_loss(scores: &[f32], classes: usize, labels: &[usize], temperature: f32) -> f32 {
    let losses = scores.chunks_exact(classes).zip(labels).map(|(row, label)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|score| f64::from((score - most) / temperature).exp()).sum();
        sum.ln() - f64::from((row[*label] - most) / temperature)
    });
    (losses.sum::<f64>() / labels.len() as f64) as f32
}

/// The temperature of the least log loss, by golden-section search on its logarithm (the loss has one minimum there).
pub(crate) fn fit_temperature(scores: &[f32], classes: usize, labels: &[usize]) -> f32 {
    let ratio = (5_f32.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (TEMPERATURES.0.ln(), TEMPERATURES.1.ln());
    let loss = |log_temperature: f32| log_loss(scores, classes, labels, log_temperature.exp());
    while high - low > 1e-3 {
        let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(left) < loss(right) { high = right } else { low = left }
    }
    ((low + high) / 2.0).exp()
}

/// Mean distance between confidence and the share of right answers, over 15 equal bins weighted by their size.
pub(crate) fn expected_calibration_error(answers: impl IntoIterator<Item = (f32, bool)>) -> f32 {
    let mut bins = [(0.0_f64, 0_usize, 0_usize); BINS];
    let mut total = 0;
    for (confidence, right) in answers {
        let bin = &mut bins[((confidence * BINS as f32) as usize).min(BINS - 1)];
        bin.0 += f64::from(confidence);
        bin.1 += usize::from(right);
        bin.2 += 1;
        total += 1;
    }
    let gaps = bins.iter().map(|(confidence, right, _)| (confidence - *right as f64).abs());
    (gaps.sum::<f64>() / f64::from(total.max(1) as u32)) as f32
}

/// The threshold of the greatest use: a right answer and a rightly handed over question count 1, a wrong answer costs
/// `wrong_answer_cost`.
///
/// Each threshold is judged by the mean over its neighbourhood, so that no single question decides; where several are equally good,
/// the middle of the longest run is taken. Each ranking comes with its right class, `None` for out of scope; the hand-over flags in
/// the rankings are ignored.
pub(crate) fn choose_threshold(rankings: &[(Ranking, Option<usize>)], wrong_answer_cost: f32) -> f32 {
    let uses: Vec<f32> = (0..THRESHOLD_STEPS)
        .map(|step| {
            let threshold = step as f32 / THRESHOLD_STEPS as f32;
            rankings.iter().map(|(ranking, label)| usefulness(ranking, *label, threshold, wrong_answer_cost)).sum()
        })
        .collect();
    let smoothed: Vec<f32> = (0..THRESHOLD_STEPS)
        .map(|step| {
            let neighbours = &uses[step.saturating_sub(NEIGHBOURHOOD)..(step + NEIGHBOURHOOD + 1).min(THRESHOLD_STEPS)];
            neighbours.iter().sum::<f32>() / neighbours.len() as f32
        })
        .collect();
    let most = smoothed.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut best = 0..0;
    let mut run = 0..0;
    for (step, use_here) in smoothed.iter().enumerate() {
        run = if *use_here < most - 1e-3 { step + 1..step + 1 } else { run.start..step + 1 };
        if run.len() > best.len() {
            best = run.clone();
        }
    }
    (best.start + best.end.saturating_sub(1)) as f32 / 2.0 / THRESHOLD_STEPS as f32
}

fn usefulness(ranking: &Ranking, label: Option<usize>, threshold: f32, wrong_answer_cost: f32) -> f32 {
    match (ranking.hands_over(threshold), label) {
        (true, None) => 1.0,
        (true, Some(_)) => 0.0,
        (false, Some(label)) if label == ranking.best => 1.0,
        (false, _) => -wrong_answer_cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_a_distribution_even_for_huge_scores() {
        let probabilities = softmax(&[1e30, -1e30, 0.0], 0.5);
        assert_eq!(probabilities, [1.0, 0.0, 0.0]);
        let [a, b] = softmax(&[1.0, 0.0], 1.0)[..] else { panic!() };
        assert!((a + b - 1.0).abs() < 1e-6 && (a / b - 1_f32.exp()).abs() < 1e-5);
    }

    /// Scores that say 88 % but are right in three of four cases: only a higher temperature makes them honest.
    #[test]
    fn the_temperature_repairs_overconfidence() {
        let scores: Vec<f32> = (0..400).flat_map(|_| [2.0, 0.0]).collect();
        let labels: Vec<usize> = (0..400).map(|i| usize::from(i % 4 == 0)).collect();
        let temperature = fit_temperature(&scores, 2, &labels);
        let confidence = softmax(&scores[..2], temperature)[0];
        assert!((confidence - 0.75).abs() < 0.01, "{temperature} {confidence}");
        assert!(log_loss(&scores, 2, &labels, temperature) < log_loss(&scores, 2, &labels, 1.0));
    }

    #[test]
    fn calibration_error_is_the_gap_between_said_and_true() {
        let honest = (0..100).map(|i| (0.7, i % 10 < 7));
        assert!(expected_calibration_error(honest) < 1e-6);
        let boastful = (0..100).map(|i| (1.0, i % 10 < 7));
        assert!((expected_calibration_error(boastful) - 0.3).abs() < 1e-6);
        let both = [(0.05, false), (0.95, true)];
        assert!((expected_calibration_error(both) - 0.05).abs() < 1e-6);
        assert_eq!(expected_calibration_error([]), 0.0);
    }

    #[test]
    fn the_threshold_separates_right_from_wrong() {
        let ranking =
            |confidence| Ranking { best: 0, confidence, out_of_scope: 0.0, hand_over: false, candidates: vec![] };
        let rankings: Vec<_> = [(0.9, Some(0)), (0.8, Some(0)), (0.3, Some(1)), (0.2, None)]
            .into_iter()
            .map(|(confidence, label)| (ranking(confidence), label))
            .collect();
        let threshold = choose_threshold(&rankings, 0.5);
        assert!((threshold - 0.55).abs() < 0.02, "the middle between 0.3 and 0.8, not {threshold}");
        let all_right = [(ranking(0.4), Some(0))];
        assert!(choose_threshold(&all_right, 0.5) <= 0.4);
    }
}
