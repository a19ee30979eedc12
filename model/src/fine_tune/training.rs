//! The steps of a fine-tuning: Adam over shuffled batches, a look at the held-out texts after each epoch, and the best network kept.
//!
//! The learning rate rises over the first tenth of all steps and then falls to zero in a straight line, as is usual for BERT; the
//! pretrained network is lost when it starts at the full rate. All is done in the order a seed gives, on sums whose order does not depend
//! on the threads.

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;

use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::fine_tune::FineTuneProgress;
use crate::fine_tune::blend::blend;
use crate::fine_tune::corpus::Corpus;
use crate::fine_tune::dropout::Dropout;
use crate::fine_tune::network::TrainableBert;
use crate::fine_tune::objective::{ClassDirections, RecentTexts};
use crate::fine_tune::options::FineTuneOptions;
use crate::fine_tune::tensors::values;
use crate::random::Random;

/// The share of all steps over which the learning rate rises.
const WARM_UP: f64 = 0.1;
/// How much faster the class directions learn than the network.
const DIRECTIONS_RATE_FACTOR: f64 = 20.0;
/// Texts encoded together, when nothing is learned.
const ENCODE_TEXTS: usize = 64;

/// A fine-tuning in progress.
pub(crate) struct Training<'a> {
    corpus: &'a Corpus,
    options: &'a FineTuneOptions,
    network: TrainableBert,
    directions: ClassDirections,
    recent: RecentTexts,
    network_optimizer: ModuleOptimizer,
    directions_optimizer: ModuleOptimizer,
    random: Random,
    dropout: Dropout,
    step: usize,
    steps: usize,
}

/// What a training ended with.
pub(crate) struct Trained {
    /// The network of the best epoch, blended with that of the start.
    pub(crate) network: TrainableBert,
    pub(crate) epochs: usize,
    pub(crate) best_epoch: usize,
    /// How often the class of a held-out text is that of the nearest text learned from, before and after.
    pub(crate) accuracy_before: f32,
    pub(crate) accuracy_after: f32,
}

impl<'a> Training<'a> {
    /// Trains for as many epochs as the options say, or until the held-out accuracy no longer rises.
    pub(crate) fn run(
        network: TrainableBert,
        corpus: &'a Corpus,
        options: &'a FineTuneOptions,
        device: &Device,
        progress: &mut dyn FnMut(FineTuneProgress),
    ) -> Result<Trained, Error> {
        let learned = encode(&network, corpus, &corpus.learned)?;
        let accuracy_before = nearest_accuracy(&network, corpus, &learned)?;
        let labels: Vec<usize> = corpus.learned.iter().map(|text| corpus.labels[*text]).collect();
        let random = Random::new(options.seed);
        let steps = options.epochs * corpus.shuffled(options.batch_texts, &mut random.clone()).len();
        let start = network.clone();
        let mut training = Training {
            corpus,
            options,
            directions: ClassDirections::means(&learned, &labels, corpus.classes, device),
            recent: RecentTexts::default(),
            network,
            network_optimizer: AdamConfig::new().with_epsilon(1e-6).init(),
            directions_optimizer: AdamConfig::new().with_epsilon(1e-6).init(),
            dropout: Dropout::new(options.dropout, options.word_dropout, Random::new(options.seed ^ u64::MAX)),
            random: Random::new(options.seed),
            step: 0,
            steps,
        };
        let (network, epochs, best_epoch) = training.epochs(progress)?;
        let network = blend(&start, network, options.blend)?;
        let accuracy_after = if corpus.held_out.is_empty() {
            0.0
        } else {
            nearest_accuracy(&network, corpus, &encode(&network, corpus, &corpus.learned)?)?
        };
        Ok(Trained { network, epochs, best_epoch, accuracy_before, accuracy_after })
    }

    /// The best network, the epochs run and the best of them.
    fn epochs(&mut self, progress: &mut dyn FnMut(FineTuneProgress)) -> Result<(TrainableBert, usize, usize), Error> {
        let mut best = (self.network.clone(), 0, HeldOut::default());
        for epoch in 1..=self.options.epochs {
            let batches = self.corpus.shuffled(self.options.batch_texts, &mut self.random);
            let mut done = (epoch - 1) * self.corpus.learned.len();
            let total = self.options.epochs * self.corpus.learned.len();
            for batch in batches {
                let loss = self.learn(&batch)?;
                done += batch.len();
                progress(FineTuneProgress { epoch, done, total, loss, held_out_accuracy: best.2.accuracy });
            }
            let held_out = self.held_out()?;
            if held_out.is_better_than(&best.2) || self.corpus.held_out.is_empty() {
                best = (self.network.clone(), epoch, held_out);
            } else if epoch >= best.1 + self.options.patience_epochs {
                return Ok((best.0, epoch, best.1));
            }
        }
        Ok((best.0, self.options.epochs, best.1))
    }

    /// One step of Adam; the loss before it.
    fn learn(&mut self, texts: &[usize]) -> Result<f32, Error> {
        let labels: Vec<usize> = texts.iter().map(|text| self.corpus.labels[*text]).collect();
        let vectors = self.network.forward(&self.corpus.batch(texts), &mut self.dropout);
        let mut loss = self.directions.loss(vectors.clone(), &labels, self.options.label_smoothing);
        if self.options.contrast > 0.0 {
            loss = loss + self.recent.contrast(&vectors, &labels) * self.options.contrast;
        }
        let value = values(loss.clone())?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            let problem = format!("the loss is {value} after {} steps; choose a smaller learning rate", self.step);
            return Err(Error::fault("fine-tuning", problem));
        }
        let mut gradients = loss.backward();
        let of_network = GradientsParams::from_module(&mut gradients, &self.network);
        let of_directions = GradientsParams::from_module(&mut gradients, &self.directions);
        let rate = self.options.learning_rate * self.schedule();
        self.network = self.network_optimizer.step(rate, self.network.clone(), of_network);
        self.directions =
            self.directions_optimizer.step(rate * DIRECTIONS_RATE_FACTOR, self.directions.clone(), of_directions);
        self.step += 1;
        Ok(value)
    }

    /// The share of the learning rate at the present step.
    fn schedule(&self) -> f64 {
        let (step, steps) = (self.step as f64, self.steps as f64);
        let warm_up = (WARM_UP * steps).max(1.0);
        if step < warm_up { (step + 1.0) / warm_up } else { (steps - step).max(0.0) / (steps - warm_up).max(1.0) }
    }

    fn held_out(&self) -> Result<HeldOut, Error> {
        let (network, directions) = (self.network.valid(), self.directions.valid());
        let (mut right, mut loss) = (0, 0.0);
        for texts in self.corpus.by_length(&self.corpus.held_out, ENCODE_TEXTS) {
            let vectors = network.forward(&self.corpus.batch(&texts), &mut Dropout::off());
            let log_probabilities = values(directions.log_probabilities(vectors))?;
            for (text, row) in texts.iter().zip(log_probabilities.chunks_exact(self.corpus.classes)) {
                let label = self.corpus.labels[*text];
                loss -= row[label];
                right += usize::from(row.iter().all(|value| *value <= row[label]));
            }
        }
        let texts = self.corpus.held_out.len().max(1) as f32;
        Ok(HeldOut { accuracy: right as f32 / texts, loss: loss / texts })
    }
}

/// How well the class directions tell held-out texts apart.
#[derive(Default)]
struct HeldOut {
    accuracy: f32,
    loss: f32,
}

impl HeldOut {
    /// The accuracy counts: the loss grows again where a network becomes surer of the same answers. It decides between equals.
    fn is_better_than(&self, other: &HeldOut) -> bool {
        self.accuracy > other.accuracy || (self.accuracy == other.accuracy && self.loss < other.loss)
    }
}

/// The vectors of some texts, in their order.
fn encode(network: &TrainableBert, corpus: &Corpus, texts: &[usize]) -> Result<Embeddings, Error> {
    let network = network.valid();
    let width = network.words.dims()[1];
    let mut place = vec![0; corpus.labels.len()];
    texts.iter().enumerate().for_each(|(row, text)| place[*text] = row);
    let mut data = vec![0.0; width * texts.len()];
    for texts in corpus.by_length(texts, ENCODE_TEXTS) {
        let vectors = values(network.forward(&corpus.batch(&texts), &mut Dropout::off()))?;
        for (text, vector) in texts.iter().zip(vectors.chunks_exact(width)) {
            data[place[*text] * width..][..width].copy_from_slice(vector);
        }
    }
    Ok(Embeddings { dimension: width, data })
}

/// How often the nearest learned text of a held-out one has its class; 0 when nothing is held out.
fn nearest_accuracy(network: &TrainableBert, corpus: &Corpus, learned: &Embeddings) -> Result<f32, Error> {
    let held_out = encode(network, corpus, &corpus.held_out)?;
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let right = corpus.held_out.iter().enumerate().filter(|(row, text)| {
        let vector = held_out.row(*row);
        let nearest = (0..corpus.learned.len())
            .map(|other| (cosine(vector, learned.row(other)), other))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        nearest.is_some_and(|(_, other)| corpus.labels[corpus.learned[other]] == corpus.labels[**text])
    });
    Ok(right.count() as f32 / corpus.held_out.len().max(1) as f32)
}
