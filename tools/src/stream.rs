//! `larder stream move`: has partitions of a change stream go on elsewhere in their topic, and starts those again that were stopped.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use larder_ingest::MoveTo;
use larder_serve::NodeConfig;
use serde_json::json;

use crate::destination::Destination;
use crate::output::{print_json, say};

/// The commands of `larder stream`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Have partitions of a stream go on elsewhere
    Move(Arguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "A partition whose next message is gone from the brokers, or is no row and has no reject topic to go to, is stopped; `larder inspect` \
says so. This passes over what is in the way, or reads a topic anew. Rows that are written once more change nothing, because the newer event time \
stands. Messages that are passed over are not read.

The node at the config's listen address is asked; when none answers, the position is set in the store's folder, which knows no earliest and latest.

Examples:
  larder stream move orders --partition 3 --to 4712
  larder stream move orders --partition 3 --to earliest
  larder stream move orders --all --to earliest --json"
)]
pub(crate) struct Arguments {
    /// The stream, as larder.toml names it
    stream: String,
    /// Where to go on: earliest, latest, or the offset of the message that is read next
    #[arg(long, value_name = "POSITION")]
    to: MoveTo,
    /// Which partition
    #[arg(long, value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
    partition: Option<u16>,
    /// All partitions
    #[arg(long)]
    all: bool,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let Command::Move(arguments) = command;
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let moved = destination.move_stream(&arguments.stream, arguments.partition.map(i32::from), arguments.to)?;
    if arguments.json {
        let partition =
            |moved: &larder_ingest::Moved| json!({ "partition": moved.partition, "from": moved.from, "to": moved.to });
        let partitions: Vec<_> = moved.iter().map(partition).collect();
        return print_json(&json!({ "stream": arguments.stream, "partitions": partitions }));
    }
    for moved in moved {
        let from = moved.from.map_or("the beginning".to_owned(), |from| from.to_string());
        say!("Partition {} goes on at {}, from {from}, in {destination}.", moved.partition, moved.to);
    }
    Ok(())
}
