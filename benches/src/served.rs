//! A node as a process of its own, on one core, for benchmarks that put load on it: started, watched and stopped.
//!
//! The program is `larder` as `make build` makes it (LARDER_BIN), so that what is measured is what is shipped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Outcome, on_core};

/// The core of the node; the generator has the other one.
pub const NODE_CORE: usize = 0;
/// The core of whatever puts load on a node.
pub const LOAD_CORE: usize = 1;

const START_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// The program that `make build` makes.
///
/// # Errors
/// LARDER_BIN does not name it.
pub fn larder() -> Outcome<PathBuf> {
    let path = std::env::var_os("LARDER_BIN").map(PathBuf::from).ok_or("LARDER_BIN is not set: run this by make")?;
    if !path.is_file() {
        return Err(format!("{} is not there: run this by make", path.display()).into());
    }
    Ok(path)
}

/// Runs a command of larder to its end.
///
/// # Errors
/// It failed; what it said is the message.
pub fn run_larder(arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(larder()?).args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("larder {}: {said}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A node that serves. Dropping it ends it at once.
#[derive(Debug)]
pub struct ServedNode {
    child: Child,
    address: String,
    metrics: String,
}

impl ServedNode {
    /// Writes `folder/NAME.toml` with these settings, ports added, and serves it.
    ///
    /// # Errors
    /// The node does not start.
    pub fn start(folder: &Path, name: &str, settings: &str, arguments: &[&str]) -> Outcome<ServedNode> {
        let (address, metrics) = two_free_addresses()?;
        let config = folder.join(name).with_extension("toml");
        let node = format!("[node]\nlisten = \"{address}\"\nmetrics_listen = \"{metrics}\"\nlog = \"warn\"\n");
        fs::write(&config, node + settings)?;
        let log = File::create(folder.join(name).with_extension("log"))?;
        let mut command = on_core(NODE_CORE, &larder()?.to_string_lossy());
        command.args(["serve", "--stop-with-stdin", "--config"]).arg(&config).args(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut node = ServedNode { child, address, metrics };
        let started = Instant::now();
        while !node.http("/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 200")) {
            if let Some(status) = node.child.try_wait()? {
                let said = fs::read_to_string(folder.join(name).with_extension("log"))?;
                return Err(format!("the node ended while starting ({status}): {said}").into());
            }
            if started.elapsed() > START_TIMEOUT {
                return Err("the node does not serve".into());
            }
            thread::sleep(POLL);
        }
        Ok(node)
    }

    /// Where it serves gRPC.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A page of its HTTP side, with its head.
    ///
    /// # Errors
    /// It does not answer.
    pub fn http(&self, path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }

    /// Processor time that its threads have used.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn cpu(&self) -> Outcome<CpuTimes> {
        CpuTimes::of(self.child.id())
    }
}

/// Processor time that the threads of a process have used, each from its beginning.
#[derive(Debug, Clone)]
pub struct CpuTimes(BTreeMap<u32, (String, Duration)>);

impl CpuTimes {
    /// As it is now.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn of(process: u32) -> Outcome<CpuTimes> {
        let mut times = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            let (folder, number) = (task.path(), task.file_name().to_string_lossy().parse()?);
            // A thread may end meanwhile.
            let read = |file: &str| fs::read_to_string(folder.join(file));
            let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else { continue };
            let nanos = stat.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
            times.insert(number, (name.trim().to_owned(), Duration::from_nanos(nanos)));
        }
        Ok(CpuTimes(times))
    }

    /// What was used since, by the threads that there are now and whose names begin with one of these.
    pub fn since(&self, before: &CpuTimes, names: &[&str]) -> Duration {
        let ours = self.0.iter().filter(|(_, (name, _))| names.iter().any(|begins| name.starts_with(begins)));
        let used = |(number, (_, time)): (&u32, &(String, Duration))| {
            time.saturating_sub(before.0.get(number).map_or(Duration::ZERO, |(_, time)| *time))
        };
        ours.map(used).sum()
    }

    /// The same by name.
    pub fn by_name(&self, before: &CpuTimes) -> BTreeMap<String, Duration> {
        let mut sums = BTreeMap::new();
        for (name, _) in self.0.values() {
            sums.entry(name.clone()).or_insert_with(|| self.since(before, &[name]));
        }
        sums
    }
}

impl Drop for ServedNode {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two loopback addresses that nobody listens on right now.
fn two_free_addresses() -> Outcome<(String, String)> {
    // Both are held before either is let go, so that they differ.
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((first.local_addr()?.to_string(), second.local_addr()?.to_string()))
}
