//! The promise of the answer cache: the same words are scored once, and still every user gets his own answer, bit for bit the one that he
//! would have got without it; no tenant ever meets another one's scores.

use std::time::Duration;

use larder_serve::v1::{AnswerReply, Rung};
use tokio::task::JoinSet;

use crate::support::node::{TestNode, ask};
use crate::support::shop::{DEMO, OTHER, Shop, USERS, intent_of, name, order_id};

/// Words that mean something else for each user.
const QUESTION: &str = "where is my order?";

/// All that an answer depends on; of the numbers every bit.
fn substance(reply: &AnswerReply) -> (String, String, u32, Vec<(String, u32)>) {
    let candidates = reply.candidates.iter().map(|near| (near.intent.clone(), near.probability.to_bits()));
    (reply.answer.clone(), reply.intent.clone(), reply.confidence.to_bits(), candidates.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_to_ask_gets_the_scores_from_the_cache_and_an_answer_of_her_own() {
    let (with, without) = (Shop::new(&[DEMO]), Shop::with(&[DEMO], "[rungs]\ncached = false"));
    let (node, anew) = (TestNode::start(&with).await, TestNode::start(&without).await);
    for user in 0..4 {
        let asked = format!("user-{user}");
        let (reply, expected) =
            (node.ask(DEMO, &asked, QUESTION).await.unwrap(), anew.ask(DEMO, &asked, QUESTION).await.unwrap());
        assert_eq!(expected.rung(), Rung::Full);
        if user == 0 {
            assert_eq!((reply.rung(), reply.rung_reason.as_str()), (Rung::Full, "the full model is the first choice"));
        } else {
            assert_eq!(reply.rung(), Rung::Cached, "{reply:?}");
            assert!(reply.rung_reason.contains("scored before"), "{}", reply.rung_reason);
        }
        assert_eq!(substance(&reply), substance(&expected));
        assert_eq!(reply.intent, intent_of(user));
        assert!(reply.answer.contains(&order_id(DEMO, user, 1)), "user-{user} reads {:?}", reply.answer);
        assert!(reply.answer.contains(&name(DEMO, user, 1)), "user-{user} reads {:?}", reply.answer);
        assert!(reply.views.iter().any(|view| view.view == "orders" && view.generation == 1), "{:?}", reply.views);
    }
    let nobody = node.ask(DEMO, "", QUESTION).await.unwrap();
    assert_eq!(nobody.rung(), Rung::Cached);
    assert!(nobody.notes[0].contains("without features") && nobody.views.is_empty(), "{nobody:?}");
    let page = node.http_get("/metrics").await;
    let bytes = page.lines().find_map(|line| line.strip_prefix("larder_answer_cache_bytes ")).unwrap();
    assert!(bytes.parse::<f64>().unwrap() > 1_536.0, "{bytes}");
    for part in ["larder_answer_cache_lookups_total{outcome=\"hit\"}", "rung=\"cached\",why=\"asked_before\""] {
        assert!(page.contains(part), "{part} is missing:\n{page}");
    }
    node.node.drain().await.unwrap();
    anew.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_never_share() {
    let node = TestNode::start(&Shop::new(&[DEMO, OTHER])).await;
    for (tenant, expected) in [(DEMO, Rung::Full), (OTHER, Rung::Full), (DEMO, Rung::Cached), (OTHER, Rung::Cached)] {
        let reply = node.ask(tenant, "user-1", QUESTION).await.unwrap();
        assert_eq!(reply.rung(), expected, "{}", tenant.name);
        assert!(reply.answer.contains(&order_id(tenant, 1, 1)), "{} reads {:?}", tenant.name, reply.answer);
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_at_once_are_scored_once_or_twice_and_answered_each_for_himself() {
    let node = TestNode::start(&Shop::new(&[DEMO])).await;
    let mut tasks = JoinSet::new();
    for user in 0..USERS {
        let client = node.answers();
        tasks.spawn(async move {
            let reply = ask(client, DEMO, &format!("user-{user}"), QUESTION, Duration::from_secs(20)).await.unwrap();
            (user, reply)
        });
    }
    for (user, reply) in tasks.join_all().await {
        assert_eq!(reply.intent, intent_of(user), "user-{user}: {reply:?}");
        assert!(reply.answer.contains(&order_id(DEMO, user, 1)), "user-{user} reads {:?}", reply.answer);
        assert!([Rung::Full, Rung::Cached].contains(&reply.rung()), "{reply:?}");
    }
    node.node.drain().await.unwrap();
}
