//! `larder chaos`: gives a running node faults on purpose, shows them and takes them away.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use larder_serve::{ChaosConfig, NodeConfig, v1};
use serde::Serialize;

use crate::client::refusal;
use crate::destination::Destination;
use crate::output::{print_json, say};

#[derive(Debug, Args)]
#[command(after_help = "Only a node that was started with --allow-chaos takes faults.

Faults, with 0 for none:
  store_latency_ms      every fetch of features takes up to this much longer, at random
  cold_latency_ms       every read of the cold tier takes up to this much longer, at random
  cold_error_rate       share of the reads of the cold tier that fail, 0 to 1
  device_failure_rate   share of the jobs that a device fails, 0 to 1
  reply_latency_ms      every reply waits this long before it is sent, as if its client were slow
  drop_connection_rate  share of the questions whose connection is cut, 0 to 1
  seed                  decides which of them are struck

Examples:
  larder chaos --set cold_latency_ms=1000
  larder chaos --set cold_error_rate=0.5 --set drop_connection_rate=0.01
  larder chaos --show --json
  larder chaos --off")]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct Arguments {
    /// Set one fault and leave the others as they are; may be repeated
    #[arg(long, value_name = "FAULT=VALUE", group = "what")]
    set: Vec<String>,
    /// Take all faults away
    #[arg(long, group = "what")]
    off: bool,
    /// Show which faults the node has
    #[arg(long, group = "what")]
    show: bool,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    allowed: bool,
    #[serde(flatten)]
    faults: ChaosConfig,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let Destination::Node { address, mut admin, runtime } = Destination::running(&config)? else {
        bail!("a node was expected");
    };
    let shown = runtime.block_on(async {
        let shown = shown(admin.get_chaos(v1::GetChaosRequest {}).await?.into_inner());
        let wanted = match arguments {
            Arguments { show: true, .. } => return Ok(Ok(shown)),
            Arguments { off: true, .. } => ChaosConfig::default(),
            Arguments { set, .. } => match changed(shown.faults, set) {
                Ok(wanted) => wanted,
                Err(error) => return Ok(Err(error)),
            },
        };
        let reply = admin.set_chaos(v1::SetChaosRequest { chaos: Some(message(&wanted)) }).await?;
        Ok(Ok(self::shown(reply.into_inner())))
    });
    let shown = shown.map_err(|status| refusal(&status))??;
    if arguments.json {
        return print_json(&shown);
    }
    let allowed = if shown.allowed { "" } else { "; it was started without --allow-chaos" };
    if shown.faults == (ChaosConfig { seed: shown.faults.seed, ..ChaosConfig::default() }) {
        say!("The node at {address} has no faults on purpose{allowed}.");
        return Ok(());
    }
    say!("The node at {address} has these faults on purpose, until `larder chaos --off`:");
    for (fault, value) in toml::Table::try_from(shown.faults)? {
        say!("  {fault} = {value}");
    }
    Ok(())
}

/// The faults with some set anew.
fn changed(faults: ChaosConfig, set: &[String]) -> Result<ChaosConfig> {
    let mut table = toml::Table::try_from(faults)?;
    for one in set {
        let value: Option<toml::Table> = one.contains('=').then(|| one.parse().ok()).flatten();
        let Some(value) = value else {
            bail!("--set {one:?}: give a fault and a number, such as cold_latency_ms=1000")
        };
        table.extend(value);
    }
    table.try_into().with_context(|| format!("--set {}", set.join(" --set ")))
}

fn message(config: &ChaosConfig) -> v1::Chaos {
    v1::Chaos {
        store_latency_ms: config.store_latency_ms,
        cold_latency_ms: config.cold_latency_ms,
        cold_error_rate: config.cold_error_rate,
        device_failure_rate: config.device_failure_rate,
        reply_latency_ms: config.reply_latency_ms,
        drop_connection_rate: config.drop_connection_rate,
        seed: config.seed,
    }
}

fn shown(reply: v1::ChaosReply) -> Shown {
    let chaos = reply.chaos.unwrap_or_default();
    let faults = ChaosConfig {
        store_latency_ms: chaos.store_latency_ms,
        cold_latency_ms: chaos.cold_latency_ms,
        cold_error_rate: chaos.cold_error_rate,
        device_failure_rate: chaos.device_failure_rate,
        reply_latency_ms: chaos.reply_latency_ms,
        drop_connection_rate: chaos.drop_connection_rate,
        seed: chaos.seed,
    };
    Shown { allowed: reply.allowed, faults }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(faults: &[&str]) -> Result<ChaosConfig> {
        let before = ChaosConfig { seed: 7, reply_latency_ms: 3, ..ChaosConfig::default() };
        changed(before, &faults.iter().map(|fault| (*fault).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_not_set_stays() {
        let expected = ChaosConfig {
            seed: 7,
            reply_latency_ms: 0,
            cold_error_rate: 1.0,
            drop_connection_rate: 0.5,
            ..ChaosConfig::default()
        };
        assert_eq!(set(&["cold_error_rate=1", "drop_connection_rate=0.5", "reply_latency_ms = 0"]).unwrap(), expected);
    }

    #[test]
    fn a_fault_that_there_is_not_is_told_with_those_there_are() {
        for (fault, says) in [
            ("hot_latency_ms=1", "cold_latency_ms"),
            ("cold_latency_ms", "such as cold_latency_ms=1000"),
            ("cold_latency_ms=soon", "such as cold_latency_ms=1000"),
            ("cold_latency_ms=-1", "cold_latency_ms"),
        ] {
            let message = format!("{:#}", set(&[fault]).unwrap_err());
            assert!(message.contains(says), "{message}");
        }
    }
}
