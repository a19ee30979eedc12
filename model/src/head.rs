//! A ranking head in service: ranks intents for questions, and is kept as a safetensors file.
//!
//! A head belongs to one catalogue, one encoder and one list of encodings; all three are written into its file and a head made for
//! others is refused with the reason, because its numbers would be read against the wrong intents or features. The file holds the
//! tensors `scale`, `bias`, `weights` and `mixing` and, as metadata, everything else.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::error::Error;
use crate::features::{EncodedFeature, FeatureEncoder};
use crate::files::{from_little_endian, little_endian, write_whole};
use crate::metrics;
use crate::parameters::{Parameters, mixing_rows};
use crate::ranking::Ranking;

/// The version of the file's layout.
const FORMAT: u32 = 2;
/// The metadata key under which everything but the tensors is kept, as JSON.
const METADATA_KEY: &str = "larder_head";
/// The largest head file.
const MAX_BYTES: u64 = 1 << 30;
/// The threshold of a head that learned nothing.
const SIMILARITY_THRESHOLD: f32 = 0.3;

/// Scale, weights, calibration and threshold of one (catalogue, encoder, feature service).
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    about: About,
    parameters: Parameters,
}

/// What the file's metadata says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    catalogue: String,
    encoder: String,
    encodings: Vec<EncodedFeature>,
    temperature: f32,
    threshold: f32,
    training_questions: usize,
}

impl Head {
    /// The head of a tenant that has no training questions yet: it ranks by similarity alone and its confidence is only a guess.
    pub fn similarity_only(catalogue: &Catalogue, encoder_name: &str, features: &FeatureEncoder) -> Head {
        let parameters = Parameters::similarity(catalogue.intents.len(), features.width());
        Head::new(
            catalogue,
            encoder_name,
            features,
            parameters,
            Calibration { temperature: 1.0, threshold: SIMILARITY_THRESHOLD },
            0,
        )
    }

    pub(crate) fn new(
        catalogue: &Catalogue,
        encoder_name: &str,
        features: &FeatureEncoder,
        parameters: Parameters,
        calibration: Calibration,
        training_questions: usize,
    ) -> Head {
        let about = About {
            format: FORMAT,
            catalogue: catalogue.version.clone(),
            encoder: encoder_name.to_owned(),
            encodings: features.features().to_vec(),
            temperature: calibration.temperature,
            threshold: calibration.threshold,
            training_questions,
        };
        Head { about, parameters }
    }

    /// The confidence below which a question is handed over.
    pub fn threshold(&self) -> f32 {
        self.about.threshold
    }

    /// How many questions it learned from; 0 for `similarity_only`.
    pub fn training_questions(&self) -> usize {
        self.about.training_questions
    }

    /// The version of the catalogue it belongs to.
    pub fn catalogue_version(&self) -> &str {
        &self.about.catalogue
    }

    /// Ranks the intents for each question: `cosines` is `[questions, intents]`, `phi` is `[questions, width]`, both row-major.
    ///
    /// # Errors
    /// `ReportFault` when the two do not hold the same number of questions of this head's shape.
    pub fn rank(&self, cosines: &[f32], phi: &[f32]) -> Result<Vec<Ranking>, Error> {
        let started = Instant::now();
        let (intents, width) = (self.parameters.classes() - 1, self.parameters.width());
        let questions = cosines.len() / intents;
        if cosines.len() != questions * intents || phi.len() != questions * width {
            let problem = format!(
                "{} cosines and {} feature numbers; the head has {intents} intents and {width} numbers",
                cosines.len(),
                phi.len()
            );
            return Err(Error::fault("ranking", problem));
        }
        let mut scores = vec![0.0; intents + 1];
        let rankings = (0..questions).map(|question| {
            self.parameters.score(
                &cosines[question * intents..][..intents],
                &phi[question * width..][..width],
                &mut scores,
            );
            Ranking::from_scores(&scores, self.about.temperature, self.about.threshold)
        });
        let rankings = rankings.collect();
        metrics::scored(started);
        Ok(rankings)
    }

    /// Reads a head and checks that it was made for exactly this catalogue, encoder and feature service.
    ///
    /// # Errors
    /// `RetrainHead` with the reason, `CheckFile` for a file that cannot be read.
    pub fn load(
        path: &Path,
        catalogue: &Catalogue,
        encoder_name: &str,
        features: &FeatureEncoder,
    ) -> Result<Head, Error> {
        let size = std::fs::metadata(path).map_err(|source| Error::reading(path, source))?.len();
        if size > MAX_BYTES {
            return Err(Error::head(path, format!("{size} bytes; at most {MAX_BYTES} are read")));
        }
        let bytes = std::fs::read(path).map_err(|source| Error::reading(path, source))?;
        let damaged = |problem: String| Error::head(path, format!("is truncated or damaged ({problem})"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
        let about = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let about =
            about.ok_or_else(|| Error::head(path, format!("has no {METADATA_KEY} metadata, so it is no head")))?;
        let about: About = serde_json::from_str(about).map_err(|error| damaged(error.to_string()))?;
        about.belongs_to(catalogue, encoder_name, features).map_err(|reason| Error::head(path, reason))?;

        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let classes = catalogue.intents.len() + 1;
        let values = |name: &str, shape: &[usize]| read(&tensors, name, shape).map_err(damaged);
        let parameters = Parameters {
            scale: values("scale", &[1])?[0],
            bias: values("bias", &[classes])?,
            weights: values("weights", &[features.width(), classes])?,
            mixing: values("mixing", &[mixing_rows(classes), classes])?,
        };
        Ok(Head { about, parameters })
    }

    /// Writes the head; a file that is already there is replaced only once the new one is complete and on the disk.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let bytes = self.to_bytes().map_err(|problem| Error::fault("saving the head", problem))?;
        write_whole(path, &bytes).map_err(|source| Error::writing(path, source))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let (classes, width) = (self.parameters.classes(), self.parameters.width());
        let tensors = [
            ("bias", vec![classes], little_endian(&self.parameters.bias)),
            ("mixing", vec![mixing_rows(classes), classes], little_endian(&self.parameters.mixing)),
            ("scale", vec![1], little_endian(&[self.parameters.scale])),
            ("weights", vec![width, classes], little_endian(&self.parameters.weights)),
        ];
        let views = tensors.iter().map(|(name, shape, data)| {
            TensorView::new(Dtype::F32, shape.clone(), data)
                .map(|view| (*name, view))
                .map_err(|error| error.to_string())
        });
        let views = views.collect::<Result<Vec<_>, String>>()?;
        let about = serde_json::to_string(&self.about).map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), about)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }
}

/// How scores become confidence and confidence a hand-over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Calibration {
    pub(crate) temperature: f32,
    pub(crate) threshold: f32,
}

impl About {
    fn belongs_to(&self, catalogue: &Catalogue, encoder_name: &str, features: &FeatureEncoder) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("has layout {}, this program reads {FORMAT}", self.format));
        }
        if self.catalogue != catalogue.version {
            return Err(format!(
                "was made for catalogue version {}, this one is {}",
                self.catalogue, catalogue.version
            ));
        }
        if self.encoder != encoder_name {
            return Err(format!("was made for encoder {}, this one is {encoder_name}", self.encoder));
        }
        let (theirs, ours) = (self.encodings.as_slice(), features.features());
        if let Some((old, new)) = theirs.iter().zip(ours).find(|(old, new)| old != new) {
            return Err(format!(
                "was made for feature {} as {:?}, now {} is {:?}",
                old.feature, old.encoding, new.feature, new.encoding
            ));
        }
        if theirs.len() != ours.len() {
            return Err(format!(
                "was made for {} encoded features, the feature service has {}",
                theirs.len(),
                ours.len()
            ));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite() && (0.0..=1.0).contains(&self.threshold)) {
            return Err(format!("has temperature {} and threshold {}", self.temperature, self.threshold));
        }
        Ok(())
    }
}

fn read(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
    if tensor.shape() != shape || tensor.dtype() != Dtype::F32 {
        return Err(format!("tensor {name} is {:?} {:?}, expected F32 {shape:?}", tensor.dtype(), tensor.shape()));
    }
    let values: Vec<f32> = from_little_endian(tensor.data());
    if values.iter().any(|value| !value.is_finite()) {
        return Err(format!("tensor {name} holds a value that is not a finite number"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Intent;
    use crate::features::Encoding;

    fn catalogue(intents: usize) -> Catalogue {
        let intent = |number| Intent {
            name: format!("intent_{number}"),
            title: "t".into(),
            examples: vec!["e".into()],
            answer: "a".into(),
            answer_without_features: "a".into(),
        };
        Catalogue::new((0..intents).map(intent).collect()).unwrap()
    }

    fn features(vocabulary: &[&str]) -> FeatureEncoder {
        let encoding = Encoding::OneHot(vocabulary.iter().map(|value| (*value).to_owned()).collect());
        FeatureEncoder::new(vec![EncodedFeature { feature: "orders:status".into(), encoding }]).unwrap()
    }

    fn head() -> Head {
        let parameters = Parameters {
            scale: 17.25,
            bias: vec![0.1, -0.2, 8.0],
            weights: (0..12).map(|i| (i as f32).sin()).collect(),
            mixing: (0..9).map(|i| (i as f32).cos()).collect(),
        };
        let calibration = Calibration { temperature: 1.3, threshold: 0.41 };
        Head::new(&catalogue(2), "encoder", &features(&["a", "b"]), parameters, calibration, 99)
    }

    #[test]
    fn a_saved_head_ranks_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        head().save(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        head().save(&path).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap(), "the same head is the same file");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished stays behind");
        let loaded = Head::load(&path, &catalogue(2), "encoder", &features(&["a", "b"])).unwrap();
        assert_eq!(loaded, head());
        let (cosines, phi) = ([0.7, 0.65, 0.2, 0.1], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(loaded.rank(&cosines, &phi).unwrap(), head().rank(&cosines, &phi).unwrap());
    }

    #[test]
    fn a_head_for_something_else_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        let refused = |catalogue: &Catalogue, encoder: &str, features: &FeatureEncoder, reason: &str| {
            let message = Head::load(&path, catalogue, encoder, features).unwrap_err().to_string();
            assert!(message.contains(reason) && message.contains("head.safetensors"), "{message}");
        };
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "cannot read");
        head().save(&path).unwrap();
        refused(&catalogue(3), "encoder", &features(&["a", "b"]), "made for catalogue");
        refused(&catalogue(2), "other", &features(&["a", "b"]), "made for encoder encoder");
        refused(&catalogue(2), "encoder", &features(&["b", "a"]), "made for feature orders:status");
        refused(&catalogue(2), "encoder", &FeatureEncoder::new(vec![]).unwrap(), "1 encoded features");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "damaged");
        let mut poisoned = head();
        poisoned.parameters.bias[1] = f32::NAN;
        poisoned.save(&path).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "bias");
        let mut boundless = head();
        boundless.about.threshold = 7.0;
        boundless.save(&path).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "threshold 7");
        let bare = safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), None).unwrap();
        std::fs::write(&path, bare).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "no head");
    }

    #[test]
    fn without_training_the_nearest_intent_wins_and_strangers_are_handed_over() {
        let head = Head::similarity_only(&catalogue(2), "encoder", &features(&["a"]));
        let phi = [1.0, 0.0, 0.0];
        let near = &head.rank(&[0.9, 0.5], &phi).unwrap()[0];
        assert!(near.best == 0 && !near.hand_over, "{near:?}");
        let far = &head.rank(&[0.2, 0.3], &phi).unwrap()[0];
        assert!(far.best == 1 && far.hand_over, "{far:?}");
    }

    #[test]
    fn wrong_shapes_are_an_error() {
        assert!(head().rank(&[0.5; 3], &[0.0; 4]).is_err());
        assert!(head().rank(&[0.5; 4], &[0.0; 4]).is_err());
        assert_eq!(head().rank(&[], &[]).unwrap(), []);
    }
}
