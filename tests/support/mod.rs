//! What the suites share: shops to ask, nodes to ask them of, and the count of what could not be tested here.

pub(crate) mod child;
pub(crate) mod command;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod shop;
pub(crate) mod store;

use std::io::Write;
use std::path::PathBuf;

/// The folder of the model that the tests run, from LARDER_MODELS or the cache that `larder model get` fills.
pub(crate) fn encoder_folder() -> PathBuf {
    let models = std::env::var_os("LARDER_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME or LARDER_MODELS must be set");
        PathBuf::from(home).join(".cache/larder/models")
    });
    let folder = models.join("minilm-l6");
    assert!(
        folder.join("model.safetensors").exists(),
        "{} is absent: run `larder model get minilm-l6`",
        folder.display()
    );
    folder
}

/// A file of the data that only some machines have, below LARDER_SHARED. None = this test is skipped, which is counted.
pub(crate) fn shared_data(test: &str, path: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("LARDER_SHARED").map(PathBuf::from);
    let found = shared.map(|shared| shared.join("data").join(path)).filter(|file| file.exists());
    if found.is_none() {
        skip(test);
    }
    found
}

/// Notes a skipped test where `make test` counts it.
fn skip(test: &str) {
    eprintln!("skipped {test}: its data is not on this machine");
    if let Some(log) = std::env::var_os("LARDER_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        file.and_then(|mut file| writeln!(file, "{test}")).expect("LARDER_SKIP_LOG must be writable");
    }
}

/// The folder of the checkout.
pub(crate) fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the checkout").to_owned()
}
