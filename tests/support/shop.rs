//! A small shop with all that matters: six intents of which three share their words, thirty users whose newest order
//! decides between them, and a head trained on labelled questions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use larder_model::{Catalogue, CatalogueIndex, FeatureEncoder, Head, LabelledQuestion, TrainOptions, TrainRequest};
use larder_serve::NodeConfig;
use larder_store::{GenerationWriter, Store, TenantId, WriterLimits};
use tempfile::TempDir;

use super::encoder_folder;

/// Users of a shop, `user-0` to `user-29`.
pub(crate) const USERS: usize = 30;
/// The states of a user's newest order, by the user's number modulo three, and the intent each decides for.
pub(crate) const STATUSES: [(&str, &str); 3] =
    [("processing", "order_processing"), ("in_transit", "order_in_transit"), ("delivered", "order_delivered")];

/// (name, title, answer, answer without features, examples)
const INTENTS: [(&str, &str, &str, [&str; 4]); 6] = [
    (
        "order_processing",
        "Order is being packed",
        "{{ profile.name }}, order {{ order.order_id }} is being packed.",
        [
            "Has my order been packed yet?",
            "My order is still being prepared, when will it be sent?",
            "Why has my order not been shipped?",
            "Is my order still processing?",
        ],
    ),
    (
        "order_in_transit",
        "Order is on its way",
        "{{ profile.name }}, order {{ order.order_id }} is on its way.",
        [
            "Is my parcel on its way?",
            "When will the shipped order get here?",
            "How can I track my parcel?",
            "My package is in transit, when does it arrive?",
        ],
    ),
    (
        "order_delivered",
        "Order was delivered",
        "{{ profile.name }}, order {{ order.order_id }} was delivered.",
        [
            "It says my order was delivered, but I cannot find it",
            "Has my parcel been delivered?",
            "Who accepted my delivery?",
            "My parcel should be here already according to your mail",
        ],
    ),
    (
        "reset_password",
        "Forgotten password",
        "{{ profile.name }}, use the link on the sign-in page.",
        [
            "How do I reset my password?",
            "I forgot my password",
            "I cannot log in to my account",
            "My password does not work any more",
        ],
    ),
    (
        "gift_cards",
        "Gift cards",
        "Gift cards are sold in every size.",
        [
            "Do you sell gift cards?",
            "I want to give a voucher as a present",
            "How can I use my gift card?",
            "Can I buy a gift voucher online?",
        ],
    ),
    (
        "opening_hours",
        "Opening hours",
        "We are open from nine to six.",
        [
            "When does your shop open?",
            "What are your opening hours?",
            "Are you open on Sundays?",
            "How late is the store open?",
        ],
    ),
];

/// Questions whose words say nothing about the state of the order.
const AMBIGUOUS: [&str; 8] = [
    "where is it?",
    "what is going on with my order?",
    "any news about my stuff?",
    "can you check my order please",
    "I am waiting for my things",
    "what about my purchase?",
    "is there an update?",
    "how far is my order?",
];

/// Questions the words decide.
const PLAIN: [(&str, [&str; 4]); 6] = [
    (
        "order_processing",
        [
            "have you packed my things",
            "is the order still with you",
            "why was nothing sent so far",
            "is it still being prepared",
        ],
    ),
    (
        "order_in_transit",
        [
            "which day does the shipped parcel arrive",
            "give me the tracking number",
            "is the driver on the way",
            "where is the truck with my parcel",
        ],
    ),
    (
        "order_delivered",
        [
            "the tracking says delivered but nothing is here",
            "did somebody sign for my parcel",
            "the parcel was left at the wrong door",
            "delivered to whom",
        ],
    ),
    (
        "reset_password",
        ["password forgotten", "I need a new password", "login is not possible", "the sign in page rejects me"],
    ),
    (
        "gift_cards",
        ["vouchers for a birthday", "what gift cards are there", "paying with a voucher", "a gift card for my mother"],
    ),
    (
        "opening_hours",
        ["are you open today", "until when can I visit the shop", "do you close at noon", "open on Saturday?"],
    ),
];

/// Questions nobody here can answer.
const OUT_OF_SCOPE: [&str; 12] = [
    "what is the capital of France",
    "write me a poem about the sea",
    "who won the football match",
    "my knee hurts",
    "how do I cook rice",
    "what will the weather be tomorrow",
    "solve this equation for me",
    "tell me a joke",
    "which stocks should I buy",
    "how old is the universe",
    "translate this into Spanish",
    "asdf qwer zxcv",
];

/// Names a tenant uses, so that two shops never look alike.
#[derive(Clone, Copy)]
pub(crate) struct TenantSpec {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    /// Begins every order number and every user's name of this tenant.
    pub(crate) mark: &'static str,
}

/// The shop of most tests.
pub(crate) const DEMO: TenantSpec = TenantSpec { name: "demo", id: 1, mark: "D" };
/// Another one beside it.
pub(crate) const OTHER: TenantSpec = TenantSpec { name: "other", id: 2, mark: "O" };

/// A folder with larder.toml, catalogues, head and store.
pub(crate) struct Shop {
    folder: TempDir,
    /// Lines of the [node] section.
    node: String,
    /// Whole sections.
    extra: String,
    /// Lines of the [model.light] section.
    light: String,
    /// Lines of tenants of their own, in place of the usual ones.
    own: HashMap<&'static str, String>,
    tenants: Vec<TenantSpec>,
}

impl Shop {
    /// A shop of these tenants with generation 1 of both views published.
    pub(crate) fn new(tenants: &[TenantSpec]) -> Shop {
        let shop = Shop::without_data(tenants);
        let config = shop.config();
        let store = Store::open(&config.store, &config.views).unwrap();
        for tenant in tenants {
            for view in ["profile", "orders"] {
                store.publish(&shop.build(*tenant, view, 1)).unwrap();
            }
        }
        shop
    }

    /// A shop of these tenants of which nothing is published.
    pub(crate) fn without_data(tenants: &[TenantSpec]) -> Shop {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("catalogue.toml"), catalogue_toml()).unwrap();
        std::fs::write(folder.path().join("head.safetensors"), trained_head()).unwrap();
        Shop {
            folder,
            node: String::new(),
            extra: String::new(),
            light: "folder = \"\"".to_owned(),
            own: HashMap::new(),
            tenants: tenants.to_vec(),
        }
    }

    /// The same with lines of larder.toml of its own, like `[admission]\nmax_questions = 2`.
    pub(crate) fn with(tenants: &[TenantSpec], extra: &str) -> Shop {
        let mut shop = Shop::new(tenants);
        shop.extra = extra.to_owned();
        shop
    }

    /// The same folder with other lines of larder.toml of its own.
    pub(crate) fn with_extra(mut self, extra: &str) -> Shop {
        self.extra = extra.to_owned();
        self
    }

    /// The same with lines of the [node] section of its own.
    pub(crate) fn with_node(mut self, lines: &str) -> Shop {
        self.node = lines.to_owned();
        self
    }

    /// The same with a light rung, which has this encoder.
    pub(crate) fn with_light(mut self, encoder: &Path) -> Shop {
        self.light = format!("folder = {encoder:?}");
        self
    }

    /// The same with other lines for a tenant's catalogue, heads and encoders.
    pub(crate) fn with_tenant(mut self, tenant: TenantSpec, lines: &str) -> Shop {
        self.own.insert(tenant.name, lines.to_owned());
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// larder.toml, read back from its file as the node would.
    pub(crate) fn config(&self) -> NodeConfig {
        let file = self.path().join("larder.toml");
        std::fs::write(&file, self.toml()).unwrap();
        NodeConfig::load(&file).unwrap()
    }

    fn toml(&self) -> String {
        let mut text = format!(
            "[node]\nlisten = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\ndefault_deadline_ms = 10000\n{}\n\
             [model.full]\nfolder = {:?}\n[model.light]\n{}\n{}\n",
            self.node,
            encoder_folder(),
            self.light,
            self.extra
        );
        for tenant in &self.tenants {
            let usual = "catalogue = \"catalogue.toml\"\nhead = \"head.safetensors\"";
            text += &format!(
                "[[tenant]]\nname = \"{}\"\nid = {}\n{}\n\
                 service = \"answers\"\nhand_over = \"A colleague will help.\"\n",
                tenant.name,
                tenant.id,
                self.own.get(tenant.name).map_or(usual, String::as_str)
            );
        }
        text + VIEWS
    }

    /// Builds a generation of a view and returns its folder. Every order number and name ends with the generation's number.
    pub(crate) fn build(&self, tenant: TenantSpec, view: &str, generation: u32) -> PathBuf {
        let config = self.config();
        let view = config.view(view).unwrap();
        let out = self.path().join(format!("{}-{}-{generation}", tenant.name, view.name));
        let mut writer =
            GenerationWriter::create(&out, view, TenantId(tenant.id), generation, now_ms(), WriterLimits::default())
                .unwrap();
        let mut users: Vec<usize> = (0..USERS).collect();
        users.sort_by_key(|user| format!("user-{user}"));
        let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(users.iter().map(|user| text(*user))))
        };
        let times: ArrayRef =
            Arc::new(TimestampMillisecondArray::from(vec![now_ms() - 60_000; users.len()]).with_timezone("UTC"));
        let mut columns = vec![texts(&|user| format!("user-{user}")), times];
        match view.name.as_str() {
            "profile" => columns.push(texts(&|user| name(tenant, user, generation))),
            _ => {
                columns.push(texts(&|user| order_id(tenant, user, generation)));
                columns.push(texts(&|user| STATUSES[user % 3].0.to_owned()));
            }
        }
        writer.append(&RecordBatch::try_new(view.arrow_schema(), columns).unwrap()).unwrap();
        writer.finish().unwrap();
        out
    }
}

/// The number of a user's only order, as a generation tells it.
pub(crate) fn order_id(tenant: TenantSpec, user: usize, generation: u32) -> String {
    format!("{}{user:02}-{generation}", tenant.mark)
}

/// The name of a user, as a generation tells it.
pub(crate) fn name(tenant: TenantSpec, user: usize, generation: u32) -> String {
    format!("Name{}{user:02}-{generation}", tenant.mark)
}

/// The intent that "where is it?" means for a user.
pub(crate) fn intent_of(user: usize) -> &'static str {
    STATUSES[user % 3].1
}

const VIEWS: &str = r#"
[[view]]
name = "profile"
id = 1
kind = "latest"
entity_key = "user_id"
event_time = "updated_at"
ttl_s = 86400
features = [ { name = "name", type = "utf8" } ]
[[view]]
name = "orders"
id = 2
kind = "last_n"
n = 5
element_key = "order_id"
entity_key = "user_id"
event_time = "updated_at"
features = [ { name = "order_id", type = "utf8" }, { name = "status", type = "utf8" } ]
[[service]]
name = "answers"
features = [
  { feature = "profile:name" },
  { feature = "orders:order_id" },
  { feature = "orders:status", encode = { one_hot = ["processing", "in_transit", "delivered"] } },
]
"#;

fn catalogue_toml() -> String {
    let intent = |(name, title, answer, examples): &(&str, &str, &str, [&str; 4])| {
        format!(
            "[[intent]]\nname = {name:?}\ntitle = {title:?}\nanswer = {answer:?}\n\
             answer_without_features = \"{title}: please sign in to see more.\"\nexamples = {examples:?}\n"
        )
    };
    INTENTS.iter().map(intent).collect()
}

/// The head of the shop's catalogue, trained once for all tests.
fn trained_head() -> &'static [u8] {
    static HEAD: OnceLock<Vec<u8>> = OnceLock::new();
    HEAD.get_or_init(|| {
        let encoder = crate::model_parity::encoder();
        let catalogue = Catalogue::from_toml(&catalogue_toml()).unwrap();
        let index = CatalogueIndex::build(encoder, &catalogue, &mut |_, _| {}).unwrap();
        let services = NodeConfig::parse(VIEWS).unwrap();
        let features = FeatureEncoder::new(services.service("answers").unwrap().encoded_features()).unwrap();
        let options = TrainOptions::default();
        let request = TrainRequest {
            encoder,
            catalogue: &catalogue,
            index: &index,
            features: &features,
            questions: &training_questions(),
            options: &options,
        };
        let (head, _) = Head::train(request, &mut |_| {}).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("head.safetensors");
        head.save(&file).unwrap();
        std::fs::read(file).unwrap()
    })
}

/// The labelled questions that the head learned from.
pub(crate) fn training_questions() -> Vec<LabelledQuestion> {
    let mut questions = Vec::new();
    let mut add = |text: &str, intent: &str, status: &str| {
        let number = questions.len();
        questions.push(LabelledQuestion {
            tenant: DEMO.name.to_owned(),
            user: format!("trainee-{number}"),
            text: text.to_owned(),
            intent: intent.to_owned(),
            asked_at_ms: now_ms(),
            features: [("orders:status".to_owned(), status.into())].into(),
        });
    };
    for (status, intent) in STATUSES {
        AMBIGUOUS.iter().for_each(|text| add(text, intent, status));
    }
    for (at, (intent, texts)) in PLAIN.iter().enumerate() {
        let own = STATUSES.iter().find(|(_, decided)| decided == intent).map(|(status, _)| *status);
        texts.iter().enumerate().for_each(|(nth, text)| add(text, intent, own.unwrap_or(STATUSES[(at + nth) % 3].0)));
    }
    for (nth, text) in OUT_OF_SCOPE.iter().enumerate() {
        add(text, larder_model::OUT_OF_SCOPE, STATUSES[nth % 3].0);
    }
    questions
}

pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}
