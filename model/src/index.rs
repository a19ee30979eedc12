//! The catalogue's example questions as one matrix, and the search of it: one matrix product per batch of questions.
//!
//! The search is exact. An index belongs to the encoder that built it: the vectors of two models have nothing to do with each other.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};

use crate::catalogue::Catalogue;
use crate::embeddings::Embeddings;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::metrics;
use crate::vectors_file;

/// Examples encoded between two reports of progress.
const EXAMPLES_PER_STEP: usize = 256;

/// A catalogue's examples as vectors on the encoder's device.
#[derive(Debug, Clone)]
pub struct CatalogueIndex {
    encoder: Encoder,
    /// `[dimension, examples]`, the layout in which the product reads it fastest.
    examples: Tensor<2>,
    /// Which columns belong to each intent.
    columns: Vec<Range<usize>>,
}

impl CatalogueIndex {
    /// Encodes every example; `progress(done, total)` is called as it goes.
    pub fn build(
        encoder: &Encoder,
        catalogue: &Catalogue,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CatalogueIndex, Error> {
        Ok(CatalogueIndex::from_rows(encoder, catalogue, &encode(encoder, catalogue, progress)?))
    }

    /// The same, except that vectors kept in `file` by an earlier call are taken instead, if they are of this catalogue and this encoder.
    /// The file is written when it was of no use; that it cannot be written is no error.
    pub fn load_or_build(
        encoder: &Encoder,
        catalogue: &Catalogue,
        file: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CatalogueIndex, Error> {
        if let Some(rows) = vectors_file::read(file, encoder, catalogue) {
            return Ok(CatalogueIndex::from_rows(encoder, catalogue, &rows));
        }
        let rows = encode(encoder, catalogue, progress)?;
        vectors_file::write(file, encoder, catalogue, &rows);
        Ok(CatalogueIndex::from_rows(encoder, catalogue, &rows))
    }

    fn from_rows(encoder: &Encoder, catalogue: &Catalogue, rows: &[f32]) -> CatalogueIndex {
        let mut columns = Vec::with_capacity(catalogue.intents.len());
        let mut first = 0;
        for intent in &catalogue.intents {
            columns.push(first..first + intent.examples.len());
            first += intent.examples.len();
        }
        let shape = [encoder.dimension(), first];
        let examples =
            Tensor::from_data(TensorData::new(transpose(rows, encoder.dimension()), shape), encoder.device());
        CatalogueIndex { encoder: encoder.clone(), examples, columns }
    }

    /// Number of intents, the row length of `best_cosines`.
    pub fn intents(&self) -> usize {
        self.columns.len()
    }

    /// For each question its cosine to each intent's nearest example: `[questions, intents]`, row-major.
    ///
    /// # Errors
    /// `ReportFault` when the questions come from an encoder of another dimension, or the device fails.
    pub fn best_cosines(&self, questions: &Embeddings) -> Result<Vec<f32>, Error> {
        let started = Instant::now();
        if questions.dimension != self.encoder.dimension() {
            return Err(fault("the questions come from another encoder than the index"));
        }
        let count = questions.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let product = self.encoder.install(|| {
            let questions = TensorData::new(questions.data.clone(), [count, questions.dimension]);
            Tensor::<2>::from_data(questions, self.encoder.device()).matmul(self.examples.clone()).try_into_data()
        });
        let product = product.map_err(fault)?;
        let [_, examples] = self.examples.dims();
        let mut best = Vec::with_capacity(count * self.columns.len());
        for cosines in product.as_slice::<f32>().map_err(fault)?.chunks_exact(examples) {
            let nearest = |own: &Range<usize>| cosines[own.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            best.extend(self.columns.iter().map(nearest));
        }
        metrics::searched(started);
        Ok(best)
    }
}

/// The vectors of every example, row-major.
fn encode(encoder: &Encoder, catalogue: &Catalogue, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<f32>, Error> {
    let texts: Vec<&str> = catalogue.intents.iter().flat_map(|intent| &intent.examples).map(String::as_str).collect();
    let mut rows = Vec::with_capacity(texts.len() * encoder.dimension());
    for step in texts.chunks(EXAMPLES_PER_STEP) {
        rows.extend(encoder.encode_texts(step)?.data);
        progress(rows.len() / encoder.dimension(), texts.len());
    }
    Ok(rows)
}

fn fault(error: impl ToString) -> Error {
    Error::fault("catalogue search", error)
}

fn transpose(rows: &[f32], columns: usize) -> Vec<f32> {
    let count = rows.len() / columns;
    let mut out = vec![0.0; rows.len()];
    for (index, row) in rows.chunks_exact(columns).enumerate() {
        for (column, value) in row.iter().enumerate() {
            out[column * count + index] = *value;
        }
    }
    out
}
