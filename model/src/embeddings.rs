//! A batch of text vectors, the value that passes from the encoder to the catalogue index.

/// Unit vectors, one per text, row-major; zero for a text of which nothing is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Values per vector.
    pub dimension: usize,
    /// All vectors one after the other; every row has length 1, or 0.
    pub data: Vec<f32>,
}

impl Embeddings {
    pub(crate) fn zeros(dimension: usize, rows: usize) -> Embeddings {
        Embeddings { dimension, data: vec![0.0; dimension * rows] }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.data.len() / self.dimension
    }

    /// Whether there is no vector at all.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// One vector.
    ///
    /// # Panics
    /// When `text` is not below `len()`.
    pub fn row(&self, text: usize) -> &[f32] {
        &self.data[text * self.dimension..][..self.dimension]
    }

    /// Some of the vectors, in the order named.
    ///
    /// # Panics
    /// When one of `texts` is not below `len()`.
    pub fn select(&self, texts: &[usize]) -> Embeddings {
        let data = texts.iter().flat_map(|text| self.row(*text)).copied().collect();
        Embeddings { dimension: self.dimension, data }
    }
}
