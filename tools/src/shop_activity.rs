//! How unevenly a shop's users buy and ask: by Zipf's law, the n-th user in proportion to 1 / n^S. With S = 0 all are alike.
//!
//! Two things are needed of it, and neither holds a table, so that a shop may have a hundred million users: who asks next, which
//! `rand_distr::Zipf` draws by rejection, and how much more than the mean a user buys, for which the sum of all weights is taken from the
//! Euler-Maclaurin formula behind its first terms.

use anyhow::{Result, anyhow, ensure};
use rand::rngs::StdRng;
use rand_distr::{Distribution, Zipf};

use crate::load::MAX_ZIPF;

/// Terms of the sum that are added one by one.
const EXACT_TERMS: usize = 1_000;

/// The activity of a shop's users, who are numbered from 0, the most active first.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    exponent: f64,
    users: usize,
    /// Of all users together, in units of the first.
    sum: f64,
    ranks: Zipf<f64>,
}

impl Activity {
    pub(crate) fn new(users: usize, exponent: f64) -> Result<Activity> {
        ensure!((0.0..=MAX_ZIPF).contains(&exponent), "--zipf {exponent}: must be 0 to {MAX_ZIPF}");
        ensure!(users > 0, "a shop has at least one user");
        Ok(Activity {
            exponent,
            users,
            sum: harmonic(users, exponent),
            ranks: Zipf::new(users as f64, exponent).map_err(|error| anyhow!("--zipf {exponent}: {error}"))?,
        })
    }

    /// Whether some are more active than others.
    pub(crate) fn is_uneven(&self) -> bool {
        self.exponent > 0.0
    }

    /// How many times as active as the mean a user is.
    pub(crate) fn of(&self, user: usize) -> f64 {
        self.users as f64 * ((user + 1) as f64).powf(-self.exponent) / self.sum
    }

    /// The user who does the next thing.
    pub(crate) fn draw(&self, rng: &mut StdRng) -> usize {
        (self.ranks.sample(rng) as usize).clamp(1, self.users) - 1
    }
}

/// The sum of k^-s for k from 1 to n.
fn harmonic(n: usize, s: f64) -> f64 {
    let term = |k: f64| k.powf(-s);
    let exact = n.min(EXACT_TERMS);
    let head: f64 = (1..=exact).map(|k| term(k as f64)).sum();
    if n == exact {
        return head;
    }
    // The rest, from a to b, by its integral and two corrections; what is left out is below 1e-12 of it.
    let (a, b) = (exact as f64, n as f64);
    let integral = if (s - 1.0).abs() < 1e-9 { (b / a).ln() } else { (b.powf(1.0 - s) - a.powf(1.0 - s)) / (1.0 - s) };
    let slope = |k: f64| -s * k.powf(-s - 1.0);
    head + integral + (term(b) - term(a)) / 2.0 + (slope(b) - slope(a)) / 12.0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_sum_of_a_large_shop_is_that_of_its_terms() {
        for s in [0.0, 0.5, 0.99, 1.0, 1.2, 4.0] {
            let exact: f64 = (1..=200_000).rev().map(|k| f64::from(k).powf(-s)).sum();
            let relative = (harmonic(200_000, s) - exact) / exact;
            assert!(relative.abs() < 1e-9, "s = {s}: {relative}");
        }
    }

    #[test]
    fn weights_have_the_mean_one_and_fall_as_they_should() {
        let activity = Activity::new(5_000, 1.0).unwrap();
        let mean = (0..5_000).map(|user| activity.of(user)).sum::<f64>() / 5_000.0;
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        assert!((activity.of(0) / activity.of(9) - 10.0).abs() < 1e-9);
        let even = Activity::new(5_000, 0.0).unwrap();
        assert!(!even.is_uneven() && (even.of(4_999) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn draws_fall_on_users_as_their_weights_say() {
        const DRAWS: usize = 200_000;
        for s in [0.0, 0.8, 1.0, 1.5] {
            let activity = Activity::new(50, s).unwrap();
            let mut rng = StdRng::seed_from_u64(7);
            let mut counts = [0_usize; 50];
            (0..DRAWS).for_each(|_| counts[activity.draw(&mut rng)] += 1);
            // Pearson's chi-squared with 49 degrees of freedom: above 94 by chance once in 10,000; the seed decides it here.
            let chi_squared: f64 = counts
                .iter()
                .enumerate()
                .map(|(user, count)| {
                    let expected = activity.of(user) * DRAWS as f64 / 50.0;
                    (*count as f64 - expected).powi(2) / expected
                })
                .sum();
            assert!(chi_squared < 94.0, "s = {s}: {chi_squared}");
        }
    }

    #[test]
    fn a_hundred_million_users_cost_nothing() {
        let activity = Activity::new(100_000_000, 1.0).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let draws: Vec<usize> = (0..10_000).map(|_| activity.draw(&mut rng)).collect();
        assert!(draws.iter().all(|user| *user < 100_000_000));
        // ln(1000) / ln(10^8), and Euler's constant on both sides: two fifths of all fall on the first thousand.
        let first = draws.iter().filter(|user| **user < 1_000).count();
        assert!((3_600..4_200).contains(&first), "{first}");
        assert!(draws.iter().any(|user| *user > 1_000_000));
    }

    #[test]
    fn an_exponent_out_of_range_is_refused() {
        for exponent in [-0.1, 4.1, f64::NAN] {
            assert!(Activity::new(9, exponent).unwrap_err().to_string().contains("must be 0 to 4"), "{exponent}");
        }
    }
}
