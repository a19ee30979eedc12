//! A generation from its first entity to its last, both tiers in one order: what is rewritten is read like this.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;

use crate::Error;
use crate::elements::Elements;
use crate::generation::Generation;
use crate::key::{self, PREFIX_BYTES};
use crate::row::{Damaged, event_time_ms};
use crate::store::Inner;
use crate::view::ViewKind;

/// An entity of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) entity: String,
    pub(crate) value: Box<[u8]>,
    /// Whether it lies in the cold tier.
    pub(crate) is_cold: bool,
}

type Entries<'a> = Peekable<Box<dyn Iterator<Item = Result<Entry, Error>> + 'a>>;

/// The entities of both tiers in their order; after an error nothing more is to be asked for.
pub(crate) fn entries<'a>(
    inner: &'a Inner,
    generation: &'a Generation,
) -> Result<impl Iterator<Item = Result<Entry, Error>> + 'a, Error> {
    let (first, end) = (generation.manifest.id().prefix(), generation.manifest.id().end());
    let warm = inner.warm.scan_base(&first, Bound::Excluded(&end))?.map(|entry| {
        let (base_key, value) = entry?;
        let entity = base_key.get(PREFIX_BYTES..).and_then(key::read_entity);
        let damaged = || Error::damaged(inner.warm.path(), "a key of the base family is not one");
        Ok(Entry { entity: entity.ok_or_else(damaged)?, value, is_cold: false })
    });
    let cold = generation.cold.iter().flat_map(|part| part.file.scan()).map(|row| {
        let row = row?;
        Ok(Entry { entity: row.entity, value: Box::from(&*row.value), is_cold: true })
    });
    let mut warm: Entries<'a> = (Box::new(warm) as Box<dyn Iterator<Item = _>>).peekable();
    let mut cold: Entries<'a> = (Box::new(cold) as Box<dyn Iterator<Item = _>>).peekable();
    Ok(std::iter::from_fn(move || {
        let order = match (warm.peek(), cold.peek()) {
            (Some(Ok(warm)), Some(Ok(cold))) => warm.entity.cmp(&cold.entity),
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        if order == Ordering::Greater { cold.next() } else { warm.next() }
    }))
}

/// The event times of a value's rows, newest first.
pub(crate) fn times(kind: ViewKind, value: &[u8]) -> Result<Vec<i64>, Damaged> {
    match kind {
        ViewKind::Latest => Ok(vec![event_time_ms(value)?]),
        ViewKind::LastN => Elements::new(value)?.map(|row| event_time_ms(row?)).collect(),
    }
}
