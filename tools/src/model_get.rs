//! `larder model get`: puts a model's files into the models folder, checked, or says that they are there already.
//!
//! A folder is whole or absent: the download goes into a sibling, every checksum is compared, and only then is it
//! renamed into place. What is there and does not match is replaced.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::files::sha256_file;
use crate::known_models::{KNOWN_MODELS, KnownModel, find, models_folder};
use crate::output::{print_json, say};
use crate::{hub, package};

/// A partial download that nobody has touched for so long belongs to a run that was killed.
const ABANDONED: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  larder model get minilm-l6
  larder model get potion
  larder model get me5-small --dir /srv/models
  larder model get --list")]
pub(crate) struct Arguments {
    /// Which model (see --list)
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Folder of models; each model is a folder in it [default: $LARDER_MODELS or ~/.cache/larder/models]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// List the models that can be fetched
    #[arg(long)]
    list: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Where a model is, and where it came from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Obtained {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// The files were there and match.
    Present,
    Hub,
    Package,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(name) = arguments.name.as_deref().filter(|_| !arguments.list) else {
        if arguments.json {
            let known =
                |model: &KnownModel| json!({ "name": model.name, "about": model.about, "licence": model.licence });
            return print_json(&KNOWN_MODELS.iter().map(known).collect::<Vec<_>>());
        }
        for model in KNOWN_MODELS {
            say!("{:12} {} ({})", model.name, model.about, model.licence);
        }
        return Ok(());
    };
    let obtained = get(find(name)?, &models_folder(arguments.dir.as_deref())?)?;
    if arguments.json {
        return print_json(&obtained);
    }
    let path = obtained.path.display();
    match obtained.source {
        Source::Present => say!("{name}: present and verified in {path}"),
        Source::Hub => say!("{name}: fetched from the hub into {path}"),
        Source::Package => say!("{name}: fetched from the package registry into {path}"),
    }
    Ok(())
}

/// Makes sure that the model is in `models`, whole and verified.
pub(crate) fn get(model: &KnownModel, models: &Path) -> Result<Obtained> {
    let path = models.join(model.name);
    let obtained = |source| Ok(Obtained { name: model.name, path: path.clone(), source });
    match fault(model, &path) {
        None => return obtained(Source::Present),
        Some(fault) if path.exists() => eprintln!("{}: {fault}; fetching the model again", model.name),
        Some(_) => {}
    }
    std::fs::create_dir_all(models).with_context(|| format!("cannot make {}", models.display()))?;
    remove_abandoned(model, models);
    let partial = Partial::new(model, models)?;
    let source = match hub::download(model, &partial.folder) {
        Ok(()) => Source::Hub,
        Err(hub_error) => {
            eprintln!("{}: not from the hub ({hub_error:#}); trying the package registry", model.name);
            partial.empty()?;
            if let Err(package_error) = package::download(model, &partial.folder) {
                bail!(
                    "{} cannot be fetched.\nFrom the hub: {hub_error:#}\nFrom the package registry: {package_error:#}\n\
                     Without a network, put {} into {} yourself.",
                    model.name,
                    model.files.iter().map(|file| file.name).collect::<Vec<_>>().join(", "),
                    path.display()
                );
            }
            Source::Package
        }
    };
    partial.put_in_place(&path)?;
    obtained(source)
}

/// What is wrong with the model's folder; `None` when every file is there as one of the sources has it.
fn fault(model: &KnownModel, path: &Path) -> Option<String> {
    let mut sources = vec![Source::Hub, Source::Package];
    for file in model.files {
        let path = path.join(file.name);
        let bytes = match std::fs::metadata(&path) {
            Err(_) => return Some(format!("{} is missing", file.name)),
            Ok(metadata) => metadata.len(),
        };
        if bytes != file.hub.bytes && bytes != file.package.bytes {
            return Some(format!("{} has {bytes} bytes instead of {}", file.name, file.hub.bytes));
        }
        let sha256 = match sha256_file(&path) {
            Ok(sha256) => sha256,
            Err(error) => return Some(format!("{error:#}")),
        };
        if sha256 != file.hub.sha256 && sha256 != file.package.sha256 {
            return Some(format!("{} has an unknown sha256, {sha256}", file.name));
        }
        sources.retain(|source| match source {
            Source::Hub => sha256 == file.hub.sha256,
            _ => sha256 == file.package.sha256,
        });
    }
    sources.is_empty().then(|| "its files come from two sources, which do not go together".to_owned())
}

/// A folder beside the final one, removed unless it is put in place.
struct Partial {
    folder: PathBuf,
}

impl Partial {
    fn new(model: &KnownModel, models: &Path) -> Result<Partial> {
        let partial = Partial { folder: models.join(format!("{}{}", prefix(model), std::process::id())) };
        partial.empty()?;
        Ok(partial)
    }

    fn empty(&self) -> Result<()> {
        remove(&self.folder)?;
        std::fs::create_dir(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))
    }

    fn put_in_place(self, path: &Path) -> Result<()> {
        remove(path)?;
        std::fs::rename(&self.folder, path).with_context(|| format!("cannot rename into {}", path.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `put_in_place` there is nothing left; otherwise an error is on its way already.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn prefix(model: &KnownModel) -> String {
    format!(".{}.partial-", model.name)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn remove_abandoned(model: &KnownModel, models: &Path) {
    let Ok(entries) = std::fs::read_dir(models) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix(model));
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let old = changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > ABANDONED));
        if ours && old {
            // Whoever cannot remove it will hear of it when the disk is full.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known_models::{Contents, Fingerprint, HubSource, ModelFile, PackageSource};

    /// Two files, of which the hub has "hub" and the package "hello".
    fn model() -> KnownModel {
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let package = Fingerprint { bytes: 5, sha256 };
        let hub = Fingerprint { bytes: 3, sha256: "08d33503ee27d4c13055d0cefec5e730be4ef2e41cd6cfce434936ec1e7c9d4b" };
        let file = |name| ModelFile { name, hub, package };
        KnownModel {
            name: "test",
            about: "",
            licence: "",
            hub: HubSource { repository: "", revision: "" },
            package: PackageSource {
                requirement: "",
                wheel_sha256: "",
                pip_options: &[],
                contents: Contents::Folder(""),
            },
            files: Box::leak(Box::new([file("config.json"), file("tokenizer.json")])),
        }
    }

    #[test]
    fn missing_truncated_and_tampered_files_are_faults() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name, content| std::fs::write(folder.path().join(name), content).unwrap();
        let model = model();
        assert!(fault(&model, folder.path()).unwrap().contains("missing"));
        write("tokenizer.json", "hello");
        write("config.json", "hell");
        assert!(fault(&model, folder.path()).unwrap().contains("4 bytes instead of 3"));
        write("config.json", "Hello");
        assert!(fault(&model, folder.path()).unwrap().contains("unknown sha256"));
        write("config.json", "hub");
        assert!(fault(&model, folder.path()).unwrap().contains("two sources"));
        write("config.json", "hello");
        assert_eq!(fault(&model, folder.path()), None);
        write("config.json", "hub");
        write("tokenizer.json", "hub");
        assert_eq!(fault(&model, folder.path()), None);
    }

    #[test]
    fn a_model_that_is_there_is_not_fetched() {
        let models = tempfile::tempdir().unwrap();
        let model = model();
        std::fs::create_dir(models.path().join("test")).unwrap();
        for file in model.files {
            std::fs::write(models.path().join("test").join(file.name), "hello").unwrap();
        }
        assert_eq!(get(&model, models.path()).unwrap().source, Source::Present);
    }

    #[test]
    fn a_partial_folder_replaces_the_old_one_or_disappears() {
        let models = tempfile::tempdir().unwrap();
        let model = model();
        let path = models.path().join("test");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("old"), "").unwrap();
        drop(Partial::new(&model, models.path()).unwrap());
        assert!(path.join("old").exists());
        let partial = Partial::new(&model, models.path()).unwrap();
        std::fs::write(partial.folder.join("new"), "").unwrap();
        partial.put_in_place(&path).unwrap();
        assert!(path.join("new").exists() && !path.join("old").exists());
        assert_eq!(std::fs::read_dir(models.path()).unwrap().count(), 1);
    }
}
