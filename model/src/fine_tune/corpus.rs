//! The texts of a fine-tuning as token ids: which are learned from, which are held out, and in what batches.
//!
//! Ids are numbered anew by the words that occur, since only their rows of the word table are trained. Texts of the same words count
//! once: the questions of a tenant often repeat its catalogue's examples, and one text must not be learned from and tested on.

use std::collections::HashSet;

use crate::error::Error;
use crate::examples::divide;
use crate::fine_tune::network::TextBatch;
use crate::random::Random;
use crate::text::{TextTokenizer, Tokens};

/// The most texts that are learned from.
const MAX_TEXTS: usize = 1_000_000;
/// The most tokens of a batch, which decides the memory of a step: some 450 KB each for a network of MiniLM's size.
const MAX_BATCH_TOKENS: usize = 2048;
/// The fewest texts of a class on average, without which there is nothing to hold out.
const MIN_TEXTS_PER_CLASS: usize = 4;

/// A text and its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelledText<'a> {
    /// The text.
    pub text: &'a str,
    /// Its class, below the number of classes.
    pub class: usize,
}

/// All texts as rows of the word table.
#[derive(Debug)]
pub(crate) struct Corpus {
    tokens: Tokens,
    /// The row of each id, by its place among the used ones.
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<usize>,
    pub(crate) classes: usize,
    /// Texts that are learned from.
    pub(crate) learned: Vec<usize>,
    pub(crate) held_out: Vec<usize>,
}

impl Corpus {
    /// Tokenises texts and holds out every `one_in`-th of each class; 0 holds out nothing.
    pub(crate) fn new(
        texts: &[LabelledText<'_>],
        tokenizer: &TextTokenizer,
        one_in: usize,
        seed: u64,
    ) -> Result<Corpus, Error> {
        if texts.len() > MAX_TEXTS {
            return Err(Error::questions("all", format!("{} texts; at most {MAX_TEXTS} are allowed", texts.len())));
        }
        let mut seen = HashSet::new();
        let texts: Vec<LabelledText<'_>> =
            texts.iter().copied().filter(|labelled| seen.insert((group(labelled.text), labelled.class))).collect();
        let classes = texts.iter().map(|labelled| labelled.class + 1).max().unwrap_or(0);
        let present = texts.iter().map(|labelled| labelled.class).collect::<HashSet<_>>().len();
        if present < 2 || texts.len() < MIN_TEXTS_PER_CLASS * present {
            let problem = format!(
                "{} different texts of {present} intents; at least 2 intents with {MIN_TEXTS_PER_CLASS} texts each on average are needed",
                texts.len()
            );
            return Err(Error::questions("all", problem));
        }
        let tokens = tokenizer.tokenize(&texts.iter().map(|labelled| labelled.text).collect::<Vec<_>>())?;
        if let Some(empty) = (0..tokens.len()).find(|text| tokens.ids(*text).is_empty()) {
            return Err(Error::questions(format!("text {}", empty + 1), "has no token"));
        }
        let labels: Vec<usize> = texts.iter().map(|labelled| labelled.class).collect();
        let mut rows: Vec<u32> = (0..tokens.len()).flat_map(|text| tokens.ids(text)).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        let (mut learned, mut held_out): (Vec<usize>, Vec<usize>) = ((0..texts.len()).collect(), Vec::new());
        if one_in > 0 {
            let groups: Vec<String> = texts.iter().map(|labelled| group(labelled.text)).collect();
            let parts = divide(&labels, &groups, one_in, seed);
            (held_out, learned) = learned.into_iter().partition(|text| parts[*text] == 0);
        }
        Ok(Corpus { tokens, rows, labels, classes, learned, held_out })
    }

    /// The texts that are learned from, in a new order, as batches of at most `texts_per_batch`.
    pub(crate) fn shuffled(&self, texts_per_batch: usize, random: &mut Random) -> Vec<Vec<usize>> {
        let mut order = self.learned.clone();
        random.shuffle(&mut order);
        let mut batches = self.cut(&order, texts_per_batch);
        batches.iter_mut().for_each(|batch| batch.sort_by_key(|text| self.length(*text)));
        batches
    }

    /// Some texts in batches of nearly equal lengths, for encoding.
    pub(crate) fn by_length(&self, texts: &[usize], texts_per_batch: usize) -> Vec<Vec<usize>> {
        let mut order = texts.to_vec();
        order.sort_by_key(|text| self.length(*text));
        self.cut(&order, texts_per_batch)
    }

    /// The packed ids of texts, which must stand in order of their lengths.
    pub(crate) fn batch(&self, texts: &[usize]) -> TextBatch {
        let row = |id: &u32| self.rows.binary_search(id).unwrap_or_default() as u32;
        TextBatch {
            words: texts.iter().flat_map(|text| self.tokens.ids(*text)).map(row).collect(),
            lengths: texts.iter().map(|text| self.length(*text)).collect(),
        }
    }

    fn length(&self, text: usize) -> usize {
        self.tokens.ids(text).len()
    }

    fn cut(&self, order: &[usize], texts_per_batch: usize) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0;
        for text in order {
            let length = self.length(*text);
            match batches.last_mut() {
                Some(batch) if batch.len() < texts_per_batch && tokens + length <= MAX_BATCH_TOKENS => {
                    batch.push(*text);
                    tokens += length;
                }
                _ => {
                    batches.push(vec![*text]);
                    tokens = length;
                }
            }
        }
        batches
    }
}

/// Texts of the same words belong together, however they are written.
fn group(text: &str) -> String {
    text.trim().to_lowercase()
}
