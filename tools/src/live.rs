//! Generations as the commands report them, whether a node told of them or the store itself did.

use std::fmt::Display;

use larder_serve::v1;
use serde::Serialize;

use crate::progress::count;

/// A generation of one view, live or kept for rollback.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedGeneration {
    pub(crate) tenant: String,
    pub(crate) view: String,
    pub(crate) generation: u32,
    pub(crate) live: bool,
    pub(crate) entities: u64,
    pub(crate) rows: u64,
    pub(crate) cold_entities: u64,
    pub(crate) cold_files: u64,
    pub(crate) bytes: u64,
    pub(crate) as_of_ms: i64,
}

/// What is live after a publish, a rollback or a placement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NowLive {
    pub(crate) tenant: String,
    pub(crate) view: String,
    pub(crate) generation: u32,
    pub(crate) previous: Option<u32>,
    pub(crate) entities: u64,
    pub(crate) rows: u64,
    pub(crate) cold_entities: u64,
    pub(crate) cold_files: u64,
    pub(crate) already_live: bool,
}

impl NowLive {
    /// The same for a person.
    pub(crate) fn sentence(&self, destination: &impl Display) -> String {
        let NowLive { tenant, view, generation, entities, rows, .. } = self;
        if self.already_live {
            return format!(
                "Generation {generation} of {tenant}:{view} was live already in {destination}; nothing was done."
            );
        }
        let cold = cold(self.cold_entities, self.cold_files);
        let kept = match self.previous {
            Some(previous) => format!("; generation {previous} is kept for rollback"),
            None => String::new(),
        };
        format!(
            "Generation {generation} of {tenant}:{view} is live in {destination}: {} entities{cold}, {} rows{kept}.",
            count(*entities),
            count(*rows)
        )
    }
}

/// How many entities lie cold, in brackets behind the number of all; nothing where none does.
pub(crate) fn cold(entities: u64, files: u64) -> String {
    let noun = if files == 1 { "file" } else { "files" };
    if entities == 0 { String::new() } else { format!(" ({} cold, in {} {noun})", count(entities), count(files)) }
}

impl From<v1::Generation> for ListedGeneration {
    fn from(listed: v1::Generation) -> ListedGeneration {
        ListedGeneration {
            tenant: listed.tenant,
            view: listed.view,
            generation: listed.generation,
            live: listed.live,
            entities: listed.entities,
            rows: listed.rows,
            cold_entities: listed.cold_entities,
            cold_files: listed.cold_files,
            bytes: listed.bytes,
            as_of_ms: listed.as_of_ms,
        }
    }
}

impl From<v1::PublishReply> for NowLive {
    fn from(reply: v1::PublishReply) -> NowLive {
        NowLive {
            tenant: reply.tenant,
            view: reply.view,
            generation: reply.live_generation,
            previous: (reply.previous_generation != 0).then_some(reply.previous_generation),
            entities: reply.entities,
            rows: reply.rows,
            cold_entities: reply.cold_entities,
            cold_files: reply.cold_files,
            already_live: reply.already_live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_is_live_and_what_lies_cold() {
        let live = NowLive {
            tenant: "demo".to_owned(),
            view: "orders".to_owned(),
            generation: 7,
            previous: None,
            entities: 1_000,
            rows: 3_000,
            cold_entities: 0,
            cold_files: 0,
            already_live: false,
        };
        let said = live.sentence(&"the store");
        assert_eq!(said, "Generation 7 of demo:orders is live in the store: 1,000 entities, 3,000 rows.");
        let placed = NowLive { previous: Some(6), cold_entities: 120, cold_files: 1, ..live.clone() };
        assert_eq!(
            placed.sentence(&"the store"),
            "Generation 7 of demo:orders is live in the store: 1,000 entities (120 cold, in 1 file), 3,000 rows; \
             generation 6 is kept for rollback."
        );
        let again = NowLive { already_live: true, ..live };
        let said = again.sentence(&"the store");
        assert_eq!(said, "Generation 7 of demo:orders was live already in the store; nothing was done.");
    }
}
