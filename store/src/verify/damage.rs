//! What is wrong with a store: which part of it is not as it was written, what that means and what helps.

use std::path::PathBuf;

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything that is not as it was written; empty when all is well.
    pub damages: Vec<Damage>,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the folder where no single file is at fault.
    pub path: PathBuf,
    /// What it is.
    pub part: StorePart,
    /// What is wrong with it.
    pub reason: String,
}

/// The parts of a store, by what their damage costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePart {
    /// A table of generations' rows.
    Rows,
    /// A table of live rows, or a row in one.
    LiveRows,
    /// A table of logs.
    Logs,
    /// The table of records, or a record.
    Records,
    /// A table whose family cannot be told, because the database cannot be opened.
    Table,
    /// A write-ahead log.
    WriteAheadLog,
    /// RocksDB's list of its files.
    FileList,
    /// The database as a whole: it does not open.
    Database,
    /// The tail of a cold file, or the whole of it.
    ColdFile,
    /// Pages of a cold file.
    ColdPages,
    /// The hot-set file.
    HotSet,
    /// A file of a generation that is not published yet.
    Built,
}

impl StorePart {
    /// What the part is called.
    pub fn label(self) -> &'static str {
        match self {
            StorePart::Rows => "rows",
            StorePart::LiveRows => "live rows",
            StorePart::Logs => "logs",
            StorePart::Records => "records",
            StorePart::Table => "table",
            StorePart::WriteAheadLog => "write-ahead log",
            StorePart::FileList => "file list",
            StorePart::Database => "database",
            StorePart::ColdFile => "cold file",
            StorePart::ColdPages => "cold pages",
            StorePart::HotSet => "hot set",
            StorePart::Built => "built generation",
        }
    }

    /// What its damage means.
    pub fn means(self) -> &'static str {
        match self {
            StorePart::Rows => "fetches of the users whose rows lie there fail; all others are answered",
            StorePart::LiveRows => "live rows since the last snapshot are lost there, and fetches that need them fail",
            StorePart::Logs => "questions of the async lane, or answers to them, are lost there",
            StorePart::Records => "what is live cannot be told, so the store does not open",
            StorePart::Table => "what lies there cannot be read, or the store does not open",
            StorePart::WriteAheadLog => "acknowledged writes would be lost, so the store does not open",
            StorePart::FileList | StorePart::Database => "the store does not open",
            StorePart::ColdFile => "the store does not open without it",
            StorePart::ColdPages => "the users whose rows lie there are answered \"not in time\"",
            StorePart::HotSet => "nothing but warmth is lost",
            StorePart::Built => "it would be refused",
        }
    }

    /// What helps.
    pub fn advice(self) -> &'static str {
        match self {
            StorePart::Rows | StorePart::ColdPages => {
                "publish the view's snapshot again (`larder ingest load`), or restore a backup (`larder restore`)"
            }
            StorePart::HotSet => "delete it",
            StorePart::Built => "build it again (`larder ingest build`)",
            _ => "restore a backup (`larder restore`), or load the snapshots into an empty store",
        }
    }
}
