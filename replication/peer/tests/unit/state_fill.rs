use super::*;
use crate::attempts::StateFills;

fn vector(upto: u64) -> Vector {
    [(Origin(1), upto)].into_iter().collect()
}

fn candidate(way: Way, has: u64, begins: u64) -> Candidate {
    Candidate {
        way,
        is_complete: true,
        is_settled: true,
        is_stuck: false,
        has: vector(has),
        log_begins: vector(begins),
    }
}

#[test]
fn rows_are_scanned_only_when_no_log_brings_this_node_there() {
    let (own, late) = (vector(5), candidate(Way::State, 20, 10));
    let incomplete = Candidate { is_complete: false, ..late.clone() };
    let new = Candidate { is_settled: false, ..late.clone() };
    let stuck = Candidate { is_stuck: true, ..candidate(Way::History, 10, 0) };
    for (what, peers, expected) in [
        ("no peer", vec![], None),
        ("one peer with a cut log", vec![late.clone()], Some(0)),
        ("it fills itself", vec![incomplete], None),
        ("another may connect in a moment", vec![new], None),
        ("a log brings this node far enough", vec![candidate(Way::History, 10, 0), late.clone()], None),
        ("a log ends before", vec![candidate(Way::History, 9, 0), late.clone()], Some(1)),
        ("a log of which nothing comes", vec![stuck, late.clone()], Some(1)),
        ("two with a cut log", vec![late.clone(), late], Some(0)),
    ] {
        assert_eq!(choose(&own, &peers), expected, "{what}");
    }
}

#[test]
fn pages_must_advance_and_their_rows_be_in_order() {
    let key = |id: &str| Key::new(Table(1), id);
    let row = |id: &str| wire::StateRow {
        key: Some(crate::state_scan::key_to_wire(&key(id))),
        record: Some(Default::default()),
    };
    let page = |ids: &[&str], after: Option<&str>, upto: Option<&str>| {
        let rows = ids.iter().map(|id| row(id)).collect();
        read_rows(rows, after.map(key).as_ref(), upto.map(key).as_ref()).is_ok()
    };
    assert!(page(&["a", "b"], None, None) && page(&["b"], Some("a"), Some("b")) && page(&[], Some("a"), None));
    assert!(!page(&["b", "a"], None, None), "backwards");
    assert!(!page(&["a", "a"], None, None), "twice");
    assert!(!page(&["a"], Some("a"), None), "again");
    assert!(!page(&["c"], None, Some("b")), "behind its end");
    assert!(!page(&[], Some("b"), Some("b")) && !page(&["b"], None, Some("a")), "an end that stays");
    assert!(!page(&[], Some("a"), Some("b")), "nothing, again and again");
    assert!(frames::read_prefixes(Some(&codec::vector_to_wire(&vector(u64::MAX)))).is_err(), "from the future");
    let bare = wire::StateRow { key: None, record: None };
    assert!(read_rows(vec![bare], None, None).is_err());
    let long = Key::new(Table(1), vec![0; KEY + 1]);
    assert!(read_key(crate::state_scan::key_to_wire(&long)).is_err());
}

#[test]
fn of_two_nodes_that_were_split_the_second_one_merges_too_when_the_first_has_ended() {
    let (fills, a, b) = (StateFills::default(), "a".parse().unwrap(), "b".parse().unwrap());
    assert_eq!(fills.way(&a, Way::Merge), Way::Merge);
    assert_eq!(fills.way(&a, Way::State), Way::Merge, "the peer has what was here, by its own merge");
    assert_eq!(fills.way(&b, Way::State), Way::State, "this node was behind all the time");
    assert_eq!(fills.way(&a, Way::History), Way::History);
    assert_eq!(fills.way(&a, Way::State), Way::State, "another time");
}

#[test]
fn a_scan_advances_only_beyond_what_earlier_ones_brought() {
    let (fills, a, now) = (StateFills::default(), "a".parse().unwrap(), BootInstant::from_nanos(0));
    assert!(fills.begin(&a, now).is_some());
    let advanced = |rows| {
        let before = fills.advanced();
        fills.scanned(&a, rows);
        fills.advanced() > before
    };
    assert_eq!([10, 20, 10, 20, 21].map(advanced), [true, true, false, false, true]);
    fills.failed(&a, now, Some(&bad("rows that are not in order")));
    assert!(fills.failure(&a).is_some_and(|failure| failure.contains("rows that are not in order")));
    fills.failed(&a, now, None);
    assert_eq!(fills.failure(&a), None);
}
