//! Who was asked for although the cold tier held them. The next build places them warm again; until then the hot tier holds them, if it can.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::generation::Generation;
use crate::hot_set::HotSetEntry;
use crate::view::TenantId;

/// Most entities that are remembered; further ones are noted when some of these have been placed warm.
const MAX_ACTIVE: usize = 1 << 16;

/// Entities of the cold tier that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Active(Mutex<HashSet<(u16, TenantId, Box<str>)>>);

impl Active {
    pub(crate) fn note(&self, view: u16, tenant: TenantId, entity: &str) {
        let mut active = self.lock();
        if active.len() < MAX_ACTIVE {
            active.insert((view, tenant, entity.into()));
        }
    }

    /// All of them, in order.
    pub(crate) fn list(&self) -> Vec<HotSetEntry> {
        let entry = |(view_id, tenant, entity): &(u16, TenantId, Box<str>)| HotSetEntry {
            view_id: *view_id,
            tenant: *tenant,
            entity: entity.to_string(),
        };
        let mut list: Vec<_> = self.lock().iter().map(entry).collect();
        list.sort_unstable();
        list
    }

    /// Forgets those whom a generation that becomes live does not hold cold any more.
    pub(crate) fn forget_placed(&self, live: &Generation) {
        let of = (live.manifest.view_id, live.manifest.tenant);
        self.lock().retain(|(view, tenant, entity)| (*view, *tenant) != of || live.cold_part(entity).is_some());
    }

    /// Forgets somebody.
    pub(crate) fn forget(&self, tenant: TenantId, entity: &str) {
        self.lock().retain(|(_, of, name)| (*of, &**name) != (tenant, entity));
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(u16, TenantId, Box<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
