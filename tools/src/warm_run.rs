//! The calls of a run of `larder warm`: part after part at the rate that was asked for, until all is read, the hot tier is full, or somebody stops it.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use larder_serve::v1;
use larder_serve::v1::admin_client::AdminClient;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::client::refusal;
use crate::progress::{Stage, Unit};
use crate::warm_outcome::{Outcome, Stopped, hot_tier};

/// From this share on the hot tier counts as full: its parts do not fill up evenly.
const FULL: f64 = 0.98;
/// How long a node may go on refusing a call because others read.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

/// A run: the calls that it makes, and what came of them so far.
pub(crate) struct Warming<'a> {
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) rate: u64,
    pub(crate) even_if_full: bool,
    pub(crate) parts: Vec<&'a [String]>,
    pub(crate) outcome: Outcome,
}

impl Warming<'_> {
    /// Reads all parts, and looks how much of them is hot at the end.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let (started, mut interrupted) = (Instant::now(), pin!(tokio::signal::ctrl_c()));
        let stage = Stage::start("warm", Unit::Items);
        let parts = std::mem::take(&mut self.parts);
        let mut filled = match parts.first() {
            Some(first) => hot_tier(&self.call(&first[..1], true).await?).share(),
            None => return Ok(()),
        };
        let mut done = 0;
        for part in &parts {
            let due = started + due(self.outcome.asked, self.rate);
            tokio::select! {
                biased;
                _ = &mut interrupted => {
                    self.outcome.stopped = Some(Stopped::Interrupted);
                    break;
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
            let reply = self.call(part, false).await.with_context(|| {
                format!("only the first {} of {} entities were warmed", self.outcome.asked, self.outcome.named)
            })?;
            self.outcome.asked += u64::from(reply.entities);
            self.outcome.found += u64::from(reply.found);
            self.outcome.already_hot += u64::from(reply.already_hot);
            done += 1;
            stage.set(self.outcome.asked, self.outcome.named);
            let read = reply.already_hot < reply.entities;
            if !self.even_if_full && done < parts.len() && read && is_full(filled, hot_tier(&reply).share()) {
                self.outcome.stopped = Some(Stopped::HotTierFull);
                break;
            }
            filled = hot_tier(&reply).share();
        }
        stage.rename("coverage");
        for part in &parts[..done] {
            let reply = self.call(part, true).await?;
            self.outcome.hot += u64::from(reply.hot);
            self.outcome.hot_tier = hot_tier(&reply);
        }
        self.outcome.coverage = self.outcome.hot as f64 / self.outcome.asked.max(1) as f64;
        self.outcome.seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// One call; waits while the node is busy with other readers.
    async fn call(&mut self, entities: &[String], look_only: bool) -> Result<v1::WarmReply> {
        let until = Instant::now() + BUSY_PATIENCE;
        loop {
            let request = v1::WarmRequest {
                tenant: self.outcome.tenant.clone(),
                service: self.outcome.service.clone(),
                entities: entities.to_vec(),
                look_only,
            };
            let status = match self.admin.warm(request).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => status,
            };
            let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
            match retry.filter(|_| status.code() == Code::ResourceExhausted && Instant::now() < until) {
                Some(retry) => tokio::time::sleep(retry).await,
                None => return Err(refusal(&status)),
            }
        }
    }
}

/// When the next call is due, counted from the start, after so many entities.
fn due(asked: u64, rate: u64) -> Duration {
    if rate == 0 { Duration::ZERO } else { Duration::from_secs_f64(asked as f64 / rate as f64) }
}

/// Whether another call like the last one would push something out: shares of the hot tier before and after that.
fn is_full(before: f64, after: f64) -> bool {
    after >= FULL || after + (after - before).max(0.0) > 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_the_rate() {
        assert_eq!(due(0, 5_000), Duration::ZERO);
        assert_eq!(due(12_500, 5_000), Duration::from_millis(2_500));
        assert_eq!(due(12_500, 0), Duration::ZERO);
    }

    #[test]
    fn a_tier_is_full_when_the_next_part_does_not_fit() {
        for (before, after, full) in [
            (0.0, 0.1, false),
            (0.4, 0.69, false),
            (0.4, 0.75, true),
            (0.97, 0.98, true),
            (0.9, 0.9, false),
            (0.95, 0.9, false),
        ] {
            assert_eq!(is_full(before, after), full, "{before} to {after}");
        }
    }
}
