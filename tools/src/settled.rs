//! What `larder submit --wait` and `larder answer` share: waiting for a question to be settled, and telling what became of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use larder_serve::v1;
use larder_serve::v1::get_answer_reply::State;
use larder_serve::v1::lane_client::LaneClient;
use larder_serve::v1::settled_question::Outcome;
use serde_json::json;
use tonic::transport::Channel;

use crate::answer_text::{full, to_json};
use crate::client::{Caller, refusal};
use crate::output::{print_json, say};

/// How long one call waits at most; the node may say less.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// What has become of a question, after waiting for it at most `wait`.
pub(crate) async fn fetch(
    lane: &mut LaneClient<Channel>,
    caller: &Caller,
    ticket: &str,
    wait: Duration,
) -> Result<State> {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait_ms = left.min(LONGEST_CALL).as_millis() as u32;
        let request = caller.request(v1::GetAnswerRequest { ticket: ticket.to_owned(), wait_ms })?;
        let reply = lane.get_answer(request).await.map_err(|status| refusal(&status))?.into_inner();
        match reply.state {
            Some(State::Waiting(_)) if !left.is_zero() => {}
            Some(state) => return Ok(state),
            None => bail!("the node's reply has no state; is it a larder node of this version?"),
        }
    }
}

/// Prints it. A question that failed or is unknown fails the command, unless a program reads the JSON.
pub(crate) fn show(ticket: &str, state: &State, as_json: bool) -> Result<()> {
    let outcome = match state {
        State::Settled(settled) => settled.outcome.as_ref(),
        State::Waiting(_) | State::Unknown(_) => None,
    };
    if as_json {
        let (name, submitted, settled) = match state {
            State::Waiting(_) => ("waiting", None, None),
            State::Unknown(_) => ("unknown", None, None),
            State::Settled(settled) => {
                let name = if matches!(outcome, Some(Outcome::Reply(_))) { "answered" } else { "failed" };
                (name, Some(settled.submitted_at_ms), Some(settled.settled_at_ms))
            }
        };
        let mut shown =
            json!({ "ticket": ticket, "state": name, "submitted_at_ms": submitted, "settled_at_ms": settled });
        match outcome {
            Some(Outcome::Reply(reply)) => shown["reply"] = to_json(reply),
            Some(Outcome::Failure(failure)) => {
                shown["failure"] = json!({ "code": failure.code, "message": failure.message });
            }
            None => {}
        }
        return print_json(&shown);
    }
    match (state, outcome) {
        (_, Some(Outcome::Reply(reply))) => say!("{}", full(reply)),
        (_, Some(Outcome::Failure(failure))) => bail!("the question failed: {}", failure.message),
        (State::Waiting(_), None) => say!("{ticket} waits to be answered"),
        _ => bail!(
            "no question of this user has the ticket {ticket}: it was never submitted, or was forgotten, or its answer is too old"
        ),
    }
    Ok(())
}

/// A duration such as 500ms, 30s or 5min, at most a day.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("min", 60_000), ("s", 1_000)];
    let found = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
    let digits = found.filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
    let ms = digits.and_then(|(number, ms)| Some(u64::from(number.parse::<u32>().ok()?) * ms));
    match ms.filter(|ms| *ms <= 86_400_000) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err("must be a whole number of ms, s or min, at most a day, such as 500ms, 30s or 5min".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_milliseconds_seconds_or_minutes() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("86400s", 86_400_000)] {
            assert_eq!(parse_wait(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "s", "30", "-1s", "+1s", "1.5s", "1 s", "5m", "1h", "86401s", "4294967296ms", "é"] {
            assert!(parse_wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_did_not_work_fails_the_command() {
        let settled = |outcome| State::Settled(v1::SettledQuestion { outcome: Some(outcome), ..Default::default() });
        let failure = v1::Failure { message: "too late".to_owned(), ..Default::default() };
        let failed = settled(Outcome::Failure(failure));
        assert_eq!(show("t", &failed, false).unwrap_err().to_string(), "the question failed: too late");
        let unknown = State::Unknown(v1::UnknownTicket {});
        assert!(show("t", &unknown, false).unwrap_err().to_string().contains("has the ticket t"));
        assert!(show("t", &State::Waiting(v1::WaitingQuestion {}), false).is_ok());
        assert!(show("t", &failed, true).is_ok());
    }
}
