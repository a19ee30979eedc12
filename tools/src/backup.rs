//! `larder backup`: a copy of a store as it is at one moment, taken while its node goes on. What the location has already is not copied again.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::Args;
use larder_serve::NodeConfig;
use larder_store::{Checkpoint, StoreConfig, verify_store};
use serde::Serialize;

use crate::backup_manifest::{Backup, BackupFile, Folder};
use crate::backup_set::{BackupSet, Listed};
use crate::destination::Destination;
use crate::durations::duration;
use crate::files::sha256_file;
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, bytes, count};
use crate::verify::told;

#[derive(Debug, Args)]
#[command(
    after_help = "The node at the config's listen address is asked for its files of this moment, which costs it no room and no pause; when none \
answers, the store's folder is opened directly. Run it on the node's machine, as the node's own user. Every write \
acknowledged before is in the backup. The files are verified first, because a backup of a damaged store would be found out too late.

DESTINATION is a folder or a URL (s3://, gs://, az://, https://; credentials from the environment), one for each store; a restored store \
is another one. It takes any number of backups and holds each file once. A backup that was cut short is none; the next one goes on from \
its files. A file that no backup needs any more goes a day after it was copied.

Backups hold users who are erased later; after restoring an old one, erase them again.

Examples:
  larder backup /backups/shop
  larder backup s3://my-bucket/shop --keep 7
  larder backup /backups/shop --config data/demo/larder.toml --json"
)]
pub(crate) struct Arguments {
    /// Folder or URL where the backups of this store are
    destination: String,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Delete all but the newest N backups afterwards, and the files that only those needed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keep: Option<u32>,
    /// Do not verify the files first
    #[arg(long)]
    skip_verify: bool,
    /// How long to wait while the node is busy with another change of its store, such as a publish
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    wait: Duration,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Made {
    backup: String,
    destination: String,
    taken_at_ms: i64,
    files: u64,
    bytes: u64,
    copied_files: u64,
    copied_bytes: u64,
    deleted_backups: u64,
    /// Descriptions of backups at the destination that are damaged.
    unreadable_backups: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let set = BackupSet::at(&arguments.destination)?;
    let others = set.list()?;
    others.tell_unreadable();
    let mut store = Destination::find(&config)?;
    let _alone = alone(&config.store.path)?;
    let taken_at = Utc::now();
    let checkpoint = store.checkpoint(arguments.wait)?;
    let copied = check_owner(&others, &checkpoint, &set).and_then(|()| {
        if !arguments.skip_verify {
            verify(&config.store, &checkpoint)?;
        }
        copy(&set, &others, Backup::new(taken_at, &checkpoint.store_name), &checkpoint)
    });
    let released = store.release_checkpoint(arguments.wait);
    let (backup, copied_files, copied_bytes) = copied?;
    if let Err(error) = released {
        eprintln!("the checkpoint stays until the next backup or start: {error:#}");
    }
    let deleted = arguments.keep.map(|keep| set.keep_newest(keep as usize, Utc::now())).transpose()?;
    if deleted.as_ref().is_some_and(|deleted| deleted.held_back) {
        eprintln!(
            "no file of an old backup is deleted while a description is damaged, because that backup may need it: delete the description"
        );
    }
    let made = Made {
        destination: set.location().to_string(),
        taken_at_ms: backup.taken_at_ms,
        files: backup.files.len() as u64,
        bytes: backup.bytes(),
        backup: backup.id,
        copied_files,
        copied_bytes,
        deleted_backups: deleted.map_or(0, |deleted| deleted.backups) as u64,
        unreadable_backups: others.unreadable.len() as u64,
    };
    if arguments.json {
        return print_json(&made);
    }
    let deleted = match made.deleted_backups {
        0 => String::new(),
        deleted => format!(" Older backups deleted: {deleted}."),
    };
    say!(
        "Backup {} of {store} is in {}: {} files, {}, of which {} files, {} were copied now.{deleted}\nTo use it: larder restore {} --config CONFIG",
        made.backup,
        made.destination,
        count(made.files),
        bytes(made.bytes),
        count(made.copied_files),
        bytes(made.copied_bytes),
        made.destination
    );
    Ok(())
}

/// Keeps a second backup of the same store out: it would take the first one's files away.
fn alone(store: &Path) -> Result<File> {
    let shown = store.display();
    let folder = File::open(store)
        .with_context(|| format!("{shown} cannot be opened here: a backup runs on the node's own machine"))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => bail!("another `larder backup` of {shown} is under way; wait for its end"),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {shown}")),
    }
}

/// Refuses a destination that has backups of another store, also of the one that this one was restored from, because that one may go on.
fn check_owner(others: &Listed, checkpoint: &Checkpoint, set: &BackupSet) -> Result<()> {
    let Checkpoint { store_name, former_names, .. } = checkpoint;
    let Some(other) = others.backups.iter().find(|other| other.store_name != *store_name) else { return Ok(()) };
    let restored = match former_names.contains(&other.store_name) {
        true => ", the one that this store was restored from,",
        false => "",
    };
    let (location, other) = (set.location(), &other.store_name);
    bail!("{location} holds backups of another store{restored}: {other}, not {store_name}; name another destination")
}

fn verify(config: &StoreConfig, checkpoint: &Checkpoint) -> Result<()> {
    let nowhere = || checkpoint.store.join("nothing-lies-cold");
    let of_checkpoint = StoreConfig {
        path: checkpoint.store.clone(),
        cold_path: checkpoint.cold.clone().unwrap_or_else(nowhere),
        ..config.clone()
    };
    let stage = Stage::start("verify", Unit::Bytes);
    let verified = verify_store(&of_checkpoint, None, &mut |done, total| stage.set(done, total))?;
    if verified.damages.is_empty() {
        stage.done(format_args!("{} in {} files", bytes(verified.bytes), count(verified.files)));
        return Ok(());
    }
    let damages: Vec<_> = verified.damages.iter().map(told).collect();
    bail!(
        "the store is damaged, so no backup is made of it (--skip-verify makes one all the same):\n{}",
        damages.join("\n")
    )
}

/// Copies what the set does not have yet. Returns the backup, and how many files and bytes were copied.
fn copy(set: &BackupSet, others: &Listed, mut backup: Backup, checkpoint: &Checkpoint) -> Result<(Backup, u64, u64)> {
    let folders = [(Folder::Store, Some(&checkpoint.store)), (Folder::Cold, checkpoint.cold.as_ref())];
    let mut sources = Vec::new();
    for (folder, path) in folders.into_iter().filter_map(|(folder, path)| Some((folder, path?))) {
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            // RocksDB's lock and its own diary are no part of the store.
            if entry.file_type()?.is_file() && name != "LOCK" && !name.starts_with("LOG") {
                sources.push((folder, name, entry.path(), entry.metadata()?.len()));
            }
        }
    }
    sources.sort();
    let mut present = set.reusable(others, Utc::now())?;
    let mut paths = HashMap::new();
    let total: u64 = sources.iter().map(|(.., bytes)| bytes).sum();
    let stage = Stage::start("copy", Unit::Bytes);
    let (mut done, mut copied_files, mut copied_bytes) = (0, 0, 0);
    for (folder, name, path, bytes) in sources {
        let gone =
            || format!("{} is gone: erased users were taken out of the store meanwhile; back up again", path.display());
        let sha256 = sha256_file(&path).with_context(gone)?;
        let file = BackupFile { folder, name, bytes, sha256 };
        if present.get(&file.sha256) != Some(&bytes) {
            set.put(&path, &file)?;
            present.insert(file.sha256.clone(), bytes);
            copied_files += 1;
            copied_bytes += bytes;
        }
        paths.insert(file.sha256.clone(), path);
        backup.files.push(file);
        done += bytes;
        stage.set(done, total);
    }
    let complete = |backup: &Backup| -> Result<()> {
        for file in set.missing(backup)? {
            let path = paths.get(&file.sha256).with_context(|| format!("{} was never copied", file.name))?;
            set.put(path, file)?;
        }
        Ok(())
    };
    // Others may work at the destination too. What they deleted before the description was there is put back, once more when it is.
    complete(&backup)?;
    check_owner(&set.list()?, checkpoint, set)?;
    let backup = set.finish(backup)?;
    complete(&backup)?;
    stage.done(format_args!("{} of {}", bytes(copied_bytes), bytes(total)));
    Ok((backup, copied_files, copied_bytes))
}
