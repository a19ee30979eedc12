//! `larder ingest`: Parquet files into generations, and generations into the store.
//!
//! `build` needs no store and no node, so it can run anywhere and as long as it likes; `publish` takes a moment. `load`
//! is both, for the common case.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use larder_ingest::{BuildLimits, ColdRule, Location};
use larder_serve::NodeConfig;
use larder_store::Shard;

use crate::cold_arguments::ColdArguments;
use crate::delta_arguments::DeltaArguments;
use crate::destination::Destination;
use crate::generation_number;
use crate::ingest_load::{Snapshot, build, load};
use crate::live::cold;
use crate::output::{moment, print_json, say, table};
use crate::progress::{bytes, count};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check, sort and pack Parquet files into a generation: a folder that can be published
    #[command(after_help = "Examples:
  larder ingest build --config larder.toml --tenant demo --view orders --out built/orders orders.parquet
  larder ingest build --config larder.toml --tenant demo --view orders --out built/orders /snapshots/orders/
  larder ingest build --tenant demo --view orders --shard 0/4 --out built/orders-0 orders.parquet
  larder ingest build --tenant demo --view orders --out built/orders --spill /fast-disk s3://bucket/orders/
  larder ingest build --tenant demo --view orders --out built/orders --max-rejected-rows 100 --rejects bad.jsonl orders/
  larder ingest build --tenant demo --view orders --cold-after 90d --active data/store/hot-set --out built/orders orders.parquet
  larder ingest build --tenant demo --view orders --since 2026-11-19T00:00:00Z --out built/today changed.parquet --deletes gone.parquet")]
    Build(Build),
    /// Make a built generation live, or the live one with a delta snapshot's changes; the one before is kept for rollback
    #[command(
        after_help = "The node at the config's listen address is asked to link the folder's files; when none answers, the
store's folder is opened directly. Either way the files are linked
into the store (copied, where it is on another disk): never change them in place; DIR may be deleted.

Examples:
  larder ingest publish built/orders --config larder.toml"
    )]
    Publish(Publish),
    /// Build and publish in one go
    #[command(after_help = "Examples:
  larder ingest load --config larder.toml --tenant demo --view orders orders.parquet
  larder ingest load --tenant demo --view orders --cold-after 90d --active data/store/hot-set orders.parquet")]
    Load(Load),
    /// List what is live and what is kept for rollback
    #[command(after_help = "Examples:
  larder ingest list
  larder ingest list --config data/demo/larder.toml --json")]
    List(List),
    /// Make the previous generation of a view live again
    #[command(after_help = "Examples:
  larder ingest rollback --tenant demo --view orders")]
    Rollback(Rollback),
    /// Delete the generation that is kept for rollback, to have its room on the disk
    #[command(
        after_help = "Nothing is left then that a rollback could bring back. The live generation cannot be dropped.

Examples:
  larder ingest list
  larder ingest drop --tenant demo --view orders --generation 1763596800"
    )]
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose rows these are
    #[arg(long)]
    tenant: String,
    /// Which view they fill
    #[arg(long)]
    view: String,
    /// The moment whose state the files show, RFC 3339 [default: the time the build starts]
    #[arg(long)]
    as_of: Option<DateTime<Utc>>,
    /// Leave out up to this many rows without an entity key or event time, instead of refusing the files
    #[arg(long, default_value_t = 0)]
    max_rejected_rows: u64,
    /// Write up to 1,000 of the rows left out to this file, as JSON lines: file, row, column, reason, key
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Memory for reading, sorting and merging, in MiB: rows that are not sorted by key and do not fit are set aside on disk
    #[arg(long, default_value_t = BuildLimits::default().max_memory_mib, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    max_memory_mib: u64,
    /// Keep only the rows of this shard of the users, i/n, and leave the others to other nodes [default: the config's node.shard]
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Threads that read and sort [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Folder on the disk where rows that do not fit into memory are set aside [default: beside the generation]
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Start anew, even where a build that was killed has left sorted rows of the same files
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    cold: ColdArguments,
    #[command(flatten)]
    delta: DeltaArguments,
    /// Parquet files, folders of them at any depth, or URLs of either: s3, gs, az, abfs, http, https, file (credentials: AWS_*, GOOGLE_*, AZURE_*)
    #[arg(required_unless_present = "deletes", value_parser = Location::parse)]
    parquet: Vec<Location>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Source {
    fn snapshot<'a>(&'a self, config: &'a NodeConfig, cold: Option<&'a ColdRule>) -> Snapshot<'a> {
        Snapshot {
            config,
            tenant: &self.tenant,
            view: &self.view,
            parquet: &self.parquet,
            delta: self.delta.request(),
            as_of_ms: self.as_of.map(|as_of| as_of.timestamp_millis()),
            limits: BuildLimits {
                max_rejected_rows: self.max_rejected_rows,
                max_memory_mib: self.max_memory_mib,
                threads: self.threads.map_or(0, usize::from),
                ..BuildLimits::default()
            },
            spill: self.spill.as_deref(),
            rejects: self.rejects.as_deref(),
            fresh: self.fresh,
            shard: self.shard.unwrap_or(config.node.shard),
            cold,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Folder to make for the generation; one that was built by the same command from the same files is left as it is
    #[arg(long)]
    out: PathBuf,
    /// The generation's number, greater than that of any published before [default: the time in Unix seconds, or the next number that none was built with here]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    generation: Option<u32>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Folder of a built generation
    dir: PathBuf,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drop {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose rows
    #[arg(long)]
    tenant: String,
    /// Which view
    #[arg(long)]
    view: String,
    /// The generation's number, which `larder ingest list` shows: it must be the previous one
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    generation: u32,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose rows
    #[arg(long)]
    tenant: String,
    /// Which view
    #[arg(long)]
    view: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Build(arguments) => run_build(arguments),
        Command::Publish(arguments) => run_publish(arguments),
        Command::Load(arguments) => run_load(arguments),
        Command::List(arguments) => run_list(arguments),
        Command::Rollback(arguments) => run_rollback(arguments),
        Command::Drop(arguments) => run_drop(arguments),
    }
}

fn run_build(arguments: &Build) -> Result<()> {
    let source = &arguments.source;
    let config = NodeConfig::load(&source.config)?;
    let rule = source.cold.rule();
    let drawn = || generation_number::draw(&config, &source.tenant, &source.view, 0);
    let generation = arguments.generation.map_or_else(drawn, Ok)?;
    let built = build(&source.snapshot(&config, rule.as_ref()), &arguments.out, generation)?;
    if let Some(wanted) = arguments.generation.filter(|wanted| *wanted != built.generation) {
        let (out, found) = (arguments.out.display(), built.generation);
        bail!(
            "{out} holds these files as generation {found}: delete it to build them as {wanted}, or name another folder"
        );
    }
    if source.json {
        return print_json(&built);
    }
    let out = arguments.out.display();
    let built_it = if built.already_built { "Already built:" } else { "Built" };
    let Source { tenant, view, config, .. } = source;
    let (generation, entities) = (built.generation, count(built.entities));
    let what = match (built.deletions, built.since_ms) {
        (Some(deletions), Some(since_ms)) => format!(
            "delta snapshot {generation} of {tenant}:{view} in {out}: {} rows and {} deletions of {entities} entities, since {}",
            count(built.rows - deletions),
            count(deletions),
            moment(since_ms)
        ),
        _ => format!(
            "generation {generation} of {tenant}:{view} in {out}: {entities} entities{}, {} rows",
            cold(built.cold_entities, built.cold_files),
            count(built.rows)
        ),
    };
    say!("{built_it} {what}.\nNext: larder ingest publish {out} --config {}", config.display());
    Ok(())
}

fn run_publish(arguments: &Publish) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let live = destination.publish(&arguments.dir)?;
    if arguments.json {
        return print_json(&live);
    }
    say!("{}", live.sentence(&destination));
    Ok(())
}

fn run_load(arguments: &Load) -> Result<()> {
    let config = NodeConfig::load(&arguments.source.config)?;
    let mut destination = Destination::find(&config)?;
    let rule = arguments.source.cold.rule();
    let live = load(&arguments.source.snapshot(&config, rule.as_ref()), &mut destination)?;
    if arguments.source.json {
        return print_json(&live);
    }
    say!("{}", live.sentence(&destination));
    Ok(())
}

fn run_list(arguments: &List) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let generations = destination.generations()?;
    if arguments.json {
        return print_json(&generations);
    }
    if generations.is_empty() {
        say!("Nothing is published in {destination}.");
        return Ok(());
    }
    let rows = generations.into_iter().map(|listed| {
        [
            listed.tenant,
            listed.view,
            listed.generation.to_string(),
            if listed.live { "live" } else { "previous" }.to_owned(),
            count(listed.entities),
            count(listed.cold_entities),
            count(listed.rows),
            bytes(listed.bytes),
            moment(listed.as_of_ms),
        ]
    });
    say!("In {destination}:");
    say!("{}", table(["tenant", "view", "generation", "state", "entities", "cold", "rows", "size", "as of"], rows));
    Ok(())
}

fn run_rollback(arguments: &Rollback) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let live = destination.rollback(&arguments.tenant, &arguments.view)?;
    if arguments.json {
        return print_json(&live);
    }
    say!("{}", live.sentence(&destination));
    Ok(())
}

fn run_drop(arguments: &Drop) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let Drop { tenant, view, generation, .. } = arguments;
    let live = destination.drop_previous(tenant, view, *generation)?;
    if arguments.json {
        return print_json(&live);
    }
    say!(
        "Generation {generation} of {tenant}:{view} is dropped from {destination}; generation {} stays live.",
        live.generation
    );
    Ok(())
}
