//! The rungs that may answer a question, from the best answers to the cheapest ones, and why a question is answered on one. When a question
//! takes a lower one is decided by `ladder`.

/// A rung with an encoder, a catalogue index and a ranking head of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rung {
    /// The full sentence encoder.
    Full,
    /// A light encoder: static embeddings, a hundred times as fast.
    Light,
}

impl Rung {
    /// Every rung with a model, the best first.
    pub const ALL: [Rung; 2] = [Rung::Full, Rung::Light];

    /// Its name in larder.toml, in metrics and in the log.
    pub fn label(self) -> &'static str {
        match self {
            Rung::Full => "full",
            Rung::Light => "light",
        }
    }
}

/// What a question is answered with: a model, the scores that a model gave the same question before, or the tenant's text for
/// questions that a person takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Model(Rung),
    /// The rung is that of the scores.
    Cached(Rung),
    Fallback,
}

impl Source {
    /// The rung's name in replies and metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Source::Model(rung) => rung.label(),
            Source::Cached(_) => "cached",
            Source::Fallback => "fallback",
        }
    }

    /// Its place among the labels.
    pub(crate) fn place(self) -> usize {
        match self {
            Source::Model(Rung::Full) => 0,
            Source::Model(Rung::Light) => 1,
            Source::Cached(_) => 2,
            Source::Fallback => 3,
        }
    }
}

/// Why a question is answered on its rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    FirstChoice,
    /// Its scores were there already.
    AskedBefore,
    /// The node has so much to do that the better rung would keep others, or this question, waiting for too long.
    Busy,
    /// The better rung has failed again and again and is left alone for a while.
    Resting,
    /// The better rung failed just now.
    Failed,
}

impl Why {
    /// For a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Why::FirstChoice => "first_choice",
            Why::AskedBefore => "asked_before",
            Why::Busy => "busy",
            Why::Resting => "resting",
            Why::Failed => "failed",
        }
    }

    /// For a person.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Why::FirstChoice => "the full model is the first choice",
            Why::AskedBefore => "the same question was scored before; the scores were taken, with this user's features",
            Why::Busy => "the node is busy: a better model would have taken too long",
            Why::Resting => "a better model failed repeatedly and is not asked for a while",
            Why::Failed => "the full model failed; the node's log says why",
        }
    }
}

/// The rung that was chosen for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) source: Source,
    pub(crate) why: Why,
}

impl Choice {
    /// What a question gets when nothing speaks against it.
    #[cfg(test)]
    pub(crate) const FIRST: Choice = Choice { source: Source::Model(Rung::Full), why: Why::FirstChoice };
}
