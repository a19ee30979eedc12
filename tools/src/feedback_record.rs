//! `larder feedback record`: says of one answer, or of a file of them, whether it helped and what would have been right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use larder_serve::v1;
use larder_serve::v1::feedback_client::FeedbackClient;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Caller, block_on, connect, refusal};
use crate::node_address::NodeAddress;
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, count};

/// The longest line of a file, and the most lines.
const MAX_LINE_BYTES: u64 = 4 << 10;
const MAX_LINES: usize = 1_000_000;

#[derive(Debug, Args)]
#[command(
    after_help = "A node keeps a share of its answers for feedback ([feedback] share in larder.toml); the replies of those that are kept \
have an answer id. Saying the same again changes nothing, saying something else replaces what was said before, so a file that was \
read in part may be read again. Each of its lines is one JSON object:
  {\"user\":\"u0000042\",\"answer_id\":\"5f0c1b7ae1d24f0c9a3e6b8d7c2f4a10\",\"helped\":false,\"right_intent\":\"cancel_order\"}
Answers that the node does not keep, or keeps no more, are counted and passed over.

Examples:
  larder feedback record --tenant demo --user u0000042 --answer 5f0c1b7ae1d24f0c9a3e6b8d7c2f4a10 --helped yes
  larder feedback record --tenant demo --user u0000042 --answer 5f0c1b7ae1d24f0c9a3e6b8d7c2f4a10 --helped no \\
    --right-intent cancel_order
  larder feedback record --tenant demo --from judged.jsonl"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeAddress,
    /// Whose catalogue answered; may be left out where the node has a default
    #[arg(long, default_value = "")]
    tenant: String,
    /// The user who was answered
    #[arg(long, required_unless_present = "from")]
    user: Option<String>,
    /// The answer's id
    #[arg(long, value_name = "ID", required_unless_present = "from")]
    answer: Option<String>,
    /// Whether the answer, or the hand-over, was what the user needed
    #[arg(long, value_enum, required_unless_present = "from")]
    helped: Option<Helped>,
    /// The intent that would have been right, of the tenant's catalogue, or out_of_scope [default: not known]
    #[arg(long, value_name = "INTENT")]
    right_intent: Option<String>,
    /// Instead a file of them, one JSON object per line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "answer", "helped", "right_intent"])]
    from: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Helped {
    Yes,
    No,
}

/// What somebody says of an answer: a line of a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    user: String,
    answer_id: String,
    helped: bool,
    #[serde(default)]
    right_intent: Option<String>,
}

/// What became of the lines of a file.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Outcomes {
    recorded: u64,
    repeated: u64,
    changed: u64,
    /// The node does not keep the answer.
    unknown: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match (&arguments.from, &arguments.user, &arguments.answer, arguments.helped) {
        (Some(file), ..) => record_file(arguments, file),
        (None, Some(user), Some(answer), Some(helped)) => {
            let (user, answer_id, right_intent) = (user.clone(), answer.clone(), arguments.right_intent.clone());
            record_one(arguments, Said { user, answer_id, helped: helped == Helped::Yes, right_intent })
        }
        // clap has told already what is missing.
        _ => bail!("--user, --answer and --helped are needed, or --from"),
    }
}

fn record_one(arguments: &Arguments, said: Said) -> Result<()> {
    let answer_id = said.answer_id.clone();
    let outcome = block_on(Sender::new(arguments).send(said))??;
    let Some(outcome) = outcome else {
        bail!(
            "the node keeps no such answer of this user: answers are kept by lot ([feedback] share), and for a while; only replies with an \
             answer_id can have feedback"
        );
    };
    if arguments.json {
        return print_json(&json!({ "answer_id": answer_id, "outcome": name(outcome) }));
    }
    say!(
        "{}",
        match outcome {
            v1::FeedbackOutcome::Repeated => "The same was said before; nothing has changed.",
            v1::FeedbackOutcome::Changed => "Recorded, in place of what was said before.",
            _ => "Recorded.",
        }
    );
    Ok(())
}

fn record_file(arguments: &Arguments, file: &Path) -> Result<()> {
    let lines = read(file)?;
    let stage = Stage::start("feedback", Unit::Items);
    let all = lines.len() as u64;
    let outcomes = block_on(async {
        let (mut sender, mut outcomes) = (Sender::new(arguments), Outcomes::default());
        for (done, (number, said)) in (1..).zip(lines) {
            let place = || format!("{} line {number}; what stands before it is recorded", file.display());
            outcomes.count(sender.send(said).await.with_context(place)?);
            stage.set(done, all);
        }
        anyhow::Ok(outcomes)
    })??;
    drop(stage);
    if arguments.json {
        return print_json(&outcomes);
    }
    let Outcomes { recorded, repeated, changed, unknown } = outcomes;
    let [recorded, repeated, changed, unknown] = [recorded, repeated, changed, unknown].map(count);
    say!(
        "Of {} lines {recorded} were recorded, {changed} changed and {repeated} said before; {unknown} answers are not kept.",
        count(all)
    );
    Ok(())
}

impl Outcomes {
    fn count(&mut self, outcome: Option<v1::FeedbackOutcome>) {
        *match outcome {
            Some(v1::FeedbackOutcome::Repeated) => &mut self.repeated,
            Some(v1::FeedbackOutcome::Changed) => &mut self.changed,
            Some(_) => &mut self.recorded,
            None => &mut self.unknown,
        } += 1;
    }
}

/// The ways to the nodes, each opened when it is first needed.
struct Sender<'a> {
    arguments: &'a Arguments,
    nodes: BTreeMap<String, FeedbackClient<Channel>>,
}

impl Sender<'_> {
    fn new(arguments: &Arguments) -> Sender<'_> {
        Sender { arguments, nodes: BTreeMap::new() }
    }

    /// What became of it; none where the node does not keep the answer.
    async fn send(&mut self, said: Said) -> Result<Option<v1::FeedbackOutcome>> {
        let Said { user, answer_id, helped, right_intent } = said;
        let (address, shard) = self.arguments.node.of(&user)?;
        let caller = Caller { tenant: self.arguments.tenant.clone(), user, shard, ..Caller::default() };
        let right_intent = right_intent.unwrap_or_default();
        let request = caller.request(v1::GiveFeedbackRequest { answer_id, helped, right_intent })?;
        if !self.nodes.contains_key(address) {
            self.nodes.insert(address.to_owned(), FeedbackClient::new(connect(address).await?));
        }
        let node = self.nodes.get_mut(address).context("a node that was connected to is gone")?;
        match node.give(request).await {
            Ok(reply) => Ok(Some(reply.into_inner().outcome())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refusal(&status)),
        }
    }
}

fn name(outcome: v1::FeedbackOutcome) -> &'static str {
    match outcome {
        v1::FeedbackOutcome::Recorded => "recorded",
        v1::FeedbackOutcome::Repeated => "repeated",
        v1::FeedbackOutcome::Changed => "changed",
        v1::FeedbackOutcome::Unspecified => "unknown",
    }
}

/// The lines of a file with their numbers, all of them read before any is sent: a file with a fault in it is not sent in part.
fn read(file: &Path) -> Result<Vec<(usize, Said)>> {
    let shown = file.display();
    let mut reader = BufReader::new(File::open(file).with_context(|| format!("cannot open {shown}"))?);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for number in 1_usize.. {
        line.clear();
        let mut limited = reader.by_ref().take(MAX_LINE_BYTES + 1);
        let read = limited.read_line(&mut line).with_context(|| format!("cannot read {shown} line {number}"))?;
        if read == 0 {
            break;
        }
        ensure!(read as u64 <= MAX_LINE_BYTES, "{shown} line {number} is longer than {MAX_LINE_BYTES} bytes");
        if line.trim().is_empty() {
            continue;
        }
        ensure!(lines.len() < MAX_LINES, "{shown} has more than {MAX_LINES} lines; send it in parts");
        let said = serde_json::from_str(line.trim()).with_context(|| format!("{shown} line {number}"))?;
        lines.push((number, said));
    }
    ensure!(!lines.is_empty(), "{shown} has no line; each is an object with user, answer_id and helped");
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Result<Vec<(usize, Said)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("judged.jsonl");
        std::fs::write(&file, text).unwrap();
        read(&file).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn lines_are_read_with_their_numbers_and_faults_are_told_with_theirs() {
        let line = r#"{"user":"ada","answer_id":"a","helped":false,"right_intent":"refund"}"#;
        let found = outcome(&format!("\n{line}\n\n{}", line.replace(",\"right_intent\":\"refund\"", ""))).unwrap();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((found[0].1.right_intent.as_deref(), found[1].1.right_intent.as_deref()), (Some("refund"), None));
        for (text, says) in [
            ("\n", "has no line"),
            ("{\"user\":\"ada\"}", "judged.jsonl line 1: missing field `answer_id`"),
            (&format!("{line}\n{}", line.replace("helped", "helpt")), "line 2: unknown field `helpt`"),
            (&"x".repeat(5_000), "line 1 is longer than 4096 bytes"),
        ] {
            let message = outcome(text).unwrap_err();
            assert!(message.contains(says), "{message} does not say {says}");
        }
    }
}
