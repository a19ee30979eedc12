//! What a hot user costs in memory: how much the process grows while users enter the hot tier, per byte of their encoded rows. It runs in
//! a process of its own, as memory that an earlier benchmark gave back to the allocator would hide the growth.

use std::path::PathBuf;
use std::process::Command;

use larder_benches::{Figures, Outcome, is_live, name};

use crate::store::{Reader, Shop, config};

/// The argument that makes this program the child: then the store's folder and the number of users to bring in.
const AS_CHILD: &str = "--memory-of-hot-users";
/// Most users brought in.
const MAX_USERS: usize = 500_000;
/// Room for all of them, whatever they cost.
const HOT_MIB: u64 = 8192;
/// The smallest block cache there is; it fills before the measurement begins.
const CACHE_MIB: u64 = 8;

/// Runs the child's part when this process is one.
pub(crate) fn as_child() -> Option<Outcome<()>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != AS_CHILD).skip(1);
    let (store, users) = (arguments.next()?, arguments.next()?);
    Some(grow(store.into(), &users))
}

/// Sets `rss_per_user`.
pub(crate) fn measure(shop: &Shop, figures: &mut Figures) -> Outcome<()> {
    let users = (shop.users / 2).min(MAX_USERS);
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.arg(AS_CHILD).arg(shop.path()).arg(users.to_string()).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let numbers: Option<Vec<f64>> = printed.split_whitespace().map(|number| number.parse().ok()).collect();
    let Some([grown, encoded]) = numbers.as_deref().filter(|_| output.status.success()) else {
        return Err(format!("the measurement of memory failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    };
    figures.set("hot_users", users as f64);
    figures.set("row_bytes_per_user", encoded / users as f64);
    figures.set("rss_bytes_per_user", grown / users as f64);
    figures.set("rss_per_user", grown / encoded);
    Ok(())
}

/// Prints by how many bytes the process grew, and how many bytes of rows it took in.
fn grow(store: PathBuf, users: &str) -> Outcome<()> {
    let users: usize = users.parse()?;
    let reader = Reader::open(&config(store, HOT_MIB, CACHE_MIB))?;
    // Users without live rows, so that what is read is what is held: one encoded row per view.
    let mut plain = (0..).filter(|user| !is_live(*user));
    // Others first, so that code, buffers and the block cache are there already.
    bring_in(&reader, plain.by_ref().take(users / 20))?;
    let (before, entries) = (resident_bytes()?, reader.store.hot_usage().entries);
    let encoded = bring_in(&reader, plain.take(users))?;
    let grown = resident_bytes()?.saturating_sub(before);
    let entered = reader.store.hot_usage().entries - entries;
    if entered != 2 * users as u64 {
        return Err(format!("{entered} rows of {users} users entered the hot tier").into());
    }
    println!("{grown} {encoded}");
    Ok(())
}

/// Brings users into the hot tier; returns the bytes of their rows.
fn bring_in(reader: &Reader, users: impl Iterator<Item = usize>) -> Outcome<u64> {
    let mut names = users.map(name);
    let mut encoded = 0;
    loop {
        let batch: Vec<_> = names.by_ref().take(super::USERS_PER_BATCH).collect();
        if batch.is_empty() {
            return Ok(encoded);
        }
        encoded += reader.fetch(&batch)?.stats.bytes_read;
        reader.store.hot_usage();
    }
}

/// The memory of this process, as the kernel counts it.
fn resident_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
