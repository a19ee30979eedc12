//! Whether a device computes what the CPU computes.
//!
//! A GPU with a driver but without its run-time compiler returns garbage and no error, so nothing a device says is believed before it
//! has been compared: first single operations, before any weights are moved, then the network itself in every bucket, which is also its
//! warm-up. A kernel is chosen and tuned per bucket, so one bucket says nothing about another.
//!
//! The bounds: f32 products run in TF32 on tensor cores, which keeps ten bits, so a vector may be off by 1e-2 of its length; bf16 and f16
//! add up over the layers, so there the cosine to the CPU's vector must be at least 0.999.

use burn::tensor::activation::softmax;
use burn::tensor::module::layer_norm;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::bucket::Bucket;
use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::text::Tokens;

/// How far off the CPU's a result may be, in shares of its length.
const MAX_RELATIVE: f32 = 1e-2;
/// The same for single operations in bf16, which has eight bits.
const MAX_RELATIVE_BF16: f32 = 3e-2;
/// The least cosine to the CPU's vector in bf16 and f16.
const MIN_COSINE: f32 = 0.999;
/// Different texts of each length.
const TEXTS_PER_LENGTH: usize = 4;

/// A small product, the softmax of it and its layer norm, compared with the CPU's.
pub(crate) fn check_operations(device: &Device, dtype: DType) -> Result<(), String> {
    let expected = operations(&Device::flex(), DType::F32).map_err(|error| error.to_string())?;
    let found = operations(device, dtype).map_err(|error| error.to_string())?;
    let bound = if dtype == DType::BF16 { MAX_RELATIVE_BF16 } else { MAX_RELATIVE };
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let off = relative_difference(found, expected);
        if off.is_nan() || off > bound {
            return Err(format!(
                "its {name} differs from the CPU's by {off:.1e} of its length; allowed is {bound:.0e}"
            ));
        }
    }
    Ok(())
}

fn operations(device: &Device, dtype: DType) -> Result<[(&'static str, Vec<f32>); 3], Error> {
    const ROWS: usize = 96;
    const INNER: usize = 384;
    const COLUMNS: usize = 200;
    let tensor = |rows: usize, columns: usize, seed: u64| {
        Tensor::<2>::from_data(TensorData::new(numbers(rows * columns, seed), [rows, columns]), (device, dtype))
    };
    let ones = |value: f32| Tensor::<1>::from_data(TensorData::new(vec![value; COLUMNS], [COLUMNS]), (device, dtype));
    let product = tensor(ROWS, INNER, 1).matmul(tensor(INNER, COLUMNS, 2));
    let shares = softmax(product.clone(), 1);
    let normed = layer_norm(product.clone(), ones(1.0), Some(ones(0.0)), 1e-5);
    let read = |tensor: Tensor<2>| {
        let data = tensor.cast(DType::F32).try_into_data().map_err(|error| Error::fault("the self-check", error))?;
        data.try_to_vec::<f32>().map_err(|error| Error::fault("the self-check", error))
    };
    Ok([("matrix product", read(product)?), ("softmax", read(shares)?), ("layer norm", read(normed)?)])
}

/// Numbers in [-1, 1), the same on every run.
fn numbers(count: usize, mut state: u64) -> Vec<f32> {
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Texts of every bucket length with the vectors the CPU gave for them.
#[derive(Debug)]
pub(crate) struct Reference {
    lengths: Vec<(usize, Tokens, Embeddings)>,
}

impl Reference {
    /// Encodes the texts with `encode`, one length at a time.
    pub(crate) fn new(
        vocabulary: usize,
        max_tokens: usize,
        mut encode: impl FnMut(&Tokens) -> Embeddings,
    ) -> Reference {
        let mut lengths = Vec::new();
        for bucket in Bucket::all(max_tokens).into_iter().filter(|bucket| bucket.texts == 1) {
            let text = |text| reference_text(bucket.length, text, vocabulary, max_tokens);
            let tokens = Tokens::from_ids((0..TEXTS_PER_LENGTH).map(text));
            let vectors = encode(&tokens);
            lengths.push((bucket.length, tokens, vectors));
        }
        Reference { lengths }
    }

    /// Texts that fill a bucket, and the vectors they must give; nothing for a bucket that no text can fall into.
    pub(crate) fn fill(&self, bucket: Bucket) -> (Tokens, Embeddings) {
        let Some((_, tokens, vectors)) = self.lengths.iter().find(|(length, ..)| *length == bucket.length) else {
            return (Tokens::default(), Embeddings::zeros(1, 0));
        };
        let texts: Vec<usize> = (0..bucket.texts).map(|row| row % TEXTS_PER_LENGTH).collect();
        (Tokens::from_ids(texts.iter().map(|text| tokens.ids(*text).to_vec())), vectors.select(&texts))
    }
}

/// The first text of a length fills its row as far as the encoder allows, the others leave padding.
fn reference_text(length: usize, text: usize, vocabulary: usize, max_tokens: usize) -> Vec<u32> {
    let tokens = (length - text * length / (TEXTS_PER_LENGTH + 1)).min(max_tokens);
    (0..tokens).map(|place| ((length * 31 + text * 7919 + place * 104_729) % vocabulary) as u32).collect()
}

/// Compares a device's vectors with the CPU's.
pub(crate) fn check_vectors(found: &Embeddings, expected: &Embeddings, dtype: DType) -> Result<(), String> {
    if found.len() != expected.len() || found.dimension != expected.dimension {
        return Err(format!("it gave {} vectors of {}", found.len(), found.dimension));
    }
    for text in 0..found.len() {
        let (found, expected) = (found.row(text), expected.row(text));
        if dtype == DType::F32 {
            let off = relative_difference(found, expected);
            if off.is_nan() || off > MAX_RELATIVE {
                return Err(format!(
                    "a vector differs from the CPU's by {off:.1e} of its length; allowed is {MAX_RELATIVE:.0e}"
                ));
            }
        } else {
            let cosine = found.iter().zip(expected).map(|(a, b)| a * b).sum::<f32>();
            if cosine.is_nan() || cosine < MIN_COSINE {
                return Err(format!("a vector's cosine to the CPU's is {cosine:.4}; at least {MIN_COSINE} is needed"));
            }
        }
    }
    Ok(())
}

fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    length(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / length(&mut expected.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for an encoder: a unit vector that depends on every id.
    fn encode(tokens: &Tokens) -> Embeddings {
        let mut vectors = Embeddings::zeros(2, tokens.len());
        for text in 0..tokens.len() {
            let angle = tokens.ids(text).iter().map(|id| *id as f32).sum::<f32>();
            vectors.data[text * 2..][..2].copy_from_slice(&[angle.cos(), angle.sin()]);
        }
        vectors
    }

    #[test]
    fn the_cpu_passes_in_every_type_it_has() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(check_operations(&Device::flex(), dtype), Ok(()), "{dtype:?}");
        }
    }

    #[test]
    fn every_bucket_is_filled_with_texts_of_its_length() {
        for max_tokens in [8, 40, 64] {
            let reference = Reference::new(1000, max_tokens, encode);
            for bucket in Bucket::all(max_tokens) {
                let (tokens, vectors) = reference.fill(bucket);
                assert_eq!(Bucket::of_job(&tokens), bucket, "max_tokens {max_tokens}");
                assert_eq!((tokens.len(), vectors.len()), (bucket.texts, bucket.texts));
                assert_eq!(encode(&tokens), vectors);
                assert!((0..tokens.len()).all(|text| tokens.ids(text).len() <= max_tokens));
            }
        }
    }

    #[test]
    fn vectors_that_differ_are_refused() {
        let unit = |angle: f32| Embeddings { dimension: 2, data: vec![angle.cos(), angle.sin()] };
        for (dtype, near, far) in [(DType::F32, 0.005, 0.02), (DType::BF16, 0.04, 0.05), (DType::F16, 0.04, 0.05)] {
            assert_eq!(check_vectors(&unit(near), &unit(0.0), dtype), Ok(()));
            assert!(check_vectors(&unit(far), &unit(0.0), dtype).is_err(), "{dtype:?}");
            let nothing = Embeddings { dimension: 2, data: vec![f32::NAN, 0.0] };
            assert!(check_vectors(&nothing, &unit(0.0), dtype).is_err(), "NaN passes as {dtype:?}");
        }
        assert!(check_vectors(&Embeddings::zeros(2, 0), &unit(0.0), DType::F32).is_err());
    }
}
