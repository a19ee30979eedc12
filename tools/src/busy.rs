//! Waiting for one's turn: a node changes its store in one way at a time, and who comes meanwhile is told to come back.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use larder_serve::Refusal;
use tonic::Status;
use tonic_types::StatusExt;

use crate::client::refusal;
use crate::output;

/// When to ask again a node that does not say when.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// Calls until the node is not busy with another change of its store, for as long as `patience` at most, and says so once it waits.
pub(crate) async fn in_turn<T, Call>(patience: Duration, mut call: impl FnMut() -> Call) -> Result<T>
where
    Call: Future<Output = Result<T, Status>>,
{
    let began = Instant::now();
    let mut told = false;
    loop {
        let status = match call().await {
            Ok(reply) => return Ok(reply),
            Err(status) => status,
        };
        let Some(retry_after) = busy(&status) else { return Err(refusal(&status)) };
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            let waited = shown(patience);
            return Err(anyhow!(
                "the node has been busy with other changes of its store for {waited} (a publish, a placement, a \
                 compaction, a checkpoint): try again when they are done, or wait longer (--wait)"
            ));
        }
        if !told {
            eprintln!("the node is busy with another change of its store: waiting for up to {}", shown(patience));
            told = true;
        }
        tokio::time::sleep(retry_after.min(left)).await;
    }
}

/// When to come back, if that is what the node says.
fn busy(status: &Status) -> Option<Duration> {
    let full = Refusal::QueueFull { retry_after: DEFAULT_RETRY };
    let details = status.get_error_details();
    details.error_info().filter(|info| info.reason == full.code().1)?;
    Some(details.retry_info().and_then(|info| info.retry_delay).unwrap_or(DEFAULT_RETRY))
}

fn shown(duration: Duration) -> String {
    output::duration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::client::block_on;

    /// Asks a node that is busy for so many calls.
    fn asked(busy_for: u32, patience: Duration, refusal: &Refusal) -> (u32, Result<u32>) {
        let calls = Cell::new(0);
        let call = || {
            calls.set(calls.get() + 1);
            let reply = if calls.get() > busy_for { Ok(7) } else { Err(Status::from(refusal.clone())) };
            async move { reply }
        };
        let outcome = block_on(in_turn(patience, call)).unwrap();
        (calls.get(), outcome)
    }

    #[test]
    fn a_busy_node_is_asked_again_and_any_other_refusal_ends_it() {
        let busy = Refusal::QueueFull { retry_after: Duration::from_millis(1) };
        let patience = Duration::from_secs(3_600);
        let (calls, reply) = asked(3, patience, &busy);
        assert_eq!((calls, reply.unwrap()), (4, 7));
        let (calls, reply) = asked(3, Duration::ZERO, &busy);
        let message = reply.unwrap_err().to_string();
        assert!(calls == 1 && message.contains("busy with other changes") && message.contains("--wait"), "{message}");
        let (calls, reply) = asked(3, patience, &Refusal::Invalid("it is wrong".to_owned()));
        assert!(calls == 1 && reply.unwrap_err().to_string().contains("it is wrong"));
    }
}
