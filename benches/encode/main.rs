//! What a text costs the encoder, beside ONNX Runtime with the same weights, and what a search of a very large catalogue costs.
//!
//! The texts are the banking77 test questions (../shared/data, or $LARDER_SHARED/data), in their real mix of lengths. Both sides get the same
//! token ids, the same number of threads and f32; ONNX Runtime has a fused graph, texts sorted by length and its own best batch size. Their
//! vectors must be equal to 1e-4 before anything is measured. Runs alternate, and figures are medians of ratios; above 1 ours is the faster.
//!
//! LARDER_BENCH_ROUNDS is the number of rounds (5), LARDER_BENCH_RUNS that of the runs whose spread is measured (2,000). The result goes to target/bench/encode.json of the checkout.

mod onnx;
mod search;

use std::path::{Path, PathBuf};
use std::time::Instant;

use larder_benches::{Figures, Outcome, median, micros, percentile, setting};
use larder_model::{Devices, Encoder, EncoderConfig, ModelConfig, Tokens};
use tokenizers::Tokenizer;

use crate::onnx::OnnxRuntime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Texts that are encoded in one call, as many as a node's batch may hold.
const TEXTS_PER_CALL: usize = 32;
/// Runs of one text in a row.
const SINGLE_RUNS: usize = 100;
/// Tokens of the one text whose latency is measured.
const SINGLE_TOKENS: usize = 12;
/// The most that two vectors may differ.
const TOLERANCE: f32 = 1e-4;

fn main() -> Outcome<()> {
    let rounds = setting("LARDER_BENCH_ROUNDS", 5)?.max(1);
    let runs = setting("LARDER_BENCH_RUNS", 2000)?.max(1);
    let texts = questions()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut figures = Figures::new("encode");
    figures.set("texts", texts.len() as f64);
    for threads in [1, 2] {
        let encoder = encoder(threads, ModelConfig::default().micro_batch_tokens)?;
        compare(&encoder, &texts, threads, rounds, &mut figures)?;
        budgets(&texts, threads, rounds.div_ceil(3), &mut figures)?;
        spread(&encoder, &texts, threads, runs, &mut figures)?;
        if threads == 2 {
            light(&texts, rounds, &mut figures)?;
            search::measure(&encoder, &mut figures)?;
        }
    }
    figures.write()
}

/// Throughput over all texts and latency of one, in turns with ONNX Runtime.
fn compare(encoder: &Encoder, texts: &[&str], threads: usize, rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let all = encoder.tokenize(texts)?;
    let calls = texts.chunks(TEXTS_PER_CALL).map(|texts| encoder.tokenize(texts)).collect::<Result<Vec<_>, _>>()?;
    let mut by_length: Vec<usize> = (0..texts.len()).collect();
    by_length.sort_by_key(|text| all.ids(*text).len());
    let short =
        by_length.into_iter().find(|text| all.ids(*text).len() >= SINGLE_TOKENS).ok_or("all texts are short")?;
    let short = encoder.tokenize(&[texts[short]])?;
    let mut onnx = OnnxRuntime::start(&model_folder()?, &all, threads)?;
    if let Some(onnx) = &mut onnx {
        agree(encoder, &all, onnx)?;
    }
    let batch = onnx.as_mut().map(OnnxRuntime::best_batch).transpose()?.unwrap_or_default();

    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    let (mut our_latencies, mut latency_ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let seconds = encode_all(encoder, &calls)?;
        let latency = single(encoder, &short)?;
        ours.push(texts.len() as f64 / seconds);
        our_latencies.push(latency * 1e6);
        if let Some(onnx) = &mut onnx {
            ratios.push(onnx.encode_all(batch)? / seconds);
            latency_ratios.push(onnx.single(SINGLE_RUNS)? / latency);
        }
    }
    figures.set(format!("l6_texts_per_s_{threads}t"), median(&mut ours));
    figures.set(format!("l6_latency_us_{threads}t"), median(&mut our_latencies));
    if onnx.is_some() {
        figures.set(format!("ort_best_batch_{threads}t"), batch as f64);
        figures.set(format!("l6_vs_ort_{threads}t"), median(&mut ratios));
        figures.set(format!("l6_latency_vs_ort_{threads}t"), median(&mut latency_ratios));
    }
    Ok(())
}

fn agree(encoder: &Encoder, tokens: &Tokens, onnx: &mut OnnxRuntime) -> Outcome<()> {
    let (ours, theirs) = (encoder.encode(tokens)?, onnx.vectors(encoder.dimension())?);
    let differences = ours.data.iter().zip(&theirs.data).map(|(one, other)| (one - other).abs());
    let largest = differences.fold(0.0, f32::max);
    if ours.data.len() != theirs.data.len() || largest > TOLERANCE {
        return Err(format!("the sides' vectors differ by {largest}").into());
    }
    Ok(())
}

fn encode_all(encoder: &Encoder, calls: &[Tokens]) -> Outcome<f64> {
    let started = Instant::now();
    for tokens in calls {
        std::hint::black_box(encoder.encode(tokens)?);
    }
    Ok(started.elapsed().as_secs_f64())
}

/// The median seconds of one text.
fn single(encoder: &Encoder, tokens: &Tokens) -> Outcome<f64> {
    let mut times = timed(encoder, tokens, SINGLE_RUNS)?;
    Ok(median(&mut times))
}

/// Texts per second by the number of tokens that go through the network together, the setting `micro_batch_tokens`.
fn budgets(texts: &[&str], threads: usize, rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let mut sides = Vec::new();
    for tokens in [64, 128, 256, 512] {
        let encoder = encoder(threads, tokens)?;
        let calls = texts.chunks(TEXTS_PER_CALL).map(|texts| encoder.tokenize(texts)).collect::<Result<Vec<_>, _>>()?;
        sides.push((tokens, encoder, calls, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, encoder, calls, rates) in &mut sides {
            rates.push(texts.len() as f64 / encode_all(encoder, calls)?);
        }
    }
    for (tokens, _, _, mut rates) in sides {
        figures.set(format!("l6_texts_per_s_{threads}t_micro_batch_{tokens}"), median(&mut rates));
    }
    Ok(())
}

/// The whole light rung, from text to vector, beside the `tokenizers` library, which only makes token ids of it: calls of one text each, the size
/// at which overheads show most.
fn light(texts: &[&str], rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let devices = Devices::open(&ModelConfig::default())?;
    let folder = models()?.join("potion");
    let mut library = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|error| error.to_string())?;
    library.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
    let by_library = |text: &&str| library.encode_fast(*text, false).map(drop).map_err(|error| error.to_string());
    let encoder = Encoder::load(&EncoderConfig { folder, ..EncoderConfig::default() }, &devices)?;
    let (mut whole, mut ratios, mut ours_by_library) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (alone, _) = micros(|| Ok(texts.iter().try_for_each(by_library)?))?;
        let (ours, _) = micros(|| Ok(texts.iter().try_for_each(|text| encoder.tokenize(&[text]).map(drop))?))?;
        let (both, _) = micros(|| Ok(texts.iter().try_for_each(|text| encoder.encode_texts(&[text]).map(drop))?))?;
        whole.push(both / texts.len() as f64);
        ratios.push(both / alone);
        ours_by_library.push(ours / alone);
    }
    figures.set("light_us_per_text", median(&mut whole));
    figures.set("light_vs_tokenise", median(&mut ratios));
    figures.set("tokenise_vs_library", median(&mut ours_by_library));
    Ok(())
}

/// How much longer than usual the same input may take, for batches of 1 to 32 texts.
fn spread(encoder: &Encoder, texts: &[&str], threads: usize, runs: usize, figures: &mut Figures) -> Outcome<()> {
    let mut worst: f64 = 0.0;
    for count in [1, 8, 32] {
        let tokens = encoder.tokenize(&texts[..count.min(texts.len())])?;
        let mut times = timed(encoder, &tokens, runs)?;
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        println!("{count:3} texts, {:4} tokens: p50 {:.0} us, p99 {:.0} us", tokens.total(), p50 * 1e6, p99 * 1e6);
        worst = worst.max(p99 / p50);
    }
    figures.set(format!("forward_p99_over_p50_{threads}t"), worst);
    Ok(())
}

fn timed(encoder: &Encoder, tokens: &Tokens, runs: usize) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        std::hint::black_box(encoder.encode(tokens)?);
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn encoder(threads: usize, micro_batch_tokens: usize) -> Outcome<Encoder> {
    let devices = Devices::open(&ModelConfig { threads, micro_batch_tokens, ..ModelConfig::default() })?;
    Ok(Encoder::load(&EncoderConfig { folder: model_folder()?, ..EncoderConfig::default() }, &devices)?)
}

fn model_folder() -> Outcome<PathBuf> {
    Ok(models()?.join("minilm-l6"))
}

/// The folder into which `larder model get` puts models.
fn models() -> Outcome<PathBuf> {
    Ok(match std::env::var_os("LARDER_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?).join(".cache/larder/models"),
    })
}

/// The texts of banking77's test.csv, the first column.
fn questions() -> Outcome<Vec<String>> {
    let shared = std::env::var_os("LARDER_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let file = shared.join("data/banking77/test.csv");
    let mut reader = csv::Reader::from_path(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(reader.records().map(|record| Ok(record?[0].to_owned())).collect::<Result<_, csv::Error>>()?)
}
