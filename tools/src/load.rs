//! The work behind `larder ingest`: Parquet files of one view of one tenant, built into a generation and published.
//!
//! Sorting and packing are larder-ingest's; this file names the generation, shows the progress and cleans up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use larder_ingest::{BuildLimits, BuildReport, BuildRequest, ColdRule, Progress};
use larder_serve::NodeConfig;
use larder_store::Placement;
use serde::Serialize;

use crate::destination::{Destination, tenant_id};
use crate::live::{NowLive, cold};
use crate::progress::{Stage, Unit, count};

/// Parquet files that show one view of one tenant at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) tenant: &'a str,
    pub(crate) view: &'a str,
    pub(crate) parquet: &'a [PathBuf],
    /// The moment that the files show; `None` = the time the build starts.
    pub(crate) as_of_ms: Option<i64>,
    pub(crate) max_rejected_rows: u64,
    pub(crate) max_memory_mib: u64,
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
    pub(crate) rows_read: u64,
    pub(crate) rows_rejected: u64,
    pub(crate) rows: u64,
    pub(crate) entities: u64,
    pub(crate) cold_entities: u64,
    pub(crate) cold_files: u64,
}

/// Builds a generation beside the store and publishes it.
pub(crate) fn load(snapshot: &Snapshot<'_>, destination: &mut Destination<'_>) -> Result<NowLive> {
    let generation = destination.next_generation(snapshot.tenant, snapshot.view, unix_seconds()?)?;
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
    let request = BuildRequest {
        view,
        tenant,
        sources: snapshot.parquet.to_vec(),
        out: out.to_owned(),
        generation,
        as_of_ms,
        placement,
        limits: BuildLimits {
            max_rejected_rows: snapshot.max_rejected_rows,
            max_memory_mib: snapshot.max_memory_mib,
            ..BuildLimits::default()
        },
    };
    let stage = Stage::start(format!("build {}", snapshot.view), Unit::Items);
    let BuildReport { manifest, rows_read, rows_rejected, .. } = larder_ingest::build(&request, &mut |progress| {
        if let Progress::Writing { rows, of } = progress {
            stage.set(rows, of);
        }
    })?;
    let rejected = match rows_rejected {
        0 => String::new(),
        n => format!(", {} rejected", count(n)),
    };
    let cold_entities = manifest.cold.iter().map(|file| file.entities).sum();
    let cold_files = manifest.cold.len() as u64;
    stage.done(format_args!(
        "{} rows read{rejected}, {} kept for {} entities{}",
        count(rows_read),
        count(manifest.rows),
        count(manifest.entities),
        cold(cold_entities, cold_files)
    ));
    Ok(Built {
        tenant: snapshot.tenant.to_owned(),
        view: snapshot.view.to_owned(),
        generation,
        as_of_ms,
        rows_read,
        rows_rejected,
        rows: manifest.rows,
        entities: manifest.entities,
        cold_entities,
        cold_files,
    })
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
        let folder = parent.join(format!("{}-{}-{generation}", snapshot.tenant, snapshot.view));
        Ok(Workspace { parent, folder })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Published files are linked into the store; this folder is of no more use, whatever became of the load. The parent goes when empty.
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_dir(&self.parent);
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A generation's number, before it is compared with those in use.
pub(crate) fn unix_seconds() -> Result<u32> {
    u32::try_from(Utc::now().timestamp()).context("the clock of this machine is set outside 1970 to 2106")
}
