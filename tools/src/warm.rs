//! `larder warm`: has a running node read the rows of entities that will be asked for, so that the first who ask do not wait for a disk.
//!
//! It goes slowly on purpose: the node answers customers meanwhile. And it stops where going on would do harm: when the hot tier is full, each
//! further row pushes out one that was asked for.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::{NodeConfig, v1};
use serde::Serialize;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::client::refusal;
use crate::destination::{Destination, tenant_id};
use crate::erase::parts;
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, bytes, count};
use crate::warm_keys::{Keys, MAX_KEYS, Selection, read_keys};

/// Calls a second, so that each is small and the node's readers are free in between.
const CALLS_PER_S: u64 = 10;
/// From this share on the hot tier counts as full: its parts do not fill up evenly.
const FULL: f64 = 0.98;
/// How long a node may go on refusing a call because others read.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "FILE is a hot-set file (as a stopped node leaves it in its store's folder, or Admin ExportHotSet writes it), a list of keys, one \
per line, a log with the key in a --field of each line, or a CSV or Parquet file with the keys in a --column. Keys that come more often \
in a list or a log go first. The node at the config's listen address is asked; Ctrl-C stops it, and what is hot by then stays hot.

Examples:
  larder warm --tenant demo keys.txt
  larder warm --tenant demo --field 7 access.log
  larder warm --tenant demo --column user_id --top 10000 --by orders_90d users.parquet
  larder warm --tenant demo --rate 20000 --json data/store/hot-set"
)]
pub(crate) struct Arguments {
    /// Where the keys are
    file: PathBuf,
    /// Whose entities they are
    #[arg(long)]
    tenant: String,
    /// The feature service whose views are read [default: that of the tenant]
    #[arg(long)]
    service: Option<String>,
    /// The column of a CSV or Parquet file that has the keys
    #[arg(long, conflicts_with = "field")]
    column: Option<String>,
    /// The field of a log's lines that has the keys, from 1, separated by white space
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    field: Option<u16>,
    /// Only so many entities, those with the greatest values in the column of --by
    #[arg(long, value_name = "N", requires_all = ["by", "column"], value_parser = clap::value_parser!(u32).range(1..=MAX_KEYS as i64))]
    top: Option<u32>,
    /// The column to go by: a number or a time
    #[arg(long, value_name = "COLUMN", requires = "top")]
    by: Option<String>,
    /// Entities a second; 0 = as fast as the node reads
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    rate: u64,
    /// Go on when the hot tier is full, and push out what was used least recently
    #[arg(long)]
    even_if_full: bool,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    tenant: String,
    service: String,
    /// Entities that the file names and that are this node's.
    named: u64,
    /// Entities of other shards, which are left to their nodes.
    elsewhere: u64,
    /// Lines or rows without a key.
    unusable: u64,
    /// Entities that the node was told of.
    asked: u64,
    /// Of these, entities that a view knows something of.
    found: u64,
    already_hot: u64,
    /// Of those asked, entities of which all is hot at the end.
    hot: u64,
    /// That share.
    coverage: f64,
    hot_tier: HotTier,
    stopped: Option<Stopped>,
    seconds: f64,
}

/// What the node's hot tier holds at the end; one of the two limits is there.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct HotTier {
    entries: u64,
    limit_entries: Option<u64>,
    bytes: u64,
    limit_bytes: Option<u64>,
}

/// Why it ended before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stopped {
    HotTierFull,
    Interrupted,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let tenant = tenant_id(&config, &arguments.tenant)?;
    let selection = Selection {
        column: arguments.column.clone(),
        field: arguments.field.map(usize::from),
        top: arguments.top.map(|most| most as usize).zip(arguments.by.clone()),
    };
    let destination = Destination::running(&config)?;
    let shown = destination.to_string();
    let Destination::Node { admin, runtime, .. } = destination else { bail!("{shown} is no running node") };
    let Keys { mut keys, unusable } = read_keys(&arguments.file, tenant, &selection)?;
    let all = keys.len();
    keys.retain(|key| config.node.shard.holds(key));
    if keys.is_empty() {
        bail!("all {all} entities of {} belong to other shards than {}", arguments.file.display(), config.node.shard);
    }
    let service =
        arguments.service.clone().or_else(|| config.tenant(&arguments.tenant).map(|tenant| tenant.service.clone()));
    let most = match arguments.rate {
        0 => config.node.max_entities,
        rate => config.node.max_entities.min((rate / CALLS_PER_S).max(1) as usize),
    };
    let mut warming = Warming {
        admin: *admin,
        rate: arguments.rate,
        even_if_full: arguments.even_if_full,
        parts: parts(&keys, most, config.node.max_message_bytes),
        outcome: Outcome {
            tenant: arguments.tenant.clone(),
            service: service.unwrap_or_default(),
            named: keys.len() as u64,
            elsewhere: (all - keys.len()) as u64,
            unusable,
            ..Outcome::default()
        },
    };
    runtime.block_on(warming.run())?;
    let outcome = warming.outcome;
    if arguments.json {
        print_json(&outcome)?;
    } else {
        say!("{}", outcome.sentences(&shown));
    }
    match outcome.stopped {
        Some(Stopped::Interrupted) => {
            bail!("stopped by Ctrl-C; what is hot stays hot, and the same command goes on where it pays")
        }
        _ => Ok(()),
    }
}

/// A run: the calls that it makes, and what came of them so far.
struct Warming<'a> {
    admin: AdminClient<Channel>,
    rate: u64,
    even_if_full: bool,
    parts: Vec<&'a [String]>,
    outcome: Outcome,
}

impl Warming<'_> {
    async fn run(&mut self) -> Result<()> {
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

/// What a reply says of the hot tier.
fn hot_tier(reply: &v1::WarmReply) -> HotTier {
    HotTier {
        entries: reply.hot_tier_entries,
        limit_entries: reply.hot_tier_limit_entries,
        bytes: reply.hot_tier_bytes,
        limit_bytes: reply.hot_tier_limit_bytes,
    }
}

impl HotTier {
    fn share(self) -> f64 {
        let share = |held: u64, limit: u64| if limit == 0 { 1.0 } else { held as f64 / limit as f64 };
        match (self.limit_entries, self.limit_bytes) {
            (Some(limit), _) => share(self.entries, limit),
            (None, Some(limit)) => share(self.bytes, limit),
            (None, None) => 0.0,
        }
    }

    /// "3.2 MiB of 256 MiB"
    fn words(self) -> String {
        match (self.limit_entries, self.limit_bytes) {
            (Some(limit), _) => format!("{} of {} rows", count(self.entries), count(limit)),
            (None, Some(limit)) => format!("{} of {}", bytes(self.bytes), bytes(limit)),
            (None, None) => bytes(self.bytes),
        }
    }
}

impl Outcome {
    /// The same for a person.
    fn sentences(&self, destination: &str) -> String {
        let Outcome { tenant, named, elsewhere, unusable, asked, found, already_hot, .. } = self;
        let mut text = format!(
            "Asked {destination} for {} of {} entities of {tenant}: {} found, {} hot before.\n\
             Coverage: {:.1} % of those asked for are hot. The hot tier holds {}.",
            count(*asked),
            count(*named),
            count(*found),
            count(*already_hot),
            100.0 * self.coverage,
            self.hot_tier.words(),
        );
        if *elsewhere > 0 {
            text += &format!("\nLeft to other shards' nodes: {} entities.", count(*elsewhere));
        }
        if *unusable > 0 {
            text += &format!("\nLines or rows without a key: {}.", count(*unusable));
        }
        if self.stopped == Some(Stopped::HotTierFull) {
            text += "\nStopped: the hot tier is full, and each further row pushes out another one. Give it more room \
                     (store.hot_capacity_mib), or go on with --even-if-full.";
        }
        text
    }
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

    #[test]
    fn the_outcome_is_told_in_sentences() {
        let hot_tier = HotTier { entries: 10, bytes: 1 << 20, limit_bytes: Some(2 << 20), limit_entries: None };
        let outcome = Outcome {
            tenant: "demo".to_owned(),
            named: 3_000,
            asked: 1_000,
            found: 999,
            coverage: 0.5,
            hot_tier,
            stopped: Some(Stopped::HotTierFull),
            ..Outcome::default()
        };
        let said = outcome.sentences("the node");
        let begins = "Asked the node for 1,000 of 3,000 entities of demo: 999 found, 0 hot before.\n\
                      Coverage: 50.0 % of those asked for are hot. The hot tier holds 1.00 MiB of 2.00 MiB.\nStopped: the hot tier is full";
        assert!(said.starts_with(begins), "{said}");
        assert!((hot_tier.share() - 0.5).abs() < 1e-9);
        let counted = HotTier { entries: 10, limit_entries: Some(20), ..HotTier::default() };
        assert_eq!((counted.words(), counted.share()), ("10 of 20 rows".to_owned(), 0.5));
    }
}
