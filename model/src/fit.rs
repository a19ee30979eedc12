//! Fits a head's parameters to examples with Burn's automatic differentiation, one full-batch step at a time.
//!
//! The loss is the mean cross-entropy plus the pull of a prior: every parameter starts at the similarity-only head and pays for leaving
//! it, as a Gaussian prior would have it. That keeps features from outvoting clear words, and an intent without a single training
//! question is not moved at all. Full batches make the result depend on nothing but the data.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::Error;
use crate::examples::Examples;
use crate::parameters::Parameters;

/// How far biases may leave their start, as the spread of their prior.
const BIAS_SPREAD: f32 = 2.0;
/// The same for the logarithm of the scale.
const LOG_SCALE_SPREAD: f32 = 0.5;

/// The head as a Burn module.
#[derive(Module, Debug)]
struct Network {
    log_scale: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    /// `[width, classes]`; absent where the service encodes no feature.
    weights: Option<Param<Tensor<2>>>,
}

/// A fit in progress.
pub(crate) struct Fit {
    network: Network,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    weight_spread: f32,
    start: Start,
    data: Data,
}

/// The examples as constant tensors.
struct Data {
    /// `[questions, classes]`, 0 for out of scope.
    cosines: Tensor<2>,
    phi: Option<Tensor<2>>,
    /// One-hot labels `[questions, classes]`.
    targets: Tensor<2>,
    /// 1 for classes with at least one question, else 0: `[1, classes]`.
    learnable: Tensor<2>,
    questions: f32,
}

/// Where the parameters started.
struct Start {
    log_scale: Tensor<1>,
    bias: Tensor<1>,
}

impl Fit {
    /// Prepares a fit of `examples`; `weight_spread` is the spread of the feature weights' prior.
    pub(crate) fn new(examples: &Examples, weight_spread: f32, learning_rate: f64) -> Fit {
        let device = Device::flex().autodiff();
        let start = Parameters::similarity(examples.intents, examples.width);
        let classes = start.classes();
        let log_scale = Tensor::from_data([start.scale.ln()], &device);
        let bias = Tensor::from_data(TensorData::new(start.bias, [classes]), &device);
        let weights = (examples.width > 0).then(|| Param::from_tensor(Tensor::zeros([examples.width, classes], &device)));
        Fit {
            network: Network {
                log_scale: Param::from_tensor(log_scale.clone()),
                bias: Param::from_tensor(bias.clone()),
                weights,
            },
            optimizer: AdamConfig::new().init(),
            learning_rate,
            weight_spread,
            start: Start { log_scale, bias },
            data: Data::new(examples, classes, &device),
        }
    }

    /// One step of Adam over all examples.
    pub(crate) fn step(&mut self) {
        let gradients = GradientsParams::from_grads(self.loss().backward(), &self.network);
        let network = self.network.clone();
        self.network = self.optimizer.step(self.learning_rate, network, gradients);
    }

    /// The parameters as they are now.
    pub(crate) fn parameters(&self) -> Result<Parameters, Error> {
        let weights = match &self.network.weights {
            Some(weights) => values(weights.val())?,
            None => Vec::new(),
        };
        let scale = values(self.network.log_scale.val())?.first().copied().unwrap_or_default().exp();
        Ok(Parameters { scale, bias: values(self.network.bias.val())?, weights })
    }

    fn scores(&self) -> Tensor<2> {
        let data = &self.data;
        let moved = (self.network.bias.val() - self.start.bias.clone()).unsqueeze() * data.learnable.clone();
        let scale = self.network.log_scale.val().exp().unsqueeze();
        let scores = data.cosines.clone() * scale + self.start.bias.clone().unsqueeze() + moved;
        match (&self.network.weights, &data.phi) {
            (Some(weights), Some(phi)) => scores + phi.clone().matmul(weights.val() * data.learnable.clone()),
            _ => scores,
        }
    }

    fn loss(&self) -> Tensor<1> {
        let cross_entropy = (log_softmax(self.scores(), 1) * self.data.targets.clone()).sum().neg();
        let pull = |moved: Tensor<1>, spread: f32| moved.square().sum() / (2.0 * spread * spread);
        let mut loss = cross_entropy
            + pull(self.network.log_scale.val() - self.start.log_scale.clone(), LOG_SCALE_SPREAD)
            + pull(self.network.bias.val() - self.start.bias.clone(), BIAS_SPREAD);
        if let Some(weights) = &self.network.weights {
            loss = loss + weights.val().square().sum() / (2.0 * self.weight_spread * self.weight_spread);
        }
        loss / self.data.questions
    }
}

impl Data {
    fn new(examples: &Examples, classes: usize, device: &Device) -> Data {
        let questions = examples.len();
        let mut cosines = Vec::with_capacity(questions * classes);
        let mut targets = vec![0.0_f32; questions * classes];
        let mut learnable = vec![0.0_f32; classes];
        for index in 0..questions {
            let (own, _, label) = examples.question(index);
            cosines.extend_from_slice(own);
            cosines.push(0.0);
            targets[index * classes + label] = 1.0;
            learnable[label] = 1.0;
        }
        let matrix = |values: Vec<f32>, rows: usize, columns: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        Data {
            cosines: matrix(cosines, questions, classes),
            phi: (examples.width > 0).then(|| matrix(examples.phi.clone(), questions, examples.width)),
            targets: matrix(targets, questions, classes),
            learnable: matrix(learnable, 1, classes),
            questions: questions as f32,
        }
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    tensor.without_autodiff().try_into_vec_as::<f32>().map_err(|error| Error::fault("training", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two intents of equal words whose right one a flag decides, a third without questions, and out of scope.
    fn examples() -> Examples {
        let mut examples = Examples { intents: 3, width: 2, ..Examples::default() };
        for question in 0..40 {
            let (flag, strange) = (question % 2, question % 4 == 3);
            examples.cosines.extend(if strange { [0.5, 0.5, 0.2] } else { [0.8, 0.8, 0.3] });
            examples.phi.extend([flag as f32, 1.0 - flag as f32]);
            examples.labels.push(if strange { 3 } else { flag });
        }
        examples
    }

    #[test]
    fn the_loss_falls_and_the_flag_decides() {
        let examples = examples();
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        let loss = |fit: &Fit| fit.loss().into_scalar::<f32>();
        let before = loss(&fit);
        (0..100).for_each(|_| fit.step());
        assert!(loss(&fit) < before / 2.0, "{before} {}", loss(&fit));
        let parameters = fit.parameters().unwrap();
        let mut scores = vec![0.0; 4];
        for (phi, intent) in [([0.0, 1.0], 0), ([1.0, 0.0], 1)] {
            parameters.score(&[0.8, 0.8, 0.3], &phi, &mut scores);
            assert!(scores[intent] > scores[1 - intent] + 1.0, "{scores:?}");
        }
    }

    #[test]
    fn serving_computes_what_training_computed() {
        let examples = examples();
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        (0..20).for_each(|_| fit.step());
        let trained = values(fit.scores()).unwrap();
        let parameters = fit.parameters().unwrap();
        let mut scores = vec![0.0; 4];
        for (index, expected) in trained.chunks_exact(4).enumerate() {
            let (cosines, phi, _) = examples.question(index);
            parameters.score(cosines, phi, &mut scores);
            assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{scores:?} {expected:?}");
        }
    }

    #[test]
    fn an_intent_without_questions_stays_at_similarity() {
        let examples = examples();
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        (0..50).for_each(|_| fit.step());
        let parameters = fit.parameters().unwrap();
        assert_eq!(parameters.bias[2], 0.0);
        assert!(parameters.weights.chunks_exact(4).all(|row| row[2] == 0.0 && row[0] != 0.0));
    }

    #[test]
    fn no_features_are_no_obstacle() {
        let examples = Examples { phi: vec![], width: 0, ..examples() };
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        fit.step();
        assert!(fit.parameters().unwrap().weights.is_empty());
    }
}
