//! Files of this crate's own making: numbers as bytes, and writing a file whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The bytes of f32 numbers as safetensors holds them.
pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The numbers of such bytes; what is left of an incomplete number is passed over.
pub(crate) fn from_little_endian(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Writes a file; one that is already there is replaced only once the new one is complete and on the disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_by(path, |file| file.write_all(bytes))
}

/// The same for what is too large to be in memory at once: `write` writes it piece by piece.
pub(crate) fn write_whole_by(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = Path::new(&unfinished);
    let mut file = File::create(unfinished)?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(unfinished, path)
}
