//! Which threads run on which CPUs.
//!
//! The node's threads have separate work, and separate CPUs where larder.toml says so: I/O (tokio's threads), fetching (the fetch thread and
//! all of the store's own), scoring (the score threads and the model's pool) and ingest (whatever changes the store). A thread takes over the
//! CPUs of the thread that starts it, so that a pool is pinned by opening it on a thread that is. Without any list nothing is pinned at all,
//! and the process follows the CPUs that it is given from outside.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::cpu_list;
use crate::error::Error;

/// Where Linux describes the NUMA nodes.
const NUMA_NODES: &str = "/sys/devices/system/node";

/// `[threads]`: the CPUs of each kind of thread, as lists like "0-3,8"; an empty list is any CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThreadsConfig {
    /// Of the threads that do network I/O.
    pub io_cores: String,
    /// Of the fetch thread and the store's own.
    pub fetch_cores: String,
    /// Of the score threads and the model's pool.
    pub score_cores: String,
    /// Of what changes the store: publishing, placing, erasing, compacting.
    pub ingest_cores: String,
    /// The NUMA node whose CPUs every list has that is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
}

impl ThreadsConfig {
    /// Each list with its name.
    pub(crate) fn lists(&self) -> [(&'static str, &str); 4] {
        [
            ("io_cores", &self.io_cores),
            ("fetch_cores", &self.fetch_cores),
            ("score_cores", &self.score_cores),
            ("ingest_cores", &self.ingest_cores),
        ]
    }
}

/// CPUs that threads may be bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cores(Option<BTreeSet<usize>>);

/// How much lower than those that answer the threads are that change the store, in steps of Unix.
pub(crate) const LOWER: i32 = 10;

/// Lowers the priority of the current thread, and of those it starts from now on: whoever answers has the CPU first.
pub(crate) fn lower_priority() {
    // Of this thread alone, as Linux does it.
    if let Err(error) = rustix::process::setpriority_process(None, LOWER) {
        tracing::warn!(%error, "a thread that changes the store keeps the priority of the others");
    }
}

impl Cores {
    /// How many there are; none where threads are not bound.
    pub(crate) fn count(&self) -> Option<usize> {
        self.0.as_ref().map(BTreeSet::len)
    }

    /// Binds the current thread, and the threads it starts from now on.
    pub(crate) fn pin(&self) {
        let Some(cpus) = &self.0 else { return };
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(cores = cpu_list::format(cpus), %error, "a thread is not bound to its CPUs");
        }
    }

    /// Does work on the current thread while it is bound, so that the threads it starts are.
    pub(crate) fn hold<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.0.as_ref().and_then(|_| sched_getaffinity(None).ok());
        self.pin();
        let outcome = work();
        if let Some(before) = before
            && let Err(error) = sched_setaffinity(None, &before)
        {
            tracing::warn!(%error, "a thread is not set free from CPUs it was bound to for a while");
        }
        outcome
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(cpus) => formatter.write_str(&cpu_list::format(cpus)),
            None => formatter.write_str("any"),
        }
    }
}

/// The CPUs of each kind of thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ThreadCores {
    pub(crate) io: Cores,
    pub(crate) fetch: Cores,
    pub(crate) score: Cores,
    pub(crate) ingest: Cores,
}

impl ThreadCores {
    /// Those that a configuration names, on this machine.
    pub(crate) fn of(config: &NodeConfig) -> Result<ThreadCores, Error> {
        ThreadCores::resolve(&config.threads, Path::new(NUMA_NODES), &allowed()).map_err(Error::Cores)
    }

    fn resolve(config: &ThreadsConfig, numa_nodes: &Path, allowed: &BTreeSet<usize>) -> Result<ThreadCores, String> {
        let named = config.lists().iter().any(|(_, list)| !list.trim().is_empty());
        if !named && config.numa_node.is_none() {
            return Ok(ThreadCores::default());
        }
        let any = match config.numa_node {
            Some(node) => of_numa_node(node, numa_nodes, allowed)?,
            None => allowed.clone(),
        };
        let mut resolved = Vec::with_capacity(4);
        for (name, list) in config.lists() {
            let cpus = cpu_list::parse(list).map_err(|problem| format!("threads.{name} = \"{list}\": {problem}"))?;
            if let Some(foreign) = cpus.difference(allowed).next() {
                let allowed = cpu_list::format(allowed);
                return Err(format!(
                    "threads.{name} = \"{list}\": CPU {foreign} does not exist or is not this process's; it may use {allowed}"
                ));
            }
            resolved.push(Cores(Some(if cpus.is_empty() { any.clone() } else { cpus })));
        }
        let mut next = resolved.into_iter();
        let mut next = || next.next().unwrap_or_default();
        Ok(ThreadCores { io: next(), fetch: next(), score: next(), ingest: next() })
    }
}

fn of_numa_node(node: u32, numa_nodes: &Path, allowed: &BTreeSet<usize>) -> Result<BTreeSet<usize>, String> {
    let file = numa_nodes.join(format!("node{node}")).join("cpulist");
    let list = std::fs::read_to_string(&file).map_err(|error| {
        let online = std::fs::read_to_string(numa_nodes.join("online")).unwrap_or_default();
        let online = if online.trim().is_empty() { "unknown" } else { online.trim() };
        format!("threads.numa_node = {node}: {} cannot be read ({error}); the nodes here are {online}", file.display())
    })?;
    let cpus = cpu_list::parse(&list).map_err(|problem| format!("{}: {problem}", file.display()))?;
    let usable: BTreeSet<usize> = cpus.intersection(allowed).copied().collect();
    if usable.is_empty() {
        return Err(format!(
            "threads.numa_node = {node}: its CPUs are {}, and this process may use {}",
            cpu_list::format(&cpus),
            cpu_list::format(allowed)
        ));
    }
    Ok(usable)
}

/// The CPUs that this process may use: those of its first thread, which is never bound.
pub(crate) fn allowed() -> BTreeSet<usize> {
    let set = sched_getaffinity(Some(rustix::process::getpid())).or_else(|_| sched_getaffinity(None));
    set.map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()).unwrap_or_default()
}

/// The runtime that serves a node: `node.io_threads` threads, on `threads.io_cores`.
///
/// # Errors
/// [`Error::Cores`] for CPUs that cannot be used, [`Error::System`] when threads cannot be started.
pub fn runtime(config: &NodeConfig) -> Result<tokio::runtime::Runtime, Error> {
    let io = ThreadCores::of(config)?.io;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(config.node.io_threads).thread_name("larder-io").on_thread_start(move || io.pin());
    let started = builder.enable_all().build();
    started.map_err(|error| Error::System { context: "starting tokio", source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(change: impl FnOnce(&mut ThreadsConfig), numa_nodes: &Path) -> Result<[String; 4], String> {
        let mut config = ThreadsConfig::default();
        change(&mut config);
        let cores = ThreadCores::resolve(&config, numa_nodes, &(0..8).collect())?;
        Ok([cores.io, cores.fetch, cores.score, cores.ingest].map(|cores| cores.to_string()))
    }

    #[test]
    fn nothing_is_bound_unless_something_is_named() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(resolve(|_| (), nowhere).unwrap(), ["any", "any", "any", "any"]);
        let lists = |config: &mut ThreadsConfig| {
            config.io_cores = "0".to_owned();
            config.score_cores = "2-5".to_owned();
        };
        // Those left empty are free of the CPUs of whoever starts them.
        assert_eq!(resolve(lists, nowhere).unwrap(), ["0", "0-7", "2-5", "0-7"]);
    }

    #[test]
    fn a_numa_node_stands_for_its_cpus() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("node1")).unwrap();
        std::fs::write(folder.path().join("node1/cpulist"), "4-7,12-15\n").unwrap();
        std::fs::write(folder.path().join("online"), "0-1\n").unwrap();
        let node = |node| {
            move |config: &mut ThreadsConfig| {
                config.numa_node = Some(node);
                config.io_cores = "0".to_owned();
            }
        };
        assert_eq!(resolve(node(1), folder.path()).unwrap(), ["0", "4-7", "4-7", "4-7"]);
        let message = resolve(node(2), folder.path()).unwrap_err();
        assert!(message.contains("threads.numa_node = 2") && message.contains("the nodes here are 0-1"), "{message}");
        std::fs::write(folder.path().join("node1/cpulist"), "12-15\n").unwrap();
        let message = resolve(node(1), folder.path()).unwrap_err();
        assert!(message.contains("its CPUs are 12-15, and this process may use 0-7"), "{message}");
    }

    #[test]
    fn a_cpu_that_cannot_be_used_is_told() {
        let message = resolve(|config| config.score_cores = "6-9".to_owned(), Path::new("/nowhere")).unwrap_err();
        assert_eq!(
            message,
            "threads.score_cores = \"6-9\": CPU 8 does not exist or is not this process's; it may use 0-7"
        );
    }

    #[test]
    fn threads_take_over_the_cpus_of_whoever_starts_them_and_the_starter_is_free_again() {
        fn here() -> BTreeSet<usize> {
            let set = sched_getaffinity(None).unwrap();
            (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
        }
        let before = here();
        let last: BTreeSet<usize> = before.last().copied().into_iter().collect();
        let started = Cores(Some(last.clone())).hold(|| std::thread::spawn(here));
        assert_eq!((started.join().unwrap(), here()), (last, before.clone()));
        assert_eq!(Cores::default().hold(here), before);
    }
}
