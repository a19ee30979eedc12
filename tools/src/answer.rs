//! `larder answer`: what has become of a question that was submitted.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use larder_serve::v1::lane_client::LaneClient;

use crate::client::{Caller, block_on, connect};
use crate::node_address::NodeAddress;
use crate::settled::{fetch, parse_wait, show};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  larder answer --tenant demo --user u0000042 0fsyocqqIKZBbLFVV62XjO
  larder answer --tenant demo --user u0000042 --wait 5min --json 0fsyocqqIKZBbLFVV62XjO")]
pub(crate) struct Arguments {
    /// The ticket that `larder submit` printed
    ticket: String,
    #[command(flatten)]
    node: NodeAddress,
    /// The tenant it was submitted for; may be left out where the node has a default
    #[arg(long, default_value = "")]
    tenant: String,
    /// The user it was submitted for
    #[arg(long)]
    user: String,
    /// Wait so long for the answer: 500ms, 30s, 5min
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "0s")]
    wait: Duration,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { ticket, node, tenant, user, wait, json } = arguments;
    let (address, shard) = node.of(user)?;
    let caller = Caller { tenant: tenant.clone(), user: user.clone(), shard, ..Caller::default() };
    let state = block_on(async {
        let mut lane = LaneClient::new(connect(address).await?);
        fetch(&mut lane, &caller, ticket, *wait).await
    })??;
    show(ticket, &state, *json)
}
