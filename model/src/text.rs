//! Text to token ids: the model folder's own tokenizer, without its padding, and cut at our limits.
//!
//! Sentence-transformers folders switch on padding to 128 tokens and truncation at 128 in tokenizer.json; both are switched off here,
//! because the encoder packs texts without padding and the limit is the operator's. A text that is too long keeps its leading and
//! trailing special tokens ([CLS] and [SEP]) and loses the end of its words.

use std::path::Path;
use std::time::Instant;

use tokenizers::Tokenizer;

use crate::error::Error;
use crate::metrics;

/// The largest tokenizer.json that is read.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The token ids of a batch of texts, packed one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokens {
    ids: Vec<u32>,
    ends: Vec<usize>,
    truncated: Vec<bool>,
}

impl Tokens {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of tokens of all texts together.
    pub fn total(&self) -> usize {
        self.ids.len()
    }

    /// The token ids of one text, special tokens included.
    ///
    /// # Panics
    /// When `text` is not below `len()`.
    pub fn ids(&self, text: usize) -> &[u32] {
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.ids[start..self.ends[text]]
    }

    /// Whether a text was too long and lost its end.
    ///
    /// # Panics
    /// When `text` is not below `len()`.
    pub fn truncated(&self, text: usize) -> bool {
        self.truncated[text]
    }

    pub(crate) fn push(&mut self, ids: impl IntoIterator<Item = u32>, truncated: bool) {
        self.ids.extend(ids);
        self.ends.push(self.ids.len());
        self.truncated.push(truncated);
    }
}

/// The tokenizer of one model folder.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    max_tokens: usize,
    max_text_bytes: usize,
}

impl TextTokenizer {
    /// Reads tokenizer.json; every id it can produce must be below `vocabulary`.
    pub(crate) fn load(
        file: &Path,
        vocabulary: usize,
        max_tokens: usize,
        max_text_bytes: usize,
    ) -> Result<TextTokenizer, Error> {
        let size = std::fs::metadata(file).map_err(|source| Error::reading(file, source))?.len();
        if size > MAX_TOKENIZER_BYTES {
            return Err(Error::model_file(file, format!("{size} bytes; at most {MAX_TOKENIZER_BYTES} are read")));
        }
        let bytes = std::fs::read(file).map_err(|source| Error::reading(file, source))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|error| Error::model_file(file, format!("is not a usable tokenizer: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::fault("switching off truncation", error))?;
        if let Some((token, id)) = tokenizer.get_vocab(true).into_iter().find(|(_, id)| *id as usize >= vocabulary) {
            let problem = format!("token {token:?} has id {id}, but the model's vocabulary has {vocabulary} rows");
            return Err(Error::model_file(file, problem));
        }
        Ok(TextTokenizer { tokenizer, max_tokens, max_text_bytes })
    }

    /// Tokenises a batch of texts.
    pub(crate) fn tokenize(&self, texts: &[&str]) -> Result<Tokens, Error> {
        let started = Instant::now();
        let mut tokens = Tokens::default();
        for text in texts {
            self.tokenize_one(text, &mut tokens)?;
        }
        let truncated = tokens.truncated.iter().filter(|cut| **cut).count();
        metrics::tokenised(tokens.len(), tokens.total(), truncated, started);
        Ok(tokens)
    }

    fn tokenize_one(&self, text: &str, tokens: &mut Tokens) -> Result<(), Error> {
        let kept = &text[..text.floor_char_boundary(self.max_text_bytes)];
        let encoding = self.tokenizer.encode_fast(kept, true).map_err(|error| Error::fault("tokenising", error))?;
        let (ids, special) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        if ids.len() <= self.max_tokens {
            tokens.push(ids.iter().copied(), kept.len() < text.len());
            return Ok(());
        }
        let trailing = special.iter().rev().take_while(|mark| **mark == 1).count().min(self.max_tokens);
        let (head, tail) = (&ids[..self.max_tokens - trailing], &ids[ids.len() - trailing..]);
        tokens.push(head.iter().chain(tail).copied(), true);
        Ok(())
    }
}
