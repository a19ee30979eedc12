//! A message of a partition, as its decoders see it.

/// What was fetched; the bytes are the client's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// Its place in the partition.
    pub(crate) offset: u64,
    /// When it was sent, in Unix milliseconds, where that is known.
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<&'a [u8]>,
    /// None says that the entity of the key is gone.
    pub(crate) payload: Option<&'a [u8]>,
}

/// Why messages cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unread {
    /// What is wrong with one of them; it will be as wrong later.
    Wrong(String),
    /// What is needed to read them and is not there now.
    Later(String),
}

impl Unread {
    pub(crate) fn wrong(reason: &str) -> Unread {
        Unread::Wrong(reason.to_owned())
    }
}
