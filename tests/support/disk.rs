//! The disk as tests need it: one that fails when told to, and one that remembers what was synced, so that a power loss can be played.
//!
//! `write`, `fsync` and `fdatasync` of this module take the place of libc's in the whole test binary: in Rust's standard library, and in
//! RocksDB, which is linked statically. Without orders they do nothing but the system call. Orders are given by folder, so that tests that run
//! side by side do not disturb each other.

#![expect(
    unsafe_code,
    reason = "taking the place of three C functions needs their C signatures, a raw system call and errno"
)]

use std::collections::HashMap;
use std::ffi::{c_int, c_long, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Random;

/// A call that a broken disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    Any,
}

/// A disk that refuses calls below a folder, for as long as this lives.
pub(crate) struct Broken(usize);

struct Fault {
    number: usize,
    folder: PathBuf,
    call: Call,
    errno: c_int,
    /// Calls that still succeed.
    spared: usize,
    seen: usize,
}

static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
/// How many there are or were: while it is 0 nobody looks.
static EVER: AtomicUsize = AtomicUsize::new(0);

/// Breaks the disk below `folder`: after `spared` calls that succeed, every `call` fails with `errno`. A write that is the first to fail writes half
/// of what it was given, as a disk does that fills up.
pub(crate) fn break_disk(folder: &Path, call: Call, errno: c_int, spared: usize) -> Broken {
    let number = EVER.fetch_add(1, Ordering::SeqCst);
    let fault = Fault { number, folder: folder.to_path_buf(), call, errno, spared, seen: 0 };
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    Broken(number)
}

impl Broken {
    /// How many calls came, refused or not.
    pub(crate) fn calls(&self) -> usize {
        let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().find(|fault| fault.number == self.0).map_or(0, |fault| fault.seen)
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        FAULTS.lock().unwrap_or_else(PoisonError::into_inner).retain(|fault| fault.number != self.0);
    }
}

/// What becomes of a call.
enum Verdict {
    Pass,
    /// Half of a write succeeds.
    Half,
    Fail(c_int),
}

fn judge(fd: c_int, call: Call) -> Verdict {
    if EVER.load(Ordering::Relaxed) == 0 {
        return Verdict::Pass;
    }
    let Some(path) = path_of(fd) else { return Verdict::Pass };
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let concerns =
        |fault: &&mut Fault| (fault.call == Call::Any || fault.call == call) && path.starts_with(&fault.folder);
    let Some(fault) = faults.iter_mut().find(concerns) else { return Verdict::Pass };
    fault.seen += 1;
    match (fault.seen - 1).checked_sub(fault.spared) {
        None => Verdict::Pass,
        Some(0) if call == Call::Write => Verdict::Half,
        Some(_) => Verdict::Fail(fault.errno),
    }
}

fn path_of(fd: c_int) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

// SAFETY (of the three names): each has the signature of the C function whose place it takes, and does what that does or fails as it may.

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    let count = match judge(fd, Call::Write) {
        Verdict::Pass => count,
        Verdict::Half if count > 1 => count / 2,
        Verdict::Half => return fail(libc::ENOSPC) as isize,
        Verdict::Fail(errno) => return fail(errno) as isize,
    };
    // SAFETY: `bytes` has at least `count` bytes, as the caller promised.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) as isize }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync)
}

fn sync(fd: c_int, number: c_long) -> c_int {
    if let Verdict::Fail(errno) = judge(fd, Call::Sync) {
        return fail(errno);
    }
    // SAFETY: the system call takes a number and nothing else.
    let call = || unsafe { libc::syscall(number, fd) as c_int };
    match SYNCS.get_or_init(Syncs::of_environment) {
        None => call(),
        Some(syncs) => syncs.note(fd, call),
    }
}

/// Set for a child process: the folder in which it notes what it synced.
pub(crate) const NOTED_IN: &str = "LARDER_TEST_SYNCS_NOTED_IN";
/// Set for a child process: files with this extension are not synced, though the caller is told so.
pub(crate) const NOT_SYNCED: &str = "LARDER_TEST_NOT_SYNCED";

static SYNCS: OnceLock<Option<Syncs>> = OnceLock::new();

/// Notes what was synced: `file <inode> <length>` and `dir <path> <name> <inode> ...`, separated by tabs, folders with a slash. Files are also linked under their
/// inode, so that they can be looked at after they were deleted, and no inode gets a second life.
struct Syncs {
    folder: PathBuf,
    notes: File,
    not_synced: Option<String>,
}

impl Syncs {
    fn of_environment() -> Option<Syncs> {
        let folder = PathBuf::from(std::env::var_os(NOTED_IN)?);
        Syncs::open(&folder, std::env::var(NOT_SYNCED).ok())
    }

    fn open(folder: &Path, not_synced: Option<String>) -> Option<Syncs> {
        let notes = OpenOptions::new().create(true).append(true).open(folder.join("notes")).ok()?;
        Some(Syncs { folder: folder.to_path_buf(), notes, not_synced })
    }

    /// What counts is what was there before the call: what comes meanwhile may or may not be on the disk.
    fn note(&self, fd: c_int, call: impl FnOnce() -> c_int) -> c_int {
        let Some(path) = path_of(fd) else { return call() };
        if self.not_synced.is_some() && path.extension().and_then(|found| found.to_str()) == self.not_synced.as_deref()
        {
            return 0;
        }
        let line = self.line(&path);
        let result = call();
        if let (0, Some(line)) = (result, line) {
            // One write to a file that is opened for appending is never torn by another.
            let _ = (&self.notes).write_all(line.as_bytes());
        }
        result
    }

    fn line(&self, path: &Path) -> Option<String> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.is_file() {
            self.keep(path, metadata.ino());
            return Some(format!("file\t{}\t{}\n", metadata.ino(), metadata.len()));
        }
        let mut line = format!("dir\t{}", path.display());
        for entry in fs::read_dir(path).ok()?.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                self.keep(&entry.path(), metadata.ino());
            }
            let slash = if metadata.is_dir() { "/" } else { "" };
            line += &format!("\t{}{slash}\t{}", entry.file_name().to_str()?, metadata.ino());
        }
        Some(line + "\n")
    }

    fn keep(&self, path: &Path, inode: u64) {
        let _ = fs::hard_link(path, self.folder.join(inode.to_string()));
    }
}

/// A folder whose power can fail: what was synced there since `begin` is known.
pub(crate) struct PowerCut {
    folder: PathBuf,
    notes: PathBuf,
}

/// What is left of what was not synced. Names are ordered: a folder shows its last synced state or the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// Nothing: neither bytes nor names.
    Lost,
    /// All names and some of the bytes.
    Partly,
}

impl PowerCut {
    /// Takes everything that is in `folder` for synced. `notes` is a new folder on the same file system; a child with [`NOTED_IN`] set to it goes on.
    pub(crate) fn begin(folder: &Path, notes: &Path) -> PowerCut {
        fn note(syncs: &Syncs, path: &Path) {
            let line = syncs.line(path).expect("the file can be looked at");
            (&syncs.notes).write_all(line.as_bytes()).expect("notes can be written");
            if path.is_dir() {
                fs::read_dir(path).expect("a folder").for_each(|entry| note(syncs, &entry.expect("an entry").path()));
            }
        }
        fs::create_dir(notes).expect("a new folder");
        note(&Syncs::open(notes, None).expect("notes can be written"), folder);
        PowerCut { folder: folder.to_path_buf(), notes: notes.to_path_buf() }
    }

    /// Makes in `to` what the disk would hold after a power loss now. Nobody may be writing any more.
    pub(crate) fn copy(&self, to: &Path, unsynced: Unsynced, random: &mut Random) {
        let notes = fs::read_to_string(self.notes.join("notes")).expect("notes");
        let (mut lengths, mut folders) = (HashMap::new(), HashMap::new());
        for line in notes.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            match fields[..] {
                ["file", inode, length] => {
                    lengths.insert(number(inode), number(length));
                }
                ["dir", path, ref entries @ ..] => {
                    let entries = entries.chunks(2).map(|entry| (entry[0].to_string(), number(entry[1]))).collect();
                    folders.insert(PathBuf::from(path), entries);
                }
                _ => panic!("not a note: {line}"),
            }
        }
        Copying { notes: &self.notes, lengths, folders, unsynced, random }.folder(&self.folder, to);
    }
}

struct Copying<'a> {
    notes: &'a Path,
    lengths: HashMap<u64, u64>,
    folders: HashMap<PathBuf, Vec<(String, u64)>>,
    unsynced: Unsynced,
    random: &'a mut Random,
}

impl Copying<'_> {
    fn folder(&mut self, from: &Path, to: &Path) {
        fs::create_dir(to).expect("a new folder");
        let present = || -> Option<Vec<_>> {
            let entries = fs::read_dir(from).ok()?.map(|entry| {
                let entry = entry.expect("an entry");
                let (name, metadata) = (entry.file_name().into_string(), entry.metadata().expect("metadata"));
                (name.expect("a plain name") + if metadata.is_dir() { "/" } else { "" }, metadata.ino())
            });
            Some(entries.collect())
        };
        let synced = self.folders.get(from).cloned().unwrap_or_default();
        let entries = match self.unsynced {
            Unsynced::Lost => synced,
            Unsynced::Partly => present().unwrap_or(synced),
        };
        for (name, inode) in entries {
            if let Some(name) = name.strip_suffix('/') {
                self.folder(&from.join(name), &to.join(name));
                continue;
            }
            let (path, copy) = (from.join(&name), to.join(&name));
            let present = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.ino() == inode);
            let source = if present { path } else { self.notes.join(inode.to_string()) };
            // A file that nobody ever synced and that is deleted by now is an empty one.
            let bytes = fs::read(source).unwrap_or_default();
            let synced = self.lengths.get(&inode).copied().unwrap_or(0).min(bytes.len() as u64) as usize;
            let more = match self.unsynced {
                Unsynced::Lost => 0,
                Unsynced::Partly => self.random.below(bytes.len() - synced + 1),
            };
            fs::write(copy, &bytes[..synced + more]).expect("a copy");
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}
