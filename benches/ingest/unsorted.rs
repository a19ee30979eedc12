//! A snapshot whose rows stand in no order and that is larger than the memory given to its build: on one core and on all, and what memory it
//! takes. Each build is a process of its own, as `larder ingest build` is, so that its peak is its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use larder_benches::{Figures, NOW_MS, Outcome, TENANT, account_batch, account_view, all_cores, median, only_core};
use larder_ingest::{BuildLimits, BuildRequest, build};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Says that this process is a build, and in which folder.
const AS_CHILD: &str = "LARDER_BENCH_BUILD";
const THREADS: &str = "LARDER_BENCH_BUILD_THREADS";
const ROWS_AT_ONCE: usize = 8192;
/// Files of the snapshot, as a job of several tasks writes.
const FILES: usize = 8;
/// The step from one row's key to the next one's, prime and so no divisor of any number of rows that is not its multiple.
const STEP: usize = 7_368_787;
/// The core of a build that has one.
const ONE_CORE: usize = 0;

/// Sets `build_rows_s_2c_vs_1c` and `build_peak_gib`.
pub(crate) fn measure(rows: usize, rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    for file in 0..FILES {
        write_part(&folder.path().join(format!("part-{file}.parquet")), rows, file)?;
    }
    let (mut one, mut all, mut ratios, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..rounds {
        for (threads, rates) in [(1, &mut one), (2, &mut all)] {
            let (seconds, gib) = run(folder.path(), threads)?;
            rates.push(rows as f64 / seconds);
            peak = peak.max(gib);
        }
        ratios.push(all[all.len() - 1] / one[one.len() - 1]);
    }
    figures.set("unsorted_rows", rows as f64);
    figures.set("build_rows_s_1c", median(&mut one));
    figures.set("build_rows_s_2c", median(&mut all));
    figures.set("build_rows_s_2c_vs_1c", median(&mut ratios));
    figures.set("build_peak_gib", peak);
    Ok(())
}

/// A part of the rows: every number below `rows` stands once in one of them.
fn write_part(path: &Path, rows: usize, part: usize) -> Outcome<()> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, account_view().arrow_schema(), Some(properties))?;
    let (first, last) = (rows * part / FILES, rows * (part + 1) / FILES);
    for start in (first..last).step_by(ROWS_AT_ONCE) {
        let users = (start..last.min(start + ROWS_AT_ONCE)).map(|row| row * STEP % rows);
        writer.write(&account_batch(users, 0)?)?;
    }
    writer.close()?;
    Ok(())
}

/// Seconds and peak GiB of one build.
fn run(folder: &Path, threads: usize) -> Outcome<(f64, f64)> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.env(AS_CHILD, folder).env(THREADS, threads.to_string()).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let said = String::from_utf8(output.stdout)?;
    let mut numbers = said.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(seconds)), Some(Ok(gib))) => Ok((seconds, gib)),
        _ => Err(format!("the build said {said:?}").into()),
    }
}

/// Builds, if this process is a build, and says how long it took and what memory.
pub(crate) fn as_child() -> Option<Outcome<()>> {
    let folder = std::env::var_os(AS_CHILD)?;
    let work = || -> Outcome<()> {
        let folder = Path::new(&folder);
        let threads = std::env::var(THREADS)?.parse()?;
        if threads == 1 {
            only_core(ONE_CORE)?;
        } else {
            all_cores()?;
        }
        let (view, out) = (account_view(), folder.join("generation"));
        let sources = (0..FILES).map(|file| folder.join(format!("part-{file}.parquet")).into()).collect();
        let limits = BuildLimits { threads, ..BuildLimits::default() };
        let request = BuildRequest { limits, ..BuildRequest::new(&view, TENANT, sources, out.clone(), 1, NOW_MS) };
        let started = Instant::now();
        build(&request, &mut |_| ())?;
        let seconds = started.elapsed().as_secs_f64();
        let status = fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        let kib: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
        fs::remove_dir_all(&out)?;
        println!("{seconds} {}", kib / f64::from(1 << 20));
        Ok(())
    };
    Some(work())
}
