//! Asking the cold tier for what the warm one does not have, within the time a fetch has for it. What does not arrive in time goes into the hot
//! tier when it does, combined with the live rows as they were, under the same guard against writes as every other row.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::Error;
use crate::cold::ColdPart;
use crate::cold_call::{ColdAnswer, ColdOutcome};
use crate::cold_pool::{ColdJob, ColdPool};
use crate::fetched::FetchStats;
use crate::generation::Generation;
use crate::hot::{Clock, Filling, Shards};
use crate::hot_row::HotRow;
use crate::lookup::{Rows, Value};
use crate::plan::View;
use crate::row::Damaged;
use crate::{active::Active, metrics};

/// What stands for a key, or that nothing does.
pub(crate) type Found = Option<Arc<[u8]>>;

/// A key that only the cold tier can answer.
pub(crate) struct ColdKey {
    /// In the batch.
    pub(crate) position: usize,
    pub(crate) entity: Box<str>,
    pub(crate) base_key: Box<[u8]>,
    pub(crate) hash: u64,
    pub(crate) view: Arc<View>,
    pub(crate) generation: Arc<Generation>,
    pub(crate) live: Option<Box<[u8]>>,
    pub(crate) erased_ms: Option<i64>,
}

impl ColdKey {
    /// What stands for the key, given what its file holds.
    fn combine(&self, stored: Option<Arc<[u8]>>) -> Result<Found, Damaged> {
        let live = self.live.as_deref().map(|live| Value::Owned(live.to_vec()));
        let rows = Rows { base: stored.map(Value::Shared), live };
        let combined = rows.combine(&self.view, Some(&self.generation), self.erased_ms)?;
        Ok(combined.map(|value| match value {
            Value::Shared(bytes) => bytes,
            other => Arc::from(&*other),
        }))
    }

    /// Takes note that somebody who lies cold was asked for, and makes the row that becomes hot.
    fn arrived(&self, found: &Found, active: &Active) -> HotRow {
        if found.is_some() {
            active.note(self.view.config.id, self.generation.manifest.tenant, &self.entity);
        }
        HotRow::new(&self.base_key, self.hash, found.as_deref())
    }
}

/// What became of a key.
pub(crate) enum ColdRow {
    Found(Found),
    NotInTime,
}

/// Where cold rows come from and go to.
pub(crate) struct ColdTier {
    pub(crate) pool: ColdPool,
    pub(crate) hot: Arc<Shards>,
    pub(crate) active: Arc<Active>,
}

impl ColdTier {
    /// Asks for the keys, which are in the order of their files and entities. Returns what became of each, and the rows to make hot.
    pub(crate) fn look_up(
        &self,
        keys: Vec<ColdKey>,
        read_at: Clock,
        deadline: Instant,
        stats: &mut FetchStats,
    ) -> (Vec<(usize, ColdRow)>, Vec<HotRow>) {
        let mut jobs = Vec::new();
        let mut asked: Vec<Vec<ColdKey>> = Vec::new();
        for (part, keys) in by_part(keys) {
            let mut keys = keys.into_iter();
            let names = keys.as_slice().iter().map(|key| key.entity.clone()).collect();
            for job in ColdJob::split(&part.file, names) {
                asked.push(keys.by_ref().take(job.keys.len()).collect());
                jobs.push(job);
            }
        }
        let asked = Arc::new(asked);
        let late = {
            let (asked, hot, active) = (Arc::clone(&asked), Arc::clone(&self.hot), Arc::clone(&self.active));
            move |job: usize, answer: ColdAnswer| arrive_late(&asked[job], answer, read_at, &hot, &active)
        };
        let outcomes = self.pool.read(jobs, deadline, late);
        let (mut rows, mut to_hot) = (Vec::new(), Vec::new());
        for (keys, outcome) in asked.iter().zip(outcomes) {
            let answer = match outcome {
                ColdOutcome::Read(answer) => answer,
                ColdOutcome::NotInTime | ColdOutcome::Refused => {
                    metrics::record_cold_late(keys.len());
                    rows.extend(keys.iter().map(|key| (key.position, ColdRow::NotInTime)));
                    continue;
                }
            };
            stats.bytes_read += answer.reads.bytes;
            metrics::record_cold_reads(&answer.reads);
            match found(keys, answer) {
                Ok(found) => {
                    for (key, found) in keys.iter().zip(found) {
                        to_hot.push(key.arrived(&found, &self.active));
                        rows.push((key.position, ColdRow::Found(found)));
                    }
                }
                // The rest of the fetch is well; whoever looks after the disks reads it in the log.
                Err(error) => {
                    unreadable(&error);
                    rows.extend(keys.iter().map(|key| (key.position, ColdRow::NotInTime)));
                }
            }
        }
        (rows, to_hot)
    }
}

/// The keys by the file that may hold them.
fn by_part(keys: Vec<ColdKey>) -> Vec<(Arc<ColdPart>, Vec<ColdKey>)> {
    let mut groups: Vec<(Arc<ColdPart>, Vec<ColdKey>)> = Vec::new();
    for key in keys {
        let Some(part) = key.generation.cold_part(&key.entity) else { continue };
        match groups.last_mut() {
            Some((last, group)) if Arc::ptr_eq(last, part) => group.push(key),
            _ => groups.push((Arc::clone(part), vec![key])),
        }
    }
    groups
}

fn found(keys: &[ColdKey], answer: ColdAnswer) -> Result<Vec<Found>, Error> {
    debug_assert!(keys.iter().map(|key| &key.entity).eq(&answer.keys), "an answer is of the keys asked for");
    let values = answer.values?;
    let combined = keys.iter().zip(values).map(|(key, stored)| key.combine(stored)).collect::<Result<_, _>>();
    let path = keys.first().and_then(|key| key.generation.cold_part(&key.entity)).map(|part| part.file.path());
    let path = path.unwrap_or(Path::new(""));
    combined.map_err(|damaged: Damaged| Error::damaged(path, format!("a row: {}", damaged.0)))
}

fn arrive_late(keys: &[ColdKey], answer: ColdAnswer, read_at: Clock, hot: &Shards, active: &Active) {
    metrics::record_cold_reads(&answer.reads);
    match found(keys, answer) {
        Ok(found) => {
            let row = |(key, found): (&ColdKey, Found)| key.arrived(&found, active);
            hot.insert_all(Filling { read_at, rows: keys.iter().zip(found).map(row).collect() });
        }
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &Error) {
    metrics::record_cold_error();
    tracing::error!(%error, "the cold tier cannot be read");
}
