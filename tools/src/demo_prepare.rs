//! What the demo needs before its node can start: encoder weights, a sample shop, its generations and its ranking heads.
//!
//! Each step is the command's own function, and each is left out when its result from an earlier run is still exactly
//! what it would make: by checksum, never by date.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use larder_ingest::{BuildLimits, Location};
use larder_model::{Catalogue, Devices, Encoder, EncoderConfig, FeatureEncoder, Head, TrainOptions};
use larder_serve::{NodeConfig, Rung, ServiceConfig, TenantConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::destination::Destination;
use crate::files::{sha256, sha256_file, write_whole};
use crate::ingest_load::{Snapshot, load};
use crate::model_train::{TrainingFiles, train_head};
use crate::sample_record::{SampleRecord, SampleRequest, existing_sample};
use crate::sample_write::write_sample;
use crate::shop_config::VIEWS;

/// The demo counts a needless hand-over as wrong as well, so its shop would rather answer.
const WRONG_ANSWER_COST: f32 = 0.2;

const INGESTED: &str = "ingested.json";

/// The sample shop, written unless the folder holds it already.
pub(crate) fn prepare_sample(request: &SampleRequest) -> Result<SampleRecord> {
    if let Some(record) = existing_sample(request)? {
        eprintln!("sample: {} is up to date", request.out.display());
        return Ok(record);
    }
    write_sample(request)
}

/// ingested.json: which sample the live generations were built from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ingested {
    sample: String,
    /// The views' declarations, which decide what a generation holds.
    views: String,
    generations: BTreeMap<String, u32>,
}

/// Loads both Parquet files, unless their very generations are live.
pub(crate) fn prepare_store(config: &NodeConfig, tenant: &str, folder: &Path, sample: &SampleRecord) -> Result<()> {
    let mut destination = Destination::folder(config)?;
    let live = |destination: &mut Destination<'_>| -> Result<BTreeMap<String, u32>> {
        let listed = destination.generations()?.into_iter();
        let ours = listed.filter(|generation| generation.live && generation.tenant == tenant);
        Ok(ours.map(|generation| (generation.view, generation.generation)).collect())
    };
    let record = folder.join(INGESTED);
    let views = serde_json::to_string(&config.views)?;
    let wanted = Ingested { sample: sample.fingerprint()?, views, generations: live(&mut destination)? };
    if wanted.generations.len() == VIEWS.len() && read_json(&record).as_ref() == Some(&wanted) {
        let described: Vec<String> =
            wanted.generations.iter().map(|(view, generation)| format!("{view} {generation}")).collect();
        eprintln!("store: this sample is live already ({})", described.join(", "));
        return Ok(());
    }
    for (view, file) in VIEWS {
        let parquet = [Location::local(folder.join(file))];
        let snapshot = Snapshot {
            config,
            tenant,
            view,
            parquet: &parquet,
            delta: None,
            as_of_ms: None,
            limits: BuildLimits::default(),
            spill: None,
            rejects: None,
            fresh: false,
            shard: config.node.shard,
            cold: None,
        };
        load(&snapshot, &mut destination)?;
    }
    write_json(&record, &Ingested { generations: live(&mut destination)?, ..wanted })
}

/// trained-full.json, trained-light.json: what the head of a rung was trained from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Trained {
    inputs_sha256: String,
}

/// Trains the tenant's ranking head for a rung, unless nothing it depends on has changed or the tenant has no such rung.
pub(crate) fn prepare_head(config: &NodeConfig, tenant: &TenantConfig, rung: Rung, folder: &Path) -> Result<()> {
    let Some((encoder, head)) = config.encoder(tenant, rung).zip(tenant.head_of(rung)) else { return Ok(()) };
    let questions = folder.join("train.jsonl");
    let record = folder.join(format!("trained-{}.json", rung.label()));
    let options = TrainOptions { wrong_answer_cost: WRONG_ANSWER_COST, ..TrainOptions::default() };
    let trained = Trained { inputs_sha256: inputs_sha256(config, tenant, encoder, &questions, &options)? };
    if read_json(&record).as_ref() == Some(&trained) && is_usable(config, tenant, encoder, head)? {
        let rung = rung.label();
        eprintln!("head of the rung {rung}: trained already from this catalogue, these questions and this encoder");
        return Ok(());
    }
    let files = TrainingFiles { questions: &questions, feedback: None };
    train_head(config, tenant, rung, files, head, &options)?;
    write_json(&record, &trained)
}

/// Whether a node of this very version would take the head.
fn is_usable(config: &NodeConfig, tenant: &TenantConfig, encoder: &EncoderConfig, head: &Path) -> Result<bool> {
    let encoder = Encoder::load(encoder, &Devices::open(&config.model)?)?;
    let features = FeatureEncoder::new(service_of(config, tenant)?.encoded_features())?;
    Ok(Head::load(head, &Catalogue::load(&tenant.catalogue)?, encoder.name(), &features).is_ok())
}

fn service_of<'a>(config: &'a NodeConfig, tenant: &TenantConfig) -> Result<&'a ServiceConfig> {
    config.service(&tenant.service).context("the tenant's service is missing from the config")
}

fn inputs_sha256(
    config: &NodeConfig,
    tenant: &TenantConfig,
    encoder: &EncoderConfig,
    questions: &Path,
    options: &TrainOptions,
) -> Result<String> {
    let service = service_of(config, tenant)?;
    let file = |name: &str| encoder.folder.join(name);
    let files: [PathBuf; 5] = [
        tenant.catalogue.clone(),
        questions.to_owned(),
        file("config.json"),
        file("tokenizer.json"),
        file("model.safetensors"),
    ];
    let mut inputs = serde_json::to_string(&(env!("CARGO_PKG_VERSION"), options, service, encoder))?;
    for file in &files {
        inputs.push_str(&sha256_file(file)?);
    }
    Ok(sha256(inputs.as_bytes())?)
}

/// `None` where there is no record or none that can be read: the step is then done again.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_whole(path, serde_json::to_string_pretty(value)?.as_bytes())
}
