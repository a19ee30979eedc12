//! Promise: a snapshot is taken from where it lies, a folder or an object store, and what the network or the store does wrong is said in a
//! line that tells what to look at.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use larder_ingest::{BuildReport, BuildRequest, Error, Location, build};
use larder_store::{FeatureType, TenantId, ViewConfig};
use parquet::arrow::ArrowWriter;

use crate::support::command::larder;
use crate::support::file_server::FileServer;
use crate::support::store::{feature, profile};

const ROWS: usize = 60_000;

fn view() -> ViewConfig {
    ViewConfig { ttl_s: None, features: vec![feature("number", FeatureType::I64)], ..profile() }
}

/// Rows in no order, with a column that nobody asks for and that takes most of the file.
fn parquet(first: usize) -> Vec<u8> {
    let rows = first..first + ROWS;
    let mixed = |row: usize| row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let texts =
        |text: fn(usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.clone().map(text))) };
    let unused: ArrayRef =
        Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("{:0>150}", mixed(row)))));
    let columns: [(&str, ArrayRef); 4] = [
        ("unused", unused),
        ("user_id", texts(|row| format!("user-{row}"))),
        ("updated_at", Arc::new(TimestampMillisecondArray::from_iter_values(rows.clone().map(|row| row as i64)))),
        ("number", Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row as i64)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn build_from(source: &str, folder: &Path) -> Result<BuildReport, Error> {
    let view = view();
    let out = folder.join("built");
    let _ = fs::remove_dir_all(&out);
    let mut request = BuildRequest::new(&view, TenantId(1), vec![Location::parse(source)?], out, 1, 77);
    request.limits.threads = 2;
    build(&request, &mut |_| ())
}

#[test]
fn files_are_read_over_http_in_ranges_and_broken_connections_are_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let server = FileServer::start();
    let content = parquet(0);
    let bytes = content.len() as u64;
    assert!(bytes > 5 << 20, "{bytes}");
    server.put("shop/a file.parquet", content);
    let url = server.url("shop/a%20file.parquet");
    let report = build_from(&url, folder.path()).unwrap();
    assert_eq!((report.rows_read, report.manifest.entities), (ROWS as u64, ROWS as u64));
    let requests = server.requests();
    let ranges = requests.iter().filter_map(|request| request.rsplit_once(' ')?.1.split_once('-'));
    let ranges: Vec<(u64, u64)> = ranges.map(|(start, end)| (start.parse().unwrap(), end.parse().unwrap())).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|(start, end)| end - start < 2 << 20), "{requests:?}");
    let distinct: std::collections::BTreeSet<_> = ranges.iter().collect();
    let fetched: u64 = distinct.iter().map(|(start, end)| end - start + 1).sum();
    assert!(fetched < bytes, "the column that nobody asked for was fetched: {fetched} of {bytes}");

    server.break_off(2);
    let again = build_from(&url, folder.path()).unwrap();
    assert_eq!(again.manifest.rows, report.manifest.rows);
    server.break_off(usize::MAX);
    let message = build_from(&url, folder.path()).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot read {url}: ")), "{message}");
    assert!(message.ends_with("look at the address, the network and the server"), "{message}");
}

#[test]
fn what_cannot_be_reached_or_is_refused_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let server = FileServer::start();
    let refusal = |url: &str| {
        let error = build_from(url, folder.path()).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{url} left something");
        error.to_string()
    };
    let absent = server.url("absent.parquet");
    let message = refusal(&absent);
    assert!(message.contains("there is no such file, and folders are listed only over WebDAV"), "{message}");
    server.refuse(403);
    let message = refusal(&absent);
    assert!(message.contains("credentials are refused") && message.contains("AWS_*, GOOGLE_*, AZURE_*"), "{message}");
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let message = refusal(&format!("http://{nobody}/a.parquet"));
    assert!(message.contains(&nobody.to_string()) && message.contains("look at the address"), "{message}");
    server.refuse(0);
    server.put("text.parquet", b"user_id,number\nada,1\n".to_vec());
    let message = refusal(&server.url("text.parquet"));
    assert!(message.contains("text.parquet: not a readable Parquet file"), "{message}");
    for (url, says) in [
        ("ftp://host/a.parquet", "known are paths and URLs with file, s3, gs"),
        ("s3:///a.parquet", "s3:///a.parquet"),
        ("https://ada:secret@host/a.parquet", "does not hold the password"),
        ("https://host/a.parquet?sig=secret", "credentials come from the environment"),
        ("file://elsewhere/a.parquet", "not a path of this machine"),
        ("", "an empty path"),
    ] {
        let message = Location::parse(url).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains("secret"), "{url}: {message}");
    }
}

#[test]
fn a_bucket_is_listed_and_read_with_the_credentials_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let server = FileServer::start();
    for (number, day) in ["day=2026-01-01", "day=2026-01-02 10%3A00%3A00"].iter().enumerate() {
        server.put(&format!("bucket/orders/{day}/part.parquet"), parquet(number * ROWS));
    }
    for other in ["bucket/orders/_SUCCESS", "bucket/orders/_temporary/x.parquet", "bucket/other/x.parquet"] {
        server.put(other, b"nothing that may be read".to_vec());
    }
    let config = folder.path().join("larder.toml");
    let view = "[[view]]\nname = \"profile\"\nid = 1\nkind = \"latest\"\nentity_key = \"user_id\"\nevent_time = \"updated_at\"\n\
                features = [ { name = \"number\", type = \"i64\" }, { name = \"day\", type = \"timestamp\" } ]\n";
    let tenant = "[[tenant]]\nname = \"demo\"\nid = 1\ncatalogue = \"catalogue.toml\"\nservice = \"s\"\n";
    let service = "[[service]]\nname = \"s\"\nfeatures = [ { feature = \"profile:number\" } ]\n";
    fs::write(&config, format!("{tenant}{view}{service}")).unwrap();
    let build = |key: Option<&str>| {
        let mut command = larder();
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.env("AWS_ENDPOINT", server.url("").trim_end_matches('/')).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_REGION", "eu-central-1");
        if let Some(key) = key {
            command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", "secret");
        }
        command.args(["ingest", "build", "--tenant", "demo", "--view", "profile", "--json", "--config"]).arg(&config);
        command.arg("--out").arg(folder.path().join("built")).arg("s3://bucket/orders/");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stdout, stderr) = build(Some("key"));
    assert_eq!(code, Some(0), "{stderr}");
    let built: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&built["rows_read"], &built["already_built"]), (&(2 * ROWS).into(), &false.into()), "{built}");
    let (code, stdout, stderr) = build(Some("key"));
    assert_eq!(code, Some(0), "{stderr}");
    let built: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(built["already_built"], true, "{built}");
    server.refuse(403);
    let (code, _, stderr) = build(Some("key"));
    assert_eq!(code, Some(1));
    let says = ["s3://bucket/orders", "credentials are refused", "AWS_ACCESS_KEY_ID"];
    assert!(says.iter().all(|says| stderr.contains(says)), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn a_location_here_and_there_does_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = FileServer::start();
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let source = folder.path().join("source");
    fs::write(&source, &content).unwrap();
    let here = Location::local(folder.path().join("here"));
    let there = Location::parse(&server.url("there")).unwrap();
    let by_url = Location::parse(&format!("file://{}/by-url", folder.path().display())).unwrap();
    for place in [here, there, by_url] {
        let file = place.join("a/b c/file=1.bin");
        assert_eq!(file.find().unwrap(), None, "{file}");
        assert!(file.read(1 << 20).is_err() && file.download(&folder.path().join("x")).is_err(), "{file}");
        file.delete().unwrap();
        assert_eq!(file.upload(&source).unwrap(), content.len() as u64, "{file}");
        let found = file.find().unwrap().unwrap();
        assert_eq!((found.bytes, found.relative.as_str()), (content.len() as u64, "file=1.bin"), "{file}");
        assert_eq!(file.read(1 << 20).unwrap(), content, "{file}");
        assert!(file.read(10).unwrap_err().to_string().contains("at most 10 are read"), "{file}");
        assert_eq!(file.read_range(4..12, found.etag.as_deref()).unwrap(), content[4..12], "{file}");
        assert!(file.read_range(4..4, None).unwrap().is_empty(), "{file}");
        let copy = folder.path().join("copy");
        assert_eq!(file.download(&copy).unwrap(), content.len() as u64, "{file}");
        assert_eq!(fs::read(&copy).unwrap(), content, "{file}");
        file.write(b"short".to_vec()).unwrap();
        assert_eq!(file.read(5).unwrap(), b"short".as_slice(), "{file}");
        file.delete().unwrap();
        assert_eq!(file.find().unwrap(), None, "{file}");
    }
    let below = Location::local(folder.path().join("listed"));
    assert!(below.list().unwrap().is_empty());
    for name in ["b/2", "a/1", "c"] {
        below.join(name).write(name.as_bytes().to_vec()).unwrap();
    }
    let names: Vec<_> = below.list().unwrap().into_iter().map(|file| file.relative).collect();
    assert_eq!(names, ["a/1", "b/2", "c"]);
    assert_eq!(server.get("there/a/b c/file=1.bin"), None);
}

#[test]
fn a_url_of_this_machine_is_a_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("snapshot")).unwrap();
    fs::write(folder.path().join("snapshot/a.parquet"), parquet(0)).unwrap();
    let report = build_from(&format!("file://{}/snapshot/", folder.path().display()), folder.path()).unwrap();
    assert_eq!(report.rows_read, ROWS as u64);
}
