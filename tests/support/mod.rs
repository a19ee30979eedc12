//! What the suites share: shops to ask, nodes to ask them of, and the count of what could not be tested here.

pub(crate) mod child;
pub(crate) mod closed;
pub(crate) mod command;
pub(crate) mod disk;
pub(crate) mod file_server;
pub(crate) mod history;
pub(crate) mod kafka;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod shop;
pub(crate) mod store;
pub(crate) mod tiny_encoder;

use std::io::Write;
use std::path::PathBuf;

/// The folder of the model that most tests run.
pub(crate) fn encoder_folder() -> PathBuf {
    model_folder("minilm-l6")
}

/// The folder of a model, below LARDER_MODELS or in the cache that `larder model get` fills.
pub(crate) fn model_folder(name: &str) -> PathBuf {
    let models = std::env::var_os("LARDER_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME or LARDER_MODELS must be set");
        PathBuf::from(home).join(".cache/larder/models")
    });
    let folder = models.join(name);
    assert!(folder.join("model.safetensors").exists(), "{} is absent: run `larder model get {name}`", folder.display());
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

/// The Python with what the project's programs need: the one that `make test` installs, or `LARDER_PYTHON`. None = this test is skipped, which is
/// counted.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    let installed = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/larder/tools/python/bin/python"));
    let python = std::env::var_os("LARDER_PYTHON").map(PathBuf::from).or_else(installed);
    let found = python.filter(|python| python.exists());
    if found.is_none() {
        skip(test);
    }
    found
}

/// Notes a skipped test where `make test` counts it.
pub(crate) fn skip(test: &str) {
    eprintln!("skipped {test}: what it needs is not on this machine");
    if let Some(log) = std::env::var_os("LARDER_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        file.and_then(|mut file| writeln!(file, "{test}")).expect("LARDER_SKIP_LOG must be writable");
    }
}

/// Whether the long variants of the tests run, `make test-long`.
pub(crate) fn long() -> bool {
    std::env::var_os("LARDER_LONG").is_some_and(|long| long != "0")
}

/// Seeded numbers that look random.
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of a seed; seeds may follow each other.
    pub(crate) fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03);
        random.below(1);
        random
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 33) as usize) % bound
    }
}

/// The folder of the checkout.
pub(crate) fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the checkout").to_owned()
}
