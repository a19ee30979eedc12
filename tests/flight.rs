//! Promise: pyarrow as it comes writes rows into a node and reads features from it; and nothing that a stranger sends over Arrow Flight harms anybody.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor};
use larder_serve::Node;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::support::node::{TestNode, identified};
use crate::support::shop::{DEMO, OTHER, Shop, now_ms};
use crate::support::{Random, checkout, python};

#[tokio::test(flavor = "multi_thread")]
async fn pyarrow_puts_gets_exchanges_and_acts() {
    let Some(python) = python("pyarrow_puts_gets_exchanges_and_acts") else { return };
    let shop = Shop::new(&[DEMO, OTHER]);
    let node = TestNode::start(&shop).await;
    let generation = shop.build(DEMO, "profile", 2);
    let address = node.node.address().to_string();
    let script = checkout().join("tests/python/flight_client.py");
    let ran = tokio::task::spawn_blocking(move || {
        Command::new(python).arg(script).arg(address).arg(generation).output().unwrap()
    });
    let ran = ran.await.unwrap();
    let (said, error) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("is well"), "{said}{error}");
    // What was written there decides what is answered here.
    let answer = node.ask(DEMO, "user-0", "where is my order?").await.unwrap().answer;
    assert_eq!(answer, "Ada, order A was delivered.");
    node.node.drain().await.unwrap();
}

fn rows(entities: &[&str]) -> Vec<FlightData> {
    let times = TimestampMillisecondArray::from(vec![now_ms(); entities.len()]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 3] = [
        ("user_id", Arc::new(StringArray::from(entities.to_vec()))),
        ("updated_at", Arc::new(times)),
        ("name", Arc::new(StringArray::from(vec!["x"; entities.len()]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut messages = batches_to_flight_data(&batch.schema(), [&batch]).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_path(vec!["profile".to_owned()]));
    messages
}

/// Puts a stream and returns its acknowledgements, or why it was ended.
async fn put(channel: &Channel, messages: Vec<FlightData>) -> Result<Vec<String>, tonic::Status> {
    let request = identified(DEMO, "", tokio_stream::iter(messages));
    let mut replies = FlightServiceClient::new(channel.clone()).do_put(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(reply) = replies.next().await {
        told.push(String::from_utf8(reply?.app_metadata.to_vec()).unwrap());
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_refused_and_the_node_serves_on() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut random = Random::new(7);
    let mut refused = 0;
    for _ in 0..500 {
        let mut messages = rows(&["user-0", "user-1"]);
        let message = random.below(messages.len());
        let data = &mut messages[message];
        let in_body = random.below(3) == 0;
        let mut bytes = if in_body { data.data_body.to_vec() } else { data.data_header.to_vec() };
        for _ in 0..1 + random.below(6) {
            let (at, length) = (random.below(bytes.len().max(1)), bytes.len());
            match random.below(3) {
                0 => bytes.truncate(at),
                _ if at < length => bytes[at] = random.below(256) as u8,
                _ => {}
            }
        }
        let bytes = bytes.into();
        if in_body {
            data.data_body = bytes;
        } else {
            data.data_header = bytes;
        }
        if let Err(status) = put(&node.channel, messages).await {
            assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{status}");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused} of 500 were refused");
    let told = put(&node.channel, rows(&["user-0", "user-1"])).await.unwrap();
    assert_eq!(told, [r#"{"batches":1,"rows":2,"late":0,"erased":0}"#]);
    node.ask(DEMO, "user-0", "where is my order?").await.unwrap();
    node.node.drain().await.unwrap();
}

/// Opens an exchange of features and waits for its first reply; what keeps it open comes with it.
async fn exchange(channel: &Channel) -> Result<(Sender<FlightData>, Streaming<FlightData>), tonic::Status> {
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["user-0"]));
    let batch = RecordBatch::try_from_iter([("entity", keys)]).unwrap();
    let mut messages = batches_to_flight_data(&batch.schema(), [&batch]).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(r#"{"service": "answers"}"#));
    let (sender, receiver) = mpsc::channel(8);
    for message in messages {
        sender.send(message).await.unwrap();
    }
    let request = identified(DEMO, "", ReceiverStream::new(receiver));
    let mut replies = FlightServiceClient::new(channel.clone()).do_exchange(request).await?.into_inner();
    replies.next().await.unwrap()?;
    Ok((sender, replies))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_exchange_too_many_is_refused_until_another_ends() {
    let shop = Shop::new(&[DEMO]).with_node("max_exchanges = 2");
    let node = TestNode::start(&shop).await;
    let (first, second) = (exchange(&node.channel).await.unwrap(), exchange(&node.channel).await.unwrap());
    let refused = exchange(&node.channel).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    // The node learns of it a moment later.
    let until = Instant::now() + Duration::from_secs(60);
    let third = loop {
        match exchange(&node.channel).await {
            Ok(third) => break third,
            Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted),
        }
        assert!(Instant::now() < until, "the place of an exchange that has ended is not given back");
    };
    drop((second, third));
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_put_only_where_they_may_be() {
    let shop = Shop::new(&[DEMO]).with_extra("[rows]\nwrite = false");
    let node = TestNode::start(&shop).await;
    let refused = put(&node.channel, rows(&["user-0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    node.node.drain().await.unwrap();

    let shop = Shop::without_data(&[DEMO]);
    let cold = Node::bind(shop.config()).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", cold.address())).unwrap().connect().await.unwrap();
    assert_eq!(put(&channel, rows(&["user-0"])).await.unwrap_err().code(), Code::Unavailable, "it is not warm yet");
}
