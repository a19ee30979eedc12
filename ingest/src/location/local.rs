//! Files and folders of this machine: listing them, reading a part of one, writing one so that it is whole and durable, or absent.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::{FoundFile, Location, MAX_LISTED_FILES};
use crate::Error;

/// The last name of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A file with what the file system says of it.
pub(super) fn found_local(path: &Path, relative: String, metadata: &fs::Metadata) -> FoundFile {
    let (bytes, modified_ns) = (metadata.len(), modified_ns(metadata));
    FoundFile { location: Location::local(path), relative, bytes, modified_ns, etag: None }
}

/// When it was last changed, Unix nanoseconds UTC.
pub(super) fn modified_ns(metadata: &fs::Metadata) -> i64 {
    let seconds = metadata.mtime().saturating_mul(1_000_000_000);
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(seconds)
}

/// All files below a folder.
pub(super) fn list_local(folder: &Path, above: &str, files: &mut Vec<FoundFile>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::disk("read", folder))? {
        let path = entry.map_err(Error::disk("read", folder))?.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                check_dangling(&path)?;
                continue;
            }
            Err(error) => return Err(Error::disk("read", &path)(error)),
        };
        let relative = if above.is_empty() { file_name(&path) } else { format!("{above}/{}", file_name(&path)) };
        if metadata.is_dir() {
            list_local(&path, &relative, files)?;
        } else {
            files.push(found_local(&path, relative, &metadata));
        }
        if files.len() > MAX_LISTED_FILES {
            break;
        }
    }
    Ok(())
}

/// A link to nothing is passed over, unless it has the name of a file of rows: without these a snapshot would not be whole.
fn check_dangling(path: &Path) -> Result<(), Error> {
    // What has just been deleted is no link.
    let Ok(target) = fs::read_link(path) else { return Ok(()) };
    let (shown, target) = (path.display(), target.display());
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let message =
            format!("{shown} is a link to {target}, which is not there: bring the file back or delete the link");
        return Err(Error::FixRequest(message));
    }
    tracing::warn!(link = %shown, %target, "a link to nothing is passed over");
    Ok(())
}

/// Bytes of a file; fewer where it ends before.
pub(super) fn read_local(path: &Path, range: Range<u64>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let end = range.end.min(file.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

/// Makes the folders above a file.
pub(super) fn create_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Error::disk("create", parent)),
        None => Ok(()),
    }
}

/// Writes a file so that it is whole and durable, or absent (or the old one).
pub(crate) fn write_whole(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = File::create(temporary)?;
        content(&mut file)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(temporary);
        Error::disk("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_passed_over_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str| std::os::unix::fs::symlink("gone", folder.path().join(name)).unwrap();
        fs::write(folder.path().join("a.parquet"), "rows").unwrap();
        link("latest");
        let location = Location::local(folder.path());
        let names: Vec<_> = location.list().unwrap().into_iter().map(|file| file.relative).collect();
        assert_eq!(names, ["a.parquet"]);
        link("b.parquet");
        let message = location.list().unwrap_err().to_string();
        assert!(message.contains("b.parquet is a link to gone"), "{message}");
    }
}
