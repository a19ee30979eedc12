//! `larder erase`: forgets users on their request. `larder compact --erase` is the second half, which takes their bytes out of the files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use larder_serve::NodeConfig;
use larder_store::{MAX_ENTITY_BYTES, Shard};
use serde::Serialize;

use crate::destination::Destination;
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, count};

/// Largest file of entities; three quarters of a million with names of 86 bytes, and more than anybody should erase by hand.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// What a message says beside an entity's name: its field and its length.
const BYTES_BESIDE: usize = 8;

#[derive(Debug, Args)]
#[command(
    after_help = "What all views of the tenant know of an entity up to now is invisible at once: to fetches, in snapshots that are \
built later from sources that still hold it, and after a rollback. Their submitted questions, \
the answers to them and what is kept for feedback are deleted. Rows with a later event time are shown, so a user may come back. The \
bytes stay in the store's files until `larder compact --erase`. The folders that generations were built in, the Parquet files they were \
built from, and backups are yours to erase.

The node at the config's listen address is asked; when none answers, the store's folder is opened directly.

Examples:
  larder erase --tenant demo u0000042
  larder erase --tenant demo --from gone.txt && larder compact --erase"
)]
pub(crate) struct Arguments {
    /// Whose users they are
    #[arg(long)]
    tenant: String,
    /// Entity keys to forget
    #[arg(required_unless_present = "from")]
    entities: Vec<String>,
    /// File of entity keys, one per line
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Erased {
    tenant: String,
    entities: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { tenant, from, .. } = arguments;
    let config = NodeConfig::load(&arguments.config)?;
    let mut entities = arguments.entities.clone();
    for entity in &entities {
        check(entity).map_err(|reason| anyhow::anyhow!("entity {entity:?} {reason}"))?;
    }
    if let Some(file) = from {
        entities.append(&mut read(file)?);
    }
    let shard = config.node.shard;
    if let Some(entity) = entities.iter().find(|entity| !shard.holds(entity)) {
        let right = Shard::of(entity, shard.count());
        bail!(
            "{entity} belongs to shard {right}, the node of {} is shard {shard}; nothing was erased",
            arguments.config.display()
        );
    }
    let mut destination = Destination::find(&config)?;
    let stage = Stage::start("erase", Unit::Items);
    let (mut erased, all) = (0, entities.len() as u64);
    for part in parts(&entities, config.node.max_entities, config.node.max_message_bytes) {
        let outcome = destination.erase(tenant, part);
        match erased {
            0 => outcome?,
            _ => outcome.with_context(|| format!("only the first {erased} of {all} entities were erased"))?,
        }
        erased += part.len() as u64;
        stage.set(erased, all);
    }
    drop(stage);
    if arguments.json {
        return print_json(&Erased { tenant: tenant.clone(), entities: erased });
    }
    let (noun, they) = if erased == 1 { ("entity", "Its") } else { ("entities", "Their") };
    say!(
        "Erased {} {noun} of {tenant} in {destination}.\n{they} bytes are in the files until you run: larder compact --erase --config {}",
        count(erased),
        arguments.config.display()
    );
    Ok(())
}

/// Entities that can exist, one per line; empty lines are skipped.
fn read(file: &Path) -> Result<Vec<String>> {
    let shown = file.display();
    let mut text = String::new();
    let opened = File::open(file).with_context(|| format!("cannot read {shown}"))?;
    opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    let limit = MAX_FILE_BYTES >> 20;
    ensure!(text.len() as u64 <= MAX_FILE_BYTES, "{shown} is larger than {limit} MiB; erase in parts");
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    let entities: Vec<String> = lines
        .map(|(at, line)| match check(line) {
            Ok(()) => Ok(line.to_owned()),
            Err(reason) => bail!("{shown} line {} {reason}", at + 1),
        })
        .collect::<Result<_>>()?;
    ensure!(!entities.is_empty(), "{shown} names no entity");
    Ok(entities)
}

fn check(entity: &str) -> Result<(), String> {
    match entity.len() {
        1..=MAX_ENTITY_BYTES => Ok(()),
        length => Err(format!("has {length} bytes; 1 to {MAX_ENTITY_BYTES} are allowed")),
    }
}

/// The entities in parts that fit into one call to a node each.
pub(crate) fn parts(entities: &[String], most: usize, bytes: usize) -> Vec<&[String]> {
    let (mut parts, mut rest) = (Vec::new(), entities);
    while !rest.is_empty() {
        // Half a message is left for everything else in it.
        let mut room = bytes / 2;
        let fits = |entity: &&String| {
            let needed = entity.len() + BYTES_BESIDE;
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        };
        let number = rest.iter().take(most).take_while(fits).count().max(1);
        let (part, left) = rest.split_at(number);
        parts.push(part);
        rest = left;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_and_within_the_limits() {
        let entities: Vec<String> = (0..1_000).map(|number| "x".repeat(1 + number % 256)).collect();
        for (most, bytes) in [(1, 1 << 20), (300, 1 << 20), (1_000, 1_024), (10_000, 4 << 20)] {
            let parts = parts(&entities, most, bytes);
            assert_eq!(parts.concat(), entities);
            for part in parts {
                let size: usize = part.iter().map(|entity| entity.len() + BYTES_BESIDE).sum();
                assert!(!part.is_empty() && part.len() <= most && size <= bytes / 2, "{} in {size}", part.len());
            }
        }
    }

    #[test]
    fn a_file_has_an_entity_per_line_and_a_fault_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gone.txt");
        let outcome = |text: &[u8]| {
            std::fs::write(&file, text).unwrap();
            read(&file).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(outcome("ada\r\n\nbob the builder\nzoë".as_bytes()).unwrap(), ["ada", "bob the builder", "zoë"]);
        let long = format!("ada\n\n{}\n", "x".repeat(257));
        let message = outcome(long.as_bytes()).unwrap_err();
        assert!(message.ends_with("gone.txt line 3 has 257 bytes; 1 to 256 are allowed"), "{message}");
        assert!(outcome(b"\n\n").unwrap_err().ends_with("gone.txt names no entity"));
        assert!(outcome(b"\xff\xfe").unwrap_err().contains("valid UTF-8"));
    }
}
