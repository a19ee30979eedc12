//! What came of a run of `larder warm`, for a program and for a person.

use larder_serve::v1;
use serde::Serialize;

use crate::progress::{bytes, count};

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) tenant: String,
    pub(crate) service: String,
    /// Entities that the file names and that are this node's.
    pub(crate) named: u64,
    /// Entities of other shards, which are left to their nodes.
    pub(crate) elsewhere: u64,
    /// Lines or rows without a key.
    pub(crate) unusable: u64,
    /// Entities that the node was told of.
    pub(crate) asked: u64,
    /// Of these, entities that a view knows something of.
    pub(crate) found: u64,
    pub(crate) already_hot: u64,
    /// Of those asked, entities of which all is hot at the end.
    pub(crate) hot: u64,
    /// That share.
    pub(crate) coverage: f64,
    pub(crate) hot_tier: HotTier,
    pub(crate) stopped: Option<Stopped>,
    pub(crate) seconds: f64,
}

/// What the node's hot tier holds at the end; one of the two limits is there.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct HotTier {
    pub(crate) entries: u64,
    pub(crate) limit_entries: Option<u64>,
    pub(crate) bytes: u64,
    pub(crate) limit_bytes: Option<u64>,
}

/// Why it ended before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stopped {
    HotTierFull,
    Interrupted,
}

/// What a reply says of the hot tier.
pub(crate) fn hot_tier(reply: &v1::WarmReply) -> HotTier {
    HotTier {
        entries: reply.hot_tier_entries,
        limit_entries: reply.hot_tier_limit_entries,
        bytes: reply.hot_tier_bytes,
        limit_bytes: reply.hot_tier_limit_bytes,
    }
}

impl HotTier {
    /// How much of the limit it is; 1 where nothing fits.
    pub(crate) fn share(self) -> f64 {
        let share = |held: u64, limit: u64| if limit == 0 { 1.0 } else { held as f64 / limit as f64 };
        match (self.limit_entries, self.limit_bytes) {
            (Some(limit), _) => share(self.entries, limit),
            (None, Some(limit)) => share(self.bytes, limit),
            (None, None) => 0.0,
        }
    }

    /// "3.2 MiB of 256 MiB"
    fn words(self) -> String {
        match (self.limit_entries, self.limit_bytes) {
            (Some(limit), _) => format!("{} of {} rows", count(self.entries), count(limit)),
            (None, Some(limit)) => format!("{} of {}", bytes(self.bytes), bytes(limit)),
            (None, None) => bytes(self.bytes),
        }
    }
}

impl Outcome {
    /// The same for a person.
    pub(crate) fn sentences(&self, destination: &str) -> String {
        let Outcome { tenant, named, elsewhere, unusable, asked, found, already_hot, .. } = self;
        let mut text = format!(
            "Asked {destination} for {} of {} entities of {tenant}: {} found, {} hot before.\n\
             Coverage: {:.1} % of those asked for are hot. The hot tier holds {}.",
            count(*asked),
            count(*named),
            count(*found),
            count(*already_hot),
            100.0 * self.coverage,
            self.hot_tier.words(),
        );
        if *elsewhere > 0 {
            text += &format!("\nLeft to other shards' nodes: {} entities.", count(*elsewhere));
        }
        if *unusable > 0 {
            text += &format!("\nLines or rows without a key: {}.", count(*unusable));
        }
        if self.stopped == Some(Stopped::HotTierFull) {
            text += "\nStopped: the hot tier is full, and each further row pushes out another one. Give it more room \
                     (store.hot_capacity_mib), or go on with --even-if-full.";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_told_in_sentences() {
        let hot_tier = HotTier { entries: 10, bytes: 1 << 20, limit_bytes: Some(2 << 20), limit_entries: None };
        let outcome = Outcome {
            tenant: "demo".to_owned(),
            named: 3_000,
            asked: 1_000,
            found: 999,
            coverage: 0.5,
            hot_tier,
            stopped: Some(Stopped::HotTierFull),
            ..Outcome::default()
        };
        let said = outcome.sentences("the node");
        let begins = "Asked the node for 1,000 of 3,000 entities of demo: 999 found, 0 hot before.\n\
                      Coverage: 50.0 % of those asked for are hot. The hot tier holds 1.00 MiB of 2.00 MiB.\nStopped: the hot tier is full";
        assert!(said.starts_with(begins), "{said}");
        assert!((hot_tier.share() - 0.5).abs() < 1e-9);
        let counted = HotTier { entries: 10, limit_entries: Some(20), ..HotTier::default() };
        assert_eq!((counted.words(), counted.share()), ("10 of 20 rows".to_owned(), 0.5));
    }
}
