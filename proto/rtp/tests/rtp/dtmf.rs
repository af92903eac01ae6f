//! Key presses from telephone-events, over good and bad networks and from good and bad senders.

use twinbox_rtp::{
    dtmf::{self, Detector, Event, code, key, press},
    packet::{Header, RtpTime, SeqNo, Ssrc},
};

/// A packet: timestamp, key, end, duration, marker.
type EventPacket = (u32, char, bool, u16, bool);

fn heard(steps: &[EventPacket]) -> String {
    let mut detector = Detector::default();
    let step = |(i, &(time, key, end, duration, marker)): (usize, &EventPacket)| {
        let header = Header {
            marker,
            payload_type: 101,
            seq: SeqNo(i as u16),
            time: RtpTime(time.wrapping_sub(1_000)),
            ssrc: Ssrc(1),
        };
        detector.push(&header, &Event { code: code(key)?, end, volume: 10, duration }.to_bytes())
    };
    steps.iter().enumerate().filter_map(step).collect()
}

#[test]
fn one_key_press_is_one_digit() {
    let cases: [(&str, &[EventPacket], &str); 9] = [
        (
            "a whole press, its end three times",
            &[
                (0, '5', false, 160, true),
                (0, '5', false, 320, false),
                (0, '5', true, 480, false),
                (0, '5', true, 480, false),
                (0, '5', true, 480, false),
            ],
            "5",
        ),
        (
            "the start is lost",
            &[(0, '#', false, 320, false), (0, '#', true, 480, false), (0, '#', true, 480, false)],
            "#",
        ),
        ("all but one end is lost", &[(0, '*', true, 480, false)], "*"),
        (
            "the end is lost",
            &[(0, '1', false, 160, true), (0, '1', false, 320, false), (2_000, '2', false, 160, true)],
            "12",
        ),
        (
            "the same key twice",
            &[
                (0, '7', false, 160, true),
                (0, '7', true, 320, false),
                (900, '7', false, 160, true),
                (900, '7', true, 320, false),
            ],
            "77",
        ),
        (
            "the same key twice, both ends and the second start lost",
            &[(0, '7', false, 160, true), (900, '7', false, 320, false)],
            "77",
        ),
        (
            "packets of a press after the next one began",
            &[
                (0, '1', false, 160, true),
                (900, '2', false, 160, true),
                (0, '1', true, 480, false),
                (900, '2', true, 480, false),
            ],
            "12",
        ),
        (
            "a press longer than the field",
            &[(0, '9', false, 65_535, true), (65_535, '9', false, 160, false), (65_535, '9', true, 320, false)],
            "9",
        ),
        (
            "a sender whose timestamp creeps along",
            &[
                (0, '3', false, 160, true),
                (160, '3', false, 320, false),
                (320, '3', true, 480, false),
                (320, '3', true, 480, false),
            ],
            "3",
        ),
    ];
    for (what, steps, digits) in cases {
        assert_eq!(heard(steps), digits, "{what}");
    }
}

#[test]
fn new_stream_resets_the_detector_and_other_events_are_no_keys() {
    let mut detector = Detector::default();
    let mut push = |ssrc, time, code| {
        let header =
            Header { marker: true, payload_type: 101, seq: SeqNo(0), time: RtpTime(time), ssrc: Ssrc(ssrc) };
        detector.push(&header, &Event { code, end: false, volume: 0, duration: 160 }.to_bytes())
    };
    assert_eq!(push(1, 1_000, 4), Some('4'));
    assert_eq!(push(2, 1_000, 4), Some('4'), "another SSRC with the same timestamp");
    assert_eq!(push(2, 2_000, 16), None, "a flash hook");
    assert_eq!(push(2, 9_000_000, 5), Some('5'));
    assert_eq!(push(2, 3_000, 6), Some('6'), "the sender's clock was set back");
    assert_eq!(
        detector.push(
            &Header { marker: false, payload_type: 0, seq: SeqNo(0), time: RtpTime(0), ssrc: Ssrc(0) },
            &[1, 2]
        ),
        None
    );
}

#[test]
fn sent_key_press_has_the_packets_of_rfc_4733() {
    let events: Vec<_> = press(5, 800).map(|e| (e.duration, e.end)).collect();
    let expected = [(160, false), (320, false), (480, false), (640, false), (800, true), (800, true), (800, true)];
    assert_eq!(events, expected);
    assert_eq!(Event::parse(&press(5, 800).last().unwrap().to_bytes()), press(5, 800).last());
    assert_eq!(press(5, 0).count(), 3);
}

#[test]
fn keys_map_to_event_codes() {
    for (i, k) in "0123456789*#ABCD".chars().enumerate() {
        assert_eq!((key(i as u8), code(k)), (Some(k), Some(i as u8)));
    }
    assert_eq!((dtmf::code('d'), dtmf::code('x'), dtmf::code('é'), dtmf::key(16)), (Some(15), None, None, None));
}
