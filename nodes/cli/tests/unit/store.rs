//! Texts of the check and the compaction of a store.

use twinbox_wire::storage::AudioOwners;

use super::*;

#[test]
fn compaction_says_what_it_freed() {
    let reply = CompactReply { removed: 3, moved_bytes: 1_000_000, freed_bytes: 64_000_000, ..Default::default() };
    assert_eq!(compacted(&reply), "64.0 MB freed: 3 packs removed, 1.0 MB moved");
    assert!(compacted(&CompactReply::default()).contains("nothing to compact"));
}

#[test]
fn check_fails_for_each_kind_of_damage_and_names_it() {
    assert!(outcome(&CheckReply::default()).is_ok());
    let damaged =
        CheckReply { unreadable: 1, unreadable_rows: vec!["message 0x01".to_owned()], ..CheckReply::default() };
    assert!(checked(&damaged).contains("1 record cannot be read:\n  message 0x01"));
    let missing = CheckReply { missing_audio: vec!["ab".to_owned()], ..CheckReply::default() };
    let audio = CheckReply { damaged_audio: vec!["cd".to_owned()], ..CheckReply::default() };
    for reply in [damaged, missing, audio, CheckReply { set_aside: 1, ..CheckReply::default() }] {
        assert!(outcome(&reply).is_err(), "{reply:?}");
    }
}

#[test]
fn large_damage_is_counted_and_recordings_are_listed_with_their_owners() {
    let owners = AudioOwners { audio: "ab".to_owned(), rows: vec!["message 1".to_owned(), "message 2".to_owned()] };
    let listed = vec!["ab".to_owned(), "cd".to_owned()];
    let reply = CheckReply { missing: 12, missing_audio: listed, owners: vec![owners], ..CheckReply::default() };
    let text = checked(&reply);
    assert!(text.contains("12 recordings missing:\n  ab: message 1, message 2\n  cd\n  and 10 more"), "{text}");
    assert!(outcome(&CheckReply { missing: 1, ..CheckReply::default() }).is_err());
}

#[test]
fn recordings_that_a_node_still_receives_are_no_damage() {
    let reply = CheckReply { awaited: 7, ..CheckReply::default() };
    assert!(outcome(&reply).is_ok());
    assert!(checked(&reply).contains("7 recordings still being received"), "{}", checked(&reply));
}
