//! Fits a head's parameters to examples with Burn's automatic differentiation, one full-batch step at a time.
//!
//! The loss is the mean cross-entropy plus the pull of a prior: every parameter starts at the similarity-only head and pays for leaving
//! it, as a Gaussian prior would have it. That keeps features from outvoting clear words, and an intent without a single training
//! question is not moved at all. Full batches make the result depend on nothing but the data.
//!
//! The head's two parts (parameters.rs) have a loss each and share no parameter, so that each answers on its own. The part that reads the
//! question's vector learns from the catalogue's examples as well: they say what their words mean.
//!
//! In the part of similarity every question is learned from twice: with its features, and with less weight as if an unknown user had asked it, so that clear
//! words stay enough where there are no features (without it, the sample shop's plain questions of unknown users lose 9 points).

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::Error;
use crate::examples::Examples;
use crate::parameters::{Parameters, mixing_rows, nearness};

/// How far biases may leave their start, as the spread of their prior.
const BIAS_SPREAD: f32 = 1.0;
/// The same for the logarithm of the scale.
const LOG_SCALE_SPREAD: f32 = 0.25;
/// What a question counts as asked by an unknown user, against 1 as asked by its own.
const UNKNOWN_USER_WEIGHT: f32 = 0.3;
/// How much wider the prior of the mixing weights is than that of the feature weights.
const MIXING_SPREAD_FACTOR: f32 = 4.0;
/// The same of the directions. On banking77 spreads of 3 to 8 are equally good.
const DIRECTION_SPREAD_FACTOR: f32 = 2.5;
/// What is added to the score of a class that the vectors' part has no text of, which takes it out of the choice.
const NO_CHOICE: f32 = -1e4;

/// The head as a Burn module.
#[derive(Module, Debug)]
struct Network {
    log_scale: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    /// `[width, classes]`; absent where the service encodes no feature.
    weights: Option<Param<Tensor<2>>>,
    /// `[classes, classes]`; absent for very large catalogues.
    mixing: Option<Param<Tensor<2>>>,
    /// `[dimension, classes]`.
    directions: Param<Tensor<2>>,
    direction_bias: Param<Tensor<1>>,
}

/// A fit in progress.
pub(crate) struct Fit {
    network: Network,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    weight_spread: f32,
    start: Start,
    data: Data,
    texts: Texts,
}

/// All labelled texts, questions and examples, as constant tensors.
struct Texts {
    /// `[texts, dimension]`.
    vectors: Tensor<2>,
    /// 1 at the right class, else 0: `[texts, classes]`.
    targets: Tensor<2>,
    /// 0 for classes with at least one text, else `NO_CHOICE`: `[1, classes]`.
    choice: Tensor<2>,
    count: f32,
}

/// The examples as constant tensors; where the service encodes features, the second half of the rows is that of unknown users.
struct Data {
    /// `[rows, classes]`, 0 for out of scope.
    cosines: Tensor<2>,
    phi: Option<Tensor<2>>,
    nearness: Option<Tensor<2>>,
    /// The row's weight at the right class, else 0: `[rows, classes]`.
    targets: Tensor<2>,
    /// 1 for classes with at least one question, else 0: `[1, classes]`.
    learnable: Tensor<2>,
    /// The sum of all rows' weights.
    weight: f32,
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
        let zeros = |rows: usize| (rows > 0).then(|| Param::from_tensor(Tensor::zeros([rows, classes], &device)));
        Fit {
            network: Network {
                log_scale: Param::from_tensor(log_scale.clone()),
                bias: Param::from_tensor(bias.clone()),
                weights: zeros(examples.width),
                mixing: zeros(mixing_rows(classes)),
                directions: Param::from_tensor(Tensor::zeros([examples.dimension, classes], &device)),
                direction_bias: Param::from_tensor(Tensor::zeros([classes], &device)),
            },
            optimizer: AdamConfig::new().init(),
            learning_rate,
            weight_spread,
            start: Start { log_scale, bias },
            data: Data::new(examples, classes, &device),
            texts: Texts::new(examples, classes, &device),
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
        let matrix =
            |matrix: &Option<Param<Tensor<2>>>| matrix.as_ref().map_or(Ok(Vec::new()), |matrix| values(matrix.val()));
        Ok(Parameters {
            scale: values(self.network.log_scale.val())?.first().copied().unwrap_or_default().exp(),
            bias: values(self.network.bias.val())?,
            weights: matrix(&self.network.weights)?,
            mixing: matrix(&self.network.mixing)?,
            directions: values(self.network.directions.val())?,
            direction_bias: values(self.network.direction_bias.val())?,
        })
    }

    /// What the part of similarity says of every row.
    fn scores(&self) -> Tensor<2> {
        let data = &self.data;
        let moved = (self.network.bias.val() - self.start.bias.clone()).unsqueeze() * data.learnable.clone();
        let scale = self.network.log_scale.val().exp().unsqueeze();
        let mut scores = data.cosines.clone() * scale + self.start.bias.clone().unsqueeze() + moved;
        for (matrix, values) in [(&self.network.weights, &data.phi), (&self.network.mixing, &data.nearness)] {
            if let (Some(matrix), Some(values)) = (matrix, values) {
                scores = scores + values.clone().matmul(matrix.val() * data.learnable.clone());
            }
        }
        scores
    }

    /// What the part that reads vectors says of every text.
    fn vector_scores(&self) -> Tensor<2> {
        let bias = self.network.direction_bias.val().unsqueeze();
        self.texts.vectors.clone().matmul(self.network.directions.val()) + bias
    }

    fn loss(&self) -> Tensor<1> {
        self.similarity_loss() + self.vector_loss()
    }

    fn vector_loss(&self) -> Tensor<1> {
        let chosen = log_softmax(self.vector_scores() + self.texts.choice.clone(), 1);
        let cross_entropy = (chosen * self.texts.targets.clone()).sum().neg();
        let spread = self.weight_spread * DIRECTION_SPREAD_FACTOR;
        let loss = cross_entropy
            + pull(self.network.directions.val().square().sum(), spread)
            + pull(self.network.direction_bias.val().square().sum(), BIAS_SPREAD);
        loss / self.texts.count
    }

    fn similarity_loss(&self) -> Tensor<1> {
        let cross_entropy = (log_softmax(self.scores(), 1) * self.data.targets.clone()).sum().neg();
        let mut loss = cross_entropy
            + pull((self.network.log_scale.val() - self.start.log_scale.clone()).square().sum(), LOG_SCALE_SPREAD)
            + pull((self.network.bias.val() - self.start.bias.clone()).square().sum(), BIAS_SPREAD);
        let mixing_spread = self.weight_spread * MIXING_SPREAD_FACTOR;
        for (matrix, spread) in [(&self.network.weights, self.weight_spread), (&self.network.mixing, mixing_spread)] {
            if let Some(matrix) = matrix {
                loss = loss + pull(matrix.val().square().sum(), spread);
            }
        }
        loss / self.data.weight
    }
}

/// What a Gaussian prior of that spread takes for parameters of that sum of squares.
fn pull(squares: Tensor<1>, spread: f32) -> Tensor<1> {
    squares / (2.0 * spread * spread)
}

impl Texts {
    fn new(examples: &Examples, classes: usize, device: &Device) -> Texts {
        let labels: Vec<usize> = examples.labels.iter().chain(&examples.further_labels).copied().collect();
        let mut vectors = examples.vectors.clone();
        vectors.extend_from_slice(&examples.further_vectors);
        let (mut targets, mut choice) = (vec![0.0_f32; labels.len() * classes], vec![NO_CHOICE; classes]);
        for (text, label) in labels.iter().enumerate() {
            targets[text * classes + label] = 1.0;
            choice[*label] = 0.0;
        }
        let matrix =
            |values, rows, columns| Tensor::<2>::from_data(TensorData::new::<f32, _>(values, [rows, columns]), device);
        Texts {
            vectors: matrix(vectors, labels.len(), examples.dimension),
            targets: matrix(targets, labels.len(), classes),
            choice: matrix(choice, 1, classes),
            count: labels.len() as f32,
        }
    }
}

impl Data {
    fn new(examples: &Examples, classes: usize, device: &Device) -> Data {
        let passes: &[f32] = if examples.width > 0 { &[1.0, UNKNOWN_USER_WEIGHT] } else { &[1.0] };
        let rows = examples.len() * passes.len();
        let mut cosines = Vec::with_capacity(rows * classes);
        let mut phi = Vec::with_capacity(rows * examples.width);
        let mut near = Vec::with_capacity(rows * mixing_rows(classes));
        let mut targets = Vec::with_capacity(rows * classes);
        let mut learnable = vec![0.0_f32; classes];
        for (pass, weight) in passes.iter().enumerate() {
            for index in 0..examples.len() {
                let (own_cosines, own_phi, label) = examples.question(index);
                cosines.extend_from_slice(own_cosines);
                cosines.push(0.0);
                phi.extend_from_slice(if pass == 0 { own_phi } else { &examples.unknown_user });
                if mixing_rows(classes) > 0 {
                    near.extend(nearness(own_cosines));
                }
                targets.extend((0..classes).map(|class| if class == label { *weight } else { 0.0 }));
                learnable[label] = 1.0;
            }
        }
        let matrix = |values: Vec<f32>, rows: usize| {
            let shape = [rows, values.len() / rows];
            Tensor::<2>::from_data(TensorData::new(values, shape), device)
        };
        Data {
            cosines: matrix(cosines, rows),
            phi: (!phi.is_empty()).then(|| matrix(phi, rows)),
            nearness: (!near.is_empty()).then(|| matrix(near, rows)),
            targets: matrix(targets, rows),
            learnable: matrix(learnable, 1),
            weight: examples.len() as f32 * passes.iter().sum::<f32>(),
        }
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    tensor.without_autodiff().try_into_vec_as::<f32>().map_err(|error| Error::fault("training", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two intents of equal words between which a flag decides, a third without questions, and out of scope.
    fn examples() -> Examples {
        let mut examples =
            Examples { intents: 3, width: 2, dimension: 2, unknown_user: vec![0.0; 2], ..Examples::default() };
        for question in 0..40 {
            let (flag, strange) = (question % 2, question % 4 == 3);
            examples.cosines.extend(if strange { [0.5, 0.5, 0.2] } else { [0.8, 0.8, 0.3] });
            examples.vectors.extend(if strange { [0.0, 1.0] } else { [1.0, 0.0] });
            examples.phi.extend([flag as f32, 1.0 - flag as f32]);
            examples.labels.push(if strange { 3 } else { flag });
        }
        examples.further_vectors.extend([-1.0, 0.0, -1.0, 0.0]);
        examples.further_labels.extend([2, 2]);
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
            parameters.score_similarity(&[0.8, 0.8, 0.3], &phi, &mut scores);
            assert!(scores[intent] > scores[1 - intent] + 1.0, "{scores:?}");
        }
    }

    #[test]
    fn serving_computes_what_training_computed() {
        let examples = examples();
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        (0..20).for_each(|_| fit.step());
        let (trained, of_vectors) = (values(fit.scores()).unwrap(), values(fit.vector_scores()).unwrap());
        let parameters = fit.parameters().unwrap();
        let mut scores = vec![0.0; 4];
        for (index, expected) in trained.chunks_exact(4).take(examples.len()).enumerate() {
            let (cosines, phi, _) = examples.question(index);
            parameters.score_similarity(cosines, phi, &mut scores);
            assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{scores:?} {expected:?}");
            parameters.score_vector(examples.vector(index), &mut scores);
            let expected = &of_vectors[index * 4..][..4];
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

    /// Questions teach two intents and out of scope, the catalogue's examples the third.
    #[test]
    fn the_vector_decides_as_questions_and_examples_teach() {
        let mut fit = Fit::new(&examples(), 1.0, 0.05);
        (0..100).for_each(|_| fit.step());
        let parameters = fit.parameters().unwrap();
        let mut scores = vec![0.0; 4];
        for (vector, class) in [([-1.0, 0.0], 2), ([0.0, 1.0], 3)] {
            parameters.score_vector(&vector, &mut scores);
            assert!((0..4).all(|other| other == class || scores[other] < scores[class] - 1.0), "{scores:?}");
        }
        let only_known = Examples { further_vectors: vec![], further_labels: vec![], ..examples() };
        let mut fit = Fit::new(&only_known, 1.0, 0.05);
        (0..10).for_each(|_| fit.step());
        let parameters = fit.parameters().unwrap();
        assert!(parameters.directions.chunks_exact(4).all(|row| row[2] == 0.0 && row[0] != 0.0), "no text, no opinion");
    }

    #[test]
    fn no_features_are_no_obstacle() {
        let examples = Examples { phi: vec![], width: 0, ..examples() };
        let mut fit = Fit::new(&examples, 1.0, 0.05);
        fit.step();
        assert!(fit.parameters().unwrap().weights.is_empty());
    }
}
