//! The text encoder: a model folder turned into unit vectors, one per text.
//!
//! Tokenising and encoding are two calls, because the node tokenises on its fetch thread while the score thread runs the network.
//! Which device runs it is in `residence`; what a batch becomes on its way through the CPU's network is in `sentence_bert`. A static encoder
//! looks the tokens up on the calling thread, which costs less than handing them over.

use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::bert::Bert;
use crate::bert::weights::BertWeights;
use crate::config::EncoderConfig;
use crate::device::Devices;
use crate::device::residence::Residence;
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::family::Family;
use crate::metrics::EncoderMetrics;
use crate::sentence_bert::SentenceBert;
use crate::static_encoder::StaticEncoder;
use crate::text::{Reading, TextTokenizer, Tokens};
use crate::weights::WeightsFile;

/// A loaded encoder; clones share the weights and the thread pool.
#[derive(Clone)]
pub struct Encoder(Arc<Inner>);

struct Inner {
    name: String,
    tokenizer: TextTokenizer,
    network: Network,
    devices: Devices,
    vocabulary: u32,
    max_tokens: usize,
    dimension: usize,
    memory_bytes: usize,
    metrics: Arc<EncoderMetrics>,
}

enum Network {
    Bert(Box<Resident>),
    Static(StaticEncoder),
}

/// A network that devices run.
struct Resident {
    /// On the CPU, which always has it.
    cpu: SentenceBert,
    residence: Residence,
}

impl Encoder {
    /// Loads a model folder in the Hugging Face layout (config.json, tokenizer.json, model.safetensors).
    ///
    /// # Errors
    /// `FixConfig` for a value in `config`, `FixModelFolder` naming the file and tensor, `CheckFile` for what cannot be read.
    pub fn load(config: &EncoderConfig, devices: &Devices) -> Result<Encoder, Error> {
        config.validate()?;
        let started = Instant::now();
        let folder = config.folder.as_path();
        let family = Family::load(folder)?;
        let file = WeightsFile::read(&folder.join("model.safetensors"))?;
        let tokenizer_file = folder.join("tokenizer.json");
        let tokenizer_bytes =
            std::fs::read(&tokenizer_file).map_err(|source| Error::reading(&tokenizer_file, source))?;
        let name = name(&family, config, &[file.bytes(), &tokenizer_bytes]);
        let metrics = Arc::<EncoderMetrics>::default();
        let tokenizer =
            |vocabulary, reading| TextTokenizer::load(&tokenizer_file, vocabulary, reading, config, metrics.clone());
        let (network, tokenizer, vocabulary, dimension, memory_bytes) = match &family {
            Family::Bert(bert) => {
                if config.max_tokens > bert.max_position_embeddings {
                    let allowed =
                        format!("{} has positions for {} tokens", folder.display(), bert.max_position_embeddings);
                    return Err(Error::config("max_tokens", config.max_tokens, allowed));
                }
                let hidden = bert.hidden_size;
                let read = || BertWeights::read(bert, file.tensors()?);
                let cpu = SentenceBert::new(Bert::new(read()?), hidden, devices.micro_batch_tokens());
                let bytes = cpu.bytes();
                // Before the network goes to the devices, which may take minutes.
                let tokenizer = tokenizer(bert.vocab_size, Reading::Framed)?;
                let residence =
                    devices.place(&name, bert, config.max_tokens, read, &|tokens| on_cpu(&cpu, hidden, tokens))?;
                let network = Network::Bert(Box::new(Resident { cpu, residence }));
                (network, tokenizer, bert.vocab_size, hidden, bytes)
            }
            Family::Static(table) => {
                let table = StaticEncoder::load(table, &file.tensors()?)?;
                let (vocabulary, dimension, bytes) = (table.vocabulary(), table.dimension(), table.memory_bytes());
                let tokenizer = tokenizer(vocabulary, Reading::KnownWords)?;
                (Network::Static(table), tokenizer, vocabulary, dimension, bytes)
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(encoder = name, folder = %folder.display(), memory_bytes, seconds, "encoder loaded");
        Ok(Encoder(Arc::new(Inner {
            name,
            tokenizer,
            network,
            devices: devices.clone(),
            vocabulary: vocabulary as u32,
            max_tokens: config.max_tokens,
            dimension,
            memory_bytes,
            metrics,
        })))
    }

    /// Values per vector.
    pub fn dimension(&self) -> usize {
        self.0.dimension
    }

    /// Bytes of its weights in memory; the tokenizer's are not among them.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes
    }

    /// Family, shape and the start of a SHA-256 over all that decides a vector (weights, tokenizer, the shape's numbers, the prefix, where
    /// texts are cut), for example `bert-6x384-53aa51172d14`: equal names mean equal vectors, wherever the folder lies.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether a forward is a look-up in a table, which takes microseconds on the thread that asks and waits for no device.
    pub fn is_table(&self) -> bool {
        matches!(self.0.network, Network::Static(_))
    }

    /// Tokenises a batch; runs on the calling thread. Texts that are too long are cut, and the result says which.
    pub fn tokenize(&self, texts: &[&str]) -> Result<Tokens, Error> {
        self.0.tokenizer.tokenize(texts)
    }

    /// One unit vector per text, in the order of `tokens`; blocks the calling thread while a device works. A device that fails is
    /// replaced by another one, and the caller does not notice. A text in which a static encoder knows no token has the zero vector.
    pub fn encode(&self, tokens: &Tokens) -> Result<Embeddings, Error> {
        let started = Instant::now();
        let embeddings = match &self.0.network {
            Network::Bert(network) => {
                self.0.check(tokens)?;
                network.residence.encode(tokens, &|tokens| on_cpu(&network.cpu, self.0.dimension, tokens))?
            }
            Network::Static(table) => table.encode(tokens)?,
        };
        self.0.metrics.encoded(tokens.len(), tokens.total(), started);
        Ok(embeddings)
    }

    /// Tokenises and encodes in one call, for work where the two need not overlap.
    pub fn encode_texts(&self, texts: &[&str]) -> Result<Embeddings, Error> {
        self.encode(&self.tokenize(texts)?)
    }

    /// Runs other model work of this encoder (catalogue search) on the CPU's threads.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.devices.install(work)
    }
}

impl Inner {
    /// Refuses tokens that would read beyond the tables: on a device that would look like its failure.
    fn check(&self, tokens: &Tokens) -> Result<(), Error> {
        let fits = |text: usize| {
            let ids = tokens.ids(text);
            (1..=self.max_tokens).contains(&ids.len()) && ids.iter().all(|id| *id < self.vocabulary)
        };
        if (0..tokens.len()).all(fits) {
            return Ok(());
        }
        Err(Error::fault("encoding", "the tokens were made by another encoder"))
    }
}

/// A batch on its way through the CPU.
fn on_cpu(network: &SentenceBert, dimension: usize, tokens: &Tokens) -> Embeddings {
    let mut embeddings = Embeddings::zeros(dimension, tokens.len());
    network.encode(tokens, &mut embeddings.data);
    embeddings
}

fn name(family: &Family, config: &EncoderConfig, files: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    files.iter().for_each(|file| hasher.update(file));
    hasher.update(format!("{family:?} {} {} {:?}", config.max_tokens, config.max_text_bytes, config.prefix));
    let start: String = hasher.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    match family {
        Family::Bert(bert) => format!("{}-{}x{}-{start}", bert.model_type, bert.num_hidden_layers, bert.hidden_size),
        Family::Static(table) => format!("static-{}-{start}", table.hidden_dim),
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Encoder")
            .field("name", &self.0.name)
            .field("dimension", &self.0.dimension)
            .finish_non_exhaustive()
    }
}
