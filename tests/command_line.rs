//! The `larder` command as a person types it: what it refuses and how it says so, and a node that stops when it is told to.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder_serve::v1::answers_client::AnswersClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::command::{Ran, larder, run};
use crate::support::node::{ask, reason};
use crate::support::shop::{DEMO, Shop, USERS, intent_of};

#[test]
fn wrong_input_is_told_in_a_line_or_two_and_by_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let typo = file("typo.toml", "[batcher]\nmax_question = 3\n");
    let out_of_range = file("range.toml", "[batcher]\nmax_questions = 0\n");
    let empty = file("empty.toml", "");
    for (arguments, code, says) in [
        (vec!["serve", "--config", "/nowhere/larder.toml"], 1, "/nowhere/larder.toml: cannot be read"),
        (vec!["serve", "--config", &typo], 1, "expected one of `max_questions`"),
        (vec!["serve", "--config", &out_of_range], 1, "batcher.max_questions = 0: must be 1 to 4096"),
        (vec!["serve", "--config", &empty], 1, "declares no [[tenant]]"),
        (vec!["ask", "--addr", "127.0.0.1:1", "--tenant", "demo", "hello"], 1, "127.0.0.1:1"),
        (vec!["ingest", "load", "--config", &empty, "--tenant", "x", "--view", "y", "z.parquet"], 1, "x"),
        (vec!["serve", "--confg", "x"], 2, "--config"),
        (vec!["fly"], 2, "fly"),
    ] {
        let Ran { code: found, stderr: message, .. } = run(&arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(says), "{arguments:?} does not say {says:?}: {message}");
        assert!(!message.contains("panicked") && !message.contains("backtrace"), "{arguments:?}: {message}");
    }
}

/// A `larder serve` that does not outlive its test.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(shop: &Shop) -> Serving {
        shop.config();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
        let config = shop.path().join("serve.toml");
        std::fs::write(&config, toml.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)).unwrap();
        let mut command = larder();
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        Serving { child: command.spawn().unwrap(), address: format!("http://127.0.0.1:{port}") }
    }

    /// A connection to it, once it serves.
    async fn ready(&mut self) -> AnswersClient<Channel> {
        loop {
            assert!(self.child.try_wait().unwrap().is_none(), "the node ended before it served");
            if let Ok(channel) = Channel::from_shared(self.address.clone()).unwrap().connect().await {
                let client = AnswersClient::new(channel);
                let probe = ask(client.clone(), DEMO, "user-0", "where is my order?", Duration::from_secs(20)).await;
                if probe.is_ok() {
                    return client;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_with_nothing_lost_and_the_store_can_be_opened_again() {
    let shop = Shop::new(&[DEMO]);
    let mut serving = Serving::start(&shop);
    let client = serving.ready().await;

    // A second node on the same folder is refused and says why; the first goes on.
    let second = shop.path().join("second.toml");
    let toml = std::fs::read_to_string(shop.path().join("larder.toml")).unwrap();
    std::fs::write(&second, toml).unwrap();
    let Ran { code, stderr: message, .. } = run(&["serve", "--config", &second.display().to_string()]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("only one process at a time may open a store"), "{message}");

    // Another shop whose config names the same address: nothing of it may end up in this node.
    let other = Shop::without_data(&[DEMO]);
    other.config();
    let toml = std::fs::read_to_string(other.path().join("larder.toml")).unwrap();
    let config = other.path().join("other.toml");
    let address = serving.address.trim_start_matches("http://");
    std::fs::write(&config, toml.replacen("127.0.0.1:0", address, 1)).unwrap();
    let generation = other.build(DEMO, "orders", 9).display().to_string();
    let Ran { code, stderr: message, .. } =
        run(&["ingest", "publish", &generation, "--config", &config.display().to_string()]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("serves the store") && message.contains("this config names"), "{message}");

    let mut tasks = JoinSet::new();
    for at in 0..100 {
        let client = client.clone();
        let user = at % USERS;
        tasks.spawn(async move {
            (user, ask(client, DEMO, &format!("user-{user}"), "where is my order?", Duration::from_secs(20)).await)
        });
    }
    let mut outcomes = vec![tasks.join_next().await.unwrap().unwrap()];
    serving.terminate();
    outcomes.extend(tasks.join_all().await);
    let mut answered = 0;
    for (user, outcome) in outcomes {
        match outcome {
            Ok(reply) => {
                assert_eq!(reply.intent, intent_of(user));
                answered += 1;
            }
            // Told that the node drains, or came after it had closed.
            Err(status) => assert!(
                status.code() == Code::Unavailable || reason(&status).0 == "draining",
                "a question was let in and lost: {status}"
            ),
        }
    }
    assert!(answered > 0);
    let status = serving.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "a drained node ends well");

    let mut again = Serving::start(&shop);
    again.ready().await;
    again.terminate();
    assert_eq!(again.child.wait().unwrap().code(), Some(0));
}
