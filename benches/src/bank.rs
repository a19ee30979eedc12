//! The bank that load is put on: four tenants with the 77 intents of banking77, whose training questions are the catalogue's examples and
//! teach the heads of both rungs; 200,000 users with a profile and orders, of whom every fifth lies cold.
//!
//! Made once, in a folder of the build, and used again as long as what it is made by does not change. The data is looked for under
//! LARDER_SHARED and never becomes part of the project.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use parquet::arrow::ArrowWriter;
use serde_json::json;

use crate::Outcome;
use crate::served::run_larder;

/// Changes whenever what is made changes.
const VERSION: &str = "6";
/// Users of the first tenant.
const USERS: usize = 200_000;
/// Every fifth of them has not changed for more than a year, and lies cold.
const COLD_EVERY: usize = 5;
/// The tenants; the first one has data, the others' users are unknown.
pub const TENANTS: [&str; 4] = ["bank", "second", "third", "fourth"];

const TIERS: [&str; 2] = ["basic", "gold"];
const STATUSES: [&str; 3] = ["processing", "in_transit", "delivered"];
const DAY_MS: i64 = 86_400_000;

const VIEWS: &str = r#"
[[view]]
name = "profile"
id = 1
kind = "latest"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "name", type = "utf8" }, { name = "tier", type = "utf8" } ]
[[view]]
name = "orders"
id = 2
kind = "last_n"
n = 3
element_key = "order_id"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "order_id", type = "i64" }, { name = "item", type = "utf8" }, { name = "status", type = "utf8" } ]
[[service]]
name = "answers"
features = [
  { feature = "profile:name" },
  { feature = "profile:tier", encode = { one_hot = ["basic", "gold"] } },
  { feature = "orders:order_id" },
  { feature = "orders:item" },
  { feature = "orders:status", encode = { one_hot = ["processing", "in_transit", "delivered"] } },
]
"#;

/// The bank's folder.
#[derive(Debug)]
pub struct Bank {
    folder: PathBuf,
}

impl Bank {
    /// Makes it, or finds it made. None where banking77 is not on this machine.
    ///
    /// # Errors
    /// A command of larder failed, or the disk.
    pub fn prepare() -> Outcome<Option<Bank>> {
        let data = std::env::var_os("LARDER_SHARED").map(PathBuf::from).unwrap_or_default().join("data/banking77");
        if !data.join("train.csv").is_file() {
            return Ok(None);
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-data/bank");
        let bank = Bank { folder };
        let version = bank.folder.join("version");
        if fs::read_to_string(&version).is_ok_and(|made| made == VERSION) {
            return Ok(Some(bank));
        }
        eprintln!("bench: making the bank in {}", bank.folder.display());
        let _ = fs::remove_dir_all(&bank.folder);
        fs::create_dir_all(&bank.folder)?;
        bank.make(&data)?;
        fs::write(&version, VERSION)?;
        Ok(Some(bank))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The test questions with their intents, as JSON lines.
    pub fn questions(&self) -> PathBuf {
        self.folder.join("questions.jsonl")
    }

    /// The names of users who lie warm, and of those who lie cold.
    pub fn users(&self) -> (Vec<String>, Vec<String>) {
        let (cold, warm) = (0..USERS).partition::<Vec<_>, _>(|user: &usize| user.is_multiple_of(COLD_EVERY));
        let names = |users: Vec<usize>| users.into_iter().map(name).collect();
        (names(warm), names(cold))
    }

    /// larder.toml below the section `[node]`, with sections of its own in front.
    pub fn settings(&self, sections: &str) -> String {
        let full =
            format!("[model.full]\nfolder = {:?}\n[model.light]\nfolder = {:?}\n", model("minilm-l6"), model("potion"));
        let heads = "head = \"full.safetensors\"\nlight_head = \"light.safetensors\"\n";
        format!("{sections}\n{full}{}{VIEWS}", tenants("catalogue.toml", heads))
    }

    /// The same with an encoder whose forward is a look-up, and a catalogue of one example each: a node that does everything but
    /// the forward.
    pub fn settings_without_forward(&self, sections: &str) -> String {
        let full = format!("[model.full]\nfolder = {:?}\n[model.light]\nfolder = \"\"\n", model("potion"));
        format!("{sections}\n{full}{}{VIEWS}", tenants("small.toml", ""))
    }

    /// The same where nobody may ask more than one question a second: a node that refuses.
    pub fn settings_with_limit(&self, sections: &str) -> String {
        self.settings_without_forward(sections)
            .replace("service = \"answers\"\n", "service = \"answers\"\nmax_per_s = 1\n")
    }

    /// Builds the orders twice, each a generation to be published on a node with that larder.toml; returns the folders.
    ///
    /// # Errors
    /// A command of larder failed.
    pub fn build_orders(&self, config: &str, number: usize) -> Outcome<Vec<String>> {
        let parquet = self.folder.join("orders.parquet").to_string_lossy().into_owned();
        let build = |nth: usize| {
            let out = self.folder.join(format!("built-{number}-{nth}"));
            let _ = fs::remove_dir_all(&out);
            let out = out.to_string_lossy().into_owned();
            let build =
                ["ingest", "build", "--config", config, "--tenant", "bank", "--view", "orders", "--cold-after", "365d"];
            run_larder(&[&build[..], &["--out", &out, &parquet]].concat())?;
            // A generation is numbered by the second.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
            Ok(out)
        };
        (0..2).map(build).collect()
    }

    fn make(&self, data: &Path) -> Outcome<()> {
        for model in ["minilm-l6", "potion"] {
            run_larder(&["model", "get", model])?;
        }
        let train = questions(&data.join("train.csv"))?;
        self.write_catalogue("catalogue.toml", &train, usize::MAX)?;
        self.write_catalogue("small.toml", &train, 1)?;
        write_lines(&self.folder.join("train.jsonl"), &train)?;
        write_lines(&self.questions(), &questions(&data.join("test.csv"))?)?;
        self.write_users()?;
        let config = self.folder.join("larder.toml");
        fs::write(&config, self.settings(""))?;
        let config = config.to_string_lossy().into_owned();
        let train = self.folder.join("train.jsonl").to_string_lossy().into_owned();
        for rung in ["full", "light"] {
            run_larder(&[
                "model", "train", "--config", &config, "--tenant", "bank", "--questions", &train, "--rung", rung,
            ])?;
        }
        for view in ["profile", "orders"] {
            let file = self.folder.join(view).with_extension("parquet");
            let file = file.to_string_lossy();
            let load = ["ingest", "load", "--config", &config, "--tenant", "bank", "--view", view];
            run_larder(&[&load[..], &["--cold-after", "365d", &file]].concat())?;
        }
        Ok(())
    }

    /// With so many examples of each intent.
    fn write_catalogue(&self, file: &str, questions: &[(String, String)], most: usize) -> Outcome<()> {
        let mut examples: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (text, intent) in questions {
            examples.entry(intent).or_default().push(text);
        }
        let mut catalogue = String::new();
        for (intent, examples) in examples {
            let title = intent.replace('_', " ");
            // JSON's strings are TOML's, but for what no question here has.
            catalogue += &format!(
                "[[intent]]\nname = \"{intent}\"\ntitle = \"{title}\"\n\
                 answer = \"{{{{ profile.name }}}}, about {title}: your last order is {{{{ order.order_id }}}} ({{{{ order.item }}}}).\"\n\
                 answer_without_features = \"About {title}: please sign in.\"\nexamples = {}\n",
                json!(examples[..most.min(examples.len())])
            );
        }
        Ok(fs::write(self.folder.join(file), catalogue)?)
    }

    fn write_users(&self) -> Outcome<()> {
        let now_ms = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
        let updated = |user: usize| now_ms - if user.is_multiple_of(COLD_EVERY) { 400 * DAY_MS } else { DAY_MS };
        let texts = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
        let times =
            |values: Vec<i64>| Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC")) as ArrayRef;
        let users: Vec<usize> = (0..USERS).collect();
        let of = |text: &dyn Fn(usize) -> String| texts(users.iter().map(|user| text(*user)).collect());
        let profile = RecordBatch::try_from_iter([
            ("user_id", of(&name)),
            ("updated_at", times(users.iter().map(|user| updated(*user)).collect())),
            ("name", of(&|user| format!("Customer {user}"))),
            ("tier", of(&|user| TIERS[user % 2].to_owned())),
        ])?;
        write_parquet(&self.folder.join("profile.parquet"), &profile)?;
        let orders: Vec<(usize, usize)> = users.iter().flat_map(|user| (0..3).map(|nth| (*user, nth))).collect();
        let of =
            |text: &dyn Fn(usize, usize) -> String| texts(orders.iter().map(|(user, nth)| text(*user, *nth)).collect());
        let ids: Int64Array = orders.iter().map(|(user, nth)| (user * 10 + nth) as i64).collect();
        let batch = RecordBatch::try_from_iter([
            ("user_id", of(&|user, _| name(user))),
            ("updated_at", times(orders.iter().map(|(user, nth)| updated(*user) - *nth as i64 * 60_000).collect())),
            ("order_id", Arc::new(ids) as ArrayRef),
            ("item", of(&|user, nth| format!("item {}", (user + nth) % 97))),
            ("status", of(&|user, nth| STATUSES[(user + nth) % 3].to_owned())),
        ])?;
        write_parquet(&self.folder.join("orders.parquet"), &batch)
    }
}

fn model(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/larder/models").join(name)
}

fn tenants(catalogue: &str, heads: &str) -> String {
    let tenant = |(at, name): (usize, &&str)| {
        let id = at + 1;
        format!("[[tenant]]\nname = \"{name}\"\nid = {id}\ncatalogue = \"{catalogue}\"\n{heads}service = \"answers\"\n")
    };
    TENANTS.iter().enumerate().map(tenant).collect()
}

fn name(user: usize) -> String {
    format!("u{user:07}")
}

/// The texts and intents of a file of banking77, whose columns are text and category.
fn questions(file: &Path) -> Outcome<Vec<(String, String)>> {
    let mut questions = Vec::new();
    for row in csv::Reader::from_path(file)?.records() {
        let row = row?;
        let (text, category) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let intent: String = category.chars().map(plain).collect();
        questions.push((text.trim().to_owned(), intent.trim_matches('_').to_owned()));
    }
    Ok(questions)
}

fn write_lines(file: &Path, questions: &[(String, String)]) -> Outcome<()> {
    // Drawn by the question's number, so that the head learns that they say nothing here.
    let line = |(number, (text, intent)): (usize, &(String, String))| {
        let features = json!({"profile:tier": TIERS[number % 2], "orders:status": STATUSES[number % 3]});
        let asked_at_ms = 1_790_000_000_000_i64;
        json!({"tenant": "bank", "user": "", "text": text, "intent": intent, "asked_at_ms": asked_at_ms, "features": features}).to_string()
    };
    Ok(fs::write(file, questions.iter().enumerate().map(line).collect::<Vec<_>>().join("\n") + "\n")?)
}

fn write_parquet(file: &Path, batch: &RecordBatch) -> Outcome<()> {
    let mut writer = ArrowWriter::try_new(File::create(file)?, batch.schema(), None)?;
    writer.write(batch)?;
    writer.close()?;
    Ok(())
}
