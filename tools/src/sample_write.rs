//! Writes a sample shop: each tenant's rows, catalogue and questions, larder.toml, the stream, and the record of it all.
//!
//! Everything comes from a seed and a moment, so that two people who name the same ones hold the same bytes. Memory does not grow with the
//! shop. The folder's sample.json says what it was made from; the demo reads it to know whether it can use the folder again.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::files::{absolute, sha256, sha256_file, write_whole};
use crate::progress::{Stage, Unit, bytes, count};
use crate::sample_record::{CATALOGUE_FILE, CONFIG, RECORD, SampleRecord, SampleRequest};
use crate::sample_tenant::Tenant;
use crate::shop_config::tenant_prefix;
use crate::shop_draw::MEAN_ORDERS;
use crate::shop_stream::{Asked, write_stream};

/// About what a row of each file takes on disk, compressed; measured on shops of 300,000 users.
const PROFILE_BYTES: f64 = 28.0;
const ORDER_BYTES: f64 = 47.0;
const DISTRACTOR_BYTES: f64 = 0.3;
const STREAM: &str = "stream.jsonl";

/// Writes a sample shop. What an earlier run wrote into the folder is replaced; a folder of another origin is refused.
pub fn write_sample(request: &SampleRequest) -> Result<SampleRecord> {
    request.validate()?;
    let out = request.out.as_path();
    let earlier = SampleRecord::read(out)?;
    if !out.join(RECORD).exists() && out.join(CONFIG).exists() {
        bail!("{} holds a {CONFIG} that no sample wrote; choose another --out, or remove it", out.display());
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    check_room(request)?;
    // Marks the folder as a sample's before anything else is in it.
    let mut record = SampleRecord::new(request)?;
    record.editable_sha256 = earlier.map(|earlier| earlier.editable_sha256).unwrap_or_default();
    record.write(out)?;

    let config = request.larder_toml(absolute)?;
    write_editable(out, CONFIG, &config, &mut record)?;
    let mut files = Vec::new();
    let mut asked = Vec::new();
    for (place, language) in request.tenants.iter().enumerate() {
        let tenant = Tenant::new(request, place, *language)?;
        tenant.write_rows(&mut record)?;
        files.extend(tenant.write_questions(request, &mut record)?);
        asked.push(tenant);
    }
    if request.stream > 0 {
        write_asked(&asked, request)?;
        files.push(STREAM.to_owned());
    } else {
        remove_stale(&out.join(STREAM))?;
    }
    let config_and_catalogues =
        |name: &String| name == CONFIG || asked.iter().any(|tenant| *name == tenant.file(CATALOGUE_FILE));
    record.editable_sha256.retain(|name, _| config_and_catalogues(name));
    for name in files {
        let sha256 = sha256_file(&out.join(&name))?;
        record.files_sha256.insert(name, sha256);
    }
    record.write(out)?;
    Ok(record)
}

fn write_asked(tenants: &[Tenant<'_>], request: &SampleRequest) -> Result<()> {
    let stage = Stage::start(STREAM, Unit::Items);
    let asked: Vec<Asked<'_>> =
        tenants.iter().map(|tenant| Asked { tenant: &tenant.name, shop: &tenant.shop, texts: &tenant.texts }).collect();
    let total = request.stream as u64;
    write_stream(&request.out.join(STREAM), &asked, request.stream, request.seed, |done| stage.set(done, total))?;
    stage.done(format_args!("{} questions", count(total)));
    Ok(())
}

/// Removes a file that an earlier sample wrote and this one does not have.
fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses a sample for which the disk has no room, before anything is written; what it replaces gives its own room back.
fn check_room(request: &SampleRequest) -> Result<()> {
    let out = &request.out;
    let Ok(disk) = rustix::fs::statvfs(out) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let size = |name: String| std::fs::metadata(out.join(name)).map_or(0, |file| file.len());
    let files = (0..request.tenants.len())
        .flat_map(|place| ["profile.parquet", "orders.parquet"].map(|name| format!("{}{name}", tenant_prefix(place))));
    let (needed, replaced) = (expected_bytes(request), files.map(size).sum::<u64>());
    ensure!(
        needed <= free.saturating_add(replaced),
        "{} needs about {} and its disk has {} free; make it smaller (--users, --tenants), or write it elsewhere",
        out.display(),
        bytes(needed),
        bytes(free)
    );
    Ok(())
}

/// About what the Parquet files of a sample take on disk.
fn expected_bytes(request: &SampleRequest) -> u64 {
    let profile = PROFILE_BYTES + DISTRACTOR_BYTES * request.distractors as f64;
    let user = profile + MEAN_ORDERS * ORDER_BYTES;
    (request.tenants.len() as f64 * request.users as f64 * user) as u64
}

/// Writes a file that a person may edit, unless a person has.
pub(crate) fn write_editable(out: &Path, name: &str, text: &str, record: &mut SampleRecord) -> Result<()> {
    let path = out.join(name);
    if let Some(written) = record.editable_sha256.get(name)
        && path.is_file()
        && sha256_file(&path)? != *written
    {
        eprintln!("{} was edited and is kept; remove it to have the sample's own again", path.display());
        return Ok(());
    }
    write_whole(&path, text.as_bytes())?;
    record.editable_sha256.insert(name.to_owned(), sha256(text.as_bytes())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sample_record::existing_sample;
    use crate::shop_locale::Language;

    fn request(out: &Path) -> SampleRequest {
        SampleRequest {
            out: out.to_owned(),
            users: 500,
            tenants: vec![Language::En],
            zipf: 0.0,
            stream: 50,
            seed: 42,
            now_ms: 1_790_000_000_000,
            label_noise: 0.0,
            distractors: 0,
            encoder: PathBuf::from("/models/minilm-l6"),
            light_encoder: Some(PathBuf::from("/models/potion")),
            multilingual_encoder: PathBuf::from("/models/me5-small"),
        }
    }

    /// Every file below a folder, by its name there.
    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let (mut open, mut found) = (vec![folder.to_owned()], Vec::new());
        while let Some(next) = open.pop() {
            for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                match path.is_dir() {
                    true => open.push(path),
                    false => {
                        let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                        found.push((name, std::fs::read(path).unwrap()));
                    }
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_same_seed_and_moment_give_the_same_bytes() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = |out: &Path| SampleRequest { tenants: vec![Language::En, Language::Zh], zipf: 0.5, ..request(out) };
        let first = write_sample(&both(left.path())).unwrap();
        let second = write_sample(&both(right.path())).unwrap();
        assert_eq!(first, second);
        assert!(files(left.path()) == files(right.path()), "the bytes differ");
        let other_seed = write_sample(&SampleRequest { seed: 43, ..both(right.path()) }).unwrap();
        assert_ne!(first.fingerprint().unwrap(), other_seed.fingerprint().unwrap());
    }

    #[test]
    fn the_first_tenant_is_the_same_however_many_there_are() {
        let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_sample(&request(one.path())).unwrap();
        let tenants = vec![Language::En, Language::Zh, Language::En];
        let record = write_sample(&SampleRequest { tenants, ..request(three.path()) }).unwrap();
        for name in ["profile.parquet", "orders.parquet", "train.jsonl", "questions.jsonl", "catalogue.toml"] {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(read(one.path()) == read(three.path()), "{name}");
            assert!(three.path().join("demo-2").join(name).exists() && record.files_sha256.len() == 3 * 5 + 1);
            assert!(read(three.path()) != read(&three.path().join("demo-2")), "{name}");
        }
        assert_eq!(record.test_questions, 600);
    }

    #[test]
    fn what_is_out_of_range_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("shop");
        let request = request(&out);
        for (wrong, says) in [
            (SampleRequest { users: 499, ..request.clone() }, "--users 499: must be 500 to 100000000"),
            (SampleRequest { tenants: vec![Language::En; 65], ..request.clone() }, "--tenants 65: must be 1 to 64"),
            (SampleRequest { zipf: f64::NAN, ..request.clone() }, "--zipf NaN: must be 0 to 4"),
            (SampleRequest { stream: 1_000_001, ..request.clone() }, "--stream 1000001: must be 0 to 1000000"),
            (SampleRequest { label_noise: 0.6, ..request.clone() }, "--label-noise 0.6: must be 0 to 0.5"),
        ] {
            assert_eq!(write_sample(&wrong).unwrap_err().to_string(), says);
            assert!(!out.exists());
        }
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let tenants = vec![Language::En; 64];
        let large = SampleRequest { users: 100_000_000, tenants, ..request(folder.path()) };
        // 1.6 TiB: where a disk has so much free there is nothing to see.
        let free = rustix::fs::statvfs(folder.path()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
        if expected_bytes(&large) > free {
            let error = check_room(&large).unwrap_err().to_string();
            assert!(error.contains("needs about 1.") && error.contains("TiB") && error.contains("--users"), "{error}");
        }
        check_room(&request(folder.path())).unwrap();
    }

    #[test]
    fn what_is_expected_on_disk_is_about_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let request = SampleRequest { users: 20_000, stream: 0, ..request(folder.path()) };
        let written = write_sample(&request).unwrap().bytes as f64;
        let ratio = expected_bytes(&request) as f64 / written;
        assert!((0.8..1.3).contains(&ratio), "{} expected, {written} written", expected_bytes(&request));
        assert!(!folder.path().join(STREAM).exists());
    }

    #[test]
    fn a_whole_sample_is_used_again_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(folder.path());
        assert_eq!(existing_sample(&request).unwrap(), None);
        let written = write_sample(&request).unwrap();
        assert_eq!(existing_sample(&request).unwrap(), Some(written));
        // An edited catalogue is the user's own business.
        std::fs::write(folder.path().join("catalogue.toml"), "# mine").unwrap();
        assert!(existing_sample(&request).unwrap().is_some());
        assert_eq!(existing_sample(&SampleRequest { seed: 1, ..request.clone() }).unwrap(), None);
        assert_eq!(existing_sample(&SampleRequest { zipf: 1.0, ..request.clone() }).unwrap(), None);
        std::fs::write(folder.path().join("orders.parquet"), "short").unwrap();
        assert_eq!(existing_sample(&request).unwrap(), None);
    }

    #[test]
    fn a_folder_of_another_origin_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), "# precious").unwrap();
        let error = write_sample(&request(folder.path())).unwrap_err().to_string();
        assert!(error.contains("no sample wrote"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join(CONFIG)).unwrap(), "# precious");
    }
}
