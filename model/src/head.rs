//! A ranking head in service: ranks intents for questions, and is kept as a safetensors file.
//!
//! A head belongs to one catalogue, one encoder and one list of encodings; all three are written into its file and a head made for
//! others is refused with the reason, because its numbers would be read against the wrong intents or features. The file holds the
//! tensors `scale`, `bias`, `weights`, `mixing`, `directions` and `direction_bias` and, as metadata, everything else. Clones of a head
//! share its numbers, so that whoever serves may swap it while batches still rank with the one before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::catalogue::Catalogue;
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::features::{EncodedFeature, FeatureEncoder};
use crate::files::{from_little_endian, little_endian, write_whole};
use crate::metrics;
use crate::parameters::{Parameters, mixing_rows};
use crate::ranking::Ranking;

/// The version of the file's layout.
const FORMAT: u32 = 3;
/// The metadata key under which everything but the tensors is kept, as JSON.
const METADATA_KEY: &str = "larder_head";
/// The largest head file.
const MAX_BYTES: u64 = 1 << 30;
/// The threshold of a head that learned nothing.
const SIMILARITY_THRESHOLD: f32 = 0.3;

/// Parameters, calibration and threshold of one (catalogue, encoder, feature service).
#[derive(Debug, Clone, PartialEq)]
pub struct Head(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
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
    calibration: Calibration,
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
            Calibration { similarity: 1.0, vector: 0.0, out_of_scope: None, threshold: SIMILARITY_THRESHOLD },
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
            calibration,
            training_questions,
        };
        Head(Arc::new(Inner { about, parameters }))
    }

    /// The confidence below which a question is handed over.
    pub fn threshold(&self) -> f32 {
        self.0.about.calibration.threshold
    }

    /// How many questions it learned from; 0 for `similarity_only`.
    pub fn training_questions(&self) -> usize {
        self.0.about.training_questions
    }

    /// The version of the catalogue it belongs to.
    pub fn catalogue_version(&self) -> &str {
        &self.0.about.catalogue
    }

    /// Ranks the intents for each question: `cosines` is `[questions, intents]`, `phi` is `[questions, width]`, both row-major.
    ///
    /// # Errors
    /// `ReportFault` when the three do not hold the same number of questions of this head's shape.
    pub fn rank(&self, questions: &Embeddings, cosines: &[f32], phi: &[f32]) -> Result<Vec<Ranking>, Error> {
        let started = Instant::now();
        let Inner { about, parameters } = self.0.as_ref();
        let (intents, width, dimension) = (parameters.classes() - 1, parameters.width(), parameters.dimension());
        let count = questions.len();
        let reads_vector = dimension > 0;
        if cosines.len() != count * intents
            || phi.len() != count * width
            || (reads_vector && questions.dimension != dimension)
        {
            let problem = format!(
                "{count} vectors of {}, {} cosines and {} feature numbers; the head has {intents} intents, {width} numbers \
                 and reads vectors of {dimension}",
                questions.dimension,
                cosines.len(),
                phi.len()
            );
            return Err(Error::fault("ranking", problem));
        }
        let (mut scores, mut of_vector) = (vec![0.0; intents + 1], vec![0.0; intents + 1]);
        let rankings = (0..count).map(|question| {
            let (cosines, phi) = (&cosines[question * intents..][..intents], &phi[question * width..][..width]);
            parameters.score_similarity(cosines, phi, &mut scores);
            if reads_vector {
                parameters.score_vector(questions.row(question), &mut of_vector);
            }
            about.calibration.combine(&mut scores, &of_vector);
            Ranking::from_scores(&scores, about.calibration.threshold)
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
        // The layout first: another one's metadata may not even have these keys.
        let layout: Layout = serde_json::from_str(about).map_err(|error| damaged(error.to_string()))?;
        if layout.format != FORMAT {
            return Err(Error::head(path, format!("has layout {}, this program reads {FORMAT}", layout.format)));
        }
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
            directions: values("directions", &[rows_of(&tensors, "directions"), classes])?,
            direction_bias: values("direction_bias", &[classes])?,
        };
        Ok(Head(Arc::new(Inner { about, parameters })))
    }

    /// Writes the head; a file that is already there is replaced only once the new one is complete and on the disk.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let bytes = self.to_bytes().map_err(|problem| Error::fault("saving the head", problem))?;
        write_whole(path, &bytes).map_err(|source| Error::writing(path, source))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let Inner { about, parameters } = self.0.as_ref();
        let (classes, width) = (parameters.classes(), parameters.width());
        let tensors = [
            ("bias", vec![classes], little_endian(&parameters.bias)),
            ("direction_bias", vec![classes], little_endian(&parameters.direction_bias)),
            ("directions", vec![parameters.dimension(), classes], little_endian(&parameters.directions)),
            ("mixing", vec![mixing_rows(classes), classes], little_endian(&parameters.mixing)),
            ("scale", vec![1], little_endian(&[parameters.scale])),
            ("weights", vec![width, classes], little_endian(&parameters.weights)),
        ];
        let views = tensors.iter().map(|(name, shape, data)| {
            TensorView::new(Dtype::F32, shape.clone(), data)
                .map(|view| (*name, view))
                .map_err(|error| error.to_string())
        });
        let views = views.collect::<Result<Vec<_>, String>>()?;
        let about = serde_json::to_string(about).map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), about)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }
}

/// The one key that every layout has.
#[derive(Deserialize)]
struct Layout {
    format: u32,
}

impl About {
    fn belongs_to(&self, catalogue: &Catalogue, encoder_name: &str, features: &FeatureEncoder) -> Result<(), String> {
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
        if !self.calibration.is_sound() {
            return Err(format!("has the calibration {:?}", self.calibration));
        }
        Ok(())
    }
}

fn rows_of(tensors: &SafeTensors<'_>, name: &str) -> usize {
    tensors.tensor(name).ok().and_then(|tensor| tensor.shape().first().copied()).unwrap_or(0)
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

    fn vectors(data: &[f32]) -> Embeddings {
        Embeddings { dimension: 2, data: data.to_vec() }
    }

    /// The same head with something else in it.
    fn changed(change: impl FnOnce(&mut About, &mut Parameters)) -> Head {
        let head = head();
        let (mut about, mut parameters) = (head.0.about.clone(), head.0.parameters.clone());
        change(&mut about, &mut parameters);
        Head(Arc::new(Inner { about, parameters }))
    }

    fn head() -> Head {
        let parameters = Parameters {
            scale: 17.25,
            bias: vec![0.1, -0.2, 8.0],
            weights: (0..12).map(|i| (i as f32).sin()).collect(),
            mixing: (0..9).map(|i| (i as f32).cos()).collect(),
            directions: (0..6).map(|i| (i as f32 + 0.5).sin()).collect(),
            direction_bias: vec![0.3, 0.0, -0.3],
        };
        let calibration = Calibration { similarity: 0.7, vector: 0.4, out_of_scope: Some(5.5), threshold: 0.41 };
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
        let questions = vectors(&[0.6, 0.8, 1.0, 0.0]);
        let ranked = loaded.rank(&questions, &cosines, &phi).unwrap();
        assert_eq!(ranked, head().rank(&questions, &cosines, &phi).unwrap());
        let others = head().rank(&vectors(&[0.8, 0.6, 0.0, 1.0]), &cosines, &phi).unwrap();
        assert_ne!(ranked, others, "the vector itself counts");
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
        changed(|_, parameters| parameters.directions[1] = f32::NAN).save(&path).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "directions");
        changed(|about, _| about.calibration.threshold = 7.0).save(&path).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "threshold: 7");
        changed(|about, _| about.format = 2).save(&path).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "has layout 2, this program reads 3");
        let older = HashMap::from([(METADATA_KEY.to_owned(), r#"{"format":2,"temperature":1.0}"#.to_owned())]);
        let older = safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), Some(older)).unwrap();
        std::fs::write(&path, older).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "has layout 2, this program reads 3");
        let bare = safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), None).unwrap();
        std::fs::write(&path, bare).unwrap();
        refused(&catalogue(2), "encoder", &features(&["a", "b"]), "no head");
    }

    #[test]
    fn without_training_the_nearest_intent_wins_and_strangers_are_handed_over() {
        let head = Head::similarity_only(&catalogue(2), "encoder", &features(&["a"]));
        let phi = [1.0, 0.0, 0.0];
        let near = &head.rank(&vectors(&[1.0, 0.0]), &[0.9, 0.5], &phi).unwrap()[0];
        assert!(near.best == 0 && !near.hand_over, "{near:?}");
        let far = &head.rank(&vectors(&[1.0, 0.0]), &[0.2, 0.3], &phi).unwrap()[0];
        assert!(far.best == 1 && far.hand_over, "{far:?}");
    }

    #[test]
    fn wrong_shapes_are_an_error() {
        let two = vectors(&[1.0, 0.0, 0.0, 1.0]);
        assert!(head().rank(&two, &[0.5; 3], &[0.0; 8]).is_err());
        assert!(head().rank(&two, &[0.5; 4], &[0.0; 4]).is_err());
        let wide = Embeddings { dimension: 4, data: vec![0.5; 8] };
        assert!(head().rank(&wide, &[0.5; 4], &[0.0; 8]).is_err(), "vectors of another encoder");
        assert_eq!(head().rank(&vectors(&[]), &[], &[]).unwrap(), []);
    }
}
