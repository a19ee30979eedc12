//! Text to token ids: the model folder's own tokenizer, without its padding, and cut at our limits.
//!
//! Sentence-transformers folders switch on padding to 128 tokens and truncation at 128 in tokenizer.json; both are switched off here,
//! because the encoder packs texts without padding and the limit is the operator's. A text that is too long keeps its leading and
//! trailing special tokens ([CLS] and [SEP]) and loses the end of its words. An encoder's prefix is put before every text; it is part of
//! the text in everything that follows, its limits included.

mod ascii;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::config::EncoderConfig;
use crate::error::Error;
use crate::metrics::EncoderMetrics;
use crate::text::ascii::AsciiWordPiece;

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

    /// Some of the texts, in the order named.
    ///
    /// # Panics
    /// When one of `texts` is not below `len()`.
    pub fn select(&self, texts: &[usize]) -> Tokens {
        let mut selected = Tokens::default();
        texts.iter().for_each(|text| selected.push(self.ids(*text).iter().copied(), self.truncated[*text]));
        selected
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
    /// For plain text, where the tokenizer is of a kind that has a shorter way.
    ascii: Option<AsciiWordPiece>,
    frame: Frame,
    reading: Reading,
    /// The token that stands for what the tokenizer does not know.
    unknown: Option<u32>,
    prefix: String,
    max_tokens: usize,
    max_text_bytes: usize,
    metrics: Arc<EncoderMetrics>,
}

/// The special tokens that the encoder reads around every text.
#[derive(Debug, Default)]
struct Frame {
    leading: Vec<u32>,
    trailing: Vec<u32>,
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
        metrics: Arc<EncoderMetrics>,
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
        let frame = match reading {
            Reading::Framed => Frame::of(&tokenizer).map_err(|error| unusable(&error))?,
            Reading::KnownWords => Frame::default(),
        };
        if frame.len() >= config.max_tokens {
            let problem = format!("it puts {} special tokens around a text", frame.len());
            return Err(Error::model_file(
                file,
                format!("{problem}; max_tokens = {} leaves no room", config.max_tokens),
            ));
        }
        Ok(TextTokenizer {
            ascii: AsciiWordPiece::of(&tokenizer),
            tokenizer,
            frame,
            reading,
            unknown: named.or(model.unk_id),
            prefix: config.prefix.clone(),
            max_tokens: config.max_tokens,
            max_text_bytes: config.max_text_bytes,
            metrics,
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
        self.metrics.tokenised(tokens.len(), tokens.total(), truncated, started);
        Ok(tokens)
    }

    fn tokenize_one(&self, text: &str, cut: bool, tokens: &mut Tokens) -> Result<(), Error> {
        let mut ids = Vec::new();
        if !self.ascii.as_ref().is_some_and(|ascii| ascii.encode(text, &mut ids)) {
            let encoding =
                self.tokenizer.encode_fast(text, false).map_err(|error| Error::fault("tokenising", error))?;
            ids = encoding.get_ids().to_vec();
        }
        if self.reading == Reading::KnownWords {
            ids.retain(|id| Some(*id) != self.unknown);
        }
        let Frame { leading, trailing } = &self.frame;
        let room = self.max_tokens - self.frame.len();
        let words = ids.iter().take(room);
        tokens.push(leading.iter().chain(words).chain(trailing).copied(), cut || ids.len() > room);
        Ok(())
    }
}

impl Frame {
    fn of(tokenizer: &Tokenizer) -> Result<Frame, tokenizers::Error> {
        let (bare, framed) = (tokenizer.encode_fast("a", false)?, tokenizer.encode_fast("a", true)?);
        let special = framed.get_special_tokens_mask();
        let leading = special.iter().take_while(|mark| **mark == 1).count();
        let ids = framed.get_ids();
        let Some(trailing) = ids.get(leading..).and_then(|rest| rest.strip_prefix(bare.get_ids())) else {
            return Err("it does not put its special tokens around a text".into());
        };
        Ok(Frame { leading: ids[..leading].to_vec(), trailing: trailing.to_vec() })
    }

    fn len(&self) -> usize {
        self.leading.len() + self.trailing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Tokens;

    #[test]
    fn some_texts_of_a_batch_are_what_they_were() {
        let mut tokens = Tokens::from_ids([vec![1, 2, 3], vec![], vec![4]]);
        tokens.push([5, 6], true);
        let selected = tokens.select(&[3, 0]);
        assert_eq!((selected.len(), selected.total()), (2, 5));
        assert_eq!((selected.ids(0), selected.ids(1)), (&[5, 6][..], &[1, 2, 3][..]));
        assert_eq!((selected.truncated(0), selected.truncated(1)), (true, false));
        assert_eq!(tokens.select(&[0, 1, 2, 3]), tokens);
        assert!(tokens.select(&[]).is_empty());
    }
}
