//! What became of one question: told from the reply or the status that came back, by nothing else.

use std::borrow::Cow;

use larder_serve::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Rungs whose answers come from a model.
const MODEL_RUNGS: [&str; 2] = ["full", "light"];

/// The end of a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Answered {
        rung: Cow<'static, str>,
        handed_over: bool,
        /// False also where the right answer is not known.
        correct: bool,
    },
    /// By the node, at once or later, with its reason.
    Refused(Cow<'static, str>),
    /// Its time ran out: on the node's clock or on the caller's.
    Expired,
    /// Neither answered nor refused: the connection broke, or the node has a fault.
    Failed {
        kind: Cow<'static, str>,
        /// What was said about it.
        message: String,
    },
    /// The load's own limit on questions in flight kept it back.
    NotSent,
}

impl Outcome {
    /// The end that a reply stands for.
    pub(crate) fn of_reply(reply: &v1::AnswerReply, correct: bool) -> Outcome {
        Outcome::Answered { rung: rung_name(reply.rung), handed_over: reply.handed_over, correct }
    }

    /// The end that a status stands for: the reason in google.rpc.ErrorInfo, failing that the code.
    pub(crate) fn of_status(status: &Status) -> Outcome {
        let reason = if status.details().is_empty() {
            String::new()
        } else {
            status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
        };
        let failed = |kind: Cow<'static, str>| Outcome::Failed { kind, message: told(status) };
        match (reason.as_str(), status.code()) {
            ("expired", _) => Outcome::Expired,
            ("internal", _) => failed(Cow::Borrowed("internal")),
            // The caller's own timer ended the call.
            ("", Code::Cancelled | Code::DeadlineExceeded) => Outcome::Expired,
            ("", _) if std::error::Error::source(status).is_some() => failed(Cow::Borrowed("connection")),
            ("", Code::Unavailable) => failed(Cow::Borrowed("connection")),
            ("", code) => failed(Cow::Owned(snake_case(&format!("{code:?}")))),
            _ => Outcome::Refused(Cow::Owned(reason)),
        }
    }
}

/// A status in words, with the last cause below it, which says most.
fn told(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    while let Some(below) = cause.and_then(std::error::Error::source) {
        cause = Some(below);
    }
    match cause.map(ToString::to_string) {
        Some(cause) if cause != status.message() => format!("{}: {cause}", status.message()),
        _ => status.message().to_owned(),
    }
}

/// Whether an answer of that rung comes from a model.
pub(crate) fn is_model_rung(rung: &str) -> bool {
    MODEL_RUNGS.contains(&rung)
}

/// A rung's name in the protocol, in lower case: whatever rungs there will be, they are told apart.
fn rung_name(rung: i32) -> Cow<'static, str> {
    match v1::Rung::try_from(rung) {
        Ok(v1::Rung::Full) => Cow::Borrowed("full"),
        Ok(v1::Rung::Light) => Cow::Borrowed("light"),
        Ok(known) => {
            let name = known.as_str_name();
            Cow::Owned(name.strip_prefix("RUNG_").unwrap_or(name).to_lowercase())
        }
        Err(_) => Cow::Owned(format!("rung_{rung}")),
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder_serve::Refusal;

    use super::*;

    fn failed(kind: &'static str, message: &str) -> Outcome {
        Outcome::Failed { kind: kind.into(), message: message.to_owned() }
    }

    fn refused(refusal: Refusal) -> Outcome {
        Outcome::of_status(&Status::from(refusal))
    }

    #[test]
    fn refusals_go_by_the_reason_the_node_gives() {
        let retry_after = Duration::from_millis(20);
        assert_eq!(refused(Refusal::QueueFull { retry_after }), Outcome::Refused("queue_full".into()));
        assert_eq!(
            refused(Refusal::Unavailable { state: "draining", retry_after }),
            Outcome::Refused("draining".into())
        );
        assert_eq!(refused(Refusal::Expired { retry_after }), Outcome::Expired);
        assert_eq!(refused(Refusal::Internal("x".to_owned())), failed("internal", "internal error: x"));
    }

    #[test]
    fn statuses_without_a_reason_are_the_callers_timer_or_a_failure() {
        for (status, outcome) in [
            (Status::cancelled("Timeout expired"), Outcome::Expired),
            (Status::deadline_exceeded(""), Outcome::Expired),
            (Status::unavailable("connection refused"), failed("connection", "connection refused")),
            (Status::resource_exhausted(""), failed("resource_exhausted", "")),
            (Status::unimplemented(""), failed("unimplemented", "")),
        ] {
            assert_eq!(Outcome::of_status(&status), outcome, "{status:?}");
        }
    }

    #[test]
    fn rungs_are_told_apart_whatever_they_are() {
        let rung = |rung| match Outcome::of_reply(&v1::AnswerReply { rung, ..Default::default() }, false) {
            Outcome::Answered { rung, .. } => rung,
            other => panic!("{other:?}"),
        };
        assert_eq!(rung(v1::Rung::Full as i32), "full");
        assert_eq!(rung(v1::Rung::Light as i32), "light");
        assert_eq!(rung(v1::Rung::Unspecified as i32), "unspecified");
        assert_eq!(rung(77), "rung_77");
        assert!(is_model_rung("light") && !is_model_rung("fallback"));
    }
}
