//! A history of a store: a random sequence of everything that can be done to one, and what a store must show after each step. A seed and a number
//! determine a step, so a process that is killed and the test that kills it know the same history without telling each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::types::{Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMillisecondArray};
use larder_store::{
    Error, GenerationState, GenerationWriter, Placement, Store, StoreConfig, TenantId, ViewConfig, Write, WriteKind,
    WriterLimits,
};

use super::Random;
use super::model::{self, Model, Snapshot, What};
use super::store::{Row, Value, batch, config, of_tenant, order_row, orders, plan, profile, profile_row};

/// The tenant to whom it all happens.
const TENANT: u32 = 1;
const USERS: usize = 16;
/// Orders per user: fewer than a live history may hold, so that none falls off its end.
const ORDERS: usize = 8;
/// The first step. A step's number is also its time, and the number of the generation that it may build.
pub(crate) const FIRST: usize = 1000;
/// How late a row may be.
const LATE: usize = 60;

/// The views: one row per user, the last three orders per user, neither with a time to live.
pub(crate) fn views() -> [ViewConfig; 2] {
    [ViewConfig { ttl_s: None, ..profile() }, ViewConfig { ttl_s: None, ..orders() }]
}

pub(crate) fn open(folder: &Path) -> Result<Store, Error> {
    // Time enough for the cold tier, however busy the machine is.
    Store::open(&StoreConfig { cold_budget_ms: 30_000, ..config(folder) }, &views())
}

/// One thing done to a store.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write(Vec<Change>),
    Publish(usize),
    Rollback(usize),
    Erase(usize),
    CompactErased,
}

/// A live row or deletion. A profile has one element, without a name.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    view: usize,
    user: usize,
    time: i64,
    /// `None` in a deletion of all orders.
    element: Option<String>,
    /// `None` is a deletion.
    number: Option<i64>,
}

impl Change {
    fn as_model(&self) -> model::Change {
        let entity = user_name(self.user);
        let what = match (&self.element, self.number) {
            (None, _) => What::DeletionOfAll,
            (Some(element), None) => What::Deletion(element.clone()),
            (Some(element), Some(number)) => What::Row(row_of(self.view, &entity, self.time, element, number)),
        };
        model::Change { entity, event_time_ms: self.time, what }
    }
}

impl Step {
    /// The step of a number.
    pub(crate) fn of(seed: u64, number: usize) -> Step {
        let mut random = random(seed, number);
        match random.below(20) {
            0..=11 => Step::Write(changes(number, &mut random)),
            12..=15 => Step::Publish(random.below(2)),
            16 => Step::Rollback(random.below(2)),
            17 | 18 => Step::Erase(random.below(USERS)),
            _ => Step::CompactErased,
        }
    }

    /// Does it, with files in `folder`.
    pub(crate) fn perform(&self, store: &Store, folder: &Path, seed: u64, number: usize) -> Result<(), Error> {
        match self {
            Step::Write(changes) => write(store, TENANT, changes, number as i64),
            Step::Publish(view) => {
                let dir = folder.join("built");
                let _ = fs::remove_dir_all(&dir);
                build(&dir, seed, *view, number)?;
                store.publish(&dir).map(drop)
            }
            Step::Rollback(view) => match store.rollback(TenantId(TENANT), &views()[*view].name) {
                Err(Error::ChooseGeneration(_)) => Ok(()),
                other => other.map(drop),
            },
            Step::Erase(user) => store.erase(TenantId(TENANT), &user_name(*user), number as i64),
            Step::CompactErased => store.compact_erased().map(drop),
        }
    }
}

fn random(seed: u64, number: usize) -> Random {
    Random::new(seed.wrapping_mul(1_000_003).wrapping_add(number as u64))
}

fn user_name(user: usize) -> String {
    format!("user-{user:02}")
}

fn order_name(order: usize) -> String {
    format!("order-{order}")
}

fn changes(number: usize, random: &mut Random) -> Vec<Change> {
    let count = 1 + random.below(8);
    let change = |index| {
        let (view, delete) = (random.below(2), random.below(4) == 0);
        let element = match view {
            0 => Some(String::new()),
            _ if delete && random.below(4) == 0 => None,
            _ => Some(order_name(random.below(ORDERS))),
        };
        let time = (number - random.below(LATE)) as i64;
        let row = (number * 100 + index) as i64;
        Change { view, user: random.below(USERS), time, element, number: (!delete).then_some(row) }
    };
    let mut changes: Vec<_> = (0..count).map(change).collect();
    // In the order in which `write` puts them, so that of equal times the last one stands.
    changes.sort_by_key(|change| (change.view, change.number.is_none()));
    changes
}

/// Writes changes of one tenant, all in one call.
pub(crate) fn write(store: &Store, tenant: u32, changes: &[Change], now_ms: i64) -> Result<(), Error> {
    let views = views();
    let mut batches = Vec::new();
    for (index, view) in views.iter().enumerate() {
        for kind in [WriteKind::Upsert, WriteKind::Delete] {
            let deletes = kind == WriteKind::Delete;
            let chosen = |change: &&Change| change.view == index && change.number.is_none() == deletes;
            let chosen: Vec<_> = changes.iter().filter(chosen).collect();
            if !chosen.is_empty() {
                batches.push((view, kind, if deletes { deletions(view, &chosen) } else { upserts(view, &chosen) }));
            }
        }
    }
    let write =
        |(view, kind, rows): &'_ (&'_ ViewConfig, WriteKind, RecordBatch)| (view.name.clone(), *kind, rows.clone());
    let owned: Vec<_> = batches.iter().map(write).collect();
    let writes: Vec<_> =
        owned.iter().map(|(view, kind, rows)| Write { tenant: TenantId(tenant), view, kind: *kind, rows }).collect();
    store.write(&writes, now_ms).map(drop)
}

fn upserts(view: &ViewConfig, changes: &[&Change]) -> RecordBatch {
    let row = |change: &&Change| {
        let (user, number) = (user_name(change.user), change.number.unwrap_or_default());
        row_of(change.view, &user, change.time, change.element.as_deref().unwrap_or_default(), number)
    };
    batch(view, &changes.iter().map(row).collect::<Vec<_>>())
}

fn row_of(view: usize, user: &str, time: i64, element: &str, number: i64) -> Row {
    match view {
        0 => profile_row(user, time, number),
        _ => order_row(user, time, element, number as f64),
    }
}

fn deletions(view: &ViewConfig, changes: &[&Change]) -> RecordBatch {
    let users = StringArray::from_iter_values(changes.iter().map(|change| user_name(change.user)));
    let times = TimestampMillisecondArray::from_iter_values(changes.iter().map(|change| change.time));
    let mut columns: Vec<ArrayRef> = vec![Arc::new(users), Arc::new(times.with_timezone("UTC"))];
    if view.element_key.is_some() {
        columns.push(Arc::new(changes.iter().map(|change| change.element.as_deref()).collect::<StringArray>()));
    }
    RecordBatch::try_new(view.deletion_schema(), columns).expect("a batch of deletions")
}

/// Changes that let eight users show one number in both views, or nothing.
pub(crate) fn uniform(number: usize) -> Vec<Change> {
    let change = |index: usize| Change {
        view: index % 2,
        user: index / 2,
        time: number as i64,
        element: Some(if index.is_multiple_of(2) { String::new() } else { "order".to_string() }),
        number: uniform_number(number),
    };
    (0..16).map(change).collect()
}

/// What they show: every fifth time nothing.
pub(crate) fn uniform_number(number: usize) -> Option<i64> {
    (!number.is_multiple_of(5)).then_some(number as i64)
}

/// The number that those eight users show; an error when they show several.
pub(crate) fn read_uniform(store: &Store, tenant: u32) -> Result<Option<i64>, String> {
    let shown: Vec<_> = fetch(store, tenant, 8).map_err(|error| error.to_string())?.into_values().collect();
    let number = |elements: &Vec<(String, i64)>| elements.first().map(|(_, number)| *number);
    match shown.iter().all(|elements| number(elements) == number(&shown[0])) {
        true => Ok(number(&shown[0])),
        false => Err(format!("a batch of tenant {tenant} is there in part: {shown:?}")),
    }
}

/// The snapshot that a step publishes. A later one never goes back to a state from before an earlier one: its rows are at least as new as that.
fn snapshot(seed: u64, view: usize, number: usize) -> Snapshot {
    let mut random = random(seed ^ 0x5EED, number);
    let of_view = |earlier: &usize| matches!(Step::of(seed, *earlier), Step::Publish(of) if of == view);
    let oldest = (FIRST..number).rev().find(of_view).unwrap_or(0).max(number - LATE);
    let mut rows = Vec::new();
    for user in (0..USERS).filter(|user| *user == 0 || !(user + number).is_multiple_of(5)) {
        let elements: Vec<_> = match view {
            0 => vec![String::new()],
            _ => (0..ORDERS)
                .filter(|order| (user, *order) == (0, 0) || random.below(3) == 0)
                .map(order_name)
                .take(3)
                .collect(),
        };
        for (index, element) in elements.iter().enumerate() {
            let time = oldest + random.below(number - oldest + 1);
            let mut row =
                row_of(view, &user_name(user), time as i64, element, (number * 100 + user * 3 + index) as i64);
            // The text by which the generation's files are known.
            row.values[if view == 0 { 0 } else { 2 }] = Some(Value::Text(format!("{BUILT}{number}.")));
            rows.push(row);
        }
    }
    Snapshot { number: number as u32, as_of_ms: number as i64, rows }
}

fn build(dir: &Path, seed: u64, view: usize, number: usize) -> Result<(), Error> {
    let (config, snapshot) = (&views()[view], snapshot(seed, view, number));
    let (tenant, limits) = (TenantId(TENANT), WriterLimits::default());
    let writer = GenerationWriter::create(dir, config, tenant, snapshot.number, snapshot.as_of_ms, limits)?;
    // The older half of the users lies cold in every second snapshot.
    let times = || snapshot.rows.iter().map(|row| row.event_time_ms);
    let middle = times().min().zip(times().max()).map(|(oldest, newest)| oldest + (newest - oldest + 1) / 2);
    let cold_before_ms = middle.filter(|_| !number.is_multiple_of(2));
    let mut writer = writer.place(Placement { cold_before_ms, ..Placement::default() });
    writer.append(&batch(config, &snapshot.rows))?;
    writer.finish().map(drop)
}

const BUILT: &str = "built by ";

/// Says if there is a file in a store's folder that nobody needs.
pub(crate) fn check_left(folder: &Path) -> Result<(), String> {
    for entry in fs::read_dir(folder.join("store")).expect("a store") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        let known = ["CURRENT", "IDENTITY", "LOCK"].contains(&&*name)
            || ["MANIFEST-", "OPTIONS-", "LOG"].iter().any(|prefix| name.starts_with(prefix) && !name.ends_with("tmp"))
            || [".sst", ".log"].iter().any(|suffix| name.ends_with(suffix));
        if !known {
            return Err(format!("{name} was left"));
        }
    }
    Ok(())
}

/// The numbers of all generations that have rows in the files of a store.
pub(crate) fn generations_on_disk(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join("store")).expect("a store") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "sst") {
            continue;
        }
        let bytes = fs::read(path).expect("a file");
        for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(BUILT.as_bytes())) {
            let rest = &bytes[at + BUILT.len()..];
            let digits: String = rest.iter().take_while(|byte| byte.is_ascii_digit()).map(|b| char::from(*b)).collect();
            // Compression may have cut the text in two.
            if rest.get(digits.len()) == Some(&b'.') {
                found.extend(digits.parse::<u32>());
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What is visible: the elements of each view and user with their numbers, newest first.
type Visible = BTreeMap<(usize, usize), Vec<(String, i64)>>;

/// Fetches everything of the first `users` of a tenant.
fn fetch(store: &Store, tenant: u32, users: usize) -> Result<Visible, Error> {
    let names: Vec<_> = (0..users).map(user_name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let plan = plan(store, &["profile:points", "orders:order_id", "orders:total"]);
    let fetched = store.fetch(&plan, &of_tenant(tenant, &names), 0)?;
    let mut visible = Visible::new();
    for user in 0..users {
        let points = fetched.views[0].columns[0].as_primitive::<Int64Type>();
        let points = points.is_valid(user).then(|| (String::new(), points.value(user)));
        visible.insert((0, user), points.into_iter().collect());
        let [orders, totals] = [0, 1].map(|column| fetched.views[1].columns[column].as_list::<i32>());
        let mut shown = Vec::new();
        if orders.is_valid(user) {
            let (orders, totals) = (orders.value(user), totals.value(user));
            let totals = totals.as_primitive::<Float64Type>();
            shown.extend(
                orders
                    .as_string::<i32>()
                    .iter()
                    .flatten()
                    .map(str::to_string)
                    .zip(totals.values().iter().map(|t| *t as i64)),
            );
        }
        visible.insert((1, user), shown);
    }
    Ok(visible)
}

/// What a store must hold after some steps.
#[derive(Clone)]
pub(crate) struct Expected {
    model: Model,
    /// By view the numbers of the live generation and of the previous one.
    generations: [[Option<u32>; 2]; 2],
}

impl Expected {
    /// Before the first step.
    pub(crate) fn new() -> Expected {
        Expected { model: Model::new(&views()), generations: [[None; 2]; 2] }
    }

    /// Takes a step in.
    pub(crate) fn apply(&mut self, seed: u64, number: usize, step: &Step) {
        match step {
            Step::Write(changes) => {
                for change in changes {
                    self.model.write((change.view, TENANT), change.as_model());
                }
            }
            Step::Publish(view) => {
                assert!(self.model.publish((*view, TENANT), snapshot(seed, *view, number)), "it is the newest");
                let [live, _] = self.generations[*view];
                self.generations[*view] = [Some(number as u32), live];
            }
            Step::Rollback(view) => {
                if self.model.rollback((*view, TENANT)) {
                    self.generations[*view].reverse();
                }
            }
            Step::Erase(user) => self.model.erase(TENANT, &user_name(*user), number as i64),
            Step::CompactErased => {
                self.model.compact_erased();
            }
        }
    }

    fn visible(&self, view: usize, user: usize) -> Vec<(String, i64)> {
        let rows = self.model.answer((view, TENANT), &user_name(user), 0).visible;
        let shown = |row: Row| match &row.values[..] {
            [_, Some(Value::I64(points)), ..] => (String::new(), *points),
            [Some(Value::Text(order)), Some(Value::F64(total)), ..] => (order.clone(), *total as i64),
            other => panic!("no row of a history: {other:?}"),
        };
        rows.into_iter().map(shown).collect()
    }

    /// The generations that a store holds: view, state, number.
    fn generations(&self) -> Vec<(usize, GenerationState, u32)> {
        let states = [GenerationState::Live, GenerationState::Previous];
        let of_view = |view: usize| {
            let kept = states.into_iter().zip(self.generations[view]);
            kept.filter_map(move |(state, number)| Some((view, state, number?)))
        };
        (0..2).flat_map(of_view).collect()
    }

    /// The numbers of the generations that have files.
    pub(crate) fn kept(&self) -> Vec<u32> {
        self.generations().into_iter().map(|(.., number)| number).collect()
    }

    /// Compares with a store: says what differs.
    pub(crate) fn check(&self, store: &Store) -> Result<(), String> {
        let view = |name: &str| views().iter().position(|view| view.name == name).unwrap_or(usize::MAX);
        let mut found: Vec<_> =
            store.generations().iter().map(|info| (view(&info.view), info.state, info.generation)).collect();
        found.sort_unstable();
        if found != self.generations() {
            return Err(format!("generations {found:?}, expected {:?}", self.generations()));
        }
        let shown = fetch(store, TENANT, USERS).map_err(|error| error.to_string())?;
        for ((view, user), shown) in shown {
            let expected = self.visible(view, user);
            if shown != expected {
                return Err(format!("view {view}, user {user}: {shown:?}, expected {expected:?}"));
            }
        }
        Ok(())
    }
}
