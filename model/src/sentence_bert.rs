//! Sentence-BERT on the CPU: a batch of token sequences to unit vectors, cut into micro-batches and shared out among threads.
//!
//! A large batch is cut by texts: each thread takes micro-batches through the whole network by itself, and they meet only at the end. A
//! small one goes through as a whole and the threads share each matrix product, because its time is that of reading the weights. The
//! vector of a text is the mean over its tokens, scaled to length 1; it does not depend on how the batch was cut. Reference: Reimers and
//! Gurevych 2019, "Sentence-BERT".

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::bert::{Bert, Work, Workspace};
use crate::text::Tokens;

/// Tokens per thread below which the threads of the pool share each product of a micro-batch, instead of taking texts apart.
const FEW_TOKENS: usize = 32;

/// A network with the room its forwards need.
pub(crate) struct SentenceBert {
    network: Bert,
    dimension: usize,
    micro_batch_tokens: usize,
    /// One for each forward that runs at a time, kept for the next.
    workspaces: Mutex<Vec<Workspace>>,
}

impl SentenceBert {
    /// `micro_batch_tokens` go through the network together.
    pub(crate) fn new(network: Bert, dimension: usize, micro_batch_tokens: usize) -> SentenceBert {
        SentenceBert { network, dimension, micro_batch_tokens, workspaces: Mutex::new(Vec::new()) }
    }

    /// Bytes of the weights in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.network.bytes()
    }

    /// Writes one unit vector per text into `vectors: [texts, dimension]`, by the threads of the current rayon pool.
    pub(crate) fn encode(&self, tokens: &Tokens, vectors: &mut [f32]) {
        let parts = micro_batches(tokens, self.micro_batch_tokens, rayon::current_num_threads());
        if let [all] = parts.as_slice() {
            let alone = rayon::current_num_threads() == 1;
            return self.encode_part(tokens, all.clone(), vectors, if alone { Work::Alone } else { Work::Together });
        }
        let mut rest = vectors;
        let parts: Vec<_> = parts
            .into_iter()
            .map(|texts| {
                let (own, after) = std::mem::take(&mut rest).split_at_mut(texts.len() * self.dimension);
                rest = after;
                (texts, own)
            })
            .collect();
        parts.into_par_iter().for_each(|(texts, vectors)| self.encode_part(tokens, texts, vectors, Work::Alone));
    }

    fn encode_part(&self, tokens: &Tokens, texts: Range<usize>, vectors: &mut [f32], work: Work) {
        let lengths: Vec<usize> = texts.clone().map(|text| tokens.ids(text).len()).collect();
        let ids: Vec<u32> = texts.flat_map(|text| tokens.ids(text)).copied().collect();
        let mut workspace = self.workspaces.lock().ok().and_then(|mut kept| kept.pop()).unwrap_or_default();
        let mut rows = self.network.forward(&ids, &lengths, work, &mut workspace);
        for (length, vector) in lengths.iter().zip(vectors.chunks_exact_mut(self.dimension)) {
            let (own, after) = rows.split_at(length * self.dimension);
            mean_of_rows(own, vector);
            rows = after;
        }
        if let Ok(mut kept) = self.workspaces.lock() {
            kept.push(workspace);
        }
    }
}

/// Cuts a batch into ranges of texts of nearly as many tokens each, a multiple of `threads` of them so that no thread waits long for another;
/// one alone where there is too little to divide.
fn micro_batches(tokens: &Tokens, most_tokens: usize, threads: usize) -> Vec<Range<usize>> {
    let total = tokens.total();
    let count = if tokens.len() < threads || total < threads * FEW_TOKENS {
        total.div_ceil(most_tokens).max(1)
    } else {
        total.div_ceil(most_tokens).next_multiple_of(threads)
    };
    let mut parts = Vec::with_capacity(count);
    let (mut start, mut seen) = (0, 0);
    for text in 0..tokens.len() {
        seen += tokens.ids(text).len();
        if seen * count >= (parts.len() + 1) * total {
            parts.push(start..text + 1);
            start = text + 1;
        }
    }
    parts
}

/// The mean of the token vectors, scaled to length 1.
fn mean_of_rows(rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for row in rows.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let length = out.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    out.iter_mut().for_each(|value| *value /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(lengths: &[usize]) -> Tokens {
        let mut tokens = Tokens::default();
        lengths.iter().for_each(|length| tokens.push(vec![1; *length], false));
        tokens
    }

    #[test]
    fn parts_cover_the_batch_in_order_and_are_of_one_size() {
        for (lengths, threads) in
            [(vec![14; 100], 2), (vec![1, 200, 3, 3, 90, 41, 7, 7, 7], 2), ((1..120).collect(), 3)]
        {
            let tokens = tokens(&lengths);
            let parts = micro_batches(&tokens, 128, threads);
            assert_eq!(parts.first().map(|part| part.start), Some(0));
            assert_eq!(parts.last().map(|part| part.end), Some(lengths.len()));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()), "{parts:?}");
            let longest = lengths.iter().max().unwrap();
            for part in &parts {
                assert!(lengths[part.clone()].iter().sum::<usize>() <= 128 + longest, "{parts:?}");
            }
        }
    }

    #[test]
    fn little_work_is_one_part_and_much_a_part_for_each_thread() {
        let ends = |lengths: &[usize], most_tokens| -> Vec<usize> {
            micro_batches(&tokens(lengths), most_tokens, 2).iter().map(|part| part.end).collect()
        };
        assert_eq!(ends(&[14], 128), [1]);
        assert_eq!(ends(&[14, 14, 14], 128), [3], "fewer than 32 for each");
        assert_eq!(ends(&[20; 8], 1000), [4, 8]);
        assert_eq!(ends(&[300], 128), [1], "a text is never cut");
        assert!(ends(&[], 128).is_empty());
    }
}
