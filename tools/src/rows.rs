//! `larder rows write`: live rows from JSON lines to a running node, and what became of them.
//!
//! Lines are gathered into batches, and several batches are under way at once. A row that the node refuses is told by its line and left out, and
//! the rest of its batch is sent again: one wrong line must not cost its neighbours.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use larder_serve::v1::rows_client::RowsClient;
use larder_serve::v1::{Row, WriteRowsReply, WriteRowsRequest};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::client::{Caller, block_on, connect, refusal};
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, count};
use crate::row_lines::{Lines, RowLine};

/// Batches that are sent and not yet acknowledged.
const IN_FLIGHT: usize = 8;
/// Batches that are read ahead.
const READ_AHEAD: usize = 2;

/// The commands of `larder rows`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write live rows, one JSON object a line, to a running node
    Write(Arguments),
}

#[derive(Debug, Args)]
#[command(after_help = "A line names view, entity, event_time_ms and features, or says that something is deleted:
  {\"view\": \"profile\", \"entity\": \"u0000042\", \"event_time_ms\": 1795157941000, \"features\": {\"name\": \"Ada\"}}
  {\"view\": \"orders\", \"entity\": \"u0000042\", \"features\": {\"order_id\": \"4711\"}, \"delete\": true}
Times are Unix milliseconds; without event_time_ms a row is of the moment it is read. What is left out of the features is null. Lines of a
file are written in their order; a line that is refused is told on stderr and left out, and the exit code is 1.

Examples:
  larder rows write --tenant demo rows.jsonl
  tail -f changes.jsonl | larder rows write --tenant demo --view profile --batch 1
  larder rows write --tenant demo --json < rows.jsonl")]
pub(crate) struct Arguments {
    /// The file [default: standard input]
    file: Option<PathBuf>,
    /// The node, as host:port
    #[arg(long, default_value = "127.0.0.1:7700")]
    addr: String,
    /// Whose rows these are; may be left out where the node has a default
    #[arg(long, default_value = "")]
    tenant: String,
    /// The view of lines that name none
    #[arg(long, value_name = "VIEW", default_value = "")]
    view: String,
    /// Lines of a batch; a smaller one is sent at the end of the file only
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Stop after so many wrong lines
    #[arg(long, value_name = "LINES", default_value_t = 1_000)]
    max_wrong: u64,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let Command::Write(arguments) = command;
    let (input, bytes): (Box<dyn io::Read + Send>, u64) = match &arguments.file {
        Some(path) => {
            let opened = File::open(path).and_then(|file| file.metadata().map(|about| (file, about.len())));
            let (file, bytes) = opened.with_context(|| format!("cannot open {}", path.display()))?;
            (Box::new(file), bytes)
        }
        None => (Box::new(io::stdin()), 0),
    };
    let lines = Lines::new(BufReader::new(input), &arguments.view, arguments.batch as usize);
    let stage = Stage::start("rows", Unit::Bytes);
    let began = Instant::now();
    let mut sending = Sending { max_wrong: arguments.max_wrong, ..Sending::default() };
    let outcome = block_on(send(arguments, lines, &mut sending, |position| stage.set(position, bytes)))?;
    let told = sending.told();
    match &outcome {
        Ok(()) => stage.done(&told),
        Err(_) => drop(stage),
    }
    report(&sending, began.elapsed(), arguments.json)?;
    outcome?;
    if sending.wrong > 0 {
        bail!("{} lines were not written; they are named above", count(sending.wrong));
    }
    Ok(())
}

fn report(sending: &Sending, elapsed: Duration, as_json: bool) -> Result<()> {
    let Sending { rows, late, erased, wrong, batches, .. } = sending;
    if as_json {
        let seconds = elapsed.as_secs_f64();
        let summary = json!({ "rows": rows, "late": late, "erased": erased, "wrong": wrong, "batches": batches, "seconds": seconds });
        return print_json(&summary);
    }
    say!("{}", sending.told());
    Ok(())
}

/// How far the sending is.
#[derive(Debug, Default)]
struct Sending {
    max_wrong: u64,
    next: u64,
    /// By sequence.
    under_way: HashMap<u64, Vec<RowLine>>,
    rows: u64,
    late: u64,
    erased: u64,
    wrong: u64,
    batches: u64,
}

/// Sends everything; returns early when the node ends the stream or too much is wrong.
async fn send(arguments: &Arguments, lines: Lines, sending: &mut Sending, progress: impl Fn(u64)) -> Result<()> {
    let caller = Caller { tenant: arguments.tenant.clone(), ..Caller::default() };
    let (batches, outgoing) = mpsc::unbounded_channel();
    let request = caller.request(UnboundedReceiverStream::new(outgoing))?;
    let mut client = RowsClient::new(connect(&arguments.addr).await?);
    let stream = client.write_stream(request).await.map_err(|status| refusal(&status))?;
    let mut replies: Streaming<WriteRowsReply> = stream.into_inner();
    let mut input = read_ahead(lines);
    let mut at_end = false;
    while !at_end || !sending.under_way.is_empty() {
        tokio::select! {
            read = input.recv(), if !at_end && sending.under_way.len() < IN_FLIGHT => match read {
                Some(read) => {
                    let read = read?;
                    for (line, what) in read.wrong {
                        sending.is_wrong(line, &what)?;
                    }
                    sending.start(read.rows, &batches);
                    progress(read.position);
                }
                None => at_end = true,
            },
            reply = replies.next() => match reply {
                Some(Ok(reply)) => sending.settle(reply, &batches)?,
                Some(Err(status)) => return Err(refusal(&status)),
                None => bail!("the node ended the stream with {} batches unacknowledged; send the file again: \
                               rows that are there already are only told late or written once more", sending.under_way.len()),
            },
        }
    }
    Ok(())
}

/// Reads on a thread of its own: a pipe may be silent for long while replies come.
fn read_ahead(mut lines: Lines) -> mpsc::Receiver<Result<crate::row_lines::Read>> {
    let (batches, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        while let Some(read) = lines.next_batch().transpose() {
            if batches.blocking_send(read).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Sending {
    fn start(&mut self, rows: Vec<RowLine>, batches: &mpsc::UnboundedSender<WriteRowsRequest>) {
        if rows.is_empty() {
            return;
        }
        let message = rows.iter().map(|row| row.row.clone()).collect::<Vec<Row>>();
        // Where the stream has ended, the replies say so.
        let _ = batches.send(WriteRowsRequest { sequence: self.next, rows: message });
        self.under_way.insert(self.next, rows);
        self.next += 1;
    }

    fn settle(&mut self, reply: WriteRowsReply, batches: &mpsc::UnboundedSender<WriteRowsRequest>) -> Result<()> {
        let Some(mut rows) = self.under_way.remove(&reply.sequence) else {
            bail!("the node acknowledged batch {}, which was not sent", reply.sequence);
        };
        let Some(failure) = reply.failure else {
            self.rows += reply.rows;
            self.late += reply.late;
            self.erased += reply.erased;
            self.batches += 1;
            return Ok(());
        };
        match refused_row(&failure.message).filter(|(at, _)| *at < rows.len()) {
            Some((at, what)) => {
                self.is_wrong(rows.remove(at).line, what)?;
                self.start(rows, batches);
                Ok(())
            }
            None if failure.retry_after_ms == 0 && failure.code == tonic::Code::InvalidArgument as i32 => {
                rows.iter().try_for_each(|row| self.is_wrong(row.line, &failure.message))
            }
            None => {
                let (first, last) = (rows.first().map_or(0, |row| row.line), rows.last().map_or(0, |row| row.line));
                bail!("the node refused lines {first} to {last}: {}", failure.message)
            }
        }
    }

    fn is_wrong(&mut self, line: u64, what: &str) -> Result<()> {
        self.wrong += 1;
        eprintln!("line {line}: {what}");
        if self.wrong > self.max_wrong {
            bail!(
                "more than {} lines are wrong (--max-wrong); what came before them is written",
                count(self.max_wrong)
            );
        }
        Ok(())
    }

    fn told(&self) -> String {
        let part = |number: u64, what: &str| (number > 0).then(|| format!(", {} {what}", count(number)));
        let parts =
            [part(self.late, "late"), part(self.erased, "of erased entities left out"), part(self.wrong, "wrong")];
        format!("{} rows written{}", count(self.rows), parts.into_iter().flatten().collect::<String>())
    }
}

/// Which row of a batch a refusal names, and what is wrong with it.
fn refused_row(message: &str) -> Option<(usize, &str)> {
    let (number, what) = message.strip_prefix("rows[")?.split_once("]: ")?;
    Some((number.parse().ok()?, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: u64) -> RowLine {
        RowLine { line, row: Row::default() }
    }

    fn refused(sequence: u64, message: &str) -> WriteRowsReply {
        let failure = larder_serve::v1::Failure {
            code: tonic::Code::InvalidArgument as i32,
            message: message.to_owned(),
            ..Default::default()
        };
        WriteRowsReply { sequence, failure: Some(failure), ..WriteRowsReply::default() }
    }

    #[test]
    fn a_wrong_row_is_left_out_and_the_rest_of_its_batch_sent_again() {
        let (batches, mut sent) = mpsc::unbounded_channel();
        let mut sending = Sending { max_wrong: 2, ..Sending::default() };
        sending.start((10..13).map(line).collect(), &batches);
        sending.settle(refused(0, "rows[1]: no such view"), &batches).unwrap();
        assert_eq!((sent.try_recv().unwrap().rows.len(), sent.try_recv().unwrap().rows.len()), (3, 2));
        let lines: Vec<u64> = sending.under_way[&1].iter().map(|row| row.line).collect();
        assert_eq!((sending.wrong, lines), (1, vec![10, 12]));
        sending
            .settle(WriteRowsReply { sequence: 1, rows: 2, late: 1, ..WriteRowsReply::default() }, &batches)
            .unwrap();
        assert_eq!(sending.told(), "2 rows written, 1 late, 1 wrong");
        sending.start((20..22).map(line).collect(), &batches);
        let stopped = sending.settle(refused(2, "view v, row 0: too large"), &batches).unwrap_err();
        assert!(stopped.to_string().contains("--max-wrong"), "{stopped}");
    }
}
