//! Kafka in this process: librdkafka's own mock cluster, and what puts messages into its topics and takes them out.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one broker, on loopback.
pub(crate) struct Kafka {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

/// A message that was taken out of a topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    /// In their order.
    pub(crate) headers: Vec<(String, String)>,
}

impl Taken {
    /// A header, which must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }
}

impl Kafka {
    /// A cluster with topics of so many partitions.
    pub(crate) fn start(topics: &[(&str, i32)]) -> Kafka {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).unwrap();
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "0");
        Kafka { producer: config.create().unwrap(), cluster }
    }

    /// As larder.toml has them.
    pub(crate) fn brokers(&self) -> Vec<String> {
        self.cluster.bootstrap_servers().split(',').map(str::to_owned).collect()
    }

    /// Puts a message into a partition, without waiting for it.
    pub(crate) fn put(&self, topic: &str, partition: i32, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.key = key;
        record.payload = payload;
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
    }

    /// Waits until all that was put is in the topics.
    pub(crate) fn settle(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }

    /// Puts texts into a partition, and waits until they are there.
    pub(crate) fn put_all<T: AsRef<[u8]>>(&self, topic: &str, partition: i32, payloads: impl IntoIterator<Item = T>) {
        payloads.into_iter().for_each(|payload| self.put(topic, partition, None, Some(payload.as_ref())));
        self.settle();
    }

    /// The first messages of a topic's only partition, in their order.
    pub(crate) fn take(&self, topic: &str, number: usize) -> Vec<Taken> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let (mut taken, began) = (Vec::new(), Instant::now());
        while taken.len() < number {
            assert!(began.elapsed() < PATIENCE, "{topic} has {} messages, not {number}: {taken:?}", taken.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                taken.push(taken_of(&message));
            }
        }
        taken
    }
}

fn taken_of(message: &BorrowedMessage<'_>) -> Taken {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Taken {
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
