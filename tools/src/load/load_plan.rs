//! A load as it will be put to a node: where to, what, when, by how many connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::mix::Mix;
use super::nodes::Nodes;
use super::schedule::Offer;

/// The most connections of a load, to all nodes together.
pub const MAX_CONNECTIONS: usize = 1_000;
/// The most threads of a load.
pub const MAX_THREADS: usize = 64;
/// The most questions a load may have in flight.
pub const MAX_IN_FLIGHT: usize = 1_000_000;
/// The longest deadline.
pub const MAX_DEADLINE: Duration = Duration::from_secs(90);

/// A load, ready to be run as often as one likes.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The node, or the nodes of all shards.
    pub nodes: Nodes,
    /// HTTP/2 connections to each node, which take turns.
    pub connections: usize,
    /// Threads that send, each with a share of the connections.
    pub threads: usize,
    /// Questions in flight beyond which none is sent: it is counted as not sent.
    pub max_in_flight: usize,
    /// Sent with every question; an answer is in time within it, counted from when the question was due.
    pub deadline: Duration,
    /// Offered before the run counts.
    pub warm_up: Duration,
    /// What is offered, and when.
    pub offer: Offer,
    /// Who asks what.
    pub mix: Arc<Mix>,
    /// The seed of arrivals.
    pub seed: u64,
    /// The number of the first question in the mix: a run that goes on where another ended repeats none of its texts.
    pub first_question: u64,
    /// How the run calls itself in its report.
    pub command: String,
}

impl LoadPlan {
    /// Refuses what cannot be run.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: usize, most: usize| {
            ensure!((1..=most).contains(&value), "{name} = {value}: 1 to {most} is allowed");
            Ok(())
        };
        let nodes = self.nodes.addresses().len();
        if nodes == 1 {
            within("connections", self.connections, MAX_CONNECTIONS)?;
        } else {
            within(&format!("connections to each of {nodes} nodes"), self.connections, MAX_CONNECTIONS / nodes)?;
        }
        within("threads", self.threads, MAX_THREADS)?;
        within("max-in-flight", self.max_in_flight, MAX_IN_FLIGHT)?;
        ensure!(
            self.threads <= self.connections,
            "{} threads and {} connections: every thread needs one of its own",
            self.threads,
            self.connections
        );
        ensure!(
            (Duration::from_millis(1)..=MAX_DEADLINE).contains(&self.deadline),
            "a deadline of {} ms: 1 to {} ms is allowed",
            self.deadline.as_millis(),
            MAX_DEADLINE.as_millis()
        );
        Ok(())
    }

    /// How long the run counts.
    pub fn counted(&self) -> Duration {
        match &self.offer {
            Offer::Curve(profile, _) => profile.duration(),
            Offer::Trace(trace) => trace.duration().saturating_sub(self.warm_up),
        }
    }
}

/// Ends a run from outside: asked once, nothing more is sent; asked twice, replies are no longer waited for.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_asked_twice(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}
