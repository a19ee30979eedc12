//! Larder's model: text encoder, answer catalogue, feature encodings and the calibrated ranking head, on Burn.
//!
//! One question's way through this crate: `Encoder::tokenize` -> `Tokens` -> `Encoder::encode` -> `Embeddings` ->
//! `CatalogueIndex::best_cosines`; beside it `FeatureEncoder::encode` -> phi; all three into `Head::rank` -> `Ranking`. Training takes
//! `LabelledQuestion`s and gives a `Head`; `judge` and `Evaluation` say how good it is. The crate is a plain synchronous library: it knows
//! no network, no runtime and no store.

mod config;
mod error;

mod device;

mod encoder;
mod text;
mod embeddings;
mod family;
mod sentence_bert;
mod bert;
mod cpu;
mod static_encoder;
mod weights;

mod catalogue;
mod index;
mod search;
mod vectors_file;
mod features;

mod head;
mod parameters;
mod ranking;

mod train;
mod question;
mod feedback;
mod examples;
mod cross_validation;
mod fit;
mod calibration;
mod evaluation;
mod report;

mod fine_tune;

mod files;
mod random;
mod metrics;

pub use catalogue::{Catalogue, Intent, OUT_OF_SCOPE};
pub use config::{CudaDtype, EncoderConfig, ModelConfig};
pub use device::Devices;
#[doc(hidden)]
pub use device::rehearsal::{Flaw, FlawKind, Rehearsal};
pub use device::status::{DeviceState, DeviceStatus};
pub use embeddings::Embeddings;
pub use encoder::Encoder;
pub use error::Error;
pub use evaluation::{Evaluation, IntentFigures, Judged, ReliabilityBin, judge};
pub use features::{EncodedFeature, Encoding, FeatureEncoder, FeatureValue};
pub use feedback::{AnsweredQuestion, FeedbackCounts, FeedbackRecord, learnable};
pub use fine_tune::corpus::LabelledText;
pub use fine_tune::options::FineTuneOptions;
pub use fine_tune::{FineTuneProgress, FineTuneReport, FineTuneRequest, fine_tune};
pub use head::Head;
pub use index::CatalogueIndex;
pub use metrics::describe_metrics;
pub use question::LabelledQuestion;
pub use ranking::Ranking;
pub use report::TrainReport;
pub use search::Neighbour;
pub use text::Tokens;
pub use train::{TrainOptions, TrainProgress, TrainRequest, TrainStage};
