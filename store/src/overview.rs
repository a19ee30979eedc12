//! What a store holds as a whole: RocksDB's files by family and level, the hot tier, live rows, erasures, and the room on its disks.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rocksdb::statistics::Ticker;

use crate::Error;
use crate::hot::HotUsage;
use crate::store::Store;
use crate::warm::disk;

/// A store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// RocksDB's files, by family and level.
    pub levels: Vec<LevelFiles>,
    /// What the hot tier holds.
    pub hot: HotUsage,
    /// Blocks that RocksDB's cache held when they were asked for, since the store was opened.
    pub block_cache_hits: u64,
    /// Blocks that it did not hold.
    pub block_cache_misses: u64,
    /// Entities with live rows, estimated: what was written several times since the last file may count as often.
    pub live_entities: u64,
    /// Rows of logs, estimated likewise.
    pub log_rows: u64,
    /// Entities that were erased.
    pub erasures: u64,
    /// Files of the cold tier, and their bytes.
    pub cold_files: u64,
    /// See `cold_files`.
    pub cold_bytes: u64,
    /// RAM taken by the filters and directories of the cold files.
    pub cold_index_bytes: u64,
    /// The disk of `store.path`, then that of `store.cold_path`.
    pub disks: Vec<DiskSpace>,
}

/// The files of one level of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelFiles {
    /// "base", "live", "meta" or "log".
    pub family: String,
    /// 0 for files that lie on top of others.
    pub level: u32,
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their keys.
    pub entries: u64,
}

/// The room on the disk of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpace {
    /// The folder, or where it does not exist the nearest one above that does.
    pub path: PathBuf,
    /// Bytes that are free for this process.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
    /// The number by which the operating system tells this file system from others.
    pub disk: u64,
}

impl DiskSpace {
    /// Asks the operating system about a folder, which need not exist yet.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when it does not say.
    pub fn of(folder: &Path) -> Result<DiskSpace, Error> {
        let absolute = std::path::absolute(folder).map_err(Error::disk("find", folder))?;
        let path = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_path_buf();
        let found = rustix::fs::statvfs(&path);
        let found = found.map_err(|error| Error::disk("ask for the room on the disk of", &path)(error.into()))?;
        let disk = std::fs::metadata(&path).map_err(Error::disk("read", &path))?.dev();
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(DiskSpace { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks), path, disk })
    }
}

impl Store {
    /// Counts what the store holds. It lists every file, so it is for people and not for every scrape.
    ///
    /// # Errors
    /// [`Error::CheckDisk`] when the files cannot be listed.
    pub fn overview(&self) -> Result<Overview, Error> {
        let inner = &*self.0;
        let mut levels: BTreeMap<(String, u32), LevelFiles> = BTreeMap::new();
        for file in inner.warm.db.live_files().map_err(disk("list", inner.warm.path()))? {
            let (family, level) = (file.column_family_name, file.level.unsigned_abs());
            let at = levels.entry((family.clone(), level));
            let at = at.or_insert_with(|| LevelFiles { family, level, files: 0, bytes: 0, entries: 0 });
            at.files += 1;
            at.bytes += file.size as u64;
            at.entries += file.num_entries;
        }
        let generations = inner.generations.load();
        let cold = || generations.all().flat_map(|generation| &generation.cold);
        Ok(Overview {
            levels: levels.into_values().collect(),
            hot: inner.hot.size(),
            block_cache_hits: inner.warm.count(Ticker::BlockCacheHit),
            block_cache_misses: inner.warm.count(Ticker::BlockCacheMiss),
            live_entities: inner.warm.live_keys(),
            log_rows: inner.warm.log_rows(),
            erasures: inner.erasures.len() as u64,
            cold_files: cold().count() as u64,
            cold_bytes: cold().map(|part| part.described.bytes).sum(),
            cold_index_bytes: cold().map(|part| part.file.resident_bytes() as u64).sum(),
            disks: vec![DiskSpace::of(inner.warm.path())?, DiskSpace::of(inner.cold_folder.path())?],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rows::{points, points_rows, publish_points, view};
    use crate::{StoreConfig, TenantId, Write, WriteKind};

    #[test]
    fn files_rows_and_room_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig { path: folder.path().join("store"), ..StoreConfig::default() };
        let store = Store::open(&config, &[view()]).unwrap();
        publish_points(&store, folder.path(), 1, 1);
        let rows = points_rows(&["ada", "eve", "zoe"], 5, 50);
        let write = Write { tenant: TenantId(1), view: "view", kind: WriteKind::Upsert, rows: &rows };
        store.write(&[write], 5).unwrap();
        store.erase(TenantId(1), "zoe", 9).unwrap();
        points(&store, 1);
        let overview = store.overview().unwrap();
        let base = overview.levels.iter().find(|level| level.family == "base").unwrap();
        assert_eq!((base.files, base.entries), (1, 2));
        assert!(base.bytes > 0);
        assert_eq!((overview.live_entities, overview.erasures, overview.cold_files), (3, 1, 0));
        assert_eq!(overview.disks.len(), 2);
        assert!(overview.disks.iter().all(|disk| 0 < disk.free_bytes && disk.free_bytes <= disk.total_bytes));
    }
}
