//! Vectors (rule D1).

use twinbox_ids::Origin;
use twinbox_replication_core::{Gap, Vector};

#[test]
fn vector_covers_prefixes_and_lists_missing_ranges() {
    let mut mine = Vector::from_iter([(Origin(1), 5), (Origin(2), 3)]);
    let theirs = Vector::from_iter([(Origin(1), 2), (Origin(3), 9)]);
    assert!(mine.covers(Origin(1), 5) && !mine.covers(Origin(1), 6) && !mine.covers(Origin(3), 1));
    assert_eq!(
        mine.missing_from(&theirs),
        [Gap { origin: Origin(1), after: 2, upto: 5 }, Gap { origin: Origin(2), after: 0, upto: 3 }]
    );
    mine.join(&theirs);
    assert_eq!(mine.iter().collect::<Vec<_>>(), [(Origin(1), 5), (Origin(2), 3), (Origin(3), 9)]);
    assert!(theirs.missing_from(&mine).is_empty());
    mine.raise(Origin(1), 4);
    assert_eq!((mine.get(Origin(1)), mine.total()), (5, 17), "a prefix never shrinks");
    mine.raise(Origin(8), 0);
    assert_eq!(mine.iter().count(), 3);
}
