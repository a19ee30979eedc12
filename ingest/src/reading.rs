//! The files of a snapshot and the rows in them: finding the files, and reading a part of all their rows from its start to its end.

use std::ops::Range;

use arrow::array::RecordBatch;
use larder_store::{Shard, ViewConfig};

use crate::Error;
use crate::location::{FoundFile, Location};
use crate::own_rows::own_rows;
use crate::rejects::{Reject, Rejects};
use crate::request::BuildRequest;
use crate::source::{Holds, Source, SourceFile};

/// The files of a snapshot in the order in which they are read, each checked against the view.
pub(crate) struct Sources<'a> {
    pub(crate) files: Vec<Source>,
    view: &'a ViewConfig,
    /// Whose rows are kept.
    shard: Shard,
    block_bytes: u64,
    /// The number of each file's first row among all rows, and behind them that of all rows.
    starts: Vec<u64>,
    /// Bytes of each file's wanted columns, before their pages were compressed.
    bytes: Vec<u64>,
}

/// The files of a build, in the order in which they are read; those of deletions first, as their writer wants it.
pub(crate) fn find(request: &BuildRequest<'_>) -> Result<Vec<(Holds, FoundFile)>, Error> {
    let with = |holds, files: Vec<FoundFile>| files.into_iter().map(move |file| (holds, file));
    let Some(delta) = &request.delta else {
        return Ok(with(Holds::Rows, find_all(&request.sources)?).collect());
    };
    if request.sources.is_empty() && delta.deletions.is_empty() {
        let message = "a delta snapshot of nothing: name files of rows that have changed, or of deletions".to_owned();
        return Err(Error::FixRequest(message));
    }
    let of = |locations: &[Location]| if locations.is_empty() { Ok(Vec::new()) } else { find_all(locations) };
    let deletions = with(Holds::Deletions { at_ms: request.as_of_ms }, of(&delta.deletions)?);
    Ok(deletions.chain(with(Holds::Upserts, of(&request.sources)?)).collect())
}

/// The Parquet files at the locations: files, and all `*.parquet` files below folders in order of their paths. What begins with a dot or an
/// underscore is what programs leave there for themselves.
fn find_all(locations: &[Location]) -> Result<Vec<FoundFile>, Error> {
    let mut files = Vec::new();
    for location in locations {
        if let Some(file) = location.find()? {
            files.push(file);
            continue;
        }
        if let Some(path) = location.as_local().filter(|path| !path.exists()) {
            return Err(Error::disk("open", path)(std::io::ErrorKind::NotFound.into()));
        }
        let before = files.len();
        files.extend(location.list()?.into_iter().filter(|file| is_data(&file.relative)));
        if files.len() == before {
            let message = match location.as_local() {
                Some(_) => format!("the folder {location} holds no *.parquet file"),
                None => format!("there is no file {location}, and no *.parquet file below it"),
            };
            return Err(Error::FixRequest(message));
        }
    }
    if files.is_empty() {
        return Err(Error::FixRequest("no source files are named".to_string()));
    }
    Ok(files)
}

/// Whether a file below a folder is one of its Parquet files.
fn is_data(relative: &str) -> bool {
    let hidden = |name: &str| name.starts_with('.') || (name.starts_with('_') && !name.contains('='));
    relative.ends_with(".parquet") && !relative.split('/').any(hidden)
}

impl<'a> Sources<'a> {
    /// Checks every file against the view before any row is read.
    pub(crate) fn check(
        files: Vec<(Holds, FoundFile)>,
        view: &'a ViewConfig,
        shard: Shard,
        block_bytes: u64,
    ) -> Result<Sources<'a>, Error> {
        let files: Vec<_> = files.into_iter().map(|(holds, found)| Source::new(holds, found)).collect();
        let mut starts = vec![0u64];
        let mut bytes = Vec::with_capacity(files.len());
        for file in &files {
            let opened = SourceFile::open(file, view, None, block_bytes)?;
            starts.push(starts[starts.len() - 1].saturating_add(opened.rows()));
            bytes.push(opened.bytes());
        }
        Ok(Sources { files, view, shard, block_bytes, starts, bytes })
    }

    /// The memory that all rows will take when the first `rows` of them took `taken` bytes. The rest may be wider: how much is taken from what the
    /// files say of themselves.
    pub(crate) fn expected_memory(&self, rows: u64, taken: u64) -> u64 {
        let begun = self.starts.partition_point(|start| *start < rows).clamp(1, self.files.len());
        let sum = |bytes: &[u64]| bytes.iter().map(|bytes| u128::from(*bytes)).sum::<u128>();
        let (said, all) = (sum(&self.bytes[..begun]), sum(&self.bytes));
        let of_begun = u128::from(taken) * u128::from(self.starts[begun]) / u128::from(rows.max(1));
        let expected = match said {
            0 => of_begun.saturating_mul(u128::from(self.rows())) / u128::from(self.starts[begun].max(1)),
            said => of_begun.saturating_mul(all) / said,
        };
        u64::try_from(expected).unwrap_or(u64::MAX)
    }

    /// Looks whether the local files are still those that were found: rows of two states of a file make no snapshot.
    pub(crate) fn unchanged(&self) -> Result<(), Error> {
        for file in &self.files {
            if let Some(path) = file.found.location.as_local() {
                file.found.check_unchanged(&std::fs::metadata(path).map_err(Error::disk("open", path))?)?;
            }
        }
        Ok(())
    }

    /// Rows in all files, by their own account.
    pub(crate) fn rows(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// The files that hold a range of rows, with the rows to read of each. Files without rows lie in no range.
    fn parts(&self, range: &Range<u64>) -> Vec<(&Source, Range<u64>)> {
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        let end = self.starts.partition_point(|start| *start < range.end).min(self.files.len());
        let part = |number: usize| {
            let (start, end) = (self.starts[number], self.starts[number + 1]);
            (&self.files[number], range.start.max(start) - start..range.end.min(end) - start)
        };
        (first..end).map(part).filter(|(_, rows)| !rows.is_empty()).collect()
    }
}

/// One pass over some of the rows.
pub(crate) struct Reading<'a> {
    sources: &'a Sources<'a>,
    rejects: &'a Rejects,
    parts: std::vec::IntoIter<(&'a Source, Option<Range<u64>>)>,
    open: Option<SourceFile<'a>>,
    /// Rows read of the files before the open one.
    rows_before: u64,
    /// Rows left out for their keys, and the first of them.
    pub(crate) rejected: u64,
    pub(crate) samples: Vec<Reject>,
}

impl<'a> Reading<'a> {
    /// Reads all rows of all files.
    pub(crate) fn all(sources: &'a Sources<'a>, rejects: &'a Rejects) -> Reading<'a> {
        Reading::of(sources, rejects, sources.files.iter().map(|file| (file, None)).collect())
    }

    /// Reads a range of the rows, counted over all files.
    pub(crate) fn range(sources: &'a Sources<'a>, rejects: &'a Rejects, range: &Range<u64>) -> Reading<'a> {
        Reading::of(sources, rejects, sources.parts(range).into_iter().map(|(file, rows)| (file, Some(rows))).collect())
    }

    fn of(sources: &'a Sources<'a>, rejects: &'a Rejects, parts: Vec<(&'a Source, Option<Range<u64>>)>) -> Reading<'a> {
        let parts = parts.into_iter();
        Reading { sources, rejects, parts, open: None, rows_before: 0, rejected: 0, samples: Vec::new() }
    }

    /// The next rows, in the view's canonical schema and with keys that can be stored; `None` after the last file.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            let Some(file) = &mut self.open else {
                let Some((source, rows)) = self.parts.next() else {
                    return Ok(None);
                };
                self.open = Some(SourceFile::open(source, self.sources.view, rows, self.sources.block_bytes)?);
                continue;
            };
            let Some(mut batch) = file.next_batch()? else {
                self.rows_before += file.rows_read();
                self.open = None;
                continue;
            };
            if batch.rejected > 0 {
                self.rejected += batch.rejected;
                self.rejects.add(batch.rejected, &batch.samples)?;
                self.samples.append(&mut batch.samples);
                self.samples.truncate(crate::rejects::MAX_SAMPLES);
            }
            let own = own_rows(batch.rows, self.sources.shard);
            return own.map(Some).map_err(|error| Error::FixRequest(format!("rows cannot be divided: {error}")));
        }
    }

    /// Rows read so far, rejected ones and those of other shards included.
    pub(crate) fn rows(&self) -> u64 {
        self.rows_before + self.open.as_ref().map_or(0, SourceFile::rows_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rows_are_found_in_their_files_and_empty_files_stop_nothing() {
        let file = |name: &&str| {
            let location = Location::local(*name);
            Source::new(
                Holds::Rows,
                FoundFile { location, relative: (*name).to_owned(), bytes: 1, modified_ns: 0, etag: None },
            )
        };
        let view = ViewConfig {
            name: "v".into(),
            id: 1,
            kind: larder_store::ViewKind::Latest,
            entity_key: "k".into(),
            event_time: "t".into(),
            ttl_s: None,
            n: None,
            element_key: None,
            features: Vec::new(),
        };
        let files = ["none", "ten", "none", "five", "none"].iter().map(file).collect();
        let (starts, bytes) = (vec![0, 0, 10, 10, 15, 15], vec![0, 1_000, 0, 2_000, 0]);
        let mut sources = Sources { files, view: &view, shard: Shard::default(), block_bytes: 1, starts, bytes };
        let parts = |range: Range<u64>| -> Vec<(String, Range<u64>)> {
            let parts = sources.parts(&range).into_iter();
            parts.map(|(file, rows)| (file.found.relative.clone(), rows)).collect()
        };
        let (ten, five) = ("ten".to_owned(), "five".to_owned());
        assert_eq!(parts(0..15), [(ten.clone(), 0..10), (five.clone(), 0..5)]);
        assert_eq!(parts(3..4), [(ten.clone(), 3..4)]);
        assert_eq!(parts(9..11), [(ten, 9..10), (five.clone(), 0..1)]);
        assert_eq!(parts(10..15), [(five.clone(), 0..5)]);
        assert_eq!(parts(14..15), [(five, 4..5)]);
        assert_eq!(sources.rows(), 15);

        // Rows of 30 bytes in a file that says 100: those of the other file say 400 and will take 120.
        assert_eq!(sources.expected_memory(5, 150), 10 * 30 + 5 * 120);
        assert_eq!(sources.expected_memory(15, 900), 900, "all of them were seen");
        sources.bytes.fill(0);
        assert_eq!(sources.expected_memory(5, 150), 15 * 30, "the files say nothing");
    }

    #[test]
    fn what_programs_leave_for_themselves_is_no_data() {
        for data in ["a.parquet", "day=1/a.parquet", "_day=1/a.parquet", "x/y/part-0.snappy.parquet"] {
            assert!(is_data(data), "{data}");
        }
        for other in
            ["_SUCCESS", "_temporary/0/a.parquet", ".hidden.parquet", "x/.a.parquet.crc", "a.csv", "a.parquet.tmp"]
        {
            assert!(!is_data(other), "{other}");
        }
    }
}
