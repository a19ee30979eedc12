//! What a start does about generations: what no record names goes, and what records name must be there.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::Error;
use crate::cold::ColdFolder;
use crate::generation::{Generation, Generations, Pair};
use crate::manifest::Manifest;
use crate::meta::MetaRecord;
use crate::plan::View;
use crate::publish::check_shard;
use crate::schema;
use crate::shard::Shard;
use crate::warm::Warm;

/// Brings a store's records and files into line at the start: drops files that no record names (a publish that was cut short, or a drop
/// that did not happen), and refuses to go on when a record names files that are not there or rows the declared views cannot read.
pub(crate) fn recover(
    warm: &Arc<Warm>,
    folder: &ColdFolder,
    views: &[Arc<View>],
    records: Vec<MetaRecord>,
) -> Result<Generations, Error> {
    let named: BTreeSet<_> = records.iter().flat_map(MetaRecord::generations).map(Manifest::id).collect();
    warm.finish_compactions()?;
    let present = warm.base_entities()?;
    for id in present.keys().filter(|id| !named.contains(id)) {
        tracing::info!(view = id.view, generation = id.generation, "dropping a generation that was never made live");
        warm.drop_generation(*id)?;
    }
    let place = |record: &MetaRecord, manifest: &Manifest| -> Vec<_> {
        record.cold_files(manifest).iter().map(|file| folder.place(manifest, &file.name)).collect()
    };
    let named_cold: HashSet<_> =
        records.iter().flat_map(|record| record.generations().flat_map(|manifest| place(record, manifest))).collect();
    folder.delete_unnamed(&named_cold)?;
    let mut generations = Generations::default();
    for record in records {
        for manifest in record.generations() {
            let (view, generation) = (&manifest.view, manifest.generation);
            let found = present.get(&manifest.id()).copied().unwrap_or(0);
            let expected = record.stored_entities(manifest);
            if found != expected {
                let reason = format!(
                    "generation {generation} of view {view} has {found} entities in its files and {expected} in its record"
                );
                return Err(Error::damaged(warm.path(), reason));
            }
            check_declared(manifest, views)?;
            if let Some(view) = views.iter().find(|view| view.config.id == manifest.view_id) {
                view.know(&manifest.schema.features);
            }
        }
        let open = |manifest: &Manifest| {
            let cold = folder.open_parts(manifest, record.cold_files(manifest))?;
            Ok::<_, Error>(Generation::new(manifest.clone(), cold, warm))
        };
        let previous = record.previous.as_ref().map(open).transpose()?;
        generations.insert(Pair { live: open(&record.live)?, previous, incoming: None });
    }
    Ok(generations)
}

/// Refuses to be a part of which the live generations do not hold all: whoever is missing there would be answered as unknown.
pub(crate) fn recover_shard(shard: Shard, records: &[MetaRecord]) -> Result<(), Error> {
    let refused = |record: &MetaRecord| check_shard(shard, &record.live).err();
    match records.iter().find_map(refused) {
        Some(reason) => {
            let allowed = format!("{reason}; name that shard or one of its parts, or load into an empty store");
            Err(Error::config("node.shard", format!("{:?}", shard.to_string()), allowed))
        }
        None => Ok(()),
    }
}

/// Refuses a declaration that the stored rows contradict. Views that are no longer declared keep their rows, unread.
fn check_declared(manifest: &Manifest, views: &[Arc<View>]) -> Result<(), Error> {
    let renumbered = |view: &&Arc<View>| view.config.name == manifest.view && view.config.id != manifest.view_id;
    if let Some(view) = views.iter().find(renumbered) {
        let allowed = format!("its stored rows have id {}; a view keeps its id", manifest.view_id);
        return Err(Error::config(format!("view {}: id", manifest.view), view.config.id, allowed));
    }
    let Some(view) = views.iter().find(|view| view.config.id == manifest.view_id) else {
        return Ok(());
    };
    if view.config.name != manifest.view {
        let allowed = format!("this id belongs to the stored view {}, take another", manifest.view);
        let key = format!("view {}: id", view.config.name);
        return Err(Error::config(key, view.config.id, allowed));
    }
    match schema::cannot_serve(&manifest.schema, &view.config) {
        Some(reason) => {
            let key = format!("view {}", manifest.view);
            let found = format!("a declaration that generation {} contradicts", manifest.generation);
            Err(Error::config(key, found, reason))
        }
        None => Ok(()),
    }
}
