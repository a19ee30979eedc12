//! Promise: what an operator tells a store (load with a cold tier, place, erase, compact) has the same effect through a running node and on the
//! closed folder, and what cannot be done is refused in words; a node that was stopped is warm when it starts again.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::{
    self, CompactErasedRequest, EraseRequest, ExportHotSetRequest, GetFeaturesRequest, GetNodeStatusRequest,
    PlaceRequest, PublishRequest, Tier,
};
use larder_store::{HotSetEntry, Status, Store, TenantId, read_hot_set, write_hot_set};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use tonic::{Code, Request};

use crate::support::command::{Ran, run};
use crate::support::node::{TestNode, identified, reason};
use crate::support::shop::{DEMO, OTHER, Shop, USERS, now_ms};
use crate::support::store::{of_tenant, plan};

/// How long a test waits for what takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shop whose commands go to a node in this process, or to its closed folder.
struct Operated {
    shop: Shop,
    node: Option<TestNode>,
    config: PathBuf,
    /// As the commands name it.
    destination: String,
}

impl Operated {
    async fn new(shop: Shop, running: bool) -> Operated {
        let store = shop.config().store.path;
        let (node, address, destination) = if running {
            let node = TestNode::start(&shop).await;
            let address = node.node.address().to_string();
            (Some(node), address.clone(), format!("the node at {address}"))
        } else {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            (None, free.to_string(), format!("the store in {}", store.display()))
        };
        let toml = fs::read_to_string(shop.path().join("larder.toml")).unwrap();
        let config = shop.path().join("operate.toml");
        fs::write(&config, toml.replacen("127.0.0.1:0", &address, 1)).unwrap();
        Operated { shop, node, config, destination }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--config", &self.config.display().to_string()]].concat())
    }

    /// What a command that succeeds prints.
    fn said(&self, arguments: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        stdout.replace(&self.destination, "THERE").replace(&self.config.display().to_string(), "CONFIG")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The error of a command that fails, without what is said of where it went.
    fn refusal(&self, arguments: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        let error = stderr.split_once("error: ").unwrap_or_else(|| panic!("{arguments:?}: {stderr}")).1;
        error.trim_end().to_owned()
    }

    /// The status of each entity's orders, however long the cold tier takes.
    async fn statuses(&self, entities: &[&str]) -> Vec<Status> {
        let until = Instant::now() + PATIENCE;
        loop {
            let statuses = self.statuses_now(entities).await;
            if !statuses.contains(&Status::NotInTime) {
                return statuses;
            }
            assert!(Instant::now() < until, "after {PATIENCE:?} the orders of {entities:?} are still {statuses:?}");
        }
    }

    async fn statuses_now(&self, entities: &[&str]) -> Vec<Status> {
        let Some(node) = &self.node else {
            let config = self.shop.config();
            let store = Store::open(&config.store, &config.views).unwrap();
            let fetched = store.fetch(&plan(&store, &["orders:status"]), &of_tenant(1, entities), now_ms()).unwrap();
            return fetched.views[0].status.clone();
        };
        let entities = entities.iter().map(|entity| (*entity).to_owned()).collect();
        let message =
            GetFeaturesRequest { features: vec!["orders:status".to_owned()], service: String::new(), entities };
        let mut features = FeaturesClient::new(node.channel.clone());
        let reply = features.get_features(identified(DEMO, "", message)).await.unwrap().into_inner();
        let status = |number: &i32| match v1::Status::try_from(*number).unwrap() {
            v1::Status::Present => Status::Present,
            v1::Status::NotFound => Status::NotFound,
            v1::Status::Erased => Status::Erased,
            v1::Status::NotInTime => Status::NotInTime,
            other => panic!("{other:?}"),
        };
        reply.views[0].status.iter().map(status).collect()
    }

    async fn close(self) {
        if let Some(node) = self.node {
            node.node.drain().await.unwrap();
        }
    }
}

/// A hot-set file that names entities of views of the first tenant.
fn hot_set(folder: &Path, entries: &[(u16, &str)]) -> String {
    let path = folder.join("active");
    let entry =
        |&(view_id, entity): &(u16, &str)| HotSetEntry { view_id, tenant: TenantId(1), entity: entity.to_owned() };
    write_hot_set(&path, entries.iter().map(entry)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn placing_erasing_and_compacting_go_through_a_node_and_into_a_closed_folder() {
    for running in [false, true] {
        let shop = Operated::new(Shop::new(&[DEMO]), running).await;
        let place = ["place", "--tenant", "demo", "--view", "orders"];
        // Every row is a minute older than its snapshot.
        let placed = shop.json(&[&place[..], &["--cold-after", "0d"]].concat());
        assert_eq!((&placed["generation"], &placed["previous"]), (&2.into(), &1.into()), "{placed}");
        assert_eq!((&placed["entities"], &placed["cold_entities"]), (&USERS.into(), &USERS.into()), "{placed}");
        assert_eq!(placed["cold_files"], 1, "{placed}");
        let young = shop.json(&[&place[..], &["--cold-after", "1h"]].concat());
        assert_eq!((&young["generation"], &young["cold_entities"]), (&3.into(), &0.into()), "{young}");
        let said = shop.said(&place);
        let expected =
            "Generation 4 of demo:orders is live in THERE: 30 entities, 30 rows; generation 3 is kept for rollback.\n";
        assert_eq!(said, expected);
        // user-4 was asked for, in another view.
        let active = hot_set(shop.shop.path(), &[(2, "user-3"), (1, "user-4"), (2, "nobody")]);
        let said = shop.said(&[&place[..], &["--cold-after", "0h", "--active", &active]].concat());
        assert_eq!(
            said,
            "Generation 5 of demo:orders is live in THERE: 30 entities (29 cold, in 1 file), 30 rows; \
             generation 4 is kept for rollback.\n"
        );
        let listed = shop.json(&["ingest", "list"]);
        let live = listed.as_array().unwrap().iter().find(|listed| listed["generation"] == 5).unwrap();
        assert_eq!((&live["cold_entities"], &live["cold_files"], &live["live"]), (&29.into(), &1.into(), &true.into()));
        assert!(live["bytes"].as_u64().unwrap() > 500, "{live}");
        let table = shop.said(&["ingest", "list"]);
        let header: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(
            header,
            ["tenant", "view", "generation", "state", "entities", "cold", "rows", "size", "as", "of"],
            "{table}"
        );
        assert_eq!(shop.statuses(&["user-3", "user-4", "user-5", "nobody"]).await[..3], [Status::Present; 3]);

        let said = shop.said(&["erase", "--tenant", "demo", "user-3", "user-4"]);
        assert_eq!(
            said,
            "Erased 2 entities of demo in THERE.\n\
             Their bytes are in the files until you run: larder compact --erase --config CONFIG\n"
        );
        let file = shop.shop.path().join("gone.txt");
        fs::write(&file, "user-6\n\nuser-3\n").unwrap();
        let erased = shop.json(&["erase", "--tenant", "demo", "--from", &file.display().to_string()]);
        assert_eq!(erased, serde_json::json!({ "tenant": "demo", "entities": 2 }));
        let asked = ["user-3", "user-4", "user-5", "user-6"];
        let expected = [Status::Erased, Status::Erased, Status::Present, Status::Erased];
        assert_eq!(shop.statuses(&asked).await, expected);

        // What a drain left names users as well.
        let left = shop.shop.config().hot_set_file();
        fs::copy(&active, &left).unwrap();
        // Three users in the profiles, in the live orders and in the previous ones; the live ones of two are in the cold file.
        let taken_out = shop.json(&["compact", "--erase"]);
        assert_eq!(taken_out, serde_json::json!({ "rows": 9, "live_entities": 0, "files": 4 }));
        assert!(!left.exists(), "the hot set names erased users");
        let said = shop.said(&["compact", "--erase"]);
        assert_eq!(said, "No file of THERE holds anything of an erased entity.\n");
        assert_eq!(shop.statuses(&asked).await, expected);
        shop.said(&["erase", "--tenant", "demo", "user-7"]);
        let said = shop.said(&["compact", "--erase"]);
        assert_eq!(said, "Taken out of THERE: rows of generations 3, entities with live rows 0; files rewritten 3.\n");
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_places_the_old_cold_but_who_is_active() {
    const HOUR_MS: i64 = 3_600_000;
    for running in [false, true] {
        let shop = Operated::new(Shop::new(&[DEMO]), running).await;
        let parquet = shop.shop.path().join("profile.parquet");
        let texts = |texts: [&str; 3]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        let times = [now_ms() - HOUR_MS / 2, now_ms() - 2 * HOUR_MS, now_ms() - 3 * HOUR_MS];
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(times.to_vec()).with_timezone("UTC"));
        let columns = [("user_id", texts(["new", "old", "asked"])), ("updated_at", times), ("name", texts([""; 3]))];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&parquet).unwrap(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let parquet = parquet.display().to_string();
        let of_profile = ["--tenant", "demo", "--view", "profile", &parquet];
        let active = hot_set(shop.shop.path(), &[(1, "asked"), (2, "old")]);
        let rule = ["--cold-after", "1h", "--active", &active];

        let out = shop.shop.path().join("built").display().to_string();
        let said = shop.said(&[&["ingest", "build", "--out", &out], &of_profile[..], &rule].concat());
        let (first, next) = said.split_once('\n').unwrap();
        assert!(first.ends_with(&format!("in {out}: 3 entities (1 cold, in 1 file), 3 rows.")), "{said}");
        assert!(next.starts_with("Next: larder ingest publish "), "{said}");
        let loaded = shop.json(&[&["ingest", "load"], &of_profile[..], &rule].concat());
        let counts = (&loaded["entities"], &loaded["cold_entities"], &loaded["cold_files"]);
        assert_eq!(counts, (&3.into(), &1.into(), &1.into()), "{loaded}");
        let loaded = shop.json(&[&["ingest", "load"], &of_profile[..], &["--cold-after", "1h"]].concat());
        assert_eq!(loaded["cold_entities"], 2, "{loaded}");
        let loaded = shop.json(&[&["ingest", "load"], &of_profile[..]].concat());
        assert_eq!((&loaded["cold_entities"], &loaded["cold_files"]), (&0.into(), &0.into()), "{loaded}");
        // Several builds fit into a second, and each can be published after the one before it.
        let outs: Vec<_> = (0..3).map(|n| shop.shop.path().join(format!("built-{n}")).display().to_string()).collect();
        let build = |out: &String| shop.json(&[&["ingest", "build", "--out", out], &of_profile[..]].concat());
        let numbers: Vec<_> = outs.iter().map(|out| build(out)["generation"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        for (out, number) in outs.iter().zip(numbers) {
            assert_eq!(shop.json(&["ingest", "publish", out])["generation"], number);
        }
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_in_words_and_changes_nothing() {
    for running in [false, true] {
        // The other tenant has no data.
        let mut both = Shop::without_data(&[DEMO, OTHER]);
        let config = both.config();
        for view in ["profile", "orders"] {
            let built = both.build(DEMO, view, 1);
            Store::open(&config.store, &config.views).unwrap().publish(&built).unwrap();
        }
        both = both.with_node("max_entities = 3");
        let shop = Operated::new(both, running).await;
        let foreign = shop.shop.path().join("catalogue.toml").display().to_string();
        let absent = shop.shop.path().join("absent").display().to_string();
        let place = |tenant, view, more: &[&str]| {
            shop.refusal(&[&["place", "--tenant", tenant, "--view", view], more].concat())
        };
        let erase = |more: &[&str]| shop.refusal(&[&["erase"], more].concat());
        // As the folder's own refusal reads, and the code with which a node says the same.
        let check = |refusal: String, says: &str, code: &str| {
            let says = if running { format!("the node refused: {says} ({code})") } else { says.to_owned() };
            assert_eq!(refusal, says);
        };
        let unknown_tenant = |refusal: String| match running {
            true => check(refusal, "tenant \"nowhere\" is not served by this node", "PermissionDenied"),
            false => check(refusal, "the config has no tenant \"nowhere\"; it has demo, other", ""),
        };
        unknown_tenant(place("nowhere", "orders", &[]));
        unknown_tenant(erase(&["--tenant", "nowhere", "user-1"]));
        let says = "there is no view carts; declared are profile, orders";
        check(place("demo", "carts", &[]), says, "InvalidArgument");
        let says = "view orders of tenant 2 has no live generation";
        check(place("other", "orders", &["--cold-after", "9d"]), says, "InvalidArgument");
        let says = format!("cannot read {absent}: No such file or directory (os error 2)");
        check(place("demo", "orders", &["--cold-after", "9d", "--active", &absent]), &says, "InvalidArgument");
        let says = format!("{foreign}: it is no hot-set file");
        check(place("demo", "orders", &["--cold-after", "9d", "--active", &foreign]), &says, "InvalidArgument");
        assert!(Path::new(&foreign).exists());
        // What the command itself sees.
        assert_eq!(erase(&["--tenant", "demo", ""]), "entity \"\" has 0 bytes; 1 to 256 are allowed");
        let long = "x".repeat(257);
        let says = format!("entity \"{long}\" has 257 bytes; 1 to 256 are allowed");
        assert_eq!(erase(&["--tenant", "demo", "user-1", &long]), says);
        let says = format!("cannot read {absent}\n  because: No such file or directory (os error 2)");
        assert_eq!(erase(&["--tenant", "demo", "--from", &absent]), says);

        assert_eq!(shop.statuses(&["user-1"]).await, [Status::Present]);
        let listed = shop.json(&["ingest", "list"]);
        assert!(listed.as_array().unwrap().iter().all(|listed| listed["generation"] == 1), "{listed}");
        // More than fit into a call to the node.
        let erased = shop.json(&["erase", "--tenant", "demo", "user-1", "user-2", "user-3", "user-4"]);
        assert_eq!(erased["entities"], 4);
        for entities in [["user-1", "user-2"], ["user-3", "user-4"]] {
            assert_eq!(shop.statuses(&entities).await, [Status::Erased; 2]);
        }
        shop.close().await;
    }
}

#[test]
fn wrong_usage_is_told_before_anything_is_opened() {
    let place = ["place", "--tenant", "demo", "--view", "orders"];
    for (arguments, says) in [
        (
            [&place[..], &["--cold-after", "90x"]].concat(),
            "invalid value '90x' for '--cold-after <DURATION>': \"90x\" is no duration; write 500ms, 30s, 5m, 36h or 90d",
        ),
        ([&place[..], &["--active", "hot-set"]].concat(), "--cold-after <DURATION>"),
        (place[..3].to_vec(), "--view <VIEW>"),
        (vec!["erase", "--tenant", "demo"], "<ENTITIES>"),
        (vec!["erase", "user-1"], "--tenant <TENANT>"),
        (vec!["compact"], "--erase"),
        (vec!["ingest", "load", "--tenant", "demo", "--view", "v", "--cold-after", "1w", "x.parquet"], "'1w'"),
    ] {
        let Ran { code, stderr, .. } = run(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?} does not say {says:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_calls_of_the_admin_service_are_refused() {
    let shop = Shop::new(&[DEMO]).with_node("max_entities = 3");
    let node = TestNode::start(&shop).await;
    let mut admin = AdminClient::new(node.channel.clone());
    let mut erase = async |entities: &[&str]| {
        let entities = entities.iter().map(|entity| (*entity).to_owned()).collect();
        let status = admin.erase(EraseRequest { tenant: "demo".to_owned(), entities }).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    for (entities, says) in [
        (&[][..], "entities is empty; name at least one"),
        (&["a", "b", "c", "d"], "4 entities; at most 3 are allowed in a call (node.max_entities)"),
        (&["user-1", ""], "entities[1] has 0 bytes; 1 to 256 are allowed"),
    ] {
        assert_eq!(erase(entities).await, (Code::InvalidArgument, says.to_owned()));
    }
    let mut place = async |cold_after_s, active_path: &str| {
        let (tenant, view) = ("demo".to_owned(), "orders".to_owned());
        let request = PlaceRequest { tenant, view, cold_after_s, active_path: active_path.to_owned() };
        let status = admin.place(request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    for (cold_after_s, active, says) in [
        (Some(1), "hot-set", "active_path \"hot-set\" must be absolute: the node has a working folder of its own"),
        (None, "/hot-set", "active_path needs cold_after_s: without it every entity is placed warm"),
    ] {
        assert_eq!(place(cold_after_s, active).await, (Code::InvalidArgument, says.to_owned()));
    }

    let mut export = async |path: &Path| {
        let exported = admin.export_hot_set(ExportHotSetRequest { path: path.display().to_string() }).await;
        exported.map(|reply| reply.into_inner().entries).map_err(|status| (status.code(), status.message().to_owned()))
    };
    let (file, catalogue) = (shop.path().join("exported"), shop.path().join("catalogue.toml"));
    let says = "path \"hot-set\" must be absolute: the node has a working folder of its own";
    assert_eq!(export(Path::new("hot-set")).await, Err((Code::InvalidArgument, says.to_owned())));
    let says = format!("{} exists and is no hot-set file; name another path", catalogue.display());
    assert_eq!(export(&catalogue).await, Err((Code::InvalidArgument, says)));
    let nowhere = shop.path().join("nowhere/hot-set");
    let says = format!("{} cannot be written: its folder does not exist", nowhere.display());
    assert_eq!(export(&nowhere).await, Err((Code::InvalidArgument, says)));
    assert_eq!(export(&file).await, Ok(0));
    let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
    assert!(reply.views.iter().all(|view| view.status() == v1::Status::Present), "nothing was erased: {reply:?}");
    assert_eq!(export(&file).await, Ok(2));
    let mut kept: Vec<_> = read_hot_set(&file).unwrap().map(|entry| entry.unwrap()).collect();
    kept.sort();
    assert_eq!(
        kept.iter().map(|entry| (entry.view_id, &*entry.entity)).collect::<Vec<_>>(),
        [(1, "user-1"), (2, "user-1")]
    );
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_store_run_one_at_a_time() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let mut admin = AdminClient::new(node.channel.clone());
    // A generation whose manifest comes out of a pipe: its publish waits until somebody writes.
    let folder = shop.path().join("waits");
    fs::create_dir(&folder).unwrap();
    let pipe = folder.join("manifest.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut publisher = admin.clone();
    let path = folder.display().to_string();
    let publishing = tokio::spawn(async move { publisher.publish(PublishRequest { path }).await.unwrap_err() });
    // Opening succeeds as soon as the publish reads.
    let writer = tokio::task::spawn_blocking(move || File::create(&pipe).unwrap()).await.unwrap();
    let status = admin.compact_erased(CompactErasedRequest {}).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, ("queue_full".to_owned(), Some(Duration::from_secs(1))))
    );
    drop(writer);
    let status = publishing.await.unwrap();
    assert!(status.message().contains("not a manifest"), "{status}");
    let compacted = admin.compact_erased(CompactErasedRequest {}).await.unwrap().into_inner();
    assert_eq!((compacted.rows, compacted.files), (0, 0));
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_stopped_is_warm_when_it_starts_again() {
    let shop = Shop::new(&[DEMO]);
    let file = shop.config().hot_set_file();
    let start_and_ask = async |shop: &Shop| {
        let node = TestNode::start(shop).await;
        let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
        node.node.drain().await.unwrap();
        assert_eq!(reply.views.len(), 2);
        assert!(reply.views.iter().all(|view| view.status() == v1::Status::Present), "{:?}", reply.views);
        reply.views.iter().map(v1::ViewProvenance::tier).collect::<Vec<_>>()
    };
    assert_eq!(start_and_ask(&shop).await, [Tier::Warm; 2]);
    assert!(file.exists(), "the drain kept the hot set");
    assert_eq!(start_and_ask(&shop).await, [Tier::Hot; 2]);

    // A damaged file costs warmth and nothing else.
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    for damaged in [flipped, whole[..whole.len() / 2].to_vec(), b"not a hot set at all".to_vec(), Vec::new()] {
        fs::write(&file, damaged).unwrap();
        let node = TestNode::start(&shop).await;
        assert!(!file.exists(), "a damaged file is deleted");
        let reply = node.ask(DEMO, "user-1", "where is my order?").await.unwrap();
        assert!(reply.views.iter().all(|view| view.tier() == Tier::Warm), "{:?}", reply.views);
        node.node.drain().await.unwrap();
    }
    assert_eq!(start_and_ask(&shop).await, [Tier::Hot; 2], "each drain keeps it anew");
    // Where a file should be: neither start nor stop can use it.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(start_and_ask(&shop).await, [Tier::Warm; 2]);
    fs::remove_dir(&file).unwrap();
    let shop = shop.with_node("warm_timeout_s = 0");
    fs::write(&file, whole).unwrap();
    assert_eq!(start_and_ask(&shop).await, [Tier::Warm; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_that_features_came_too_late_or_were_erased() {
    // A fetch that does not wait for the cold tier at all.
    let shop = Shop::with(&[DEMO], "[store]\ncold_budget_ms = 0");
    let node = TestNode::start(&shop).await;
    let mut admin = AdminClient::new(node.channel.clone());
    let mut place = async |view: &str| {
        let (tenant, view) = ("demo".to_owned(), view.to_owned());
        let request = PlaceRequest { tenant, view, cold_after_s: Some(0), active_path: String::new() };
        let placed = admin.place(request).await.unwrap().into_inner();
        assert_eq!((placed.cold_entities, placed.cold_files), (USERS as u64, 1));
    };
    place("profile").await;
    let reply = node.ask(DEMO, "user-2", "where is my order?").await.unwrap();
    assert_eq!(reply.notes, ["the features of profile did not arrive in time; answered without them"]);
    let statuses: Vec<_> = reply.views.iter().map(v1::ViewProvenance::status).collect();
    assert_eq!(statuses, [v1::Status::NotInTime, v1::Status::Present]);
    place("orders").await;
    let reply = node.ask(DEMO, "user-5", "I forgot my password").await.unwrap();
    assert_eq!(reply.intent, "reset_password");
    assert_eq!(reply.notes, ["the features of this user did not arrive in time; answered without features"]);
    assert_eq!(reply.answer, "Forgotten password: please sign in to see more.");
    // What came too late is hot soon after.
    let until = Instant::now() + PATIENCE;
    let reply = loop {
        let reply = node.ask(DEMO, "user-5", "where is my order?").await.unwrap();
        if reply.notes.is_empty() {
            break reply;
        }
        assert!(Instant::now() < until, "after {PATIENCE:?} the answer still says {:?}", reply.notes);
    };
    assert!(reply.views.iter().all(|view| view.tier() == Tier::Hot), "{:?}", reply.views);

    admin.erase(EraseRequest { tenant: "demo".to_owned(), entities: vec!["user-5".to_owned()] }).await.unwrap();
    let reply = node.ask(DEMO, "user-5", "I forgot my password").await.unwrap();
    assert_eq!(reply.notes, ["all that was known of this user was erased; answered without features"]);
    assert_eq!(reply.answer, "Forgotten password: please sign in to see more.");
    assert!(reply.views.iter().all(|view| view.status() == v1::Status::Erased), "{:?}", reply.views);

    let status = admin.get_node_status(Request::new(GetNodeStatusRequest {})).await.unwrap().into_inner();
    assert!(status.not_in_time >= 3 && status.hot_hits >= 2, "{status:?}");
    let [device] = status.devices.as_slice() else { panic!("{status:?}") };
    assert_eq!((device.name.as_str(), device.state.as_str(), device.reason.as_str()), ("cpu", "ready", ""));
    assert!(device.tokens_per_s > 0.0 && device.texts > 0, "{device:?}");
    let page = node.http_get("/metrics").await;
    for figure in [
        "larder_model_device_state{device=\"cpu\",state=\"ready\"} 1",
        "larder_model_device_tokens_per_s{device=\"cpu\"}",
        "larder_model_device_texts_total{device=\"cpu\"}",
        "larder_model_tokens_total ",
        "larder_model_tokenize_seconds_count ",
        "larder_model_encode_seconds_count{tokens=\"16\"} ",
        "larder_store_fetch_seconds_count ",
        "larder_store_keys_total{tier=\"hot\"} ",
        "larder_stage_seconds_count{stage=\"render\"} ",
        "larder_store_database{figure=\"block_cache_bytes\"}",
        "larder_store_cold_index_bytes ",
    ] {
        assert!(page.contains(figure), "{figure} is not on {page}");
    }
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_inside_is_the_same_through_a_node_and_in_a_closed_folder() {
    for running in [false, true] {
        let shop = Operated::new(Shop::new(&[DEMO]), running).await;
        let place = ["place", "--tenant", "demo", "--view", "orders", "--cold-after", "0d"];
        shop.json(&place);

        let store = shop.json(&["inspect"]);
        let names = |list: &Value, key: &str| -> Vec<String> {
            list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&store["views"], "name"), ["profile", "orders"], "{store}");
        assert_eq!(names(&store["generations"], "view"), ["orders", "orders", "profile"], "{store}");
        assert!(names(&store["levels"], "family").contains(&"base".to_owned()), "{store}");
        assert_eq!(store["tiers"]["cold_files"], 1, "{store}");
        assert_eq!(store["hits"].is_null(), !running, "{store}");
        assert_eq!(store["breakers"].as_array().unwrap().is_empty(), !running, "{store}");
        assert!(store["disks"][0]["free_bytes"].as_u64().unwrap() > 0, "{store}");
        let said = shop.said(&["inspect"]);
        for part in ["Views", "Generations", "Tiers", "Files", "Disks", "100.0 %"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }

        let key = ["inspect", "--tenant", "demo", "--entity", "user-3"];
        for _ in 0..2 {
            let user = shop.json(&key);
            let [profile, orders] = [0, 1].map(|view| &user["views"][view]);
            assert_eq!((&profile["status"], &profile["tier"]), (&"present".into(), &"warm".into()), "{user}");
            assert_eq!((&orders["status"], &orders["tier"]), (&"present".into(), &"cold".into()), "{user}");
            assert_eq!(
                (&orders["standing"], &orders["hot"]["state"]),
                (&"snapshot".into(), &"nothing".into()),
                "{user}"
            );
            assert!(orders["cold"]["file"].as_str().unwrap().ends_with(".parquet"), "{user}");
            assert_eq!(orders["values"]["status"][0], "processing", "{user}");
        }
        let said = shop.said(&[&key[..], &["--view", "orders"]].concat());
        assert!(said.contains("the snapshot's row stands") && !said.contains("profile"), "{said}");
        shop.json(&["erase", "--tenant", "demo", "user-3"]);
        let erased = shop.json(&key);
        assert_eq!(erased["views"][1]["status"], "erased", "{erased}");
        assert!(
            shop.refusal(&["inspect", "--tenant", "demo", "--entity", "x", "--view", "none"]).contains("no view none")
        );
        shop.close().await;
    }
}
