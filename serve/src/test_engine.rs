//! An engine over a small shop, for unit tests of the stages between admission and reply: two tenants, tiny encoders, no data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_model::Devices;
use larder_store::TenantId;
use tempfile::TempDir;
use tokio::sync::oneshot::Receiver;

use crate::config::NodeConfig;
use crate::context::{Class, RequestContext};
use crate::engine::Engine;
use crate::error::Refusal;
use crate::fetch::{FetchedBatch, fetch};
use crate::metrics::Counters;
use crate::question::{Answer, BatchInfo, Question};
use crate::rung::Choice;
use crate::score;

#[path = "../../tests/support/tiny_encoder.rs"]
mod tiny_encoder;

pub(crate) use tiny_encoder::POISON;

const TOML: &str = r#"
[model.full]
folder = "full"
[model.light]
folder = "light"
[[view]]
name = "profile"
id = 1
kind = "latest"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "name", type = "utf8" } ]
[[service]]
name = "answers"
features = [ { feature = "profile:name" } ]
[[tenant]]
name = "one"
id = 1
catalogue = "catalogue.toml"
service = "answers"
[[tenant]]
name = "two"
id = 2
catalogue = "catalogue.toml"
service = "answers"
hand_over = "Somebody of two will help."
"#;

/// The intents are the words that the encoders know.
const WORDS: [&str; 4] = ["password", "gift", "open", "parcel"];

/// An engine without threads: a test moves the batches itself.
pub(crate) struct TestEngine {
    pub(crate) engine: Arc<Engine>,
    _folder: TempDir,
}

/// The reply of a question.
pub(crate) type Reply = Receiver<Result<Answer, Refusal>>;

impl TestEngine {
    /// With these lines in larder.toml beside its own.
    pub(crate) fn open(lines: &str) -> TestEngine {
        let folder = tempfile::tempdir().unwrap();
        tiny_encoder::write_tiny_encoder(&folder.path().join("full"), &WORDS);
        tiny_encoder::write_tiny_encoder(&folder.path().join("light"), &["gift", "parcel", "password", "open"]);
        let intent = |word| {
            format!(
                "[[intent]]\nname = \"{word}\"\ntitle = \"{word}\"\nanswer = \"{word}!\"\nanswer_without_features = \"{word}!\"\nexamples = [\"{word}\"]\n"
            )
        };
        std::fs::write(folder.path().join("catalogue.toml"), WORDS.map(intent).concat()).unwrap();
        let file = folder.path().join("larder.toml");
        std::fs::write(&file, format!("{lines}\n{TOML}")).unwrap();
        let config = NodeConfig::load(&file).unwrap();
        let engine = Engine::open(&config, Devices::open, Arc::new(Counters::new())).unwrap();
        TestEngine { engine: Arc::new(engine), _folder: folder }
    }

    /// Lets questions (tenant, text) in as one batch, in which each is answered on the rung that is named, or else the one that the queue chose.
    pub(crate) fn fetch<const N: usize>(&self, asked: [(&str, &str, Option<Choice>); N]) -> (FetchedBatch, [Reply; N]) {
        let mut choices = asked.to_vec();
        let replies = asked.map(|(tenant, text, _)| self.admit(tenant, text));
        let mut batch = self.engine.queue.next_batch().unwrap();
        // Or the slot ahead of the scorer would keep the next batch waiting, which a test may fetch before this one is scored.
        drop(self.engine.queue.scoring());
        assert_eq!(batch.questions.len(), N, "the batch was divided");
        for chosen in &mut batch.questions {
            // The tenants take turns, so that the order may have changed.
            let is_it = |&(tenant, text, _): &(&str, &str, _)| {
                (tenant, text) == (chosen.question.tenant.name.as_str(), chosen.question.question.text.as_str())
            };
            let at = choices.iter().position(is_it).unwrap();
            let (_, _, choice) = choices.remove(at);
            chosen.choice = choice.unwrap_or(chosen.choice);
        }
        let info = BatchInfo { id: 1, size: N, closed_by: batch.closed_by };
        (fetch(&self.engine, batch, info), replies)
    }

    /// Answers a batch.
    pub(crate) fn score(&self, batch: FetchedBatch) {
        score::answer(&self.engine, batch);
    }

    /// Fetches, answers, and returns what came of it.
    pub(crate) fn answer<const N: usize>(
        &self,
        asked: [(&str, &str, Option<Choice>); N],
    ) -> [Result<Answer, Refusal>; N] {
        let (batch, replies) = self.fetch(asked);
        self.score(batch);
        replies.map(outcome)
    }

    fn admit(&self, tenant: &str, text: &str) -> Reply {
        let context = RequestContext {
            tenant: Arc::from(tenant),
            tenant_id: TenantId(if tenant == "one" { 1 } else { 2 }),
            user: "user-1".to_owned(),
            session: String::new(),
            class: Class::Normal,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let question = Question { text: text.to_owned(), request_id: text.to_owned(), deadline, notes: Vec::new() };
        let (place, reply) = self.engine.admit(context, question).unwrap();
        place.answered();
        reply
    }
}

/// What a reply was, which must be there.
pub(crate) fn outcome(mut reply: Reply) -> Result<Answer, Refusal> {
    reply.try_recv().expect("not answered")
}
