use super::*;

const ORIGIN: Origin = Origin(1);
const OTHER_ORIGIN: Origin = Origin(2);
const WRITER: Origin = Origin(3);

fn link(vector: Vector) -> (Link, StreamNumber) {
    let link = Link::new("b".parse().unwrap(), "127.0.0.1:1".into());
    let number = link.open(ORIGIN, &vector, CancellationToken::new());
    (link, number)
}

#[test]
fn change_is_claimed_once_and_again_after_a_rewind() {
    let (link, number) = link([(WRITER, 1)].into_iter().collect());
    assert!(!link.claim(number, WRITER, 1), "it has that");
    assert!(link.claim(number, WRITER, 2) && !link.claim(number, WRITER, 2));
    assert_eq!(link.rewind(number).get(WRITER), 1);
    assert!(link.claim(number, WRITER, 2));
    assert!(!link.claim(number + 1, WRITER, 3), "no such stream");
}

#[test]
fn received_change_is_not_sent_back_except_to_a_new_incarnation() {
    let (link, number) = link(Vector::new());
    link.came_from(ORIGIN, [(WRITER, 1)].into_iter());
    link.came_from(OTHER_ORIGIN, [(WRITER, 2)].into_iter());
    assert!(!link.claim(number, WRITER, 1));
    assert!(link.claim(number, WRITER, 2), "the disk of the other incarnation may be lost");
}

#[test]
fn announced_changes_of_the_present_origin_count_as_held_by_the_peer() {
    let (link, number) = link(Vector::new());
    link.has_made(ORIGIN, 7);
    link.has_made(ORIGIN, 0);
    link.has_made(OTHER_ORIGIN, 9);
    assert_eq!((link.has().get(ORIGIN), link.has().get(OTHER_ORIGIN)), (7, 0));
    // Any reported value is handled without overflow.
    link.has_made(ORIGIN, u64::MAX);
    link.acked(number, &vec![(WRITER, 1..=1)], &[(WRITER, u64::MAX)].into_iter().collect());
    assert_eq!(Holdings::default().lag(&link.has()), u64::MAX);
}

#[test]
fn changes_that_a_peer_has_made_are_known_while_its_stream_is_only_opened_again() {
    let (link, _) = link(Vector::new());
    link.welcomed(ORIGIN);
    link.has_made(ORIGIN, 7);
    link.end_source(true);
    assert_eq!(link.made(), Some((ORIGIN, 7)));
    link.welcomed(OTHER_ORIGIN);
    assert_eq!(link.made(), None, "another incarnation greets");
    link.has_made(OTHER_ORIGIN, 9);
    assert_eq!(link.made(), Some((OTHER_ORIGIN, 9)));
    link.end_source(false);
    assert_eq!(link.made(), None, "it is away");
}

#[test]
fn prefix_is_taken_only_of_an_origin_whose_changes_are_acknowledged() {
    let (link, number) = link(Vector::new());
    // It may be ahead of what is here: the peer has other sources.
    let prefixes = [(WRITER, 9), (OTHER_ORIGIN, 9)].into_iter().collect();
    assert!(link.acked(number, &vec![(WRITER, 2..=3)], &prefixes));
    assert_eq!(link.has().iter().collect::<Vec<_>>(), [(WRITER, 9)]);
    assert_eq!((link.has_of(WRITER), link.has_of(OTHER_ORIGIN)), (vec![1..=9], vec![]), "nothing of the other one");
}

#[test]
fn report_counts_while_its_stream_is_open_and_the_peer_is_the_same() {
    let (link, number) = link(Vector::new());
    let missed = || link.fill_missed.load(Relaxed);
    assert!(!link.reported(number + 1, Arc::default(), true));
    assert_eq!((link.report(), missed()), (None, false), "no such stream");
    let report = Arc::new(Holdings::of(&[(WRITER, 4)].into_iter().collect()));
    assert!(link.reported(number, report.clone(), true));
    assert_eq!((link.report(), missed()), (Some(report.clone()), true));
    assert!(!link.reported(number + 1, report.clone(), false));
    assert!(missed(), "no such stream");
    link.welcomed(OTHER_ORIGIN);
    assert_eq!(link.report(), None, "the stream is a stale one");
    link.welcomed(ORIGIN);
    assert_eq!(link.report(), Some(report));
    assert!(link.close(number));
    assert_eq!(link.report(), None, "it may come back with another disk");
    link.open(ORIGIN, &Vector::new(), CancellationToken::new());
    assert_eq!(link.report(), None);
}

#[test]
fn report_covers_changes_once_its_lost_audio_was_looked_for_here() {
    let (link, number) = link([(WRITER, 9)].into_iter().collect());
    let covered = || {
        let mut held = Holdings::default();
        (link.add_to(&mut held), held.vector().get(WRITER), link.report_wanted.swap(false, Relaxed))
    };
    assert_eq!(covered(), (0, 0, true), "what it acknowledges may be without its audio");
    let [first, second] = [4, 5].map(|upto| Arc::new(Holdings::of(&[(WRITER, upto)].into_iter().collect())));
    assert!(link.reported(number, first.clone(), false));
    assert_eq!(covered(), (0, 0, false), "no other report is asked for meanwhile");
    assert!(link.reported(number, second.clone(), false));
    link.found_lost(&first, 0);
    assert_eq!(covered(), (0, 0, false), "that was the report before");
    link.found_lost(&second, 3);
    assert_eq!(covered(), (3, 5, true));
    assert!(link.reported(number, first, false));
    assert_eq!(covered(), (3, 5, false), "the one before counts until then");
    link.set_lacks_data(true);
    assert!(link.reported(number, second.clone(), false));
    link.found_lost(&second, 0);
    link.set_lacks_data(false);
    assert_eq!(covered(), (0, 0, true), "it lacked audio when it made this report");
    link.open(ORIGIN, &Vector::new(), CancellationToken::new());
    assert_eq!(covered(), (0, 0, true));
}

#[test]
fn clock_of_a_peer_goes_on_from_what_it_said() {
    let (link, number) = link(Vector::new());
    let at = |ms: u64| BootInstant::from_nanos(ms * 1_000_000);
    link.told_time(number, 0, at(10));
    link.told_time(number + 1, 500, at(10));
    assert_eq!(link.clock(at(20)), None);
    link.told_time(number, 1_000, at(10));
    assert!(link.close(number));
    assert_eq!(link.clock(at(30)), Some(1_020), "also while the peer is away");
    link.open(ORIGIN, &Vector::new(), CancellationToken::new());
    assert_eq!(link.clock(at(30)), None);
}

#[test]
fn stream_of_a_peer_ends_when_its_address_changes_and_only_then() {
    let link = Link::new("b".parse().unwrap(), "127.0.0.1:1".into());
    let ended = CancellationToken::new();
    let number = link.open(ORIGIN, &Vector::new(), ended.clone());
    assert!(!link.move_to("127.0.0.1:1") && !ended.is_cancelled());
    assert!(link.move_to("127.0.0.1:2") && ended.is_cancelled());
    assert_eq!(link.address(), "127.0.0.1:2");
    assert!(link.close(number), "the reader of the stream ends the wait for this peer");
}

#[test]
fn new_stream_ends_the_old_one_and_its_frames_are_ignored() {
    let (link, _) = link(Vector::new());
    let ended = CancellationToken::new();
    let old = link.open(ORIGIN, &Vector::new(), ended.clone());
    let new = link.open(OTHER_ORIGIN, &Vector::new(), CancellationToken::new());
    assert!(ended.is_cancelled());
    assert!(!link.acked(old, &vec![(WRITER, 1..=5)], &Vector::new()));
    assert!(link.acked(new, &vec![(WRITER, 1..=2)], &Vector::new()));
    assert_eq!(link.lag(&[(WRITER, 5)].into_iter().collect()), 3);
    assert!(!link.close(old) && link.followed() && link.close(new) && !link.followed());
}

#[test]
fn report_that_names_more_lost_audio_than_a_node_sends_is_refused() {
    let most = crate::config::limits::REPORTED_AUDIO;
    for (count, is_read) in [(0, true), (most, true), (most + 1, false)] {
        let lost_audio = vec![bytes::Bytes::from_static(&[7; 32]); count];
        let report = twinbox_wire::replication::Report { lost_audio, ..Default::default() };
        assert_eq!(crate::frames::read_lost(&report).is_ok(), is_read, "{count}");
    }
}
