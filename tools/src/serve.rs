//! `larder serve`: runs the node until it is told to stop, and then lets it finish what it has let in.
//!
//! The first SIGTERM or SIGINT drains, a second one ends the process at once: whoever sends two does not want to wait.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use larder_serve::NodeConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// How long blocking work that nobody waits for any more may hold up the end of the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(
    after_help = "Logs go to stderr; RUST_LOG overrides [node] log. SIGTERM or SIGINT drains and stops; a second one stops at once.

Examples:
  larder serve --config larder.toml
  larder serve --config test.toml --allow-chaos
  RUST_LOG=larder_serve=debug larder serve --config data/demo/larder.toml"
)]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Let the node have faults on purpose: [chaos] in the configuration, and `larder chaos`. For tests
    #[arg(long)]
    allow_chaos: bool,
    /// Stop as on SIGTERM when stdin ends, so that the node never outlives the process that holds the other end
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut config = NodeConfig::load(&arguments.config)?;
    config.allow_chaos = arguments.allow_chaos;
    start_logging(&config.node.log)?;
    let runtime = larder_serve::runtime(&config)?;
    let served = runtime.block_on(async {
        let signals = Signals::listen()?;
        let stdin_ended = arguments.stop_with_stdin.then(stdin_ends);
        larder_serve::run(config, stop_is_asked(signals, stdin_ended)).await?;
        Ok(())
    });
    // A node that is stopped while it warms leaves its loading behind; the process does not wait for that.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    served
}

fn start_logging(default_filter: &str) -> Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).with_context(|| format!("RUST_LOG = {filter:?}"))?
        }
        _ => EnvFilter::try_new(default_filter).with_context(|| format!("node.log = {default_filter:?}"))?,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn stop_is_asked(mut signals: Signals, stdin_ended: Option<oneshot::Receiver<()>>) {
    match stdin_ended {
        Some(ended) => tokio::select! {
            () = signals.next() => {}
            _ = ended => {}
        },
        None => signals.next().await,
    }
    tokio::spawn(async move {
        signals.next().await;
        eprintln!("larder: a second signal, stopping at once");
        std::process::exit(1);
    });
}

/// Resolves when stdin has ended. The thread stays in its read until then; the process does not wait for it.
fn stdin_ends() -> oneshot::Receiver<()> {
    let (ended, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut ignored = [0; 256];
        while io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
        // Nobody waits any more once the node has stopped for another reason.
        let _ = ended.send(());
    });
    receiver
}
