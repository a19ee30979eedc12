//! The rungs that may answer a question, from the best answers to the cheapest ones. What each costs and when a question takes a lower one is
//! not decided here.

/// A rung with an encoder, a catalogue index and a ranking head of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The full sentence encoder.
    Full,
    /// A light encoder: static embeddings, a hundred times as fast.
    Light,
}

impl Rung {
    /// Every rung, the best first.
    pub const ALL: [Rung; 2] = [Rung::Full, Rung::Light];

    /// Its name in larder.toml, in metrics and in the log.
    pub fn label(self) -> &'static str {
        match self {
            Rung::Full => "full",
            Rung::Light => "light",
        }
    }
}
