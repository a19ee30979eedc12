//! `larder verify`: proves that a closed store, or a generation that is not published yet, is as it was written.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use larder_serve::NodeConfig;
use larder_store::{Damage, Verified, verify_generation, verify_store};
use serde_json::{Value, json};

use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, bytes, count};

#[derive(Debug, Args)]
#[command(
    after_help = "Reads every file of the store named in the config, which must be closed: the rows, the write-ahead logs, the records, the cold \
files, the hot-set file. Nothing is changed, and a folder that may only be read will do. To prove a running node's store, verify a backup of it: `larder restore --check`.

Exit code 1 when something is damaged; each damaged file is told with what that costs and what helps.

Examples:
  larder verify
  larder verify --config data/demo/larder.toml --json
  larder verify --generation built/orders"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Verify the folder of a built generation instead
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    generation: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let stage = Stage::start("verify", Unit::Bytes);
    let mut progress = |done, total| stage.set(done, total);
    let (what, verified) = match &arguments.generation {
        Some(dir) => (format!("The generation in {}", dir.display()), verify_generation(dir, &mut progress)),
        None => {
            let config = NodeConfig::load(&arguments.config)?;
            let hot_set = config.hot_set_file();
            let verified = verify_store(&config.store, Some(&hot_set), &mut progress)?;
            (format!("The store in {}", config.store.path.display()), verified)
        }
    };
    stage.done(format_args!("{} in {} files", bytes(verified.bytes), count(verified.files)));
    if arguments.json {
        print_json(&to_json(&verified))?;
    } else if verified.damages.is_empty() {
        let (files, read) = (count(verified.files), bytes(verified.bytes));
        say!("{what} is whole: {files} files, {read}, every checksum is right.");
    } else {
        verified.damages.iter().for_each(|damage| say!("{}", told(damage)));
    }
    match verified.damages.len() {
        0 => Ok(()),
        1 => bail!("{what} is damaged in one place"),
        places => bail!("{what} is damaged in {places} places"),
    }
}

/// A damage as a person reads it: where, what, what it means, what to do.
pub(crate) fn told(damage: &Damage) -> String {
    let Damage { path, part, reason } = damage;
    format!("{} ({}): {reason}\n  means: {}\n  to do: {}", path.display(), part.label(), part.means(), part.advice())
}

fn to_json(verified: &Verified) -> Value {
    let damage = |damage: &Damage| {
        json!({
            "path": damage.path.display().to_string(),
            "part": damage.part.label(),
            "reason": damage.reason,
            "means": damage.part.means(),
            "advice": damage.part.advice(),
        })
    };
    json!({
        "whole": verified.damages.is_empty(),
        "files": verified.files,
        "bytes": verified.bytes,
        "damages": verified.damages.iter().map(damage).collect::<Vec<_>>(),
    })
}
