//! Fine-tunes an encoder on labelled texts: a folder in the Hugging Face layout goes in, another of the same layout comes out.
//!
//! The ordinary encoder loads what comes out, so that a node uses it by naming the new folder; all of its tenants then share it, and
//! their heads and catalogue vectors have to be made anew, as for any other encoder. Every weight is trained, by Burn's automatic
//! differentiation, on the CPU.
//!
//! A head trained afterwards on the same questions sees them as the encoder remembers them, which is better than it will be on new
//! ones: `FineTuneReport` says how good the encoder is on texts it has not seen.

pub(crate) mod options;
pub(crate) mod corpus;
pub(crate) mod network;
pub(crate) mod objective;
pub(crate) mod training;
pub(crate) mod blend;
pub(crate) mod tensors;
pub(crate) mod dropout;
pub(crate) mod folder;
#[cfg(test)]
pub(crate) mod fixture;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};

use crate::bert::config::BertConfig;
use crate::config::EncoderConfig;
use crate::error::Error;
use crate::fine_tune::corpus::{Corpus, LabelledText};
use crate::fine_tune::folder::{check_free, write_folder};
use crate::fine_tune::network::TrainableBert;
use crate::fine_tune::options::FineTuneOptions;
use crate::fine_tune::training::Training;
use crate::text::{Reading, TextTokenizer};
use crate::weights::WeightsFile;

/// What to fine-tune, and from what.
#[derive(Debug, Clone, Copy)]
pub struct FineTuneRequest<'a> {
    /// The encoder to start from, of the BERT family, and how it reads texts.
    pub encoder: &'a EncoderConfig,
    /// The folder to write; it must not be there yet.
    pub out: &'a Path,
    /// The texts; those of the same words and class count once.
    pub texts: &'a [LabelledText<'a>],
    /// How to fine-tune.
    pub options: &'a FineTuneOptions,
}

/// Where a fine-tuning is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineTuneProgress {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Texts learned from so far, each as often as it was.
    pub done: usize,
    /// The same at the end, unless the training stops early.
    pub total: usize,
    /// The loss of the latest step.
    pub loss: f32,
    /// How often the training's own classifier was right on held-out texts in the best epoch so far; 0 before there is one.
    pub held_out_accuracy: f32,
}

/// What came of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FineTuneReport {
    /// Different texts that were learned from.
    pub texts: usize,
    /// Texts that were held out; with none the accuracies are 0.
    pub held_out: usize,
    /// Epochs that were run.
    pub epochs: usize,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// How often the nearest learned text of a held-out one has its intent, with the encoder as it was.
    pub accuracy_before: f32,
    /// The same with the fine-tuned encoder.
    pub accuracy_after: f32,
}

/// Fine-tunes an encoder and writes it as a new folder, whole or not at all; the same request gives the same folder.
///
/// # Errors
/// `FixConfig` for an option or a folder that is taken, `FixQuestions` for the texts, `FixModelFolder` naming file and tensor,
/// `CheckFile` for what cannot be read or written, `ReportFault` when the training leaves the finite numbers.
pub fn fine_tune(
    request: FineTuneRequest<'_>,
    progress: &mut (dyn FnMut(FineTuneProgress) + Send),
) -> Result<FineTuneReport, Error> {
    let FineTuneRequest { encoder, out, texts, options } = request;
    options.validate()?;
    encoder.validate()?;
    check_free(out)?;
    let folder = encoder.folder.as_path();
    let config = BertConfig::load(folder)?;
    if encoder.max_tokens > config.max_position_embeddings {
        let allowed = format!("{} has positions for {} tokens", folder.display(), config.max_position_embeddings);
        return Err(Error::config("max_tokens", encoder.max_tokens, allowed));
    }
    let tokenizer = TextTokenizer::load(
        &folder.join("tokenizer.json"),
        config.vocab_size,
        Reading::Framed,
        encoder,
        Arc::default(),
    )?;
    let weights = WeightsFile::read(&folder.join("model.safetensors"))?;
    let corpus = Corpus::new(texts, &tokenizer, options.held_out_one_in, options.seed)?;
    let device = Device::flex().autodiff();
    let network = TrainableBert::load(&config, weights.tensors()?, &corpus.rows, &device)?;
    let pool = ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|error| Error::fault("starting the threads of a fine-tuning", error))?;
    let trained = pool.install(|| Training::run(network, &corpus, options, &device, progress))?;
    write_folder(folder, out, &weights, &trained.network.tensors()?, &corpus.rows)?;
    Ok(FineTuneReport {
        texts: corpus.learned.len(),
        held_out: corpus.held_out.len(),
        epochs: trained.epochs,
        best_epoch: trained.best_epoch,
        accuracy_before: trained.accuracy_before,
        accuracy_after: trained.accuracy_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::fine_tune::fixture::{task, write_tiny_bert};
    use crate::{Devices, Encoder, ModelConfig};

    const OPTIONS: FineTuneOptions = FineTuneOptions {
        seed: 1,
        epochs: 8,
        patience_epochs: 3,
        held_out_one_in: 5,
        batch_texts: 16,
        learning_rate: 3e-3,
        dropout: 0.05,
        word_dropout: 0.05,
        label_smoothing: 0.1,
        contrast: 0.5,
        blend: 0.7,
        threads: 2,
    };

    struct Place {
        folder: tempfile::TempDir,
        texts: Vec<(String, usize)>,
    }

    impl Place {
        fn new(prefix: &str) -> Place {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("tiny")).unwrap();
            write_tiny_bert(&folder.path().join("tiny"), prefix);
            Place { folder, texts: task(240) }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn tune(&self, out: &str, options: &FineTuneOptions) -> Result<FineTuneReport, Error> {
            let texts: Vec<LabelledText<'_>> =
                self.texts.iter().map(|(text, class)| LabelledText { text, class: *class }).collect();
            let (encoder, out) = (self.config("tiny"), self.path(out));
            let request = FineTuneRequest { encoder: &encoder, out: &out, texts: &texts, options };
            fine_tune(request, &mut |progress| assert!(progress.done <= progress.total))
        }

        fn config(&self, name: &str) -> EncoderConfig {
            EncoderConfig { folder: self.path(name), max_tokens: 12, ..EncoderConfig::default() }
        }

        fn encoder(&self, name: &str) -> Encoder {
            let config = self.config(name);
            let devices = Devices::open(&ModelConfig { full: config.clone(), ..ModelConfig::default() }).unwrap();
            Encoder::load(&config, &devices).unwrap()
        }
    }

    #[test]
    fn it_learns_what_texts_of_a_class_have_in_common() {
        let place = Place::new("");
        let report = place.tune("tuned", &OPTIONS).unwrap();
        assert_eq!((report.texts, report.held_out), (192, 48));
        assert!(report.accuracy_before < 0.6 && report.accuracy_after > 0.85, "{report:?}");

        // The folder that was written is the network that was measured.
        let (before, after) = (place.encoder("tiny"), place.encoder("tuned"));
        assert_ne!(before.name(), after.name());
        let unseen: Vec<(String, usize)> = task(400).split_off(240);
        let texts = |texts: &[(String, usize)]| texts.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
        let accuracy = |encoder: &Encoder| {
            let encode = |texts: Vec<String>| {
                encoder.encode_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
            };
            let (known, asked) = (encode(texts(&place.texts)), encode(texts(&unseen)));
            let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let right = (0..unseen.len()).filter(|row| {
                let nearest = (0..known.len())
                    .max_by(|a, b| {
                        cosine(asked.row(*row), known.row(*a)).total_cmp(&cosine(asked.row(*row), known.row(*b)))
                    })
                    .unwrap();
                place.texts[nearest].1 == unseen[*row].1
            });
            right.count() as f32 / unseen.len() as f32
        };
        assert!(accuracy(&after) > accuracy(&before) + 0.15, "{} {}", accuracy(&before), accuracy(&after));
    }

    #[test]
    fn the_same_seed_gives_the_same_folder_whatever_the_threads() {
        let place = Place::new("bert.");
        let options = FineTuneOptions { epochs: 2, ..OPTIONS };
        let report = place.tune("one", &options).unwrap();
        assert_eq!(place.tune("two", &FineTuneOptions { threads: 1, ..options.clone() }).unwrap(), report);
        place.tune("other", &FineTuneOptions { seed: 2, ..options }).unwrap();
        let weights = |name: &str| std::fs::read(place.path(name).join("model.safetensors")).unwrap();
        assert_eq!(weights("one"), weights("two"));
        assert_ne!(weights("one"), weights("other"));
    }

    #[test]
    fn it_stops_when_the_held_out_accuracy_no_longer_rises() {
        let mut place = Place::new("");
        // Classes that nothing in the texts tells of.
        place.texts.iter_mut().enumerate().for_each(|(text, (_, class))| *class = (text * 7 / 4) % 3);
        let options = FineTuneOptions { epochs: 40, patience_epochs: 1, ..OPTIONS };
        let report = place.tune("tuned", &options).unwrap();
        assert!(report.epochs < 40 && report.best_epoch < report.epochs, "{report:?}");
    }

    #[test]
    fn with_nothing_held_out_every_epoch_is_run() {
        let place = Place::new("");
        let options = FineTuneOptions { epochs: 2, held_out_one_in: 0, ..OPTIONS };
        let report = place.tune("tuned", &options).unwrap();
        assert_eq!((report.texts, report.held_out, report.epochs, report.best_epoch), (240, 0, 2, 2));
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_leaves_nothing() {
        let says = |result: Result<FineTuneReport, Error>, part: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        let mut place = Place::new("");
        says(place.tune("tiny", &OPTIONS), "not there yet");
        says(place.tune("nowhere/tuned", &OPTIONS), "is not a folder");
        says(place.tune("tuned", &FineTuneOptions { epochs: 0, ..OPTIONS }), "epochs");
        let texts = std::mem::take(&mut place.texts);
        says(place.tune("tuned", &OPTIONS), "at least 2 intents");
        place.texts = vec![("w0 w1".to_owned(), 0); 100];
        place.texts.push(("w2".to_owned(), 1));
        says(place.tune("tuned", &OPTIONS), "2 different texts");
        place.texts = texts;
        let weights = place.path("tiny").join("model.safetensors");
        std::fs::OpenOptions::new().write(true).open(weights).unwrap().set_len(5000).unwrap();
        says(place.tune("tuned", &OPTIONS), "truncated");
        let left: Vec<_> =
            std::fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["tiny"]);
    }

    #[test]
    fn what_an_interrupted_run_left_is_in_nobodys_way() {
        let place = Place::new("");
        std::fs::create_dir(place.path("tuned.unfinished")).unwrap();
        std::fs::write(place.path("tuned.unfinished").join("config.json"), "half").unwrap();
        place.tune("tuned", &FineTuneOptions { epochs: 1, ..OPTIONS }).unwrap();
        place.encoder("tuned");
        assert!(!place.path("tuned.unfinished").exists());
    }
}
