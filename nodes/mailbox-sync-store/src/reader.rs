//! Rows of the store, or as the committer sees them: an account is resolved in the same way from both.

use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::{Draft, Store, StoreError};

/// Source of rows.
pub(crate) trait Rows {
    /// A record, deleted or not.
    fn row(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// The records of a table, deleted ones included.
    fn table(&self, table: Table) -> Result<Vec<(Key, Record)>, StoreError>;
}

impl Rows for Store {
    fn row(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.get(key)
    }

    fn table(&self, table: Table) -> Result<Vec<(Key, Record)>, StoreError> {
        self.scan(table, &[])
    }
}

impl Rows for Draft<'_> {
    fn row(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.get(key)
    }

    fn table(&self, table: Table) -> Result<Vec<(Key, Record)>, StoreError> {
        self.scan(table, &[])
    }
}
