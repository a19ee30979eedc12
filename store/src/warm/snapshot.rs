//! Reading as of one moment.

use std::path::Path;

use rocksdb::{DBPinnableSlice, ReadOptions};

use crate::Error;
use crate::warm::{BASE, LIVE, Warm};

/// The database at one moment. While it lives, no fetch that uses it sees a later write.
pub(crate) struct Snapshot<'db> {
    warm: &'db Warm,
    snapshot: rocksdb::Snapshot<'db>,
}

/// A value of the database, pinned where it lies.
pub(crate) type Pinned<'db> = DBPinnableSlice<'db>;

impl<'db> Snapshot<'db> {
    pub(super) fn new(warm: &'db Warm) -> Snapshot<'db> {
        Snapshot { warm, snapshot: warm.db.snapshot() }
    }

    /// Reads sorted keys of the base family, one result per key.
    pub(crate) fn read(&self, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        self.read_family(BASE, keys)
    }

    /// Reads sorted keys of the live family, one result per key.
    pub(crate) fn read_live(&self, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        self.read_family(LIVE, keys)
    }

    /// Reads one key of the base family for somebody who only looks: what was not in the cache does not get there.
    pub(crate) fn peek(&self, key: &[u8]) -> Result<Read<'db>, Error> {
        self.peek_family(BASE, key)
    }

    /// The same of the live family.
    pub(crate) fn peek_live(&self, key: &[u8]) -> Result<Read<'db>, Error> {
        self.peek_family(LIVE, key)
    }

    fn peek_family(&self, family: &str, key: &[u8]) -> Result<Read<'db>, Error> {
        let mut options = self.options();
        options.fill_cache(false);
        self.warm.readable(self.warm.db.get_pinned_cf_opt(self.warm.family(family)?, key, &options))
    }

    pub(crate) fn path(&self) -> &'db Path {
        &self.warm.path
    }

    fn read_family(&self, family: &str, keys: &[&[u8]]) -> Result<Vec<Read<'db>>, Error> {
        let family = self.warm.family(family)?;
        let values = self.warm.db.batched_multi_get_cf_opt(family, keys.iter().copied(), true, &self.options());
        values.into_iter().map(|value| self.warm.readable(value)).collect()
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

/// What a key holds.
pub(crate) type Read<'db> = Option<Pinned<'db>>;
