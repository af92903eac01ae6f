//! Reading the records of all tables, those included that this release does not know.

use twinbox_replication_core::Key;

use crate::{Store, StoreError, codec::DecodeError, keys};

impl Store {
    /// All records, ordered by table and id, deleted ones included: each with its value as it lies on disk, which
    /// [`codec::decode_record`](crate::codec::decode_record) reads. Memory for one record. Not a snapshot, as
    /// [`Self::scan`]: with the changes between two vectors, one read before and one after, it is the state at the second.
    pub fn all_rows(&self) -> impl Iterator<Item = Result<(Key, Vec<u8>), StoreError>> + Send + use<> {
        self.disk().scan(keys::RECORDS).map(|row| {
            let (key, value) = row?;
            let source = DecodeError::Invalid("key");
            let key = keys::record_key(&key).ok_or(StoreError::Format { what: "a record", source })?;
            Ok((key, value))
        })
    }
}
