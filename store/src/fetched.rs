//! What a fetch returns: Arrow columns aligned with the request, and for each value where it came from and how it stands.

use arrow::array::{Array, ArrayRef, AsArray};

use crate::view::ViewKind;

/// How the row of an entity, or one of its values, stands at the time of the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// There is a value.
    Present,
    /// There is a row, and this value in it is null. Only [`FetchedView::value_status`] says so.
    Null,
    /// There is no row: the entity is unknown, or nothing was published for the tenant.
    NotFound,
    /// There is a row, older than the view's time to live; for `last_n` all elements are.
    Expired,
    /// The entity was erased on its user's request, and nothing is known of it since.
    Erased,
    /// The cold tier did not answer within its time; when it does, the row becomes hot. Also where a cold file could not be read: the log
    /// and `larder_store_cold_errors_total` say so.
    NotInTime,
}

/// The tier that held a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// No tier: there is no row.
    None,
    /// The rows of the last requests, in RAM.
    Hot,
    /// RocksDB, live rows included.
    Warm,
    /// Parquet files.
    Cold,
}

/// The answer to a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// One per view of the plan, in the plan's order.
    pub views: Vec<FetchedView>,
    /// What the fetch cost.
    pub stats: FetchStats,
}

impl Fetched {
    /// The view of that name, if the plan has it.
    pub fn view(&self, name: &str) -> Option<&FetchedView> {
        self.views.iter().find(|view| view.name == name)
    }
}

/// The rows of one view, one per requested entity and in the order of the request, repeats included.
#[derive(Debug)]
pub struct FetchedView {
    /// The view's name.
    pub name: String,
    /// The view's kind, which says what the columns are.
    pub kind: ViewKind,
    /// The names of the fetched features, in the plan's order.
    pub features: Vec<String>,
    /// One column per feature, as long as the request. For `latest` the value; for `last_n` a list of the visible elements' values, newest
    /// first. Null where there is no visible row.
    pub columns: Vec<ArrayRef>,
    /// How each entity's row stands; never [`Status::Null`].
    pub status: Vec<Status>,
    /// The event time of the row (for `last_n` of the newest element), of expired rows too; 0 where there is no row.
    pub event_time_ms: Vec<i64>,
    /// Which tier held the row.
    pub tier: Vec<Tier>,
    /// The generation that answered; 0 where none is live for the tenant.
    pub generation: Vec<u32>,
}

impl FetchedView {
    /// The position of a feature's column.
    pub fn feature(&self, name: &str) -> Option<usize> {
        self.features.iter().position(|feature| feature == name)
    }

    /// How one value stands; for `last_n` the newest element's. `None` outside the columns.
    pub fn value_status(&self, feature: usize, row: usize) -> Option<Status> {
        let status = *self.status.get(row)?;
        let column = self.columns.get(feature)?;
        if status != Status::Present {
            return Some(status);
        }
        let present = match self.kind {
            ViewKind::Latest => column.is_valid(row),
            ViewKind::LastN => {
                let list = column.as_list::<i32>();
                list.values().is_valid(list.value_offsets()[row] as usize)
            }
        };
        Some(if present { Status::Present } else { Status::Null })
    }
}

/// What a fetch cost. `unique_keys` = `hot_hits` + `warm_hits` + `cold_hits` + `not_in_time` + `not_found`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Keys asked for: entities times views.
    pub keys: u64,
    /// Keys left when repeats are taken out; each is looked up once.
    pub unique_keys: u64,
    /// Unique keys whose row the hot tier held.
    pub hot_hits: u64,
    /// Unique keys whose row was read from the warm tier.
    pub warm_hits: u64,
    /// Unique keys whose row was read from the cold tier.
    pub cold_hits: u64,
    /// Unique keys that the cold tier did not answer within its time.
    pub not_in_time: u64,
    /// Unique keys without a row.
    pub not_found: u64,
    /// Of the keys without a row: how many the hot tier knew to be absent.
    pub hot_negatives: u64,
    /// Of the keys with a row: how many rows are expired.
    pub expired: u64,
    /// Of all keys: how many are of erased entities.
    pub erased: u64,
    /// Row bytes read below the hot tier.
    pub bytes_read: u64,
}
