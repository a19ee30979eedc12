//! How good a head is on questions whose right intents are known: one measure for all who ask, be it a training on what it left out or
//! an operator on questions of their own.
//!
//! All figures are pure functions of rankings and right answers. Area under the curve is that of the receiver operating characteristic,
//! as the share of pairs that stand in the right order (Mann and Whitney); the calibration error is that of Guo et al. 2017.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalogue::{Catalogue, OUT_OF_SCOPE};
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::features::FeatureEncoder;
use crate::head::Head;
use crate::index::CatalogueIndex;
use crate::question::LabelledQuestion;
use crate::ranking::Ranking;

/// Bins of the expected calibration error.
const BINS: usize = 15;
/// The share of questions that counts as the most confident.
const MOST_CONFIDENT: f64 = 0.8;

/// A question's ranking and its right intent as a position in the catalogue, `None` for out of scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What the head said.
    pub ranking: Ranking,
    /// What is right.
    pub label: Option<usize>,
}

/// How good a head was; shares are of 1, and 0 where there is nothing to share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Questions judged.
    pub questions: usize,
    /// Of these out of scope.
    pub out_of_scope_questions: usize,
    /// Share of all questions treated rightly: answered with the right intent, or out of scope and handed over.
    pub accuracy: f32,
    /// Share of questions in scope whose right intent came first, handed over or not.
    pub top_1: f32,
    /// Share of questions in scope whose right intent was among the three candidates.
    pub top_3: f32,
    /// Share of questions in scope that were handed over.
    pub handed_over: f32,
    /// Share of questions out of scope that were handed over.
    pub out_of_scope_handed_over: f32,
    /// Expected calibration error of the confidence, 15 bins.
    pub ece: f32,
    /// The bins of that error that are not empty, from unsure to sure.
    pub reliability: Vec<ReliabilityBin>,
    /// How well the confidence tells right first places from wrong ones; absent where all are alike.
    pub auroc: Option<f32>,
    /// Share of right first places among the most confident 80 % of questions.
    pub most_confident_80: f32,
    /// How well the confidence tells questions in scope from those out of it; absent where all are alike.
    pub out_of_scope_auroc: Option<f32>,
    /// Every intent with a question, in the catalogue's order.
    pub intents: Vec<IntentFigures>,
}

/// Questions of like confidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// Their number.
    pub questions: usize,
    /// Their mean confidence.
    pub confidence: f32,
    /// The share whose first place was right.
    pub right: f32,
}

/// The questions of one intent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IntentFigures {
    /// The intent.
    pub intent: String,
    /// Its questions.
    pub questions: usize,
    /// The share whose first place was right.
    pub top_1: f32,
    /// Of all questions that got this intent in the first place, the share that was right.
    pub precision: f32,
    /// The intent that most often took the first place from it, and how often.
    pub taken_for: Option<(String, usize)>,
}

/// Ranks questions whose vectors are known.
///
/// # Errors
/// `FixQuestions` for an intent that the catalogue does not have, `FixFeatures` for a value, `ReportFault` when the device fails.
pub fn judge(
    head: &Head,
    catalogue: &Catalogue,
    index: &CatalogueIndex,
    features: &FeatureEncoder,
    questions: &[LabelledQuestion],
    vectors: &Embeddings,
) -> Result<Vec<Judged>, Error> {
    let mut phi = vec![0.0; questions.len() * features.width()];
    let mut labels = Vec::with_capacity(questions.len());
    for (number, question) in questions.iter().enumerate() {
        let place = format!("question {}", number + 1);
        labels.push(match catalogue.position(&question.intent) {
            None if question.intent != OUT_OF_SCOPE => {
                let problem = format!("intent {:?} is neither in the catalogue nor {OUT_OF_SCOPE:?}", question.intent);
                return Err(Error::questions(place, problem));
            }
            label => label,
        });
        question
            .encode_features(features, &mut phi[number * features.width()..][..features.width()])
            .map_err(|error| Error::questions(place, error.to_string()))?;
    }
    let rankings = head.rank(vectors, &index.best_cosines(vectors)?, &phi)?;
    Ok(rankings.into_iter().zip(labels).map(|(ranking, label)| Judged { ranking, label }).collect())
}

impl Evaluation {
    /// The figures of questions ranked by a head of this catalogue.
    pub fn of(judged: &[Judged], catalogue: &Catalogue) -> Evaluation {
        let inside = || judged.iter().filter(|judged| judged.label.is_some());
        let outside = || judged.iter().filter(|judged| judged.label.is_none());
        let (known, strange) = (inside().count(), outside().count());
        let handed_over = |judged: &&Judged| judged.ranking.hand_over;
        let among_three =
            |judged: &&Judged| judged.ranking.candidates.iter().any(|(intent, _)| Some(*intent) == judged.label);
        let (reliability, ece) = reliability(judged);
        Evaluation {
            questions: judged.len(),
            out_of_scope_questions: strange,
            accuracy: share(judged.iter().filter(|judged| judged.treated_rightly()).count(), judged.len()),
            top_1: share(inside().filter(|judged| judged.is_right()).count(), known),
            top_3: share(inside().filter(among_three).count(), known),
            handed_over: share(inside().filter(handed_over).count(), known),
            out_of_scope_handed_over: share(outside().filter(handed_over).count(), strange),
            ece,
            reliability,
            auroc: auroc(confidences(judged.iter().filter(|judged| judged.is_right())), {
                confidences(judged.iter().filter(|judged| !judged.is_right()))
            }),
            most_confident_80: most_confident(judged),
            out_of_scope_auroc: auroc(confidences(inside()), confidences(outside())),
            intents: intents(judged, catalogue),
        }
    }
}

impl Judged {
    fn is_right(&self) -> bool {
        self.label == Some(self.ranking.best)
    }

    fn treated_rightly(&self) -> bool {
        if self.ranking.hand_over { self.label.is_none() } else { self.is_right() }
    }
}

fn share(count: usize, of: usize) -> f32 {
    if of == 0 { 0.0 } else { (count as f64 / of as f64) as f32 }
}

fn confidences<'a>(judged: impl Iterator<Item = &'a Judged>) -> Vec<f32> {
    judged.map(|judged| judged.ranking.confidence).collect()
}

/// The bins of the confidence, and the mean distance between it and the share of right answers.
fn reliability(judged: &[Judged]) -> (Vec<ReliabilityBin>, f32) {
    let mut bins = [(0.0_f64, 0_usize, 0_usize); BINS];
    for one in judged {
        let bin = &mut bins[((one.ranking.confidence * BINS as f32) as usize).min(BINS - 1)];
        bin.0 += f64::from(one.ranking.confidence);
        bin.1 += usize::from(one.is_right());
        bin.2 += 1;
    }
    let gaps: f64 = bins.iter().map(|(confidence, right, _)| (confidence - *right as f64).abs()).sum();
    let filled = bins.iter().filter(|(_, _, questions)| *questions > 0);
    let bins = filled.map(|(confidence, right, questions)| ReliabilityBin {
        questions: *questions,
        confidence: (confidence / *questions as f64) as f32,
        right: share(*right, *questions),
    });
    (bins.collect(), (gaps / judged.len().max(1) as f64) as f32)
}

/// The share of pairs of a higher and a lower value in which the first is greater; equal ones count half.
fn auroc(higher: Vec<f32>, lower: Vec<f32>) -> Option<f32> {
    if higher.is_empty() || lower.is_empty() {
        return None;
    }
    let pairs = higher.len() as f64 * lower.len() as f64;
    let mut values: Vec<(f32, bool)> = higher.into_iter().map(|value| (value, true)).collect();
    values.extend(lower.into_iter().map(|value| (value, false)));
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut ordered) = (0.0, 0.0);
    for equal in values.chunk_by(|a, b| a.0 == b.0) {
        let high = equal.iter().filter(|(_, is_high)| *is_high).count() as f64;
        let low = equal.len() as f64 - high;
        ordered += high * (below + low / 2.0);
        below += low;
    }
    Some((ordered / pairs) as f32)
}

fn most_confident(judged: &[Judged]) -> f32 {
    let mut order: Vec<&Judged> = judged.iter().collect();
    order.sort_by(|a, b| b.ranking.confidence.total_cmp(&a.ranking.confidence));
    order.truncate((MOST_CONFIDENT * judged.len() as f64) as usize);
    share(order.iter().filter(|judged| judged.is_right()).count(), order.len())
}

fn intents(judged: &[Judged], catalogue: &Catalogue) -> Vec<IntentFigures> {
    let count = catalogue.intents.len();
    let (mut asked, mut right, mut answered) = (vec![0; count], vec![0; count], vec![0; count]);
    let mut taken_for = vec![BTreeMap::<usize, usize>::new(); count];
    for one in judged {
        let best = one.ranking.best;
        answered[best] += 1;
        let Some(label) = one.label else { continue };
        asked[label] += 1;
        if one.is_right() { right[label] += 1 } else { *taken_for[label].entry(best).or_default() += 1 }
    }
    let name = |intent: usize| catalogue.intents[intent].name.clone();
    let figures = |intent: usize| IntentFigures {
        intent: name(intent),
        questions: asked[intent],
        top_1: share(right[intent], asked[intent]),
        precision: share(right[intent], answered[intent]),
        taken_for: taken_for[intent]
            .iter()
            .max_by_key(|(other, times)| (**times, count - **other))
            .map(|(other, times)| (name(*other), *times)),
    };
    (0..count).filter(|intent| asked[*intent] > 0).map(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Intent;

    fn catalogue() -> Catalogue {
        let intent = |name: &str| Intent {
            name: name.to_owned(),
            title: "t".into(),
            examples: vec!["e".into()],
            answer: "a".into(),
            answer_without_features: "a".into(),
        };
        Catalogue::new(["one", "two", "three", "four"].map(intent).into()).unwrap()
    }

    /// Answered with `best` at a confidence, others following in turn, where `label` is right.
    fn judged(best: usize, confidence: f32, label: Option<usize>) -> Judged {
        let candidates = (0..3).map(|place| ((best + place) % 4, confidence)).collect();
        let ranking = Ranking { best, confidence, out_of_scope: 0.0, hand_over: confidence < 0.5, candidates };
        Judged { ranking, label }
    }

    #[test]
    fn figures_are_what_they_say() {
        let judged = [
            judged(0, 0.9, Some(0)),
            judged(0, 0.8, Some(0)),
            judged(1, 0.7, Some(0)),
            judged(1, 0.6, Some(1)),
            judged(2, 0.4, Some(1)),
            judged(3, 0.2, None),
            judged(3, 0.75, None),
        ];
        let evaluation = Evaluation::of(&judged, &catalogue());
        assert_eq!((evaluation.questions, evaluation.out_of_scope_questions), (7, 2));
        assert_eq!(evaluation.top_1, 3.0 / 5.0);
        assert_eq!(evaluation.top_3, 3.0 / 5.0, "the wrong ones are three places away");
        assert_eq!(evaluation.accuracy, 4.0 / 7.0, "three answered rightly and one handed over rightly");
        assert_eq!((evaluation.handed_over, evaluation.out_of_scope_handed_over), (0.2, 0.5));
        assert_eq!(evaluation.most_confident_80, 3.0 / 5.0, "0.9, 0.8, 0.75, 0.7, 0.6");
        // Right 0.9 0.8 0.6 against wrong 0.7 0.4 0.2 0.75: of twelve pairs 0.6 loses two.
        assert!((evaluation.auroc.unwrap() - 10.0 / 12.0).abs() < 1e-6);
        // In scope 0.9 0.8 0.7 0.6 0.4 against 0.2 0.75: of ten pairs three are lost.
        assert!((evaluation.out_of_scope_auroc.unwrap() - 0.7).abs() < 1e-6);
        let [one, two] = &evaluation.intents[..] else { panic!("{:?}", evaluation.intents) };
        assert_eq!((one.intent.as_str(), one.questions, one.precision), ("one", 3, 1.0));
        assert!((one.top_1 - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(one.taken_for, Some(("two".to_owned(), 1)));
        assert_eq!((two.top_1, two.precision, two.taken_for.as_ref().unwrap().0.as_str()), (0.5, 0.5, "three"));
    }

    #[test]
    fn calibration_error_is_the_gap_between_said_and_true() {
        let of = |judged: Vec<Judged>| Evaluation::of(&judged, &catalogue());
        let says = |confidence: f32, i: usize| judged(0, confidence, Some(usize::from(i % 10 >= 7)));
        assert!(of((0..100).map(|i| says(0.7, i)).collect()).ece < 1e-6);
        let boastful = of((0..100).map(|i| says(1.0, i)).collect());
        assert!((boastful.ece - 0.3).abs() < 1e-6);
        assert_eq!(boastful.reliability, [ReliabilityBin { questions: 100, confidence: 1.0, right: 0.7 }]);
        let both = of(vec![judged(0, 0.05, Some(1)), judged(0, 0.95, Some(0))]);
        assert!((both.ece - 0.05).abs() < 1e-6);
        assert_eq!(both.reliability.len(), 2);
        assert_eq!(of(vec![]).ece, 0.0);
    }

    #[test]
    fn equal_confidences_tell_nothing() {
        assert_eq!(auroc(vec![0.5, 0.5], vec![0.5]), Some(0.5));
        assert_eq!(auroc(vec![0.9, 0.8], vec![0.1]), Some(1.0));
        assert_eq!(auroc(vec![], vec![0.1]), None);
    }
}
