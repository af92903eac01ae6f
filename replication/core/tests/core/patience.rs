//! The wait of a change for its audio.

use std::time::Duration;

use twinbox_ids::BlobHash;
use twinbox_replication_core::{AudioPatience, AudioWaits};

const AUDIO: BlobHash = BlobHash([1; 32]);

fn waits() -> AudioWaits {
    let mut waits = AudioWaits::default();
    waits.set_patience(AudioPatience { denied: Duration::from_secs(5), held_up: Duration::from_secs(15) });
    waits
}

#[test]
fn wait_ends_when_all_have_denied_for_long_or_one_has_held_it_up_for_longer() {
    for (what, answers, expected) in [
        ("denied for five seconds", &[(0, true), (4, true), (5, true)][..], &[false, false, true][..]),
        ("a node that cannot be asked may have it", &[(0, true), (4, false), (6, true), (10, true)], &[false; 4]),
        (
            "it is away for too long",
            &[(0, false), (7, false), (14, false), (15, false)],
            &[false, false, false, true],
        ),
        ("now and then", &[(0, false), (7, true), (11, false), (15, true)], &[false, false, false, true]),
        (
            "once the stream is gone for long, a new wait begins",
            &[(0, false), (76, false), (90, false)],
            &[false; 3],
        ),
    ] {
        let mut waits = waits();
        let is_over: Vec<bool> =
            answers.iter().map(|(at, denied)| waits.failed(AUDIO, *denied, at * 1_000)).collect();
        assert_eq!(is_over, expected, "{what}");
    }
}

#[test]
fn each_audio_has_a_wait_of_its_own_until_it_ends() {
    let mut waits = waits();
    assert!(!waits.failed(AUDIO, true, 0));
    assert!(!waits.failed(BlobHash([2; 32]), true, 5_000) && waits.failed(AUDIO, true, 5_000));
    waits.ended(&AUDIO);
    assert!(!waits.failed(AUDIO, true, 6_000), "named again later");
}
