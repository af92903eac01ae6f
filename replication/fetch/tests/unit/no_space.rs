//! The beginning and the end of a lack of space.

use super::*;

fn blob(number: u8) -> BlobHash {
    BlobHash([number; 32])
}

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_nanos(seconds * 1_000_000_000)
}

#[test]
fn lack_of_space_begins_with_the_first_refused_blob_and_ends_with_the_last() {
    let mut no_space = NoSpace::default();
    for _ in 0..2 {
        assert_eq!(no_space.ended(&blob(1), true, at(0)), None, "nothing was refused");
        assert!(no_space.refused(blob(1), at(0)));
        for second in 1..100 {
            assert!(!no_space.refused(blob(1), at(second)) && !no_space.refused(blob(2), at(second)));
        }
        assert_eq!(no_space.ended(&blob(3), true, at(100)), None, "a smaller one");
        assert_eq!(no_space.ended(&blob(1), true, at(101)), None);
        assert_eq!(no_space.ended(&blob(2), false, at(102)), Some(2));
    }
}

#[test]
fn lack_of_space_ends_although_a_refused_blob_is_not_tried_again() {
    let mut no_space = NoSpace::default();
    assert!(no_space.refused(blob(1), at(0)) && !no_space.refused(blob(2), at(10)));
    assert_eq!(no_space.ended(&blob(2), true, at(11)), None);
    assert_eq!(no_space.ended(&blob(3), false, at(130)), None, "it is not stored");
    assert_eq!(no_space.ended(&blob(4), true, at(130)), Some(2));
    assert!(no_space.refused(blob(1), at(131)), "it begins once more");
}
