//! Which of many keys go first: those that come most often, or those with the greatest values in a column; with a bound on how many are held.

use std::cmp::Reverse;
use std::collections::HashMap;

use anyhow::{Result, bail};
use larder_store::MAX_ENTITY_BYTES;

/// Most distinct keys of one run; more than any hot tier holds.
pub(crate) const MAX_KEYS: usize = 10_000_000;

/// The keys of a file, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<String>,
    /// Lines and rows without a key that a store can hold.
    pub(crate) unusable: u64,
}

/// Keys as they come, with repeats: the one that comes most often first or, with a `top`, the one with the greatest value.
pub(crate) struct Gathered {
    top: Option<usize>,
    /// How often it came or its greatest value, and its place in the file.
    ranked: HashMap<String, (f64, u64)>,
    taken: u64,
    unusable: u64,
}

impl Gathered {
    /// Nothing yet. With `top` only so many are kept.
    pub(crate) fn new(top: Option<usize>) -> Gathered {
        Gathered { top, ranked: HashMap::new(), taken: 0, unusable: 0 }
    }

    /// Whether a key came already.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.ranked.contains_key(key)
    }

    /// Takes note of a row that has no key.
    pub(crate) fn pass_over(&mut self) {
        self.unusable += 1;
    }

    /// Takes note of a row; one without a value is not among the top.
    pub(crate) fn take(&mut self, key: Option<&str>, value: Option<f64>) -> Result<()> {
        let Some(key) = key.filter(|key| (1..=MAX_ENTITY_BYTES).contains(&key.len())) else {
            self.unusable += 1;
            return Ok(());
        };
        let value = match self.top {
            Some(_) => match value.filter(|value| !value.is_nan()) {
                Some(value) => value,
                None => return Ok(()),
            },
            None => 1.0,
        };
        self.taken += 1;
        let counts = self.top.is_none();
        if let Some((rank, _)) = self.ranked.get_mut(key) {
            *rank = if counts { *rank + value } else { rank.max(value) };
            return Ok(());
        }
        self.ranked.insert(key.to_owned(), (value, self.taken));
        match self.top {
            // Whoever is pushed out comes back with its greatest value, or is not among the top.
            Some(top) if self.ranked.len() > 2 * top + 1_024 => self.keep(top),
            None if self.ranked.len() > MAX_KEYS => {
                bail!("it names more than {MAX_KEYS} entities; choose by --top, or divide the file")
            }
            _ => {}
        }
        Ok(())
    }

    fn keep(&mut self, top: usize) {
        self.ranked = self.sorted().into_iter().take(top).collect();
    }

    fn sorted(&mut self) -> Vec<(String, (f64, u64))> {
        let mut sorted: Vec<_> = self.ranked.drain().collect();
        let rank = |(rank, at): (f64, u64)| (Reverse(ordered(rank)), at);
        sorted.sort_unstable_by_key(|(_, ranked)| rank(*ranked));
        sorted
    }

    /// The keys in their order.
    pub(crate) fn finish(mut self) -> Result<Keys> {
        let most = self.top.unwrap_or(usize::MAX);
        let keys = self.sorted().into_iter().take(most).map(|(key, _)| key).collect();
        Ok(Keys { keys, unusable: self.unusable })
    }
}

/// A number that compares as the value does; never asked of NaN.
fn ordered(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_is_the_same_however_often_it_is_cut_down() {
        let mut gathered = Gathered::new(Some(10));
        let value = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64;
        for n in 0..50_000 {
            gathered.take(Some(&format!("user-{}", n % 20_000)), Some(value(n))).unwrap();
            assert!(gathered.ranked.len() <= 1_045);
        }
        let mut expected: Vec<(u64, f64)> = Vec::new();
        for user in 0..20_000u64 {
            let values = (user..50_000).step_by(20_000).map(value);
            expected.push((user, values.fold(f64::MIN, f64::max)));
        }
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let expected: Vec<String> = expected[..10].iter().map(|(user, _)| format!("user-{user}")).collect();
        assert_eq!(gathered.finish().unwrap().keys, expected);
    }
}
