//! The demo's node: this very executable as a child process, watched from its start to its exit.
//!
//! The child cannot outlive the demo: it is killed when its handle is dropped, and it drains by itself when its stdin,
//! whose other end the demo holds, ends with the demo, however that ends.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use larder_serve::NodeConfig;
use rustix::process::{Pid, Signal, kill_process};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::connect;
use crate::files::write_whole;
use crate::progress::{Stage, Unit};

const START_TIMEOUT: Duration = Duration::from_secs(180);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of the log that are shown when the node does not do what it should.
const LOG_LINES: usize = 12;

pub(crate) struct NodeProcess {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl NodeProcess {
    /// Starts `larder serve` on free ports, with the given config otherwise. Its config and its log stay in `folder`.
    pub(crate) fn start(config: &NodeConfig, folder: &Path) -> Result<NodeProcess> {
        let mut config = config.clone();
        (config.node.listen, config.node.metrics_listen) = free_ports()?;
        let config_path = folder.join("node.toml");
        let text = toml::to_string(&config).context("the node's config cannot be written as TOML")?;
        write_whole(&config_path, format!("# Written by `larder demo` for its own node.\n{text}").as_bytes())?;
        let log = folder.join("node.log");
        let stderr = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let executable = std::env::current_exe().context("cannot find the larder executable")?;
        let child = Command::new(&executable)
            .args(["serve", "--stop-with-stdin", "--config"])
            .arg(&config_path)
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", executable.display()))?;
        Ok(NodeProcess { child, address: config.node.listen, log })
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits until the node says SERVING.
    pub(crate) async fn wait_until_serving(&mut self) -> Result<()> {
        let stage = Stage::start("node", Unit::Items);
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                bail!("the node ended while starting ({status}){}", self.last_words());
            }
            if self.is_serving().await {
                stage.done(format_args!("process {} serves at {}", self.child.id(), self.address));
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        bail!("the node is not serving after {} s{}", START_TIMEOUT.as_secs(), self.last_words())
    }

    async fn is_serving(&self) -> bool {
        let Ok(channel) = connect(&self.address()).await else { return false };
        let request = HealthCheckRequest { service: "larder.v1.Answers".to_owned() };
        let reply = HealthClient::new(channel).check(request).await;
        reply.is_ok_and(|reply| reply.into_inner().status() == ServingStatus::Serving)
    }

    /// Sends SIGTERM and waits for the node to drain; any other exit than 0 is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        let stage = Stage::start("stop", Unit::Items);
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("cannot send SIGTERM to the node")?;
        let started = Instant::now();
        while started.elapsed() < STOP_TIMEOUT {
            match self.child.try_wait()? {
                Some(status) if status.success() => {
                    stage.done("the node drained after SIGTERM and exited with 0");
                    return Ok(());
                }
                Some(status) => bail!("the node ended with {status} after SIGTERM{}", self.last_words()),
                None => thread::sleep(POLL_INTERVAL),
            }
        }
        bail!("the node has not ended {} s after SIGTERM{}", STOP_TIMEOUT.as_secs(), self.last_words())
    }

    /// The end of the node's log, for an error message.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        format!("; the end of {}:\n  {last}", self.log.display())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two loopback ports that nobody listens on right now.
fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let listen = || TcpListener::bind("127.0.0.1:0").context("no loopback port is free");
    // Both are held before either is let go, so that they differ.
    let (first, second) = (listen()?, listen()?);
    Ok((first.local_addr()?, second.local_addr()?))
}
