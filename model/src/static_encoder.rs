//! The static encoder: a text is the mean of its tokens' vectors, looked up in a table.
//!
//! No matrix product is needed, so none of it goes through Burn or a thread pool: a plain loop over a few rows costs less than handing it
//! over would. The table stays in memory as the file has it, f16 or f32; the sum is f32 either way. Special tokens are never in a text and
//! unknown ones are left out, so that a text without one known token has no direction: its vector is zero and its cosine to anything 0.
//!
//! Reference: Tulkens and van Dongen 2024, "Model2Vec", and `StaticModel` of the library of that name.

use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::static_config::StaticConfig;
use crate::text::Tokens;
use crate::weights::{Floats, Weights};

/// The most tokens that a table may know.
const MAX_TOKENS_KNOWN: usize = 4_000_000;

/// The table with its vectors in memory.
pub(crate) struct StaticEncoder {
    /// `[rows, dimension]`.
    table: Floats,
    dimension: usize,
    /// The row of each token, where several tokens share one.
    rows: Option<Vec<u32>>,
    /// What each token counts, where they do not all count the same.
    weights: Option<Vec<f32>>,
    /// Tokens that have a row.
    vocabulary: usize,
}

impl StaticEncoder {
    /// Takes the tensors `embeddings`, `mapping` (the row of each token) and `weights` (of each token); the latter two may be missing.
    pub(crate) fn load(config: &StaticConfig, weights: &Weights<'_>) -> Result<StaticEncoder, Error> {
        let (shape, table) = weights.floats("embeddings")?;
        let refuse = |tensor: &str, problem: String| Err(weights.refuse(tensor, problem));
        let &[rows, dimension] = shape.as_slice() else {
            return refuse("embeddings", format!("has shape {shape:?}, expected a matrix"));
        };
        if dimension != config.hidden_dim || !(1..=MAX_TOKENS_KNOWN).contains(&rows) {
            let expected = format!("[1 to {MAX_TOKENS_KNOWN}, {}]", config.hidden_dim);
            return refuse("embeddings", format!("has shape {shape:?}, expected {expected} from config.json"));
        }
        let mapping = if weights.has("mapping") { Some(weights.indices("mapping", rows)?) } else { None };
        let vocabulary = mapping.as_ref().map_or(rows, Vec::len);
        if !(1..=MAX_TOKENS_KNOWN).contains(&vocabulary) {
            return refuse("mapping", format!("has {vocabulary} tokens; allowed are 1 to {MAX_TOKENS_KNOWN}"));
        }
        let token_weights = if weights.has("weights") { Some(weights.values("weights", &[vocabulary])?) } else { None };
        Ok(StaticEncoder { table, dimension, rows: mapping, weights: token_weights, vocabulary })
    }

    /// Values per vector.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Tokens that have a vector; every id must be below.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Bytes of the table and what belongs to it.
    pub(crate) fn memory_bytes(&self) -> usize {
        let beside = self.rows.as_ref().map_or(0, Vec::len) + self.weights.as_ref().map_or(0, Vec::len);
        self.table.bytes() + beside * 4
    }

    /// One vector per text, of length 1 or zero; runs on the calling thread.
    pub(crate) fn encode(&self, tokens: &Tokens) -> Result<Embeddings, Error> {
        let mut embeddings = Embeddings::zeros(self.dimension, tokens.len());
        for text in 0..tokens.len() {
            let vector = &mut embeddings.data[text * self.dimension..][..self.dimension];
            for &token in tokens.ids(text) {
                self.add(token as usize, vector)?;
            }
            to_unit_length(vector)?;
        }
        Ok(embeddings)
    }

    fn add(&self, token: usize, sum: &mut [f32]) -> Result<(), Error> {
        if token >= self.vocabulary {
            return Err(Error::fault("encoding", "the tokens were made by another encoder"));
        }
        let row = self.rows.as_ref().map_or(token, |rows| rows[token] as usize);
        let weight = self.weights.as_ref().map_or(1.0, |weights| weights[token]);
        let values = row * self.dimension..(row + 1) * self.dimension;
        match &self.table {
            Floats::F32(table) => table[values].iter().zip(sum).for_each(|(value, sum)| *sum += weight * value),
            Floats::F16(table) => table[values].iter().zip(sum).for_each(|(half, sum)| *sum += weight * widen(*half)),
        }
        Ok(())
    }
}

/// The f32 of a finite f16, from its bits, in operations that every machine has as vectors: the exponent's bias is put right by a product,
/// which is exact and holds for subnormal numbers too.
fn widen(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

/// Scales the sum of a text's vectors to length 1, which makes it their mean's direction. Nothing has no direction and stays zero.
fn to_unit_length(vector: &mut [f32]) -> Result<(), Error> {
    let square: f32 = vector.iter().map(|value| value * value).sum();
    if !square.is_finite() {
        return Err(Error::fault("encoding", "the vector of a text is no finite number"));
    }
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|value| *value /= length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::f16;
    use safetensors::Dtype;

    use super::*;
    use crate::weights::tests::file_of;

    const TABLE: [f32; 6] = [3.0, 0.0, 0.0, 4.0, -1.0, 0.5];

    fn bytes<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| encode(*value)).collect()
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        bytes(values, f32::to_le_bytes)
    }

    fn load(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Result<StaticEncoder, Error> {
        StaticEncoder::load(&StaticConfig { hidden_dim: 2 }, &file_of(tensors).tensors()?)
    }

    fn encode(encoder: &StaticEncoder, ids: &[u32]) -> Vec<f32> {
        encoder.encode(&Tokens::from_ids([ids.to_vec()])).unwrap().data
    }

    #[test]
    fn a_text_is_the_direction_of_its_tokens_mean() {
        let halves = bytes(&TABLE, |value| f16::from_f32(value).to_le_bytes());
        let encoders = [
            load(&[("embeddings", Dtype::F32, &[3, 2], &f32_bytes(&TABLE))]).unwrap(),
            load(&[("embeddings", Dtype::F16, &[3, 2], &halves)]).unwrap(),
        ];
        for encoder in &encoders {
            assert_eq!(encode(encoder, &[0, 1]), [0.6, 0.8]);
            assert_eq!(encode(encoder, &[1]), [0.0, 1.0]);
            assert_eq!(encode(encoder, &[]), [0.0, 0.0], "no known token, no direction");
            let both = encoder.encode(&Tokens::from_ids([vec![0], vec![], vec![1]])).unwrap();
            assert_eq!(both.data, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0], "each text by itself");
        }
        assert_eq!(encoders.map(|encoder| encoder.memory_bytes()), [24, 12], "f16 stays f16");
    }

    #[test]
    fn tokens_may_weigh_differently_and_share_rows() {
        let mapping: Vec<u8> = [0_i64, 1, 1, 0].iter().flat_map(|row| row.to_le_bytes()).collect();
        let encoder = load(&[
            ("embeddings", Dtype::F32, &[3, 2], &f32_bytes(&TABLE)),
            ("mapping", Dtype::I64, &[4], &mapping),
            ("weights", Dtype::F32, &[4], &f32_bytes(&[4.0, 1.0, 2.0, 0.0])),
        ]);
        let encoder = encoder.unwrap();
        assert_eq!(encoder.vocabulary(), 4);
        assert_eq!(encode(&encoder, &[0, 1, 2]), [12.0 / 288.0_f32.sqrt(), 12.0 / 288.0_f32.sqrt()]);
        assert_eq!(encode(&encoder, &[3]), [0.0, 0.0], "a token that weighs nothing");
    }

    #[test]
    fn every_finite_half_is_widened_exactly() {
        for bits in (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite()) {
            assert_eq!(widen(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn what_cannot_be_encoded_is_an_error() {
        let huge = load(&[("embeddings", Dtype::F32, &[1, 2], &f32_bytes(&[3e38, 3e38]))]).unwrap();
        let fault = |ids: &[u32]| huge.encode(&Tokens::from_ids([ids.to_vec()])).unwrap_err().to_string();
        assert!(fault(&[0]).contains("finite"));
        assert!(fault(&[1]).contains("another encoder"));
    }

    #[test]
    fn bad_tables_are_refused_by_tensor() {
        let table = f32_bytes(&TABLE);
        let refused = |tensors: &[(&str, Dtype, &[usize], &[u8])], parts: &[&str]| {
            let message = load(tensors).err().unwrap().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        refused(&[("vectors", Dtype::F32, &[3, 2], &table)], &["tensor embeddings", "missing"]);
        refused(&[("embeddings", Dtype::F32, &[2, 3], &table)], &["tensor embeddings", "[2, 3]", "2]"]);
        refused(&[("embeddings", Dtype::F32, &[6], &table)], &["tensor embeddings", "[6]", "matrix"]);
        refused(&[("embeddings", Dtype::I8, &[3, 2], &[0; 6])], &["tensor embeddings", "I8", "F16"]);
        let infinite = bytes(&[f32::INFINITY, 0.0], |value| f16::from_f32(value).to_le_bytes());
        refused(&[("embeddings", Dtype::F16, &[1, 2], &infinite)], &["value 0", "finite"]);
        let good = ("embeddings", Dtype::F32, &[3, 2][..], &table[..]);
        let outside = 3_i64.to_le_bytes();
        refused(&[good, ("mapping", Dtype::I64, &[1], &outside)], &["tensor mapping", "3 rows"]);
        refused(&[good, ("weights", Dtype::F32, &[1], &table[..4])], &["tensor weights", "[1]", "[3]"]);
    }
}
