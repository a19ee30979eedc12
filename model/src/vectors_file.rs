//! A catalogue's vectors kept on disk, so that a node that starts again need not encode the same examples again.
//!
//! The file is a cache: it says which catalogue and which encoder it was made from and carries a checksum of its numbers; whatever does
//! not match, or cannot be read, is made anew. Losing it costs time and nothing else, so no error ever leaves this file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

use crate::catalogue::Catalogue;
use crate::encoder::Encoder;
use crate::files::{from_little_endian, little_endian, write_whole};

/// The layout of the file; a change of it is a new number.
const FORMAT: &str = "1";
const TENSOR: &str = "vectors";

/// The vectors of `catalogue` as `encoder` makes them, row-major, if `file` holds just these.
pub(crate) fn read(file: &Path, encoder: &Encoder, catalogue: &Catalogue) -> Option<Vec<f32>> {
    let bytes = std::fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let vectors = tensors.tensor(TENSOR).ok()?;
    let right_shape = vectors.shape() == [examples(catalogue), encoder.dimension()] && vectors.dtype() == Dtype::F32;
    let right_origin = *header.metadata() == Some(about(encoder, catalogue, vectors.data()));
    if !right_shape || !right_origin {
        tracing::info!(file = %file.display(), "kept vectors are of another catalogue or encoder; encoding anew");
        return None;
    }
    Some(from_little_endian(vectors.data()))
}

/// Keeps the vectors for the next start. A failure is worth a line in the log and no more.
pub(crate) fn write(file: &Path, encoder: &Encoder, catalogue: &Catalogue, vectors: &[f32]) {
    let data = little_endian(vectors);
    let write = || -> Result<(), Box<dyn std::error::Error>> {
        let shape = vec![examples(catalogue), encoder.dimension()];
        let view = TensorView::new(Dtype::F32, shape, &data)?;
        let bytes = safetensors::serialize([(TENSOR, view)], Some(about(encoder, catalogue, &data)))?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(write_whole(file, &bytes)?)
    };
    if let Err(error) = write() {
        tracing::warn!(file = %file.display(), %error, "the catalogue's vectors could not be kept; the next start encodes them again");
    }
}

fn about(encoder: &Encoder, catalogue: &Catalogue, data: &[u8]) -> HashMap<String, String> {
    let checksum = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("encoder".to_owned(), encoder.name().to_owned()),
        ("catalogue".to_owned(), catalogue.version.clone()),
        ("sha256".to_owned(), checksum),
    ])
}

fn examples(catalogue: &Catalogue) -> usize {
    catalogue.intents.iter().map(|intent| intent.examples.len()).sum()
}
