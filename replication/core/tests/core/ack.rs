//! Acknowledging (rules A1 to A3).

use twinbox_replication_core::ack::{
    Acknowledgement::{self, Alone, OnTwo},
    Input, Output, Tracker,
};

use crate::node;

const TIMEOUT: u64 = 250;

fn up(tracker: &mut Tracker, peer: &str) {
    assert_eq!(tracker.handle(Input::Up { peer: node(peer) }, 0), []);
    let counts = tracker.handle(Input::Answered { peer: node(peer), took: 1 }, 0);
    assert_eq!(counts, [Output::Counts { peer: node(peer) }]);
}

fn written(id: u64, first: u64, last: u64) -> Input {
    Input::Written { id, first, last, within: u64::MAX }
}

fn acked(peer: &str, first: u64, last: u64) -> Input {
    Input::Acked { peer: node(peer), first, last }
}

fn acknowledged(id: u64, acknowledgement: Acknowledgement) -> Output {
    Output::Acknowledged { id, acknowledgement }
}

fn on_two(peer: &str) -> Acknowledgement {
    OnTwo { peer: node(peer) }
}

/// The changes that no peer has.
fn alone(tracker: &Tracker) -> Vec<u64> {
    tracker.alone().iter().flatten().collect()
}

fn dropped(peer: &str) -> Output {
    Output::Dropped { peer: node(peer) }
}

#[test]
fn write_is_acknowledged_alone_if_no_peer_counts() {
    let mut tracker = Tracker::new(TIMEOUT);
    assert_eq!(tracker.handle(written(1, 1, 2), 0), [acknowledged(1, Alone)]);
    assert_eq!(alone(&tracker), Vec::from_iter(1..3));
    // Connected is not enough: a peer counts from its first answer in time.
    tracker.handle(Input::Up { peer: node("b") }, 0);
    assert_eq!(tracker.handle(Input::Answered { peer: node("b"), took: TIMEOUT + 1 }, 0), []);
    assert_eq!(tracker.handle(written(2, 3, 3), 0), [acknowledged(2, Alone)]);
    assert_eq!(tracker.counting(), 0);
}

#[test]
fn write_is_on_two_when_a_peer_has_all_of_it() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    assert_eq!(tracker.handle(written(1, 1, 3), 0), []);
    assert_eq!(tracker.handle(acked("b", 1, 2), 10), []);
    assert_eq!(tracker.next_deadline(), Some(TIMEOUT));
    assert_eq!(tracker.handle(acked("b", 3, 3), 20), [acknowledged(1, on_two("b"))]);
    assert_eq!(tracker.next_deadline(), None);
    // The acknowledgement may be here before the writer asks.
    assert_eq!(tracker.handle(acked("b", 4, 5), 30), []);
    assert_eq!(tracker.handle(written(2, 4, 5), 31), [acknowledged(2, on_two("b"))]);
    // An empty write waits for no peer.
    assert_eq!(tracker.handle(written(3, 6, 5), 32), [acknowledged(3, on_two("b"))]);
}

#[test]
fn late_peer_is_dropped_and_waiting_writes_are_acknowledged_alone() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    tracker.handle(written(1, 1, 1), 0);
    tracker.handle(written(2, 2, 2), 200);
    assert_eq!(tracker.handle(Input::Tick, TIMEOUT - 1), []);
    assert_eq!(
        tracker.handle(Input::Tick, TIMEOUT),
        [dropped("b"), acknowledged(1, Alone), acknowledged(2, Alone)],
        "the second does not wait out its own time for a peer that counts no more"
    );
    assert!(!tracker.counts(&node("b")));
    assert_eq!(tracker.handle(written(3, 3, 3), 300), [acknowledged(3, Alone)]);
    // The peer is back: changes acknowledged alone are owed until the peer has them.
    assert_eq!(alone(&tracker), Vec::from_iter(1..4));
    tracker.handle(acked("b", 1, 2), 400);
    assert_eq!(alone(&tracker), Vec::from_iter(3..4));
    assert_eq!(
        tracker.handle(Input::Answered { peer: node("b"), took: 5 }, 400),
        [Output::Counts { peer: node("b") }]
    );
    assert_eq!(tracker.handle(written(4, 4, 4), 500), []);
    assert_eq!(tracker.handle(acked("b", 3, 4), 510), [acknowledged(4, on_two("b"))]);
    assert!(tracker.alone().is_empty());
}

#[test]
fn late_peer_does_not_matter_while_another_peer_answers() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    up(&mut tracker, "c");
    tracker.handle(written(1, 1, 1), 0);
    assert_eq!(tracker.handle(acked("c", 1, 1), 5), [acknowledged(1, on_two("c"))]);
    // No writer waits any more; the late peer is dropped all the same.
    assert_eq!(tracker.next_deadline(), Some(TIMEOUT));
    assert_eq!(tracker.handle(Input::Tick, TIMEOUT), [dropped("b")]);
    assert_eq!(tracker.counting(), 1);
}

#[test]
fn writer_waits_at_most_the_timeout() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    tracker.handle(written(1, 1, 1), 0);
    // Another peer begins to count meanwhile; it never saw the write.
    tracker.handle(Input::Up { peer: node("c") }, 100);
    tracker.handle(Input::Answered { peer: node("c"), took: 1 }, 100);
    assert_eq!(tracker.handle(Input::Tick, TIMEOUT), [dropped("b"), acknowledged(1, Alone)]);
    assert!(tracker.counts(&node("c")));
}

/// The caller of a write that took long to become durable here is answered in time; the peer has its whole time.
#[test]
fn writer_with_little_time_is_acknowledged_alone_and_the_peer_still_counts() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    tracker.handle(Input::Written { id: 1, first: 1, last: 1, within: 100 }, 0);
    tracker.handle(written(2, 2, 2), 0);
    assert_eq!(tracker.handle(Input::Tick, 99), []);
    assert_eq!(tracker.handle(Input::Tick, 100), [acknowledged(1, Alone)]);
    assert!(tracker.counts(&node("b")));
    assert_eq!(alone(&tracker), [1], "owed to the peer");
    assert_eq!(tracker.handle(acked("b", 1, 2), 200), [acknowledged(2, on_two("b"))]);
    assert!(tracker.alone().is_empty());
    // Without any time, a write that the peer has is on two nevertheless.
    tracker.handle(acked("b", 3, 3), 210);
    let none = |id, change| Input::Written { id, first: change, last: change, within: 0 };
    assert_eq!(tracker.handle(none(3, 3), 220), [acknowledged(3, on_two("b"))]);
    assert_eq!(tracker.handle(none(4, 4), 220), [acknowledged(4, Alone)]);
    assert_eq!(tracker.handle(Input::Tick, 220 + TIMEOUT), [dropped("b")], "it had its time for the fourth");
}

#[test]
fn stream_loss_frees_waiting_writers_and_a_new_stream_starts_empty() {
    let mut tracker = Tracker::new(TIMEOUT);
    up(&mut tracker, "b");
    tracker.handle(acked("b", 1, 9), 0);
    tracker.handle(written(1, 10, 10), 0);
    assert_eq!(tracker.handle(Input::Down { peer: node("b") }, 5), [dropped("b"), acknowledged(1, Alone)]);
    // The peer's disk may have been replaced: its earlier acknowledgements prove nothing now.
    up(&mut tracker, "b");
    assert_eq!(tracker.handle(written(2, 9, 9), 6), []);
    // An up without a down between is a new connection too.
    assert_eq!(tracker.handle(Input::Up { peer: node("b") }, 7), [dropped("b"), acknowledged(2, Alone)]);
    // Answers of an unknown peer change nothing.
    assert_eq!(tracker.handle(acked("x", 1, u64::MAX), 8), []);
    assert_eq!(tracker.handle(Input::Answered { peer: node("x"), took: 0 }, 8), []);
}

/// An administrator changes the timeout while writes wait: each keeps the one with which it began.
#[test]
fn a_changed_timeout_counts_for_later_writes_alone() {
    for (later, first_until, second_until) in [(1_000, 250, 1_010), (40, 250, 50)] {
        let mut tracker = Tracker::new(TIMEOUT);
        up(&mut tracker, "b");
        assert_eq!(tracker.handle(written(1, 1, 1), 0), []);
        tracker.set_timeout(later);
        assert_eq!(tracker.handle(written(2, 2, 2), 10), []);
        let earlier = first_until.min(second_until);
        assert_eq!(tracker.next_deadline(), Some(earlier));
        assert_eq!(tracker.handle(Input::Tick, earlier - 1), []);
        let outputs = tracker.handle(Input::Tick, earlier);
        // A peer that is late with the oldest write is dropped, and nothing waits for it any more.
        match first_until < second_until {
            true => assert_eq!(outputs, [dropped("b"), acknowledged(1, Alone), acknowledged(2, Alone)]),
            false => assert_eq!(outputs, [acknowledged(2, Alone)]),
        }
        tracker.handle(Input::Up { peer: node("c") }, 20);
        let counts = tracker.handle(Input::Answered { peer: node("c"), took: later }, 20);
        assert_eq!(counts, [Output::Counts { peer: node("c") }], "the new timeout decides on probes");
    }
}
