//! What a sample shop is made from, and sample.json, which says so in its folder: whoever made it can tell whether it may be used again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::files::{sha256, sha256_file, write_whole};
use crate::load::MAX_ZIPF;
use crate::shop::MOST_DISTRACTORS;
use crate::shop_config::{EncoderFolders, larder_toml};
use crate::shop_locale::Language;
use crate::shop_stream::MOST_STREAMED;

pub(crate) const RECORD: &str = "sample.json";
pub(crate) const CONFIG: &str = "larder.toml";
pub(crate) const CATALOGUE_FILE: &str = "catalogue.toml";
/// Changes whenever the same parameters would give other data.
const FORMAT: u32 = 3;
pub(crate) const FEWEST_USERS: usize = 500;
pub(crate) const MOST_USERS: usize = 100_000_000;
pub(crate) const MOST_TENANTS: usize = 64;
const MOST_LABEL_NOISE: f64 = 0.5;

/// What a sample shop is made from.
#[derive(Debug, Clone)]
pub struct SampleRequest {
    /// The folder to write.
    pub out: PathBuf,
    /// Number of users of each tenant.
    pub users: usize,
    /// The tenants, by the language of each.
    pub tenants: Vec<Language>,
    /// How unevenly users buy and ask: the n-th in proportion to 1 / n^zipf; 0 = all alike.
    pub zipf: f64,
    /// Questions of the stream; 0 = there is none.
    pub stream: usize,
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
    /// That of the encoder that reads Chinese.
    pub multilingual_encoder: PathBuf,
}

impl SampleRequest {
    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<()> {
        let SampleRequest { users, tenants, zipf, stream, label_noise, distractors, .. } = self;
        ensure!((FEWEST_USERS..=MOST_USERS).contains(users), "--users {users}: must be {FEWEST_USERS} to {MOST_USERS}");
        let number = tenants.len();
        ensure!((1..=MOST_TENANTS).contains(&number), "--tenants {number}: must be 1 to {MOST_TENANTS}");
        ensure!((0.0..=MAX_ZIPF).contains(zipf), "--zipf {zipf}: must be 0 to {MAX_ZIPF}");
        ensure!(*stream <= MOST_STREAMED, "--stream {stream}: must be 0 to {MOST_STREAMED}");
        ensure!(
            (0.0..=MOST_LABEL_NOISE).contains(label_noise),
            "--label-noise {label_noise}: must be 0 to {MOST_LABEL_NOISE}"
        );
        ensure!(*distractors <= MOST_DISTRACTORS, "--distractors {distractors}: must be 0 to {MOST_DISTRACTORS}");
        Ok(())
    }

    /// The text of larder.toml, with the encoders' folders as `resolve` gives them.
    pub(crate) fn larder_toml(&self, resolve: impl Fn(&Path) -> Result<PathBuf>) -> Result<String> {
        let light = self.light_encoder.as_deref().map(&resolve).transpose()?;
        let (full, multilingual) = (resolve(&self.encoder)?, resolve(&self.multilingual_encoder)?);
        let encoders = EncoderFolders { full: &full, light: light.as_deref(), multilingual: &multilingual };
        Ok(larder_toml(encoders, &self.tenants, self.distractors))
    }
}

/// sample.json: what a folder was made from, and what was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    format: u32,
    pub(crate) users: usize,
    pub(crate) tenants: Vec<Language>,
    zipf: f64,
    pub(crate) stream: usize,
    seed: u64,
    now_ms: i64,
    label_noise: f64,
    distractors: usize,
    encoder: PathBuf,
    light_encoder: Option<PathBuf>,
    multilingual_encoder: PathBuf,
    /// Checksum of the texts that are compiled into the command.
    texts_sha256: String,
    /// Of all tenants together, as all that follows.
    pub(crate) orders: u64,
    /// Of the Parquet files.
    pub(crate) bytes: u64,
    pub(crate) train_questions: usize,
    pub(crate) test_questions: usize,
    pub(crate) ambiguous_questions: usize,
    /// Checksums of the data files; empty while they are being written. The catalogues and larder.toml are not among
    /// them: a person may edit those.
    pub(crate) files_sha256: BTreeMap<String, String>,
    /// Checksums of those as they were written, which tells whether somebody has edited them since.
    #[serde(default)]
    pub(crate) editable_sha256: BTreeMap<String, String>,
}

impl SampleRecord {
    /// The record of a folder of which nothing is written yet.
    pub(crate) fn new(request: &SampleRequest) -> Result<SampleRecord> {
        let texts: String = request
            .tenants
            .iter()
            .map(|language| {
                let locale = language.locale();
                [locale.catalogue, locale.questions].concat()
            })
            .collect();
        let texts = texts + &request.larder_toml(|folder| Ok(folder.to_owned()))?;
        Ok(SampleRecord {
            format: FORMAT,
            users: request.users,
            tenants: request.tenants.clone(),
            zipf: request.zipf,
            stream: request.stream,
            seed: request.seed,
            now_ms: request.now_ms,
            label_noise: request.label_noise,
            distractors: request.distractors,
            encoder: request.encoder.clone(),
            light_encoder: request.light_encoder.clone(),
            multilingual_encoder: request.multilingual_encoder.clone(),
            texts_sha256: sha256(texts.as_bytes())?,
            orders: 0,
            bytes: 0,
            train_questions: 0,
            test_questions: 0,
            ambiguous_questions: 0,
            files_sha256: BTreeMap::new(),
            editable_sha256: BTreeMap::new(),
        })
    }

    /// `None` where there is no record, or none that this version can read: the sample is then written anew.
    pub(crate) fn read(folder: &Path) -> Result<Option<SampleRecord>> {
        let path = folder.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_str(&text).ok())
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_whole(&folder.join(RECORD), serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// A short name for the very data of this sample.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        Ok(sha256(serde_json::to_string(&self.files_sha256)?.as_bytes())?)
    }
}

/// The record of a folder that holds exactly the requested sample, whole.
pub(crate) fn existing_sample(request: &SampleRequest) -> Result<Option<SampleRecord>> {
    let Some(record) = SampleRecord::read(&request.out)? else { return Ok(None) };
    let wanted = SampleRecord {
        orders: record.orders,
        bytes: record.bytes,
        train_questions: record.train_questions,
        test_questions: record.test_questions,
        ambiguous_questions: record.ambiguous_questions,
        files_sha256: record.files_sha256.clone(),
        editable_sha256: record.editable_sha256.clone(),
        ..SampleRecord::new(request)?
    };
    if record != wanted || record.files_sha256.is_empty() {
        return Ok(None);
    }
    let untouched = |(name, sha256): (&String, &String)| {
        let path = request.out.join(name);
        path.is_file() && sha256_file(&path).is_ok_and(|found| found == *sha256)
    };
    let editable = record.editable_sha256.keys().all(|name| request.out.join(name).is_file());
    Ok((editable && record.files_sha256.iter().all(untouched)).then_some(record))
}
