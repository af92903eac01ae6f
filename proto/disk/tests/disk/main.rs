//! Tests of the disk on real files, through its public interface.

mod broken;
mod damage;
mod files;
mod kill;
mod opening;
mod shrinking;
mod transactions;

use twinbox_disk::{Disk, DiskError, TransactError};

/// Writes one key.
async fn put(disk: &Disk, key: &[u8], value: &[u8]) -> Result<(), TransactError<DiskError>> {
    let (key, value) = (key.to_vec(), value.to_vec());
    disk.transact(move |t| t.put(key, value)).await
}
