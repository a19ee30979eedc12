//! `larder inspect`: what a store holds as a whole, or what every tier knows of one entity. It only looks.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use larder_serve::NodeConfig;

use crate::destination::Destination;
use crate::inspect_entity_text::entity_text;
use crate::inspect_json::{entity_json, store_json};
use crate::inspect_store_text::store_text;
use crate::output::{print_json, say};

#[derive(Debug, Args)]
#[command(
    after_help = "Without --entity: views, generations, RocksDB's files, what the tiers hold and how often each had the row, live rows, \
breakers, and the room on the disks. With it: what every tier holds of that key, which row stands and why, and what a fetch \
would say. Nothing becomes hot and no hit is counted by looking.

The node at the config's listen address is asked; when none answers, the store's folder is opened directly.

Examples:
  larder inspect
  larder inspect --tenant demo --entity u0000042
  larder inspect --tenant demo --entity u0000042 --view orders --json"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose entity
    #[arg(long, requires = "entity")]
    tenant: Option<String>,
    /// Show what every tier knows of this key
    #[arg(long, value_name = "KEY", requires = "tenant")]
    entity: Option<String>,
    /// Only this view
    #[arg(long, requires = "entity")]
    view: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let mut destination = Destination::find(&config)?;
    let Some((tenant, entity)) = arguments.tenant.as_deref().zip(arguments.entity.as_deref()) else {
        let store = destination.inspect_store()?;
        if arguments.json {
            return print_json(&store_json(&store));
        }
        say!("In {destination}:\n\n{}", store_text(&store));
        return Ok(());
    };
    let found = destination.inspect_entity(tenant, entity, arguments.view.as_deref().unwrap_or_default())?;
    if arguments.json {
        return print_json(&entity_json(tenant, entity, &found));
    }
    say!("{tenant}:{entity} in {destination}:\n\n{}", entity_text(&found));
    Ok(())
}
