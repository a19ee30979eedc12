//! The text of a tokenizer.json that holds a Unigram model as XLM-RoBERTa has it, from its pieces and their scores.
//!
//! It is the original tokenizer but for the normaliser: Unicode's NFKC stands in for the original's own table of characters.

use std::fmt::Write as _;

use anyhow::{Context, Result};

/// Numbers of the tokens with a meaning of their own.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    pub(crate) beginning: usize,
    pub(crate) end: usize,
    pub(crate) padding: usize,
    pub(crate) unknown: usize,
}

/// The text of tokenizer.json: a Unigram model, put together by hand so that the same pieces are always the same bytes.
pub(crate) fn tokenizer_json(pieces: &[(String, f32)], special: &SpecialTokens) -> Result<String> {
    let quoted = |id: usize| -> Result<String> {
        let (piece, _) = pieces.get(id).with_context(|| format!("there is no special token {id}"))?;
        Ok(serde_json::to_string(piece)?)
    };
    let mut added = Vec::new();
    for id in [special.beginning, special.padding, special.end, special.unknown] {
        added.push(format!(
            r#"{{"id":{id},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#,
            quoted(id)?
        ));
    }
    let (beginning, end) = (quoted(special.beginning)?, quoted(special.end)?);
    let in_template = |piece: &str| format!(r#"{{"SpecialToken":{{"id":{piece},"type_id":0}}}}"#);
    let declared = |piece: &str, id: usize| format!(r#"{piece}:{{"id":{piece},"ids":[{id}],"tokens":[{piece}]}}"#);
    let metaspace = r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#;
    let mut text = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{added}],"normalizer":{{"type":"Sequence","normalizers":[{{"type":"NFKC"}},{{"type":"Replace","pattern":{{"Regex":" {{2,}}"}},"content":" "}}]}},"pre_tokenizer":{metaspace},"post_processor":{{"type":"TemplateProcessing","single":[{first},{{"Sequence":{{"id":"A","type_id":0}}}},{last}],"pair":[{{"Sequence":{{"id":"A","type_id":0}}}},{{"Sequence":{{"id":"B","type_id":0}}}}],"special_tokens":{{{declared_first},{declared_last}}}}},"decoder":{metaspace},"model":{{"type":"Unigram","unk_id":{unknown},"byte_fallback":false,"vocab":["#,
        added = added.join(","),
        first = in_template(&beginning),
        last = in_template(&end),
        declared_first = declared(&beginning, special.beginning),
        declared_last = declared(&end, special.end),
        unknown = special.unknown,
    );
    for (at, (piece, score)) in pieces.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}[{},{:?}]", serde_json::to_string(piece)?, f64::from(*score))?;
    }
    text.push_str("]}}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_text_is_json_and_holds_every_piece() {
        let pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁\"", "\\"].map(|piece| (piece.to_owned(), -0.1));
        let special = SpecialTokens { beginning: 0, end: 2, padding: 1, unknown: 3 };
        let text: Value = serde_json::from_str(&tokenizer_json(&pieces, &special).unwrap()).unwrap();
        let vocabulary = text["model"]["vocab"].as_array().unwrap();
        assert_eq!(vocabulary.len(), pieces.len());
        assert_eq!((vocabulary[4][0].as_str(), vocabulary[5][0].as_str()), (Some("▁\""), Some("\\")));
        assert_eq!(vocabulary[0][1].as_f64(), Some(f64::from(-0.1_f32)));
        assert_eq!(text["post_processor"]["single"][2]["SpecialToken"]["id"], "</s>");
        let outside = SpecialTokens { unknown: 6, ..special };
        assert!(tokenizer_json(&pieces, &outside).is_err());
    }
}
