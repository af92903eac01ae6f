use super::*;

#[test]
fn fill_ends_when_a_source_sent_all_or_no_source_is_possible() {
    let (source, filling) = (|given| Some((true, given)), |given| Some((false, given)));
    let away = None;
    for (peers, expected) in [
        (vec![], Progress::Wait),
        (vec![away], Progress::Wait),
        (vec![source(false)], Progress::Wait),
        (vec![source(true)], Progress::Filled),
        // An absent node causes no delay while another is a source.
        (vec![source(true), away], Progress::Filled),
        (vec![source(true), source(false)], Progress::Wait),
        (vec![source(true), filling(false)], Progress::Filled),
        // Two filling nodes do not wait for each other; the third may have all.
        (vec![filling(true)], Progress::NoSource),
        (vec![filling(false)], Progress::Wait),
        (vec![filling(true), away], Progress::Wait),
        (vec![filling(true), filling(true)], Progress::NoSource),
    ] {
        assert_eq!(progress(&peers), expected, "{peers:?}");
    }
}

#[test]
fn fill_goes_on_without_a_source_that_brings_nothing_until_it_brings_something() {
    let at = |seconds: u64| BootInstant::from_nanos(seconds * 1_000_000_000);
    let mut patience = Patience { missing: 100, advanced: 0, since: at(0) };
    for (seconds, missing, advanced, expected) in [
        (299, 100, 0, false),
        (300, 100, 0, true),
        (400, 99, 0, false),
        // A scan of any peer gets further.
        (699, 99, 1, false),
        (998, 99, 1, false),
        (999, 99, 1, true),
        // Its next stream tells of more: that brings nothing.
        (1_000, 500, 1, true),
        (1_001, 99, 1, true),
        (1_002, 98, 1, false),
    ] {
        assert_eq!(patience.is_over(missing, advanced, at(seconds), STUCK), expected, "{seconds} s");
    }
}

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
