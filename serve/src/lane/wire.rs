//! The lane's messages: a settled question as it is kept on disk and sent. Here its protobuf begins and ends.

use prost::Message;

use crate::error::Refusal;
use crate::lane::record::{decode_answer, encode_answer};
use crate::lane::ticket::Ticket;
use crate::question::Answer;
use crate::v1;
use crate::v1::settled_question::Outcome;
use crate::wire;

/// When a question came and when it was settled, Unix milliseconds UTC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) submitted_ms: i64,
    pub(crate) settled_ms: i64,
}

/// The bytes to keep of a question that was answered.
pub(crate) fn answered(ticket: Ticket, times: Times, answer: Answer) -> Vec<u8> {
    encode(ticket, times, Outcome::Reply(wire::reply(answer)))
}

/// The bytes to keep of a question that failed for good.
pub(crate) fn failed(ticket: Ticket, times: Times, request_id: String, refusal: &Refusal) -> Vec<u8> {
    let failure =
        v1::Failure { request_id, code: refusal.code().0 as i32, message: refusal.to_string(), retry_after_ms: 0 };
    encode(ticket, times, Outcome::Failure(failure))
}

fn encode(ticket: Ticket, Times { submitted_ms, settled_ms }: Times, outcome: Outcome) -> Vec<u8> {
    let (submitted_at_ms, settled_at_ms) = (submitted_ms, settled_ms);
    let ticket = ticket.to_string();
    let settled = v1::SettledQuestion { ticket, submitted_at_ms, settled_at_ms, outcome: Some(outcome) };
    encode_answer(&settled.encode_to_vec())
}

/// The message of kept bytes.
pub(crate) fn settled(bytes: &[u8]) -> Result<v1::SettledQuestion, Refusal> {
    let message = decode_answer(bytes).and_then(|message| v1::SettledQuestion::decode(message).ok());
    message.ok_or_else(|| Refusal::Internal("a stored answer cannot be read by this program".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_comes_back_from_its_bytes_and_others_are_refused() {
        let times = Times { submitted_ms: 5, settled_ms: 7 };
        let bytes = failed(Ticket(9), times, "mail-1".to_owned(), &Refusal::Invalid("no".to_owned()));
        let read = settled(&bytes).unwrap();
        assert_eq!((read.ticket, read.submitted_at_ms, read.settled_at_ms), (Ticket(9).to_string(), 5, 7));
        let Some(Outcome::Failure(failure)) = read.outcome else { panic!("it failed") };
        assert_eq!((failure.code, failure.message.as_str(), failure.request_id.as_str()), (3, "no", "mail-1"));
        assert!(settled(b"").is_err() && settled(b"\x07").is_err());
        assert!(settled(&bytes[..bytes.len() - 1]).is_err());
    }
}
