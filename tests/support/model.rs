//! The store as somebody would write it down who knows only its rules: whole histories in vectors, every question answered from the start, no
//! thought of speed. What the random histories do to the store they do to this too, and both must answer alike.

use std::collections::{BTreeMap, BTreeSet};

use larder_store::{Status, ViewConfig, ViewKind};

use super::store::{Row, Value};

/// A view, by its position in the model, and a tenant.
pub(crate) type Place = (usize, u32);

/// A generation: at most one row of each element, and of a history the newest `n`.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) number: u32,
    pub(crate) as_of_ms: i64,
    pub(crate) rows: Vec<Row>,
}

/// Something that was written live.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) entity: String,
    pub(crate) event_time_ms: i64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Row(Row),
    /// In a `latest` view the element is empty.
    Deletion(String),
    DeletionOfAll,
}

/// What is to be seen of an entity at some time.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// Newest first.
    pub(crate) visible: Vec<Row>,
    pub(crate) event_time_ms: i64,
    pub(crate) generation: u32,
}

/// Everything known of a view and tenant.
#[derive(Debug, Clone, Default)]
struct Known {
    live: Option<Snapshot>,
    previous: Option<Snapshot>,
    /// In the order they were written.
    changes: Vec<Change>,
    /// The same, had nothing ever been pruned.
    unpruned: Vec<Change>,
    pruned_to_ms: Option<i64>,
    published: Vec<Snapshot>,
}

#[derive(Clone)]
pub(crate) struct Model {
    views: Vec<ViewConfig>,
    places: BTreeMap<Place, Known>,
    /// By tenant and entity.
    erased: BTreeMap<(u32, String), i64>,
}

/// The element that a row is about; a `latest` view has one, without a name.
fn element(view: &ViewConfig, row: &Row) -> String {
    let feature = view.features.iter().position(|feature| Some(&feature.name) == view.element_key.as_ref());
    match feature.map(|feature| &row.values[feature]) {
        None => String::new(),
        Some(Some(Value::Text(text))) => text.clone(),
        Some(other) => panic!("{other:?} is no element key of the model"),
    }
}

/// Newest first; of equal times the greater element first; no more than the view shows.
fn newest(view: &ViewConfig, mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| std::cmp::Reverse((row.event_time_ms, element(view, row))));
    rows.truncate(view.n.unwrap_or(1) as usize);
    rows
}

impl Change {
    /// The element that is changed; none where all are deleted.
    pub(crate) fn element(&self, view: &ViewConfig) -> Option<String> {
        match &self.what {
            What::Row(row) => Some(element(view, row)),
            What::Deletion(element) => Some(element.clone()),
            What::DeletionOfAll => None,
        }
    }
}

/// What stands of an entity's changes: until when everything is deleted, and of each element the change with the greatest event time, of
/// equal times the last written.
fn standing(view: &ViewConfig, changes: &[Change], entity: &str) -> (Option<i64>, BTreeMap<String, Change>) {
    let of_entity = || changes.iter().filter(|change| change.entity == entity);
    let all = of_entity().filter(|change| change.what == What::DeletionOfAll).map(|change| change.event_time_ms).max();
    let mut standing: BTreeMap<String, Change> = BTreeMap::new();
    for change in of_entity().filter(|change| all.is_none_or(|all| change.event_time_ms > all)) {
        let Some(element) = change.element(view) else { continue };
        if standing.get(&element).is_none_or(|other| change.event_time_ms >= other.event_time_ms) {
            standing.insert(element, change.clone());
        }
    }
    (all, standing)
}

/// Whether a change of that time counts against a snapshot, or none, and its row of the element.
fn counts(snapshot: Option<&Snapshot>, row: Option<&Row>, time: i64) -> bool {
    match row {
        Some(row) if time != row.event_time_ms => time > row.event_time_ms,
        _ => snapshot.is_none_or(|snapshot| time > snapshot.as_of_ms),
    }
}

/// The rows that stand of an entity, against a snapshot or none; erased ones are as if they had never been.
fn stand(
    view: &ViewConfig,
    snapshot: Option<&Snapshot>,
    changes: &[Change],
    entity: &str,
    erased: Option<i64>,
) -> Vec<Row> {
    let exists = |time: i64| erased.is_none_or(|erased| time > erased);
    let of_entity = |row: &&Row| row.entity == entity && exists(row.event_time_ms);
    let published: BTreeMap<String, Row> =
        snapshot.iter().flat_map(|s| &s.rows).filter(of_entity).map(|row| (element(view, row), row.clone())).collect();
    let changes: Vec<_> = changes.iter().filter(|change| exists(change.event_time_ms)).cloned().collect();
    let (all_deleted, live) = standing(view, &changes, entity);

    let mut rows = Vec::new();
    for element in published.keys().chain(live.keys()).collect::<BTreeSet<_>>() {
        let (row, change) = (published.get(element), live.get(element));
        let counts = change.filter(|change| counts(snapshot, row, change.event_time_ms));
        match (counts, row) {
            (Some(Change { what: What::Row(row), .. }), _) => rows.push(row.clone()),
            (Some(_), _) => {}
            (None, Some(row)) if all_deleted.is_none_or(|time| row.event_time_ms > time) => rows.push(row.clone()),
            (None, _) => {}
        }
    }
    newest(view, rows)
}

impl Model {
    pub(crate) fn new(views: &[ViewConfig]) -> Model {
        Model { views: views.to_vec(), places: BTreeMap::new(), erased: BTreeMap::new() }
    }

    /// The rows of a generation made of these: of each element the newest row, of equal times the last.
    pub(crate) fn build(&self, (view, _): Place, number: u32, as_of_ms: i64, rows: &[Row]) -> Snapshot {
        let view = &self.views[view];
        let mut kept = Vec::new();
        for entity in rows.iter().map(|row| &row.entity).collect::<BTreeSet<_>>() {
            let mut elements: BTreeMap<String, Row> = BTreeMap::new();
            for row in rows.iter().filter(|row| &row.entity == entity) {
                let element = element(view, row);
                if elements.get(&element).is_none_or(|other| row.event_time_ms >= other.event_time_ms) {
                    elements.insert(element, row.clone());
                }
            }
            kept.extend(newest(view, elements.into_values().collect()));
        }
        Snapshot { number, as_of_ms, rows: kept }
    }

    /// The least event time with which a row may follow the snapshots that came before, if time is not to run backwards: not
    /// older than they showed its element, nor from a time in which they knew that there was none, or only one that is erased.
    pub(crate) fn least_time(&self, place: Place, row: &Row) -> i64 {
        let view = &self.views[place.0];
        let same = |other: &&Row| other.entity == row.entity && element(view, other) == element(view, row);
        let published = self.places.get(&place).map_or(&[] as &[Snapshot], |known| &known.published);
        let erased = self.erased(place, &row.entity);
        let exists = |other: &&Row| erased.is_none_or(|erased| other.event_time_ms > erased);
        let least = published.iter().map(|snapshot| match snapshot.rows.iter().find(same).filter(exists) {
            Some(row) => row.event_time_ms,
            None => snapshot.as_of_ms + 1000,
        });
        least.max().unwrap_or(i64::MIN)
    }

    /// Whether the snapshot is taken: not when what it may need was pruned.
    pub(crate) fn publish(&mut self, place: Place, snapshot: Snapshot) -> bool {
        let known = self.places.entry(place).or_default();
        if known.pruned_to_ms.is_some_and(|pruned_to_ms| snapshot.as_of_ms < pruned_to_ms) {
            return false;
        }
        known.published.push(snapshot.clone());
        if let Some(before) = known.live.replace(snapshot) {
            known.previous = Some(before);
        }
        self.prune(place);
        true
    }

    /// What a delta snapshot makes of the live generation; `None` where it does not follow it, or leaves nothing of it.
    pub(crate) fn changed(
        &self,
        place: Place,
        number: u32,
        (since_ms, as_of_ms): (i64, i64),
        rows: &[Row],
        deletions: &[Change],
    ) -> Option<Snapshot> {
        let view = &self.views[place.0];
        let live = self.places.get(&place)?.live.as_ref()?;
        if live.as_of_ms < since_ms || as_of_ms < live.as_of_ms {
            return None;
        }
        let mut changed = Vec::new();
        let entities = live.rows.iter().chain(rows).map(|row| &row.entity).collect::<BTreeSet<_>>();
        for entity in entities {
            let gone = |row: &Row| {
                deletions.iter().any(|deletion| {
                    let same = match &deletion.what {
                        What::DeletionOfAll => true,
                        What::Deletion(deleted) => *deleted == element(view, row),
                        What::Row(_) => false,
                    };
                    same && deletion.entity == *entity && row.event_time_ms <= deletion.event_time_ms
                })
            };
            let exists = |row: &&Row| self.erased(place, entity).is_none_or(|erased| row.event_time_ms > erased);
            let mut elements: BTreeMap<String, Row> = BTreeMap::new();
            for row in live.rows.iter().chain(rows).filter(|row| row.entity == *entity) {
                let element = element(view, row);
                if elements.get(&element).is_none_or(|other| row.event_time_ms >= other.event_time_ms) {
                    elements.insert(element, row.clone());
                }
            }
            let standing = elements.into_values().filter(|row| !gone(row)).collect();
            changed.extend(newest(view, standing).iter().filter(exists).cloned());
        }
        (!changed.is_empty()).then_some(Snapshot { number, as_of_ms, rows: changed })
    }

    pub(crate) fn rollback(&mut self, place: Place) -> bool {
        let known = self.places.entry(place).or_default();
        if known.previous.is_some() {
            std::mem::swap(&mut known.live, &mut known.previous);
        }
        known.previous.is_some()
    }

    /// Whether the change is taken in: not when its entity was erased since.
    pub(crate) fn write(&mut self, place: Place, change: Change) -> bool {
        if self.erased(place, &change.entity).is_some_and(|erased| change.event_time_ms <= erased) {
            return false;
        }
        let known = self.places.entry(place).or_default();
        known.changes.push(change.clone());
        known.unpruned.push(change);
        true
    }

    /// Whether the change would change nothing, because of something newer that is there.
    pub(crate) fn is_late(&self, place: Place, change: &Change) -> bool {
        let (view, time) = (&self.views[place.0], change.event_time_ms);
        let Some(known) = self.places.get(&place) else { return false };
        let (all, standing) = standing(view, &known.changes, &change.entity);
        let Some(name) = change.element(view) else { return all.is_some_and(|all| all > time) };
        let erased = self.erased(place, &change.entity);
        let published = known.live.iter().flat_map(|snapshot| &snapshot.rows).find(|row| {
            let exists = erased.is_none_or(|erased| row.event_time_ms > erased);
            exists && row.entity == change.entity && element(view, row) == name
        });
        standing.get(&name).is_some_and(|other| other.event_time_ms > time)
            || all.is_some_and(|all| all >= time)
            || !counts(known.live.as_ref(), published, time)
    }

    pub(crate) fn erase(&mut self, tenant: u32, entity: &str, now_ms: i64) {
        let erased = self.erased.entry((tenant, entity.to_string())).or_insert(now_ms);
        *erased = now_ms.max(*erased);
    }

    /// Takes out what is erased. Returns of how many entities of generations and of how many with live rows there was something.
    pub(crate) fn compact_erased(&mut self) -> (u64, u64) {
        let (mut rows, mut live) = (0, 0);
        for ((view, tenant), known) in &mut self.places {
            let view = &self.views[*view];
            for ((_, entity), erased) in self.erased.iter().filter(|((of, _), _)| of == tenant) {
                for snapshot in known.live.iter_mut().chain(&mut known.previous) {
                    let before = snapshot.rows.len();
                    snapshot.rows.retain(|row| row.entity != *entity || row.event_time_ms > *erased);
                    rows += u64::from(snapshot.rows.len() < before);
                }
                let (all, standing) = standing(view, &known.changes, entity);
                let times = all.into_iter().chain(standing.values().map(|change| change.event_time_ms));
                live += u64::from(times.min().is_some_and(|least| least <= *erased));
                known.changes.retain(|change| change.entity != *entity || change.event_time_ms > *erased);
            }
        }
        (rows, live)
    }

    /// Forgets changes that every kept snapshot is as new as, and that none of them shows anything older in place of.
    fn prune(&mut self, place: Place) {
        let view = &self.views[place.0];
        let Some(known) = self.places.get_mut(&place) else { return };
        let snapshots: Vec<_> = known.live.iter().chain(&known.previous).cloned().collect();
        let Some(covered_ms) = snapshots.iter().map(|snapshot| snapshot.as_of_ms).min() else { return };
        let unpruned = known.changes.clone();
        for entity in unpruned.iter().map(|change| change.entity.clone()).collect::<BTreeSet<_>>() {
            let erased = self.erased.get(&(place.1, entity.clone())).copied();
            let exists = |row: &&Row| row.entity == entity && erased.is_none_or(|erased| row.event_time_ms > erased);
            let rows: Vec<_> = snapshots.iter().flat_map(|snapshot| &snapshot.rows).filter(exists).collect();
            let (all, mut kept) = standing(view, &known.changes, &entity);
            let before = kept.len();
            kept.retain(|name, change| {
                let mut shown = rows.iter().filter(|row| element(view, row) == *name);
                change.event_time_ms > covered_ms || shown.any(|row| row.event_time_ms < change.event_time_ms)
            });
            let all_kept = all.filter(|time| *time > covered_ms || rows.iter().any(|row| row.event_time_ms <= *time));
            if kept.len() < before || all_kept != all {
                known.pruned_to_ms = known.pruned_to_ms.max(Some(covered_ms));
            }
            known.changes.retain(|change| match &change.what {
                _ if change.entity != entity => true,
                What::DeletionOfAll => all_kept == Some(change.event_time_ms),
                What::Row(row) => kept.contains_key(&element(view, row)),
                What::Deletion(element) => kept.contains_key(element),
            });
            // What was deleted with all stays deleted, although that is forgotten.
            known.changes.retain(|change| {
                let deleted = all.is_some_and(|all| change.event_time_ms <= all);
                change.entity != entity || !deleted || change.what == What::DeletionOfAll
            });
            // Now and after a rollback nothing is answered differently.
            for snapshot in &snapshots {
                let rows = |changes| stand(view, Some(snapshot), changes, &entity, erased);
                assert_eq!(rows(&known.changes), rows(&unpruned), "{entity:?} of {place:?} in {}", snapshot.number);
            }
        }
    }

    /// Checks that all prunings together have changed no answer: none of the live generation, none of the previous one. So it is if
    /// snapshots are as [`least_time`](Model::least_time) says.
    pub(crate) fn check_prunings(&self) {
        for (place, known) in &self.places {
            let (view, all) = (&self.views[place.0], &known.unpruned);
            for entity in all.iter().map(|change| &change.entity).collect::<BTreeSet<_>>() {
                for snapshot in known.live.iter().chain(&known.previous) {
                    let erased = self.erased(*place, entity);
                    let rows = |changes| stand(view, Some(snapshot), changes, entity, erased);
                    assert_eq!(rows(&known.changes), rows(all), "{entity:?} of {place:?} in {}", snapshot.number);
                }
            }
        }
    }

    fn erased(&self, (_, tenant): Place, entity: &str) -> Option<i64> {
        self.erased.get(&(tenant, entity.to_string())).copied()
    }

    /// The number of the live generation, if there is one.
    pub(crate) fn live(&self, place: Place) -> Option<u32> {
        self.places.get(&place)?.live.as_ref().map(|snapshot| snapshot.number)
    }

    pub(crate) fn answer(&self, place: Place, entity: &str, now_ms: i64) -> Answer {
        let view = &self.views[place.0];
        let nothing = Known::default();
        let known = self.places.get(&place).unwrap_or(&nothing);
        let erased = self.erased(place, entity);
        let rows = stand(view, known.live.as_ref(), &known.changes, entity, erased);
        assert!(rows.len() <= 1 || view.kind == ViewKind::LastN);
        let alive = |row: &&Row| view.ttl_s.is_none_or(|ttl_s| now_ms < row.event_time_ms + ttl_s as i64 * 1000);
        let visible: Vec<_> = rows.iter().filter(alive).cloned().collect();
        let status = match (rows.is_empty(), visible.is_empty()) {
            (_, false) => Status::Present,
            (false, true) => Status::Expired,
            (true, true) if erased.is_some() => Status::Erased,
            (true, true) => Status::NotFound,
        };
        Answer {
            status,
            visible,
            event_time_ms: rows.first().map_or(0, |row| row.event_time_ms),
            generation: known.live.as_ref().map_or(0, |snapshot| snapshot.number),
        }
    }
}
