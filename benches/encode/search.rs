//! The exact search of a very large catalogue: a batch of questions against a million examples.

use larder_benches::{Figures, Outcome, median, micros};
use larder_model::{Catalogue, CatalogueIndex, Embeddings, Encoder, Intent};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Examples of the catalogue.
const EXAMPLES: usize = 1_000_000;
const EXAMPLES_PER_INTENT: usize = 1_000;
/// Questions searched at once.
const QUESTIONS: usize = 32;
/// Examples found for each.
const NEAREST: usize = 10;
const RUNS: usize = 21;

/// Milliseconds of one search, and what the process holds in memory meanwhile.
pub(crate) fn measure(encoder: &Encoder, figures: &mut Figures) -> Outcome<()> {
    let mut random = StdRng::seed_from_u64(1);
    let mut vectors = |count| unit_vectors(&mut random, count, encoder.dimension());
    let (examples, questions) = (vectors(EXAMPLES), vectors(QUESTIONS));
    let index = CatalogueIndex::from_vectors(encoder, &catalogue()?, examples)?;
    let mut nearest = Vec::with_capacity(RUNS);
    let mut closest = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        nearest.push(micros(|| Ok(index.nearest_examples(&questions, NEAREST)?))?.0 / 1000.0);
        closest.push(micros(|| Ok(index.best_cosines(&questions)?))?.0 / 1000.0);
    }
    figures.set("search_1m_top10_ms", median(&mut nearest));
    figures.set("search_1m_by_intent_ms", median(&mut closest));
    figures.set("search_1m_rss_gib", resident_gib()?);
    Ok(())
}

fn unit_vectors(random: &mut StdRng, count: usize, dimension: usize) -> Embeddings {
    let mut data = Vec::with_capacity(count * dimension);
    for _ in 0..count {
        let first = data.len();
        data.extend((0..dimension).map(|_| random.random_range(-1.0_f32..1.0)));
        let length = data[first..].iter().map(|value| value * value).sum::<f32>().sqrt();
        data[first..].iter_mut().for_each(|value| *value /= length);
    }
    Embeddings { dimension, data }
}

fn catalogue() -> Outcome<Catalogue> {
    let intent = |number: usize| Intent {
        name: format!("intent_{number}"),
        title: "an intent".to_owned(),
        examples: (0..EXAMPLES_PER_INTENT).map(|example| format!("question {number} {example}")).collect(),
        answer: "an answer".to_owned(),
        answer_without_features: "an answer".to_owned(),
    };
    Ok(Catalogue::new((0..EXAMPLES / EXAMPLES_PER_INTENT).map(intent).collect())?)
}

/// What this process has in memory.
fn resident_gib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / (1 << 20) as f64)
}
