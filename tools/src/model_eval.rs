//! `larder model eval`: how good encoders and heads are on questions whose answers are known.
//!
//! Two kinds of questions. CSV files measure an encoder: the catalogue's texts are its examples and what a head is trained on, the
//! questions are only for the test. A tenant's own questions in JSON measure the head that the tenant is served with, features included.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use larder_model::{
    Catalogue, CatalogueIndex, Devices, Embeddings, Encoder, EncoderConfig, Evaluation, FeatureEncoder, Head,
    LabelledQuestion, ModelConfig, OUT_OF_SCOPE, TrainOptions, TrainReport, TrainRequest, judge,
};
use larder_serve::{NodeConfig, Rung, TenantConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::labelled_csv::{catalogue_of, read_questions};
use crate::model_eval_text::say_measured;
use crate::model_train::questions_of;
use crate::output::print_json;
use crate::progress::{Stage, Unit, count};

/// Texts encoded at once for the time per text, as a busy node would, and how many in all.
const BATCH: usize = 32;
const BATCHED: usize = 640;
/// Texts that are timed one by one.
const SINGLES: usize = 200;

#[derive(Debug, Args)]
#[command(after_help = "A CSV has the columns text and category, and may have tenant and user.

Examples:
  larder model eval --catalogue train.csv --questions test.csv --encoder models/minilm-l6 --encoder models/potion
  larder model eval --catalogue train.csv --questions test.csv --json
  larder model eval --config larder.toml --tenant demo --questions test.jsonl")]
pub(crate) struct Arguments {
    /// Examples of every intent as CSV; a head is trained on them. Without it the tenant's catalogue and head are measured
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// Questions to be answered: CSV with --catalogue, else one JSON object per line
    #[arg(long)]
    questions: PathBuf,
    /// The node's configuration
    #[arg(long, default_value = "larder.toml")]
    config: PathBuf,
    /// Whose catalogue, head and questions
    #[arg(long)]
    tenant: Option<String>,
    /// A model folder, several times to compare several [default: the encoders in the config]
    #[arg(long, requires = "catalogue")]
    encoder: Vec<PathBuf>,
    /// A head to measure in place of the tenant's own, for the rung full
    #[arg(long, conflicts_with = "catalogue")]
    head: Option<PathBuf>,
    /// Intents left out of further trainings, to see how their questions are told from the others; 0 saves these trainings
    #[arg(long, default_value_t = 6)]
    left_out_intents: usize,
    /// Trainings that leave intents out, each other ones: how well they are told apart depends on which they are
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    draws: u64,
    /// Decides which intents are left out, and how the training questions are divided
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// What one encoder and its head brought.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) encoder: String,
    pub(crate) folder: PathBuf,
    /// Absent where a head was read and not trained.
    pub(crate) training: Option<Training>,
    pub(crate) evaluation: Evaluation,
    /// One for every draw.
    pub(crate) left_out: Vec<LeftOut>,
    /// Absent where nothing is encoded from features.
    pub(crate) features: Option<FeaturesTaken>,
    pub(crate) time: TimePerText,
}

#[derive(Debug, Serialize)]
pub(crate) struct Training {
    pub(crate) seconds: f64,
    pub(crate) report: TrainReport,
}

/// A head that was trained without some intents, asked about these as well.
#[derive(Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) intents: Vec<String>,
    pub(crate) questions: usize,
    /// How well the confidence tells the questions of the intents that it knows from theirs.
    pub(crate) auroc: Option<f32>,
    /// Shares that were handed over.
    pub(crate) handed_over: f32,
    pub(crate) known_handed_over: f32,
}

/// What is left without the features, and with those of another user.
#[derive(Debug, Serialize)]
pub(crate) struct FeaturesTaken {
    pub(crate) top_1_without: f32,
    pub(crate) top_1_of_others: f32,
}

/// Tokenising, encoding, search and ranking, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct TimePerText {
    pub(crate) batched_us: f64,
    /// The median of texts that came alone.
    pub(crate) single_us: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let measured = match &arguments.catalogue {
        Some(catalogue) => of_encoders(arguments, catalogue)?,
        None => of_rungs(arguments)?,
    };
    if arguments.json {
        return print_json(&measured);
    }
    measured.iter().for_each(say_measured);
    Ok(())
}

fn of_encoders(arguments: &Arguments, catalogue: &Path) -> Result<Vec<Measured>> {
    let tenant = arguments.tenant.as_deref();
    let training = read_questions(catalogue, tenant)?;
    let questions = read_questions(&arguments.questions, tenant)?;
    let catalogue = catalogue_of(&training)?;
    let unknown = questions
        .iter()
        .find(|question| question.intent != OUT_OF_SCOPE && catalogue.position(&question.intent).is_none());
    if let Some(question) = unknown {
        bail!("{}: the catalogue has no category {:?}", arguments.questions.display(), question.intent);
    }
    let left_out = arguments.left_out_intents;
    let intents = catalogue.intents.len();
    ensure!(left_out == 0 || left_out + 2 <= intents, "{left_out} intents cannot be left out of {intents}");

    let (model, encoders) = if arguments.encoder.is_empty() {
        let model = NodeConfig::load(&arguments.config).context("no --encoder is given")?.model;
        let named: Vec<EncoderConfig> =
            [&model.full, &model.light].into_iter().filter_map(EncoderConfig::named).cloned().collect();
        (model, named)
    } else {
        let encoder = |folder: &PathBuf| EncoderConfig { folder: folder.clone(), ..EncoderConfig::default() };
        (ModelConfig::default(), arguments.encoder.iter().map(encoder).collect())
    };
    let devices = Devices::open(&model)?;
    let examination = Examination {
        catalogue,
        training,
        questions,
        features: FeatureEncoder::new(Vec::new())?,
        options: TrainOptions { seed: arguments.seed, ..TrainOptions::default() },
        draws: arguments.draws,
    };
    encoders.iter().map(|encoder| examination.of(encoder, &devices, left_out)).collect()
}

/// What every encoder is asked.
struct Examination {
    catalogue: Catalogue,
    training: Vec<LabelledQuestion>,
    questions: Vec<LabelledQuestion>,
    features: FeatureEncoder,
    options: TrainOptions,
    draws: u64,
}

impl Examination {
    fn of(&self, config: &EncoderConfig, devices: &Devices, left_out: usize) -> Result<Measured> {
        let encoder = Encoder::load(config, devices)?;
        let stage = Stage::start(format!("{}: catalogue", config.folder.display()), Unit::Items);
        let index = CatalogueIndex::build(&encoder, &self.catalogue, &mut |done, total| {
            stage.set(done as u64, total as u64);
        })?;
        stage.done(format_args!("{} examples", count(self.training.len() as u64)));

        let began = Instant::now();
        let (head, report) = self.train(&encoder, &self.catalogue, &index, &self.training, &self.options)?;
        let training = Training { seconds: began.elapsed().as_secs_f64(), report };

        let stage = Stage::start("questions", Unit::Items);
        let texts: Vec<&str> = self.questions.iter().map(|question| question.text.as_str()).collect();
        let vectors = encoder.encode_texts(&texts)?;
        let judged = judge(&head, &self.catalogue, &index, &self.features, &self.questions, &vectors)?;
        let evaluation = Evaluation::of(&judged, &self.catalogue);
        let time = time_per_text(&encoder, &index, &head, &texts, &[])?;
        stage.done(count(texts.len() as u64));

        // The prior that was best for all intents is not sought again for nearly all.
        let spread = training.report.weight_spread;
        let draws = if left_out == 0 { 0 } else { self.draws };
        let left_out = (0..draws)
            .map(|draw| self.leave_out(&encoder, &index, &vectors, left_out, draw, spread))
            .collect::<Result<_>>()?;
        Ok(Measured {
            encoder: encoder.name().to_owned(),
            folder: config.folder.clone(),
            training: Some(training),
            evaluation,
            left_out,
            features: None,
            time,
        })
    }

    fn train(
        &self,
        encoder: &Encoder,
        catalogue: &Catalogue,
        index: &CatalogueIndex,
        questions: &[LabelledQuestion],
        options: &TrainOptions,
    ) -> Result<(Head, TrainReport)> {
        let stage = Stage::start("training", Unit::Items);
        let features = &self.features;
        let request = TrainRequest { encoder, catalogue, index, features, questions, options };
        let trained = Head::train(request, &mut |progress| stage.set(progress.done as u64, progress.total as u64))?;
        stage.done(format_args!("held-out top-1 {:.1} %", 100.0 * trained.1.top_1));
        Ok(trained)
    }

    /// Trains without some intents; their questions are then out of scope.
    fn leave_out(
        &self,
        encoder: &Encoder,
        index: &CatalogueIndex,
        vectors: &Embeddings,
        number: usize,
        draw: u64,
        weight_spread: f32,
    ) -> Result<LeftOut> {
        let mut order: Vec<usize> = (0..self.catalogue.intents.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(self.options.seed.wrapping_add(draw)));
        let left_out = &order[..number];
        let names: Vec<String> = left_out.iter().map(|intent| self.catalogue.intents[*intent].name.clone()).collect();
        let (smaller, index) = index.without_intents(&self.catalogue, left_out)?;
        let known = |question: &&LabelledQuestion| !names.contains(&question.intent);
        let training: Vec<LabelledQuestion> = self.training.iter().filter(known).cloned().collect();
        let options = TrainOptions { weight_spreads: vec![weight_spread], ..self.options.clone() };
        let (head, _) = self.train(encoder, &smaller, &index, &training, &options)?;
        let mut questions = self.questions.clone();
        for question in questions.iter_mut().filter(|question| names.contains(&question.intent)) {
            question.intent = OUT_OF_SCOPE.to_owned();
        }
        let judged = judge(&head, &smaller, &index, &self.features, &questions, vectors)?;
        let evaluation = Evaluation::of(&judged, &smaller);
        Ok(LeftOut {
            intents: names,
            questions: evaluation.out_of_scope_questions,
            auroc: evaluation.out_of_scope_auroc,
            handed_over: evaluation.out_of_scope_handed_over,
            known_handed_over: evaluation.handed_over,
        })
    }
}

/// Every rung for which the tenant has a head.
fn of_rungs(arguments: &Arguments) -> Result<Vec<Measured>> {
    let config = NodeConfig::load(&arguments.config)?;
    let Some(name) = &arguments.tenant else {
        bail!("name a --catalogue in CSV, or the --tenant of the config whose heads are measured");
    };
    let Some(tenant) = config.tenant(name) else {
        bail!("{} has no tenant {name:?}", arguments.config.display());
    };
    let mut measured = Vec::new();
    for rung in Rung::ALL {
        let head = match (&arguments.head, rung) {
            (Some(head), Rung::Full) => Some(head),
            (Some(_), Rung::Light) => None,
            (None, rung) => tenant.head_of(rung),
        };
        if let (Some(head), Some(encoder)) = (head, config.encoder(tenant, rung)) {
            measured.push(of_rung(&config, tenant, rung, (encoder, head), &arguments.questions)?);
        }
    }
    ensure!(
        !measured.is_empty(),
        "tenant {name:?} has no head in {}; name a file by --head",
        arguments.config.display()
    );
    Ok(measured)
}

fn of_rung(
    config: &NodeConfig,
    tenant: &TenantConfig,
    rung: Rung,
    (settings, head): (&EncoderConfig, &Path),
    questions: &Path,
) -> Result<Measured> {
    let name = &tenant.name;
    let catalogue = Catalogue::load(&tenant.catalogue)?;
    let service = config.service(&tenant.service).context("the tenant's feature service is missing from the config")?;
    let features = FeatureEncoder::new(service.encoded_features())?;
    let questions = questions_of(name, questions)?;
    let encoder = Encoder::load(settings, &Devices::open(&config.model)?)?;
    let head = Head::load(head, &catalogue, encoder.name(), &features)?;
    let stage = Stage::start(format!("rung {}: questions", rung.label()), Unit::Items);
    let index =
        CatalogueIndex::load_or_build(&encoder, &catalogue, &config.vectors_file(name, rung), &mut |done, total| {
            stage.set(done as u64, total as u64);
        })?;
    let texts: Vec<&str> = questions.iter().map(|question| question.text.as_str()).collect();
    let vectors = encoder.encode_texts(&texts)?;
    let evaluate = |questions: &[LabelledQuestion]| -> Result<Evaluation> {
        let judged = judge(&head, &catalogue, &index, &features, questions, &vectors)?;
        Ok(Evaluation::of(&judged, &catalogue))
    };
    let evaluation = evaluate(&questions)?;
    let taken = if features.width() == 0 {
        None
    } else {
        Some(FeaturesTaken {
            top_1_without: evaluate(&with_features(&questions, |_| None))?.top_1,
            top_1_of_others: evaluate(&with_features(&questions, |at| {
                Some((at + questions.len() / 2) % questions.len())
            }))?
            .top_1,
        })
    };
    let mut phi = vec![0.0; features.width()];
    questions[0].encode_features(&features, &mut phi)?;
    let time = time_per_text(&encoder, &index, &head, &texts, &phi)?;
    stage.done(count(texts.len() as u64));
    Ok(Measured {
        encoder: encoder.name().to_owned(),
        folder: settings.folder.clone(),
        training: None,
        evaluation,
        left_out: Vec::new(),
        features: taken,
        time,
    })
}

/// The same questions with the features of others among them, or none.
fn with_features(questions: &[LabelledQuestion], whose: impl Fn(usize) -> Option<usize>) -> Vec<LabelledQuestion> {
    let with = |(at, question): (usize, &LabelledQuestion)| LabelledQuestion {
        features: whose(at).map(|other| questions[other].features.clone()).unwrap_or_default(),
        ..question.clone()
    };
    questions.iter().enumerate().map(with).collect()
}

/// The whole way of a text through the model; `phi` is that of any user.
fn time_per_text(
    encoder: &Encoder,
    index: &CatalogueIndex,
    head: &Head,
    texts: &[&str],
    phi: &[f32],
) -> Result<TimePerText> {
    let answer = |texts: &[&str]| -> Result<f64> {
        let began = Instant::now();
        let vectors = encoder.encode_texts(texts)?;
        head.rank(&vectors, &index.best_cosines(&vectors)?, &phi.repeat(texts.len()))?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    };
    let batched = &texts[..texts.len().min(BATCHED)];
    let batches = batched.chunks(BATCH).map(answer).collect::<Result<Vec<f64>>>()?;
    let mut singles = texts.chunks(1).take(SINGLES).map(answer).collect::<Result<Vec<f64>>>()?;
    singles.sort_by(f64::total_cmp);
    Ok(TimePerText {
        batched_us: batches.iter().sum::<f64>() / batched.len().max(1) as f64,
        single_us: singles.get(singles.len() / 2).copied().unwrap_or_default(),
    })
}
