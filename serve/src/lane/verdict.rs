//! What a refusal means for a question of the lane, where nobody is there to try again: a pure function.
//!
//! Judged by the status code, so that a new reason to refuse needs nothing here. The node's being busy is never an outcome: the question
//! goes back and comes again.

use std::time::Duration;

use tonic::Code;

use crate::error::Refusal;
use crate::lane::order::Waiting;

/// The least and the longest time until a question is tried again.
const LEAST_DELAY: Duration = Duration::from_millis(50);
const MOST_DELAY: Duration = Duration::from_secs(60);
/// The longest time for which one refusal holds up all of them.
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// Before the second attempt after an internal error; doubled for each further one.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same question would fail again.
    Failed,
    Again {
        /// Until this question is tried again.
        delay: Duration,
        /// How long no other question is tried either: the node has no room for any.
        pause: Duration,
    },
}

/// Judges a refusal, and counts it in the question.
pub(crate) fn judge(refusal: &Refusal, waiting: &mut Waiting, max_attempts: u32) -> Verdict {
    match refusal.code().0 {
        Code::InvalidArgument | Code::PermissionDenied | Code::NotFound => Verdict::Failed,
        Code::Internal => {
            waiting.attempts += 1;
            if waiting.attempts >= max_attempts {
                return Verdict::Failed;
            }
            Verdict::Again { delay: doubled(RETRY, waiting.attempts - 1), pause: Duration::ZERO }
        }
        code => {
            let hint = refusal.retry_after().unwrap_or(LEAST_DELAY).max(LEAST_DELAY);
            let delay = doubled(hint, waiting.put_backs);
            waiting.put_backs = waiting.put_backs.saturating_add(1);
            let no_room = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            Verdict::Again { delay, pause: if no_room { hint.min(MOST_PAUSE) } else { Duration::ZERO } }
        }
    }
}

fn doubled(delay: Duration, times: u32) -> Duration {
    delay.saturating_mul(1 << times.min(16)).min(MOST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::ticket::Ticket;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn waiting() -> Waiting {
        Waiting::new(Ticket(1), "ada".into(), 0, 0)
    }

    #[test]
    fn what_would_fail_again_fails_at_once() {
        let tenant = Refusal::UnknownTenant(String::new());
        for refusal in [Refusal::Invalid(String::new()), Refusal::NotFound(String::new()), tenant] {
            assert_eq!(judge(&refusal, &mut waiting(), 5), Verdict::Failed, "{refusal:?}");
        }
    }

    #[test]
    fn internal_errors_are_counted_and_the_last_one_is_final() {
        let mut waiting = waiting();
        let refusal = Refusal::Internal(String::new());
        let again = |ms| Verdict::Again { delay: MS(ms), pause: Duration::ZERO };
        assert_eq!(judge(&refusal, &mut waiting, 3), again(1_000));
        assert_eq!(judge(&refusal, &mut waiting, 3), again(2_000));
        assert_eq!(judge(&refusal, &mut waiting, 3), Verdict::Failed);
    }

    #[test]
    fn a_busy_node_is_never_an_outcome() {
        let mut waiting = waiting();
        let full = Refusal::QueueFull { retry_after: MS(200) };
        let mut delays = Vec::new();
        for _ in 0..100 {
            let Verdict::Again { delay, pause } = judge(&full, &mut waiting, 1) else { panic!("it failed") };
            assert_eq!(pause, MS(200));
            delays.push(delay);
        }
        assert_eq!((delays[0], delays[1], delays[99]), (MS(200), MS(400), MOST_DELAY));
        let late = Refusal::Expired { retry_after: MS(10) };
        let again = Verdict::Again { delay: LEAST_DELAY, pause: Duration::ZERO };
        assert_eq!(judge(&late, &mut self::waiting(), 1), again, "others may still fit");
        let stopping = Refusal::Unavailable { state: "draining", retry_after: MS(60_000) };
        let again = Verdict::Again { delay: MOST_DELAY, pause: MOST_PAUSE };
        assert_eq!(judge(&stopping, &mut self::waiting(), 1), again);
    }
}
