//! Files that must be whole or absent: writing with fsync, linking with a copy as fallback, checksums.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::Error;
use crate::manifest::ManifestFile;

/// Writes `bytes` to `path` so that after a crash the file is either absent (or the old one) or whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_whole_with(path, |file| file.write_all(bytes))
}

/// As [`write_whole`], for content that comes piece by piece.
pub(crate) fn write_whole_with<T>(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let write = || -> io::Result<T> {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(temporary)?);
        let result = content(&mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(temporary, path)?;
        Ok(result)
    };
    let result = write().map_err(|error| {
        // It may name people, and nobody would look for it.
        let _ = fs::remove_file(temporary);
        Error::disk("write", path)(error)
    })?;
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(result)
}

/// Makes a folder and what is missing above it, all of it durable: a file that is synced in a folder whose own name is lost is lost too.
pub(crate) fn create_dir(dir: &Path) -> Result<(), Error> {
    let named = dir.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty());
    let missing: Vec<_> = named.take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(dir).map_err(Error::disk("create", dir))?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it; one that is not there is removed already.
pub(crate) fn remove_dir(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::disk("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(Error::disk("sync", dir))
}

/// Makes a file durable and returns its length and CRC-32.
pub(crate) fn sync_and_sum(path: &Path) -> Result<(u64, u32), Error> {
    let sum = || {
        let mut file = File::open(path)?;
        file.sync_all()?;
        crc32(&mut file)
    };
    sum().map_err(Error::disk("sync", path))
}

/// Makes `to` the same file as `from`, or a copy of it where the file system cannot link, and returns its length and CRC-32. What is
/// summed is `to`, so the checksum speaks of exactly the bytes that will be used.
pub(crate) fn link_and_sum(from: &Path, to: &Path) -> Result<(u64, u32), Error> {
    link_or_copy(from, to)?;
    sync_and_sum(to)
}

/// Makes `to` the same file as `from`, or a copy of it where the file system cannot link.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), Error> {
    // A link to a symbolic link would be one more name of the link, not of the file.
    let regular = fs::symlink_metadata(from).is_ok_and(|metadata| metadata.is_file());
    if !regular || fs::hard_link(from, to).is_err() {
        // Never onto a file that is there: it could be another name of one that is in use.
        let copy = || io::copy(&mut File::open(from)?, &mut File::create_new(to)?);
        copy().map_err(Error::disk("copy", from))?;
    }
    Ok(())
}

/// Links one file of a generation to where it is to stay, and checks that it is the one described.
pub(crate) fn link_checked(from: &Path, to: &Path, described: &ManifestFile) -> Result<(), Error> {
    if !from.exists() {
        return Err(Error::refused(from, "the manifest names it and it is not there"));
    }
    let (bytes, crc32) = link_and_sum(from, to)?;
    if bytes != described.bytes {
        let expected = described.bytes;
        let reason = format!("{bytes} bytes, the manifest says {expected}: it is cut short or was replaced");
        return Err(Error::refused(from, reason));
    }
    if crc32 != described.crc32 {
        let expected = described.crc32;
        let reason = format!("checksum {crc32:08x}, the manifest says {expected:08x}: its content was changed");
        return Err(Error::refused(from, reason));
    }
    Ok(())
}

/// True for a name that stays inside its folder.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(plain)
}

/// The length and CRC-32 of a file.
pub(crate) fn sum(path: &Path) -> io::Result<(u64, u32)> {
    crc32(&mut File::open(path)?)
}

fn crc32(file: &mut File) -> io::Result<(u64, u32)> {
    let mut hasher = crc32fast::Hasher::new();
    // So small that it stays in the processor's cache.
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((length, hasher.finalize())),
            count => {
                length += count as u64;
                hasher.update(&buffer[..count]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_the_same_length_and_sum() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        write_whole(&from, b"123456789").unwrap();
        assert_eq!(link_and_sum(&from, &to).unwrap(), (9, 0xCBF4_3926));
        assert_eq!(fs::read(&to).unwrap(), b"123456789");
    }

    #[test]
    fn names_that_leave_the_folder_are_not_plain() {
        assert!(is_plain_name("000001.sst"));
        for name in ["", "..", ".hidden", "a/b", "/etc/passwd", "a\\b", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
