//! A schema registry, asked over HTTP for the schema of an id: `GET /schemas/ids/ID`, as Confluent's and those that speak its protocol answer it.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use crate::change_stream::message::Unread;
use crate::{Error, remote};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer.
const MAX_BYTES: usize = 1 << 20;

/// Where it is asked.
#[derive(Debug)]
pub(crate) struct Registry {
    client: Client,
    url: Url,
}

/// What it says of an id.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    schema: String,
    /// Left out where it is Avro.
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

impl Registry {
    pub(crate) fn new(url: &str) -> Result<Registry, Error> {
        let refused = |reason: String| Error::FixRequest(format!("schema_registry = \"{url}\": {reason}"));
        remote::name_cryptography();
        let client = Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
        Ok(Registry {
            client: client.map_err(|error| refused(error.to_string()))?,
            url: Url::parse(url).map_err(|error| refused(error.to_string()))?,
        })
    }

    /// The text of a schema.
    pub(crate) fn schema(&self, id: u32) -> Result<String, Unread> {
        let (client, url) = (self.client.clone(), self.url.clone());
        let asked = remote::wait(async move { Ok(ask(&client, &url, id).await) });
        let text = asked
            .unwrap_or_else(|error| Err(Unread::Later(format!("the schema registry cannot be asked: {error}"))))?;
        let refused = |reason: String| Unread::Wrong(format!("schema {id} of the registry: {reason}"));
        let Registered { schema, schema_type, references } =
            serde_json::from_slice(&text).map_err(|error| refused(format!("its answer cannot be read: {error}")))?;
        match schema_type.as_deref() {
            None | Some("AVRO") if references.is_empty() => Ok(schema),
            None | Some("AVRO") => Err(refused("it refers to other schemas; give it whole, in schemas".to_owned())),
            Some(other) => Err(refused(format!("its type is {other}; AVRO is expected"))),
        }
    }
}

async fn ask(client: &Client, server: &Url, id: u32) -> Result<Vec<u8>, Unread> {
    let later = |reason: &dyn std::fmt::Display| {
        Unread::Later(format!("the schema registry does not answer for schema {id}: {reason}"))
    };
    let mut url = server.clone();
    let path = format!("{}/schemas/ids/{id}", server.path().trim_end_matches('/'));
    url.set_path(&path);
    let mut reply = client.get(url).send().await.map_err(|error| later(&error.without_url()))?;
    match reply.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Unread::Wrong(format!("schema {id} is not known to the schema registry"))),
        status => return Err(later(&status)),
    }
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.map_err(|error| later(&error.without_url()))? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(Unread::Wrong(format!("schema {id} of the registry: more than {MAX_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// A registry that answers each question with the next of these, and tells what it was asked for.
    fn registry(answers: Vec<(&'static str, String)>) -> (Registry, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/registry/", listener.local_addr().unwrap());
        let answering = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map(Result::unwrap);
                asked.push(lines.next().unwrap());
                lines.find(String::is_empty).unwrap();
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                // Who has heard enough may have gone.
                let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
            }
            asked
        });
        (Registry::new(&url).unwrap(), answering)
    }

    #[test]
    fn a_schema_is_given_or_what_is_wrong_and_whether_for_good() {
        let ok = "200 OK";
        let answers = vec![
            (ok, r#"{"schema": "\"string\""}"#.to_owned()),
            (ok, r#"{"schema": "x", "schemaType": "JSON"}"#.to_owned()),
            (ok, r#"{"schema": "x", "references": [{"name": "Other"}]}"#.to_owned()),
            (ok, "no json".to_owned()),
            (ok, " ".repeat(MAX_BYTES + 1)),
            ("404 Not Found", r#"{"error_code": 40403}"#.to_owned()),
            ("503 Service Unavailable", String::new()),
            ("302 Found", String::new()),
        ];
        let (registry, answering) = registry(answers);
        assert_eq!(registry.schema(7), Ok("\"string\"".to_owned()));
        for (says, is_for_good) in [
            ("its type is JSON; AVRO is expected", true),
            ("refers to other schemas", true),
            ("cannot be read", true),
            ("more than 1048576 bytes", true),
            ("schema 7 is not known to the schema registry", true),
            ("503", false),
            ("302", false),
        ] {
            let (message, was_for_good) = match registry.schema(7).unwrap_err() {
                Unread::Wrong(message) => (message, true),
                Unread::Later(message) => (message, false),
            };
            assert!(message.contains(says) && was_for_good == is_for_good, "{message:?} does not say {says:?}");
        }
        let asked = answering.join().unwrap();
        assert!(asked.iter().all(|line| line == "GET /registry/schemas/ids/7 HTTP/1.1"), "{asked:?}");
        let Unread::Later(message) = registry.schema(7).unwrap_err() else { panic!("nobody listens any more") };
        assert!(message.contains("does not answer for schema 7"), "{message}");
    }
}
