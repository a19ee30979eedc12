//! What an NVIDIA GPU makes of the model, beside the CPU of the same machine.
//!
//! An answer here is what a score thread does for a question without its features: tokens, vector, search of the sample shop's catalogue.
//! For each float type and each batch bucket batches go one after the other, the next as soon as the last is answered (1x), and a batch's
//! p99 is over all of them. Parity is over every example of the catalogue, against the CPU's f32. LARDER_BENCH_ROUNDS sets the
//! batches of each bucket (300). Without a usable GPU it says so and writes nothing. The result goes to target/bench/gpu.json.

use std::path::PathBuf;
use std::time::Instant;

use larder_benches::{Figures, Outcome, median, micros, percentile, setting};
use larder_model::{
    Catalogue, CatalogueIndex, CudaDtype, DeviceState, Devices, Embeddings, Encoder, EncoderConfig, ModelConfig,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The batch buckets.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Row lengths for full batches, in tokens.
const LENGTHS: [usize; 5] = [16, 32, 64, 128, 256];
/// Batches before the first that counts.
const UNCOUNTED: usize = 10;

fn main() -> Outcome<()> {
    let rounds = setting("LARDER_BENCH_ROUNDS", 300)?.max(1);
    let catalogue = Catalogue::from_toml(include_str!("../../tools/assets/catalogue.toml"))?;
    let texts: Vec<&str> = catalogue.intents.iter().flat_map(|intent| &intent.examples).map(String::as_str).collect();
    let mut figures = Figures::new("gpu");
    figures.set("questions", texts.len() as f64);
    let types = [("f32", CudaDtype::F32), ("bf16", CudaDtype::Bf16), ("f16", CudaDtype::F16)];
    let Some(first) = gpu(types[0].1)? else { return Ok(()) };

    let cpu = Devices::open(&ModelConfig::default())?;
    let encoder = Encoder::load(&model()?, &cpu)?;
    let expected = encoder.encode_texts(&texts)?;
    measure("cpu", &encoder, &catalogue, &texts, rounds.min(30), &mut figures)?;
    drop(first);
    for (name, dtype) in types {
        let Some(devices) = gpu(dtype)? else {
            figures.set(format!("{name}_usable"), 0.0);
            continue;
        };
        let began = Instant::now();
        let encoder = Encoder::load(&model()?, &devices)?;
        figures.set(format!("{name}_ready_s"), began.elapsed().as_secs_f64());
        let usable = devices.states()[0].state == DeviceState::Ready;
        figures.set(format!("{name}_usable"), if usable { 1.0 } else { 0.0 });
        if !usable {
            println!("bench gpu: {name}: {}", devices.states()[0].reason);
            continue;
        }
        parity(name, &encoder.encode_texts(&texts)?, &expected, &mut figures);
        measure(name, &encoder, &catalogue, &texts, rounds, &mut figures)?;
        for length in LENGTHS {
            let text = "parcel ".repeat(length - 2);
            let time = typical(&encoder, &[text.as_str(); 32], rounds.min(50))?;
            figures.set(format!("{name}_b32_l{length}_texts_per_s"), 32.0 * 1e6 / time);
        }
        let state = &devices.states()[0];
        if state.state != DeviceState::Ready {
            return Err(format!("{name}: the GPU broke on the way: {}", state.reason).into());
        }
    }
    figures.write()
}

/// The first GPU, if it opens and computes rightly; otherwise why not is said.
fn gpu(dtype: CudaDtype) -> Outcome<Option<Devices>> {
    let config = ModelConfig { devices: vec!["cuda:0".to_owned()], cuda_dtype: dtype, ..ModelConfig::default() };
    let devices = match Devices::open(&config) {
        Ok(devices) => devices,
        Err(error) => {
            println!("bench gpu: {error}; nothing is written");
            return Ok(None);
        }
    };
    let state = devices.states().swap_remove(0);
    if state.state == DeviceState::Ready {
        return Ok(Some(devices));
    }
    println!("bench gpu: {dtype:?}: {} is not usable: {}", state.name, state.reason);
    Ok(None)
}

fn model() -> Outcome<EncoderConfig> {
    let models = std::env::var_os("LARDER_MODELS").map(PathBuf::from);
    let models = models.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/larder/models")));
    let folder = models.ok_or("HOME or LARDER_MODELS must be set")?.join("minilm-l6");
    Ok(EncoderConfig { folder, ..EncoderConfig::default() })
}

/// Answers a second and p99 of a batch, per batch bucket.
fn measure(
    name: &str,
    encoder: &Encoder,
    catalogue: &Catalogue,
    texts: &[&str],
    rounds: usize,
    figures: &mut Figures,
) -> Outcome<()> {
    let index = CatalogueIndex::build(encoder, catalogue, &mut |_, _| {})?;
    for batch in BATCHES {
        let mut times = Vec::with_capacity(rounds);
        for round in 0..UNCOUNTED + rounds {
            let texts: Vec<&str> = (0..batch).map(|text| texts[(round * batch + text) % texts.len()]).collect();
            let (time, _) = micros(|| Ok(index.best_cosines(&encoder.encode_texts(&texts)?)?))?;
            times.push(time);
        }
        let counted = &mut times[UNCOUNTED..];
        let seconds = counted.iter().sum::<f64>() / 1e6;
        figures.set(format!("{name}_b{batch}_answers_per_s"), (batch * rounds) as f64 / seconds);
        figures.set(format!("{name}_b{batch}_p99_ms"), percentile(counted, 0.99) / 1e3);
    }
    Ok(())
}

/// The median microseconds of encoding these texts.
fn typical(encoder: &Encoder, texts: &[&str], rounds: usize) -> Outcome<f64> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        times.push(micros(|| Ok(encoder.encode_texts(texts)?))?.0);
    }
    Ok(median(&mut times))
}

/// How far the GPU's vectors are from the CPU's.
fn parity(name: &str, found: &Embeddings, expected: &Embeddings, figures: &mut Figures) {
    let (mut furthest, mut least_cosine) = (0.0_f32, 1.0_f32);
    for text in 0..found.len() {
        let pairs = || found.row(text).iter().zip(expected.row(text));
        furthest = furthest.max(pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt());
        least_cosine = least_cosine.min(pairs().map(|(a, b)| a * b).sum());
    }
    // In millionths: figures are kept to three places.
    figures.set(format!("{name}_furthest_ppm"), f64::from(furthest) * 1e6);
    figures.set(format!("{name}_least_cosine_below_one_ppm"), f64::from(1.0 - least_cosine) * 1e6);
}
