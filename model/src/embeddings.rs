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

    /// One vector, to be written.
    ///
    /// # Panics
    /// When `text` is not below `len()`.
    pub(crate) fn row_mut(&mut self, text: usize) -> &mut [f32] {
        &mut self.data[text * self.dimension..][..self.dimension]
    }

    /// Whether every vector is finite and of length 1, as an encoder's must be.
    pub(crate) fn are_unit_vectors(&self) -> bool {
        // A value that is not finite makes the length so too, and no comparison with that holds.
        let is_unit = |row: &[f32]| (row.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() <= 1e-3;
        self.data.chunks(self.dimension).all(is_unit)
    }
}

#[cfg(test)]
mod tests {
    use super::Embeddings;

    #[test]
    fn only_unit_vectors_pass() {
        for (data, pass) in [
            (vec![0.6, 0.8, 1.0, 0.0], true),
            (vec![], true),
            (vec![0.6, 0.8, 0.0, 0.0], false),
            (vec![0.6, 0.8, 1.1, 0.0], false),
            (vec![f32::NAN, 0.8, 1.0, 0.0], false),
            (vec![1.0, 0.0, f32::INFINITY, 0.0], false),
        ] {
            assert_eq!(Embeddings { dimension: 2, data: data.clone() }.are_unit_vectors(), pass, "{data:?}");
        }
    }
}
