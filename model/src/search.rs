//! The exact search of example vectors: a batch of questions against all of them, in one pass over memory.
//!
//! The questions are the small side, so they are packed as the matrix, and the examples stream through as rows: block by block, the
//! cosines of a few hundred examples to all questions are computed and looked at while they are in the first cache. Nothing of the size
//! of the catalogue is written. A million examples are read at the speed of memory (`make bench-encode`).

use std::ops::Range;

use crate::cpu::{After, InstructionSet, PackedMatrix};
use crate::embeddings::Embeddings;

/// Examples whose cosines are computed before they are looked at.
const BLOCK: usize = 112;

/// An example and its cosine to a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its position, counted through all intents in the catalogue's order.
    pub example: usize,
    /// Its cosine to the question.
    pub cosine: f32,
}

/// A batch of questions, ready to be compared with any number of examples.
pub(crate) struct Search {
    questions: usize,
    dimension: usize,
    matrix: PackedMatrix,
}

impl Search {
    /// Packs a batch of at least one question.
    pub(crate) fn new(questions: &Embeddings) -> Search {
        let (count, dimension) = (questions.len(), questions.dimension);
        let mut columns = vec![0.0; questions.data.len()];
        for (question, row) in questions.data.chunks_exact(dimension).enumerate() {
            for (at, value) in row.iter().enumerate() {
                columns[at * count + question] = *value;
            }
        }
        let matrix = PackedMatrix::new(InstructionSet::widest(), &columns, vec![0.0; count]);
        Search { questions: count, dimension, matrix }
    }

    /// Calls `each` with the position of every row of `range` in `examples: [rows, dimension]` and its cosines to all questions.
    pub(crate) fn scan(&self, examples: &[f32], range: Range<usize>, mut each: impl FnMut(usize, &mut [f32])) {
        let mut cosines = vec![0.0; BLOCK * self.questions];
        for first in range.clone().step_by(BLOCK) {
            let rows = BLOCK.min(range.end - first);
            let block = &examples[first * self.dimension..][..rows * self.dimension];
            let cosines = &mut cosines[..rows * self.questions];
            self.matrix.multiply(block, cosines, After::Store);
            for (row, cosines) in cosines.chunks_exact_mut(self.questions).enumerate() {
                each(first + row, cosines);
            }
        }
    }
}

/// The largest few of the cosines that each of some questions has met, kept sorted, largest first.
pub(crate) struct Largest {
    count: usize,
    /// `[questions, count]`
    held: Vec<Neighbour>,
    /// What a cosine must exceed to be held, one per question: most do not, and are passed over by one comparison.
    floors: Vec<f32>,
}

impl Largest {
    /// Holds `count` for each question.
    pub(crate) fn new(questions: usize, count: usize) -> Largest {
        let none = Neighbour { example: usize::MAX, cosine: f32::NEG_INFINITY };
        Largest { count, held: vec![none; questions * count], floors: vec![f32::NEG_INFINITY; questions] }
    }

    /// Looks at one example's cosines to all questions.
    pub(crate) fn add(&mut self, example: usize, cosines: &[f32]) {
        // One answer for all questions, which the compiler finds with vectors.
        if cosines.iter().zip(&self.floors).fold(true, |none, (cosine, floor)| none & (cosine <= floor)) {
            return;
        }
        for (question, cosine) in cosines.iter().enumerate() {
            if *cosine > self.floors[question] {
                self.insert(question, Neighbour { example, cosine: *cosine });
            }
        }
    }

    /// Takes in what another part of the examples brought, which must lie behind all that was seen here.
    pub(crate) fn merge(&mut self, other: &Largest) {
        for question in 0..self.floors.len() {
            for neighbour in other.of(question) {
                if neighbour.cosine > self.floors[question] {
                    self.insert(question, *neighbour);
                }
            }
        }
    }

    /// What is held of a question, largest first; of equal cosines the first example comes first.
    pub(crate) fn of(&self, question: usize) -> &[Neighbour] {
        let held = &self.held[question * self.count..][..self.count];
        &held[..held.partition_point(|neighbour| neighbour.example != usize::MAX)]
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.held.fill(Neighbour { example: usize::MAX, cosine: f32::NEG_INFINITY });
        self.floors.fill(f32::NEG_INFINITY);
    }

    fn insert(&mut self, question: usize, neighbour: Neighbour) {
        let held = &mut self.held[question * self.count..][..self.count];
        let at = held.partition_point(|other| other.cosine >= neighbour.cosine);
        if let Some(places) = held.get_mut(at..) {
            places.rotate_right(1);
            places[0] = neighbour;
        }
        self.floors[question] = held[self.count - 1].cosine;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 1013.0 - 0.5).collect()
    }

    #[test]
    fn every_row_meets_every_question() {
        for (questions, examples, dimension) in [(1, 5, 3), (32, 300, 40), (33, 113, 16)] {
            let batch = Embeddings { dimension, data: numbers(questions * dimension, 1) };
            let rows = numbers(examples * dimension, 2);
            let mut seen = 2;
            Search::new(&batch).scan(&rows, 2..examples - 1, |example, cosines| {
                assert_eq!((example, cosines.len()), (seen, questions));
                seen += 1;
                for (question, found) in cosines.iter().enumerate() {
                    let row = &rows[example * dimension..][..dimension];
                    let expected: f32 = row.iter().zip(batch.row(question)).map(|(one, other)| one * other).sum();
                    assert!((expected - found).abs() < 1e-5);
                }
            });
            assert_eq!(seen, examples - 1);
        }
    }

    #[test]
    fn the_largest_are_those_of_a_sort() {
        let (questions, examples, count) = (3, 500, 10);
        // Many equal values: the order among them must be that of the examples.
        let cosines: Vec<f32> = numbers(questions * examples, 3).iter().map(|v| (v * 40.0).round() / 40.0).collect();
        let mut halves = [Largest::new(questions, count), Largest::new(questions, count)];
        for (example, row) in cosines.chunks_exact(questions).enumerate() {
            halves[example / 250].add(example, row);
        }
        let [mut largest, second] = halves;
        largest.merge(&second);
        for question in 0..questions {
            let mut all: Vec<(usize, f32)> =
                (0..examples).map(|example| (example, cosines[example * questions + question])).collect();
            all.sort_by(|one, other| other.1.total_cmp(&one.1));
            let found: Vec<(usize, f32)> = largest.of(question).iter().map(|n| (n.example, n.cosine)).collect();
            assert_eq!(found, all[..count]);
        }
        largest.clear();
        assert!(largest.of(0).is_empty());
        largest.add(4, &[0.5, f32::NEG_INFINITY, 0.5]);
        assert_eq!((largest.of(0).len(), largest.of(1).len()), (1, 0), "what is left out is never held");
    }
}
