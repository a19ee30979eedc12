//! The search for a node's capacity: which rate to try next, given what became of those before. Knows no clock and no network.
//!
//! It doubles the rate until a step fails, then halves the gap between the best step that held and the worst that did not.

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    /// Enough answers were in time.
    Held,
    /// Too few were.
    Missed,
    /// The generator was the limit: nothing is known of the node at this rate, and more is of no use.
    Void,
}

/// A search that goes on.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    start: f64,
    most: f64,
    /// The search ends when the gap is this part of the best rate.
    resolution: f64,
    held: Option<f64>,
    failed: Option<f64>,
    void: bool,
}

impl Search {
    pub(crate) fn new(start: f64, most: f64, resolution: f64) -> Search {
        Search { start: start.round().clamp(1.0, most), most, resolution, held: None, failed: None, void: false }
    }

    /// The next rate to try, in whole questions a second; none when the capacity is known.
    pub(crate) fn next(&self) -> Option<f64> {
        let rate = match (self.held, self.failed) {
            (None, None) => self.start,
            (Some(held), None) if held >= self.most => return None,
            (Some(held), None) => (held * 2.0).min(self.most),
            (None, Some(failed)) if failed <= 1.0 => return None,
            (None, Some(failed)) => (failed / 2.0).floor().max(1.0),
            (Some(held), Some(failed)) if failed - held <= (held * self.resolution).max(1.0) => return None,
            (Some(held), Some(failed)) => ((held + failed) / 2.0).round(),
        };
        Some(rate)
    }

    /// Takes in what became of the rate that `next` named.
    pub(crate) fn tried(&mut self, rate: f64, tried: Tried) {
        match tried {
            Tried::Held => self.held = Some(rate),
            Tried::Missed | Tried::Void => self.failed = Some(rate),
        }
        self.void |= tried == Tried::Void;
    }

    /// The highest rate that held.
    pub(crate) fn capacity(&self) -> Option<f64> {
        self.held
    }

    /// Whether the generator or the highest rate allowed, and not the node, ended the search.
    pub(crate) fn is_limited(&self) -> bool {
        self.void || self.held.is_some_and(|held| held >= self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a node that holds every rate up to its capacity.
    fn search(capacity: f64, start: f64, void_above: f64) -> (Search, Vec<f64>) {
        let mut search = Search::new(start, 100_000.0, 0.02);
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            assert!(rates.len() < 60, "{rates:?}");
            let tried = match rate {
                rate if rate > void_above => Tried::Void,
                rate if rate <= capacity => Tried::Held,
                _ => Tried::Missed,
            };
            search.tried(rate, tried);
        }
        (search, rates)
    }

    #[test]
    fn the_capacity_is_found_from_any_start() {
        for (capacity, start) in [(620.0, 50.0), (620.0, 5_000.0), (3.0, 50.0), (99_000.0, 1.0), (1.0, 1.0)] {
            let (found, rates) = search(capacity, start, f64::MAX);
            let rate = found.capacity().unwrap();
            assert!(rate <= capacity && capacity - rate <= (0.02 * rate).max(1.0), "{capacity}: {rate} by {rates:?}");
            assert!(!found.is_limited());
        }
    }

    #[test]
    fn it_climbs_by_doubling_and_then_halves_the_gap() {
        let (_, rates) = search(620.0, 50.0, f64::MAX);
        assert_eq!(rates, [50.0, 100.0, 200.0, 400.0, 800.0, 600.0, 700.0, 650.0, 625.0, 613.0]);
    }

    #[test]
    fn a_node_that_holds_nothing_has_no_capacity() {
        let (found, rates) = search(0.0, 8.0, f64::MAX);
        assert_eq!((found.capacity(), rates), (None, vec![8.0, 4.0, 2.0, 1.0]));
    }

    #[test]
    fn a_starved_generator_is_no_limit_of_the_node() {
        let (found, _) = search(f64::MAX, 50.0, 1_000.0);
        assert!(found.is_limited() && found.capacity().is_some_and(|rate| rate <= 1_000.0));
        let (found, rates) = search(f64::MAX, 50.0, f64::MAX);
        assert!(found.is_limited(), "the highest rate allowed was reached");
        assert_eq!(rates.last(), Some(&100_000.0));
    }
}
