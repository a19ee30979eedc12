//! The work behind `larder ingest`: Parquet files of one view of one tenant, built into a generation and published.
//!
//! Sorting and packing are larder-ingest's; this file names the generation, shows the progress and cleans up.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use larder_ingest::{BuildLimits, BuildReport, BuildRequest, ColdRule, DeltaRequest, Location, Progress};
use larder_serve::NodeConfig;
use larder_store::{Placement, Shard};
use serde::Serialize;

use crate::destination::{Destination, tenant_id};
use crate::generation_number;
use crate::live::{NowLive, cold};
use crate::progress::{Stage, Unit, count};

/// Parquet files that show one view of one tenant at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) tenant: &'a str,
    pub(crate) view: &'a str,
    pub(crate) parquet: &'a [Location],
    /// Since when it holds what has changed, Unix milliseconds UTC, and the files of deletions; `None` = it is whole.
    pub(crate) delta: Option<DeltaRequest>,
    /// The moment that the files show; `None` = the time the build starts.
    pub(crate) as_of_ms: Option<i64>,
    pub(crate) limits: BuildLimits,
    /// Where sorted runs are set aside; `None` = beside the generation.
    pub(crate) spill: Option<&'a Path>,
    /// Where samples of rejected rows are written.
    pub(crate) rejects: Option<&'a Path>,
    /// Whether what a killed build left is ignored.
    pub(crate) fresh: bool,
    /// The part of all entities that is built.
    pub(crate) shard: Shard,
    /// Who goes cold; `None` = nobody.
    pub(crate) cold: Option<&'a ColdRule>,
}

/// What a build made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Built {
    pub(crate) tenant: String,
    pub(crate) view: String,
    pub(crate) generation: u32,
    pub(crate) as_of_ms: i64,
    /// Since when a delta snapshot holds what has changed; absent of a whole generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since_ms: Option<i64>,
    /// Of the rows, deletions; absent of a whole generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deletions: Option<u64>,
    pub(crate) rows_read: u64,
    pub(crate) rows_rejected: u64,
    /// "i/n"; "0/1" = all entities.
    pub(crate) shard: Shard,
    /// Rows of other shards.
    pub(crate) rows_elsewhere: u64,
    pub(crate) rows: u64,
    pub(crate) entities: u64,
    pub(crate) cold_entities: u64,
    pub(crate) cold_files: u64,
    /// Whether it was there already and nothing was done.
    pub(crate) already_built: bool,
}

/// Builds a generation beside the store and publishes it.
pub(crate) fn load(snapshot: &Snapshot<'_>, destination: &mut Destination<'_>) -> Result<NowLive> {
    let in_use = destination.newest_generation(snapshot.tenant, snapshot.view)?;
    let generation = generation_number::draw(snapshot.config, snapshot.tenant, snapshot.view, in_use)?;
    let workspace = Workspace::new(&snapshot.config.store.path, snapshot, generation)?;
    build(snapshot, &workspace.folder, generation)?;
    let stage = Stage::start(format!("publish {}", snapshot.view), Unit::Items);
    let live = destination.publish(&workspace.folder)?;
    stage.done(format_args!("generation {} is live in {destination}", live.generation));
    Ok(live)
}

/// Builds a generation into the folder `out`.
pub(crate) fn build(snapshot: &Snapshot<'_>, out: &Path, generation: u32) -> Result<Built> {
    let config = snapshot.config;
    let tenant = tenant_id(config, snapshot.tenant)?;
    let Some(view) = config.view(snapshot.view) else {
        bail!(
            "the config has no view {:?}; it has {}",
            snapshot.view,
            names(config.views.iter().map(|view| &view.name))
        );
    };
    let as_of_ms = snapshot.as_of_ms.unwrap_or_else(|| Utc::now().timestamp_millis());
    let placement = match snapshot.cold {
        Some(rule) => rule.placement(view.id, tenant, as_of_ms)?,
        None => Placement::default(),
    };
    let mut request = BuildRequest::new(view, tenant, snapshot.parquet.to_vec(), out.to_owned(), generation, as_of_ms);
    request.delta = snapshot.delta.clone();
    request.placement = placement;
    request.limits = snapshot.limits.clone();
    request.spill = snapshot.spill.map(Path::to_owned);
    request.rejects = snapshot.rejects.map(Path::to_owned);
    request.fresh = snapshot.fresh;
    request.shard = snapshot.shard;
    request.terms = terms(snapshot)?;
    let started = Instant::now();
    let stage = Stage::start(format!("build {}", snapshot.view), Unit::Rows);
    let report = larder_ingest::build(&request, &mut |progress| show(&stage, progress))?;
    let BuildReport { manifest, rows_read, rows_rejected, rows_elsewhere, already_built, .. } = report;
    let rejected = match rows_rejected {
        0 => String::new(),
        n => format!(", {} rejected", count(n)),
    };
    let elsewhere = match rows_elsewhere {
        0 => String::new(),
        n => format!(", {} of other shards than {}", count(n), snapshot.shard),
    };
    // The files of a delta snapshot are like those of the cold tier, and say nothing of tiers.
    let cold_parts = if manifest.delta.is_some() { &[][..] } else { &manifest.cold[..] };
    let cold_entities = cold_parts.iter().map(|file| file.entities).sum();
    let cold_files = cold_parts.len() as u64;
    if already_built {
        stage.done("already built from the same files, nothing to do");
    } else {
        stage.done(format_args!(
            "{} rows read{rejected}{elsewhere}, {} kept for {} entities{}, {} rows/s",
            count(rows_read),
            count(manifest.rows),
            count(manifest.entities),
            cold(cold_entities, cold_files),
            count((rows_read as f64 / started.elapsed().as_secs_f64().max(0.001)) as u64)
        ));
    }
    Ok(Built {
        tenant: snapshot.tenant.to_owned(),
        view: snapshot.view.to_owned(),
        generation: manifest.generation,
        as_of_ms: manifest.as_of_ms,
        since_ms: manifest.delta.map(|delta| delta.since_ms),
        deletions: manifest.delta.map(|delta| delta.deletions),
        rows_read,
        rows_rejected,
        shard: manifest.shard,
        rows_elsewhere,
        rows: manifest.rows,
        entities: manifest.entities,
        cold_entities,
        cold_files,
        already_built,
    })
}

/// Shows how far a build is.
fn show(stage: &Stage, progress: Progress) {
    match progress {
        Progress::Remains { rows: Some(rows) } => {
            stage.note(format_args!("going on after {} rows that a killed build has sorted", count(rows)));
        }
        Progress::Remains { rows: None } => {
            stage.note("starting anew: what an earlier build left is of other files or settings, or not wanted");
        }
        Progress::Damaged => stage.note("sorting all rows again: what the killed build had sorted is damaged"),
        Progress::Reading { rows, of } => {
            stage.rename("read and sort");
            stage.set(rows, of);
        }
        Progress::Sorting { .. } => stage.rename("merge"),
        Progress::Writing { rows, of } => {
            stage.rename("write");
            stage.set(rows, of);
        }
    }
}

/// What of the request, beside the files, makes two builds the same: as-of and cold placement where they were asked for. The default as-of is
/// the time of the call and would make every call another.
fn terms(snapshot: &Snapshot<'_>) -> Result<String> {
    let active = match snapshot.cold.and_then(|rule| rule.active.as_ref()) {
        Some(file) => Location::local(file).find()?.map(|found| (found.bytes, found.modified_ns)),
        None => None,
    };
    Ok(format!("as of {:?}, cold {:?}, active {active:?}", snapshot.as_of_ms, snapshot.cold))
}

/// A folder beside the store, on the same disk, where a generation is built and then published from.
struct Workspace {
    parent: PathBuf,
    folder: PathBuf,
}

impl Workspace {
    fn new(store: &Path, snapshot: &Snapshot<'_>, generation: u32) -> Result<Workspace> {
        let mut parent = store.as_os_str().to_owned();
        parent.push(".loading");
        let parent = PathBuf::from(parent);
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let name = format!("{}-{}-", snapshot.tenant, snapshot.view);
        remove_remains(&parent, &name);
        let folder = parent.join(format!("{name}{generation}"));
        Ok(Workspace { parent, folder })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Published files are linked into the store; this folder is of no more use, whatever became of the load. The parent goes when empty.
        let _ = std::fs::remove_dir_all(&self.folder);
        // Nor what a build left that could not be finished: the next load has another number and would not go on with it.
        let _ = larder_ingest::discard(&self.folder);
        let _ = std::fs::remove_dir(&self.parent);
    }
}

/// Removes what killed loads of the same view have left beside the store, generations and what they had sorted, wherever that is.
fn remove_remains(parent: &Path, name: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let built = found.strip_prefix('.').and_then(|rest| rest.strip_suffix(".building")).unwrap_or(&found);
        let is_number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        if !built.strip_prefix(name).is_some_and(is_number) {
            continue;
        }
        let out = parent.join(built);
        if let Err(error) = larder_ingest::discard(&out) {
            eprintln!("what a killed load has left stays: {error}");
        }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
