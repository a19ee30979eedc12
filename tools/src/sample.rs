//! `larder sample`: writes a whole sample shop into a folder, ready to ingest, train, serve and load. How it is written is `sample_write`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use clap::Args;

use crate::known_models::{DEFAULT_MODEL, LIGHT_MODEL, MULTILINGUAL_MODEL, models_folder};
use crate::output::{print_json, say};
use crate::progress::count;
use crate::sample_record::{SampleRecord, SampleRequest};
use crate::sample_write::write_sample;
use crate::shop_config::{tenant_name, tenant_prefix};
use crate::shop_draw::DAY_MS;
use crate::shop_locale::Language;

#[derive(Debug, Args)]
#[command(
    after_help = "The first tenant's files lie in the folder itself, those of each further one in a folder of its own. With --zipf S the n-th user buys and asks in
proportion to 1 / n^S; stream.jsonl has questions of such users, one after the other, for `larder load`.

Examples:
  larder sample --out data/shop
  larder sample --out /tmp/small --users 1000 --seed 7 --now 2026-11-20T00:00:00Z
  larder sample --out /tmp/two --users 5000 --language en,zh
  larder sample --out /data/large --users 100000000 --zipf 0.8 --stream 1000000
  larder sample --out /tmp/noisy --label-noise 0.1 --distractors 5"
)]
pub(crate) struct Arguments {
    /// Folder to write; made when missing. A folder that holds another larder.toml is left alone
    #[arg(long)]
    out: PathBuf,
    /// Users of each tenant, 500 to 100,000,000
    #[arg(long, default_value_t = 100_000)]
    users: usize,
    /// Tenants, 1 to 64: demo, demo-2 and so on; the languages take turns [default: one for each language]
    #[arg(long)]
    tenants: Option<usize>,
    /// The tenants' languages
    #[arg(long, value_enum, value_delimiter = ',', default_value = "en")]
    language: Vec<Language>,
    /// How unevenly orders and the stream's questions fall on users, 0 to 4; 0 = all users are alike
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    zipf: f64,
    /// Questions in stream.jsonl, 0 to 1,000,000; 0 = no such file
    #[arg(long, value_name = "QUESTIONS", default_value_t = 10_000)]
    stream: usize,
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
        tenants: tenants(arguments.tenants, &arguments.language)?,
        zipf: arguments.zipf,
        stream: arguments.stream,
        seed: arguments.seed,
        now_ms: arguments.now.map_or_else(start_of_today_ms, |now| now.timestamp_millis()),
        label_noise: arguments.label_noise,
        distractors: arguments.distractors,
        encoder: models.join(DEFAULT_MODEL),
        light_encoder: Some(models.join(LIGHT_MODEL)),
        multilingual_encoder: models.join(MULTILINGUAL_MODEL),
    };
    let record = write_sample(&request)?;
    if arguments.json {
        return print_json(&record);
    }
    say!("{}", next_steps(&record, &request.out));
    Ok(())
}

/// The language of each tenant; languages take turns.
fn tenants(number: Option<usize>, languages: &[Language]) -> Result<Vec<Language>> {
    let number = number.unwrap_or(languages.len());
    let least = languages.len();
    ensure!(number >= least, "--tenants {number}: each language of --language needs a tenant, so at least {least}");
    Ok(languages.iter().copied().cycle().take(number).collect())
}

fn next_steps(record: &SampleRecord, out: &Path) -> String {
    let (out, tenants) = (out.display(), record.tenants.len());
    let users = count((record.users * tenants) as u64);
    let whose = if tenants == 1 { String::new() } else { format!(" of {tenants} tenants") };
    let (orders, train, test) = (count(record.orders), count(record.train_questions as u64), record.test_questions);
    let models: Vec<&str> = [(Language::En, &[DEFAULT_MODEL, LIGHT_MODEL][..]), (Language::Zh, &[MULTILINGUAL_MODEL])]
        .into_iter()
        .filter(|(language, _)| record.tenants.contains(language))
        .flat_map(|(_, models)| models.iter().copied())
        .collect();
    let models = models.iter().map(|model| format!("larder model get {model}")).collect::<Vec<_>>().join(" && ");
    let mut text = format!(
        "Wrote {users} users{whose}, {orders} orders, {train} training and {test} test questions to {out}.\nNext: {models}"
    );
    for (place, language) in record.tenants.iter().enumerate().take(2) {
        let (tenant, prefix) = (tenant_name(place), tenant_prefix(place));
        let of = format!("--config {out}/larder.toml --tenant {tenant}");
        for view in ["profile", "orders"] {
            text += &format!("\n      larder ingest load {of} --view {view} {out}/{prefix}{view}.parquet");
        }
        text += &format!("\n      larder model train {of} --questions {out}/{prefix}train.jsonl");
        if *language == Language::En {
            text += &format!("\n      larder model train {of} --questions {out}/{prefix}train.jsonl --rung light");
        }
    }
    if tenants > 2 {
        text += &format!("\n      the same for every tenant up to {}", tenant_name(tenants - 1));
    }
    text + &format!("\n      larder serve --config {out}/larder.toml")
}

/// The start of the current day, UTC.
pub(crate) fn start_of_today_ms() -> i64 {
    let now_ms = Utc::now().timestamp_millis();
    now_ms - now_ms.rem_euclid(DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_take_turns_and_each_has_a_tenant() {
        use Language::{En, Zh};
        assert_eq!(tenants(None, &[En]).unwrap(), [En]);
        assert_eq!(tenants(None, &[En, Zh]).unwrap(), [En, Zh]);
        assert_eq!(tenants(Some(5), &[Zh, En]).unwrap(), [Zh, En, Zh, En, Zh]);
        assert!(tenants(Some(1), &[En, Zh]).unwrap_err().to_string().contains("at least 2"));
    }

    #[test]
    fn the_next_steps_name_the_files_and_encoders_of_every_tenant() {
        let request = SampleRequest {
            out: PathBuf::from("shop"),
            users: 500,
            tenants: vec![Language::Zh, Language::En, Language::Zh],
            zipf: 0.0,
            stream: 0,
            seed: 42,
            now_ms: 1_790_000_000_000,
            label_noise: 0.0,
            distractors: 0,
            encoder: PathBuf::from("/models/minilm-l6"),
            light_encoder: Some(PathBuf::from("/models/potion")),
            multilingual_encoder: PathBuf::from("/models/me5-small"),
        };
        let record = SampleRecord::new(&request).unwrap();
        let text = next_steps(&record, Path::new("shop"));
        for part in [
            "larder model get minilm-l6 && larder model get potion && larder model get me5-small",
            "--tenant demo --view orders shop/orders.parquet",
            "--tenant demo-2 --questions shop/demo-2/train.jsonl --rung light",
            "up to demo-3",
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert_eq!(text.matches("--rung light").count(), 1, "{text}");
        assert!(text.contains("--tenant demo "), "{text}");
    }
}
