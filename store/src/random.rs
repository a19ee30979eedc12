//! Random numbers from a seed, for what must not be the same everywhere and must be the same in a test: jitter, and faults on purpose.
//!
//! SplitMix64 (Steele et al. 2014), which needs no state beyond its seed.

/// A stream of random numbers; the same seed gives the same ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
