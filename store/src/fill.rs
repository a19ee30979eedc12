//! Filling the hot tier beside the request path. Putting a row into the cache, and driving another one out, costs about as much as reading it
//! from the warm tier; a thread of its own does it, so that a fetch waits only for what it returns.
//!
//! The way there is bounded: when the thread falls behind, rows are left out, and are read from the warm tier once more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::hot::{Filling, Shards};
use crate::hot_row::HotRow;
use crate::metrics;

/// Most fetches whose rows wait to enter the hot tier.
const MAX_QUEUED_FETCHES: usize = 256;
/// Most bytes of keys and rows that wait to enter the hot tier.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// A message is full with so many bytes: the rows of one fetch may be more than the queue ever takes at a time.
const MESSAGE_BYTES: usize = 4 << 20;

enum Message {
    Fill(Filling, usize),
    /// Answered when everything sent before it is in the hot tier.
    Settle(SyncSender<()>),
}

/// The thread that fills the hot tier; it ends when this goes.
pub(crate) struct Filler {
    sender: Option<SyncSender<Message>>,
    queued_bytes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    pub(crate) fn start(hot: &Arc<Shards>) -> io::Result<Filler> {
        let (sender, receiver) = sync_channel(MAX_QUEUED_FETCHES);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (hot, queued) = (Arc::clone(hot), Arc::clone(&queued_bytes));
        let thread = thread::Builder::new().name("larder-hot".into()).spawn(move || fill(&hot, &receiver, &queued))?;
        Ok(Filler { sender: Some(sender), queued_bytes, thread: Some(thread) })
    }

    /// Hands rows over, in parts, until one does not fit into the queue. Never waits: that one and those after it are left out.
    pub(crate) fn fill(&self, filling: Filling) {
        let Filling { read_at, mut rows } = filling;
        while !rows.is_empty() {
            let (count, bytes) = part(&rows);
            let rest = rows.split_off(count);
            if !self.hand_over(Filling { read_at, rows }, bytes) {
                metrics::record_skipped_fill(count + rest.len());
                return;
            }
            rows = rest;
        }
    }

    /// False when the rows were left out.
    fn hand_over(&self, filling: Filling, bytes: usize) -> bool {
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_QUEUED_BYTES
            && let Some(sender) = &self.sender
            && sender.try_send(Message::Fill(filling, bytes)).is_ok()
        {
            return true;
        }
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    /// Waits until everything handed over before is in the hot tier.
    pub(crate) fn settle(&self) {
        if self.queued_bytes.load(Ordering::Acquire) == 0 {
            return;
        }
        let (done, wait) = sync_channel(1);
        let sent = self.sender.as_ref().map(|sender| sender.send(Message::Settle(done)));
        if sent.is_some_and(|sent| sent.is_ok()) {
            // An error means that the thread has ended, so nothing is on its way.
            let _ = wait.recv();
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many of the rows make a message, at least one, and their bytes.
fn part(rows: &[HotRow]) -> (usize, usize) {
    let mut bytes = 0;
    for (index, row) in rows.iter().enumerate() {
        if index > 0 && bytes + row.size() > MESSAGE_BYTES {
            return (index, bytes);
        }
        bytes += row.size();
    }
    (rows.len(), bytes)
}

fn fill(hot: &Shards, receiver: &Receiver<Message>, queued_bytes: &AtomicUsize) {
    for message in receiver {
        match message {
            Message::Fill(filling, bytes) => {
                hot.insert_all(filling);
                // Evictions too are done here, or the next reader would have to.
                hot.settle();
                queued_bytes.fetch_sub(bytes, Ordering::Release);
            }
            Message::Settle(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;
    use crate::hot::test_hash;

    fn start() -> (Arc<Shards>, Filler) {
        let hot = Arc::new(Shards::new(&StoreConfig::default(), 1));
        let filler = Filler::start(&hot).unwrap();
        (hot, filler)
    }

    fn filling(hot: &Shards, rows: &[(&[u8], Option<&[u8]>)]) -> Filling {
        let row = |&(key, row): &(&[u8], Option<&[u8]>)| HotRow::new(key, test_hash(key), row);
        Filling { read_at: hot.clock(), rows: rows.iter().map(row).collect() }
    }

    fn holds(hot: &Shards, key: &[u8]) -> Option<bool> {
        hot.get_all(&[(key, test_hash(key))])[0].as_ref().map(|row| row.row().is_some())
    }

    #[test]
    fn what_is_handed_over_is_there_after_settling() {
        let (hot, filler) = start();
        filler.fill(filling(&hot, &[(b"a", None), (b"b", Some(b"row"))]));
        filler.settle();
        assert_eq!((holds(&hot, b"a"), holds(&hot, b"b")), (Some(false), Some(true)));
        assert_eq!(filler.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rows_of_more_bytes_than_the_queue_takes_go_in_parts() {
        let (hot, filler) = start();
        let keys: Vec<_> = (0..40u8).map(|key| [key]).collect();
        let large = vec![0; 1 << 20];
        let rows: Vec<_> = keys.iter().map(|key| (key.as_slice(), Some(large.as_slice()))).collect();
        filler.fill(filling(&hot, &rows));
        filler.settle();
        assert!(keys[..28].iter().all(|key| holds(&hot, key).is_some()), "what the queue takes at the least");
        assert_eq!(filler.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_handed_over_to_a_thread_that_has_ended_is_left_out() {
        let (hot, _) = start();
        let (sender, _) = sync_channel(1);
        let filler = Filler { sender: Some(sender), queued_bytes: Arc::default(), thread: None };
        filler.fill(filling(&hot, &[(b"a", None)]));
        filler.settle();
        assert_eq!(filler.queued_bytes.load(Ordering::Relaxed), 0, "or settling would wait for it");
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_left_out() {
        let (hot, filler) = start();
        filler.fill(filling(&hot, &[(b"large", Some(&vec![0; MAX_QUEUED_BYTES]))]));
        filler.fill(filling(&hot, &[(b"small", None)]));
        filler.settle();
        assert_eq!((holds(&hot, b"large"), holds(&hot, b"small")), (None, Some(false)));
        assert_eq!(filler.queued_bytes.load(Ordering::Relaxed), 0);
    }
}
