//! `larder ask`: one question to a running node, and its answer as a person wants to read it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use larder_serve::v1;
use larder_serve::v1::answers_client::AnswersClient;

use crate::answer_text::{full, to_json};
use crate::client::{Caller, block_on, connect, refusal};
use crate::node_address::NodeAddress;
use crate::output::{print_json, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  larder ask --tenant demo --user u0000042 \"where is my order?\"
  larder ask --addr 10.0.0.7:7700 --tenant demo --user u0000042 --json \"can I still cancel?\"
  larder ask --shards 10.0.0.7:7700,10.0.0.8:7700 --tenant demo --user u0000042 \"where is my order?\"")]
pub(crate) struct Arguments {
    /// The question
    text: String,
    #[command(flatten)]
    node: NodeAddress,
    /// Whose catalogue answers; may be left out where the node has a default
    #[arg(long, default_value = "")]
    tenant: String,
    /// Who asks; left out, the answer is made without features
    #[arg(long, default_value = "")]
    user: String,
    /// The conversation that the question belongs to
    #[arg(long, default_value = "")]
    session: String,
    /// vip, normal or bulk
    #[arg(long, default_value = "")]
    class: String,
    /// Give up after so many milliseconds [default: the node's own deadline]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: Option<u64>,
    /// Print the reply as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (address, shard) = arguments.node.of(&arguments.user)?;
    let caller = Caller {
        tenant: arguments.tenant.clone(),
        user: arguments.user.clone(),
        session: arguments.session.clone(),
        class: arguments.class.clone(),
        shard,
    };
    let message = v1::AnswerRequest { text: arguments.text.clone(), request_id: String::new() };
    let mut request = caller.request(message)?;
    if let Some(timeout_ms) = arguments.timeout_ms {
        request.set_timeout(Duration::from_millis(timeout_ms));
    }
    let reply = block_on(async {
        let mut answers = AnswersClient::new(connect(address).await?);
        answers.answer(request).await.map_err(|status| refusal(&status))
    })??
    .into_inner();
    if arguments.json {
        return print_json(&to_json(&reply));
    }
    say!("{}", full(&reply));
    Ok(())
}
