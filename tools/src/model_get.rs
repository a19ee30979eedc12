//! `larder model get`: puts a model's files into the models folder, checked, or says that they are there already.
//!
//! A folder is whole or absent: the download goes into a sibling, every checksum is compared, and only then is it
//! renamed into place. What is there and does not match is replaced.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::files::sha256_file;
use crate::known_models::{KNOWN_MODELS, KnownModel, find, models_folder};
use crate::output::{print_json, say};
use crate::{hub, package};

/// A partial download that nobody has touched for so long belongs to a run that was killed.
const ABANDONED: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  larder model get minilm-l6
  larder model get minilm-l6 --dir /srv/models
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

/// What is wrong with the model's folder; `None` when every file is there and has the checksum of one source.
fn fault(model: &KnownModel, path: &Path) -> Option<String> {
    for file in model.files {
        let path = path.join(file.name);
        match std::fs::metadata(&path) {
            Err(_) => return Some(format!("{} is missing", file.name)),
            Ok(metadata) if metadata.len() != file.bytes => {
                return Some(format!("{} has {} bytes instead of {}", file.name, metadata.len(), file.bytes));
            }
            Ok(_) => {}
        }
        match sha256_file(&path) {
            Ok(sha256) if sha256 == file.hub_sha256 || sha256 == file.package_sha256 => {}
            Ok(sha256) => return Some(format!("{} has an unknown sha256, {sha256}", file.name)),
            Err(error) => return Some(format!("{error:#}")),
        }
    }
    None
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
    use crate::known_models::{HubSource, ModelFile, PackageSource};

    fn model() -> KnownModel {
        // sha256 of "hello".
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let file = ModelFile { name: "config.json", bytes: 5, hub_sha256: "from the hub", package_sha256: sha256 };
        KnownModel {
            name: "test",
            about: "",
            licence: "",
            hub: HubSource { repository: "", revision: "" },
            package: PackageSource { requirement: "", wheel_sha256: "", folder: "" },
            files: Box::leak(Box::new([file])),
        }
    }

    #[test]
    fn missing_truncated_and_tampered_files_are_faults() {
        let folder = tempfile::tempdir().unwrap();
        let write = |content| std::fs::write(folder.path().join("config.json"), content).unwrap();
        let model = model();
        assert!(fault(&model, folder.path()).unwrap().contains("missing"));
        write("hell");
        assert!(fault(&model, folder.path()).unwrap().contains("4 bytes instead of 5"));
        write("Hello");
        assert!(fault(&model, folder.path()).unwrap().contains("unknown sha256"));
        write("hello");
        assert_eq!(fault(&model, folder.path()), None);
    }

    #[test]
    fn a_model_that_is_there_is_not_fetched() {
        let models = tempfile::tempdir().unwrap();
        let model = model();
        std::fs::create_dir(models.path().join("test")).unwrap();
        std::fs::write(models.path().join("test/config.json"), "hello").unwrap();
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
