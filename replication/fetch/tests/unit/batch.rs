use super::*;

#[test]
fn short_blobs_share_requests_and_long_ones_do_not() {
    const MIB: u64 = 1024 * 1024;
    let blob = |number: usize, length| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(number as u64).to_be_bytes());
        BlobRef { hash: twinbox_ids::BlobHash(hash), length, recording: None }
    };
    for (lengths, expected) in [
        (vec![], vec![]),
        (vec![1_600; 1_100], vec![(512, 512 * 1_600), (512, 512 * 1_600), (76, 76 * 1_600)]),
        (vec![MIB; 9], vec![(4, 4 * MIB), (4, 4 * MIB), (1, MIB)]),
        // Longer than a request is: alone. One that would be refused counts as the longest that is not.
        (vec![5 * MIB, 1, 1], vec![(1, 5 * MIB), (2, 2)]),
        (vec![u64::MAX, u64::MAX], vec![(1, MAX_BLOB), (1, MAX_BLOB)]),
        (vec![0, 0, 0], vec![(3, 0)]),
    ] {
        let blobs: Vec<_> = lengths.iter().enumerate().map(|(number, length)| blob(number, *length)).collect();
        let batches = batches(blobs.clone());
        let sizes: Vec<_> = batches.iter().map(|batch| (batch.blobs.len(), batch.bytes)).collect();
        assert_eq!(sizes, expected);
        assert_eq!(batches.into_iter().flat_map(|batch| batch.blobs).collect::<Vec<_>>(), blobs);
    }
}
