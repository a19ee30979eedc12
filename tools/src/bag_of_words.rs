//! The baseline that the model has to beat: the nearest neighbour of a question by the words it shares.
//!
//! A text becomes its word counts, weighted by how rare each word is (tf-idf, Spärck Jones 1972), and two texts
//! are as near as the cosine of their weights. It sees no features and no meaning, which is the point: a test
//! question that it answers proves nothing about the model.

use std::collections::{BTreeMap, HashMap};

/// Weight by word; ordered, so that sums and with them near ties come out the same in every run.
type Weights = BTreeMap<String, f64>;

/// Labelled texts, indexed by their words.
#[derive(Debug, Clone)]
pub struct BagOfWords {
    idf: HashMap<String, f64>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    label: String,
    weights: Weights,
}

/// The nearest labelled text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour<'a> {
    /// Its label.
    pub label: &'a str,
    /// The cosine of the two texts' weights, above 0 and at most 1.
    pub cosine: f64,
}

impl BagOfWords {
    /// Indexes `(label, text)` pairs.
    pub fn new<'a>(examples: impl IntoIterator<Item = (&'a str, &'a str)>) -> BagOfWords {
        let examples: Vec<(&str, Vec<String>)> =
            examples.into_iter().map(|(label, text)| (label, words(text))).collect();
        let mut documents: HashMap<String, usize> = HashMap::new();
        for (_, words) in &examples {
            for word in counts(words).into_keys() {
                *documents.entry(word).or_default() += 1;
            }
        }
        let total = examples.len() as f64;
        let idf = documents.into_iter().map(|(word, n)| (word, 1.0 + (total / n as f64).ln())).collect();
        let entries = examples
            .iter()
            .map(|(label, words)| Entry { label: (*label).to_owned(), weights: weigh(words, &idf) })
            .collect();
        BagOfWords { idf, entries }
    }

    /// The nearest text, the earlier one of two that are equally near; `None` when no text shares a word with it.
    pub fn nearest(&self, text: &str) -> Option<Neighbour<'_>> {
        let weights = weigh(&words(text), &self.idf);
        let mut best: Option<Neighbour<'_>> = None;
        for entry in &self.entries {
            let cosine = dot(&weights, &entry.weights);
            if cosine > best.map_or(0.0, |best| best.cosine) {
                best = Some(Neighbour { label: &entry.label, cosine });
            }
        }
        best
    }
}

/// The words of a text: runs of letters and digits, in lower case; an apostrophe does not end a word.
pub fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .replace(['\'', '’'], "")
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The most words in a row that stand in both texts.
pub fn longest_shared_run(left: &[String], right: &[String]) -> usize {
    // lengths[j] = the length of the shared run that ends at left[i] and right[j].
    let mut lengths = vec![0usize; right.len() + 1];
    let mut longest = 0;
    for word in left {
        for j in (0..right.len()).rev() {
            lengths[j + 1] = if right[j] == *word { lengths[j] + 1 } else { 0 };
            longest = longest.max(lengths[j + 1]);
        }
    }
    longest
}

fn counts(words: &[String]) -> Weights {
    let mut counts = Weights::new();
    for word in words {
        *counts.entry(word.clone()).or_insert(0.0) += 1.0;
    }
    counts
}

/// Weights of length 1. A word that no indexed text has is left out: it can match nothing.
fn weigh(words: &[String], idf: &HashMap<String, f64>) -> Weights {
    let mut weights = counts(words);
    weights.retain(|word, weight| match idf.get(word) {
        Some(idf) => {
            *weight *= idf;
            true
        }
        None => false,
    });
    let norm = weights.values().map(|weight| weight * weight).sum::<f64>().sqrt();
    weights.values_mut().for_each(|weight| *weight /= norm);
    weights
}

fn dot(left: &Weights, right: &Weights) -> f64 {
    left.iter().filter_map(|(word, weight)| Some(weight * right.get(word)?)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> BagOfWords {
        BagOfWords::new([
            ("track", "Where is my parcel?"),
            ("track", "Track my order please"),
            ("refund", "I want my money back"),
            ("refund", "How do I get a refund?"),
        ])
    }

    #[test]
    fn the_text_itself_is_its_own_neighbour() {
        let index = shop();
        let nearest = index.nearest("how do I get a REFUND").unwrap();
        assert_eq!(nearest.label, "refund");
        assert!((nearest.cosine - 1.0).abs() < 1e-9, "{}", nearest.cosine);
    }

    #[test]
    fn a_rare_word_outweighs_a_common_one() {
        // "my" stands in three texts, "parcel" in one.
        assert_eq!(shop().nearest("my my parcel").unwrap().label, "track");
    }

    #[test]
    fn no_shared_word_is_no_neighbour() {
        assert_eq!(shop().nearest("Gibt es Gutscheine?"), None);
        assert_eq!(shop().nearest(""), None);
    }

    #[test]
    fn words_ignore_case_punctuation_and_apostrophes() {
        assert_eq!(words("Where's  MY order (no. 4711)?"), ["wheres", "my", "order", "no", "4711"]);
    }

    #[test]
    fn the_longest_shared_run_is_counted_in_words() {
        let run = |left, right| longest_shared_run(&words(left), &words(right));
        assert_eq!(run("where is my order now", "Tell me where is my order"), 4);
        assert_eq!(run("my order is late", "late is my order"), 2);
        assert_eq!(run("a b a b a b", "a b a b x"), 4);
        assert_eq!(run("refund", ""), 0);
        assert_eq!(run("one two", "three four"), 0);
    }
}
