//! Which node a command asks: one by its address or, where several nodes share the users, the one that has the user.

use anyhow::{Result, ensure};
use clap::Args;
use larder_store::{MAX_SHARDS, Shard};

use crate::load::Nodes;

#[derive(Debug, Clone, Args)]
pub(crate) struct NodeAddress {
    /// The node, as host:port
    #[arg(long, default_value = "127.0.0.1:7700")]
    addr: String,
    /// Instead the nodes of all shards, from 0/n on, as host:port,host:port,...; the one that has the user is asked
    #[arg(long, value_name = "NODES", value_delimiter = ',', conflicts_with = "addr")]
    shards: Vec<String>,
}

impl NodeAddress {
    /// The address of the node that has a user, and what to tell it of the routing; anybody's node will do for nobody.
    pub(crate) fn of(&self, user: &str) -> Result<(&str, Option<Shard>)> {
        if self.shards.is_empty() {
            return Ok((&self.addr, None));
        }
        let count = self.shards.len();
        ensure!(count <= MAX_SHARDS as usize, "--shards names {count} nodes; at most {MAX_SHARDS} are possible");
        let shard = Shard::of(user, count as u32);
        Ok((&self.shards[shard.index() as usize], Some(shard)))
    }

    /// All of them, for questions of many users.
    pub(crate) fn nodes(&self) -> Result<Nodes> {
        if self.shards.is_empty() { Ok(Nodes::one(&self.addr)) } else { Nodes::sharded(self.shards.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_asked_of_the_node_that_has_them() {
        let shards = ["a:1", "b:1", "c:1", "d:1"].map(str::to_owned).to_vec();
        let nodes = NodeAddress { addr: "x:1".to_owned(), shards };
        assert_eq!(nodes.of("user-17").unwrap(), ("b:1", Some("1/4".parse().unwrap())));
        assert_eq!(nodes.of("u0000042").unwrap(), ("c:1", Some("2/4".parse().unwrap())));
        assert_eq!(nodes.of("").unwrap(), ("a:1", Some("0/4".parse().unwrap())));
        let one = NodeAddress { shards: Vec::new(), ..nodes };
        assert_eq!(one.of("user-17").unwrap(), ("x:1", None));
    }
}
