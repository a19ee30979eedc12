//! Carrying the hot tier over a swap: before a generation becomes live, the rows of everybody who is hot in the present one are read from it and
//! made hot under its keys, so that publishing does not empty the cache. Afterwards the old keys go.

use crate::Error;
use crate::generation::Generation;
use crate::hot::Filling;
use crate::hot_row::HotRow;
use crate::key::{self, GenerationId, PREFIX_BYTES};
use crate::lookup::{Rows, Value, damaged_row};
use crate::plan::View;
use crate::store::Inner;

/// Keys read at a time.
const CHUNK: usize = 256;

/// What the hot tier held of the old generation.
pub(crate) struct Carried(Vec<HotRow>);

/// Makes hot in `to` what is hot in `from`. Live writes must know of `to` already; fetches must not ask for it yet. What cannot be read is not
/// made hot: whoever asks for it gets the error.
pub(crate) fn carry(inner: &Inner, view: &View, from: &Generation, to: &Generation) -> Carried {
    let mut rows = inner.hot.entries(&from.manifest.id().prefix());
    rows.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    for chunk in rows.chunks(CHUNK) {
        let prefix = to.manifest.id().prefix();
        let new_keys = chunk.iter().map(|row| [&prefix, &row.key()[PREFIX_BYTES..]].concat()).collect();
        if let Err(error) = make_hot(inner, view, to, new_keys) {
            tracing::warn!(view = %view.config.name, %error, "rows not made hot before the swap");
        }
    }
    Carried(rows)
}

/// Reads sorted keys of one generation into the hot tier. Returns how many are hot now: what lies cold is left out.
pub(crate) fn make_hot(inner: &Inner, view: &View, to: &Generation, new_keys: Vec<Vec<u8>>) -> Result<u64, Error> {
    // In this order, as in a fetch.
    let read_at = inner.hot.clock();
    let filter = inner.live.filter();
    let snapshot = inner.warm.snapshot();
    let base = snapshot.read(&new_keys.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let mut hot_rows = Vec::with_capacity(new_keys.len());
    for (new_key, base) in new_keys.into_iter().zip(base) {
        let Some((id, entity)) = read_key(&new_key) else { continue };
        let hash = key::key_hash(id.view, id.tenant, entity.as_bytes());
        let live = match filter.may_contain(hash) {
            true => snapshot.read_live(&[&key::live_key(&new_key)])?.pop().flatten(),
            false => None,
        };
        let rows = Rows { base: base.map(Value::Pinned), live: live.map(Value::Pinned) };
        let damaged = |damaged| damaged_row(&snapshot, view, damaged);
        // What lies cold is not waited for; it becomes hot when it is asked for.
        if rows.base.is_none()
            && to.cold_part(&entity).is_some()
            && !rows.need_no_snapshot(view, to).map_err(damaged)?
        {
            continue;
        }
        let combined = rows.combine(view, Some(to), inner.erasures.erased_ms(id.tenant, &entity));
        let value = combined.map_err(damaged)?;
        hot_rows.push(HotRow::new(&new_key, hash, value.as_deref()));
    }
    let count = hot_rows.len() as u64;
    inner.hot.insert_all(Filling { read_at, rows: hot_rows });
    Ok(count)
}

impl Carried {
    /// Drops the old generation's entries, which nobody asks for any more.
    pub(crate) fn forget_old(self, inner: &Inner) {
        // In parts, because no insert comes in between.
        self.0.chunks(CHUNK).for_each(|rows| inner.hot.forget_all(rows));
    }
}

/// The parts of a base key.
fn read_key(key: &[u8]) -> Option<(GenerationId, String)> {
    Some((GenerationId::of_key(key)?, key::read_entity(key.get(PREFIX_BYTES..)?)?))
}
