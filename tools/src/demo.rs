//! `larder demo`: the whole of Larder in a minute, on data that nobody has to bring.
//!
//! Weights, a sample shop, its Parquet files into the store, a trained head, a node in a process of its own, 200
//! questions over gRPC, ten of them to read, the figures of all, and a clean stop. Nothing here is special to the demo:
//! each step is the function behind the command of that name.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use larder_model::{Catalogue, LabelledQuestion};
use larder_serve::{NodeConfig, Rung, TenantConfig};

use crate::demo_ask::{Asked, ask_all, node_status, warm};
use crate::demo_figures::Session;
use crate::demo_node::NodeProcess;
use crate::demo_prepare::{prepare_head, prepare_sample, prepare_store};
use crate::demo_report::{show_examples, show_summary};
use crate::files::{absolute, read_json_lines};
use crate::known_models::{DEFAULT_MODEL, LIGHT_MODEL, MULTILINGUAL_MODEL, find, models_folder};
use crate::model_get;
use crate::output::{print_json, say};
use crate::sample::start_of_today_ms;
use crate::sample_record::SampleRequest;
use crate::shop_config::TENANT;
use crate::shop_locale::Language;
use crate::shop_questions::TestQuestion;

#[derive(Debug, Args)]
#[command(
    after_help = "What an earlier run left in DIR is used again while it is still right. Afterwards the same shop can be served by
  larder serve --config data/demo/larder.toml

Examples:
  larder demo
  larder demo --dir /tmp/demo --users 10000
  larder demo --json"
)]
pub(crate) struct Arguments {
    /// Folder for everything the demo makes
    #[arg(long, default_value = "data/demo")]
    dir: PathBuf,
    /// Users of the sample shop
    #[arg(long, default_value_t = 100_000)]
    users: usize,
    /// Seed of the sample shop
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder of models [default: $LARDER_MODELS or ~/.cache/larder/models]
    #[arg(long)]
    models: Option<PathBuf>,
    /// Print the figures as JSON, and no example
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = absolute(&arguments.dir)?;
    let models = absolute(&models_folder(arguments.models.as_deref())?)?;
    let encoder = model_get::get(find(DEFAULT_MODEL)?, &models)?.path;
    let light_encoder = match model_get::get(find(LIGHT_MODEL)?, &models) {
        Ok(light) => Some(light.path),
        Err(error) => {
            eprintln!("{error:#}\nThe demo goes on without the rung light.");
            None
        }
    };
    let request = SampleRequest {
        out: folder.clone(),
        users: arguments.users,
        tenants: vec![Language::En],
        zipf: 0.0,
        stream: 0,
        seed: arguments.seed,
        now_ms: start_of_today_ms(),
        label_noise: 0.0,
        distractors: 0,
        encoder,
        light_encoder,
        multilingual_encoder: models.join(MULTILINGUAL_MODEL),
    };
    let sample = prepare_sample(&request)?;
    let config = NodeConfig::load(&folder.join("larder.toml"))?;
    let tenant = config.tenant(TENANT).with_context(|| format!("the config has no tenant {TENANT:?}"))?;
    prepare_store(&config, TENANT, &folder, &sample)?;
    for rung in Rung::ALL {
        prepare_head(&config, tenant, rung, &folder)?;
    }

    let tests: Vec<TestQuestion> = read_json_lines(&folder.join("questions.jsonl"))?;
    let train: Vec<LabelledQuestion> = read_json_lines(&folder.join("train.jsonl"))?;
    let mut node = NodeProcess::start(&config, &folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let conversation = runtime.block_on(converse(&mut node, &config, tenant, tests))?;

    let trained: Vec<(String, String)> = train.into_iter().map(|question| (question.intent, question.text)).collect();
    let catalogue = Catalogue::load(&tenant.catalogue)?;
    let Conversation { asked, hot_hits, warm_hits } = &conversation;
    let (hot_hits, warm_hits) = (*hot_hits, *warm_hits);
    let session = Session { asked, catalogue: &catalogue, trained: &trained, hot_hits, warm_hits };
    let figures = session.figures()?;
    if !arguments.json {
        show_examples(asked);
        show_summary(&figures);
    }
    node.stop()?;
    if arguments.json {
        print_json(&figures)?;
    } else {
        say!("{}", figures.final_line());
    }
    ensure!(figures.refused == 0, "{} questions were not answered", figures.refused);
    Ok(())
}

struct Conversation {
    asked: Vec<Asked>,
    /// Counted by the node while it was asked.
    hot_hits: u64,
    warm_hits: u64,
}

async fn converse(
    node: &mut NodeProcess,
    config: &NodeConfig,
    tenant: &TenantConfig,
    tests: Vec<TestQuestion>,
) -> Result<Conversation> {
    node.wait_until_serving().await?;
    let address = node.address();
    let users = tests.iter().map(|test| test.question.user.clone()).collect();
    warm(&address, &tenant.name, &tenant.service, users, config.node.max_entities).await?;
    let before = node_status(&address).await?;
    let asked = ask_all(&address, tests).await?;
    let after = node_status(&address).await?;
    Ok(Conversation {
        asked,
        hot_hits: after.hot_hits - before.hot_hits,
        warm_hits: after.warm_hits - before.warm_hits,
    })
}
