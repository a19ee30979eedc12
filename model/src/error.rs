//! The one error type of this crate, its variants named by what the reader must do about it.
//!
//! Every message says which file, key or feature is meant, what was found and what is allowed. Nothing here carries question texts
//! or feature values of users; the only texts quoted are those of files an operator wrote (configuration, catalogue, training data).

use std::path::{Path, PathBuf};

/// What went wrong, by what has to be done about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration key holds a value that cannot work: change it.
    #[error("model configuration: {key} = {value}: {allowed}")]
    FixConfig {
        /// The key as it is written in the configuration.
        key: &'static str,
        /// The value that was found.
        value: String,
        /// What is allowed instead.
        allowed: String,
    },

    /// The model folder is incomplete, damaged or of a family that this crate does not run: fetch it again or choose another model.
    #[error("model folder: {}{}: {problem}", file.display(), in_tensor(tensor.as_deref()))]
    FixModelFolder {
        /// The file in question.
        file: PathBuf,
        /// The tensor in question, where the problem is one tensor.
        tensor: Option<String>,
        /// What is wrong and what was expected.
        problem: String,
    },

    /// The answer catalogue breaks a rule: edit it.
    #[error("catalogue: {place}: {problem}")]
    FixCatalogue {
        /// The file, or the intent and its field.
        place: String,
        /// What is wrong and what is allowed.
        problem: String,
    },

    /// A feature's declared encoding or a value given for it cannot work: change the feature service or the caller.
    #[error("feature {feature}: {problem}")]
    FixFeatures {
        /// The feature as `view:feature`.
        feature: String,
        /// What is wrong and what is allowed.
        problem: String,
    },

    /// The labelled questions cannot be trained on: edit them.
    #[error("training questions: {place}: {problem}")]
    FixQuestions {
        /// The file and line, or the number of the question.
        place: String,
        /// What is wrong and what is allowed.
        problem: String,
    },

    /// The head belongs to something else or is damaged: train it again.
    #[error("ranking head {}: {reason}; train it again for this catalogue, encoder and feature service", path.display())]
    RetrainHead {
        /// The head's file.
        path: PathBuf,
        /// Why it is refused.
        reason: String,
    },

    /// A file cannot be read or written: check the path, its permissions and the disk.
    #[error("{action} {}: {source}", path.display())]
    CheckFile {
        /// `cannot read` or `cannot write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The computation itself failed: the device or this crate is at fault, not the caller.
    #[error("model computation failed in {step}: {problem}")]
    ReportFault {
        /// The step that failed.
        step: &'static str,
        /// What the library below says.
        problem: String,
    },
}

impl Error {
    #[expect(clippy::needless_pass_by_value, reason = "as map_err hands errors over")]
    pub(crate) fn config(key: &'static str, value: impl ToString, allowed: impl Into<String>) -> Error {
        Error::FixConfig { key, value: value.to_string(), allowed: allowed.into() }
    }

    pub(crate) fn model_file(file: &Path, problem: impl Into<String>) -> Error {
        Error::FixModelFolder { file: file.to_owned(), tensor: None, problem: problem.into() }
    }

    pub(crate) fn model_tensor(file: &Path, tensor: &str, problem: impl Into<String>) -> Error {
        Error::FixModelFolder { file: file.to_owned(), tensor: Some(tensor.to_owned()), problem: problem.into() }
    }

    pub(crate) fn catalogue(place: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::FixCatalogue { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn feature(feature: &str, problem: impl Into<String>) -> Error {
        Error::FixFeatures { feature: feature.to_owned(), problem: problem.into() }
    }

    pub(crate) fn questions(place: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::FixQuestions { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn head(path: &Path, reason: impl Into<String>) -> Error {
        Error::RetrainHead { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn reading(path: &Path, source: std::io::Error) -> Error {
        Error::CheckFile { action: "cannot read", path: path.to_owned(), source }
    }

    pub(crate) fn writing(path: &Path, source: std::io::Error) -> Error {
        Error::CheckFile { action: "cannot write", path: path.to_owned(), source }
    }

    #[expect(clippy::needless_pass_by_value, reason = "as map_err hands errors over")]
    pub(crate) fn fault(step: &'static str, problem: impl ToString) -> Error {
        Error::ReportFault { step, problem: problem.to_string() }
    }
}

fn in_tensor(tensor: Option<&str>) -> String {
    tensor.map(|name| format!(": tensor {name}")).unwrap_or_default()
}
