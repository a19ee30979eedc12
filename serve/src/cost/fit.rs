//! Lines of least squares through what batches took, one for each power of two of tokens and one through all of them.

/// Batches of up to 2^0, 2^1, ... tokens; all larger ones share the last bucket.
const BUCKETS: usize = 17;
/// What every older observation counts for once a newer one has come: the last dozen batches decide.
const FORGET: f64 = 0.92;
/// The same when a batch took so little time that what was slow before is over.
const FORGET_SLOWNESS: f64 = 0.5;
/// How many times the predicted time one batch may count for, and the part of it below which the prediction is of another time.
const MAX_OUTLIER: f64 = 4.0;
/// What a batch takes at least, in nanoseconds: from nothing, no multiple would ever lead up again.
const LEAST: f64 = 1_000.0;
/// Observations, forgotten parts taken off, from which a bucket has a line of its own.
const ENOUGH: f64 = 3.0;
/// Standard deviation of the observed sizes over their mean from which they say anything of the slope.
const SPREAD: f64 = 0.1;
/// The least that a token more is taken to cost, as a part of what tokens cost on the whole: in a step of a GPU it costs nothing until the
/// next step begins, but a queue of work that costs nothing would have no bound.
const LEAST_MARGINAL: f64 = 0.1;
/// Before the first batch, in nanoseconds a token: slower than any machine we know, so that a cold node is careful.
const UNKNOWN_NS_PER_TOKEN: f64 = 400_000.0;

/// Everything learned, and the lines made of it, so that a prediction only reads.
#[derive(Debug)]
pub(super) struct Fitted {
    sums: [Sums; BUCKETS],
    /// Through all buckets.
    overall: Line,
    /// Nanoseconds that a token takes on the whole.
    per_token: f64,
    /// The line of each bucket.
    lines: [Line; BUCKETS],
    /// What the largest batch of any smaller bucket is predicted to take, in nanoseconds.
    floors: [f64; BUCKETS],
}

/// Weighted sums of tokens (x) and nanoseconds (y).
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// `slope * tokens + base`, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Line {
    slope: f64,
    base: f64,
}

impl Fitted {
    /// Nothing learned yet.
    pub(super) fn unknown() -> Fitted {
        let unknown = Line { slope: UNKNOWN_NS_PER_TOKEN, base: 0.0 };
        Fitted {
            sums: [Sums::default(); BUCKETS],
            overall: unknown,
            per_token: UNKNOWN_NS_PER_TOKEN,
            lines: [unknown; BUCKETS],
            floors: [0.0; BUCKETS],
        }
    }

    /// What a batch takes, in nanoseconds.
    pub(super) fn predict(&self, tokens: usize) -> f64 {
        let bucket = bucket_of(tokens);
        self.lines[bucket].at(tokens as f64).max(self.floors[bucket])
    }

    /// What every batch takes, in nanoseconds.
    pub(super) fn base(&self) -> f64 {
        self.overall.base
    }

    /// What a token more makes a batch take, in nanoseconds.
    pub(super) fn marginal(&self) -> f64 {
        self.overall.slope.max(self.per_token * LEAST_MARGINAL)
    }

    /// Learns that a batch took so many nanoseconds.
    pub(super) fn observe(&mut self, tokens: usize, elapsed: f64) {
        let known = self.sums.iter().any(|sums| sums.weight > 0.0);
        let (predicted, elapsed) = (self.predict(tokens), elapsed.max(LEAST));
        let (kept, elapsed) = if !known {
            (FORGET, elapsed)
        } else if elapsed * MAX_OUTLIER < predicted {
            // A machine may stand still by accident, but it is never fast by accident.
            (FORGET_SLOWNESS, elapsed)
        } else {
            (FORGET, elapsed.min(predicted * MAX_OUTLIER))
        };
        self.sums.iter_mut().for_each(|sums| sums.forget(kept));
        self.sums[bucket_of(tokens)].add(tokens as f64, elapsed);
        self.fit();
    }

    fn fit(&mut self) {
        let total = self.sums.iter().fold(Sums::default(), Sums::plus);
        self.overall = total.line();
        self.per_token = total.y / total.x;
        let mut floor: f64 = 0.0;
        for (bucket, sums) in self.sums.iter().enumerate() {
            let own = sums.weight >= ENOUGH && sums.spread() >= SPREAD;
            self.lines[bucket] = if own { sums.line() } else { self.overall };
            self.floors[bucket] = floor;
            floor = floor.max(self.lines[bucket].at(largest_of(bucket)));
        }
    }
}

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        *self = self.plus(&Sums { weight: 1.0, x, y, xx: x * x, xy: x * y });
    }

    fn plus(self, other: &Sums) -> Sums {
        Sums {
            weight: self.weight + other.weight,
            x: self.x + other.x,
            y: self.y + other.y,
            xx: self.xx + other.xx,
            xy: self.xy + other.xy,
        }
    }

    fn forget(&mut self, kept: f64) {
        let Sums { weight, x, y, xx, xy } = self;
        for sum in [weight, x, y, xx, xy] {
            *sum *= kept;
        }
    }

    /// Standard deviation of x over its mean.
    fn spread(&self) -> f64 {
        let mean = self.x / self.weight;
        (self.xx / self.weight - mean * mean).max(0.0).sqrt() / mean
    }

    /// The line of least squares, held at the means: through the origin where it would start below zero or where all sizes are one, and
    /// level where it would fall.
    fn line(&self) -> Line {
        let (mean_x, mean_y) = (self.x / self.weight, self.y / self.weight);
        let proportional = mean_y / mean_x;
        let slope = if self.spread() < SPREAD {
            proportional
        } else {
            let variance = self.xx / self.weight - mean_x * mean_x;
            let covariance = self.xy / self.weight - mean_x * mean_y;
            (covariance / variance).clamp(0.0, proportional)
        };
        Line { slope, base: (mean_y - slope * mean_x).max(0.0) }
    }
}

impl Line {
    fn at(self, tokens: f64) -> f64 {
        self.slope * tokens + self.base
    }
}

fn bucket_of(tokens: usize) -> usize {
    let bucket = tokens.max(1).checked_next_power_of_two().map_or(BUCKETS, |power| power.ilog2() as usize);
    bucket.min(BUCKETS - 1)
}

fn largest_of(bucket: usize) -> f64 {
    (1_u64 << bucket) as f64
}
