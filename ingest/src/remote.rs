//! Object stores behind URLs: connecting with the settings of the environment, waiting for an answer from synchronous code, and saying what
//! an error means for the reader.
//!
//! The object_store crate is asynchronous; the rest of ingest is not. One small tokio runtime lives here, and a caller waits on a channel
//! for what it is asked to do, so that calls work on any thread, also on one that belongs to another runtime.

use std::error::Error as _;
use std::sync::{Arc, LazyLock, Once, mpsc};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;
use tokio::runtime::Runtime;

use crate::Error;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take, its body included: 8 MiB at 70 KiB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a request is tried again after a server error, a broken connection or a time-out, at growing distances.
const MAX_RETRIES: usize = 6;
/// When trying again ends, however few tries there were.
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
/// Threads that wait for the network.
const THREADS: usize = 2;

/// How the names begin of the environment's variables that hold credentials, regions and endpoints.
const SETTINGS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("object-store").enable_all().build()
});
static CRYPTOGRAPHY: Once = Once::new();

/// The store that a URL names, and the path in it.
pub(crate) fn connect(url: &Url) -> Result<(Arc<dyn ObjectStore>, ObjectPath), object_store::Error> {
    name_cryptography();
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_allow_http(url.scheme() == "http");
    let retry = RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    macro_rules! built {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_client_options(options).with_retry(retry).with_url(url.as_str());
            Arc::new(
                settings()
                    .fold(builder, |builder, (key, value)| match key.parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    })
                    .build()?,
            )
        }};
    }
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder),
        ObjectStoreScheme::Http => {
            let server = &url.as_str()[..url.as_str().len() - after_host(url)];
            Arc::new(HttpBuilder::new().with_client_options(options).with_retry(retry).with_url(server).build()?)
        }
        _ => return Err(object_store::Error::NotSupported { source: format!("{} is no store", url.scheme()).into() }),
    };
    Ok((store, path))
}

/// Names the cryptography of HTTP clients, without which none is made.
pub(crate) fn name_cryptography() {
    // Another part of the process may have named one before, which will do too.
    CRYPTOGRAPHY.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// Bytes of the URL behind scheme, host and port.
fn after_host(url: &Url) -> usize {
    url.path().len() + url.query().map_or(0, |query| query.len() + 1) + url.fragment().map_or(0, |part| part.len() + 1)
}

/// The environment's settings for object stores, by the names that the builders know.
fn settings() -> impl Iterator<Item = (String, String)> {
    // Not every variable: TOKEN or REGION without a prefix may be anybody's.
    std::env::vars_os().filter_map(|(key, value)| {
        let (key, value) = (key.into_string().ok()?, value.into_string().ok()?);
        SETTINGS.iter().any(|prefix| key.starts_with(prefix)).then(|| (key.to_ascii_lowercase(), value))
    })
}

/// Waits until the runtime has done what `work` says.
pub(crate) fn wait<T: Send + 'static>(
    work: impl Future<Output = Result<T, object_store::Error>> + Send + 'static,
) -> Result<T, object_store::Error> {
    let failed = |reason: String| object_store::Error::Generic { store: "runtime", source: reason.into() };
    let runtime = RUNTIME.as_ref().map_err(|error| failed(format!("its threads cannot be started: {error}")))?;
    let (done, outcome) = mpsc::sync_channel(1);
    runtime.spawn(async move { done.send(work.await) });
    outcome.recv().map_err(|_| failed("it was given up".to_owned()))?
}

/// What went wrong with a URL, in words that say what to look at.
pub(crate) fn refusal(action: &'static str, url: &str, error: &object_store::Error) -> Error {
    use object_store::Error as Store;
    let advice = match error {
        _ if status(error) == Some(404) => {
            "there is nothing by that name; look at the spelling of bucket and path".to_owned()
        }
        _ if is_about_credentials(error) => {
            let found: Vec<_> = settings().map(|(key, _)| key.to_ascii_uppercase()).collect();
            let found = if found.is_empty() { "none of them is set".to_owned() } else { found.join(", ") };
            format!(
                "its credentials are refused ({}); they come from the environment (AWS_*, GOOGLE_*, AZURE_*: {found})",
                innermost(error)
            )
        }
        Store::Precondition { .. } => "it was changed while it was read; start again when it is at rest".to_owned(),
        Store::NotImplemented { operation, .. } => format!("this kind of server does not know {operation}"),
        _ => format!("{}; look at the address, the network and the server", innermost(error)),
    };
    Error::CheckLocation { action, location: url.to_owned(), reason: advice }
}

/// Whether the store does not know the caller, or does not let it in.
pub(crate) fn is_about_credentials(error: &object_store::Error) -> bool {
    matches!(status(error), Some(401 | 403))
}

/// The HTTP status that an error stands for. Of a refused listing the crate keeps it to itself, and only its text has it.
fn status(error: &object_store::Error) -> Option<u16> {
    use object_store::Error as Store;
    match error {
        Store::NotFound { .. } => Some(404),
        Store::Unauthenticated { .. } => Some(401),
        Store::PermissionDenied { .. } => Some(403),
        Store::Generic { .. } => {
            let message = innermost(error);
            let (_, after) = message.split_once("status code: ")?;
            after.split_whitespace().next()?.parse().ok()
        }
        _ => None,
    }
}

/// What lies under layers of "error performing request".
fn innermost(error: &object_store::Error) -> String {
    let (mut message, mut source) = (error.to_string(), error.source());
    while let Some(inner) = source {
        message = inner.to_string();
        source = inner.source();
    }
    message.lines().next().unwrap_or_default().chars().take(300).collect()
}
