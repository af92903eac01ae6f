//! Keys that arrive by RTP and INFO.

use super::{
    KeyPath::{Info, Rtp},
    *,
};

/// The keys that count, among (way, key, milliseconds).
fn counted(received: &[(KeyPath, char, u64)]) -> String {
    let mut keys = Keys::default();
    let start = BootInstant::from_nanos(1_000_000_000);
    let new = |&(path, key, ms): &(KeyPath, char, u64)| {
        keys.is_new(path, key, start + Duration::from_millis(ms)).then_some(key)
    };
    received.iter().filter_map(new).collect()
}

#[test]
fn key_received_by_both_paths_counts_once() {
    for (arrived, expected) in [
        // One way only, the same key repeatedly.
        (&[(Rtp, '1', 0), (Rtp, '1', 200), (Rtp, '1', 400)][..], "111"),
        (&[(Info, '1', 0), (Info, '1', 200)], "11"),
        // Both ways, either first.
        (&[(Rtp, '1', 0), (Info, '1', 20), (Rtp, '1', 300), (Info, '1', 320)], "11"),
        (&[(Info, '1', 0), (Rtp, '1', 20), (Info, '2', 300), (Rtp, '2', 320)], "12"),
        // The second way lags by several keys.
        (
            &[
                (Rtp, '1', 0),
                (Rtp, '2', 100),
                (Rtp, '1', 200),
                (Info, '1', 900),
                (Info, '2', 910),
                (Info, '1', 920),
            ],
            "121",
        ),
        // A key that was lost on one way.
        (&[(Rtp, '1', 0), (Rtp, '2', 100), (Info, '2', 120), (Rtp, '3', 200), (Info, '3', 220)], "123"),
        (&[(Info, '1', 0), (Rtp, '2', 100), (Info, '2', 120)], "12"),
        // A telephone that changes the way later.
        (&[(Rtp, '1', 0), (Info, '1', 4_001)], "11"),
    ] {
        assert_eq!(counted(arrived), expected, "{arrived:?}");
    }
}

#[test]
fn number_of_stored_keys_is_bounded() {
    let mut keys = Keys::default();
    let now = BootInstant::from_nanos(0);
    assert!((0..1_000).all(|_| keys.is_new(Rtp, '5', now)));
    assert_eq!(keys.0.len(), MAX_KEYS);
}
