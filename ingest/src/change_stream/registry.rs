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
