//! Tests of the disk on real files, through its public interface.

mod broken;
mod damage;
mod files;
mod kill;
mod opening;
mod shrinking;
mod transactions;

use twinbox_disk::{Disk, DiskError, TransactError};

/// Bytes that no compression makes shorter, the same for the same number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut state = number;
    let mut next = || {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_be_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes
}

/// Writes one key.
async fn put(disk: &Disk, key: &[u8], value: &[u8]) -> Result<(), TransactError<DiskError>> {
    let (key, value) = (key.to_vec(), value.to_vec());
    disk.transact(move |t| t.put(key, value)).await
}
