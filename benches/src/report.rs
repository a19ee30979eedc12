//! Where figures go: target/bench/NAME.json of the checkout, flat, with the commit they belong to, and one line on standard output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use crate::Outcome;

/// The figures of one benchmark, in the order in which they were found.
#[derive(Debug)]
pub struct Figures {
    name: &'static str,
    values: Map<String, Value>,
}

impl Figures {
    /// No figures yet of the benchmark `name`.
    pub fn new(name: &'static str) -> Figures {
        Figures { name, values: Map::new() }
    }

    /// Adds a figure.
    pub fn set(&mut self, key: impl Into<String>, value: f64) {
        let rounded = (value * 1000.0).round() / 1000.0;
        let number = if rounded.fract() == 0.0 { Value::from(rounded as i64) } else { Value::from(rounded) };
        self.values.insert(key.into(), number);
    }

    /// Writes the file anew and prints the line. A binary that was built elsewhere is told the checkout by LARDER_CHECKOUT.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(self) -> Outcome<()> {
        let checkout = std::env::var_os("LARDER_CHECKOUT").map(PathBuf::from);
        let checkout = checkout.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&checkout).output();
        let commit = commit.ok().filter(|output| output.status.success());
        let commit =
            commit.map_or("unknown".to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string());
        let mut all = Map::new();
        all.insert("commit".to_string(), commit.into());
        all.extend(self.values);

        let folder = checkout.join("target/bench");
        fs::create_dir_all(&folder)?;
        let file = folder.join(self.name).with_extension("json");
        fs::write(file, serde_json::to_string_pretty(&all)? + "\n")?;
        let pairs = all.iter().map(|(key, value)| format!("{key}={}", value.to_string().trim_matches('"')));
        println!("bench {}: {}", self.name, pairs.collect::<Vec<_>>().join(" "));
        Ok(())
    }
}
