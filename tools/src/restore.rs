//! `larder restore`: a new store of a backup. Every file is checked as it comes, the whole is verified, and nothing that is there is overwritten.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use larder_serve::NodeConfig;
use larder_store::{DiskSpace, Restoring, StoreConfig, verify_store};
use serde::Serialize;
use serde_json::json;

use crate::backup_manifest::{Backup, Folder};
use crate::backup_set::{BackupSet, Listed, Unreadable};
use crate::output::{moment, print_json, say, table};
use crate::progress::{Stage, Unit, bytes, count};
use crate::verify::told;

#[derive(Debug, Args)]
#[command(
    after_help = "Makes the store in the config's store.path and store.cold_path, which must be empty or not exist. A restore that was cut short \
leaves folders that no node opens; run it again. Users who were erased after the backup was taken are in it: erase them again.

The restored store has a name of its own and is not the one that was backed up, which may go on: give it another place for its backups.

Examples:
  larder restore /backups/shop
  larder restore s3://my-bucket/shop --list
  larder restore s3://my-bucket/shop --backup 20261120T182233.500Z --config larder.toml
  larder restore /backups/shop --check"
)]
pub(crate) struct Arguments {
    /// Folder or URL where the backups of the store are
    source: String,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Which backup [default: the newest]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Only list the backups
    #[arg(long, conflicts_with_all = ["backup", "check"])]
    list: bool,
    /// Only check that every file of the backup is there and whole
    #[arg(long)]
    check: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Restored {
    backup: String,
    taken_at_ms: i64,
    files: u64,
    bytes: u64,
    /// Empty where the backup was only checked.
    store_path: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let set = BackupSet::at(&arguments.source)?;
    let listed = set.list()?;
    if arguments.list {
        return list(&set, &listed, arguments.json);
    }
    listed.tell_unreadable();
    let Listed { mut backups, unreadable } = listed;
    let chosen = match &arguments.backup {
        None => backups.len().checked_sub(1),
        Some(id) => backups.iter().position(|backup| backup.id == *id),
    };
    let backup = match (chosen, &arguments.backup) {
        (Some(at), _) => backups.swap_remove(at),
        (None, Some(id)) if unreadable.iter().any(|other| other.id == *id) => {
            bail!("the description of backup {id} is damaged; take another backup")
        }
        (None, Some(id)) => {
            bail!("{} holds no backup {id}; `larder restore {} --list` shows them", set.location(), arguments.source)
        }
        (None, None) => bail!("{} holds no finished backup", set.location()),
    };
    let store_path = if arguments.check {
        check(&set, &backup)?;
        String::new()
    } else {
        let config = NodeConfig::load(&arguments.config)?;
        restore(&set, &backup, &config.store)?;
        config.store.path.display().to_string()
    };
    let (files, all) = (backup.files.len() as u64, backup.bytes());
    let (id, taken_at) = (backup.id.clone(), moment(backup.taken_at_ms));
    let restored = Restored { backup: id, taken_at_ms: backup.taken_at_ms, files, bytes: all, store_path };
    if arguments.json {
        return print_json(&restored);
    }
    let Restored { backup, store_path, .. } = &restored;
    let (files, all) = (count(files), bytes(all));
    if arguments.check {
        say!("Backup {backup} is whole: {files} files, {all}.");
    } else {
        say!(
            "The store of {taken_at} (backup {backup}) is in {store_path}: {files} files, {all}, every checksum is right."
        );
    }
    Ok(())
}

fn list(set: &BackupSet, listed: &Listed, as_json: bool) -> Result<()> {
    let Listed { backups, unreadable } = listed;
    if as_json {
        let row = |backup: &Backup| {
            json!({
                "backup": backup.id, "taken_at_ms": backup.taken_at_ms, "files": backup.files.len(), "bytes": backup.bytes(),
            })
        };
        let damaged = |Unreadable { id, reason, .. }: &Unreadable| json!({ "backup": id, "damaged": reason });
        return print_json(&backups.iter().map(row).chain(unreadable.iter().map(damaged)).collect::<Vec<_>>());
    }
    listed.tell_unreadable();
    if backups.is_empty() {
        say!("{} holds no finished backup.", set.location());
        return Ok(());
    }
    let row = |backup: &Backup| {
        [backup.id.clone(), moment(backup.taken_at_ms), count(backup.files.len() as u64), bytes(backup.bytes())]
    };
    say!("{}", table(["backup", "taken at", "files", "size"], backups.iter().map(row)));
    Ok(())
}

fn check(set: &BackupSet, backup: &Backup) -> Result<()> {
    let stage = Stage::start("check", Unit::Bytes);
    let mut done = 0;
    for file in &backup.files {
        set.check(backup, file)?;
        done += file.bytes;
        stage.set(done, backup.bytes());
    }
    stage.done(bytes(done));
    Ok(())
}

fn restore(set: &BackupSet, backup: &Backup, config: &StoreConfig) -> Result<()> {
    let of = |folder: Folder| match folder {
        Folder::Store => &config.path,
        Folder::Cold => &config.cold_path,
    };
    let mut needs = Vec::new();
    for folder in [Folder::Store, Folder::Cold] {
        let bytes = backup.files.iter().filter(|file| file.folder == folder).map(|file| file.bytes).sum();
        needs.push((of(folder).as_path(), DiskSpace::of(of(folder))?, bytes));
    }
    check_room(&needs)?;
    let restoring = Restoring::begin(config)?;
    let stage = Stage::start("restore", Unit::Bytes);
    let mut done = 0;
    for file in &backup.files {
        set.get(backup, file, &of(file.folder).join(&file.name))?;
        done += file.bytes;
        stage.set(done, backup.bytes());
    }
    stage.done(bytes(done));
    let stage = Stage::start("verify", Unit::Bytes);
    let verified = verify_store(config, None, &mut |done, total| stage.set(done, total))?;
    let damages: Vec<_> = verified.damages.iter().map(told).collect();
    ensure!(
        damages.is_empty(),
        "the store was damaged when backup {} was taken; take another one with --backup:\n{}",
        backup.id,
        damages.join("\n")
    );
    stage.done(bytes(verified.bytes));
    restoring.finish().context("the restored store is whole and cannot be freed for use")
}

/// Refuses folders whose disks do not have the room that they need together.
fn check_room(needs: &[(&Path, DiskSpace, u64)]) -> Result<()> {
    for (_, DiskSpace { disk, path, free_bytes, .. }, _) in needs {
        let on_it = || needs.iter().filter(|(_, other, _)| other.disk == *disk);
        let needed: u64 = on_it().map(|(.., bytes)| bytes).sum();
        let folders: Vec<_> = on_it().map(|(folder, ..)| folder.display().to_string()).collect();
        ensure!(
            needed <= *free_bytes,
            "{} needs {} and its disk ({}) has {} left; free space there or name another folder in the config",
            folders.join(" with "),
            bytes(needed),
            path.display(),
            bytes(*free_bytes)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_on_one_disk_need_the_room_of_both() {
        let space =
            |disk, free_bytes| DiskSpace { path: PathBuf::from("/data"), free_bytes, total_bytes: 1 << 40, disk };
        let check = |cold_disk, free| {
            let (store, cold) = (Path::new("store"), Path::new("cold"));
            check_room(&[(store, space(1, free), 6 << 20), (cold, space(cold_disk, free), 5 << 20)])
        };
        assert!(check(2, 6 << 20).is_ok() && check(1, 11 << 20).is_ok());
        let message = check(1, 10 << 20).unwrap_err().to_string();
        assert!(message.contains("store with cold needs 11") && message.contains("/data"), "{message}");
        assert!(check(2, 5 << 20).unwrap_err().to_string().starts_with("store needs 6"));
    }
}
