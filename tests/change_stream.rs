//! Promise: what a topic says is in the store once and in its order, whatever ends the process and whatever lies in the topic: a message that is no row costs
//! no other, and none is passed over unless the reject topic has it or an operator said so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_ipc::writer::StreamWriter;
use larder_ingest::{ChangeStream, MoveTo, PartitionState, StreamConfig, StreamHandle, StreamProgress};
use larder_serve::NodeConfig;
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::value::Kind;
use larder_serve::v1::{
    GetFeaturesRequest, GetNodeStatusRequest, InspectStoreRequest, InspectedStream, MoveStreamRequest,
};
use larder_store::{
    EntityRef, FeatureConfig, FeatureRef, FeatureType, Shard, Status, Store, StoreConfig, StreamSpan, TenantId,
    ViewConfig, ViewKind,
};

use crate::support::child::{self, Said, say};
use crate::support::command::{Ran, run};
use crate::support::disk::{Call, break_disk};
use crate::support::kafka::{Kafka, Taken, until};
use crate::support::node::{TestNode, identified};
use crate::support::shop::{DEMO, Shop, name, now_ms};

/// Set for a child process: the store's folder, and the brokers.
const FOLDER: &str = "LARDER_TEST_STREAM_FOLDER";
const BROKERS: &str = "LARDER_TEST_STREAM_BROKERS";
const TENANT: TenantId = TenantId(1);

fn view() -> ViewConfig {
    ViewConfig {
        name: "profile".to_owned(),
        id: 1,
        kind: ViewKind::Latest,
        entity_key: "user".to_owned(),
        event_time: "at".to_owned(),
        ttl_s: None,
        n: None,
        element_key: None,
        features: vec![FeatureConfig::new("name", FeatureType::Utf8)],
    }
}

/// `[[stream]]` of that topic; `more` are further lines.
fn stream_toml(name: &str, brokers: &[String], view: &str, more: &str) -> String {
    format!(
        "[[stream]]\nname = \"{name}\"\nbrokers = {brokers:?}\ntopic = \"{name}\"\ntenant = \"demo\"\nview = \"{view}\"\n\
         refresh_ms = 100\n{more}\n"
    )
}

fn stream_config(brokers: &[String], more: &str) -> StreamConfig {
    let mut table: toml::Table = stream_toml("people", brokers, "profile", more).parse().unwrap();
    let stream = table.remove("stream").and_then(|mut streams| streams.as_array_mut().and_then(Vec::pop)).unwrap();
    let config: StreamConfig = stream.try_into().unwrap();
    config.validate(&view()).unwrap();
    config
}

fn line(user: &str, name: &str) -> String {
    format!(r#"{{"entity": "{user}", "features": {{"name": "{name}"}}}}"#)
}

/// A store with a stream that is written into it.
struct Running {
    store: Store,
    handle: StreamHandle,
    progress: Arc<Mutex<StreamProgress>>,
    thread: Option<JoinHandle<()>>,
}

fn open_store(folder: &Path) -> Store {
    let config = StoreConfig { path: folder.join("store"), cold_path: folder.join("cold"), ..StoreConfig::default() };
    Store::open(&config, &[view()]).unwrap()
}

impl Running {
    fn start(folder: &Path, config: &StreamConfig) -> Running {
        Running::start_on(open_store(folder), config, Shard::default())
    }

    fn start_on(store: Store, config: &StreamConfig, shard: Shard) -> Running {
        let stream = ChangeStream::open(config, &store, TENANT, &view(), shard).unwrap();
        let (handle, progress) = (stream.handle(), Arc::new(Mutex::new(StreamProgress::default())));
        let of_thread = progress.clone();
        let add = move |more: StreamProgress| {
            let mut all = of_thread.lock().unwrap();
            all.messages += more.messages;
            all.rejected += more.rejected;
            all.foreign += more.foreign;
            all.written.rows += more.written.rows;
            all.written.deletions += more.written.deletions;
        };
        let thread = std::thread::spawn(move || stream.run(&mut { add }).unwrap());
        Running { store, handle, progress, thread: Some(thread) }
    }

    fn progress(&self) -> StreamProgress {
        *self.progress.lock().unwrap()
    }

    fn position(&self, partition: i32) -> Option<u64> {
        self.store.stream_position(&format!("kafka/people/people/{partition}"))
    }

    fn wait_for(&self, partition: i32, position: u64) {
        until(&format!("partition {partition} at {position}"), || self.position(partition) == Some(position));
    }

    /// Waits until a partition is in a state, and says why it is.
    fn wait_for_state(&self, partition: i32, state: PartitionState) -> String {
        let mut why = String::new();
        until(&format!("partition {partition} {}", state.label()), || {
            let status = self.handle.status();
            let found = status.partitions.iter().find(|found| (found.partition, found.state) == (partition, state));
            why = found.map(|found| found.why.clone()).unwrap_or_default();
            found.is_some()
        });
        why
    }

    fn name_of(&self, user: &str) -> Option<String> {
        name_in(&self.store, user)
    }

    /// Ends the stream; the store closes when the handles that the test has go.
    fn stop(mut self) -> StreamProgress {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
        self.progress()
    }
}

fn name_in(store: &Store, user: &str) -> Option<String> {
    let plan = store.compile(&[FeatureRef::parse("profile:name").unwrap()]).unwrap();
    let fetched = store.fetch(&plan, &[EntityRef { tenant: TENANT, entity: user }], now_ms()).unwrap();
    let view = &fetched.views[0];
    (view.status[0] == Status::Present).then(|| view.columns[0].as_string::<i32>().value(0).to_owned())
}

#[test]
fn every_partition_is_read_in_its_order_and_goes_on_where_it_was() {
    let (kafka, folder) = (Kafka::start(&[("people", 3)]), tempfile::tempdir().unwrap());
    let config = stream_config(&kafka.brokers(), "format = \"json\"");
    let put = |partition: i32, numbers: std::ops::Range<u64>| {
        // Without event times the topic's own decide, and of equal ones the order.
        let line = |number: u64| line(&format!("user-{partition}-{}", number % 50), &format!("name-{number}"));
        kafka.put_all("people", partition, numbers.map(line));
    };
    (0..3).for_each(|partition| put(partition, 0..1_000));
    let running = Running::start(folder.path(), &config);
    (0..3).for_each(|partition| running.wait_for(partition, 1_000));
    for partition in 0..3 {
        assert_eq!(running.name_of(&format!("user-{partition}-49")).as_deref(), Some("name-999"));
    }
    until("nothing is left", || running.handle.status().partitions.iter().all(|partition| partition.lag == Some(0)));
    let first = running.stop();
    put(1, 1_000..1_500);
    let running = Running::start(folder.path(), &config);
    running.wait_for(1, 1_500);
    assert_eq!(running.name_of("user-1-49").as_deref(), Some("name-1499"));
    put(2, 1_000..1_001);
    running.wait_for(2, 1_001);
    let second = running.stop();
    assert_eq!((first.messages, first.written.rows), (3_000, 3_000));
    assert_eq!((second.messages, second.written.rows), (501, 501), "none was read again");
}

#[test]
fn a_killed_process_loses_nothing_and_repeats_nothing() {
    const MESSAGES: u64 = 20_000;
    let (kafka, folder) = (Kafka::start(&[("people", 1)]), tempfile::tempdir().unwrap());
    kafka.put_all("people", 0, (0..MESSAGES).map(|number| line(&format!("user-{number}"), "Ada")));
    let mut position = 0;
    for _ in 0..4 {
        let mut command = child::command(module_path!());
        command.env(FOLDER, folder.path()).env(BROKERS, kafka.brokers().join(","));
        let child = Said::start(&mut command);
        child.next();
        child.kill();
        let store = open_store(folder.path());
        let now = store.stream_position("kafka/people/people/0").unwrap_or(0);
        assert!(now >= position, "it went back from {position} to {now}");
        position = now;
        for number in (0..MESSAGES).step_by(61).chain(now.saturating_sub(2)..(now + 2).min(MESSAGES)) {
            let there = name_in(&store, &format!("user-{number}")).is_some();
            assert_eq!(there, number < now, "user {number}, where the stream stands at {now}");
        }
    }
    assert!(position > 0, "the child wrote something");
    let running = Running::start(folder.path(), &stream_config(&kafka.brokers(), "format = \"json\""));
    running.wait_for(0, MESSAGES);
    assert_eq!(running.stop().messages, MESSAGES - position, "what was there was not read again");
}

/// Writes the topic into the store, until it is killed.
#[test]
fn child_process() {
    let (Some(folder), Ok(brokers)) = (std::env::var_os(FOLDER), std::env::var(BROKERS)) else { return };
    let brokers: Vec<String> = brokers.split(',').map(str::to_owned).collect();
    // Small batches, so that there are many moments to be killed at.
    let config = stream_config(&brokers, "format = \"json\"\nmax_batch_messages = 50");
    let store = open_store(Path::new(&folder));
    let stream = ChangeStream::open(&config, &store, TENANT, &view(), Shard::default()).unwrap();
    let mut batches = 0;
    let report = &mut |_| {
        batches += 1;
        if batches == 20 {
            say("on my way");
        }
    };
    stream.run(report).unwrap();
}

#[test]
fn what_is_no_row_goes_to_the_reject_topic_and_the_rest_goes_on() {
    let (kafka, folder) = (Kafka::start(&[("people", 1), ("people.rejected", 1)]), tempfile::tempdir().unwrap());
    let config =
        stream_config(&kafka.brokers(), "format = \"json\"\nreject_topic = \"people.rejected\"\nmax_message_kib = 64");
    let ahead = format!(r#"{{"entity": "ada", "event_time_ms": {}, "features": {{}}}}"#, now_ms() + 2 * 86_400_000);
    let large = line("ada", &"x".repeat(70_000));
    let bad: [(Option<&str>, Option<&str>, &str); 6] = [
        (Some("k"), Some("not json"), "expected"),
        (None, Some(r#"{"entity": "ada", "features": {"name": 5}}"#), "found an int_value"),
        (None, Some(&ahead), "more than a day ahead"),
        (None, None, "neither key nor payload"),
        (Some("k"), Some(&large), "at most 65536 (max_message_kib)"),
        (None, Some(r#"{"entity": "ada", "view": "orders"}"#), "this stream brings rows of view"),
    ];
    let put = |(key, payload, _): &(Option<&str>, Option<&str>, &str)| {
        kafka.put("people", 0, key.map(str::as_bytes), payload.map(str::as_bytes));
    };
    for (number, bad) in bad.iter().enumerate() {
        kafka.put("people", 0, None, Some(line(&format!("user-{number}"), "Ada").as_bytes()));
        put(bad);
    }
    kafka.put("people", 0, None, Some(line("last", "Ada").as_bytes()));
    kafka.settle();
    let running = Running::start(folder.path(), &config);
    running.wait_for(0, 13);
    for user in (0..6).map(|number| format!("user-{number}")).chain(["last".to_owned()]) {
        assert_eq!(running.name_of(&user).as_deref(), Some("Ada"), "{user}");
    }
    assert_eq!(running.name_of("ada"), None);
    let progress = running.stop();
    assert_eq!((progress.messages, progress.rejected, progress.written.rows), (13, 6, 7));
    let rejected = kafka.take("people.rejected", 6);
    for (number, (taken, (key, payload, says))) in rejected.iter().zip(&bad).enumerate() {
        assert!(taken.header("larder.reason").contains(says), "{:?} does not say {says:?}", taken.headers);
        let place =
            ["larder.stream", "larder.topic", "larder.partition", "larder.offset"].map(|name| taken.header(name));
        assert_eq!(place, ["people", "people", "0", (2 * number + 1).to_string().as_str()]);
        assert_eq!(taken.key.as_deref(), key.map(str::as_bytes));
        let is_large = payload.is_some_and(|payload| payload.len() > 64 << 10);
        assert_eq!(taken.payload.as_deref(), payload.filter(|_| !is_large).map(str::as_bytes));
        assert!(!is_large || taken.header("larder.payload_left_out_bytes") == large.len().to_string());
    }
}

#[test]
fn a_row_that_only_the_store_refuses_costs_no_other() {
    let (kafka, folder) = (Kafka::start(&[("people", 1), ("people.rejected", 1)]), tempfile::tempdir().unwrap());
    let config = stream_config(&kafka.brokers(), "format = \"json\"\nreject_topic = \"people.rejected\"");
    let ancient = r#"{"entity": "ancient", "event_time_ms": -99999999999999, "features": {"name": "Ada"}}"#;
    kafka.put_all("people", 0, (0..40).map(|number| line(&format!("user-{number}"), "Ada")));
    kafka.put_all("people", 0, ["[]", ancient, &line("last", "Ada")]);
    let running = Running::start(folder.path(), &config);
    running.wait_for(0, 43);
    assert_eq!((running.name_of("user-39").as_deref(), running.name_of("last").as_deref()), (Some("Ada"), Some("Ada")));
    let progress = running.stop();
    assert_eq!((progress.messages, progress.rejected, progress.written.rows), (43, 2, 41));
    let rejected: Vec<Taken> = kafka.take("people.rejected", 2);
    assert!(rejected[1].header("larder.reason").contains("lies before the year 1"), "{:?}", rejected[1]);
}

#[test]
fn without_a_reject_topic_a_partition_stops_and_the_others_go_on() {
    let (kafka, folder) = (Kafka::start(&[("people", 2)]), tempfile::tempdir().unwrap());
    let config = stream_config(&kafka.brokers(), "format = \"json\"");
    kafka.put_all("people", 0, [line("ada", "Ada"), "not json".to_owned(), line("bob", "Bob")]);
    let running = Running::start(folder.path(), &config);
    let why = running.wait_for_state(0, PartitionState::Stopped);
    for says in ["message 1 is no row", "reject_topic", "larder stream move people --partition 0 --to 2"] {
        assert!(why.contains(says), "{why:?} does not say {says:?}");
    }
    assert_eq!((running.position(0), running.name_of("ada").as_deref()), (Some(1), Some("Ada")));
    kafka.put_all("people", 1, [line("cleo", "Cleo")]);
    running.wait_for(1, 1);
    assert_eq!((running.position(0), running.name_of("bob")), (Some(1), None));
    // It is stopped after a restart too, and a move passes over what is in the way.
    running.stop();
    let running = Running::start(folder.path(), &config);
    running.wait_for_state(0, PartitionState::Stopped);
    let refused = running.handle.move_to(Some(0), MoveTo::Position(9)).unwrap_err().to_string();
    assert!(refused.contains("partition 0 cannot go on at 9: the brokers have 0 to 3"), "{refused}");
    let refused = running.handle.move_to(Some(7), MoveTo::Latest).unwrap_err().to_string();
    assert!(refused.contains("no partition 7 is known; known are [0, 1]"), "{refused}");
    let moved = running.handle.move_to(Some(0), MoveTo::Position(2)).unwrap();
    assert_eq!((moved[0].from, moved[0].to), (Some(1), 2));
    running.wait_for(0, 3);
    assert_eq!(running.name_of("bob").as_deref(), Some("Bob"));
    running.stop();
}

#[test]
fn messages_that_the_brokers_do_not_have_stop_a_partition() {
    let (kafka, folder) = (Kafka::start(&[("people", 2)]), tempfile::tempdir().unwrap());
    for partition in 0..2 {
        kafka.put_all("people", partition, [line("ada", "Ada")]);
    }
    let store = open_store(folder.path());
    store.write_from(&StreamSpan { stream: "kafka/people/people/0", from: 0, to: 500 }, &[], now_ms()).unwrap();
    let running = Running::start_on(store, &stream_config(&kafka.brokers(), "format = \"json\""), Shard::default());
    let why = running.wait_for_state(0, PartitionState::Stopped);
    for says in ["do not have message 500", "they have 0 to 1", "larder stream move people --partition 0 --to latest"] {
        assert!(why.contains(says), "{why:?} does not say {says:?}");
    }
    running.wait_for(1, 1);
    assert_eq!(running.position(0), Some(500), "nobody passed over anything");
    assert_eq!(running.handle.move_to(Some(0), MoveTo::Earliest).unwrap()[0].to, 0);
    running.wait_for(0, 1);
    running.stop();
}

#[test]
fn a_new_stream_may_begin_behind_what_is_there_and_remembers_it() {
    let (kafka, folder) = (Kafka::start(&[("people", 1)]), tempfile::tempdir().unwrap());
    let config = stream_config(&kafka.brokers(), "format = \"json\"\nbegin = \"latest\"");
    kafka.put_all("people", 0, [line("old", "Old")]);
    let running = Running::start(folder.path(), &config);
    running.wait_for(0, 1);
    running.stop();
    // What comes while nobody reads is not behind the last message any more.
    kafka.put_all("people", 0, [line("new", "New")]);
    let running = Running::start(folder.path(), &config);
    running.wait_for(0, 2);
    assert_eq!((running.name_of("old"), running.name_of("new").as_deref()), (None, Some("New")));
    running.stop();
}

#[test]
fn brokers_may_come_late_and_go() {
    let (kafka, folder) = (Kafka::start(&[("people", 1)]), tempfile::tempdir().unwrap());
    kafka.put_all("people", 0, [line("ada", "Ada")]);
    kafka.cluster.broker_down(-1).unwrap();
    let running = Running::start(folder.path(), &stream_config(&kafka.brokers(), "format = \"json\""));
    until("it is told that no broker answers", || running.handle.status().trouble.contains("do not answer"));
    kafka.cluster.broker_up(-1).unwrap();
    running.wait_for(0, 1);
    kafka.cluster.broker_down(-1).unwrap();
    until("trouble is told", || !running.handle.status().trouble.is_empty());
    kafka.cluster.broker_up(-1).unwrap();
    kafka.put_all("people", 0, [line("bob", "Bob")]);
    running.wait_for(0, 2);
    until("no trouble is left", || running.handle.status().trouble.is_empty());
    assert_eq!(running.stop().messages, 2);
}

#[test]
fn a_reject_topic_that_cannot_be_written_holds_its_partition_up_and_loses_nothing() {
    let kafka = Kafka::start(&[("people", 1), ("people.rejected", 1)]);
    let folder = tempfile::tempdir().unwrap();
    // No leader: nobody takes messages.
    kafka.cluster.partition_leader("people.rejected", 0, None).unwrap();
    kafka.put_all("people", 0, ["not json".to_owned(), line("ada", "Ada")]);
    let config = stream_config(&kafka.brokers(), "format = \"json\"\nreject_topic = \"people.rejected\"");
    let running = Running::start(folder.path(), &config);
    let why = running.wait_for_state(0, PartitionState::Waiting);
    assert!(why.contains("the reject topic people.rejected"), "{why}");
    assert_eq!((running.position(0), running.name_of("ada")), (None, None));
    kafka.cluster.partition_leader("people.rejected", 0, Some(1)).unwrap();
    running.wait_for(0, 2);
    assert_eq!(running.name_of("ada").as_deref(), Some("Ada"));
    assert_eq!(kafka.take("people.rejected", 1)[0].payload.as_deref(), Some(&b"not json"[..]));
    running.stop();
}

#[test]
fn a_full_disk_holds_partitions_up_and_loses_nothing() {
    let (kafka, folder) = (Kafka::start(&[("people", 1)]), tempfile::tempdir().unwrap());
    let running = Running::start(folder.path(), &stream_config(&kafka.brokers(), "format = \"json\""));
    kafka.put_all("people", 0, [line("ada", "Ada")]);
    running.wait_for(0, 1);
    let broken = break_disk(&folder.path().join("store"), Call::Write, libc::ENOSPC, 0);
    kafka.put_all("people", 0, [line("ada", "Ada L"), line("bob", "Bob")]);
    let why = running.wait_for_state(0, PartitionState::Waiting);
    assert!(why.contains("is full") && why.contains("free space there"), "{why}");
    assert_eq!((running.position(0), running.name_of("bob")), (Some(1), None));
    drop(broken);
    running.wait_for(0, 3);
    assert_eq!((running.name_of("ada").as_deref(), running.name_of("bob").as_deref()), (Some("Ada L"), Some("Bob")));
    // What was fetched and waited is fetched again; nothing is left out on the way.
    const MANY: usize = 3_000;
    for round in 0..3 {
        let broken = break_disk(&folder.path().join("store"), Call::Write, libc::ENOSPC, 0);
        kafka.put_all("people", 0, (0..MANY).map(|number| line(&format!("user-{round}-{number}"), "Ada")));
        running.wait_for_state(0, PartitionState::Waiting);
        drop(broken);
        running.wait_for(0, (3 + (round + 1) * MANY) as u64);
        for number in 0..MANY {
            assert!(running.name_of(&format!("user-{round}-{number}")).is_some(), "user {number} of round {round}");
        }
    }
    running.stop();
}

#[test]
fn a_topic_may_be_made_after_the_stream_has_started() {
    let (kafka, folder) = (Kafka::start(&[]), tempfile::tempdir().unwrap());
    let running = Running::start(folder.path(), &stream_config(&kafka.brokers(), "format = \"json\""));
    until("trouble is told", || running.handle.status().trouble.contains("people"));
    kafka.cluster.create_topic("people", 2, 1).unwrap();
    kafka.put_all("people", 1, [line("ada", "Ada")]);
    running.wait_for(1, 1);
    running.stop();
}

#[test]
fn rows_of_other_shards_and_of_erased_users_are_passed_over() {
    let (kafka, folder) = (Kafka::start(&[("people", 1)]), tempfile::tempdir().unwrap());
    let store = open_store(folder.path());
    let own: Vec<String> = (0..100).map(|user| format!("user-{user}")).collect();
    let shard: Shard = "1/2".parse().unwrap();
    let kept: Vec<&String> = own.iter().filter(|user| shard.holds(user)).collect();
    let old = format!(r#"{{"entity": "{}", "event_time_ms": 5, "features": {{"name": "Ada"}}}}"#, kept[0]);
    store.erase(TENANT, kept[0], 1_000).unwrap();
    kafka.put_all("people", 0, own.iter().skip(1).filter(|user| *user != kept[0]).map(|user| line(user, "Ada")));
    kafka.put_all("people", 0, [old]);
    let config = stream_config(&kafka.brokers(), "format = \"json\"");
    let running = Running::start_on(store, &config, shard);
    let messages = own.iter().skip(1).filter(|user| *user != kept[0]).count() as u64 + 1;
    running.wait_for(0, messages);
    assert_eq!((running.name_of(kept[0]), running.name_of(kept[1]).as_deref()), (None, Some("Ada")));
    let progress = running.stop();
    assert_eq!(progress.written.rows + progress.foreign, messages - 1);
    assert!(progress.foreign > 20, "{progress:?}");
}

/// An Arrow stream of a batch; the rows of `gone` are deletions.
fn arrow_rows(users: &[&str], names: &[&str], gone: &[bool]) -> Vec<u8> {
    let times = TimestampMillisecondArray::from(vec![now_ms(); users.len()]).with_timezone("UTC");
    let batch = RecordBatch::try_from_iter([
        ("delete", Arc::new(BooleanArray::from(gone.to_vec())) as ArrayRef),
        ("name", Arc::new(StringArray::from(names.to_vec()))),
        ("user_id", Arc::new(StringArray::from(users.to_vec()))),
        ("updated_at", Arc::new(times)),
    ])
    .unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "Profile", "fields": [
    {"name": "user_id", "type": "string"},
    {"name": "updated_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "name", "type": ["null", "string"]},
    {"name": "delete", "type": "boolean"}]}"#;

/// A record of that schema, behind its id.
fn avro_row(user: &str, name: &str, delete: bool) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 7];
    let long = |value: i64, bytes: &mut Vec<u8>| {
        let mut rest = (value as u64) << 1;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    };
    long(user.len() as i64, &mut bytes);
    bytes.extend(user.as_bytes());
    long(now_ms(), &mut bytes);
    long(1, &mut bytes);
    long(name.len() as i64, &mut bytes);
    bytes.extend(name.as_bytes());
    bytes.push(u8::from(delete));
    bytes
}

/// The name of a user as the very next fetch sees it.
async fn fetched_name(node: &TestNode, user: &str) -> Option<String> {
    let message = GetFeaturesRequest {
        features: vec!["profile:name".to_owned()],
        service: String::new(),
        entities: vec![user.to_owned()],
    };
    let mut client = FeaturesClient::new(node.channel.clone());
    let reply = client.get_features(identified(DEMO, "", message)).await.unwrap().into_inner();
    match reply.views[0].columns[0].values[0].kind.clone() {
        Some(Kind::StringValue(name)) => Some(name),
        _ => None,
    }
}

async fn wait_for_name(node: &TestNode, user: &str, name: Option<&str>) {
    let began = std::time::Instant::now();
    while fetched_name(node, user).await.as_deref() != name {
        assert!(began.elapsed() < crate::support::kafka::PATIENCE, "{user} is not {name:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn inspected(node: &TestNode) -> BTreeMap<String, InspectedStream> {
    let mut admin = AdminClient::new(node.channel.clone());
    let reply = admin.inspect_store(InspectStoreRequest {}).await.unwrap().into_inner();
    reply.streams.into_iter().map(|stream| (stream.name.clone(), stream)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_with_what_topics_of_every_format_say() {
    let kafka = Kafka::start(&[("lines", 2), ("avro", 1), ("arrow", 1)]);
    let shop = Shop::new(&[DEMO]);
    std::fs::write(shop.path().join("profile.avsc"), AVRO_SCHEMA).unwrap();
    let toml = [
        stream_toml("lines", &kafka.brokers(), "profile", "format = \"json\""),
        stream_toml("avro", &kafka.brokers(), "profile", "format = \"avro\"\nschemas = { 7 = \"profile.avsc\" }"),
        stream_toml("arrow", &kafka.brokers(), "profile", "format = \"arrow\""),
    ];
    let shop = shop.with_extra(&toml.concat());
    let node = TestNode::start(&shop).await;
    // Asked before, so that the old rows are hot.
    for user in 0..6 {
        assert_eq!(fetched_name(&node, &format!("user-{user}")).await, Some(name(DEMO, user, 1)));
    }
    kafka.put_all("lines", 0, [line("user-0", "Json")]);
    kafka.put("lines", 1, Some(b"user-1"), None);
    kafka.put_all("avro", 0, [avro_row("user-2", "Avro", false), avro_row("user-3", "", true)]);
    kafka.put_all("arrow", 0, [arrow_rows(&["user-4", "user-5"], &["Arrow", ""], &[false, true])]);
    for (user, name) in [(0, Some("Json")), (1, None), (2, Some("Avro")), (3, None), (4, Some("Arrow")), (5, None)] {
        wait_for_name(&node, &format!("user-{user}"), name).await;
    }
    let answer = node.ask(DEMO, "user-0", "how do I reset my password?").await.unwrap().answer;
    assert!(answer.starts_with("Json, use the link"), "{answer}");

    kafka.put_all("lines", 0, ["not json"]);
    let began = std::time::Instant::now();
    let stopped = loop {
        assert!(began.elapsed() < crate::support::kafka::PATIENCE, "the partition is stopped");
        let lines = inspected(&node).await.remove("lines").unwrap();
        if lines.partitions[0].state == "stopped" && lines.partitions[0].lag == Some(1) {
            break lines;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!((stopped.topic.as_str(), stopped.tenant.as_str(), stopped.view.as_str()), ("lines", "demo", "profile"));
    assert_eq!((stopped.partitions[0].position, stopped.partitions[1].state.as_str()), (Some(1), "running"));
    let mut admin = AdminClient::new(node.channel.clone());
    let warnings = admin.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("stream \"lines\": 1 partitions are stopped")),
        "{warnings:?}"
    );
    let page = node.http_get("/metrics").await;
    for line in [
        "larder_stream_lag_messages{stream=\"lines\",partition=\"0\"} 1",
        "larder_stream_lag_messages{stream=\"avro\",partition=\"0\"} 0",
        "larder_stream_partitions{stream=\"lines\",state=\"stopped\"} 1",
        "larder_stream_partitions{stream=\"lines\",state=\"running\"} 1",
        "larder_stream_rows_total{stream=\"arrow\",outcome=\"stored\"} 2",
        "larder_stream_messages_total{stream=\"avro\",outcome=\"written\"} 2",
        "larder_stream_in_trouble{stream=\"arrow\"} 0",
        "larder_stream_behind_seconds{stream=\"lines\"}",
        "larder_stream_write_seconds_count{stream=\"lines\"}",
    ] {
        assert!(page.contains(line), "{line} is not on {page}");
    }
    let mut admin = AdminClient::new(node.channel.clone());
    let request =
        |stream: &str, to: &str| MoveStreamRequest { stream: stream.to_owned(), partition: Some(0), to: to.to_owned() };
    let refused = admin.move_stream(request("lies", "2")).await.unwrap_err();
    assert!(refused.message().contains("no stream \"lies\"; it has lines, avro, arrow"), "{refused}");
    let refused = admin.move_stream(request("lines", "somewhere")).await.unwrap_err();
    assert!(refused.message().contains("earliest, latest or the offset"), "{refused}");
    let moved = admin.move_stream(request("lines", "latest")).await.unwrap().into_inner().partitions;
    assert_eq!((moved[0].from, moved[0].to), (Some(1), 2));
    kafka.put_all("lines", 0, [line("user-0", "Again")]);
    wait_for_name(&node, "user-0", Some("Again")).await;
    node.node.drain().await.unwrap();

    // The store alone knows where they stand.
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    let closed = larder_serve::inspect_store(&store, &config).unwrap().streams;
    let lines = closed.iter().find(|stream| stream.name == "lines").unwrap();
    let positions: Vec<_> =
        lines.partitions.iter().map(|partition| (partition.position, partition.state.as_str())).collect();
    assert_eq!(positions, [(Some(3), "closed"), (Some(1), "closed")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_and_stops_without_its_brokers() {
    // Nobody listens there.
    let brokers = ["127.0.0.1:1".to_owned()];
    let shop = Shop::new(&[DEMO]).with_extra(&stream_toml("lines", &brokers, "profile", "format = \"json\""));
    let node = TestNode::start(&shop).await;
    assert!(node.ask(DEMO, "user-0", "how do I reset my password?").await.is_ok());
    assert!(!inspected(&node).await["lines"].trouble.is_empty());
    node.node.drain().await.unwrap();
}

#[test]
fn a_wrong_stream_is_refused_by_key_value_and_what_is_allowed() {
    let shop = Shop::without_data(&[DEMO]);
    let file = shop.path().join("stream.toml");
    shop.config();
    let rest = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    let stream = stream_toml("lines", &["kafka:9092".to_owned()], "profile", "format = \"json\"");
    let load = |more: &str| {
        std::fs::write(&file, format!("{rest}{}", stream.replace("view = \"profile\"", more))).unwrap();
        NodeConfig::load(&file).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(load("view = \"profile\""), Ok(()));
    std::fs::write(&file, format!("{rest}{stream}{stream}")).unwrap();
    let twice = NodeConfig::load(&file).unwrap_err().to_string();
    assert!(twice.contains("stream.name = lines") && twice.contains("stands twice"), "{twice}");
    for (more, says) in [
        ("view = \"basket\"", vec!["stream \"lines\": view = \"basket\"", "no such view", "profile, orders"]),
        ("view = \"profile\"\nlinger_ms = 1001", vec!["stream \"lines\": linger_ms = 1001: must be 0 to 1000"]),
        ("view = \"profile\"\nlinger = 3", vec!["unknown field `linger`", "linger_ms"]),
        ("view = \"profile\"\nproperties = { \"auto.offset.reset\" = \"latest\" }", vec!["decided by Larder", "begin"]),
        ("view = \"profile\"\nproperties = { \"no.such\" = \"1\" }", vec!["\"no.such\""]),
    ] {
        let message = load(more).unwrap_err();
        for part in says {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}

#[test]
fn a_stream_that_no_node_reads_is_moved_in_the_stores_folder() {
    let extra = stream_toml("lines", &["127.0.0.1:1".to_owned()], "profile", "format = \"json\"");
    let shop = Shop::without_data(&[DEMO]).with_extra(&extra);
    let config = shop.config();
    let store = Store::open(&config.store, &config.views).unwrap();
    store.move_stream("kafka/lines/lines/3", 5).unwrap();
    drop(store);
    let file = shop.path().join("closed.toml").display().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    std::fs::write(&file, toml.replacen("127.0.0.1:0", &free.to_string(), 1)).unwrap();
    let moved = |arguments: &[&str]| run(&[&["stream", "move"], arguments, &["--config", &file]].concat());
    let Ran { code, stdout, stderr } = moved(&["lines", "--partition", "3", "--to", "7"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("Partition 3 goes on at 7, from 5, in the store in "), "{stdout}");
    let all: serde_json::Value =
        serde_json::from_str(&moved(&["lines", "--all", "--to", "9", "--json"]).stdout).unwrap();
    assert_eq!(all["partitions"], serde_json::json!([{ "partition": 3, "from": 7, "to": 9 }]));
    for (arguments, code, says) in [
        (["lines", "--partition", "3", "--to", "latest"], 1, "no node runs"),
        (["lies", "--partition", "3", "--to", "7"], 1, "no stream \"lies\"; it has lines"),
        (["lines", "--partition", "3", "--to", "soon"], 2, "earliest, latest or the offset"),
    ] {
        let Ran { code: found, stderr, .. } = moved(&arguments);
        assert!(found == Some(code) && stderr.contains(says), "{arguments:?}: {found:?}, {stderr}");
    }
    let shown: serde_json::Value =
        serde_json::from_str(&run(&["inspect", "--config", &file, "--json"]).stdout).unwrap();
    let partition = &shown["streams"][0]["partitions"][0];
    assert_eq!((&partition["position"], &partition["state"]), (&serde_json::json!(9), &serde_json::json!("closed")));
}
