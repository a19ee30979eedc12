//! Text to token ids: the model folder's own tokenizer, without its padding, and cut at our limits.
//!
//! Sentence-transformers folders switch on padding to 128 tokens and truncation at 128 in tokenizer.json; both are switched off here,
//! because the encoder packs texts without padding and the limit is the operator's. A text that is too long keeps its leading and
//! trailing special tokens ([CLS] and [SEP]) and loses the end of its words. An encoder's prefix is put before every text; it is part of
//! the text in everything that follows, its limits included.

use std::path::Path;
use std::time::Instant;

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::config::EncoderConfig;
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

    /// The token ids of one text, special tokens included where the encoder reads them.
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

    /// Texts that never were text: of self-checks and tests.
    pub(crate) fn from_ids(texts: impl IntoIterator<Item = Vec<u32>>) -> Tokens {
        let mut tokens = Tokens::default();
        texts.into_iter().for_each(|ids| tokens.push(ids, false));
        tokens
    }

    pub(crate) fn push(&mut self, ids: impl IntoIterator<Item = u32>, truncated: bool) {
        self.ids.extend(ids);
        self.ends.push(self.ids.len());
        self.truncated.push(truncated);
    }
}

/// What of a text's tokens an encoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All of them, in the frame of special tokens that the tokenizer puts around a text.
    Framed,
    /// Those of the text itself that the tokenizer knows.
    KnownWords,
}

/// The tokenizer of one model folder.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    reading: Reading,
    /// The token that stands for what the tokenizer does not know.
    unknown: Option<u32>,
    prefix: String,
    max_tokens: usize,
    max_text_bytes: usize,
}

/// The part of tokenizer.json that says which token stands for the unknown: by name in most models, by number in Unigram.
#[derive(Deserialize)]
struct TokenizerFile {
    model: UnknownToken,
}

#[derive(Deserialize)]
struct UnknownToken {
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

impl TextTokenizer {
    /// Reads tokenizer.json; every id it can produce must be below `vocabulary`.
    pub(crate) fn load(
        file: &Path,
        vocabulary: usize,
        reading: Reading,
        config: &EncoderConfig,
    ) -> Result<TextTokenizer, Error> {
        let size = std::fs::metadata(file).map_err(|source| Error::reading(file, source))?.len();
        if size > MAX_TOKENIZER_BYTES {
            return Err(Error::model_file(file, format!("{size} bytes; at most {MAX_TOKENIZER_BYTES} are read")));
        }
        let bytes = std::fs::read(file).map_err(|source| Error::reading(file, source))?;
        let unusable =
            |error: &dyn std::fmt::Display| Error::model_file(file, format!("is not a usable tokenizer: {error}"));
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unusable(&error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::fault("switching off truncation", error))?;
        if let Some((token, id)) = tokenizer.get_vocab(true).into_iter().find(|(_, id)| *id as usize >= vocabulary) {
            let problem = format!("token {token:?} has id {id}, but the model's vocabulary has {vocabulary} rows");
            return Err(Error::model_file(file, problem));
        }
        let model = serde_json::from_slice::<TokenizerFile>(&bytes).map_err(|error| unusable(&error))?.model;
        let named = model.unk_token.and_then(|token| tokenizer.token_to_id(&token));
        Ok(TextTokenizer {
            tokenizer,
            reading,
            unknown: named.or(model.unk_id),
            prefix: config.prefix.clone(),
            max_tokens: config.max_tokens,
            max_text_bytes: config.max_text_bytes,
        })
    }

    /// Tokenises a batch of texts.
    pub(crate) fn tokenize(&self, texts: &[&str]) -> Result<Tokens, Error> {
        let started = Instant::now();
        let mut tokens = Tokens::default();
        let mut prefixed = self.prefix.clone();
        for text in texts {
            // `validate` sees to it that the prefix leaves room.
            let kept = &text[..text.floor_char_boundary(self.max_text_bytes - self.prefix.len())];
            prefixed.truncate(self.prefix.len());
            prefixed.push_str(kept);
            self.tokenize_one(&prefixed, kept.len() < text.len(), &mut tokens)?;
        }
        let truncated = tokens.truncated.iter().filter(|cut| **cut).count();
        metrics::tokenised(tokens.len(), tokens.total(), truncated, started);
        Ok(tokens)
    }

    fn tokenize_one(&self, text: &str, cut: bool, tokens: &mut Tokens) -> Result<(), Error> {
        let framed = self.reading == Reading::Framed;
        let encoding = self.tokenizer.encode_fast(text, framed).map_err(|error| Error::fault("tokenising", error))?;
        let ids = encoding.get_ids();
        if !framed {
            let known = ids.iter().copied().filter(|id| Some(*id) != self.unknown);
            let too_many = ids.len() > self.max_tokens && known.clone().nth(self.max_tokens).is_some();
            tokens.push(known.take(self.max_tokens), cut || too_many);
            return Ok(());
        }
        if ids.len() <= self.max_tokens {
            tokens.push(ids.iter().copied(), cut);
            return Ok(());
        }
        let special = encoding.get_special_tokens_mask();
        let trailing = special.iter().rev().take_while(|mark| **mark == 1).count().min(self.max_tokens);
        let (head, tail) = (&ids[..self.max_tokens - trailing], &ids[ids.len() - trailing..]);
        tokens.push(head.iter().chain(tail).copied(), true);
        Ok(())
    }
}
