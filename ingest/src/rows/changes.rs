//! Rows, or deletions, of one view, as columns.

use arrow::array::RecordBatch;
use larder_store::{TenantId, Write, WriteKind};

/// Rows, or deletions, of one view, to be written in the order of several such.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The view's name.
    pub view: String,
    /// What is to happen.
    pub kind: WriteKind,
    /// In the schema that the store asks for.
    pub rows: RecordBatch,
}

impl Changes {
    /// As the store takes them.
    pub fn write(&self, tenant: TenantId) -> Write<'_> {
        Write { tenant, view: &self.view, kind: self.kind, rows: &self.rows }
    }
}
