//! The bytes of the lane's stored questions and answers. A number in front says how the rest is laid out, so that a later program can read
//! what an earlier one left.
//!
//! A question has its parts one after the other, numbers little-endian, texts by their length. An answer is its protobuf message, which
//! brings its own rules for changes.

use crate::context::Class;
use crate::lane::ticket::Ticket;

const QUESTION_FORMAT: u8 = 1;
const ANSWER_FORMAT: u8 = 1;

/// A question as it waits on disk. When it came is the log's to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredQuestion {
    pub(crate) ticket: Ticket,
    /// Unix milliseconds UTC; a question that waits longer fails.
    pub(crate) answer_by_ms: i64,
    /// Of the caller. It is answered as bulk all the same.
    pub(crate) class: Class,
    pub(crate) user: String,
    pub(crate) session: String,
    pub(crate) dedup_key: String,
    pub(crate) text: String,
}

impl StoredQuestion {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![QUESTION_FORMAT];
        bytes.extend(self.ticket.0.to_le_bytes());
        bytes.extend(self.answer_by_ms.to_le_bytes());
        for text in [self.class.label(), &self.user, &self.session, &self.dedup_key, &self.text] {
            // Each has a limit far below this one; what is longer would be refused as damaged when it is read.
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// None for bytes that no program of this format wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<StoredQuestion> {
        let (&QUESTION_FORMAT, rest) = bytes.split_first()? else { return None };
        let (ticket, rest) = rest.split_first_chunk()?;
        let (answer_by_ms, mut rest) = rest.split_first_chunk()?;
        let mut text = || {
            let (length, behind) = rest.split_first_chunk()?;
            let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = behind;
            std::str::from_utf8(text).ok()
        };
        let question = StoredQuestion {
            ticket: Ticket(u128::from_le_bytes(*ticket)),
            answer_by_ms: i64::from_le_bytes(*answer_by_ms),
            class: Class::parse(text()?)?,
            user: text()?.to_owned(),
            session: text()?.to_owned(),
            dedup_key: text()?.to_owned(),
            text: text()?.to_owned(),
        };
        rest.is_empty().then_some(question)
    }
}

/// The bytes of an answer, of its message.
pub(crate) fn encode_answer(message: &[u8]) -> Vec<u8> {
    [&[ANSWER_FORMAT], message].concat()
}

/// The message of an answer; none for bytes of another format.
pub(crate) fn decode_answer(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&[ANSWER_FORMAT])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_back_and_cut_or_longer_bytes_do_not() {
        let question = StoredQuestion {
            ticket: Ticket(u128::MAX - 5),
            answer_by_ms: -7,
            class: Class::Vip,
            user: "ada".to_owned(),
            session: String::new(),
            dedup_key: "mail-1".to_owned(),
            text: "où est ma commande ?".to_owned(),
        };
        let bytes = question.encode();
        assert_eq!(StoredQuestion::decode(&bytes), Some(question));
        assert!((0..bytes.len()).all(|length| StoredQuestion::decode(&bytes[..length]).is_none()));
        assert_eq!(StoredQuestion::decode(&[&bytes[..], b"x"].concat()), None);
        let mut other_format = bytes.clone();
        other_format[0] = 2;
        assert_eq!(StoredQuestion::decode(&other_format), None);
        let mut endless = bytes;
        endless[25..29].fill(0xff);
        assert_eq!(StoredQuestion::decode(&endless), None);
    }

    #[test]
    fn an_answer_comes_back() {
        assert_eq!(decode_answer(&encode_answer(b"hello")), Some(b"hello".as_slice()));
        assert_eq!(decode_answer(b""), None);
        assert_eq!(decode_answer(b"\x02hello"), None);
    }
}
