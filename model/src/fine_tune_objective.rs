//! What fine-tuning makes small: the cross-entropy of a classifier on the cosines between a text and one direction per class.
//!
//! The directions start at the mean of each class's texts, so that nothing is unlearned while a random classifier finds its way. With
//! cosines only, the vectors stay what catalogue search and the ranking head compare: close to their intent's other examples, far from
//! the rest. Reference: Wang et al. 2018, "NormFace".

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::embeddings::Embeddings;
use crate::fine_tune_network::unit;

/// What cosines are multiplied by before the softmax.
const SCALE: f32 = 20.0;

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
