use twinbox_ids::Origin;

use super::*;

const A: Origin = Origin(1);
const B: Origin = Origin(2);

fn holdings(upto: &[(Origin, u64)]) -> Holdings {
    Holdings::of(&upto.iter().copied().collect())
}

#[test]
fn mark_is_stored_when_the_member_covers_it_and_nothing_of_the_member_is_missing_here() {
    let mark = StabilityMark { changes: holdings(&[(A, 5)]) };
    let own = holdings(&[(A, 9), (B, 3)]);
    for (what, report, expected) in [
        ("less than the mark", holdings(&[(A, 4)]), false),
        ("exactly the mark", holdings(&[(A, 5)]), true),
        ("more, all of it here", holdings(&[(A, 7), (B, 3)]), true),
        ("a change of the member that is still on its way", holdings(&[(A, 5), (B, 4)]), false),
        ("of an origin that is unknown here", holdings(&[(A, 5), (Origin(3), 1)]), false),
    ] {
        assert_eq!(mark.is_stored(&report, &own), expected, "{what}");
    }
    // A change beyond a gap counts as well.
    let mut beyond = holdings(&[(A, 5)]);
    beyond.add(B, 9..=9);
    assert!(!mark.is_stored(&beyond, &own));
}

/// A change beyond a gap is in its record like any other: here the purge of a message.
#[test]
fn mark_has_what_lies_beyond_a_gap() {
    let mut changes = holdings(&[(A, 4)]);
    changes.add(A, 6..=6);
    let (mark, own) = (StabilityMark { changes: changes.clone() }, changes.clone());
    assert!(!mark.is_stored(&holdings(&[(A, 4)]), &own), "the member lacks the last one");
    assert!(mark.is_stored(&changes, &own));
    assert!(mark.is_stored(&holdings(&[(A, 6)]), &holdings(&[(A, 6)])));
}
