//! Fuzz targets, one for every byte format that is read from disk: a reader refuses hostile bytes with a reason, or reads something that
//! it can also write. It never panics and never takes much more memory than the bytes it was given. A checksum would stop most inputs at
//! the door, so targets also try each with the right checksum put in.
//!
//! `LARDER_FUZZ_SECONDS` says how long each target runs; without it a second is not reached. A failure prints the input and the seed;
//! `LARDER_FUZZ_SEED` repeats that run.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::Float32Type;

use crate::cold::directory::{Directory, PageEntry};
use crate::cold::file::{ColdFile, ColdReads};
use crate::cold::test_files as cold_test_files;
use crate::columns::{Rows, column};
use crate::delta::{self, Change, Delta};
use crate::elements::{self, Elements};
use crate::encode::{EncodedRows, RowColumns};
use crate::erasure::Erasure;
use crate::hot_set::{self, Blocks, Fault, HotSetEntry};
use crate::log::rows::{self as log_rows, DedupMark, Entry, Head, LogKey};
use crate::manifest::{Manifest, ManifestFile};
use crate::meta::{MetaRecord, Records};
use crate::mutate::fuzz;
use crate::row::Row;
use crate::schema::{Projection, RowSchema};
use crate::test_rows::{TYPES, view};
use crate::{FeatureConfig, FeatureType, TenantId, ViewConfig, wal};

/// A view with a feature of each type.
fn all_types() -> ViewConfig {
    // One more text, so that the last part of a row is of that kind.
    let types = TYPES.into_iter().chain([FeatureType::Utf8]);
    let feature = |(index, data_type)| FeatureConfig::new(format!("f{index}"), data_type);
    ViewConfig { features: types.enumerate().map(feature).collect(), ..view() }
}

/// Rows of [`all_types`] with values, with nulls and with the longest parts empty.
fn encoded_rows() -> Vec<Vec<u8>> {
    let list = |values: &[f32]| Some(values.iter().copied().map(Some).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["e"; 3])),
        Arc::new(TimestampMillisecondArray::from(vec![1_700_000_000_000, 0, -1]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![Some("Zoë"), None, Some("")])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>([list(&[1.0, f32::NAN]), None, list(&[])])),
        Arc::new(Int32Array::from(vec![Some(-7), None, Some(0)])),
        Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-0.0)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0)])),
        Arc::new(TimestampMillisecondArray::from(vec![Some(5), None, Some(0)]).with_timezone("UTC")),
        Arc::new(Float32Array::from(vec![Some(2.5), None, Some(0.0)])),
        Arc::new(StringArray::from(vec![Some("a longer text, 用于测试"), None, Some("x")])),
    ];
    let view = all_types();
    let batch = RecordBatch::try_new(view.arrow_schema(), columns).unwrap();
    (0..3).map(|row| encode_row(&view, &batch, row, 1_700_000_000_000)).collect()
}

fn encode_row(view: &ViewConfig, batch: &RecordBatch, row: usize, event_time_ms: i64) -> Vec<u8> {
    let schema = RowSchema::new(&view.features);
    let mut encoded = EncodedRows::default();
    RowColumns::new(batch, &schema, &vec![event_time_ms; batch.num_rows()]).encode(row, &mut encoded).unwrap();
    encoded.iter().next().unwrap().1.to_vec()
}

#[test]
fn row() {
    let view = all_types();
    let names = view.features.iter().map(|feature| feature.name.as_str());
    let schema = RowSchema::new(&view.features);
    let projection = Projection::new(&schema, &schema, names);
    let read = |bytes: &[u8]| -> Result<(i64, Vec<ArrayRef>), String> {
        let row = Row::new(bytes, &projection).map_err(|damaged| damaged.0)?;
        let read =
            |(index, feature): (usize, &FeatureConfig)| column(&Rows::new(vec![Some(row)]), index, feature.data_type);
        let columns: Result<Vec<_>, _> = view.features.iter().enumerate().map(read).collect();
        Ok((row.event_time_ms(), columns.map_err(|damaged| damaged.0)?))
    };
    fuzz("row", encoded_rows(), |bytes| {
        let (event_time_ms, values) = read(bytes)?;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["e"])),
            Arc::new(TimestampMillisecondArray::from(vec![event_time_ms]).with_timezone("UTC")),
        ];
        columns.extend(values.iter().cloned());
        let batch = RecordBatch::try_new(view.arrow_schema(), columns).unwrap();
        let again = encode_row(&view, &batch, 0, event_time_ms);
        assert_eq!(read(&again), Ok((event_time_ms, values)));
        Ok(())
    });
}

#[test]
fn elements() {
    let encode = |rows: &[&[u8]]| {
        let mut value = Vec::new();
        elements::encode(rows.iter().copied(), &mut value);
        value
    };
    let seeds = vec![encode(&[b"newest", b"", b"older row"]), encode(&[b"one"]), encode(&[b"x".as_slice(); 300])];
    fuzz("elements", seeds, |bytes| {
        let read = |value| Elements::new(value)?.collect::<Result<Vec<_>, _>>();
        let rows = read(bytes).map_err(|damaged| damaged.0)?;
        assert!(rows.iter().map(|row| row.len()).sum::<usize>() <= bytes.len());
        assert_eq!(read(&encode(&rows)).unwrap(), rows);
        Ok(())
    });
}

/// A manifest of a generation of view 1 and tenant 1, with the checksum it has.
fn manifest_of(generation: u32) -> Manifest {
    let mut manifest = Manifest::new(&all_types(), 7, TenantId(1), generation, 1_700_000_000_000);
    let file = |number| ManifestFile { name: format!("{number:06}.sst"), bytes: 1 << 20, entities: 50, crc32: 7 };
    manifest.files = (0..3).map(file).collect();
    (manifest.rows, manifest.entities) = (200, 150);
    manifest.checksum = manifest.computed_checksum();
    manifest
}

/// What is done with a manifest that was believed.
fn use_manifest(manifest: &Manifest) {
    assert!(manifest.files.iter().all(|file| !file.name.contains('/')));
    assert!(manifest.bytes() >= manifest.files.iter().map(|file| file.bytes).max().unwrap_or(0));
    assert_eq!(RowSchema::new(&manifest.schema.features).slots.len(), manifest.schema.features.len());
}

#[test]
fn manifest() {
    let seeds = [1, u32::MAX].map(|generation| serde_json::to_vec_pretty(&manifest_of(generation)).unwrap());
    fuzz("manifest", seeds.into(), |bytes| {
        let believed = |bytes: &[u8]| {
            let manifest = Manifest::decode(bytes)?;
            use_manifest(&manifest);
            assert_eq!(Manifest::decode(&serde_json::to_vec(&manifest).unwrap()).as_ref(), Ok(&manifest));
            Ok::<_, String>(())
        };
        believed(bytes).or_else(|reason| {
            let Ok(mut forged) = serde_json::from_slice::<Manifest>(bytes) else { return Err(reason) };
            forged.checksum = forged.computed_checksum();
            believed(&serde_json::to_vec(&forged).unwrap())
        })
    });
}

#[test]
fn meta_record() {
    let with_key = |kind: u8, record: &[u8]| [&[kind], &1u16.to_be_bytes()[..], &1u32.to_be_bytes(), record].concat();
    let json = |record: &MetaRecord| serde_json::to_vec(record).unwrap();
    let mut both = MetaRecord::new(manifest_of(2), Some(manifest_of(1)), None);
    both.pruned_to_ms = Some(7);
    both.note_erased(1, 3);
    both.rewritten_cold.insert(2, manifest_of(2).files);
    let erasure = [&b"e"[..], &Erasure::of(TenantId(1), "ada").key(), br#"{"erased_ms":7}"#].concat();
    let seeds = vec![
        with_key(b'g', &json(&both)),
        with_key(b'g', &json(&MetaRecord::new(manifest_of(1), None, None))),
        with_key(b'n', br#""0123456789abcdef""#),
        with_key(b'f', br#"["0123456789abcdef"]"#),
    ];
    fuzz("meta_record", seeds, |bytes| {
        let (key, value) = bytes.split_at(bytes.len().min(7));
        let believed = |value: &[u8]| {
            let mut records = Records::default();
            records.decode(key, value)?;
            for record in &records.generations {
                record.generations().for_each(use_manifest);
                let mut again = Records::default();
                again.decode(key, &json(record)).unwrap();
                assert!(again.generations.first() == Some(record));
            }
            Ok::<_, String>(())
        };
        believed(value).or_else(|reason| {
            let Ok(mut forged) = serde_json::from_slice::<MetaRecord>(value) else { return Err(reason) };
            for manifest in [Some(&mut forged.live), forged.previous.as_mut()].into_iter().flatten() {
                manifest.checksum = manifest.computed_checksum();
            }
            believed(&json(&forged))
        })
    });
    fuzz("erasure_record", vec![erasure], |bytes| {
        let (key, value) = bytes.split_at(bytes.len().min(21));
        let mut records = Records::default();
        records.decode(key, value)?;
        assert!(records.erasures.iter().all(|(erasure, _)| key.ends_with(&erasure.key())));
        Ok(())
    });
}

#[test]
fn live_value() {
    let change = |element: &'static str, event_time_ms, row: Option<&'static str>| {
        let (element, row) = (element.as_bytes(), row.map(str::as_bytes));
        Change { event_time_ms, sequence: 7, element, row }
    };
    let value = |changes: &[Change<'static>]| {
        let mut delta = Delta::new(Some(2));
        delta.changes = changes.to_vec();
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        bytes
    };
    let seeds = vec![
        value(&[change("", 5, Some("row"))]),
        value(&[change("o-2", 9, Some("a longer row")), change("o-1", 7, None), change("o-0", -3, Some(""))]),
    ];
    fuzz("live_value", seeds, |bytes| {
        let delta = Delta::decode(bytes).map_err(|damaged| damaged.0)?;
        let mut again = Vec::new();
        delta.encode(&mut again);
        assert!(again == bytes, "read as something else than was written");
        let once = delta::merge([bytes].into_iter()).ok_or("cannot be merged")?;
        let twice = delta::merge([bytes, &once].into_iter()).ok_or("cannot be merged again")?;
        assert!(once == twice, "merging again changes the outcome");
        Ok(())
    });
}

#[test]
fn cold_file() {
    let folder = tempfile::tempdir().unwrap();
    let rows = cold_test_files::rows(40);
    let path = cold_test_files::write(folder.path(), &rows, cold_test_files::SMALL);
    let whole = std::fs::read(&path).unwrap();
    let asked: Vec<&str> = rows.keys().map(String::as_str).collect();
    fuzz("cold_file", vec![whole], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let refused = |error: crate::Error| error.to_string();
        let file = ColdFile::open(&path).map_err(refused)?;
        let read = file.read(&asked, &mut ColdReads::default()).map_err(refused)?;
        for (value, (_, (_, written))) in read.iter().zip(&rows) {
            assert!(value.as_deref() == Some(written.as_slice()), "another value than was written");
        }
        let scanned = file.scan().collect::<Result<Vec<_>, _>>().map_err(refused)?;
        assert!(scanned.iter().map(|row| (&row.entity, &*row.value)).eq(rows.iter().map(|(e, (_, v))| (e, &**v))));
        Ok(())
    });
}

#[test]
fn cold_directory() {
    let mut directory = Directory::default();
    for number in 0..20u32 {
        let page =
            PageEntry { offset: u64::from(number) * 100 + 40, bytes: 100, rows: 3, group: number / 7, crc32: number };
        directory.push(page, format!("user-{number:03}").as_bytes(), format!("user-{number:03}z").as_bytes()).unwrap();
    }
    let tail_start = 20 * 100 + 40;
    fuzz("cold_directory", vec![directory.encode()], |bytes| {
        let directory = Directory::decode(bytes, tail_start).map_err(|damaged| damaged.0)?;
        assert!(directory.pages().iter().all(|page| page.end() <= tail_start));
        for key in [&b""[..], b"user-007", b"user-0071", b"zz", directory.first_key(), directory.last_key()] {
            assert!(directory.page_of(key).is_none_or(|page| page < directory.pages().len()));
        }
        Ok(())
    });
}

#[test]
fn hot_set() {
    let encode = |entries: &[HotSetEntry]| {
        let mut bytes = Vec::new();
        hot_set::encode(entries.iter().cloned(), &mut bytes).unwrap();
        bytes
    };
    let entry = |index: u32| HotSetEntry {
        view_id: (index % 2) as u16,
        tenant: TenantId(index % 3),
        entity: format!("user-é{}", index * 7919 % 1000),
    };
    let entries: Vec<_> = (0..100).map(entry).collect();
    let several_blocks: Vec<_> =
        (0..3000).map(|index| HotSetEntry { entity: (index % 10).to_string(), ..entry(index) }).collect();
    let seeds = vec![encode(&entries), encode(&entries[..1]), encode(&[]), encode(&several_blocks)];
    let read = |bytes: &[u8]| -> Result<_, Fault> {
        let mut blocks = Blocks::open(Cursor::new(bytes))?;
        let mut read = Vec::new();
        loop {
            match blocks.next_block()? {
                block if block.is_empty() => return Ok(read),
                block => read.extend(block),
            }
        }
    };
    let reason = |fault: Fault| match fault {
        Fault::Damaged(reason) => reason,
        Fault::Disk(error) => panic!("memory cannot fail: {error}"),
    };
    fuzz("hot_set", seeds, |bytes| {
        let believed = |bytes: &[u8]| {
            let entries = read(bytes)?;
            // Distinct and sorted, because a file of hostile bytes need not be and a written one is.
            let sorted: BTreeSet<_> = entries.into_iter().filter(|entry| !entry.entity.is_empty()).collect();
            let sorted: Vec<_> = sorted.into_iter().collect();
            assert_eq!(read(&encode(&sorted))?, sorted);
            Ok(())
        };
        believed(bytes).or_else(|fault| {
            let Some(end) = bytes.len().checked_sub(4) else { return Err(reason(fault)) };
            let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
            believed(&[&bytes[..end], &crc].concat()).map_err(reason)
        })
    });
}

#[test]
fn log_entry() {
    let head = Head { expires_at_ms: 5, first: 1, next: 9, has_dedups: true };
    let entry = Entry { expires_at_ms: 20, appended_at_ms: 10, dedup: b"question-17", payload: b"what was asked" };
    let mark = DedupMark { expires_at_ms: 20, position: 3 };
    let key = LogKey::new(7, TenantId(1), "ada\0b").head();
    // The first byte says which kind of row the others are.
    let kinds =
        [head.encode(), entry.encode(), mark.encode(), log_rows::encode_declaration("turns"), key[6..].to_vec()];
    let seeds = (0u8..).zip(kinds).map(|(kind, row)| [&[kind], row.as_slice()].concat()).collect();
    fuzz("log_entry", seeds, |bytes| {
        let (kind, bytes) = bytes.split_first().ok_or("empty")?;
        let refused = |damaged: crate::row::Damaged| damaged.0;
        let again = match kind {
            0 => Head::decode(bytes).map_err(refused)?.encode(),
            1 => Entry::decode(bytes).map_err(refused)?.encode(),
            2 => DedupMark::decode(bytes).map_err(refused)?.encode(),
            3 => {
                let (format, name) = log_rows::decode_declaration(bytes).map_err(refused)?;
                [&bytes[..8], &[format], name.as_bytes()].concat()
            }
            4 => LogKey::new(7, TenantId(1), &log_rows::key_of_head(bytes).map_err(refused)?).head()[6..].to_vec(),
            _ => return Err("no such kind".into()),
        };
        assert_eq!(again, bytes);
        Ok(())
    });
}

#[test]
fn write_ahead_log() {
    let writes = |count: u8| (0..count).flat_map(|number| wal::record(1, &[number; 20])).collect::<Vec<_>>();
    let over_a_block = [wal::record(2, &vec![7; (32 << 10) - 7]), wal::record(4, b"the end"), writes(3)].concat();
    fuzz("write_ahead_log", vec![writes(0), writes(1), writes(9), over_a_block], |bytes| {
        let believed = |bytes: &[u8]| match wal::find_damage(bytes).unwrap() {
            None => Ok(()),
            Some(at) => {
                let before = &bytes[..at as usize];
                assert_eq!(wal::find_damage(before).unwrap(), None, "damage was found too late");
                Err(format!("damaged at byte {at}"))
            }
        };
        believed(bytes).or_else(|_| believed(&wal::with_right_sums(bytes)))
    });
}
