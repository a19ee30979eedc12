//! Which entities are this node's, where several nodes share them: a call for another node's entity, or one that was routed by an old table, is
//! refused before any work, because the node would answer it as if it knew nothing of the user.
//!
//! The function from entity to shard is the store's; docs/sharding.md has it for callers.

use larder_store::Shard;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::Refusal;

/// Metadata key of the shard that the caller believes this node to be, "i/n".
pub const SHARD_HEADER: &str = "x-larder-shard";

/// Refuses a call that was routed to another shard than `own`, or by a table of another number of shards. A call that states none may come.
pub(crate) fn check_route(metadata: &MetadataMap, own: Shard) -> Result<(), Refusal> {
    let Some(stated) = metadata.get(SHARD_HEADER) else { return Ok(()) };
    let stated = stated.to_str().ok().and_then(|text| text.parse::<Shard>().ok());
    let stated =
        stated.ok_or_else(|| Refusal::Invalid(format!("{SHARD_HEADER} must be i/n with 0 <= i < n, such as 0/4")))?;
    if stated == own { Ok(()) } else { Err(Refusal::StaleRoute { stated, own }) }
}

/// The same for all calls of a service that does not ask who calls.
pub(crate) fn routed(own: Shard) -> impl Interceptor + Clone {
    move |request: Request<()>| match check_route(request.metadata(), own) {
        Ok(()) => Ok(request),
        Err(refusal) => Err(Status::from(refusal)),
    }
}

/// Refuses entities of which one is another shard's.
pub(crate) fn check_entities<'a>(entities: impl IntoIterator<Item = &'a str>, own: Shard) -> Result<(), Refusal> {
    match entities.into_iter().find(|entity| !own.holds(entity)) {
        Some(entity) => {
            Err(Refusal::WrongShard { entity: entity.to_owned(), right: Shard::of(entity, own.count()), own })
        }
        None => Ok(()),
    }
}

/// `[node] shard` in larder.toml: "i/n", or empty where one node has all.
pub(crate) mod setting {
    use larder_store::Shard;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
    pub(crate) fn serialize<S: Serializer>(shard: &Shard, serializer: S) -> Result<S::Ok, S::Error> {
        if shard.is_whole() { "".serialize(serializer) } else { shard.serialize(serializer) }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Shard, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(Shard::default()),
            text => text
                .parse()
                .map_err(|error| de::Error::custom(format!("node.shard: {error}; empty = one node has all"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;
    use tonic_types::StatusExt;

    #[test]
    fn a_refusal_names_the_right_shard_for_people_and_for_programs() {
        let own: Shard = "0/4".parse().unwrap();
        assert_eq!(check_entities(["user-1"], own), Ok(()));
        let status = Status::from(check_entities(["user-1", "user-17", "u0000042"], own).unwrap_err());
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "user-17 belongs to shard 1/4, this node is shard 0/4");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "wrong_shard");
        assert_eq!((info.metadata["shard"].as_str(), info.metadata["node_shard"].as_str()), ("1/4", "0/4"));
        assert_eq!(check_entities(["user-17", "u0000042"], Shard::default()), Ok(()));
    }

    #[test]
    fn a_stale_route_is_noticed() {
        let routed = |stated: &str, own: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(SHARD_HEADER, stated.parse().unwrap());
            check_route(&metadata, own.parse().unwrap()).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(check_route(&MetadataMap::new(), "3/4".parse().unwrap()), Ok(()));
        assert_eq!(routed("3/4", "3/4"), Ok(()));
        assert_eq!(routed("0/1", "0/1"), Ok(()));
        let says =
            "the call was sent to shard 1/2 (x-larder-shard), this node is shard 1/4; read the routing table again";
        assert_eq!(routed("1/2", "1/4").unwrap_err(), says);
        assert!(routed("1/4", "0/4").is_err() && routed("0/4", "0/1").is_err());
        assert!(routed("4/4", "0/4").unwrap_err().contains("must be i/n"));
    }

    #[test]
    fn the_setting_is_empty_where_there_are_no_shards() {
        let read = |line: &str| NodeConfig::parse(&format!("[node]\n{line}"));
        for (line, shard) in
            [("", "0/1"), ("shard = \"\"", "0/1"), ("shard = \"0/1\"", "0/1"), ("shard = \"2/4\"", "2/4")]
        {
            let config = read(line).unwrap();
            assert_eq!(config.node.shard.to_string(), shard);
            assert_eq!(config.store.shard, config.node.shard, "the store refuses other shards' generations");
            let written = toml::to_string(&config).unwrap();
            assert_eq!(NodeConfig::parse(&written).unwrap(), config);
        }
        let message = read("shard = \"4/4\"").unwrap_err();
        assert!(message.contains("node.shard: \"4/4\" is no shard: must be i/n"), "{message}");
    }
}
