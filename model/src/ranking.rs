//! One question's result: the best intent, how sure the head is, and whether a person should take over.

use crate::calibration::softmax;

/// Candidates that a ranking names.
const CANDIDATES: usize = 3;

/// The intents of a catalogue ranked for one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// The most probable intent, as its position in the catalogue; named even where the question is handed over.
    pub best: usize,
    /// The calibrated probability of `best`.
    pub confidence: f32,
    /// The calibrated probability that no intent answers this question.
    pub out_of_scope: f32,
    /// Whether to hand over: out of scope is more probable than `best`, or `confidence` lies below the head's threshold.
    pub hand_over: bool,
    /// The three most probable intents with their probabilities, the best first.
    pub candidates: Vec<(usize, f32)>,
}

impl Ranking {
    /// Judges one row of scores, the intents' in catalogue order and out of scope last.
    pub(crate) fn from_scores(scores: &[f32], threshold: f32) -> Ranking {
        let probabilities = softmax(scores);
        let (intents, out_of_scope) = probabilities.split_at(scores.len() - 1);
        let mut candidates: Vec<(usize, f32)> = Vec::with_capacity(CANDIDATES + 1);
        for (intent, probability) in intents.iter().enumerate() {
            let place = candidates.partition_point(|(_, better)| better >= probability);
            if place < CANDIDATES {
                candidates.insert(place, (intent, *probability));
                candidates.truncate(CANDIDATES);
            }
        }
        let (best, confidence) = candidates.first().copied().unwrap_or_default();
        let mut ranking = Ranking { best, confidence, out_of_scope: out_of_scope[0], hand_over: false, candidates };
        ranking.hand_over = ranking.hands_over(threshold);
        ranking
    }

    pub(crate) fn hands_over(&self, threshold: f32) -> bool {
        // Written so that a confidence that is no number hands over.
        let sure = self.confidence >= threshold && self.confidence >= self.out_of_scope;
        !sure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confidence_that_is_no_number_hands_over() {
        assert!(Ranking::from_scores(&[f32::INFINITY, 1.0, 0.0], 0.0).confidence.is_nan());
        assert!(Ranking::from_scores(&[f32::INFINITY, 1.0, 0.0], 0.0).hand_over);
    }

    #[test]
    fn the_three_best_come_in_order() {
        let ranking = Ranking::from_scores(&[1.0, 4.0, 2.0, 3.0, 0.0], 0.5);
        assert_eq!(ranking.candidates.iter().map(|(intent, _)| *intent).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!((ranking.best, ranking.confidence), ranking.candidates[0]);
        assert!(!ranking.hand_over);
        let one = Ranking::from_scores(&[1.0, 0.0], 0.5);
        assert_eq!(one.candidates.len(), 1);
    }

    #[test]
    fn doubt_and_strangeness_hand_over() {
        assert!(Ranking::from_scores(&[1.0, 1.0, 1.0, -9.0], 0.5).hand_over, "a third each");
        let strange = Ranking::from_scores(&[1.0, 0.0, 3.0], 0.0);
        assert!(strange.hand_over && strange.best == 0 && strange.out_of_scope > 0.8);
        assert!(!Ranking::from_scores(&[3.0, 0.0, 1.0], 0.5).hand_over);
    }
}
