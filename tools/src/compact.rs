//! `larder compact --erase`: takes the bytes of erased entities out of the store's files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use larder_serve::NodeConfig;

use crate::destination::Destination;
use crate::output::{print_json, say};
use crate::progress::count;

#[derive(Debug, Args)]
#[command(
    after_help = "Every file of the store, of both tiers and of the generation kept for rollback, that holds bytes of an erased entity is \
rewritten, and the hot-set file of the last stop is deleted; answers go on meanwhile. A run that was cut short goes on when it is started again. Backups, hot-set files elsewhere, the folders that \
generations were built in and the files they were built from are yours to erase.

The node at the config's listen address is asked; when none answers, the store's folder is opened directly.

Examples:
  larder compact --erase
  larder compact --erase --config data/demo/larder.toml --json"
)]
pub(crate) struct Arguments {
    /// Take out what `larder erase` made invisible
    #[arg(long, required = true)]
    erase: bool,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let taken_out = destination.compact_erased()?;
    if arguments.json {
        return print_json(&taken_out);
    }
    if (taken_out.rows, taken_out.live_entities) == (0, 0) {
        say!("No file of {destination} holds anything of an erased entity.");
        return Ok(());
    }
    say!(
        "Taken out of {destination}: rows of generations {}, entities with live rows {}; files rewritten {}.",
        count(taken_out.rows),
        count(taken_out.live_entities),
        count(taken_out.files)
    );
    Ok(())
}
