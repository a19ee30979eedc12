//! The answer cache: the scores of questions that were asked before, for whoever asks the same words next.
//!
//! It holds un-personalised scores only (`scores`), so that nobody's features can reach another user through it. Its keys begin with the
//! tenant, because a cache shared between tenants tells each of them, by its speed, what the others' customers ask. A key is a SHA-256 and
//! not the text, and nothing in an entry names a user, so that erasing a user has nothing to do here; what an entry does hold, the text's
//! vector, goes when the node stops or the space is needed. Catalogue and encoders live as long as the process, and a head comes in only
//! after the scores, so that no entry is ever out of date.
//!
//! quick_cache keeps it: sharded, no work on a hit but a mark, evicting by weight. moka sends every hit through one channel.

use std::sync::Arc;

use larder_store::TenantId;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use crate::rung::Rung;
use crate::scores::Scores;
use crate::tenant::Tenant;

/// What an entry takes beside its scores: key, slot, table, counters of the shared pointer, and what the allocator rounds up.
const ENTRY_BYTES: usize = 144;
/// A usual entry, from which the cache plans its tables: a vector of 384 and some dozens of intents.
const USUAL_ENTRY_BYTES: usize = 2_048;

/// Scores by tenant, rung and text; bounded in bytes.
#[derive(Debug)]
pub(crate) struct AnswerCache(Option<Cache<ScoresKey, Arc<Scores>, InBytes>>);

/// A tenant, a rung's encoder and a text, letter for letter, as a hash from which none of them can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ScoresKey([u8; 32]);

impl ScoresKey {
    pub(crate) fn new(tenant: TenantId, rung: Rung, encoder: &str, text: &str) -> ScoresKey {
        let mut hash = Sha256::new();
        hash.update(tenant.0.to_le_bytes());
        for part in [rung.label(), encoder] {
            // Lengths keep one part's end from being read as the next one's beginning.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(text);
        ScoresKey(hash.finalize().into())
    }

    /// The key of a text on one of a tenant's rungs; none where the tenant has no such rung.
    pub(crate) fn of(tenant: &Tenant, rung: Rung, text: &str) -> Option<ScoresKey> {
        Some(ScoresKey::new(tenant.id, rung, tenant.ranker(rung)?.encoder.name(), text))
    }
}

impl AnswerCache {
    /// Holds up to that many bytes; with 0 it holds nothing and costs nothing.
    pub(crate) fn new(bytes: usize) -> AnswerCache {
        AnswerCache((bytes > 0).then(|| Cache::with_weighter(bytes / USUAL_ENTRY_BYTES, bytes as u64, InBytes)))
    }

    /// Whether it may hold anything.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The scores of a text, if it was asked before.
    pub(crate) fn lookup(&self, tenant: &Tenant, rung: Rung, text: &str) -> Option<Arc<Scores>> {
        // Before the hash, which is most of the work.
        self.0.as_ref()?.get(&ScoresKey::of(tenant, rung, text)?)
    }

    pub(crate) fn get(&self, key: &ScoresKey) -> Option<Arc<Scores>> {
        self.0.as_ref()?.get(key)
    }

    pub(crate) fn insert(&self, key: ScoresKey, scores: Arc<Scores>) {
        if let Some(cache) = &self.0 {
            cache.insert(key, scores);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }
}

#[derive(Debug, Clone)]
struct InBytes;

impl Weighter<ScoresKey, Arc<Scores>> for InBytes {
    fn weight(&self, _: &ScoresKey, scores: &Arc<Scores>) -> u64 {
        (scores.bytes() + ENTRY_BYTES) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(numbers: usize) -> Arc<Scores> {
        Arc::new(Scores::new(Rung::Full, false, &vec![0.5; numbers], &[0.25, 0.125]))
    }

    fn key(tenant: u32, rung: Rung, encoder: &str, text: &str) -> ScoresKey {
        ScoresKey::new(TenantId(tenant), rung, encoder, text)
    }

    #[test]
    fn what_was_put_in_comes_out_under_its_own_key_only() {
        let cache = AnswerCache::new(1 << 20);
        let own = key(1, Rung::Full, "bert", "where is it?");
        cache.insert(own, scores(384));
        assert_eq!(cache.get(&own), Some(scores(384)));
        for other in [
            key(2, Rung::Full, "bert", "where is it?"),
            key(1, Rung::Light, "bert", "where is it?"),
            key(1, Rung::Full, "bertw", "here is it?"),
            key(1, Rung::Full, "bert", "Where is it?"),
            key(1, Rung::Full, "bert", "where is it? "),
        ] {
            assert_eq!(cache.get(&other), None);
        }
    }

    #[test]
    fn it_never_holds_more_bytes_than_it_may() {
        let cache = AnswerCache::new(1 << 20);
        for at in 0..5_000 {
            cache.insert(key(1, Rung::Full, "bert", &at.to_string()), scores(at % 700));
            assert!(cache.bytes() <= 1 << 20, "{} bytes", cache.bytes());
        }
        assert!(cache.bytes() > 1 << 19, "only {} bytes are used", cache.bytes());
        let larger_than_all = key(1, Rung::Full, "bert", "large");
        cache.insert(larger_than_all, scores(1 << 20));
        assert!(cache.bytes() <= 1 << 20 && cache.get(&larger_than_all).is_none());
    }

    #[test]
    fn with_no_bytes_it_is_off() {
        let cache = AnswerCache::new(0);
        let key = key(1, Rung::Full, "bert", "where is it?");
        cache.insert(key, scores(4));
        assert_eq!((cache.get(&key), cache.bytes()), (None, 0));
    }
}
