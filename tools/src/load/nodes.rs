//! Where a load goes: to one node, or to the nodes of all shards, of which the one that has the user gets the user's questions.
//!
//! To a sharded set every question says which shard its node is taken for, as a client with a routing table does: a node that is another one
//! refuses, and the report counts it. A question of nobody in particular is answered by every node, so those take turns.

use anyhow::{Result, ensure};
use larder_store::Shard;

/// The most nodes that a report can tell apart.
pub const MAX_NODES: usize = 256;

/// The nodes of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    addresses: Vec<String>,
    /// What each is taken for; empty where one node has everybody.
    shards: Vec<Shard>,
}

impl Nodes {
    /// One node, as host:port.
    pub fn one(address: impl Into<String>) -> Nodes {
        Nodes { addresses: vec![address.into()], shards: Vec::new() }
    }

    /// The nodes of all shards, from 0/n on, as host:port.
    pub fn sharded(addresses: Vec<String>) -> Result<Nodes> {
        let count = addresses.len();
        ensure!((1..=MAX_NODES).contains(&count), "{count} nodes; 1 to {MAX_NODES} can be loaded at once");
        let shards = (0..count).map(|index| format!("{index}/{count}").parse()).collect::<Result<_, _>>()?;
        Ok(Nodes { addresses, shards })
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What the nodes are taken for, in their order; empty where one has everybody.
    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The place of the node that gets a user's question, which is the load's so many-th.
    pub(crate) fn of(&self, user: &str, question: u64) -> usize {
        let count = self.addresses.len();
        match user {
            "" => (question % count as u64) as usize,
            user => Shard::of(user, count as u32).index() as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> Nodes {
        Nodes::sharded(["a:1", "b:1", "c:1", "d:1"].map(str::to_owned).to_vec()).unwrap()
    }

    #[test]
    fn a_users_questions_go_to_the_node_that_has_the_user() {
        // As docs/sharding.md has them.
        for (user, node) in [("user-1", 0), ("user-17", 1), ("u0000042", 2), ("+8613800000000", 3)] {
            assert_eq!((four().of(user, 0), four().of(user, 3)), (node, node), "{user}");
        }
        assert_eq!(four().shards().iter().map(Shard::to_string).collect::<Vec<_>>(), ["0/4", "1/4", "2/4", "3/4"]);
        assert_eq!((0..8).map(|question| four().of("", question)).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn one_node_gets_everything_and_is_taken_for_nothing() {
        let one = Nodes::one("a:1");
        assert_eq!((one.of("user-17", 5), one.of("", 5), one.shards().len()), (0, 0, 0));
    }

    #[test]
    fn too_many_nodes_are_refused() {
        for count in [0, MAX_NODES + 1] {
            let error = Nodes::sharded(vec!["a:1".to_owned(); count]).unwrap_err().to_string();
            assert!(error.contains(&format!("{count} nodes; 1 to 256")), "{error}");
        }
    }
}
