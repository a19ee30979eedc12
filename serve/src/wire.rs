//! Where protobuf ends: messages to the node's own types and back. Everything a message may not contain is refused here.

use std::time::{Duration, Instant};

use larder_store::{Status, Tier};
use tonic::metadata::MetadataMap;

use crate::config::NodeSection;
use crate::error::Refusal;
use crate::question::{Answer, Candidate, Provenance, Question, Timings};
use crate::rung::{Rung, Source};
use crate::v1;

/// Longest request_id, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// Taken off a caller's deadline, so that the refusal still reaches the caller before the caller gives up.
const REPLY_MARGIN: Duration = Duration::from_millis(2);

/// A deadline as the call states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallDeadline {
    pub(crate) after: Duration,
    /// The call asked for more than node.max_deadline_ms.
    pub(crate) cut: bool,
}

/// The deadline of a call: its grpc-timeout within the node's limits, or the node's default.
pub(crate) fn deadline(metadata: &MetadataMap, node: &NodeSection) -> Result<CallDeadline, Refusal> {
    let Some(header) = metadata.get("grpc-timeout") else {
        return Ok(CallDeadline { after: node.default_deadline(), cut: false });
    };
    let stated = header.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
        Refusal::Invalid("grpc-timeout must be 1 to 8 digits and a unit of H, M, S, m, u or n".to_owned())
    })?;
    let limit = node.max_deadline();
    Ok(CallDeadline { after: stated.min(limit).saturating_sub(REPLY_MARGIN), cut: stated > limit })
}

fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// A question from its message, arrived now.
pub(crate) fn question(
    message: v1::AnswerRequest,
    deadline: CallDeadline,
    node: &NodeSection,
) -> Result<Question, Refusal> {
    let v1::AnswerRequest { text, request_id } = message;
    if request_id.len() > MAX_REQUEST_ID_BYTES {
        let length = request_id.len();
        return Err(Refusal::Invalid(format!(
            "request_id has {length} bytes; at most {MAX_REQUEST_ID_BYTES} are allowed"
        )));
    }
    // Characters are counted only where bytes leave a doubt.
    if text.len() > node.max_text_chars && text.chars().count() > node.max_text_chars {
        return Err(Refusal::Invalid(format!(
            "text has {} characters; at most {} are allowed (node.max_text_chars)",
            text.chars().count(),
            node.max_text_chars
        )));
    }
    if text.trim().is_empty() {
        return Err(Refusal::Invalid("text is empty; send the question as the customer wrote it".to_owned()));
    }
    let cut = || format!("the deadline was cut to {} ms (node.max_deadline_ms)", node.max_deadline_ms);
    let notes = if deadline.cut { vec![cut()] } else { Vec::new() };
    Ok(Question { text, request_id, deadline: Instant::now() + deadline.after, notes })
}

/// The message of an answer.
pub(crate) fn reply(answer: Answer) -> v1::AnswerReply {
    v1::AnswerReply {
        request_id: answer.request_id,
        answer: answer.text,
        intent: answer.intent,
        confidence: answer.confidence,
        handed_over: answer.handed_over,
        candidates: answer.candidates.into_iter().map(candidate).collect(),
        rung: source(answer.choice.source).into(),
        rung_reason: answer.choice.why.text().to_owned(),
        views: answer.views.into_iter().map(provenance).collect(),
        notes: answer.notes,
        timings: Some(timings(&answer.timings)),
        batch: Some(v1::BatchInfo {
            size: count(answer.batch.size),
            id: answer.batch.id,
            closed_by: answer.batch.closed_by.label().to_owned(),
        }),
        answer_id: answer.id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// A refusal inside a stream, where it must not end the stream.
pub(crate) fn failure(request_id: String, refusal: &Refusal) -> v1::AnswerStreamReply {
    let retry_after = refusal.retry_after().map_or(0, |retry| u32::try_from(retry.as_millis()).unwrap_or(u32::MAX));
    let failure = v1::Failure {
        request_id,
        code: refusal.code().0 as i32,
        message: refusal.to_string(),
        retry_after_ms: retry_after,
    };
    v1::AnswerStreamReply { outcome: Some(v1::answer_stream_reply::Outcome::Failure(failure)) }
}

/// An answer inside a stream.
pub(crate) fn stream_reply(answer: Answer) -> v1::AnswerStreamReply {
    v1::AnswerStreamReply { outcome: Some(v1::answer_stream_reply::Outcome::Reply(reply(answer))) }
}

pub(crate) fn rung(rung: Rung) -> v1::Rung {
    match rung {
        Rung::Full => v1::Rung::Full,
        Rung::Light => v1::Rung::Light,
    }
}

fn source(source: Source) -> v1::Rung {
    match source {
        Source::Model(model) => rung(model),
        Source::Cached(_) => v1::Rung::Cached,
        Source::Fallback => v1::Rung::Fallback,
    }
}

pub(crate) fn status(status: Status) -> v1::Status {
    match status {
        Status::Present => v1::Status::Present,
        Status::Null => v1::Status::Null,
        Status::NotFound => v1::Status::NotFound,
        Status::Expired => v1::Status::Expired,
        Status::Erased => v1::Status::Erased,
        Status::NotInTime => v1::Status::NotInTime,
    }
}

pub(crate) fn tier(tier: Tier) -> v1::Tier {
    match tier {
        Tier::None => v1::Tier::None,
        Tier::Hot => v1::Tier::Hot,
        Tier::Warm => v1::Tier::Warm,
        Tier::Cold => v1::Tier::Cold,
    }
}

/// Counts in messages are u32; more than that never fits in memory.
pub(crate) fn count(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn candidate(candidate: Candidate) -> v1::Candidate {
    v1::Candidate { intent: candidate.intent, title: candidate.title, probability: candidate.probability }
}

fn provenance(view: Provenance) -> v1::ViewProvenance {
    v1::ViewProvenance {
        view: view.view,
        status: status(view.status).into(),
        tier: tier(view.tier).into(),
        event_time_ms: view.event_time_ms,
        age_ms: view.age_ms,
        generation: view.generation,
    }
}

fn timings(timings: &Timings) -> v1::Timings {
    let us = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    v1::Timings {
        queue_us: us(timings.queue),
        tokenize_us: us(timings.tokenize),
        fetch_us: us(timings.fetch),
        ready_us: us(timings.ready),
        score_us: us(timings.score),
        render_us: us(timings.render),
        total_us: us(timings.total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_read_as_the_grpc_specification_says() {
        assert_eq!(parse_timeout("300m"), Some(Duration::from_millis(300)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse_timeout("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "m", "300", "-1m", "1.5S", "123456789m", "5x", "5é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    fn with_timeout(header: &str) -> Result<CallDeadline, Refusal> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        deadline(&metadata, &NodeSection::default())
    }

    #[test]
    fn a_deadline_keeps_a_margin_and_the_nodes_limits() {
        assert_eq!(with_timeout("300m"), Ok(CallDeadline { after: Duration::from_millis(298), cut: false }));
        assert_eq!(with_timeout("99999999H"), Ok(CallDeadline { after: Duration::from_millis(29_998), cut: true }));
        assert_eq!(with_timeout("1n"), Ok(CallDeadline { after: Duration::ZERO, cut: false }));
        assert!(matches!(with_timeout("soon"), Err(Refusal::Invalid(_))));
        let without = deadline(&MetadataMap::new(), &NodeSection::default());
        assert_eq!(without, Ok(CallDeadline { after: Duration::from_millis(300), cut: false }));
    }

    fn check(text: &str) -> Result<Question, Refusal> {
        let message = v1::AnswerRequest { text: text.to_owned(), request_id: String::new() };
        question(message, CallDeadline { after: Duration::from_millis(1), cut: false }, &NodeSection::default())
    }

    #[test]
    fn texts_are_counted_in_characters() {
        assert!(check(&"é".repeat(2_000)).is_ok());
        let refusal = check(&"é".repeat(2_001)).unwrap_err();
        assert!(refusal.to_string().contains("2001 characters; at most 2000"), "{refusal}");
        assert!(matches!(check(" \n\t"), Err(Refusal::Invalid(_))));
    }
}
