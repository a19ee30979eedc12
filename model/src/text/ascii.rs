//! The way of an uncased BERT tokenizer through plain ASCII text, which most questions are: the same ids as the `tokenizers` library gives,
//! without its record of where each character came from, at a tenth of the time. Whatever is not plain goes through the library.

use std::collections::HashMap;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// WordPiece over words and punctuation, for ASCII.
#[derive(Debug)]
pub(super) struct AsciiWordPiece {
    /// Pieces that begin a word.
    first: HashMap<Box<[u8]>, u32>,
    /// Pieces that continue one, without the prefix that marks them.
    further: HashMap<Box<[u8]>, u32>,
    longest: usize,
    unknown: u32,
    lowercase: bool,
    max_word_bytes: usize,
    /// Bytes that may stand in plain text. Those that may begin an added token, as `[` of `[SEP]`, are not among them.
    plain: [bool; 256],
}

impl AsciiWordPiece {
    /// None if the tokenizer is of another kind: this is for the normaliser and the words of BERT, and pieces of WordPiece.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<AsciiWordPiece> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else { return None };
        let (Some(PreTokenizerWrapper::BertPreTokenizer(_)), ModelWrapper::WordPiece(model), true) =
            (tokenizer.get_pre_tokenizer(), tokenizer.get_model(), normalizer.clean_text)
        else {
            return None;
        };
        let (first, further) = pieces(model);
        Some(AsciiWordPiece {
            longest: first.keys().chain(further.keys()).map(|piece| piece.len()).max()?,
            unknown: model.token_to_id(&model.unk_token)?,
            first,
            further,
            lowercase: normalizer.lowercase,
            max_word_bytes: model.max_input_chars_per_word,
            plain: plain_bytes(tokenizer),
        })
    }

    /// Appends the ids of a text, or returns false and appends nothing: the text is not plain.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> bool {
        if !text.bytes().all(|byte| self.plain[usize::from(byte)]) {
            return false;
        }
        let mut lowered;
        let mut rest = text.as_bytes();
        if self.lowercase {
            lowered = rest.to_vec();
            lowered.make_ascii_lowercase();
            rest = &lowered;
        }
        while let Some(byte) = rest.first() {
            let is_part = |byte: &u8| !byte.is_ascii_punctuation() && !byte.is_ascii_whitespace();
            let end = match rest.iter().position(|byte| !is_part(byte)) {
                // Punctuation is a word of its own.
                Some(0) => 1,
                Some(end) => end,
                None => rest.len(),
            };
            if !byte.is_ascii_whitespace() {
                self.encode_word(&rest[..end], ids);
            }
            rest = &rest[end..];
        }
        true
    }

    /// The longest piece that fits, again and again; a word of which any part is no piece is unknown as a whole.
    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut at = 0;
        while at < word.len() && word.len() <= self.max_word_bytes {
            let pieces = if at == 0 { &self.first } else { &self.further };
            let most = (at + self.longest).min(word.len());
            let Some((end, id)) = (at + 1..=most).rev().find_map(|end| Some((end, *pieces.get(&word[at..end])?)))
            else {
                break;
            };
            ids.push(id);
            at = end;
        }
        if at < word.len() {
            ids.truncate(before);
            ids.push(self.unknown);
        }
    }
}

type Pieces = HashMap<Box<[u8]>, u32>;

/// The pieces that begin words and those that continue them.
fn pieces(model: &WordPiece) -> (Pieces, Pieces) {
    let (mut first, mut further) = (Pieces::new(), Pieces::new());
    for (piece, id) in model.get_vocab() {
        if let Some(rest) = piece.strip_prefix(&model.continuing_subword_prefix) {
            further.insert(rest.as_bytes().into(), id);
        }
        // What looks like a continuation may also be the beginning of a word, were it written so in a text.
        first.insert(piece.into_bytes().into(), id);
    }
    (first, further)
}

fn plain_bytes(tokenizer: &Tokenizer) -> [bool; 256] {
    let mut plain = [false; 256];
    (b' '..=b'~').chain(*b"\t\n\r").for_each(|byte| plain[usize::from(byte)] = true);
    for token in tokenizer.get_added_tokens_decoder().into_values() {
        for byte in token.content.bytes().take(1) {
            // Some are looked for in the text as it was, others after it was made lower case.
            plain[usize::from(byte.to_ascii_lowercase())] = false;
            plain[usize::from(byte.to_ascii_uppercase())] = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use tokenizers::models::unigram::Unigram;
    use tokenizers::models::wordpiece::WordPieceBuilder;
    use tokenizers::normalizers::BertNormalizer;
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
    use tokenizers::{AddedToken, Tokenizer};

    use super::*;
    use crate::random::Random;

    const PIECES: [&str; 16] =
        ["[UNK]", "[SEP]", "a", "b", "ab", "##a", "##b", "##ba", "##", "?", "#", "-", "abba", "1", "A", "##AB"];

    fn tokenizer(lowercase: bool, strip_accents: Option<bool>) -> Tokenizer {
        let vocabulary: [_; PIECES.len()] = std::array::from_fn(|id| (PIECES[id].to_owned(), id as u32));
        let model = WordPieceBuilder::new().vocab(vocabulary).max_input_chars_per_word(6).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, strip_accents, lowercase))).unwrap();
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.add_special_tokens([AddedToken::from("[SEP]", true)]).unwrap();
        tokenizer
    }

    #[test]
    fn it_gives_the_ids_of_the_library() {
        const ALPHABET: [&str; 18] =
            ["a", "b", "A", "B", "c", "1", "?", "-", "#", "##", " ", "  ", "\t", "\n", "\r", "ab", "abba", "'"];
        for (seed, lowercase) in [(1, true), (2, false)] {
            let tokenizer = tokenizer(lowercase, None);
            let ascii = AsciiWordPiece::of(&tokenizer).unwrap();
            let mut random = Random::new(seed);
            let mut below = |limit: usize| (random.next() % limit as u64) as usize;
            for _ in 0..3_000 {
                let text: String = (0..below(14)).map(|_| ALPHABET[below(ALPHABET.len())]).collect();
                let mut ids = vec![77];
                assert!(ascii.encode(&text, &mut ids));
                assert_eq!(ids[1..], *tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids(), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_library() {
        let ascii = AsciiWordPiece::of(&tokenizer(true, Some(true))).unwrap();
        let mut ids = Vec::new();
        for text in ["a b [SEP]", "caf\u{e9}", "a\u{0}b", "a\u{7f}", "a\u{b}b", "\u{8ba2}"] {
            assert!(!ascii.encode(text, &mut ids) && ids.is_empty(), "{text:?}");
        }
        assert!(ascii.encode("", &mut ids) && ids.is_empty());
        assert!(AsciiWordPiece::of(&Tokenizer::new(Unigram::default())).is_none());
    }
}
