//! `larder model publish`: has a running node take a tenant's ranking heads from their files anew, while it goes on answering.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use larder_serve::{NodeConfig, v1};
use serde::Serialize;

use crate::client::refusal;
use crate::destination::Destination;
use crate::output::{print_json, say};
use crate::progress::count;

#[derive(Debug, Args)]
#[command(
    after_help = "A head of another catalogue, encoder or feature service is refused, and the node keeps the one it has.

Examples:
  larder model publish --tenant demo
  larder model train --tenant demo --questions train.jsonl && larder model publish --tenant demo"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose head
    #[arg(long)]
    tenant: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Reloaded {
    rung: String,
    training_questions: u64,
    threshold: f32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let Destination::Node { address, mut admin, runtime } = Destination::running(&config)? else {
        bail!("a node was expected");
    };
    let request = v1::ReloadHeadRequest { tenant: arguments.tenant.clone() };
    let reply = runtime.block_on(admin.reload_head(request)).map_err(|status| refusal(&status))?.into_inner();
    let reloaded = reply.heads.into_iter().map(|head| {
        let v1::ReloadedHead { rung, training_questions, threshold } = head;
        Reloaded { rung, training_questions, threshold }
    });
    let reloaded: Vec<Reloaded> = reloaded.collect();
    if arguments.json {
        return print_json(&reloaded);
    }
    for Reloaded { rung, training_questions, .. } in &reloaded {
        let (tenant, questions) = (&arguments.tenant, count(*training_questions));
        say!(
            "The node at {address} ranks {tenant}'s questions on the rung {rung} with the head learned from {questions} questions."
        );
    }
    Ok(())
}
