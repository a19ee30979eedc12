//! Keeping a node's warmth over a restart: the keys that are hot, and those that were asked for although they lie cold, go into a file as it
//! drains, and are read into the hot tier before it is ready again. The same file tells a build who is active.

use std::path::Path;
use std::time::Instant;

use crate::Error;
use crate::batch::{Batch, EntityRef, NO_GENERATION};
use crate::carry::make_hot;
use crate::hot_set::{HotSetEntry, read_hot_set, write_hot_set};
use crate::key::{self, GenerationId, PREFIX_BYTES};
use crate::lookup::look_up_hot;
use crate::plan::Plan;
use crate::store::{Inner, Store};

/// Keys read at a time.
const CHUNK: usize = 256;

/// What an import of a hot-set file did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries in the file.
    pub entries: u64,
    /// Of these, keys that are hot now.
    pub made_hot: u64,
    /// False when the time was up before the end of the file.
    pub complete: bool,
}

impl Store {
    /// Writes the keys that are hot, and those asked for in the cold tier, into `path`. Returns how many.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when the file cannot be written; one that was there before stays.
    pub fn export_hot_set(&self, path: &Path) -> Result<u64, Error> {
        let inner = &*self.0;
        let generations = inner.generations.load();
        let is_live = |id: GenerationId| {
            let live = generations.live(id.view, id.tenant).map_or(NO_GENERATION, |live| live.manifest.generation);
            id.generation == live
        };
        let hot = inner.hot.entries(&[]);
        let hot = hot.iter().filter_map(|row| {
            let id = GenerationId::of_key(row.key()).filter(|id| is_live(*id))?;
            let entity = key::read_entity(row.key().get(PREFIX_BYTES..)?)?;
            Some(HotSetEntry { view_id: id.view, tenant: id.tenant, entity })
        });
        // Those that lie cold last: an import passes over them, only a build wants them. Nobody erased is named.
        let entries = hot.chain(inner.cold.active.list());
        write_hot_set(path, entries.filter(|entry| inner.erasures.erased_ms(entry.tenant, &entry.entity).is_none()))
    }

    /// Reads the rows of a hot-set file's keys into the hot tier until all are there or the time is up. Keys of views and tenants that are no
    /// longer there are passed over, and so is what lies cold.
    ///
    /// # Errors
    /// [`Error::DeleteFile`] when the file is damaged, [`Error::CheckDisk`] when it cannot be read; what was read before is hot.
    pub fn import_hot_set(&self, path: &Path, until: Instant) -> Result<Imported, Error> {
        let mut file = read_hot_set(path)?;
        let mut imported = Imported { entries: file.entries(), ..Imported::default() };
        if !self.0.hot.is_on() {
            return Ok(imported);
        }
        let mut chunk: Vec<HotSetEntry> = Vec::with_capacity(CHUNK);
        loop {
            if Instant::now() >= until {
                return Ok(imported);
            }
            let next = file.next().transpose()?;
            let ends = next.as_ref().is_none_or(|next| {
                chunk.last().is_some_and(|last| (last.view_id, last.tenant) != (next.view_id, next.tenant))
            });
            if ends || chunk.len() == CHUNK {
                imported.made_hot += import_chunk(&self.0, &mut chunk)?;
            }
            match next {
                Some(next) => chunk.push(next),
                None => break,
            }
        }
        imported.complete = true;
        Ok(imported)
    }

    /// Of each entity, whether the hot tier holds all that there is to know of it in the plan's views, absences included: whether asking for it
    /// costs no read. Rows that a fetch has just handed over count once [`hot_usage`](Store::hot_usage) has waited for them.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for more than `max_fetch_keys` keys.
    pub fn are_hot(&self, plan: &Plan, entities: &[EntityRef<'_>]) -> Result<Vec<bool>, Error> {
        let inner = &*self.0;
        inner.check_size(plan, entities.len())?;
        let live = inner.generations.load();
        let batch = Batch::new(plan, entities, &live);
        let mut held = vec![0; batch.unique];
        for (position, row) in look_up_hot(&batch, &inner.hot) {
            held[position % batch.unique] += usize::from(row.is_some());
        }
        Ok(batch.positions.iter().map(|&entity| held[entity as usize] == plan.views.len()).collect())
    }
}

/// Makes keys of one view and tenant hot.
fn import_chunk(inner: &Inner, chunk: &mut Vec<HotSetEntry>) -> Result<u64, Error> {
    let Some(HotSetEntry { view_id, tenant, .. }) = chunk.first() else { return Ok(0) };
    let view = inner.views.iter().find(|view| view.config.id == *view_id);
    let live = inner.generations.load().live(*view_id, *tenant).cloned();
    let Some((view, live)) = view.zip(live) else {
        chunk.clear();
        return Ok(0);
    };
    chunk.sort_unstable();
    chunk.dedup();
    let keys = chunk.drain(..).map(|entry| {
        let mut base_key = live.manifest.id().prefix().to_vec();
        key::push_entity(&mut base_key, entry.entity.as_bytes());
        base_key
    });
    make_hot(inner, view, &live, keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points, publish_points, view};
    use crate::{StoreConfig, TenantId};
    use std::time::Duration;

    #[test]
    fn what_was_hot_is_hot_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let open = || Store::open(&config, &[view()]).unwrap();
        let path = folder.path().join("hot-set");
        let store = open();
        publish_points(&store, folder.path(), 1, 1);
        publish_points(&store, folder.path(), 2, 1);
        assert_eq!((points(&store, 1), points(&store, 2)), (vec![1, 1], vec![1, 1]));
        // Under the generation before: carried over, and exported once.
        publish_points(&store, folder.path(), 1, 2);
        assert_eq!(store.export_hot_set(&path).unwrap(), 4);
        drop(store);

        let store = open();
        let soon = || Instant::now() + Duration::from_secs(60);
        let none = Imported { entries: 4, made_hot: 0, complete: false };
        assert_eq!(store.import_hot_set(&path, Instant::now()).unwrap(), none);
        assert_eq!(store.hot_usage().entries, 0);
        let all = Imported { entries: 4, made_hot: 4, complete: true };
        assert_eq!(store.import_hot_set(&path, soon()).unwrap(), all);
        assert_eq!(store.hot_usage().entries, 4);
        assert_eq!(points(&store, 1), [2, 2]);

        store.erase(TenantId(2), "ada", 0).unwrap();
        points(&store, 2);
        assert_eq!(store.export_hot_set(&path).unwrap(), 3, "whoever is erased is not named");

        let plan = store.compile(&[crate::FeatureRef::parse("view:points").unwrap()]).unwrap();
        let hot = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|entity| EntityRef { tenant: TenantId(1), entity }).collect();
            store.hot_usage();
            store.are_hot(&plan, &asked).unwrap()
        };
        assert_eq!(hot(&["ada", "nobody", "bob", "ada", ""]), [true, false, true, true, false]);
        store.fetch(&plan, &[EntityRef { tenant: TenantId(1), entity: "nobody" }], 0).unwrap();
        assert_eq!(hot(&["nobody"]), [true], "that there is nobody is known too");

        let missing = store.import_hot_set(&folder.path().join("none"), soon()).unwrap_err();
        assert!(matches!(missing, Error::CheckDisk { .. }));
    }
}
