//! Looking at one entity in every tier: what each holds, which row stands and why, and what a fetch would say. Nothing is changed by looking:
//! nothing becomes hot, no use and no hit is counted, no block enters RocksDB's cache, and nobody is noted as active.
//!
//! The answer itself is decoded by the code of a fetch from what was found, and what was found is weighed a second time, change by change, to
//! say why. The cold tier is read on the calling thread, however long it takes, and not through its queue.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;
use crate::batch::{Batch, EntityRef};
use crate::cold::file::ColdReads;
use crate::combine::Baseline;
use crate::decode::{Moment, decode};
use crate::delta::Delta;
use crate::elements::Elements;
use crate::fetched::{FetchStats, FetchedView, Tier};
use crate::generation::{Generation, Generations};
use crate::key;
use crate::lookup::{FoundRow, Stored, Value, damaged_row};
use crate::plan::{FeatureRef, Plan, View, find_view};
use crate::row::{Damaged, event_time_ms};
use crate::store::{Inner, Store};
use crate::view::{FeatureType, TenantId, ViewConfig, ViewKind};
use crate::warm::Snapshot;

/// One entity in one view.
#[derive(Debug)]
pub struct Inspection {
    /// What the hot tier holds.
    pub hot: HotHolding,
    /// What was written live and not pruned since.
    pub live: Option<LiveHolding>,
    /// The number of the live generation, and the time whose state it shows, Unix milliseconds UTC.
    pub generation: Option<(u32, i64)>,
    /// The generation's row in RocksDB.
    pub warm: Option<StoredRow>,
    /// The cold file that may hold the entity. `None` when the filters in RAM say that none does.
    pub cold: Option<ColdHolding>,
    /// Up to which event time the entity is erased.
    pub erased_ms: Option<i64>,
    /// Which rows stand, before time to live and erasure are looked at.
    pub standing: Standing,
    /// What a fetch of all the view's features would say, given time for the cold tier.
    pub fetched: FetchedView,
}

/// What the hot tier holds of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HotHolding {
    /// The tier is turned off.
    Off,
    /// Nothing: the next fetch reads it from below.
    Nothing,
    /// The knowledge that there is no row.
    KnownAbsent,
    /// A row, snapshot and live changes combined.
    Row(StoredRow),
}

/// A stored value: one row, or the elements of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRow {
    /// Of the row, or of the newest element.
    pub event_time_ms: i64,
    /// Elements of a history; 1 in a `latest` view.
    pub rows: u64,
    /// Bytes of the value.
    pub bytes: u64,
}

/// What was written live about an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveHolding {
    /// Everything up to this event time was deleted, whatever its element.
    pub cleared_ms: Option<i64>,
    /// The standing change of each element, newest first.
    pub changes: Vec<LiveChange>,
    /// Bytes of the value.
    pub bytes: u64,
}

/// A row or a deletion that was written live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveChange {
    /// The time by which it is ordered.
    pub event_time_ms: i64,
    /// The element it is about; `None` in a `latest` view, and of somebody erased.
    pub element: Option<String>,
    /// Whether it deletes.
    pub is_deletion: bool,
    /// False for what came late: the snapshot has as new a row, or knew at a later time that there is none.
    pub stands: bool,
    /// Bytes of the row.
    pub bytes: u64,
}

/// What a cold file holds of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdHolding {
    /// The file.
    pub file: PathBuf,
    /// Its row; `None` when the filter said "maybe" and there is none.
    pub row: Option<StoredRow>,
    /// Why the file could not be read.
    pub unreadable: Option<String>,
}

/// Which rows stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// None: nothing is known of the entity.
    Nothing,
    /// The generation's.
    Snapshot,
    /// Live ones.
    Live,
    /// Elements of both.
    Both,
    /// None: a live deletion is newer.
    Deleted,
    /// None: what was written live is no newer than the snapshot, which has left the entity out.
    LeftOut,
}

impl Standing {
    /// The standing's name in replies.
    pub fn label(self) -> &'static str {
        match self {
            Standing::Nothing => "nothing",
            Standing::Snapshot => "snapshot",
            Standing::Live => "live",
            Standing::Both => "snapshot_and_live",
            Standing::Deleted => "deleted",
            Standing::LeftOut => "left_out",
        }
    }
}

impl Inspection {
    /// Which rows stand and why, in a sentence.
    pub fn why(&self) -> String {
        let late = self.live.as_ref().map_or(0, |live| live.changes.iter().filter(|change| !change.stands).count());
        let stored = match self.standing {
            Standing::Nothing if self.erased_ms.is_some() => "there is no row that was not erased",
            Standing::Nothing if self.generation.is_none() => {
                "nothing is published for the tenant and nothing was written"
            }
            Standing::Nothing => "neither the snapshot nor a live write has a row",
            Standing::Snapshot if late > 0 => "the snapshot's row stands: what was written live is not newer",
            Standing::Snapshot => "the snapshot's row stands: nothing was written live that is newer",
            Standing::Live if self.warm.is_some() || self.cold.as_ref().is_some_and(|cold| cold.row.is_some()) => {
                "the live row stands: it is newer than the snapshot's"
            }
            Standing::Live => "the live row stands: it is newer than the snapshot, which has none",
            Standing::Both => "elements of the snapshot and newer live ones stand together",
            Standing::Deleted => "nothing stands: it was deleted live, later than the snapshot's row",
            Standing::LeftOut => {
                "nothing stands: the snapshot is newer than the live write and has left the entity out"
            }
        };
        let late = match (late, self.standing) {
            (0, _) | (_, Standing::Snapshot | Standing::LeftOut) => String::new(),
            (1, _) => "; 1 live change came late and does not count".to_string(),
            (late, _) => format!("; {late} live changes came late and do not count"),
        };
        format!("{stored}{late}")
    }
}

impl Store {
    /// Looks at an entity in one view, or in all of them. `now_ms` (Unix milliseconds UTC) decides what is expired.
    ///
    /// # Errors
    /// [`Error::FixRequest`] for an unknown view or an entity that cannot exist, [`Error::RestoreStore`] for a damaged row.
    pub fn inspect(
        &self,
        tenant: TenantId,
        entity: &str,
        view: Option<&str>,
        now_ms: i64,
    ) -> Result<Vec<Inspection>, Error> {
        let inner = &*self.0;
        key::check_entity(entity).map_err(Error::FixRequest)?;
        let views = match view {
            Some(name) => vec![Arc::clone(find_view(&inner.views, name)?)],
            None => inner.views.clone(),
        };
        // In this order, as in a fetch.
        let snapshot = inner.warm.snapshot();
        let generations = inner.generations.load();
        let asked = EntityRef { tenant, entity };
        let looking = Looking { inner, snapshot, generations: &generations, asked, now_ms };
        views.iter().map(|view| looking.at(view)).collect()
    }
}

/// One look at an entity.
struct Looking<'a> {
    inner: &'a Inner,
    snapshot: Snapshot<'a>,
    generations: &'a Generations,
    asked: EntityRef<'a>,
    now_ms: i64,
}

impl Looking<'_> {
    fn at(&self, view: &Arc<View>) -> Result<Inspection, Error> {
        let inner = self.inner;
        let EntityRef { tenant, entity } = self.asked;
        let damaged = |damaged| damaged_row(&self.snapshot, view, damaged);
        let of_view = |feature: &str| FeatureRef { view: view.config.name.clone(), feature: feature.to_string() };
        let features: Vec<_> = view.config.features.iter().map(|feature| of_view(&feature.name)).collect();
        let plan = Plan::compile(&inner.views, &features)?;
        let asked = [self.asked];
        let batch = Batch::new(&plan, &asked, self.generations);
        let erased = inner.erasures.erased_of([(tenant, entity)].into_iter());
        let erased_ms = erased.first().copied().flatten();
        let kind = view.config.kind;

        let generation = batch.generation(0).map(|generation| &**generation);
        let hot = inner.hot.peek(batch.key(0), batch.hash(0));
        let warm = if generation.is_some() { self.snapshot.peek(batch.key(0))? } else { None };
        let live = self.snapshot.peek_live(&batch.live_key(0))?;
        let in_cold = generation.and_then(|generation| read_cold(generation, entity));

        let holding = match &hot {
            _ if !inner.hot.is_on() => HotHolding::Off,
            None => HotHolding::Nothing,
            Some(row) => match row.row() {
                None => HotHolding::KnownAbsent,
                Some(value) => HotHolding::Row(StoredRow::of(kind, value).map_err(damaged)?),
            },
        };
        let warm_row = warm.as_deref().map(|value| StoredRow::of(kind, value)).transpose().map_err(damaged)?;
        let cold = in_cold.as_ref().map(|in_cold| in_cold.holding(kind)).transpose().map_err(damaged)?;
        let from_cold = in_cold.as_ref().and_then(|in_cold| in_cold.value.as_ref().ok()?.as_deref());
        let baseline = Baseline::new(view, generation, erased_ms);
        let (standing, live_holding) =
            weigh(&view.config, baseline, warm.as_deref().or(from_cold), live.as_deref()).map_err(damaged)?;

        let rows = Stored { base: warm.map(Value::Pinned), live: live.map(Value::Pinned) };
        let found = match hot {
            Some(row) => {
                let tier = if row.row().is_some() { Tier::Hot } else { Tier::None };
                let value = row.row().is_some().then(|| Value::Hot(row.clone()));
                FoundRow { value, tier, in_time: true }
            }
            None => find_below(view, generation, in_cold, rows, erased_ms).map_err(damaged)?,
        };
        let moment = Moment { now_ms: self.now_ms, erased: &erased };
        let fetched = decode(&plan.views[0], 0, &batch, &[found], &moment, &mut FetchStats::default());
        Ok(Inspection {
            hot: holding,
            live: live_holding,
            generation: generation.map(|generation| (generation.manifest.generation, generation.manifest.as_of_ms)),
            warm: warm_row,
            cold,
            erased_ms,
            standing,
            fetched: fetched.map_err(damaged)?,
        })
    }
}

/// What a cold file said.
struct InCold {
    file: PathBuf,
    value: Result<Option<Arc<[u8]>>, Error>,
}

impl InCold {
    fn holding(&self, kind: ViewKind) -> Result<ColdHolding, Damaged> {
        let (row, unreadable) = match &self.value {
            Ok(value) => (value.as_deref().map(|value| StoredRow::of(kind, value)).transpose()?, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(ColdHolding { file: self.file.clone(), row, unreadable })
    }
}

/// Reads the one file that may hold the entity.
fn read_cold(generation: &Generation, entity: &str) -> Option<InCold> {
    let part = generation.cold_part(entity)?;
    let read = part.file.read(&[entity], &mut ColdReads::default());
    Some(InCold { file: part.file.path().to_path_buf(), value: read.map(|values| values.into_iter().next().flatten()) })
}

/// What a fetch finds below the hot tier: see `lookup.rs`, whose way this follows for one key.
fn find_below<'db>(
    view: &View,
    generation: Option<&Generation>,
    in_cold: Option<InCold>,
    rows: Stored<'db>,
    erased_ms: Option<i64>,
) -> Result<FoundRow<'db>, Damaged> {
    let mut rows = rows;
    let mut tier = Tier::Warm;
    if let Some((generation, in_cold)) = generation.zip(in_cold).filter(|_| rows.base.is_none()) {
        let all_erased = erased_ms.is_some_and(|erased_ms| generation.manifest.event_time_max_ms <= erased_ms);
        if !all_erased && !rows.need_no_snapshot(view, generation)? {
            tier = Tier::Cold;
            match in_cold.value {
                Ok(value) => rows.base = value.map(Value::Shared),
                Err(_) => return Ok(FoundRow { value: None, tier: Tier::None, in_time: false }),
            }
        }
    }
    let value = rows.combine(view, generation, erased_ms)?;
    let tier = if value.is_some() { tier } else { Tier::None };
    Ok(FoundRow { value, tier, in_time: true })
}

impl StoredRow {
    fn of(kind: ViewKind, value: &[u8]) -> Result<StoredRow, Damaged> {
        let bytes = value.len() as u64;
        match kind {
            ViewKind::Latest => Ok(StoredRow { event_time_ms: event_time_ms(value)?, rows: 1, bytes }),
            ViewKind::LastN => {
                let times = times(value)?;
                let newest = times.first().copied().ok_or(Damaged("it has no element"))?;
                Ok(StoredRow { event_time_ms: newest, rows: times.len() as u64, bytes })
            }
        }
    }
}

fn times(value: &[u8]) -> Result<Vec<i64>, Damaged> {
    Elements::new(value)?.map(|row| event_time_ms(row?)).collect()
}

/// Says which rows stand, change by change, by the rule of `combine.rs`.
fn weigh(
    view: &ViewConfig,
    snapshot: Baseline<'_>,
    base: Option<&[u8]>,
    live: Option<&[u8]>,
) -> Result<(Standing, Option<LiveHolding>), Damaged> {
    let published = published(view, snapshot, base)?;
    let Some(live) = live else {
        let standing = if published.is_empty() { Standing::Nothing } else { Standing::Snapshot };
        return Ok((standing, None));
    };
    let delta = Delta::decode(live)?;
    let row_time = |element: &[u8]| published.iter().find(|(other, _)| **other == *element).map(|(_, time)| *time);
    let changes: Vec<_> = delta
        .changes
        .iter()
        .map(|change| LiveChange {
            event_time_ms: change.event_time_ms,
            element: (view.kind == ViewKind::LastN && !snapshot.is_erased(change.event_time_ms))
                .then(|| name_of(view, change.element)),
            is_deletion: change.row.is_none(),
            stands: snapshot.yields_to(change, row_time(change.element)),
            bytes: change.row.map_or(0, <[u8]>::len) as u64,
        })
        .collect();
    let replaced = |element: &[u8]| {
        delta.changes.iter().zip(&changes).any(|(change, weighed)| weighed.stands && change.element == element)
    };
    let hidden = |time: i64| view.kind == ViewKind::LastN && delta.hides(time, snapshot.as_of_ms);
    let left = published.iter().filter(|(element, time)| !replaced(element) && !hidden(*time)).count();
    let rows = changes.iter().filter(|change| change.stands && !change.is_deletion).count();
    let deletes = changes.iter().any(|change| change.stands && change.is_deletion) || left < published.len();
    let standing = match (left > 0, rows > 0) {
        (true, true) => Standing::Both,
        (true, false) => Standing::Snapshot,
        (false, true) => Standing::Live,
        (false, false) if deletes => Standing::Deleted,
        (false, false) if changes.is_empty() => Standing::Nothing,
        (false, false) => Standing::LeftOut,
    };
    let cleared_ms = Some(delta.cleared_ms).filter(|cleared_ms| *cleared_ms != i64::MIN);
    Ok((standing, Some(LiveHolding { cleared_ms, changes, bytes: live.len() as u64 })))
}

/// The key of an element and its event time.
type Element<'r> = (Cow<'r, [u8]>, i64);

/// The elements of the snapshot that are not erased.
fn published<'r>(
    view: &ViewConfig,
    snapshot: Baseline<'_>,
    base: Option<&'r [u8]>,
) -> Result<Vec<Element<'r>>, Damaged> {
    let Some(base) = base else { return Ok(Vec::new()) };
    let mut published = match view.kind {
        ViewKind::Latest => vec![(Cow::Borrowed(&[][..]), event_time_ms(base)?)],
        ViewKind::LastN => {
            let element = |row| Ok((snapshot.element_key(row)?, event_time_ms(row)?));
            Elements::new(base)?.map(|row| element(row?)).collect::<Result<_, _>>()?
        }
    };
    published.retain(|(_, time)| !snapshot.is_erased(*time));
    Ok(published)
}

/// An element's key as a person writes it.
fn name_of(view: &ViewConfig, element: &[u8]) -> String {
    let feature = view.features.iter().find(|feature| Some(&feature.name) == view.element_key.as_ref());
    match (feature.map(|feature| feature.data_type), <[u8; 8]>::try_from(element)) {
        (Some(FeatureType::I32 | FeatureType::I64), Ok(bytes)) => (i64::from_be_bytes(bytes) ^ i64::MIN).to_string(),
        _ => String::from_utf8_lossy(element).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points_rows, publish_points, view};
    use crate::{Status, StoreConfig, Write, WriteKind};

    const SHOP: TenantId = TenantId(1);

    fn write(store: &Store, time: i64, entity: &str) {
        let rows = points_rows(&[entity], time, 50);
        store.write(&[Write { tenant: SHOP, view: "view", kind: WriteKind::Upsert, rows: &rows }], 1_000).unwrap();
    }

    #[test]
    fn each_tier_is_shown_and_looking_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        let look = |entity: &str| store.inspect(SHOP, entity, Some("view"), 1_000).unwrap().remove(0);
        let nothing = look("ada");
        assert_eq!((nothing.standing, nothing.generation), (Standing::Nothing, None));
        assert_eq!(nothing.why(), "nothing is published for the tenant and nothing was written");

        publish_points(&store, folder.path(), 1, 1);
        let warm = look("ada");
        assert_eq!((warm.hot, warm.standing), (HotHolding::Nothing, Standing::Snapshot));
        assert_eq!((warm.generation, warm.warm.map(|row| row.event_time_ms)), (Some((1, 0)), Some(0)));
        assert_eq!(warm.fetched.tier, [Tier::Warm]);
        assert_eq!(store.hot_usage().entries, 0, "looking makes nothing hot");

        // As old as the snapshot: late. Newer: it stands.
        write(&store, 0, "ada");
        let late = look("ada");
        assert_eq!(late.standing, Standing::Snapshot);
        assert!(!late.live.as_ref().unwrap().changes[0].stands);
        assert_eq!(late.why(), "the snapshot's row stands: what was written live is not newer");
        write(&store, 7, "ada");
        let live = look("ada");
        assert_eq!((live.standing, live.fetched.event_time_ms[0]), (Standing::Live, 7));
        write(&store, 0, "eve");
        assert_eq!(look("eve").standing, Standing::LeftOut);

        crate::test_rows::points(&store, 1);
        store.hot_usage();
        let hot = look("ada");
        assert!(matches!(hot.hot, HotHolding::Row(StoredRow { event_time_ms: 7, rows: 1, .. })));
        assert_eq!(hot.fetched.tier, [Tier::Hot]);

        store.erase(SHOP, "ada", 9).unwrap();
        let erased = look("ada");
        assert_eq!((erased.erased_ms, erased.fetched.status[0]), (Some(9), Status::Erased));
        assert!(store.inspect(SHOP, "", None, 0).is_err() && store.inspect(SHOP, "ada", Some("none"), 0).is_err());
    }

    #[test]
    fn element_keys_are_shown_as_they_are_written() {
        let mut of_numbers = view();
        (of_numbers.kind, of_numbers.element_key) = (ViewKind::LastN, Some("points".to_string()));
        let mut bytes = Vec::new();
        crate::row::push_ordered(-7, &mut bytes);
        assert_eq!(name_of(&of_numbers, &bytes), "-7");
        assert_eq!(name_of(&view(), b"order-1"), "order-1");
    }
}
