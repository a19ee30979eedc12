//! Promise: a store that is backed up while its node works is there again after its folders are lost: every row that was acknowledged before the
//! backup, every answer as it was. A backup that is not whole is none, one that is damaged is refused by the file's name, and nothing is overwritten.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::{AnswerReply, PublishRequest, Status};
use larder_store::{Checkpoint, MANIFEST_FILE, Store, TenantId};
use serde_json::Value;

use crate::support::closed::{Closed, SEED};
use crate::support::command::{Ran, larder, run};
use crate::support::history::{self, Step, views};
use crate::support::node::TestNode;
use crate::support::shop::{DEMO, Shop};
use crate::support::store::{config, table_of_rows};

/// Two folders of the same shop: where it is, and where it is restored.
struct Moving {
    shop: Shop,
    config: String,
    elsewhere: String,
    backups: String,
    destination: String,
}

impl Moving {
    fn new(shop: Shop, address: &str) -> Moving {
        shop.config();
        let toml = fs::read_to_string(shop.path().join("larder.toml")).unwrap();
        let toml = toml.replacen("127.0.0.1:0", address, 1);
        let write = |name: &str, text: &str| {
            let path = shop.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let config = write("here.toml", &toml);
        let mut moved: toml::Table = toml.parse().unwrap();
        let store = moved.entry("store").or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
        store.insert("path".to_owned(), "elsewhere/store".into());
        store.insert("cold_path".to_owned(), "elsewhere/cold".into());
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let moved = toml::to_string(&moved).unwrap().replacen(address, &free.to_string(), 1);
        let elsewhere = write("elsewhere.toml", &moved);
        let backups = shop.path().join("backups");
        let destination = format!("file://{}", backups.display());
        Moving { config, elsewhere, backups: backups.display().to_string(), destination, shop }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let Ran { code, stdout, stderr } = run(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let Ran { code, stderr, .. } = run(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        stderr
    }

    fn backup(&self, more: &[&str]) -> Value {
        self.json(&[&["backup", &self.destination, "--config", &self.config], more].concat())
    }

    fn restore(&self, more: &[&str]) -> Value {
        self.json(&[&["restore", &self.backups, "--config", &self.elsewhere], more].concat())
    }
}

/// The one file of the set with a content, for spoiling it.
fn contents(set: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(Path::new(set).join("files")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| fs::metadata(path).unwrap().len());
    files
}

/// An answer with all features, however long the cold tier takes.
async fn answer(node: &TestNode) -> AnswerReply {
    loop {
        let reply = node.ask(DEMO, "user-7", "where is my order?").await.unwrap();
        if reply.views.iter().all(|view| view.status() == Status::Present) {
            return reply;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_backed_up_lost_and_restored_elsewhere() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let address = node.node.address().to_string();
    let moving = Moving::new(shop, &address);
    let place = ["place", "--tenant", "demo", "--view", "orders", "--cold-after", "0d", "--config", &moving.config];
    assert_eq!(run(&place).code, Some(0));
    let before = answer(&node).await;

    let first = moving.backup(&[]);
    assert_eq!(first["files"], first["copied_files"], "{first}");
    // Nothing was published since: what is copied again is little, and the large files are not.
    let second = moving.backup(&[]);
    assert!(second["copied_bytes"].as_u64() < first["copied_bytes"].as_u64(), "{second}");
    assert!(!moving.shop.config().store.path.join("checkpoint").exists(), "the checkpoint was released");

    // The machine is lost.
    node.node.drain().await.unwrap();
    fs::remove_dir_all(moving.shop.config().store.path).unwrap();
    fs::remove_dir_all(moving.shop.config().store.cold_path).unwrap();

    let restored = moving.restore(&[]);
    assert_eq!(restored["backup"], second["backup"], "{restored}");
    let refused = moving.refusal(&["restore", &moving.backups, "--config", &moving.elsewhere]);
    assert!(refused.contains("is not empty: a restore overwrites nothing"), "{refused}");
    let whole = moving.json(&["verify", "--config", &moving.elsewhere]);
    assert_eq!(whole["whole"], true, "{whole}");

    let node = TestNode::start_with(larder_serve::NodeConfig::load(Path::new(&moving.elsewhere)).unwrap()).await;
    let after = answer(&node).await;
    assert_eq!((after.answer, after.intent), (before.answer, before.intent));
    assert_eq!(after.views[0].generation, before.views[0].generation);

    // The lost one may come back, so the restored one is another store and keeps its hands off the lost one's backups.
    let refused = moving.refusal(&["backup", &moving.backups, "--config", &moving.elsewhere]);
    assert!(refused.contains("of another store, the one that this store was restored from"), "{refused}");
    let own = moving.shop.path().join("own-backups").display().to_string();
    moving.json(&["backup", &own, "--config", &moving.elsewhere]);
    node.node.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_waits_for_its_turn_while_the_node_changes_its_store() {
    let shop = Shop::new(&[DEMO]);
    let node = TestNode::start(&shop).await;
    let address = node.node.address().to_string();
    let moving = Moving::new(shop, &address);
    // A publish reads the manifest first: here one that does not come before it is written.
    let built = moving.shop.path().join("never-built");
    fs::create_dir(&built).unwrap();
    let pipe = built.join(MANIFEST_FILE);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut admin = AdminClient::new(node.channel.clone());
    let request = PublishRequest { path: built.display().to_string() };
    let publish = tokio::spawn(async move { admin.publish(request).await });
    let until = Instant::now() + Duration::from_secs(120);
    let backup = ["backup", &moving.destination, "--config", &moving.config];
    let refused = loop {
        let Ran { code, stderr, .. } = run(&[&backup[..], &["--wait", "0s"]].concat());
        if code != Some(0) {
            break stderr;
        }
        assert!(Instant::now() < until && !publish.is_finished(), "the node was never busy");
    };
    assert!(refused.contains("the node has been busy with other changes of its store for 0 ms"), "{refused}");

    let mut waiting = larder().args(backup).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(waiting.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("waiting for up to 10 min")), "it ended without waiting");
    fs::write(&pipe, "no manifest").unwrap();
    assert!(publish.await.unwrap().unwrap_err().message().contains(MANIFEST_FILE));
    said.for_each(drop);
    assert!(waiting.wait().unwrap().success());
    node.node.drain().await.unwrap();
}

#[test]
fn backups_of_a_closed_store_are_kept_checked_and_refused_when_damaged() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let moving = Moving::new(Shop::new(&[DEMO]), &free.to_string());
    let nothing = moving.refusal(&["restore", &moving.backups, "--config", &moving.elsewhere]);
    assert!(nothing.contains("holds no finished backup"), "{nothing}");
    let made: Vec<_> = (0..3).map(|_| moving.backup(&["--keep", "2"])["backup"].clone()).collect();
    let listed = moving.json(&["restore", &moving.backups, "--list"]);
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|backup| backup["backup"].clone()).collect();
    assert_eq!(listed, made[1..], "the oldest went");
    assert_eq!(moving.restore(&["--check"])["backup"], made[2]);

    // A backup that was cut short has files and no description.
    let described = Path::new(&moving.backups).join("backups").join(format!("{}.json", made[2].as_str().unwrap()));
    let description = fs::read(&described).unwrap();
    fs::remove_file(&described).unwrap();
    assert_eq!(moving.restore(&["--check"])["backup"], made[1], "the one before is the newest");
    // One whose description is damaged is named and passed over.
    fs::write(&described, &description[..description.len() / 2]).unwrap();
    assert_eq!(moving.restore(&["--check"])["backup"], made[1]);
    let listed = moving.json(&["restore", &moving.backups, "--list"]);
    assert_eq!(listed[1]["backup"], made[2], "{listed}");
    assert!(listed[1]["damaged"].as_str().unwrap().contains("not a description of a backup"), "{listed}");
    let asked = ["restore", &*moving.backups, "--config", &*moving.elsewhere, "--backup", made[2].as_str().unwrap()];
    assert!(moving.refusal(&asked).contains("is damaged; take another backup"));
    let fourth = moving.backup(&["--keep", "1"]);
    assert_eq!((&fourth["unreadable_backups"], &fourth["deleted_backups"]), (&1.into(), &1.into()), "{fourth}");
    fs::remove_file(described.with_file_name(format!("{}.json", fourth["backup"].as_str().unwrap()))).unwrap();
    fs::write(&described, description).unwrap();

    // The largest file is one of rows, which both backups share.
    let damaged = contents(&moving.backups).pop().unwrap();
    let whole = fs::read(&damaged).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 4;
    fs::write(&damaged, &bytes).unwrap();
    for more in [&["--check"][..], &[]] {
        let restore = [&["restore", &*moving.backups, "--config", &*moving.elsewhere], more].concat();
        let refused = moving.refusal(&restore);
        let name = damaged.file_name().unwrap().to_str().unwrap();
        assert!(refused.contains(name) && refused.contains("has another content"), "{refused}");
    }
    // What was begun is no store.
    let refused = moving.refusal(&["ingest", "list", "--config", &moving.elsewhere]);
    assert!(refused.contains("its restore was cut short"), "{refused}");
    fs::write(&damaged, &whole).unwrap();
    moving.restore(&[]);
    let list = |config: &str| moving.json(&["ingest", "list", "--config", config]);
    assert_eq!(list(&moving.elsewhere), list(&moving.config));

    // Another store's backups are not mixed with these.
    let other = Moving::new(Shop::new(&[DEMO]), &free.to_string());
    let refused = moving.refusal(&["backup", &moving.backups, "--config", &other.config]);
    assert!(refused.contains("holds backups of another store"), "{refused}");
    // A damaged store is not backed up.
    let table = table_of_rows(&moving.shop.config().store.path, "user-0");
    let mut bytes = fs::read(&table).unwrap();
    bytes[10] ^= 1;
    fs::write(&table, bytes).unwrap();
    let refused = moving.refusal(&["backup", &moving.backups, "--config", &moving.config]);
    assert!(refused.contains("the store is damaged, so no backup is made of it"), "{refused}");
    assert!(refused.contains(".sst (rows)"), "{refused}");
}

/// Copies a checkpoint to where a store can be opened.
fn copy(made: &Checkpoint, to: &Path) {
    for (from, to) in [(Some(&made.store), to.join("store")), (made.cold.as_ref(), to.join("cold"))] {
        let Some(from) = from else { continue };
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_of_a_store_with_a_history_shows_what_the_store_shows() {
    let mut closed = Closed::new(40);
    let store = history::open(closed.path()).unwrap();
    for _ in 0..6 {
        let made = store.checkpoint().unwrap();
        let copied = tempfile::tempdir().unwrap();
        copy(&made, copied.path());
        closed.expected.check(&history::open(copied.path()).unwrap()).unwrap();
        for _ in 0..5 {
            let (number, step) = (closed.next, Step::of(SEED, closed.next));
            closed.perform(&store, number, &step).unwrap();
            closed.expected.apply(SEED, number, &step);
            closed.next += 1;
        }
    }
    store.release_checkpoint().unwrap();
    drop(store);
    history::check_left(closed.path()).unwrap();
}

#[test]
fn every_row_that_was_acknowledged_before_is_in_a_checkpoint_and_none_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), &views()).unwrap();
    let (acknowledged, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1;
            while !stop.load(Ordering::Relaxed) {
                history::write(&store, 1, &history::uniform(number), number as i64).unwrap();
                acknowledged.store(number as i64, Ordering::Release);
                number += 1;
            }
        });
        let mut newest = 0;
        for _ in 0..8 {
            while acknowledged.load(Ordering::Acquire) < newest + 20 {
                std::thread::yield_now();
            }
            let before = acknowledged.load(Ordering::Acquire);
            let made = store.checkpoint().unwrap();
            let after = acknowledged.load(Ordering::Acquire) + 1;
            let copied = tempfile::tempdir().unwrap();
            copy(&made, copied.path());
            let of_copy = config(copied.path());
            let shown = Store::open(&of_copy, &views()).unwrap();
            let look = &shown.inspect(TenantId(1), "user-00", Some("profile"), 0).unwrap()[0];
            newest = look.live.as_ref().map_or(0, |live| live.changes[0].event_time_ms);
            assert!((before..=after).contains(&newest), "{newest} is not between {before} and {after}");
            assert_eq!(history::read_uniform(&shown, 1), Ok(history::uniform_number(newest as usize)));
        }
        stop.store(true, Ordering::Relaxed);
    });
}
