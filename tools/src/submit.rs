//! `larder submit`: leaves a question with a running node. Nobody waits: the node answers when it has nothing more urgent to do.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use larder_serve::v1;
use larder_serve::v1::lane_client::LaneClient;
use serde_json::json;

use crate::client::{Caller, block_on, connect, refusal};
use crate::node_address::NodeAddress;
use crate::output::{print_json, say};
use crate::settled::{fetch, parse_wait, show};

#[derive(Debug, Args)]
#[command(
    after_help = "The node keeps the question on its disk and prints a ticket, by which `larder answer` fetches the answer. With a dedup \
key the same question is answered once, however often it is submitted.

Examples:
  larder submit --tenant demo --user u0000042 \"where is my order?\"
  larder submit --tenant demo --user u0000042 --dedup mail-4711 --within 3600 \"can I still cancel?\"
  larder submit --tenant demo --user u0000042 --wait 30s --json \"where is my order?\""
)]
pub(crate) struct Arguments {
    /// The question
    text: String,
    #[command(flatten)]
    node: NodeAddress,
    /// Whose catalogue answers; may be left out where the node has a default
    #[arg(long, default_value = "")]
    tenant: String,
    /// Who asks, and may fetch the answer
    #[arg(long)]
    user: String,
    /// The conversation that the question belongs to
    #[arg(long, default_value = "")]
    session: String,
    /// Your own name for the question, so that it is not taken twice
    #[arg(long, value_name = "KEY", default_value = "")]
    dedup: String,
    /// The question fails if it is not answered within so many seconds [default: the node's own limit]
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    within: u64,
    /// Wait so long for the answer: 500ms, 30s, 5min
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait: Option<Duration>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { text, node, tenant, user, session, dedup, within, wait, json } = arguments;
    let (address, shard) = node.of(user)?;
    let (tenant, session) = (tenant.clone(), session.clone());
    let caller = Caller { tenant, user: user.clone(), session, shard, ..Caller::default() };
    let message = v1::SubmitRequest { text: text.clone(), dedup_key: dedup.clone(), answer_within_s: *within };
    let request = caller.request(message)?;
    let (submitted, state) = block_on(async {
        let mut lane = LaneClient::new(connect(address).await?);
        let submitted = lane.submit(request).await.map_err(|status| refusal(&status))?.into_inner();
        let state = match wait {
            Some(wait) => Some(fetch(&mut lane, &caller, &submitted.ticket, *wait).await?),
            None => None,
        };
        anyhow::Ok((submitted, state))
    })??;
    if let Some(state) = state {
        return show(&submitted.ticket, &state, *json);
    }
    if *json {
        let v1::SubmitReply { ticket, already_submitted, waiting } = submitted;
        return print_json(&json!({ "ticket": ticket, "already_submitted": already_submitted, "waiting": waiting }));
    }
    say!("{}", submitted.ticket);
    Ok(())
}
