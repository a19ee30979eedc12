//! The project keeps its own rules: first lines, dependency directions, settings and metrics as documented.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use larder_ingest::StreamConfig;
use larder_serve::NodeConfig;

use crate::support::checkout;

/// Every Rust file of the project.
fn rust_files() -> Vec<PathBuf> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for part in ["store", "model", "ingest", "serve", "tools", "tests", "benches"] {
        walk(&checkout().join(part), &mut files);
    }
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    files
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 20, "{} begins with {first:?}", file.display());
    }
}

#[test]
fn every_suite_is_part_of_the_test_binary() {
    let main = std::fs::read_to_string(checkout().join("tests/main.rs")).unwrap();
    for entry in std::fs::read_dir(checkout().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let suite = path.file_stem().unwrap().to_str().unwrap();
        let counted = path.extension().is_none_or(|extension| extension != "rs") || suite == "main";
        assert!(counted || main.contains(&format!("\nmod {suite};")), "tests/main.rs does not name {suite}");
    }
}

#[test]
fn no_crate_names_what_it_must_not() {
    let forbidden: [(&str, &[&str]); 5] = [
        ("store", &["tokio", "tonic", "burn", "larder-model", "larder-serve", "larder-ingest"]),
        ("model", &["tokio", "tonic", "rocksdb", "moka", "larder-store", "larder-serve", "larder-ingest"]),
        ("ingest", &["tonic", "burn", "rocksdb", "moka", "larder-model", "larder-serve"]),
        ("serve", &["rocksdb", "moka", "burn", "larder"]),
        ("tools", &["rocksdb", "moka", "burn"]),
    ];
    for (part, names) in forbidden {
        let manifest = std::fs::read_to_string(checkout().join(part).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let depends = manifest["dependencies"].as_table().unwrap();
        for name in names {
            assert!(!depends.contains_key(*name), "{part}/Cargo.toml names {name}");
        }
    }
}

#[test]
fn protobuf_types_stop_in_the_wire_layer() {
    let allowed = ["lib.rs", "wire.rs", "grpc.rs", "features.rs", "admin.rs", "inspect.rs"];
    for file in rust_files().into_iter().filter(|file| file.starts_with(checkout().join("serve/src"))) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        // The service files with what lies in their folders.
        let is_service = file.parent().is_some_and(|folder| folder.ends_with("admin"));
        assert!(allowed.contains(&name) || is_service || !text.contains("v1::"), "{name} uses protobuf types");
    }
}

#[test]
fn types_of_arrow_flight_stop_in_its_files() {
    let serve = checkout().join("serve/src");
    for file in rust_files().into_iter().filter(|file| file.starts_with(&serve)) {
        let own = file == serve.join("flight.rs") || file.starts_with(serve.join("flight"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(own || !text.contains("arrow_flight"), "{} uses types of Arrow Flight", file.display());
    }
}

#[test]
fn larder_toml_as_shipped_equals_the_defaults() {
    let shipped = NodeConfig::load(&checkout().join("larder.toml")).unwrap();
    let mut defaults = NodeConfig::default();
    // Paths are resolved against the file's folder.
    defaults.node.cache = checkout().join(defaults.node.cache);
    defaults.store.path = checkout().join(defaults.store.path);
    defaults.store.cold_path = checkout().join(defaults.store.cold_path);
    defaults.model.full.folder = checkout().join(defaults.model.full.folder);
    defaults.model.light.folder = checkout().join(defaults.model.light.folder);
    assert_eq!(shipped, defaults);
}

#[test]
fn larder_toml_as_shipped_names_every_setting() {
    let shipped: toml::Table = std::fs::read_to_string(checkout().join("larder.toml")).unwrap().parse().unwrap();
    let defaults = toml::Table::try_from(NodeConfig::default()).unwrap();
    for (section, settings) in &defaults {
        let Some(settings) = settings.as_table() else { continue };
        for key in settings.keys() {
            assert!(shipped[section].as_table().unwrap().contains_key(key), "[{section}] {key} is missing");
        }
    }
}

#[test]
fn the_stream_that_larder_toml_shows_names_every_setting_at_its_default() {
    let file = std::fs::read_to_string(checkout().join("larder.toml")).unwrap();
    let shown = &file[file.find("# [[stream]]").unwrap()..];
    let shown: Vec<&str> = shown.lines().map_while(|line| line.strip_prefix("# ")).collect();
    let mut shown: toml::Table = shown.join("\n").parse().unwrap();
    let shown = shown.remove("stream").unwrap().as_array().unwrap()[0].as_table().unwrap().clone();
    let required = ["name", "brokers", "topic", "tenant", "view", "format"];
    let least: toml::Table = shown.clone().into_iter().filter(|(key, _)| required.contains(&key.as_str())).collect();
    let defaults: StreamConfig = toml::Value::Table(least).try_into().unwrap();
    let defaults = toml::Table::try_from(defaults).unwrap();
    assert_eq!(shown.keys().collect::<BTreeSet<_>>(), defaults.keys().collect());
    for (key, value) in &defaults {
        // What has nothing to show by default shows an example.
        let is_example = ["schemas", "properties"].contains(&key.as_str());
        assert!(is_example || shown[key] == *value, "{key} = {} is shown, {value} is the default", shown[key]);
    }
    let _: StreamConfig = toml::Value::Table(shown).try_into().unwrap();
}

#[test]
fn the_readme_lists_every_metric_and_no_other() {
    let name_at = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect()
    };
    let mut declared = BTreeSet::new();
    for file in rust_files().into_iter().filter(|file| file.ends_with("src/metrics.rs")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("\"larder_") {
            let name = name_at(&text[at + 1..]);
            // A whole string, not the beginning of a sentence.
            if text[at + 1 + name.len()..].starts_with('"') {
                declared.insert(name);
            }
        }
    }
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap();
    let first_cells = readme.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let mut listed = BTreeSet::new();
    for cell in first_cells {
        for (at, _) in cell.match_indices("larder_") {
            let name = name_at(&cell[at..]);
            assert!(listed.insert(name.clone()), "{name} is listed twice");
        }
    }
    assert!(declared.len() > 30, "only {declared:?}");
    assert_eq!(listed, declared);
}

#[test]
fn a_wrong_larder_toml_is_refused_by_file_key_value_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("larder.toml");
    for (text, says) in [
        ("[batcher]\nmax_questions = 0", vec!["larder.toml", "batcher.max_questions = 0", "must be 1 to 4096"]),
        ("[batcher]\nmax_question = 1", vec!["larder.toml", "max_question", "expected one of", "max_wait_us"]),
        ("[lane]\nmax_waiting_per_tenant = 0", vec!["lane.max_waiting_per_tenant = 0", "must be 1 to 524288"]),
        ("[feedback]\nshare = 1.5", vec!["feedback.share = 1.5", "must be 0 to 1"]),
        ("[rows]\nmax_batch_rows = 65537", vec!["rows.max_batch_rows = 65537", "must be 1 to 65536"]),
        ("[node]\nlisten = \"localhost\"", vec!["listen", "\"localhost\"", "invalid socket address"]),
        ("[node]\nlisten = \"0.0.0.0:7700\"", vec!["node.listen", "0.0.0.0:7700", "identity.allow_remote"]),
        ("[rungs]\ncache_mib = 1048577", vec!["rungs.cache_mib = 1048577", "must be 0 to 1048576"]),
        ("[store]\nhot_shards = 0", vec!["larder.toml", "store.hot_shards = 0", "between 1 and 1024"]),
        ("[threads]\nscore_cores = \"all\"", vec!["threads.score_cores = \"all\"", "0-3,8"]),
        ("[chaos]\ncold_error_rate = 2", vec!["chaos.cold_error_rate = 2", "must be 0 to 1"]),
        ("[model]\ndevices = [\"tpu\"]", vec!["devices", "tpu", "cpu"]),
        ("[model.light]\nmax_tokens = 7", vec!["max_tokens = 7", "8 to 8192"]),
        (
            "[[tenant]]\nname = \"t\"\nid = 1\ncatalogue = \"c\"\nservice = \"s\"\nfull = { prefix = \"query: \" }",
            vec!["tenant \"t\"", "full", "folder = \"\""],
        ),
        (
            "[[tenant]]\nname = \"t\"\nid = 1\ncatalogue = \"c\"\nservice = \"s\"\nlight = { folder = \"\" }\nlight_head = \"h\"",
            vec!["tenant \"t\"", "light_head = \"h\"", "[model.light]"],
        ),
        ("[identity]\ndefault_tenant = \"x\"", vec!["identity.default_tenant = \"x\"", "no such tenant"]),
        ("[[service]]\nname = \"s\"\nfeatures = [ { feature = \"a:b\" } ]", vec!["feature = \"a:b\"", "no such view"]),
        ("[[service]]\nname = \"s\"\nfeatures = [ { feature = \"ab\" } ]", vec!["feature = \"ab\"", "view:feature"]),
        (
            "[[view]]\nname = \"v\"\nid = 1\nkind = \"latest\"\nentity_key = \"k\"\nevent_time = \"t\"\n\
             features = [ { name = \"f\", type = \"utf8\" } ]\n\
             [[service]]\nname = \"s\"\nfeatures = [ { feature = \"v:f\", encode = \"log\" } ]",
            vec!["feature = \"v:f\"", "Utf8", "log takes numbers"],
        ),
        ("[node\n", vec!["larder.toml", "line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let message = NodeConfig::load(&file).unwrap_err().to_string();
        for part in says {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
    let absent = NodeConfig::load(&folder.path().join("absent.toml")).unwrap_err().to_string();
    assert!(absent.contains("absent.toml: cannot be read"), "{absent}");
}
