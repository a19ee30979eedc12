//! `larder feedback export`: a tenant's feedback as JSON lines, from the running node or the closed store, a page at a time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use larder_model::FeedbackRecord;
use larder_serve::NodeConfig;
use serde::Serialize;

use crate::destination::{Destination, tenant_id};
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, count};

#[derive(Debug, Args)]
#[command(
    after_help = "Each line is an answer as it was given, with the features that it was made with, and what was said of it. A line of \
which the right intent is known has it as `intent`, so that the file's lines are labelled questions as well. They are questions of people: keep \
the file as you keep the store, and write it anew after erasing users.

The node at the config's listen address is asked; when none answers, the store's folder is opened directly.

Examples:
  larder feedback export --tenant demo --out feedback.jsonl
  larder model train --tenant demo --questions train.jsonl --feedback feedback.jsonl
  larder feedback export --tenant demo | jq 'select(.helped | not) | [.answered, .intent]'"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose feedback
    #[arg(long)]
    tenant: String,
    /// File to write; one that is there is replaced [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print what was written to the file as JSON
    #[arg(long, requires = "out")]
    json: bool,
}

/// What was exported.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Exported {
    records: u64,
    helped: u64,
    /// Of which the right intent is known: what a head learns from.
    with_intent: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { config, tenant, out, json } = arguments;
    let config = NodeConfig::load(config)?;
    tenant_id(&config, tenant)?;
    let mut source = Destination::find(&config)?;
    let mut read = |cursor: &str| source.read_feedback(tenant, cursor);
    let Some(out) = out else {
        let mut stdout = BufWriter::new(io::stdout().lock());
        return match write_all(&mut read, &mut stdout) {
            // Whoever reads has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            outcome => outcome.map(drop),
        };
    };
    let stage = Stage::start("feedback", Unit::Items);
    let exported = write_file(out, |file| write_all(&mut read, file))?;
    stage.done(format_args!("{} records", count(exported.records)));
    if *json {
        return print_json(&exported);
    }
    let Exported { records, helped, with_intent } = exported;
    say!(
        "Wrote {} records to {}: {} helped, {} with the right intent to learn from.",
        count(records),
        out.display(),
        count(helped),
        count(with_intent)
    );
    Ok(())
}

/// Writes a sibling first, so that a reader sees the old file or all of the new one.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<Exported>) -> Result<Exported> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let told = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(&partial).with_context(told)?);
    let exported = write(&mut file)?;
    file.flush().with_context(told)?;
    std::fs::rename(&partial, path).with_context(told)?;
    Ok(exported)
}

/// All pages, one record a line.
fn write_all(
    read: &mut impl FnMut(&str) -> Result<(Vec<String>, Option<String>)>,
    out: &mut impl Write,
) -> Result<Exported> {
    let (mut exported, mut cursor) = (Exported::default(), String::new());
    loop {
        let (records, next) = read(&cursor)?;
        for line in &records {
            let record: FeedbackRecord =
                serde_json::from_str(line).context("the node sent a record of another form")?;
            exported.records += 1;
            exported.helped += u64::from(record.helped);
            exported.with_intent += u64::from(record.intent.is_some());
            writeln!(out, "{line}")?;
        }
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    out.flush()?;
    Ok(exported)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"answer_id":"a","tenant":"demo","user":"ada","text":"hm","asked_at_ms":1,"features":{},"answered":"late","confidence":0.5,"rung":"full","candidates":[],"helped":true,"judged_at_ms":2,"intent":"late"}"#;

    #[test]
    fn pages_become_lines_and_are_counted() {
        let without = LINE.replace(",\"intent\":\"late\"", "").replace("\"helped\":true", "\"helped\":false");
        let mut read = |cursor: &str| {
            Ok(match cursor {
                "" => (vec![LINE.to_owned(), without.clone()], Some("1".to_owned())),
                "1" => (vec![], Some("2".to_owned())),
                _ => (vec![LINE.to_owned()], None),
            })
        };
        let mut written = Vec::new();
        let exported = write_all(&mut read, &mut written).unwrap();
        assert_eq!(exported, Exported { records: 3, helped: 2, with_intent: 2 });
        assert_eq!(String::from_utf8(written).unwrap().lines().count(), 3);
        let mut foreign = |_: &str| Ok((vec!["{}".to_owned()], None));
        assert!(write_all(&mut foreign, &mut Vec::new()).unwrap_err().to_string().contains("another form"));
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.jsonl");
        std::fs::write(&path, "old").unwrap();
        let failing = write_file(&path, |file| {
            writeln!(file, "half")?;
            anyhow::bail!("the node has gone")
        });
        assert!(failing.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let exported = write_file(&path, |file| Ok(writeln!(file, "new").map(|()| Exported::default())?)).unwrap();
        assert_eq!((exported, std::fs::read_to_string(&path).unwrap()), (Exported::default(), "new\n".to_owned()));
    }
}
