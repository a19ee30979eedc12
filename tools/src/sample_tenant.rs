//! One tenant's part of a sample: its rows, its catalogue and its questions, in files of its own.

use std::path::Path;

use anyhow::{Context, Result};
use larder_serve::NodeConfig;

use crate::files::write_json_lines;
use crate::progress::{Stage, Unit, bytes, count};
use crate::sample_record::{CATALOGUE_FILE, CONFIG, SampleRecord, SampleRequest};
use crate::sample_write::write_editable;
use crate::shop::Shop;
use crate::shop_config::{tenant_name, tenant_prefix};
use crate::shop_draw::{MEAN_ORDERS, mixed};
use crate::shop_locale::Language;
use crate::shop_parquet::{Written, write_orders, write_profiles};
use crate::shop_questions::{QuestionTexts, Questions, ask, mislabel};

/// One tenant's part of the sample.
pub(crate) struct Tenant<'a> {
    out: &'a Path,
    pub(crate) name: String,
    /// Before the names of its files.
    prefix: String,
    pub(crate) shop: Shop,
    catalogue: &'static str,
    pub(crate) texts: QuestionTexts,
}

impl Tenant<'_> {
    pub(crate) fn new(request: &SampleRequest, place: usize, language: Language) -> Result<Tenant<'_>> {
        let locale = language.locale();
        // The first tenant is the same however many there are.
        let seed = if place == 0 { request.seed } else { mixed(request.seed.wrapping_add(place as u64)) };
        let shop = Shop::new(seed, request.users, request.now_ms, locale)?;
        let tenant = Tenant {
            out: &request.out,
            name: tenant_name(place),
            prefix: tenant_prefix(place),
            shop: shop.with_zipf(request.zipf)?.with_distractors(request.distractors),
            catalogue: locale.catalogue,
            texts: QuestionTexts::parse(locale.questions)?,
        };
        let folder = tenant.out.join(&tenant.prefix);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(tenant)
    }

    /// The name of one of its files within the sample's folder.
    pub(crate) fn file(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn write_rows(&self, record: &mut SampleRecord) -> Result<()> {
        let users = self.shop.users;
        let expected = (users as f64 * MEAN_ORDERS) as usize;
        self.write_parquet("profile.parquet", record, |path, progress| write_profiles(&self.shop, path, progress))?;
        let orders = self.write_parquet("orders.parquet", record, |path, progress| {
            write_orders(&self.shop, path, expected, progress)
        })?;
        record.orders += orders.rows;
        Ok(())
    }

    fn write_parquet(
        &self,
        name: &str,
        record: &mut SampleRecord,
        write: impl FnOnce(&Path, &mut dyn FnMut(u64)) -> Result<Written>,
    ) -> Result<Written> {
        let name = self.file(name);
        let (stage, users) = (Stage::start(name.clone(), Unit::Items), self.shop.users as u64);
        let written = write(&self.out.join(&name), &mut |done| stage.set(done, users))?;
        stage.done(format_args!("{} rows, {}", count(written.rows), bytes(written.bytes)));
        record.bytes += written.bytes;
        record.files_sha256.insert(name, written.sha256.clone());
        Ok(written)
    }

    /// Writes catalogue and questions, and returns the files of the questions.
    pub(crate) fn write_questions(&self, request: &SampleRequest, record: &mut SampleRecord) -> Result<Vec<String>> {
        let stage = Stage::start(self.file("questions"), Unit::Items);
        write_editable(self.out, &self.file(CATALOGUE_FILE), self.catalogue, record)?;
        let features = encoded_features(&self.out.join(CONFIG), &self.name)?;
        let Questions { mut train, test, ambiguous } = ask(&self.texts, &self.shop, &self.name, &features)?;
        mislabel(&mut train, request.label_noise, self.shop.seed);
        let files = ["train.jsonl", "questions.jsonl", "ambiguous.jsonl"].map(|name| self.file(name));
        write_json_lines(&self.out.join(&files[0]), &train)?;
        write_json_lines(&self.out.join(&files[1]), &test)?;
        write_json_lines(&self.out.join(&files[2]), &ambiguous)?;
        record.train_questions += train.len();
        record.test_questions += test.len();
        record.ambiguous_questions += ambiguous.len();
        stage.done(format_args!("{} to train with, {} to test with", train.len(), test.len()));
        Ok(files.into())
    }
}

/// The features that a tenant logs with each answer, from the config itself, which is checked on the way.
fn encoded_features(config: &Path, tenant: &str) -> Result<Vec<String>> {
    let config = NodeConfig::load(config)?;
    let tenant =
        config.tenant(tenant).with_context(|| format!("larder.toml, as it was edited, has no tenant {tenant:?}"))?;
    let service = config.service(&tenant.service).context("the sample's service is missing from its own config")?;
    Ok(service.encoded_features().into_iter().map(|encoded| encoded.feature).collect())
}
