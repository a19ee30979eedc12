//! The few shapes in which an accelerator sees texts: powers of two of texts and of tokens per text.
//!
//! An accelerator compiles and tunes its kernels per shape, and every new shape costs it seconds; with a closed set of shapes all of them
//! are compiled before the first question comes. On the CPU, which packs texts without padding, a bucket only names how large a job is,
//! so that speeds of the same kind are compared.

use std::fmt;

use crate::text::Tokens;

/// The most texts that go through the network at once.
pub(crate) const MAX_TEXTS: usize = 32;
/// The shortest row of tokens.
const MIN_LENGTH: usize = 16;

/// A shape: texts times tokens, both powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bucket {
    pub(crate) texts: usize,
    pub(crate) length: usize,
}

impl Bucket {
    /// The smallest bucket with room for so many texts of that length; of more texts than a bucket holds, the one they are cut into.
    pub(crate) fn of(texts: usize, longest: usize) -> Bucket {
        Bucket { texts: texts.clamp(1, MAX_TEXTS).next_power_of_two(), length: padded_length(longest) }
    }

    /// The bucket that a whole job counts as.
    pub(crate) fn of_job(tokens: &Tokens) -> Bucket {
        let longest = (0..tokens.len()).map(|text| tokens.ids(text).len()).max();
        Bucket::of(tokens.len(), longest.unwrap_or(1))
    }

    /// Every bucket that texts of up to `max_tokens` can fall into, the small ones first.
    pub(crate) fn all(max_tokens: usize) -> Vec<Bucket> {
        let lengths = powers_of_two(MIN_LENGTH, padded_length(max_tokens));
        lengths.flat_map(|length| powers_of_two(1, MAX_TEXTS).map(move |texts| Bucket { texts, length })).collect()
    }
}

/// The row length of texts of so many tokens.
pub(crate) fn padded_length(tokens: usize) -> usize {
    tokens.max(MIN_LENGTH).next_power_of_two()
}

fn powers_of_two(first: usize, last: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(first), move |power| Some(power * 2).filter(|power| *power <= last))
}

/// Cuts texts into batches of at most `MAX_TEXTS`, texts of like length together; gives positions in `tokens`.
///
/// A batch is padded to its longest text rather than cut further: on a GPU a forward of this size costs mostly its launches.
pub(crate) fn batches(tokens: &Tokens) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|text| tokens.ids(*text).len());
    order.chunks(MAX_TEXTS).map(<[usize]>::to_vec).collect()
}

impl fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.texts, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_has_a_bucket_that_is_warmed() {
        for max_tokens in [8, 100, 256, 512] {
            let warmed = Bucket::all(max_tokens);
            for texts in 1..=40 {
                for length in 1..=max_tokens {
                    let bucket = Bucket::of(texts, length);
                    assert!(warmed.contains(&bucket), "{texts} texts of {length} fall into {bucket}");
                    assert!(bucket.texts >= texts.min(MAX_TEXTS) && bucket.length >= length);
                }
            }
        }
    }

    #[test]
    fn buckets_are_a_small_closed_set() {
        let names: Vec<String> = Bucket::all(256).iter().map(Bucket::to_string).collect();
        assert_eq!(names.len(), 6 * 5);
        assert_eq!((names[0].as_str(), names[29].as_str()), ("1x16", "32x256"));
        assert_eq!(Bucket::of(5, 17).to_string(), "8x32");
    }

    #[test]
    fn batches_hold_every_text_once_the_short_ones_together() {
        let lengths: Vec<usize> = (0..70).map(|text| 1 + (text * 37) % 70).collect();
        let tokens = Tokens::from_ids(lengths.iter().map(|length| vec![7; *length]));
        let batches = batches(&tokens);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 6]);
        let longest = |batch: &Vec<usize>| batch.iter().map(|text| lengths[*text]).max();
        assert!(longest(&batches[0]) < longest(&batches[1]) && longest(&batches[1]) < longest(&batches[2]));
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..70).collect::<Vec<_>>());
    }
}
