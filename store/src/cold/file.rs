//! One open cold file. Its directory and filters are in RAM, so that an absent key almost always costs no read, and a present one costs
//! one read of the page it is in. Reads are positioned, so any number of threads share one file.

use std::fmt::{self, Debug, Formatter};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;

use crate::Error;
use crate::cold::directory::{Directory, PageEntry};
use crate::cold::page::{Page, PageCodec};
use crate::cold::tail::Tail;

/// Bytes between two wanted pages that are read along with them: a disk that turns passes over them sooner than it finds its place anew.
const MAX_GAP_BYTES: u64 = 64 << 10;
/// Most bytes of one read, unless one page alone is larger.
pub(crate) const MAX_READ_BYTES: u64 = 1 << 20;

/// What reading cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ColdReads {
    /// Calls to the operating system.
    pub(crate) preads: u64,
    /// Bytes they returned.
    pub(crate) bytes: u64,
}

/// An open file; dropping it closes it. The file itself stays.
pub(crate) struct ColdFile {
    path: PathBuf,
    owner: String,
    file: File,
    directory: Directory,
    /// One for each row group.
    filters: Vec<Sbbf>,
    codec: PageCodec,
}

impl ColdFile {
    /// Opens a file and reads its tail. A file that the cold tier did not write, or that is not as it was written, is refused.
    pub(crate) fn open(path: &Path) -> Result<ColdFile, Error> {
        let file = File::open(path).map_err(Error::disk("open", path))?;
        let Tail { owner, directory, filters, codec } = Tail::read(&file, path)?;
        Ok(ColdFile { path: path.to_path_buf(), owner, file, directory, filters, codec })
    }

    /// Whose rows these are, as its writer was told.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn rows(&self) -> u64 {
        self.directory.rows()
    }

    /// The smallest entity, as bytes.
    pub(crate) fn first_key(&self) -> &[u8] {
        self.directory.first_key()
    }

    /// The greatest entity, as bytes.
    pub(crate) fn last_key(&self) -> &[u8] {
        self.directory.last_key()
    }

    /// Bytes of RAM that the open file occupies.
    pub(crate) fn resident_bytes(&self) -> usize {
        let filters = self.filters.iter().map(|filter| filter.num_blocks() * 32 + size_of::<Sbbf>());
        self.directory.resident_bytes() + filters.sum::<usize>()
    }

    /// False when the file does not hold the entity for sure; this costs no read.
    pub(crate) fn may_contain(&self, entity: &str) -> bool {
        self.candidate(entity).is_some()
    }

    /// The values of `entities`, which are sorted and distinct; `None` for those that the file does not hold. A page is read once for all
    /// its keys, in the order of the file, and neighbouring pages with one read. `reads` is counted up, also when an error ends the call.
    pub(crate) fn read(&self, entities: &[&str], reads: &mut ColdReads) -> Result<Vec<Option<Arc<[u8]>>>, Error> {
        debug_assert!(entities.is_sorted_by(|a, b| a < b), "entities are sorted and distinct");
        let mut found = vec![None; entities.len()];
        let candidates = entities.iter().enumerate();
        let wanted: Vec<Wanted> = candidates
            .filter_map(|(position, entity)| self.candidate(entity).map(|page| Wanted { page, position }))
            .collect();
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (range, count) = self.next_read(rest.iter().map(|wanted| wanted.page));
            let stored = self.read_range(&range, reads)?;
            let (now, later) = rest.split_at(count);
            for of_page in now.chunk_by(|a, b| a.page == b.page) {
                let page = self.unpack(of_page[0].page, &stored, range.start)?;
                self.find(&page, of_page, entities, &mut found)?;
            }
            rest = later;
        }
        Ok(found)
    }

    /// The page that the entity is in, if it is in the file.
    fn candidate(&self, entity: &str) -> Option<usize> {
        let page = self.directory.page_of(entity.as_bytes())?;
        let filter = &self.filters[self.directory.pages()[page].group as usize];
        filter.check(entity).then_some(page)
    }

    /// The pages, by their index.
    pub(crate) fn pages(&self) -> &[PageEntry] {
        self.directory.pages()
    }

    /// How many of the ascending `pages`, of which there is at least one, are got with one read, and of what.
    pub(crate) fn next_read(&self, pages: impl Iterator<Item = usize>) -> (Range<u64>, usize) {
        let (mut range, mut count) = (0..0, 0);
        for page in pages.map(|page| &self.pages()[page]) {
            if count == 0 {
                range = page.offset..page.end();
            } else if page.end() > range.end {
                if page.offset > range.end + MAX_GAP_BYTES || page.end() - range.start > MAX_READ_BYTES {
                    break;
                }
                range.end = page.end();
            }
            count += 1;
        }
        (range, count)
    }

    pub(crate) fn read_range(&self, range: &Range<u64>, reads: &mut ColdReads) -> Result<Bytes, Error> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        reads.preads += 1;
        self.file.read_exact_at(&mut bytes, range.start).map_err(Error::disk("read", &self.path))?;
        reads.bytes += bytes.len() as u64;
        Ok(bytes.into())
    }

    /// A page out of what `read_range` returned for a range that starts at `start` and spans the page.
    pub(crate) fn unpack(&self, page: usize, stored: &Bytes, start: u64) -> Result<Page, Error> {
        let entry = &self.pages()[page];
        let offset = (entry.offset - start) as usize;
        let stored = stored.slice(offset..offset + entry.bytes as usize);
        Page::unpack(stored, entry, &self.codec).map_err(|reason| Error::damaged(&self.path, reason))
    }

    /// Walks a page and the entities that could be in it side by side; both are sorted.
    fn find(
        &self,
        page: &Page,
        wanted: &[Wanted],
        entities: &[&str],
        found: &mut [Option<Arc<[u8]>>],
    ) -> Result<(), Error> {
        let mut offset = 0;
        let mut wanted = wanted.iter().map(|wanted| wanted.position).peekable();
        while wanted.peek().is_some() {
            let record = page.next_record(&mut offset).map_err(|reason| Error::damaged(&self.path, reason))?;
            let Some(record) = record else { break };
            while wanted.next_if(|&position| entities[position].as_bytes() < record.entity).is_some() {}
            if let Some(position) = wanted.next_if(|&position| entities[position].as_bytes() == record.entity) {
                found[position] = Some(Arc::from(record.value));
            }
        }
        Ok(())
    }
}

impl Debug for ColdFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ColdFile").field("path", &self.path).field("rows", &self.rows()).finish_non_exhaustive()
    }
}

/// An entity, by its position among those asked for, and the page that it could be in.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    page: usize,
    position: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cold::format::START_BYTES;
    use crate::cold::layout::{LAYOUT, Layout};
    use crate::cold::test_files::{ColdRows, SMALL, rows, write};
    use crate::{MAX_ENTITY_BYTES, MAX_ROW_BYTES};
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use proptest::prelude::*;
    use std::fs;

    /// Asks a file for `entities` and compares with the rows it was written from.
    fn check(file: &ColdFile, rows: &ColdRows, entities: &[&str]) -> Result<(), Error> {
        let found = file.read(entities, &mut ColdReads::default())?;
        for (entity, found) in entities.iter().zip(found) {
            let expected = rows.get(*entity).map(|(_, value)| value.as_slice());
            assert_eq!(found.as_deref(), expected, "{entity:?}");
            assert!(file.may_contain(entity) || expected.is_none(), "{entity:?}");
        }
        Ok(())
    }

    /// Scans a file and compares; an error is passed on, but what came before it must be right.
    fn check_scan(file: &ColdFile, rows: &ColdRows) -> Result<(), Error> {
        let mut expected = rows.iter();
        for row in file.scan() {
            let row = row?;
            let (entity, (event_time_ms, value)) = expected.next().unwrap();
            assert_eq!(
                (&row.entity, row.event_time_ms, row.value.as_ref()),
                (entity, *event_time_ms, value.as_slice())
            );
        }
        assert!(expected.next().is_none());
        Ok(())
    }

    fn any_entity() -> impl Strategy<Value = String> {
        prop_oneof!["[\0ab\u{7f}\u{80}\u{10ffff}]{1,4}", "[a-c]{1,3}", "k\\PC{0,60}"]
            .prop_filter("length", |entity| (1..=MAX_ENTITY_BYTES).contains(&entity.len()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_written_is_found_and_nothing_else(
            rows in prop::collection::btree_map(
                any_entity(), (any::<i64>(), prop::collection::vec(any::<u8>(), 0..200)), 1..120
            ),
            others in prop::collection::btree_set(any_entity(), 0..40),
            codec in prop_oneof![Just(Compression::UNCOMPRESSED), Just(Compression::LZ4_RAW), Just(Compression::ZSTD(Default::default()))],
            every in 1usize..5,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = ColdFile::open(&write(folder.path(), &rows, Layout { codec, ..SMALL })).unwrap();
            let mut asked: Vec<&str> = rows.keys().step_by(every).chain(&others).map(String::as_str).collect();
            asked.sort_unstable();
            asked.dedup();
            check(&file, &rows, &asked).unwrap();
            check_scan(&file, &rows).unwrap();
            prop_assert_eq!(file.rows(), rows.len() as u64);
            prop_assert_eq!(Some(file.first_key()), rows.keys().next().map(String::as_bytes));
            prop_assert_eq!(Some(file.last_key()), rows.keys().last().map(String::as_bytes));
        }
    }

    #[test]
    fn large_values_and_long_entities_lie_among_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = rows(40);
        for (number, length) in [1, 100, 70_000, MAX_ROW_BYTES].into_iter().cycle().take(24).enumerate() {
            let value = (0..length).map(|byte| ((byte * (number + 7)) >> 3) as u8).collect();
            rows.insert(format!("user-{number:05}b"), (1, value));
        }
        rows.insert("\0".repeat(MAX_ENTITY_BYTES), (2, vec![1]));
        rows.insert("é".repeat(MAX_ENTITY_BYTES / 2), (3, Vec::new()));
        let file = ColdFile::open(&write(folder.path(), &rows, LAYOUT)).unwrap();
        let all: Vec<&str> = rows.keys().map(String::as_str).collect();
        check(&file, &rows, &all).unwrap();
        check_scan(&file, &rows).unwrap();
        for entity in all {
            check(&file, &rows, &[entity]).unwrap();
        }
    }

    #[test]
    fn a_found_key_costs_one_read_and_a_page_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(20_000);
        let file = ColdFile::open(&write(folder.path(), &rows, LAYOUT)).unwrap();
        let cost = |entities: &[&str]| {
            let mut reads = ColdReads::default();
            file.read(entities, &mut reads).unwrap();
            reads
        };
        let one = cost(&["user-00500"]);
        assert_eq!(one.preads, 1);
        assert!(one.bytes <= 16 << 10, "{} bytes", one.bytes);
        assert_eq!(cost(&["user-00500", "user-00502"]), one, "neighbours share a page");
        assert_eq!(cost(&["user-00500", "user-39000"]).preads, 2, "pages far apart");
        let all: Vec<&str> = rows.keys().map(String::as_str).collect();
        let (one_pass, pages) = (cost(&all), file.pages());
        assert_eq!(one_pass.preads, 1);
        assert_eq!(one_pass.bytes, pages[pages.len() - 1].end() - pages[0].offset);
        assert_eq!(cost(&["a", "user", "zzz"]), ColdReads::default(), "outside of the file's keys");

        // Some two bytes; filters have sizes that are powers of two.
        let per_key = file.resident_bytes() as f64 / rows.len() as f64;
        assert!(per_key < 3.0, "{per_key} bytes of RAM per key");

        let absent: Vec<String> = (0..20_000 - 1).map(|number| format!("user-{:05}", 2 * number + 1)).collect();
        let passed = absent.iter().filter(|entity| file.may_contain(entity)).count();
        assert!(passed <= absent.len() / 50, "{passed} of {} absent keys would be read", absent.len());
    }

    #[test]
    fn no_flipped_byte_makes_a_panic_or_a_wrong_value() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(60);
        let path = write(folder.path(), &rows, Layout { group_bytes: 2048, ..SMALL });
        let asked: Vec<String> = (0..120).map(|number| format!("user-{number:05}")).collect();
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        let good = fs::read(&path).unwrap();
        // What the store reads: seal, pages of rows, tail. The columns key and event_time, which lie between, are for others.
        let file = ColdFile::open(&path).unwrap();
        let tail_start = file.pages().last().unwrap().end();
        let is_read = |position: u64| {
            let in_page = |page: &PageEntry| (page.offset..page.end()).contains(&position);
            position < START_BYTES as u64 || position >= tail_start || file.pages().iter().any(in_page)
        };
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= [0x01, 0x80, 0xFF, 0x10][position % 4];
            fs::write(&path, &bytes).unwrap();
            let outcome = ColdFile::open(&path)
                .and_then(|file| check(&file, &rows, &asked).and_then(|()| check_scan(&file, &rows)));
            match outcome {
                Ok(()) => assert!(!is_read(position as u64), "byte {position} went unnoticed"),
                Err(error) => assert!(error.to_string().contains("cold.parquet"), "byte {position}: {error}"),
            }
        }
    }

    #[test]
    fn a_file_cut_short_is_refused_and_one_cut_while_open_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(60);
        let path = write(folder.path(), &rows, SMALL);
        let good = fs::read(&path).unwrap();
        let file = ColdFile::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(matches!(check(&file, &rows, &["user-00100"]), Err(Error::CheckDisk { .. })));
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(ColdFile::open(&path), Err(Error::RestoreStore { .. })), "{length} bytes");
        }
    }

    #[test]
    fn files_of_others_are_refused_by_name_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let message = ColdFile::open(&path).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
            message
        };
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["ada", "bob"]));
        let batch = RecordBatch::try_from_iter([("key", keys)]).unwrap();
        let mut foreign = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut foreign, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        assert!(refusal("foreign.parquet", &foreign).contains("not one that the cold tier wrote"));
        assert!(refusal("text.csv", &[b'x'; 100]).contains("not a Parquet file"));
        assert!(refusal("empty", b"").contains("a file of 0 bytes"));
        assert!(matches!(ColdFile::open(&folder.path().join("absent")), Err(Error::CheckDisk { .. })));
    }
}
