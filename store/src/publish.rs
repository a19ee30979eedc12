//! Making a built generation live, and going back to the one before.
//!
//! The order of steps is the guarantee. Everything is checked before anything is changed; files are linked before meta names them; meta is
//! one synced write; readers see the new table only after that. Killed before the write, the store opens with the old generation and the
//! linked files are dropped; killed after it, with the new one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::carry::carry;
use crate::cold::ColdPart;
use crate::files;
use crate::generation::{Generation, Pair};
use crate::manifest::{Manifest, ManifestFile};
use crate::meta::MetaRecord;
use crate::plan::{View, find_view};
use crate::prune::prune;
use crate::shard::Shard;
use crate::staging;
use crate::store::Inner;
use crate::view::TenantId;
use crate::warm::BaseFile;
use crate::{Error, delta_snapshot, metrics, schema};

/// How long a publisher waits for the readers of a generation that goes.
const READERS_WAIT: Duration = Duration::from_secs(1);

/// What a publish or a rollback did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The view's name.
    pub view: String,
    /// Whose rows these are.
    pub tenant: TenantId,
    /// The generation that is live now.
    pub generation: u32,
    /// The generation that a rollback would bring back.
    pub previous: Option<u32>,
    /// The generation that was let go; its files are dropped after its last reader.
    pub dropped: Option<u32>,
    /// True when the generation was live before the call, so nothing changed.
    pub already_live: bool,
    /// Entities in the live generation.
    pub entities: u64,
    /// Rows in the live generation.
    pub rows: u64,
}

impl Published {
    pub(crate) fn new(record: &MetaRecord, dropped: Option<u32>, already_live: bool) -> Published {
        Published {
            view: record.live.view.clone(),
            tenant: record.live.tenant,
            generation: record.live.generation,
            previous: record.previous.as_ref().map(|manifest| manifest.generation),
            dropped,
            already_live,
            entities: record.live.entities,
            rows: record.live.rows,
        }
    }
}

/// See [`Store::publish`](crate::Store::publish). The caller holds the publish lock.
pub(crate) fn publish(inner: &Inner, dir: &Path) -> Result<Published, Error> {
    let manifest = Manifest::read(dir)?;
    check_view(&inner.views, &manifest, dir)?;
    check_shard(inner.shard, &manifest).map_err(Error::ChooseGeneration)?;
    if let Some(delta) = &manifest.delta {
        return delta_snapshot::publish(inner, dir, &manifest, delta);
    }
    let old = MetaRecord::read(&inner.warm, manifest.view_id, manifest.tenant)?;
    if let Some(old) = &old {
        if old.live == manifest {
            return Ok(Published::new(old, None, true));
        }
        check_succession(old, &manifest)?;
    }
    link(inner, &manifest, dir)?;

    let view = Arc::clone(find_view(&inner.views, &manifest.view)?);
    view.know(&manifest.schema.features);
    let cold = bring_in_cold(inner, &manifest, dir).inspect_err(|_| {
        if let Err(error) = inner.warm.drop_generation(manifest.id()) {
            tracing::warn!(%error, "linked files not dropped, they go at the next start");
        }
    })?;
    let live = Generation::new(manifest, cold, &inner.warm);
    let before = pair_of(inner, &live);
    // From here on live writes know of the new generation, so what becomes hot of it is never stale.
    if let Some(pair) = &before {
        swap(inner, Pair { incoming: Some(live.manifest.generation), ..pair.clone() });
    }
    let carried = before.as_ref().map(|pair| carry(inner, &view, &pair.live, &live));
    let (previous, retired) = before.map_or((None, None), |pair| (Some(pair.live), pair.previous));
    let previous_manifest = previous.as_ref().map(|generation| generation.manifest.clone());
    let record = MetaRecord::new(live.manifest.clone(), previous_manifest, old.as_ref());
    if let Err(error) = record.write(&inner.warm) {
        // Whether the record is durable is unknown; the files stay, and the next start decides by what it finds.
        tracing::error!(view = %record.live.view, generation = record.live.generation, %error, "publish failed at its last step");
        return Err(error);
    }
    let generations: Vec<_> = [&live].into_iter().chain(&previous).map(Arc::clone).collect();
    swap(inner, Pair { live, previous, incoming: None });
    if let Some(carried) = carried {
        carried.forget_old(inner);
    }
    inner.cold.active.forget_placed(&generations[0]);
    let dropped = retired.as_ref().map(|retired| retired.manifest.generation);
    if let Some(retired) = retired {
        retired.retire();
        outlive_readers(&retired);
    }
    match prune(inner, &view, &generations) {
        Ok(0) => {}
        Ok(changes) => tracing::info!(view = %record.live.view, changes, "live rows pruned"),
        // The generation is live all the same; what is left goes with the next one.
        Err(error) => tracing::warn!(view = %record.live.view, %error, "live rows not pruned"),
    }
    metrics::record_publish();
    Ok(Published::new(&record, dropped, false))
}

fn bring_in_cold(inner: &Inner, manifest: &Manifest, dir: &Path) -> Result<Vec<Arc<ColdPart>>, Error> {
    if manifest.cold.is_empty() {
        return Ok(Vec::new());
    }
    inner.cold_folder.claim(&inner.name)?;
    inner.cold_folder.bring_in(manifest, dir)
}

fn pair_of(inner: &Inner, generation: &Generation) -> Option<Pair> {
    inner.generations.load().pair(generation.manifest.view_id, generation.manifest.tenant).cloned()
}

/// Waits until the last fetch that may still read a generation has ended, so that dropping its files is the publisher's work and not that
/// fetch's. A fetch that takes very long pays for itself.
fn outlive_readers(generation: &Arc<Generation>) {
    let until = Instant::now() + READERS_WAIT;
    while Arc::strong_count(generation) > 1 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

/// See [`Store::rollback`](crate::Store::rollback). The caller holds the publish lock.
pub(crate) fn rollback(inner: &Inner, tenant: TenantId, view: &str) -> Result<Published, Error> {
    let id = find_view(&inner.views, view)?.config.id;
    let nothing =
        |what: &str| Error::ChooseGeneration(format!("view {view} of tenant {tenant} has no {what} generation"));
    let old = MetaRecord::read(&inner.warm, id, tenant)?.ok_or_else(|| nothing("live"))?;
    let previous = old.previous.clone().ok_or_else(|| nothing("previous"))?;
    check_shard(inner.shard, &previous).map_err(Error::ChooseGeneration)?;
    let record = MetaRecord::new(previous, Some(old.live.clone()), Some(&old));
    let before = inner.generations.load_full();
    let pair = before.pair(id, tenant).cloned();
    let Some(Pair { live, previous: Some(previous), .. }) = pair else { return Err(nothing("previous")) };
    let view_of = find_view(&inner.views, view)?;
    let carried = carry(inner, view_of, &live, &previous);
    record.write(&inner.warm)?;
    swap(inner, Pair { live: previous, previous: Some(live), incoming: None });
    carried.forget_old(inner);
    metrics::record_rollback();
    Ok(Published::new(&record, None, false))
}

/// See [`Store::drop_previous`](crate::Store::drop_previous). The caller holds the publish lock.
pub(crate) fn drop_previous(inner: &Inner, tenant: TenantId, view: &str, generation: u32) -> Result<Published, Error> {
    let view = find_view(&inner.views, view)?;
    let name = &view.config.name;
    let refuse = |reason: String| {
        Err(Error::ChooseGeneration(format!("generation {generation} of view {name}, tenant {tenant}: {reason}")))
    };
    let old = MetaRecord::read(&inner.warm, view.config.id, tenant)?;
    let pair = inner.generations.load().pair(view.config.id, tenant).cloned();
    let Some((old, pair)) = old.zip(pair) else {
        return refuse("there is none, nothing is published".to_owned());
    };
    if generation == old.live.generation {
        return refuse("it is live; publish another or roll back, then it can be dropped".to_owned());
    }
    let Some(previous) = pair.previous.filter(|previous| previous.manifest.generation == generation) else {
        let kept =
            old.previous.as_ref().map_or("none is kept".to_owned(), |kept| format!("{} is kept", kept.generation));
        return refuse(format!("there is none; {} is live, of those before {kept}", old.live.generation));
    };
    let record = MetaRecord::new(old.live.clone(), None, Some(&old));
    record.write(&inner.warm)?;
    let generations = [Arc::clone(&pair.live)];
    swap(inner, Pair { live: pair.live, previous: None, incoming: None });
    previous.retire();
    outlive_readers(&previous);
    drop(previous);
    match prune(inner, view, &generations) {
        Ok(changes) => {
            tracing::info!(view = %name, generation, changes, "previous generation dropped, live rows pruned");
        }
        // The generation is gone all the same; what is left goes with the next publish.
        Err(error) => tracing::warn!(view = %name, %error, "live rows not pruned"),
    }
    Ok(Published::new(&record, Some(generation), false))
}

/// One new table for all readers. Under the publish lock, so no change is lost between load and store.
pub(crate) fn swap(inner: &Inner, pair: Pair) {
    let mut table = (*inner.generations.load_full()).clone();
    table.insert(pair);
    inner.generations.store(Arc::new(table));
}

fn check_view(views: &[Arc<View>], manifest: &Manifest, dir: &Path) -> Result<(), Error> {
    let Ok(view) = find_view(views, &manifest.view) else {
        let reason = format!("it is of view {}, which is not declared", manifest.view);
        return Err(Error::refused(dir, reason));
    };
    if view.config.id != manifest.view_id {
        let (found, declared) = (manifest.view_id, view.config.id);
        let reason = format!("view {} has id {found} there and is declared with id {declared}", manifest.view);
        return Err(Error::refused(dir, reason));
    }
    match schema::cannot_serve(&manifest.schema, &view.config) {
        Some(reason) => Err(Error::refused(dir, format!("view {}: {reason}", manifest.view))),
        None => Ok(()),
    }
}

/// A generation of other entities would answer "not found" for those of this store. One that holds more than them will do: it is what a node has
/// that was divided in two, until the next snapshot.
pub(crate) fn check_shard(own: Shard, manifest: &Manifest) -> Result<(), String> {
    let Manifest { generation, view, shard, .. } = manifest;
    if shard.covers(own) {
        return Ok(());
    }
    let whole = if own.is_whole() { ", which is the whole" } else { "" };
    Err(format!(
        "generation {generation} of view {view} was built for shard {shard}, and this store is shard {own}{whole}"
    ))
}

/// Numbers only go up: a late retry of an old publish must not replace newer rows, and a number that was used stays used.
pub(crate) fn check_succession(old: &MetaRecord, new: &Manifest) -> Result<(), Error> {
    let number = new.generation;
    let refuse = |reason: String| {
        let view = &new.view;
        let tenant = new.tenant;
        Err(Error::ChooseGeneration(format!("generation {number} of view {view}, tenant {tenant}: {reason}")))
    };
    if number == old.live.generation {
        let reason = "it is live with other content; builds on two machines that start in the same second take the same \
                      number: build again into a new folder, or name a greater number with --generation";
        return refuse(reason.to_string());
    }
    if old.previous.as_ref().is_some_and(|previous| previous.generation == number) {
        return refuse("it is kept as the previous one; roll back to return to it".to_string());
    }
    if let Some(pruned_to_ms) = old.pruned_to_ms.filter(|pruned_to_ms| new.as_of_ms < *pruned_to_ms) {
        let as_of_ms = new.as_of_ms;
        return refuse(format!(
            "it shows the state of {as_of_ms}, and live rows up to {pruned_to_ms} were pruned because newer snapshots cover them; publish a newer snapshot"
        ));
    }
    if number <= old.newest_generation {
        let newest = old.newest_generation;
        return refuse(format!("generation {newest} was published before; build again with a newer number"));
    }
    Ok(())
}

/// Checks each file and links all of them into the base family; when this fails, nothing of the generation stays.
fn link(inner: &Inner, manifest: &Manifest, dir: &Path) -> Result<(), Error> {
    let store = inner.warm.path();
    let staging = staging::create(store)?;
    let linked = stage(manifest, dir, &staging).and_then(|files| {
        // Files of the same number can only be the remains of a publish that failed at its last step.
        inner.warm.drop_generation(manifest.id())?;
        let before: HashSet<_> = inner.warm.base_files()?.into_iter().map(|file| file.name).collect();
        let ingested = inner.warm.ingest(files, dir);
        if matches!(ingested, Err(Error::FreeSpace { .. } | Error::RestartStore { .. })) {
            staging::keep(store)?;
        }
        ingested?;
        if !manifest.files.is_empty() {
            staging::settle(store)?;
        }
        check_linked(inner, manifest, dir, &before)
    });
    staging::clear(store)?;
    linked
}

fn stage(manifest: &Manifest, dir: &Path, staging: &Path) -> Result<Vec<PathBuf>, Error> {
    let stage = |file: &ManifestFile| {
        let to = staging.join(&file.name);
        files::link_checked(&dir.join(&file.name), &to, file)?;
        Ok(to)
    };
    manifest.files.iter().map(stage).collect()
}

/// Checks that what was linked is what the manifest describes, and takes it out again when it is not.
fn check_linked(inner: &Inner, manifest: &Manifest, dir: &Path, before: &HashSet<String>) -> Result<(), Error> {
    let mut linked = inner.warm.base_files()?;
    linked.retain(|file| !before.contains(&file.name));
    let own = |file: &&BaseFile| file.generation() == Some(manifest.id());
    let found: u64 = linked.iter().filter(own).map(|file| file.entities).sum();
    if found == manifest.warm_entities() && linked.iter().all(|file| own(&file)) {
        return Ok(());
    }
    for file in &linked {
        inner.warm.drop_file(file)?;
    }
    let expected = manifest.warm_entities();
    let reason = format!("its files hold {found} entities of this generation, the manifest says {expected}");
    Err(Error::refused(dir, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{build_points, points, points_rows, publish_points, view};
    use crate::{GenerationWriter, Placement, Store, StoreConfig, WriterLimits};

    fn store(folder: &Path) -> Store {
        let config = StoreConfig { path: folder.join("store"), ..StoreConfig::default() };
        Store::open(&config, &[view()]).unwrap()
    }

    /// Rewrites a manifest as somebody would who knows how its checksum is made.
    fn forge(dir: &Path, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = Manifest::read(dir).unwrap();
        change(&mut manifest);
        manifest.write(dir).unwrap();
    }

    #[test]
    fn files_of_another_tenant_never_get_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        publish_points(&store, folder.path(), 1, 1);
        publish_points(&store, folder.path(), 2, 1);
        let files = || store.0.warm.base_files().unwrap().len();
        // Rows built for tenant 1, said to be tenant 2's; their keys overlap nothing that is there.
        let dir = build_points(folder.path(), 1, 2);
        forge(&dir, |manifest| manifest.tenant = TenantId(2));
        let error = store.publish(&dir).unwrap_err().to_string();
        assert!(error.contains("its files hold 0 entities of this generation, the manifest says 2"), "{error}");
        assert_eq!(files(), 2, "the files were taken out again");
        assert_eq!(points(&store, 1), points(&store, 2));

        // Rows of tenant 1's live generation, said to be its next one: they overlap what is there.
        let dir = build_points(&folder.path().join("again"), 1, 1);
        forge(&dir, |manifest| manifest.generation = 7);
        assert!(store.publish(&dir).unwrap_err().to_string().contains("cannot be linked"));
        assert_eq!((files(), points(&store, 1)), (2, vec![1, 1]));
    }

    #[test]
    fn a_forged_manifest_cannot_reach_outside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for (name, number) in [("../store/CURRENT", 1), ("/etc/passwd", 2), (".", 3)] {
            let dir = build_points(folder.path(), 1, number);
            forge(&dir, |manifest| manifest.files[0].name = name.to_string());
            let error = store.publish(&dir).unwrap_err().to_string();
            assert!(error.contains("is not a plain file name"), "{error}");
        }
        let dir = build_points(folder.path(), 1, 6);
        forge(&dir, |manifest| {
            manifest.files.push(manifest.files[0].clone());
            (manifest.rows, manifest.entities) = (2 * manifest.rows, 2 * manifest.entities);
        });
        assert!(store.publish(&dir).unwrap_err().to_string().contains("twice"));
        let dir = build_points(folder.path(), 1, 4);
        forge(&dir, |manifest| manifest.entities = 9);
        assert!(store.publish(&dir).unwrap_err().to_string().contains("contradict"));
        let dir = build_points(folder.path(), 1, 5);
        forge(&dir, |manifest| {
            (manifest.rows, manifest.entities, manifest.files[0].entities) = (9, 9, 9);
        });
        assert!(
            store
                .publish(&dir)
                .unwrap_err()
                .to_string()
                .contains("hold 2 entities of this generation, the manifest says 9")
        );
        assert_eq!(store.generations(), []);
        assert_eq!(store.0.warm.base_files().unwrap().len(), 0);
    }

    #[test]
    fn a_store_of_one_shard_takes_generations_that_hold_it_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, half, quarter, other]: [Shard; 4] = {
            let quarter = Shard::of("ada", 4);
            let other = (quarter.index() + 1) % 4;
            [Shard::default(), Shard::of("ada", 2), quarter, format!("{other}/4").parse().unwrap()]
        };
        let open = |name: &str, shard: Shard| {
            let (path, cold_path) = (folder.path().join(name), folder.path().join(format!("{name}-cold")));
            Store::open(&StoreConfig { path, cold_path, shard, ..StoreConfig::default() }, &[view()])
        };
        let build = |generation: u32, shard: Shard| {
            let dir = folder.path().join(format!("generation-{generation}"));
            let limits = WriterLimits::default();
            let writer = GenerationWriter::create(&dir, &view(), TenantId(1), generation, 0, limits).unwrap();
            let mut writer = writer.shard(shard);
            writer.append(&points_rows(&["ada"], 0, 1)).unwrap();
            assert_eq!(writer.finish().unwrap().shard, shard);
            dir
        };

        let store = open("store", quarter).unwrap();
        for (generation, shard) in [(1, whole), (2, half), (3, quarter)] {
            store.publish(&build(generation, shard)).unwrap();
            assert_eq!(Manifest::read(&folder.path().join(format!("generation-{generation}"))).unwrap().shard, shard);
        }
        store.replace(TenantId(1), "view", &Placement::default(), WriterLimits::default()).unwrap();
        drop(store);
        let of_other = folder.path().join("generation-4");
        let mut writer = GenerationWriter::create(&of_other, &view(), TenantId(1), 4, 0, WriterLimits::default())
            .unwrap()
            .shard(other);
        let refused = writer.append(&points_rows(&["ada"], 0, 1)).unwrap_err().to_string();
        let expected = format!("row 0: entity \"ada\" belongs to shard {quarter}, the generation is for {other}");
        assert_eq!(refused, expected);

        for shard in [whole, half, other] {
            let refused = open("store", shard).unwrap_err();
            assert!(matches!(refused, Error::FixConfig { .. }), "{refused}");
            let says = format!("node.shard = \"{shard}\": generation 4 of view view was built for shard {quarter}");
            assert!(refused.to_string().starts_with(&says), "{refused}");
            let refused = open(&format!("store-{}", shard.count()), shard).unwrap();
            let refused = refused.publish(&build(9 + shard.count(), quarter)).unwrap_err();
            assert!(matches!(refused, Error::ChooseGeneration(_)), "{refused}");
        }
        let store = open("store", quarter).unwrap();
        assert_eq!(store.rollback(TenantId(1), "view").unwrap().generation, 3);
    }
}
