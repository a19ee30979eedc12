//! `larder place`: divides what is live between the warm and the cold tier anew, without going back to its sources.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use larder_serve::NodeConfig;

use crate::cold_arguments::ColdArguments;
use crate::destination::Destination;
use crate::output::{print_json, say};

#[derive(Debug, Args)]
#[command(
    after_help = "The live generation's rows become a new generation of the same time; the one before is kept for rollback. Without \
--cold-after every entity is placed warm. The node at the config's listen address is asked; when none answers, the store's folder is \
opened directly.

Examples:
  larder place --tenant demo --view orders --cold-after 90d
  larder place --tenant demo --view orders --cold-after 90d --active data/store/hot-set
  larder place --tenant demo --view orders"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose rows
    #[arg(long)]
    tenant: String,
    /// Which view
    #[arg(long)]
    view: String,
    #[command(flatten)]
    cold: ColdArguments,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let live = destination.place(&arguments.tenant, &arguments.view, arguments.cold.rule().as_ref())?;
    if arguments.json {
        return print_json(&live);
    }
    say!("{}", live.sentence(&destination));
    Ok(())
}
