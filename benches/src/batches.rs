//! The requests: batches of users as they would arrive, drawn from a seed, so that every run asks the same.

use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};

use crate::shop::name;

/// The users of one request, by number and by name.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Their numbers.
    pub users: Vec<usize>,
    /// Their names, in the same order.
    pub names: Vec<String>,
}

impl Batch {
    fn new(users: Vec<usize>) -> Batch {
        Batch { names: users.iter().map(|&user| name(user)).collect(), users }
    }
}

/// Batches of distinct users, every user as likely as any other.
pub fn uniform_batches(count: usize, users: usize, per_batch: usize, seed: u64) -> Vec<Batch> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| Batch::new(index::sample(&mut random, users, per_batch).into_vec())).collect()
}

/// Batches in which the user of rank r is asked for in proportion to 1 / r^`exponent`, repeats included. Ranks are spread over the users.
pub fn zipf_batches(count: usize, users: usize, per_batch: usize, exponent: f64, seed: u64) -> Vec<Batch> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut total = 0.0;
    let weights: Vec<f64> = (1..=users)
        .map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        })
        .collect();
    let mut draw = || {
        let at = random.random::<f64>() * total;
        let rank = weights.partition_point(|&sum| sum < at).min(users - 1);
        // A step that shares no factor with most counts of users; ranks that meet on one user do no harm.
        rank.wrapping_mul(7919) % users
    };
    (0..count).map(|_| Batch::new((0..per_batch).map(|_| draw()).collect())).collect()
}
