//! Carrying the hot tier over a swap: before a generation becomes live, the rows of everybody who is hot in the present one are read from it and
//! made hot under its keys, so that publishing does not empty the cache. Afterwards the old keys go.

use std::sync::Arc;

use crate::Error;
use crate::generation::Generation;
use crate::hot::{Entry, Filling};
use crate::key::{self, PREFIX_BYTES};
use crate::lookup::{Rows, damaged_row};
use crate::plan::View;
use crate::store::Inner;

/// Keys read at a time.
const CHUNK: usize = 256;

/// The keys of the old generation that the hot tier held.
pub(crate) struct Carried(Vec<Arc<Box<[u8]>>>);

/// Makes hot in `to` what is hot in `from`. Live writes must know of `to` already; fetches must not ask for it yet.
pub(crate) fn carry(inner: &Inner, view: &View, from: Option<&Generation>, to: &Generation) -> Result<Carried, Error> {
    let Some(from) = from.filter(|_| inner.hot.is_on()) else { return Ok(Carried(Vec::new())) };
    let mut keys = inner.hot.keys(&from.manifest.id().prefix());
    keys.sort_unstable();
    for chunk in keys.chunks(CHUNK) {
        // In this order, as in a fetch.
        let read_at = inner.hot.clock();
        let filter = inner.live.filter();
        let snapshot = inner.warm.snapshot();
        let prefix = to.manifest.id().prefix();
        let new_keys: Vec<Vec<u8>> = chunk.iter().map(|key| [&prefix, &key[PREFIX_BYTES..]].concat()).collect();
        let base = snapshot.read(&new_keys.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let mut entries = Vec::with_capacity(chunk.len());
        for (new_key, base) in new_keys.into_iter().zip(base) {
            let Some(hash) = hash(to, &new_key) else { continue };
            let live = match filter.may_contain(hash) {
                true => snapshot.read_live(&[&key::live_key(&new_key)])?.pop().flatten(),
                false => None,
            };
            let combined = Rows { base, live }.combine(view, Some(to));
            let value = combined.map_err(|damaged| damaged_row(&snapshot, view, damaged))?;
            entries.push(Entry { key: new_key.into(), hash, found: value.as_deref().map(Arc::from) });
        }
        inner.hot.insert_all(Filling { read_at, entries });
    }
    Ok(Carried(keys))
}

impl Carried {
    /// Drops the old generation's entries, which nobody asks for any more.
    pub(crate) fn forget_old(self, inner: &Inner) {
        for key in self.0 {
            let id = key::GenerationId::of_key(&key);
            if let Some((id, entity)) = id.zip(key::read_entity(&key[PREFIX_BYTES..])) {
                inner.hot.forget(&key, key::key_hash(id.view, id.tenant, entity.as_bytes()));
            }
        }
    }
}

fn hash(generation: &Generation, key: &[u8]) -> Option<u64> {
    let entity = key::read_entity(&key[PREFIX_BYTES..])?;
    Some(key::key_hash(generation.manifest.view_id, generation.manifest.tenant, entity.as_bytes()))
}
