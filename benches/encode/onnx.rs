//! ONNX Runtime beside the encoder: a Python process with the same weights as a fused graph, the same token ids and as many threads. It measures
//! its own runs, so that neither its start nor the way between the processes counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use larder_benches::Outcome;
use larder_model::{Embeddings, Tokens};

/// The child's program.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/encode/onnx_runtime.py");
/// The batch sizes of which it may choose its best.
const BATCH_SIZES: [usize; 4] = [1, 8, 32, 64];

/// A running child; it ends with this value.
pub(crate) struct OnnxRuntime {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for OnnxRuntime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OnnxRuntime {
    /// Starts it on the weights of `folder` and the ids of `tokens`; `None`, and it says so, where there is no ONNX Runtime.
    pub(crate) fn start(folder: &Path, tokens: &Tokens, threads: usize) -> Outcome<Option<OnnxRuntime>> {
        let ids: Vec<&[u32]> = (0..tokens.len()).map(|text| tokens.ids(text)).collect();
        let file = tempfile::NamedTempFile::new()?;
        serde_json::to_writer(&file, &ids)?;
        let python = python()?;
        let mut command = Command::new(&python);
        command.arg(SCRIPT).arg(folder.join("model.safetensors")).arg(file.path()).arg(threads.to_string());
        if let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
            && let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take())
        {
            let mut onnx = OnnxRuntime { child, to, from: BufReader::new(from) };
            if onnx.line()? == "ready" {
                return Ok(Some(onnx));
            }
        }
        println!("{} has no onnxruntime (make bench-tools): its figures are left out", python.display());
        Ok(None)
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
        Ok(self.ask(&format!("batches {batch}"))?.parse()?)
    }

    /// The median seconds of one short text, run so many times.
    pub(crate) fn single(&mut self, runs: usize) -> Outcome<f64> {
        Ok(self.ask(&format!("single {runs}"))?.parse()?)
    }

    /// The vectors of all texts.
    pub(crate) fn vectors(&mut self, dimension: usize) -> Outcome<Embeddings> {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().to_str().ok_or("the temporary folder's name is not UTF-8")?;
        self.ask(&format!("vectors {path}"))?;
        let bytes = std::fs::read(path)?;
        let data = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Ok(Embeddings { dimension, data })
    }

    fn ask(&mut self, request: &str) -> Outcome<String> {
        writeln!(self.to, "{request}")?;
        self.to.flush()?;
        self.line()
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }
}

/// The Python that `make bench-tools` puts ONNX Runtime into, or the one that LARDER_BENCH_PYTHON names.
fn python() -> Outcome<PathBuf> {
    if let Some(python) = std::env::var_os("LARDER_BENCH_PYTHON") {
        return Ok(python.into());
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/larder/tools/onnx/bin/python"))
}
