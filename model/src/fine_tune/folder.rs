//! Writes the fine-tuned encoder as a folder of the same layout, whole or not at all.
//!
//! Every tensor of the original folder is in the new one, as f32: those that were trained with their new values, the others (rows of
//! words that no training text has, the pooler) as they were. The folder is built under another name and renamed when all of it is on
//! the disk, so that a node never finds half an encoder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::Error;
use crate::files::{little_endian, write_whole};
use crate::fine_tune::tensors::{TYPES, WORDS};
use crate::weights::{Weights, WeightsFile};

/// What is copied as it is, where the original has it.
const COPIED: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Refuses a name that is taken: a node may be using what lies there.
pub(crate) fn check_free(out: &Path) -> Result<(), Error> {
    if out.file_name().is_none() || out.symlink_metadata().is_ok() {
        let allowed = "is taken; name a folder that is not there yet";
        return Err(Error::config("the fine-tuned encoder's folder", out.display(), allowed));
    }
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => Err(Error::config(
            "the fine-tuned encoder's folder",
            out.display(),
            format!("{} is not a folder", parent.display()),
        )),
        _ => Ok(()),
    }
}

/// Writes `out` from the folder `original`, whose weights file is `weights`, with the tensors `trained`.
///
/// `rows` says which rows of the word table are in `trained`.
pub(crate) fn write_folder(
    original: &Path,
    out: &Path,
    weights: &WeightsFile,
    trained: &BTreeMap<String, Vec<f32>>,
    rows: &[u32],
) -> Result<(), Error> {
    let bytes = tuned_weights(&original.join("model.safetensors"), weights, trained, rows)?;
    check_free(out)?;
    let unfinished = unfinished(out);
    let written = (|| {
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        std::fs::create_dir(&unfinished)?;
        for name in COPIED.into_iter().filter(|name| original.join(name).exists()) {
            let copy = unfinished.join(name);
            copy.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            write_whole(&copy, &std::fs::read(original.join(name))?)?;
        }
        write_whole(&unfinished.join("model.safetensors"), &bytes)?;
        sync_folders(&unfinished)?;
        std::fs::rename(&unfinished, out)?;
        out.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    written.map_err(|source| {
        let _ = std::fs::remove_dir_all(&unfinished);
        Error::writing(out, source)
    })
}

/// The new name's place while the folder is being written.
fn unfinished(out: &Path) -> PathBuf {
    let mut name: OsString = out.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    let pooling = folder.join("1_Pooling");
    if pooling.is_dir() {
        File::open(pooling)?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

/// The bytes of the new weights file.
fn tuned_weights(
    path: &Path,
    file: &WeightsFile,
    trained: &BTreeMap<String, Vec<f32>>,
    rows: &[u32],
) -> Result<Vec<u8>, Error> {
    let fault = |error: safetensors::SafeTensorError| Error::fault("writing the fine-tuned weights", error);
    let original = SafeTensors::deserialize(file.bytes()).map_err(fault)?;
    let source = file.tensors()?;
    let mut used = 0;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in original.iter() {
        let plain = name.strip_prefix("bert.").unwrap_or(name);
        let shape = view.shape().to_vec();
        let values = match trained.get(plain) {
            Some(values) => {
                used += 1;
                Some(merged(&source, name, plain, &shape, values, rows)?)
            }
            None if matches!(view.dtype(), Dtype::F16 | Dtype::BF16) => Some(source.values(name, &shape)?),
            None => None,
        };
        tensors.push(match values {
            Some(values) => (name.to_owned(), Dtype::F32, shape, little_endian(&values)),
            None => (name.to_owned(), view.dtype(), shape, view.data().to_vec()),
        });
    }
    if used != trained.len() {
        let problem = format!("{used} of {} trained tensors have a place in the file", trained.len());
        return Err(Error::model_file(path, problem));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(fault)
}

/// The trained values, put over the original's rows where only some rows were trained.
fn merged(
    source: &Weights<'_>,
    name: &str,
    plain: &str,
    shape: &[usize],
    values: &[f32],
    rows: &[u32],
) -> Result<Vec<f32>, Error> {
    let first = [0];
    let rows = match plain {
        WORDS => rows,
        TYPES => &first,
        _ => return Ok(values.to_vec()),
    };
    let mut table = source.values(name, shape)?;
    let width = shape.last().copied().unwrap_or(1);
    for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
        table[*row as usize * width..][..width].copy_from_slice(values);
    }
    Ok(table)
}
