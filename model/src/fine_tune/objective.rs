//! What fine-tuning makes small: the cross-entropy of a classifier, and how near texts of other classes are.
//!
//! The classifier compares a text's vector with one direction per class. The directions start at the mean of each class's texts, so that
//! nothing is unlearned while a random classifier finds its way. The second part compares it with the vectors of recent texts: those of
//! its own class are to be nearer than all others, which is what catalogue search needs. Both see cosines only, as the ranking head does.
//! References: Wang et al. 2018, "NormFace"; Khosla et al. 2020, "Supervised contrastive learning"; He et al. 2020, "MoCo" (the queue).

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::embeddings::Embeddings;
use crate::fine_tune::network::unit;

/// What cosines are multiplied by before the softmax.
const SCALE: f32 = 20.0;

/// The same between texts.
const CONTRAST_SCALE: f32 = 10.0;
/// Texts that a batch is compared with beside its own.
const RECENT_TEXTS: usize = 512;
/// Takes a text's comparison with itself out of the softmax.
const NEVER: f32 = -1e9;

/// One direction per class, `[classes, hidden]`.
#[derive(Module, Debug)]
pub(crate) struct ClassDirections {
    directions: Param<Tensor<2>>,
}

impl ClassDirections {
    /// The mean vector of each class; a class without texts gets none that anything is near to.
    pub(crate) fn means(vectors: &Embeddings, labels: &[usize], classes: usize, device: &Device) -> ClassDirections {
        let width = vectors.dimension;
        let mut means = vec![0.0; classes * width];
        for (text, label) in labels.iter().enumerate() {
            let mean = &mut means[label * width..][..width];
            mean.iter_mut().zip(vectors.row(text)).for_each(|(sum, value)| *sum += value);
        }
        let directions = unit(Tensor::from_data(TensorData::new(means, [classes, width]), device));
        ClassDirections { directions: Param::from_tensor(directions.detach()) }
    }

    /// `[texts, classes]`.
    pub(crate) fn log_probabilities(&self, vectors: Tensor<2>) -> Tensor<2> {
        log_softmax(vectors.matmul(unit(self.directions.val()).transpose()) * SCALE, 1)
    }

    /// The mean cross-entropy, a share `smoothing` of each target spread over all classes.
    pub(crate) fn loss(&self, vectors: Tensor<2>, labels: &[usize], smoothing: f32) -> Tensor<1> {
        let device = vectors.device();
        let labels: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
        let texts = labels.len();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [texts, 1]), &device);
        let log_probabilities = self.log_probabilities(vectors);
        let right = log_probabilities.clone().gather(1, labels).mean();
        (right * (1.0 - smoothing) + log_probabilities.mean() * smoothing).neg()
    }
}

/// The vectors of recent texts, which the texts of a batch are compared with.
///
/// A batch alone would hold hardly two texts of a class. The vectors were made by a network some steps younger, which changes little at
/// the rates of a fine-tuning.
#[derive(Debug, Default)]
pub(crate) struct RecentTexts {
    vectors: Option<Tensor<2>>,
    labels: Vec<usize>,
}

impl RecentTexts {
    /// The mean over the batch's texts of how unlikely those of their class are among all others of the batch and the queue, by a
    /// softmax over cosines; the batch is added to the queue. Texts that are alone with their class do not count.
    pub(crate) fn contrast(&mut self, vectors: &Tensor<2>, labels: &[usize]) -> Tensor<1> {
        let device = vectors.device();
        let with_queue = |vectors: Tensor<2>| match &self.vectors {
            Some(queue) => Tensor::cat(vec![vectors, queue.clone()], 0),
            None => vectors,
        };
        let others = with_queue(vectors.clone());
        let constants = with_queue(vectors.clone().detach());
        let all_labels: Vec<usize> = labels.iter().chain(&self.labels).copied().collect();
        let (rows, columns) = (labels.len(), all_labels.len());
        let mut itself = vec![0.0_f32; rows * columns];
        let mut weights = vec![0.0_f32; rows * columns];
        let mut counted = 0;
        for (row, label) in labels.iter().enumerate() {
            itself[row * columns + row] = NEVER;
            let alike = |column: &usize| *column != row && all_labels[*column] == *label;
            let number = (0..columns).filter(alike).count();
            counted += usize::from(number > 0);
            (0..columns).filter(alike).for_each(|column| weights[row * columns + column] = 1.0 / number as f32);
        }
        let matrix = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device);
        let similarities = vectors.clone().matmul(others.transpose()) * CONTRAST_SCALE + matrix(itself);
        let loss = (log_softmax(similarities, 1) * matrix(weights)).sum().neg() / counted.max(1) as f32;

        let kept = columns.min(RECENT_TEXTS);
        self.vectors = Some(constants.narrow(0, 0, kept));
        self.labels = all_labels;
        self.labels.truncate(kept);
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fine_tune::tensors::values;

    fn rows(values: &[[f32; 2]]) -> Tensor<2> {
        let data: Vec<f32> = values.iter().flatten().copied().collect();
        unit(Tensor::from_data(TensorData::new(data, [values.len(), 2]), &Device::flex().autodiff()))
    }

    #[test]
    fn the_directions_start_at_the_means_and_smoothing_spreads_the_target() {
        let vectors = Embeddings { dimension: 2, data: vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0] };
        let directions = ClassDirections::means(&vectors, &[0, 1, 1], 2, &Device::flex().autodiff());
        let asked = || rows(&[[1.0, 0.0]]);
        // Cosines 1 and 0: the other class is exp(-20) as likely.
        let loss = |label, smoothing| values(directions.loss(asked(), &[label], smoothing)).unwrap()[0];
        assert!(loss(0, 0.0).abs() < 1e-4 && (loss(1, 0.0) - 20.0).abs() < 1e-3);
        assert!((loss(0, 0.1) - 1.0).abs() < 1e-3, "half of a tenth falls on the class that is 20 away");
    }

    #[test]
    fn contrast_is_by_hand_what_it_is_by_tensor() {
        let mut recent = RecentTexts::default();
        let first = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]];
        // The third text is alone with its class; the first two see each other and the third.
        let exp = |cosine: f32| (CONTRAST_SCALE * cosine).exp();
        let expected = -((exp(0.8) / (exp(0.8) + exp(0.0))).ln() + (exp(0.8) / (exp(0.8) + exp(0.6))).ln()) / 2.0;
        let found = values(recent.contrast(&rows(&first), &[0, 0, 1])).unwrap()[0];
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");

        // A batch of one text is compared with the queue.
        let found = values(recent.contrast(&rows(&[[0.0, 1.0]]), &[0])).unwrap()[0];
        let sum = exp(0.0) + exp(0.6) + exp(1.0);
        let expected = -((exp(0.0) / sum).ln() + (exp(0.6) / sum).ln()) / 2.0;
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }

    #[test]
    fn the_queue_forgets() {
        let mut recent = RecentTexts::default();
        let batch: Vec<[f32; 2]> = (0..300).map(|text| [1.0, text as f32]).collect();
        (0..3).for_each(|_| drop(recent.contrast(&rows(&batch), &[0; 300])));
        assert_eq!((recent.labels.len(), recent.vectors.unwrap().dims()[0]), (RECENT_TEXTS, RECENT_TEXTS));
    }
}
