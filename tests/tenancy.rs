//! Nothing of one tenant or one user reaches another: not an answer, not a feature, not a metric label.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{GetFeaturesRequest, Status};
use larder_store::Store;
use tokio::task::JoinSet;

use crate::support::node::{TestNode, ask, identified};
use crate::support::shop::{DEMO, OTHER, Shop, TenantSpec, USERS, name, order_id};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_user_names_in_two_tenants_are_two_people() {
    let shop = Shop::with(&[DEMO, OTHER], "[admission]\nmax_backlog_ms = 600000");
    let node = TestNode::start(&shop).await;
    let mut tasks = JoinSet::new();
    for at in 0..4 * USERS {
        let client = node.answers();
        let (tenant, user) = (if at % 2 == 0 { DEMO } else { OTHER }, at / 2 % USERS);
        tasks.spawn(async move {
            let reply = ask(client, tenant, &format!("user-{user}"), "where is my order?", Duration::from_secs(20))
                .await
                .unwrap();
            (tenant, user, reply)
        });
    }
    let mut tenants_of_batch: HashMap<u64, HashSet<&str>> = HashMap::new();
    for (tenant, user, reply) in tasks.join_all().await {
        let expected = format!("{}, order {} ", name(tenant, user, 1), order_id(tenant, user, 1));
        assert!(reply.answer.starts_with(&expected), "{} of {} reads {:?}", user, tenant.name, reply.answer);
        tenants_of_batch.entry(reply.batch.unwrap().id).or_default().insert(tenant.name);
    }
    assert!(tenants_of_batch.values().any(|tenants| tenants.len() == 2), "no batch held both tenants");
    let page = node.http_get("/metrics").await;
    for secret in ["tenant=", "demo", "\"other\"", "user-", "where is my"] {
        assert!(!page.contains(secret), "/metrics names {secret:?}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn features_of_another_tenant_are_not_found() {
    let shop = Shop::without_data(&[DEMO, OTHER]);
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    store.publish(&shop.build(DEMO, "profile", 1)).unwrap();
    drop(store);
    let node = TestNode::start(&shop).await;
    let read = async |tenant: TenantSpec| {
        let message = GetFeaturesRequest {
            features: vec!["profile:name".to_owned()],
            service: String::new(),
            entities: vec!["user-7".to_owned(), format!("user-7\0{}", DEMO.name)],
        };
        let mut client = FeaturesClient::new(node.channel.clone());
        client.get_features(identified(tenant, "", message)).await.unwrap().into_inner().views.remove(0)
    };
    let own = read(DEMO).await;
    assert_eq!(own.columns[0].values[0].kind, Some(Kind::StringValue(name(DEMO, 7, 1))));
    assert_eq!(own.status, [Status::Present, Status::NotFound].map(i32::from), "no key can be bent into another's");
    assert_eq!(read(OTHER).await.status, [Status::NotFound; 2].map(i32::from));
    node.node.drain().await.unwrap();
}
