//! A mistake for simulated disks, also for those of `proto/disk`: a start accepts stale batches.

use twinbox_journal::BLOCK;

/// Gives all batches in a segment the nonce and the number in its header.
pub(crate) fn adopt_stale_batches(segment: &mut [u8]) {
    let Some((header, blocks)) = segment.split_at_mut_checked(BLOCK as usize) else { return };
    if !header.starts_with(b"TwbJrnl\n") {
        return;
    }
    let (number, nonce) = (header[16..24].to_vec(), header[24..32].to_vec());
    for at in (0..blocks.len() / BLOCK as usize).map(|block| block * BLOCK as usize) {
        let batch = &mut blocks[at..];
        let length = batch[40..48].iter().rev().fold(0_u64, |length, byte| (length << 8) | u64::from(*byte));
        let Some(end) = usize::try_from(length).ok().and_then(|length| length.checked_add(48)) else {
            continue;
        };
        let is_batch = batch.starts_with(b"TwbB") && end <= batch.len();
        if !is_batch || batch[4..8] != crc32fast::hash(&batch[8..end]).to_le_bytes() {
            continue;
        }
        batch[8..16].copy_from_slice(&nonce);
        batch[16..24].copy_from_slice(&number);
        let checksum = crc32fast::hash(&batch[8..end]).to_le_bytes();
        batch[4..8].copy_from_slice(&checksum);
    }
}
