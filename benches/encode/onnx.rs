//! ONNX Runtime beside the encoder: a Python process with the same weights as a fused graph, the same token ids and as many threads. It measures
//! its own runs, so that neither its start nor the way between the processes counts.

use std::path::Path;

use larder_benches::{Outcome, Python};
use larder_model::{Embeddings, Tokens};

/// The child's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/encode/onnx_runtime.py");
/// The batch sizes of which it may choose its best.
const BATCH_SIZES: [usize; 4] = [1, 8, 32, 64];

/// A running child; it ends with this value.
pub(crate) struct OnnxRuntime(Python);

impl OnnxRuntime {
    /// Starts it on the weights of `folder` and the ids of `tokens`; `None`, and it says so, where there is no ONNX Runtime.
    pub(crate) fn start(folder: &Path, tokens: &Tokens, threads: usize) -> Outcome<Option<OnnxRuntime>> {
        let ids: Vec<&[u32]> = (0..tokens.len()).map(|text| tokens.ids(text)).collect();
        let file = tempfile::NamedTempFile::new()?;
        serde_json::to_writer(&file, &ids)?;
        let (weights, threads) = (folder.join("model.safetensors"), threads.to_string());
        let arguments = [weights.as_os_str(), file.path().as_os_str(), threads.as_ref()];
        let missing = "has no onnxruntime (make bench-onnx)";
        Ok(Python::start("onnx", SCRIPT, &arguments, missing)?.map(OnnxRuntime))
    }

    /// The batch size at which it encodes all texts soonest.
    pub(crate) fn best_batch(&mut self) -> Outcome<usize> {
        let mut best = (f64::INFINITY, 0);
        for size in BATCH_SIZES {
            self.encode_all(size)?;
            let seconds = self.encode_all(size)?;
            if seconds < best.0 {
                best = (seconds, size);
            }
        }
        Ok(best.1)
    }

    /// Seconds for all texts, sorted by length, so many at a time.
    pub(crate) fn encode_all(&mut self, batch: usize) -> Outcome<f64> {
        Ok(self.0.ask(&format!("batches {batch}"))?.parse()?)
    }

    /// The median seconds of one short text, run so many times.
    pub(crate) fn single(&mut self, runs: usize) -> Outcome<f64> {
        Ok(self.0.ask(&format!("single {runs}"))?.parse()?)
    }

    /// The vectors of all texts.
    pub(crate) fn vectors(&mut self, dimension: usize) -> Outcome<Embeddings> {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().to_str().ok_or("the temporary folder's name is not UTF-8")?;
        self.0.ask(&format!("vectors {path}"))?;
        let bytes = std::fs::read(path)?;
        let data = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Ok(Embeddings { dimension, data })
    }
}
