//! Training questions as numbers, and their division into folds.

use std::collections::BTreeMap;

use crate::random::Random;

/// Questions ready to learn from: vector, cosines, phi and the right class of each; and the catalogue's own examples, which say what
/// their words mean and nothing of users.
#[derive(Debug, Clone, Default)]
pub(crate) struct Examples {
    /// `[questions, dimension]`.
    pub(crate) vectors: Vec<f32>,
    /// `[questions, intents]`.
    pub(crate) cosines: Vec<f32>,
    /// `[questions, width]`.
    pub(crate) phi: Vec<f32>,
    /// The right class of each question; the number of intents stands for out of scope.
    pub(crate) labels: Vec<usize>,
    /// Phi of a user of whom nothing is known: `[width]`.
    pub(crate) unknown_user: Vec<f32>,
    /// The catalogue's examples that no question repeats: `[texts, dimension]`, and their intents.
    pub(crate) further_vectors: Vec<f32>,
    pub(crate) further_labels: Vec<usize>,
    pub(crate) intents: usize,
    pub(crate) width: usize,
    pub(crate) dimension: usize,
}

impl Examples {
    /// Number of questions.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Cosines, phi and label of one question.
    pub(crate) fn question(&self, index: usize) -> (&[f32], &[f32], usize) {
        let cosines = &self.cosines[index * self.intents..][..self.intents];
        (cosines, &self.phi[index * self.width..][..self.width], self.labels[index])
    }

    /// The vector of one question.
    pub(crate) fn vector(&self, index: usize) -> &[f32] {
        &self.vectors[index * self.dimension..][..self.dimension]
    }

    /// The classes that questions belong to: out of scope, the last one, counts only where a question taught it.
    pub(crate) fn counted_classes(&self) -> usize {
        self.intents + usize::from(self.labels.contains(&self.intents))
    }

    /// The questions for which `keep` says so, in order, with all further texts.
    pub(crate) fn select(&self, keep: impl Fn(usize) -> bool) -> Examples {
        let mut selected = Examples {
            unknown_user: self.unknown_user.clone(),
            further_vectors: self.further_vectors.clone(),
            further_labels: self.further_labels.clone(),
            intents: self.intents,
            width: self.width,
            dimension: self.dimension,
            ..Examples::default()
        };
        for index in (0..self.len()).filter(|index| keep(*index)) {
            let (cosines, phi, label) = self.question(index);
            selected.vectors.extend_from_slice(self.vector(index));
            selected.cosines.extend_from_slice(cosines);
            selected.phi.extend_from_slice(phi);
            selected.labels.push(label);
        }
        selected
    }
}

/// Divides questions into `folds` parts, each with its share of every class; questions of one group stay together.
///
/// A group is one text, which several users may have asked: a head that has learned what a text means must not be tested on it.
/// The same seed gives the same division.
pub(crate) fn divide(labels: &[usize], groups: &[String], folds: usize, seed: u64) -> Vec<usize> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (question, group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(question);
    }
    let mut order: Vec<Vec<usize>> = members.into_values().collect();
    Random::new(seed).shuffle(&mut order);
    let mut fold_of = vec![0; labels.len()];
    let mut of_class: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut sizes = vec![0; folds];
    for group in order {
        let label = labels[group[0]];
        let fold = (0..folds)
            .min_by_key(|fold| (of_class.get(&(label, *fold)).copied().unwrap_or(0), sizes[*fold]))
            .unwrap_or(0);
        for question in group {
            fold_of[question] = fold;
            *of_class.entry((labels[question], fold)).or_default() += 1;
            sizes[fold] += 1;
        }
    }
    fold_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_share_every_class_and_keep_groups_together() {
        let labels: Vec<usize> = (0..300).map(|i| i % 7).collect();
        let groups: Vec<String> = (0..300).map(|i| format!("text {}", i / 2)).collect();
        let folds = divide(&labels, &groups, 5, 1);
        assert_eq!(folds, divide(&labels, &groups, 5, 1));
        assert_ne!(folds, divide(&labels, &groups, 5, 2));
        for pair in folds.chunks_exact(2) {
            assert_eq!(pair[0], pair[1], "both questions of a text");
        }
        for fold in 0..5 {
            for class in 0..7 {
                let count = (0..300).filter(|i| folds[*i] == fold && labels[*i] == class).count();
                assert!((4..=14).contains(&count), "fold {fold} has {count} of class {class}");
            }
        }
    }
}
