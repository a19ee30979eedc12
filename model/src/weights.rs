//! Reads tensors out of a safetensors file as f32, with errors that name the file and the tensor.
//!
//! What a network multiplies with is widened from f16 and bf16, because the CPU backend would widen it on every call; a table that is only
//! looked up stays as narrow as the file has it (`Floats`). The file is read whole and dropped after loading; tensors nobody asks for
//! (pooler, position_ids) are ignored.

use std::path::{Path, PathBuf};

use burn::tensor::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::Error;
use crate::files::from_little_endian;

/// The largest weights file that is read.
const MAX_WEIGHTS_BYTES: u64 = 8 << 30;

/// The bytes of one weights file.
pub(crate) struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl WeightsFile {
    /// Reads the file; its contents are checked by `tensors`.
    pub(crate) fn read(path: &Path) -> Result<WeightsFile, Error> {
        let size = std::fs::metadata(path).map_err(|source| Error::reading(path, source))?.len();
        if size > MAX_WEIGHTS_BYTES {
            return Err(Error::model_file(path, format!("{size} bytes; at most {MAX_WEIGHTS_BYTES} are read")));
        }
        let bytes = std::fs::read(path).map_err(|source| Error::reading(path, source))?;
        Ok(WeightsFile { path: path.to_owned(), bytes })
    }

    /// The raw bytes, for a checksum.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses the header; a truncated or damaged file is refused here.
    pub(crate) fn tensors(&self) -> Result<Weights<'_>, Error> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|error| {
            let problem = format!("is truncated or damaged ({error}); fetch it again");
            Error::model_file(&self.path, problem)
        })?;
        Ok(Weights { path: &self.path, tensors, prefix: String::new() })
    }
}

/// The tensors of one weights file, found by name below a common prefix.
pub(crate) struct Weights<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    prefix: String,
}

/// A tensor's numbers, as narrow as the file has them.
pub(crate) enum Floats {
    F32(Vec<f32>),
    /// The numbers' bits.
    F16(Vec<u16>),
}

impl Floats {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Floats::F32(values) => values.len() * 4,
            Floats::F16(bits) => bits.len() * 2,
        }
    }
}

impl Weights<'_> {
    /// Looks every later name up below `prefix` when `name` exists only there (`BertModel` against `BertForSomething` folders).
    pub(crate) fn with_optional_prefix(mut self, prefix: &str, name: &str) -> Self {
        let names = self.tensors.names();
        if !names.contains(&name) && names.contains(&format!("{prefix}{name}").as_str()) {
            self.prefix = prefix.to_owned();
        }
        self
    }

    /// Whether the file has a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.names().contains(&format!("{}{name}", self.prefix).as_str())
    }

    /// The error of a tensor that cannot be used.
    pub(crate) fn refuse(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::model_tensor(self.path, &format!("{}{name}", self.prefix), problem)
    }

    /// One tensor's values in row-major order; its shape must be exactly `shape`.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name)?;
        if tensor.shape() != shape {
            let problem = format!("has shape {:?}, expected {shape:?} from config.json", tensor.shape());
            return Err(self.refuse(name, problem));
        }
        self.finite(name, &tensor)
    }

    /// One tensor's shape and its values, f16 where the file has f16.
    pub(crate) fn floats(&self, name: &str) -> Result<(Vec<usize>, Floats), Error> {
        let tensor = self.tensor(name)?;
        let values = self.finite(name, &tensor)?;
        let floats = match tensor.dtype() {
            Dtype::F16 => {
                Floats::F16(tensor.data().as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect())
            }
            _ => Floats::F32(values),
        };
        Ok((tensor.shape().to_vec(), floats))
    }

    /// A list of positions in something that has `rows`.
    pub(crate) fn indices(&self, name: &str, rows: usize) -> Result<Vec<u32>, Error> {
        let tensor = self.tensor(name)?;
        let data = tensor.data();
        let values: Vec<i64> = match tensor.dtype() {
            Dtype::I64 => data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
            Dtype::I32 => data.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
            other => return Err(self.refuse(name, format!("has type {other:?}, expected I64 or I32"))),
        };
        let index = |value: &i64| u32::try_from(*value).ok().filter(|index| (*index as usize) < rows);
        let indices: Option<Vec<u32>> = values.iter().map(index).collect();
        indices.ok_or_else(|| self.refuse(name, format!("points outside of the {rows} rows there are")))
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.tensors.tensor(&format!("{}{name}", self.prefix)).map_err(|_| self.refuse(name, "is missing"))
    }

    fn finite(&self, name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>, Error> {
        let values = widen(tensor.dtype(), tensor.data())
            .ok_or_else(|| self.refuse(name, format!("has type {:?}, expected F32, F16 or BF16", tensor.dtype())))?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.refuse(name, format!("value {index} is not a finite number")));
        }
        Ok(values)
    }

    /// A linear layer's weight, stored `[outputs, inputs]`, as `[inputs, outputs]` row-major, which the matrix product reads fastest.
    pub(crate) fn transposed(&self, name: &str, outputs: usize, inputs: usize) -> Result<Vec<f32>, Error> {
        let stored = self.values(name, &[outputs, inputs])?;
        let mut values = vec![0.0; stored.len()];
        for (output, row) in stored.chunks_exact(inputs).enumerate() {
            for (input, value) in row.iter().enumerate() {
                values[input * outputs + output] = *value;
            }
        }
        Ok(values)
    }
}

fn widen(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let values = match dtype {
        Dtype::F32 => from_little_endian(data),
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        _ => return None,
    };
    Some(values)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file of these tensors: name, type, shape and bytes of each.
    pub(crate) fn file_of(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> WeightsFile {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            let view = TensorView::new(*dtype, shape.to_vec(), data).unwrap();
            (*name, view)
        });
        WeightsFile { path: "model.safetensors".into(), bytes: safetensors::serialize(views, None).unwrap() }
    }

    /// A file of one tensor, `bert.x` or `x`.
    fn file(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> WeightsFile {
        file_of(&[(name, dtype, shape, data)])
    }

    fn bytes<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| encode(*value)).collect()
    }

    #[test]
    fn every_float_type_is_widened() {
        let values = [1.5, -0.25, 1024.0, 0.0];
        let files = [
            (Dtype::F32, bytes(&values, f32::to_le_bytes)),
            (Dtype::F16, bytes(&values, |value| f16::from_f32(value).to_le_bytes())),
            (Dtype::BF16, bytes(&values, |value| bf16::from_f32(value).to_le_bytes())),
        ];
        for (dtype, data) in files {
            let file = file("x", dtype, &[2, 2], &data);
            assert_eq!(file.tensors().unwrap().values("x", &[2, 2]).unwrap(), values, "{dtype:?}");
        }
    }

    #[test]
    fn linear_weights_are_transposed() {
        let file = file("x", Dtype::F32, &[2, 3], &bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], f32::to_le_bytes));
        let values = file.tensors().unwrap().transposed("x", 2, 3).unwrap();
        assert_eq!(values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn names_are_found_with_and_without_the_prefix() {
        for name in ["x", "bert.x"] {
            let file = file(name, Dtype::F32, &[1], &1_f32.to_le_bytes());
            let weights = file.tensors().unwrap().with_optional_prefix("bert.", "x");
            assert_eq!(weights.values("x", &[1]).unwrap(), [1.0], "{name}");
        }
    }

    #[test]
    fn bad_tensors_are_named() {
        let refused = |file: &WeightsFile, name: &str, parts: &[&str]| {
            let message = file.tensors().unwrap().values(name, &[1]).unwrap_err().to_string();
            let named = message.contains("model.safetensors: tensor");
            assert!(named && parts.iter().all(|part| message.contains(part)), "{message}");
        };
        let good = file("x", Dtype::F32, &[1], &1_f32.to_le_bytes());
        refused(&good, "y", &["y", "missing"]);
        let long = file("x", Dtype::F32, &[2], &[0; 8]);
        refused(&long, "x", &["[2]", "[1]"]);
        let integer = file("x", Dtype::I64, &[1], &[0; 8]);
        refused(&integer, "x", &["I64", "F16"]);
        let poisoned = file("x", Dtype::F32, &[1], &f32::NAN.to_le_bytes());
        refused(&poisoned, "x", &["value 0", "finite"]);
        let mut cut = good;
        cut.bytes.pop();
        assert!(cut.tensors().is_err_and(|error| error.to_string().contains("truncated")));
    }
}
