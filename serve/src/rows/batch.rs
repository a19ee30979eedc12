//! A batch: rows and deletions of any views of one tenant that are written all together or not at all.

use arrow::array::{Array, ArrayRef, AsArray};
use larder_ingest::Changes;
use larder_store::{Shard, TenantId, Write};

use crate::error::Refusal;
use crate::shard::check_entities;

/// What is to be written together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order in which they are to be written.
    pub(crate) changes: Vec<Changes>,
}

impl Batch {
    /// The batch, if all its rows are this node's.
    pub(crate) fn checked(self, own: Shard) -> Result<Batch, Refusal> {
        for changes in &self.changes {
            check_entities(changes.rows.column(0).as_string::<i32>().iter().flatten(), own)?;
        }
        Ok(self)
    }

    /// Rows and deletions together.
    pub(crate) fn rows(&self) -> usize {
        self.changes.iter().map(|changes| changes.rows.num_rows()).sum()
    }

    /// About the bytes of their values; buffers that columns share count by their parts.
    pub(crate) fn bytes(&self) -> usize {
        let of_column = |column: &ArrayRef| {
            column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
        };
        self.changes.iter().flat_map(|changes| changes.rows.columns()).map(of_column).sum()
    }

    /// As the store takes them.
    pub(crate) fn writes(&self, tenant: TenantId) -> impl Iterator<Item = Write<'_>> {
        self.changes.iter().map(move |changes| changes.write(tenant))
    }
}
