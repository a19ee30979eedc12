//! The bytes of one Parquet file: of this machine, or of an object store, read in blocks.
//!
//! A Parquet reader asks for small pieces, page after page of several columns in turn. Of a remote file whole blocks are fetched, and as many
//! of them are kept as there are columns being read, so that a block is asked for once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::Error;
use crate::location::FoundFile;

/// Blocks kept beside one per column: the footer, and a neighbour.
const SPARE_BLOCKS: usize = 2;

/// A file that Parquet is read from.
pub(crate) enum Input {
    Local(File),
    Remote(RemoteFile),
}

/// A file of an object store. Clones share their blocks.
#[derive(Clone)]
pub(crate) struct RemoteFile(Arc<Blocks>);

struct Blocks {
    file: FoundFile,
    block_bytes: u64,
    max_blocks: usize,
    /// The blocks by number, the latest used last.
    kept: Mutex<VecDeque<(u64, Bytes)>>,
    /// What went wrong first; the Parquet reader passes on only its text.
    failed: Mutex<Option<Error>>,
}

impl Input {
    /// Opens a file of which `columns` columns will be read. Of a remote one, blocks of `block_bytes` are fetched.
    pub(crate) fn open(file: &FoundFile, columns: usize, block_bytes: u64) -> Result<Input, Error> {
        match file.location.as_local() {
            Some(path) => {
                let opened = File::open(path).map_err(Error::disk("open", path))?;
                file.check_unchanged(&opened.metadata().map_err(Error::disk("open", path))?)?;
                Ok(Input::Local(opened))
            }
            None => Ok(Input::Remote(RemoteFile(Arc::new(Blocks {
                file: file.clone(),
                block_bytes,
                max_blocks: columns + SPARE_BLOCKS,
                kept: Mutex::default(),
                failed: Mutex::default(),
            })))),
        }
    }

    /// The remote file, if it is one: to ask for what failed.
    pub(crate) fn remote(&self) -> Option<RemoteFile> {
        match self {
            Input::Local(_) => None,
            Input::Remote(file) => Some(file.clone()),
        }
    }
}

impl RemoteFile {
    /// What the store refused, once.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The bytes from `at` to the end of their block; none at the end of the file.
    fn rest_of_block(&self, at: u64) -> io::Result<Bytes> {
        let Blocks { file, block_bytes, max_blocks, kept, failed } = &*self.0;
        if at >= file.bytes {
            return Ok(Bytes::new());
        }
        let number = at / block_bytes;
        let start = number * block_bytes;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let block = match kept.iter().position(|(kept, _)| *kept == number).and_then(|found| kept.remove(found)) {
            Some((_, block)) => block,
            None => {
                let range = start..file.bytes.min(start + block_bytes);
                let expected = range.end - range.start;
                match file.location.read_range(range, file.etag.as_deref()) {
                    Ok(block) if block.len() as u64 == expected => block,
                    Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) => {
                        let message = error.to_string();
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return Err(io::Error::other(message));
                    }
                }
            }
        };
        while kept.len() >= *max_blocks {
            kept.pop_front();
        }
        kept.push_back((number, block.clone()));
        Ok(block.slice((at - start) as usize..))
    }
}

/// Reads on from a place in a remote file.
pub(crate) struct ReadOn {
    file: RemoteFile,
    at: u64,
    rest: Bytes,
}

impl Read for ReadOn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.file.rest_of_block(self.at)?;
        }
        let count = into.len().min(self.rest.len());
        into[..count].copy_from_slice(&self.rest.split_to(count));
        self.at += count as u64;
        Ok(count)
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        match self {
            Input::Local(file) => Length::len(file),
            Input::Remote(file) => file.0.file.bytes,
        }
    }
}

impl ChunkReader for Input {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Box<dyn Read>, ParquetError> {
        Ok(match self {
            Input::Local(file) => Box::new(file.get_read(start)?),
            Input::Remote(file) => Box::new(ReadOn { file: file.clone(), at: start, rest: Bytes::new() }),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let file = match self {
            Input::Local(file) => return file.get_bytes(start, length),
            Input::Remote(file) => file,
        };
        // A length that the file does not have comes from a damaged footer; nothing is reserved for it.
        if start.checked_add(length as u64).is_none_or(|end| end > file.0.file.bytes) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond the end")));
        }
        let first = file.rest_of_block(start)?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&first);
        while bytes.len() < length {
            let next = file.rest_of_block(start + bytes.len() as u64)?;
            bytes.extend_from_slice(&next[..next.len().min(length - bytes.len())]);
        }
        Ok(bytes.into())
    }
}
