//! `larder model train --fine-tune FOLDER`: fine-tunes the node's encoder on a tenant's texts before the head is trained.
//!
//! The encoder of the config stays as it is; the fine-tuned one is a new folder, written when all of the training is done, so that an
//! interrupted run leaves nothing behind. A node uses it when larder.toml names it, for all of its tenants or for one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use larder_model::{
    Catalogue, EncoderConfig, FineTuneOptions, FineTuneRequest, LabelledQuestion, LabelledText, fine_tune,
};
use larder_serve::{NodeConfig, Rung, TenantConfig};

use crate::progress::{Stage, Unit, count};

#[derive(Debug, Args)]
pub(crate) struct FineTuneArguments {
    /// Fine-tune the encoder first, on the catalogue's examples and the questions, and write it as this new folder
    #[arg(long, value_name = "FOLDER")]
    fine_tune: Option<PathBuf>,
    /// How often the fine-tuning learns from every text at most
    #[arg(long, value_name = "EPOCHS", requires = "fine_tune", default_value_t = FineTuneOptions::default().epochs)]
    fine_tune_epochs: usize,
    /// The fine-tuning's highest learning rate
    #[arg(long, value_name = "RATE", requires = "fine_tune", default_value_t = FineTuneOptions::default().learning_rate)]
    fine_tune_rate: f64,
    /// Of how many texts the fine-tuning holds out one, to stop early and to say how good it is; 0 learns from all
    #[arg(long, value_name = "ONE_IN", requires = "fine_tune", default_value_t = FineTuneOptions::default().held_out_one_in)]
    fine_tune_held_out: usize,
}

impl FineTuneArguments {
    /// The config with the fine-tuned encoder in place of the tenant's; as it is where no fine-tuning is asked for.
    pub(crate) fn apply(
        &self,
        mut config: NodeConfig,
        tenant: &str,
        rung: Rung,
        questions: &Path,
    ) -> Result<NodeConfig> {
        let Some(out) = &self.fine_tune else {
            return Ok(config);
        };
        let options = FineTuneOptions {
            epochs: self.fine_tune_epochs,
            learning_rate: self.fine_tune_rate,
            held_out_one_in: self.fine_tune_held_out,
            threads: config.model.threads,
            ..FineTuneOptions::default()
        };
        let known = config.tenant(tenant).with_context(|| format!("the config has no tenant {tenant:?}"))?;
        let encoder = config.encoder(known, rung);
        let encoder = encoder.with_context(|| format!("tenant {tenant:?} has no rung {}", rung.label()))?;
        tune(known, encoder, questions, out, &options)?;
        eprintln!(
            "Wrote {}. Name it in larder.toml as `folder` of [model.{}]; all its tenants then need heads trained for it.",
            out.display(),
            rung.label()
        );
        eprintln!("For this tenant alone: {} = {{ folder = {out:?} }} in its table.", rung.label());
        let tuned = EncoderConfig { folder: out.clone(), ..encoder.clone() };
        for tenant in config.tenants.iter_mut().filter(|known| known.name == tenant) {
            match rung {
                Rung::Full => tenant.full = Some(tuned.clone()),
                Rung::Light => tenant.light = Some(tuned.clone()),
            }
        }
        Ok(config)
    }
}

/// Fine-tunes an encoder on the examples and questions of one tenant.
fn tune(
    tenant: &TenantConfig,
    encoder: &EncoderConfig,
    questions: &Path,
    out: &Path,
    options: &FineTuneOptions,
) -> Result<()> {
    options.validate()?;
    let catalogue = Catalogue::load(&tenant.catalogue)?;
    let mut questions = LabelledQuestion::load(questions)?;
    questions.retain(|question| question.tenant == tenant.name);
    let texts = texts(&catalogue, &questions);

    let stage = Stage::start("fine-tuning", Unit::Items);
    let request = FineTuneRequest { encoder, out, texts: &texts, options };
    let report = fine_tune(request, &mut |progress| stage.set(progress.done as u64, progress.total as u64))?;
    let accuracy = if report.held_out == 0 {
        "nothing held out".to_owned()
    } else {
        format!(
            "nearest text right on {} held out: {:.1} %, before {:.1} %",
            count(report.held_out as u64),
            100.0 * report.accuracy_after,
            100.0 * report.accuracy_before
        )
    };
    stage.done(format_args!(
        "{} texts, {} epochs of which {} is kept, {accuracy}",
        count(report.texts as u64),
        report.epochs,
        report.best_epoch
    ));
    Ok(())
}

/// The catalogue's examples and the questions in scope, each with its intent. What is out of scope has nothing in common.
fn texts<'a>(catalogue: &'a Catalogue, questions: &'a [LabelledQuestion]) -> Vec<LabelledText<'a>> {
    let examples =
        catalogue.intents.iter().enumerate().flat_map(|(class, intent)| {
            intent.examples.iter().map(move |example| LabelledText { text: example, class })
        });
    let asked = questions.iter().filter_map(|question| {
        let class = catalogue.intents.iter().position(|intent| intent.name == question.intent)?;
        Some(LabelledText { text: &question.text, class })
    });
    examples.chain(asked).collect()
}
