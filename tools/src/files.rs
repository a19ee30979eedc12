//! Small things about files that several commands need: checksums, whole-file writes, JSON lines, absolute paths.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const BUFFER_BYTES: usize = 1 << 20;

/// The sha256 of a file, in lower-case hexadecimal.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    sha256(file).with_context(|| format!("cannot read {}", path.display()))
}

/// The sha256 of all that a reader gives, in lower-case hexadecimal.
pub(crate) fn sha256(mut reader: impl Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file so that a reader sees the old content or all of the new one: a sibling first, then a rename.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::write(&partial, content)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes one JSON object per line.
pub(crate) fn write_json_lines<Row: Serialize>(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    write_whole(path, &text)
}

/// Reads one JSON object per line; empty lines are skipped.
pub(crate) fn read_json_lines<Row: DeserializeOwned>(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// The path from the root, without asking whether it exists.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{:?} is not a path", path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_published_one() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc".as_slice()).unwrap(), abc);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), abc);
        assert!(sha256_file(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn json_lines_are_read_back_and_errors_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        write_json_lines(&path, &[1, 2, 3]).unwrap();
        assert_eq!(read_json_lines::<u32>(&path).unwrap(), [1, 2, 3]);
        std::fs::write(&path, "1\n\nx\n").unwrap();
        let error = read_json_lines::<u32>(&path).unwrap_err().to_string();
        assert!(error.ends_with("line 3"), "{error}");
    }
}
