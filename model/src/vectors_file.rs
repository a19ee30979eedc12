//! A catalogue's vectors kept on disk, so that a node that starts again need not encode the same examples again.
//!
//! The file is a safetensors file of one tensor and a cache: it says which catalogue and which encoder it was made from and carries a
//! checksum of its numbers; whatever does not match, or cannot be read, is made anew. Losing it costs time and nothing else, so no error ever
//! leaves this file. It may be as large as half the memory, so it is read and written in pieces and is never in memory twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::catalogue::Catalogue;
use crate::encoder::Encoder;
use crate::files::{from_little_endian, little_endian, write_whole_by};

/// The layout of the file; a change of it is a new number.
const FORMAT: &str = "1";
const TENSOR: &str = "vectors";
/// The longest header that is read; ours has a few hundred bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Bytes that are read or written at a time.
const PIECE: usize = 1 << 20;

/// The vectors of `catalogue` as `encoder` makes them, row-major, if `file` holds just these.
pub(crate) fn read(file: &Path, encoder: &Encoder, catalogue: &Catalogue) -> Option<Vec<f32>> {
    let mut reader = File::open(file).ok()?;
    let mut start = [0; 8];
    reader.read_exact(&mut start).ok()?;
    let length = u64::from_le_bytes(start);
    if length > MAX_HEADER_BYTES {
        return None;
    }
    let mut header = Vec::new();
    Read::by_ref(&mut reader).take(length).read_to_end(&mut header).ok()?;
    // Not `SafeTensors::read_metadata`, which wants the whole file in memory.
    let metadata: Metadata = serde_json::from_slice(&header).ok()?;
    let vectors = metadata.info(TENSOR)?;
    let shape = [examples(catalogue), encoder.dimension()];
    let vectors = (vectors.shape == shape && vectors.dtype == Dtype::F32)
        .then(|| read_values(reader, shape[0] * shape[1]).ok())
        .flatten()
        .filter(|(_, checksum)| *metadata.metadata() == Some(about(encoder, catalogue, checksum)));
    if vectors.is_none() {
        tracing::info!(file = %file.display(), "kept vectors are of another catalogue or encoder, or damaged; encoding anew");
    }
    vectors.map(|(values, _)| values)
}

/// Keeps the vectors for the next start. A failure is worth a line in the log and no more.
pub(crate) fn write(file: &Path, encoder: &Encoder, catalogue: &Catalogue, vectors: &[f32]) {
    let write = || -> io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut hasher = Sha256::new();
        vectors.chunks(PIECE / 4).for_each(|piece| hasher.update(little_endian(piece)));
        let header = json!({
            "__metadata__": about(encoder, catalogue, &hexadecimal(hasher)),
            TENSOR: {
                "dtype": "F32",
                "shape": [examples(catalogue), encoder.dimension()],
                "data_offsets": [0, size_of_val(vectors)],
            },
        });
        // As the format has it: the tensors begin at a multiple of eight, and spaces fill the header up.
        let mut header = header.to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        write_whole_by(file, |file| {
            let mut writer = BufWriter::with_capacity(PIECE, file);
            writer.write_all(&(header.len() as u64).to_le_bytes())?;
            writer.write_all(header.as_bytes())?;
            vectors.chunks(PIECE / 4).try_for_each(|piece| writer.write_all(&little_endian(piece)))?;
            writer.flush()
        })
    };
    if let Err(error) = write() {
        tracing::warn!(file = %file.display(), %error, "the catalogue's vectors could not be kept; the next start encodes them again");
    }
}

/// So many numbers, after which the file must end, and their checksum.
fn read_values(mut reader: File, count: usize) -> io::Result<(Vec<f32>, String)> {
    let mut values = Vec::with_capacity(count);
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    while values.len() < count {
        let bytes = &mut piece[..PIECE.min((count - values.len()) * 4)];
        reader.read_exact(bytes)?;
        hasher.update(&*bytes);
        values.extend(from_little_endian(bytes));
    }
    if reader.read(&mut piece[..1])? > 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((values, hexadecimal(hasher)))
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn about(encoder: &Encoder, catalogue: &Catalogue, checksum: &str) -> HashMap<String, String> {
    HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("encoder".to_owned(), encoder.name().to_owned()),
        ("catalogue".to_owned(), catalogue.version.clone()),
        ("sha256".to_owned(), checksum.to_owned()),
    ])
}

fn examples(catalogue: &Catalogue) -> usize {
    catalogue.intents.iter().map(|intent| intent.examples.len()).sum()
}
