//! `larder warm`: has a running node read the rows of entities that will be asked for, so that the first who ask do not wait for a disk.
//!
//! It goes slowly on purpose: the node answers customers meanwhile. And it stops where going on would do harm: when the hot tier is full, each
//! further row pushes out one that was asked for.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use larder_serve::NodeConfig;

use crate::destination::{Destination, tenant_id};
use crate::erase::parts;
use crate::output::{print_json, say};
use crate::warm_keys::{Selection, read_keys};
use crate::warm_outcome::{Outcome, Stopped};
use crate::warm_ranking::{Keys, MAX_KEYS};
use crate::warm_run::Warming;

/// Calls a second, so that each is small and the node's readers are free in between.
const CALLS_PER_S: u64 = 10;

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
