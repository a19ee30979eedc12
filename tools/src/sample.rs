//! `larder sample`: writes a whole sample shop into a folder, ready to ingest, train and serve.
//!
//! Everything comes from a seed and a moment, so that two people who name the same ones hold the same bytes. The
//! folder's sample.json says what it was made from; the demo reads it to know whether it can use the folder again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use larder_serve::NodeConfig;
use serde::{Deserialize, Serialize};

use crate::files::{absolute, sha256, sha256_file, write_json_lines, write_whole};
use crate::known_models::{DEFAULT_MODEL, LIGHT_MODEL, models_folder};
use crate::output::{print_json, say};
use crate::progress::{Stage, Unit, bytes, count};
use crate::shop::{MOST_DISTRACTORS, Shop};
use crate::shop_config::{TENANT, larder_toml};
use crate::shop_draw::DAY_MS;
use crate::shop_parquet::{write_orders, write_profiles};
use crate::shop_questions::{QuestionTexts, Questions, ask, mislabel};

const CATALOGUE: &str = include_str!("../assets/catalogue.toml");
const QUESTIONS: &str = include_str!("../assets/questions.toml");

const RECORD: &str = "sample.json";
const CONFIG: &str = "larder.toml";
const CATALOGUE_FILE: &str = "catalogue.toml";
/// Changes whenever the same parameters would give other data.
const FORMAT: u32 = 2;
const FEWEST_USERS: usize = 500;
const MOST_USERS: usize = 1_000_000;
const MOST_LABEL_NOISE: f64 = 0.5;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  larder sample --out data/shop
  larder sample --out /tmp/small --users 1000 --seed 7 --now 2026-11-20T00:00:00Z
  larder sample --out /tmp/noisy --label-noise 0.1 --distractors 5")]
pub(crate) struct Arguments {
    /// Folder to write; made when missing. A folder that holds another larder.toml is left alone
    #[arg(long)]
    out: PathBuf,
    /// Users of the shop, 500 to 1,000,000
    #[arg(long, default_value_t = 100_000)]
    users: usize,
    /// The same seed and moment give the same files, byte for byte
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The shop's present, RFC 3339 [default: the start of this day, UTC]
    #[arg(long)]
    now: Option<DateTime<Utc>>,
    /// Share of the training questions that get a wrong intent, 0 to 0.5, as people who label make mistakes
    #[arg(long, default_value_t = 0.0)]
    label_noise: f64,
    /// Features that mean nothing, 0 to 50: the ranking head must learn to pass them over
    #[arg(long, default_value_t = 0)]
    distractors: usize,
    /// Folder of models that larder.toml points to [default: $LARDER_MODELS or ~/.cache/larder/models]
    #[arg(long)]
    models: Option<PathBuf>,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let models = models_folder(arguments.models.as_deref())?;
    let request = SampleRequest {
        out: arguments.out.clone(),
        users: arguments.users,
        seed: arguments.seed,
        now_ms: arguments.now.map_or_else(start_of_today_ms, |now| now.timestamp_millis()),
        label_noise: arguments.label_noise,
        distractors: arguments.distractors,
        encoder: models.join(DEFAULT_MODEL),
        light_encoder: Some(models.join(LIGHT_MODEL)),
    };
    let record = write_sample(&request)?;
    if arguments.json {
        return print_json(&record);
    }
    let out = request.out.display();
    say!(
        "Wrote {} users, {} orders, {} training and {} test questions to {out}.\n\
         Next: larder model get {DEFAULT_MODEL} && larder model get {LIGHT_MODEL}\n      \
         larder ingest load --config {out}/larder.toml --tenant {TENANT} --view profile {out}/profile.parquet\n      \
         larder ingest load --config {out}/larder.toml --tenant {TENANT} --view orders {out}/orders.parquet\n      \
         larder model train --config {out}/larder.toml --tenant {TENANT} --questions {out}/train.jsonl\n      \
         larder model train --config {out}/larder.toml --tenant {TENANT} --questions {out}/train.jsonl --rung light\n      \
         larder serve --config {out}/larder.toml",
        count(record.users as u64),
        count(record.orders as u64),
        count(record.train_questions as u64),
        record.test_questions,
    );
    Ok(())
}

/// What a sample shop is made from.
#[derive(Debug, Clone)]
pub struct SampleRequest {
    /// The folder to write.
    pub out: PathBuf,
    /// Number of users.
    pub users: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// The shop's present, Unix milliseconds UTC: nothing in it is later.
    pub now_ms: i64,
    /// Share of the training questions with a wrong intent.
    pub label_noise: f64,
    /// Number of features that mean nothing.
    pub distractors: usize,
    /// The folder of the full rung's encoder, for larder.toml.
    pub encoder: PathBuf,
    /// That of the light rung's; without one the shop has no such rung.
    pub light_encoder: Option<PathBuf>,
}

/// sample.json: what a folder was made from, and what was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    format: u32,
    users: usize,
    seed: u64,
    now_ms: i64,
    label_noise: f64,
    distractors: usize,
    encoder: PathBuf,
    #[serde(default)]
    light_encoder: Option<PathBuf>,
    /// Checksum of the texts that are compiled into the command.
    texts_sha256: String,
    orders: usize,
    train_questions: usize,
    test_questions: usize,
    ambiguous_questions: usize,
    /// Checksums of the data files; empty while they are being written. The catalogue and larder.toml are not among
    /// them: a person may edit those.
    files_sha256: BTreeMap<String, String>,
    /// Checksums of those two as they were written, which tells whether somebody has edited them since.
    #[serde(default)]
    editable_sha256: BTreeMap<String, String>,
}

impl SampleRecord {
    /// A short name for the very data of this sample.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        Ok(sha256(serde_json::to_string(&self.files_sha256)?.as_bytes())?)
    }
}

/// The start of the current day, UTC.
pub(crate) fn start_of_today_ms() -> i64 {
    let now_ms = Utc::now().timestamp_millis();
    now_ms - now_ms.rem_euclid(DAY_MS)
}

/// The record of a folder that holds exactly the requested sample, whole.
pub(crate) fn existing_sample(request: &SampleRequest) -> Result<Option<SampleRecord>> {
    let Some(record) = read_record(&request.out)? else { return Ok(None) };
    let wanted = SampleRecord {
        orders: record.orders,
        train_questions: record.train_questions,
        test_questions: record.test_questions,
        ambiguous_questions: record.ambiguous_questions,
        files_sha256: record.files_sha256.clone(),
        editable_sha256: record.editable_sha256.clone(),
        ..new_record(request)?
    };
    let untouched = |(name, sha256): (&String, &String)| {
        let path = request.out.join(name);
        path.is_file() && sha256_file(&path).is_ok_and(|found| found == *sha256)
    };
    let editable = [CONFIG, CATALOGUE_FILE].iter().all(|name| request.out.join(name).is_file());
    let whole = !record.files_sha256.is_empty() && editable && record.files_sha256.iter().all(untouched);
    Ok((record == wanted && whole).then_some(record))
}

/// Writes a sample shop. What an earlier run wrote into the folder is replaced; a folder of another origin is refused.
pub fn write_sample(request: &SampleRequest) -> Result<SampleRecord> {
    ensure!(
        (FEWEST_USERS..=MOST_USERS).contains(&request.users),
        "--users {}: must be {FEWEST_USERS} to {MOST_USERS}",
        request.users
    );
    ensure!(
        (0.0..=MOST_LABEL_NOISE).contains(&request.label_noise),
        "--label-noise {}: must be 0 to {MOST_LABEL_NOISE}",
        request.label_noise
    );
    ensure!(
        request.distractors <= MOST_DISTRACTORS,
        "--distractors {}: must be 0 to {MOST_DISTRACTORS}",
        request.distractors
    );
    let out = request.out.as_path();
    let earlier = read_record(out)?;
    if !out.join(RECORD).exists() && out.join(CONFIG).exists() {
        bail!("{} holds a {CONFIG} that no sample wrote; choose another --out, or remove it", out.display());
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    // Marks the folder as a sample's before anything else is in it.
    let mut record = new_record(request)?;
    record.editable_sha256 = earlier.map(|earlier| earlier.editable_sha256).unwrap_or_default();
    write_record(out, &record)?;

    let stage = Stage::start("shop", Unit::Items);
    let shop = Shop::generate(request.seed, request.users, request.now_ms).with_distractors(request.distractors);
    record.orders = shop.orders.len();
    stage.done(format_args!("{} users, {} orders", count(request.users as u64), count(record.orders as u64)));

    write_parquet(out, "profile.parquet", shop.users.len(), |path, progress| write_profiles(&shop, path, progress))?;
    write_parquet(out, "orders.parquet", shop.orders.len(), |path, progress| write_orders(&shop, path, progress))?;

    let stage = Stage::start("questions", Unit::Items);
    write_editable(out, CATALOGUE_FILE, CATALOGUE, &mut record)?;
    let light_encoder = request.light_encoder.as_deref().map(absolute).transpose()?;
    let config = larder_toml(&absolute(&request.encoder)?, light_encoder.as_deref(), request.distractors);
    write_editable(out, CONFIG, &config, &mut record)?;
    let features = encoded_features(&out.join(CONFIG))?;
    let Questions { mut train, test, ambiguous } =
        ask(&QuestionTexts::parse(QUESTIONS)?, &shop, &features, request.seed, request.now_ms)?;
    mislabel(&mut train, request.label_noise, request.seed);
    write_json_lines(&out.join("train.jsonl"), &train)?;
    write_json_lines(&out.join("questions.jsonl"), &test)?;
    write_json_lines(&out.join("ambiguous.jsonl"), &ambiguous)?;
    (record.train_questions, record.test_questions) = (train.len(), test.len());
    record.ambiguous_questions = ambiguous.len();
    stage.done(format_args!("{} to train with, {} to test with", train.len(), test.len()));

    for name in ["profile.parquet", "orders.parquet", "train.jsonl", "questions.jsonl", "ambiguous.jsonl"] {
        record.files_sha256.insert(name.to_owned(), sha256_file(&out.join(name))?);
    }
    write_record(out, &record)?;
    Ok(record)
}

/// Writes a file that a person may edit, unless a person has.
fn write_editable(out: &Path, name: &str, text: &str, record: &mut SampleRecord) -> Result<()> {
    let path = out.join(name);
    if let Some(written) = record.editable_sha256.get(name)
        && path.is_file()
        && sha256_file(&path)? != *written
    {
        eprintln!("{} was edited and is kept; remove it to have the sample's own again", path.display());
        return Ok(());
    }
    write_whole(&path, text.as_bytes())?;
    record.editable_sha256.insert(name.to_owned(), sha256(text.as_bytes())?);
    Ok(())
}

fn write_parquet(
    out: &Path,
    name: &str,
    rows: usize,
    write: impl FnOnce(&Path, &mut dyn FnMut(u64)) -> Result<()>,
) -> Result<()> {
    let stage = Stage::start(name, Unit::Items);
    let path = out.join(name);
    write(&path, &mut |written| stage.set(written, rows as u64))?;
    let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    stage.done(format_args!("{} rows, {}", count(rows as u64), bytes(size)));
    Ok(())
}

/// The features that the shop's tenant logs with each answer, from the config itself, which is checked on the way.
fn encoded_features(config: &Path) -> Result<Vec<String>> {
    let config = NodeConfig::load(config)?;
    let tenant = config.tenant(TENANT).context("the sample's tenant is missing from its own config")?;
    let service = config.service(&tenant.service).context("the sample's service is missing from its own config")?;
    Ok(service.encoded_features().into_iter().map(|encoded| encoded.feature).collect())
}

fn new_record(request: &SampleRequest) -> Result<SampleRecord> {
    let config = larder_toml(&request.encoder, request.light_encoder.as_deref(), request.distractors);
    let texts = [CATALOGUE, QUESTIONS, &config].concat();
    Ok(SampleRecord {
        format: FORMAT,
        users: request.users,
        seed: request.seed,
        now_ms: request.now_ms,
        label_noise: request.label_noise,
        distractors: request.distractors,
        encoder: request.encoder.clone(),
        light_encoder: request.light_encoder.clone(),
        texts_sha256: sha256(texts.as_bytes())?,
        orders: 0,
        train_questions: 0,
        test_questions: 0,
        ambiguous_questions: 0,
        files_sha256: BTreeMap::new(),
        editable_sha256: BTreeMap::new(),
    })
}

/// `None` where there is no record, or none that this version can read: the sample is then written anew.
fn read_record(folder: &Path) -> Result<Option<SampleRecord>> {
    let path = folder.join(RECORD);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_str(&text).ok())
}

fn write_record(folder: &Path, record: &SampleRecord) -> Result<()> {
    write_whole(&folder.join(RECORD), serde_json::to_string_pretty(record)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(out: &Path) -> SampleRequest {
        SampleRequest {
            out: out.to_owned(),
            users: 500,
            seed: 42,
            now_ms: 1_790_000_000_000,
            label_noise: 0.0,
            distractors: 0,
            encoder: PathBuf::from("/models/minilm-l6"),
            light_encoder: Some(PathBuf::from("/models/potion")),
        }
    }

    #[test]
    fn the_same_seed_and_moment_give_the_same_bytes() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = write_sample(&request(left.path())).unwrap();
        let second = write_sample(&request(right.path())).unwrap();
        assert_eq!(first, second);
        for entry in std::fs::read_dir(left.path()).unwrap() {
            let path = entry.unwrap().path();
            let other = right.path().join(path.file_name().unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(other).unwrap(), "{}", path.display());
        }
        let other_seed = write_sample(&SampleRequest { seed: 43, ..request(right.path()) }).unwrap();
        assert_ne!(first.fingerprint().unwrap(), other_seed.fingerprint().unwrap());
    }

    #[test]
    fn a_whole_sample_is_used_again_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(folder.path());
        assert_eq!(existing_sample(&request).unwrap(), None);
        let written = write_sample(&request).unwrap();
        assert_eq!(existing_sample(&request).unwrap(), Some(written));
        // An edited catalogue is the user's own business.
        std::fs::write(folder.path().join("catalogue.toml"), "# mine").unwrap();
        assert!(existing_sample(&request).unwrap().is_some());
        assert_eq!(existing_sample(&SampleRequest { seed: 1, ..request.clone() }).unwrap(), None);
        std::fs::write(folder.path().join("orders.parquet"), "short").unwrap();
        assert_eq!(existing_sample(&request).unwrap(), None);
    }

    #[test]
    fn a_folder_of_another_origin_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), "# precious").unwrap();
        let error = write_sample(&request(folder.path())).unwrap_err().to_string();
        assert!(error.contains("no sample wrote"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join(CONFIG)).unwrap(), "# precious");
    }
}
