//! The numbers of generations: the time in Unix seconds, or the next free number where a second has had one already.
//!
//! A store takes only numbers greater than all before, and they fit into 32 bits, so that nothing finer than seconds will do for long. What was drawn
//! on this machine is noted in the node's cache folder, for each view of each tenant; where that cannot be written the time alone has to do.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use chrono::Utc;
use larder_serve::NodeConfig;

const FOLDER: &str = "generation-numbers";
/// A note that is so far ahead of the time is none: the clock was wrong, or something else wrote it.
const MAX_AHEAD: u32 = 30 * 86_400;

/// Draws the number of a new generation: greater than all drawn before on this machine, and than `in_use`.
pub(crate) fn draw(config: &NodeConfig, tenant: &str, view: &str, in_use: u32) -> Result<u32> {
    let now = u32::try_from(Utc::now().timestamp());
    let now = now.context("the clock of this machine is set outside 1970 to 2106")?;
    let least = now.max(in_use.saturating_add(1));
    Ok(note(&config.node.cache.join(FOLDER), &format!("{tenant}-{view}"), least, now).unwrap_or(least))
}

/// Takes `least`, or the number behind the last that was noted, and notes it.
fn note(folder: &Path, name: &str, least: u32, now: u32) -> io::Result<u32> {
    fs::create_dir_all(folder)?;
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(folder.join(name))?;
    // Until it is closed: others draw at the same time.
    file.lock()?;
    let mut noted = String::new();
    Read::by_ref(&mut file).take(16).read_to_string(&mut noted)?;
    let last = noted.trim().parse().ok().filter(|last: &u32| *last <= now.saturating_add(MAX_AHEAD));
    let number = least.max(last.map_or(0, |last| last + 1));
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    file.write_all(number.to_string().as_bytes())?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_drawn_twice_however_many_draw_in_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let draw = || note(&path, "demo-orders", 1_000, 1_000).unwrap();
        let mut drawn: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..25).map(|_| draw()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        drawn.sort_unstable();
        assert_eq!(drawn, (1_000..1_100).collect::<Vec<_>>());
        assert_eq!(note(&path, "demo-profile", 1_000, 1_000).unwrap(), 1_000, "of another view");
        assert_eq!(note(&path, "demo-orders", 2_000, 2_000).unwrap(), 2_000, "time goes on");
        assert_eq!(note(&path, "demo-orders", 3_000, 2_000).unwrap(), 3_000, "a store is ahead of the time");
    }

    #[test]
    fn a_note_that_cannot_be_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for spoilt in ["", "soon", "4294967295", "-1", "99999999999999999999999"] {
            fs::write(folder.path().join("demo-orders"), spoilt).unwrap();
            assert_eq!(note(folder.path(), "demo-orders", 1_000, 1_000).unwrap(), 1_000, "{spoilt}");
        }
        assert!(note(Path::new("/dev/null/cache"), "demo-orders", 1, 1).is_err());
    }
}
