//! `larder model train`: learns a tenant's ranking head from labelled questions.
//!
//! The encoder and the catalogue stay as they are; what is learned is how much the words and how much the features of
//! a user count for each intent, and how sure the head may be. A node reads the head when it starts, and when `larder model publish` says so.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use larder_model::{
    Catalogue, CatalogueIndex, Devices, Encoder, FeatureEncoder, FeedbackCounts, FeedbackRecord, Head,
    LabelledQuestion, TrainOptions, TrainReport, TrainRequest, TrainStage, learnable,
};
use larder_serve::{NodeConfig, Rung, TenantConfig};
use serde::Serialize;

use crate::model_fine_tune::FineTuneArguments;
use crate::output::{print_json, say, table};
use crate::progress::{Stage, Unit, count};

#[derive(Debug, Args)]
#[command(after_help = "Each line of the questions is one JSON object:
  {\"tenant\":\"demo\",\"user\":\"u0000042\",\"text\":\"where is it?\",\"intent\":\"order_in_transit\",
   \"asked_at_ms\":1790000000000,\"features\":{\"orders:status\":\"in_transit\"}}
with the features as they were when it was asked, and \"out_of_scope\" as the intent of what nobody can answer.
Feedback is what `larder feedback export` writes; of one user's equal words with
equal features only what was said last counts.

Examples:
  larder model train --config larder.toml --tenant demo --questions train.jsonl
  larder model train --config larder.toml --tenant demo --questions train.jsonl --rung light
  larder model train --config larder.toml --tenant demo --questions train.jsonl --feedback feedback.jsonl
  larder model train --config larder.toml --tenant demo --questions train.jsonl --out /tmp/head.safetensors --json
  larder model train --config larder.toml --tenant demo --questions train.jsonl --fine-tune models/demo-encoder")]
pub(crate) struct Arguments {
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose catalogue and feature service the head is for
    #[arg(long)]
    tenant: String,
    /// Labelled questions, one JSON object per line
    #[arg(long)]
    questions: PathBuf,
    /// Feedback to learn from as well, one JSON object per line
    #[arg(long, value_name = "FILE")]
    feedback: Option<PathBuf>,
    /// The rung the head is for
    #[arg(long, value_parser = rung, default_value = Rung::Full.label())]
    rung: Rung,
    /// Where to write the head [default: the tenant's head in the config]
    #[arg(long)]
    out: Option<PathBuf>,
    /// What a wrong answer costs where a right one counts 1 and a needless hand-over 0; more means more hand-overs
    #[arg(long, default_value_t = TrainOptions::default().wrong_answer_cost)]
    wrong_answer_cost: f32,
    #[command(flatten)]
    fine_tune: FineTuneArguments,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = NodeConfig::load(&arguments.config)?;
    let config = arguments.fine_tune.apply(config, &arguments.tenant, arguments.rung, &arguments.questions)?;
    let Some(tenant) = config.tenant(&arguments.tenant) else {
        bail!("{} has no tenant {:?}", arguments.config.display(), arguments.tenant);
    };
    let Some(out) = arguments.out.as_ref().or(tenant.head_of(arguments.rung)) else {
        let (rung, config) = (arguments.rung.label(), arguments.config.display());
        bail!("tenant {:?} has no head for the rung {rung} in {config}; name a file by --out", tenant.name);
    };
    let options = TrainOptions { wrong_answer_cost: arguments.wrong_answer_cost, ..TrainOptions::default() };
    let files = TrainingFiles { questions: &arguments.questions, feedback: arguments.feedback.as_deref() };
    let trained = train_head(&config, tenant, arguments.rung, files, out, &options)?;
    if arguments.json {
        return print_json(&trained);
    }
    say!("{}", summary(&trained.report));
    if let Some(feedback) = &trained.feedback {
        say!("{}", told(feedback));
    }
    for intent in &trained.report.intents_without_questions {
        say!("note: intent {intent} has no training question and is known from its examples alone");
    }
    say!("Wrote {}. A running node takes it with `larder model publish --tenant {}`.", out.display(), tenant.name);
    Ok(())
}

/// What a head is trained from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrainingFiles<'a> {
    pub(crate) questions: &'a Path,
    pub(crate) feedback: Option<&'a Path>,
}

/// What came of a training.
#[derive(Debug, Serialize)]
pub(crate) struct Trained {
    #[serde(flatten)]
    report: TrainReport,
    /// What became of the feedback, where there was any; its questions count among those of the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    feedback: Option<FeedbackCounts>,
}

/// A rung by its name in larder.toml.
fn rung(name: &str) -> Result<Rung> {
    Rung::ALL.into_iter().find(|rung| rung.label() == name).context("known are full and light")
}

/// Trains the head of a tenant from files of labelled questions and feedback and writes it to `out`.
pub(crate) fn train_head(
    config: &NodeConfig,
    tenant: &TenantConfig,
    rung: Rung,
    files: TrainingFiles<'_>,
    out: &Path,
    options: &TrainOptions,
) -> Result<Trained> {
    let catalogue = Catalogue::load(&tenant.catalogue)?;
    let service = config.service(&tenant.service).context("the tenant's feature service is missing from the config")?;
    let features = FeatureEncoder::new(service.encoded_features())?;
    let mut questions = questions_of(&tenant.name, files.questions)?;
    let feedback = files.feedback.map(|file| -> Result<FeedbackCounts> {
        let (learned, counts) = learnable(FeedbackRecord::load(file)?, &tenant.name, &catalogue);
        ensure!(counts.records > 0, "{} has no feedback of tenant {:?}", file.display(), tenant.name);
        questions.extend(learned);
        Ok(counts)
    });
    let feedback = feedback.transpose()?;
    options.validate()?;
    check_features(&features, &questions)?;

    let stage = Stage::start("encoder", Unit::Items);
    let encoder = config.encoder(tenant, rung);
    let encoder = encoder.with_context(|| format!("tenant {:?} has no rung {}", tenant.name, rung.label()))?;
    let encoder = Encoder::load(encoder, &Devices::open(&config.model)?)?;
    stage.done(encoder.name());

    let stage = Stage::start("catalogue", Unit::Items);
    let index = CatalogueIndex::load_or_build(
        &encoder,
        &catalogue,
        &config.vectors_file(&tenant.name, rung),
        &mut |done, total| {
            stage.set(done as u64, total as u64);
        },
    )?;
    let examples: usize = catalogue.intents.iter().map(|intent| intent.examples.len()).sum();
    stage.done(format_args!("{} intents, {} examples", catalogue.intents.len(), count(examples as u64)));

    let request = TrainRequest {
        encoder: &encoder,
        catalogue: &catalogue,
        index: &index,
        features: &features,
        questions: &questions,
        options,
    };
    let stage = Stage::start("training", Unit::Items);
    let (head, report) = Head::train(request, &mut |progress| {
        stage.rename(match progress.stage {
            TrainStage::Encoding => "training: questions",
            TrainStage::CrossValidation => "training: cross-validation",
            TrainStage::FinalFit => "training: final fit",
        });
        stage.set(progress.done as u64, progress.total as u64);
    })?;
    head.save(out)?;
    stage.done(format_args!(
        "{} questions, held-out accuracy {:.1} %, ECE {:.3}, threshold {:.2}",
        count(report.questions as u64),
        100.0 * report.accuracy,
        report.ece,
        report.threshold
    ));
    Ok(Trained { report, feedback })
}

/// What became of the feedback, in a line.
fn told(counts: &FeedbackCounts) -> String {
    let FeedbackCounts { records, confirmed, corrected, without_intent, unknown_intent, superseded } = counts;
    let mut text =
        format!("Of {records} records of feedback {confirmed} confirmed an answer and {corrected} corrected one.");
    let left_out = [
        (without_intent, "without a right intent"),
        (unknown_intent, "with an intent that the catalogue has not"),
        (superseded, "of the same user, words and features as a later one"),
    ];
    for (number, what) in left_out.into_iter().filter(|(number, _)| **number > 0) {
        text.push_str(&format!(" Left out: {number} {what}."));
    }
    text
}

/// Tells of features that no question has a value for, most often a name that is spelt otherwise. None at all is refused: the head
/// would learn that every user is unknown.
fn check_features(features: &FeatureEncoder, questions: &[LabelledQuestion]) -> Result<()> {
    let known =
        |name: &str| questions.iter().any(|question| question.features.get(name).is_some_and(|value| !value.is_null()));
    let unknown: Vec<&str> =
        features.features().iter().map(|encoded| encoded.feature.as_str()).filter(|name| !known(name)).collect();
    if !unknown.is_empty() && unknown.len() == features.features().len() {
        let first = questions.first().map(|question| question.features.keys().cloned().collect::<Vec<_>>().join(", "));
        bail!(
            "no question has a value for any encoded feature ({}); the first one has {}",
            unknown.join(", "),
            first.filter(|names| !names.is_empty()).unwrap_or("none".to_owned())
        );
    }
    for name in unknown {
        eprintln!("note: no question has a value for {name}");
    }
    Ok(())
}

/// The questions of one tenant: another tenant's must not shape its answers.
pub(crate) fn questions_of(tenant: &str, path: &Path) -> Result<Vec<LabelledQuestion>> {
    let mut questions = LabelledQuestion::load(path)?;
    let all = questions.len();
    questions.retain(|question| question.tenant == tenant);
    if questions.is_empty() {
        bail!("{} has {all} questions and none of tenant {tenant:?}", path.display());
    }
    if questions.len() < all {
        eprintln!("{}: {} questions of other tenants are left out", path.display(), all - questions.len());
    }
    Ok(questions)
}

fn summary(report: &TrainReport) -> comfy_table::Table {
    let percent = |share: f32| format!("{:.1} %", 100.0 * share);
    table(
        ["on questions it has not seen", ""],
        [
            ("treated rightly", percent(report.accuracy)),
            ("right intent first", percent(report.top_1)),
            ("right intent first by similarity alone", percent(report.similarity_top_1)),
            ("right intent among three", percent(report.top_3)),
            ("handed over though in scope", percent(report.handed_over)),
            ("handed over of what is out of scope", percent(report.out_of_scope_handed_over)),
            ("expected calibration error", format!("{:.3}", report.ece)),
            ("threshold of confidence", format!("{:.3}", report.threshold)),
        ]
        .map(|(name, value)| [name.to_owned(), value]),
    )
}
