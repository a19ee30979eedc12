//! The promise of the rungs: every question is answered by the best that works, each tenant with encoders of its own, and the reply says so.
//!
//! Needs the weights of minilm-l6, potion and me5-small; `larder model get` puts them where these tests look.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::{GetNodeStatusRequest, NodeStatus, Rung};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::model_folder;
use crate::support::node::{TestNode, ask};
use crate::support::shop::{DEMO, OTHER, Shop, USERS, intent_of};
use crate::support::tiny_encoder::{POISON, write_tiny_encoder};

async fn status(node: &TestNode) -> NodeStatus {
    let mut client = AdminClient::new(node.channel.clone());
    client.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner()
}

/// Intents in Chinese, and for each two questions that are none of its examples.
const CHINESE: [(&str, [&str; 3], [&str; 2]); 4] = [
    (
        "parcel",
        ["我的快递到哪里了？", "包裹什么时候能送到？", "怎么查物流信息？"],
        ["快递还没有到，现在在哪儿？", "我的包裹几天能到"],
    ),
    (
        "password",
        ["我忘记密码了怎么办？", "怎么重置登录密码？", "密码错误无法登录"],
        ["登录密码不记得了", "帮我把密码改一下"],
    ),
    ("refund", ["如何申请退款？", "退款多久到账？", "我想把钱退回来"], ["退款什么时候到我的账户", "这个订单我要退款"]),
    ("invoice", ["怎么开发票？", "可以开电子发票吗？", "发票抬头写错了"], ["我需要一张发票", "发票怎么申请"]),
];

fn chinese_catalogue() -> String {
    let intent = |(name, examples, _): &(&str, [&str; 3], [&str; 2])| {
        format!(
            "[[intent]]\nname = {name:?}\ntitle = {name:?}\nanswer = \"{name}!\"\nanswer_without_features = \"{name}!\"\n\
             examples = {examples:?}\n"
        )
    };
    CHINESE.iter().map(intent).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_answers_two_tenants_in_two_languages_with_two_encoders() {
    let multilingual = model_folder("me5-small");
    let own = format!(
        "catalogue = \"chinese.toml\"\nfull = {{ folder = {multilingual:?}, prefix = \"query: \" }}\nlight = {{ folder = \"\" }}"
    );
    let shop = Shop::with(&[DEMO, OTHER], "[admission]\nmax_backlog_ms = 600000").with_tenant(OTHER, &own);
    std::fs::write(shop.path().join("chinese.toml"), chinese_catalogue()).unwrap();
    let node = TestNode::start(&shop).await;

    let chinese: Vec<_> = CHINESE.iter().flat_map(|(name, _, asked)| asked.map(|text| (text, *name))).collect();
    let mut tasks = JoinSet::new();
    for at in 0..6 * chinese.len() {
        let client = node.answers();
        let user = at / 2 % USERS;
        let (tenant, text, intent) = match at % 2 {
            0 => (DEMO, "where is my order?", intent_of(user)),
            _ => (OTHER, chinese[at / 2 % chinese.len()].0, chinese[at / 2 % chinese.len()].1),
        };
        tasks.spawn(async move {
            let reply = ask(client, tenant, &format!("user-{user}"), text, Duration::from_secs(20)).await.unwrap();
            assert_eq!(reply.intent, intent, "{text}: {reply:?}");
            assert!([Rung::Full, Rung::Cached].contains(&reply.rung()), "{reply:?}");
            (tenant.name, reply.batch.unwrap().id)
        });
    }
    let mut tenants_of_batch: HashMap<u64, HashSet<&str>> = HashMap::new();
    for (tenant, batch) in tasks.join_all().await {
        tenants_of_batch.entry(batch).or_default().insert(tenant);
    }
    assert!(tenants_of_batch.values().any(|tenants| tenants.len() == 2), "no batch held both tenants");

    let encoders = status(&node).await.encoders;
    let found: Vec<_> = encoders.iter().map(|encoder| (&encoder.name[..9], encoder.rungs.as_slice())).collect();
    assert_eq!(found, [("bert-6x38", &[Rung::Full.into()][..]), ("bert-12x3", &[Rung::Full.into()][..])]);
    assert!(encoders.iter().all(|encoder| encoder.memory_bytes > 80_000_000), "{encoders:?}");
    node.node.drain().await.unwrap();
}

/// A shop whose full encoder knows a few words and fails at one; only DEMO has a light rung.
fn shop_with_failing_encoder(extra: &str) -> Shop {
    let extra = format!("[admission]\nmax_backlog_ms = 600000\n{extra}");
    let shop = Shop::with(&[DEMO, OTHER], &extra).with_light(&model_folder("potion"));
    let tiny = shop.path().join("tiny");
    write_tiny_encoder(&tiny, &["password", "gift", "open", "parcel"]);
    let own = format!("catalogue = \"catalogue.toml\"\nfull = {{ folder = {tiny:?} }}");
    shop.with_tenant(DEMO, &own).with_tenant(OTHER, &format!("{own}\nlight = {{ folder = \"\" }}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_full_encoder_fails_the_light_rung_answers_and_the_reply_says_why() {
    let node = TestNode::start(&shop_with_failing_encoder("")).await;
    let text = format!("I forgot my password {POISON}");

    let well = node.ask(DEMO, "user-1", "I forgot my password").await.unwrap();
    assert_eq!((well.rung(), well.rung_reason.as_str()), (Rung::Full, "the full model is the first choice"));

    let lighter = node.ask(DEMO, "user-1", &text).await.unwrap();
    assert_eq!(lighter.rung(), Rung::Light, "{lighter:?}");
    assert!(lighter.rung_reason.contains("full model failed"), "{lighter:?}");
    assert_eq!(lighter.candidates[0].intent, "reset_password", "by an encoder that knows more than four words");

    let fallback = node.ask(OTHER, "user-1", &text).await.unwrap();
    assert_eq!((fallback.rung(), fallback.answer.as_str()), (Rung::Fallback, "A colleague will help."), "{fallback:?}");
    assert!(fallback.handed_over && fallback.confidence == 0.0 && fallback.candidates.is_empty(), "{fallback:?}");
    assert!(fallback.rung_reason.contains("full model failed"), "{fallback:?}");
    let again = node.ask(OTHER, "user-1", "I forgot my password").await.unwrap();
    assert_eq!(again.rung(), Rung::Full, "one failure is no end");

    let status = status(&node).await;
    let rungs: Vec<_> = status.encoders.iter().map(|encoder| (encoder.rungs.clone(), encoder.memory_bytes)).collect();
    let (full, light) = (i32::from(Rung::Full), i32::from(Rung::Light));
    assert_eq!(rungs, [(vec![full], 6 * 4 * 4), (vec![light], 29_528 * 256 * 4)], "two tenants share the tiny one");
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fallback_text_a_question_that_cannot_be_ranked_is_refused() {
    let shop = shop_with_failing_encoder("[rungs]\nfallback = false\nlight = false");
    let node = TestNode::start(&shop).await;
    for tenant in [DEMO, OTHER] {
        let refused = node.ask(tenant, "user-1", &format!("I forgot my password {POISON}")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert!(refused.message().contains("could not be ranked"), "{refused:?}");
    }
    assert_eq!(node.ask(DEMO, "user-1", "I forgot my password").await.unwrap().rung(), Rung::Full);
    node.node.drain().await.unwrap();
}

/// What a node says that cannot start on this shop.
async fn refusal(shop: &Shop) -> String {
    let mut node = TestNode::bind(shop).await;
    node.node.warm().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rung_is_refused_with_its_name() {
    let lines = "catalogue = \"catalogue.toml\"\nhead = \"head.safetensors\"\nlight_head = \"head.safetensors\"";
    let foreign = Shop::without_data(&[DEMO]).with_light(&model_folder("potion")).with_tenant(DEMO, lines);
    let message = refusal(&foreign).await;
    for part in ["tenant \"demo\"", "rung light", "made for encoder bert-6x384", "static-256"] {
        assert!(message.contains(part), "{message}");
    }
    let message = refusal(&Shop::without_data(&[DEMO]).with_light(Path::new("/nowhere"))).await;
    for part in ["rung light", "leaves the rung out", "/nowhere/config.json"] {
        assert!(message.contains(part), "{message}");
    }
}
