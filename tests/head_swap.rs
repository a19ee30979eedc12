//! Promise: a newly trained head takes over in a running node, for its tenant alone and between two batches; one that belongs to something
//! else is refused with the reason, and the node keeps the one it has.

use std::fs;

use larder_model::{Catalogue, EncodedFeature, Encoding, FeatureEncoder, Head};
use larder_serve::v1::ReloadHeadRequest;
use larder_serve::v1::admin_client::AdminClient;
use tonic::{Code, Status};

use crate::model_parity::encoder;
use crate::support::command::run;
use crate::support::node::{TestNode, reason};
use crate::support::shop::{DEMO, OTHER, Shop, TenantSpec};

/// A question whose words say nothing, so that two heads see it differently.
const QUESTION: &str = "where is it?";

/// The encodings of the shop's service.
fn statuses(known: &[&str]) -> FeatureEncoder {
    let encoding = Encoding::OneHot(known.iter().map(|status| (*status).to_owned()).collect());
    FeatureEncoder::new(vec![EncodedFeature { feature: "orders:status".to_owned(), encoding }]).unwrap()
}

/// A head that learned nothing, which ranks otherwise than the trained one.
fn untrained(shop: &Shop, features: &FeatureEncoder) -> Head {
    let catalogue = Catalogue::load(&shop.path().join("catalogue.toml")).unwrap();
    Head::similarity_only(&catalogue, encoder().name(), features)
}

async fn reload(node: &TestNode, tenant: &str) -> Result<u64, Status> {
    let request = ReloadHeadRequest { tenant: tenant.to_owned() };
    let reply = AdminClient::new(node.channel.clone()).reload_head(request).await?;
    Ok(reply.into_inner().heads[0].training_questions)
}

async fn confidence(node: &TestNode, tenant: TenantSpec) -> f32 {
    node.ask(tenant, "user-0", QUESTION).await.unwrap().confidence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_head_takes_over_while_the_node_answers() {
    let shop = Shop::new(&[DEMO, OTHER]);
    let file = shop.path().join("head.safetensors");
    let trained = fs::read(&file).unwrap();
    let node = TestNode::start(&shop).await;
    let before = confidence(&node, DEMO).await;

    untrained(&shop, &statuses(&["processing", "in_transit", "delivered"])).save(&file).unwrap();
    assert_eq!(confidence(&node, DEMO).await, before, "a file that nobody published changes nothing");
    assert_eq!(reload(&node, "demo").await.unwrap(), 0, "the new one learned from no question");
    let after = confidence(&node, DEMO).await;
    assert!((after - before).abs() > 0.01, "{before} {after}");
    assert_eq!(confidence(&node, OTHER).await, before, "the other tenant keeps its own");

    // Asked without pause while the head goes to and fro: every answer is one head's or the other's.
    let asking = async {
        for _ in 0..40 {
            let confidence = confidence(&node, DEMO).await;
            assert!(confidence == before || confidence == after, "{confidence} is neither {before} nor {after}");
        }
    };
    let swapping = async {
        for round in 0..20 {
            if round % 2 == 0 {
                fs::write(&file, &trained).unwrap();
            } else {
                untrained(&shop, &statuses(&["processing", "in_transit", "delivered"])).save(&file).unwrap();
            }
            reload(&node, "demo").await.unwrap();
        }
    };
    tokio::join!(asking, swapping);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_something_else_is_refused_and_the_old_one_stays() {
    let shop = Shop::new(&[DEMO]);
    let file = shop.path().join("head.safetensors");
    let node = TestNode::start(&shop).await;
    let before = confidence(&node, DEMO).await;
    let refused = |status: Status, says: &str| {
        assert_eq!((status.code(), reason(&status).0.as_str()), (Code::InvalidArgument, "invalid"), "{status:?}");
        assert!(status.message().contains(says) && status.message().contains("head.safetensors"), "{status:?}");
    };

    untrained(&shop, &statuses(&["processing"])).save(&file).unwrap();
    refused(reload(&node, "demo").await.unwrap_err(), "made for feature orders:status");
    let catalogue = fs::read_to_string(shop.path().join("catalogue.toml")).unwrap();
    let catalogue = Catalogue::from_toml(&catalogue.replace("Opening hours", "Open when?")).unwrap();
    let features = statuses(&["processing", "in_transit", "delivered"]);
    Head::similarity_only(&catalogue, encoder().name(), &features).save(&file).unwrap();
    refused(reload(&node, "demo").await.unwrap_err(), "made for catalogue version");
    fs::write(&file, b"half a fil").unwrap();
    refused(reload(&node, "demo").await.unwrap_err(), "damaged");
    assert_eq!(reload(&node, "nobody").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(confidence(&node, DEMO).await, before);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_publishes_to_the_running_node_and_says_when_there_is_none() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let toml = fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    let config = shop.path().join("publish.toml");
    let address = node.node.address().to_string();
    fs::write(&config, toml.replacen("127.0.0.1:0", &address, 1)).unwrap();
    let publish = ["model", "publish", "--tenant", "demo", "--config", config.to_str().unwrap()];
    let ran = tokio::task::block_in_place(|| run(&publish));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains(&format!("The node at {address} ranks demo's questions")), "{}", ran.stdout);
    node.node.drain().await.unwrap();
    let ran = tokio::task::block_in_place(|| run(&publish));
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("no node answers at"), "{}", ran.stderr);
}
