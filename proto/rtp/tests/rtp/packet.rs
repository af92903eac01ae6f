//! RTP packets and sequence numbers.

use proptest::prelude::*;
use twinbox_rtp::{
    packet::{Header, Packet, PacketError, RtpTime, SeqNo, Ssrc},
    sequence::{Order, Sequence},
};

fn header() -> Header {
    Header { marker: true, payload_type: 101, seq: SeqNo(65_535), time: RtpTime(0xfedc_ba98), ssrc: Ssrc(7) }
}

#[test]
fn header_survives_a_round_trip() {
    let mut bytes = header().to_bytes().to_vec();
    bytes.extend(b"audio");
    assert_eq!(Packet::parse(&bytes), Ok(Packet { header: header(), payload: b"audio" }));
}

#[test]
fn csrcs_extension_and_padding_are_not_payload() {
    let mut bytes = header().to_bytes().to_vec();
    bytes[0] = 0x80 | 0x20 | 0x10 | 2;
    bytes.extend([0; 8]);
    bytes.extend([0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
    bytes.extend(b"audio\0\0\x03");
    assert_eq!(Packet::parse(&bytes).map(|p| p.payload), Ok(b"audio".as_slice()));
    for length in 0..bytes.len() - 8 {
        assert_eq!(Packet::parse(&bytes[..length]), Err(PacketError::Truncated), "cut to {length}");
    }
    *bytes.last_mut().unwrap() = 9;
    assert_eq!(Packet::parse(&bytes), Err(PacketError::Padding), "more padding than payload");
    *bytes.last_mut().unwrap() = 0;
    assert_eq!(Packet::parse(&bytes), Err(PacketError::Padding), "padding counts itself");
}

#[test]
fn packets_that_are_not_rtp_are_refused() {
    let mut bytes = header().to_bytes();
    bytes[1] = 200;
    assert_eq!(Packet::parse(&bytes), Err(PacketError::Rtcp));
    bytes[0] = 0x40;
    assert_eq!(Packet::parse(&bytes), Err(PacketError::Version(1)));
    assert_eq!(Packet::parse(&[0, 1, 0, 0]), Err(PacketError::Truncated));
}

#[test]
fn sequence_numbers_wrap() {
    assert_eq!(SeqNo(2).since(SeqNo(65_535)), 3);
    assert_eq!(SeqNo(65_535).plus(3), SeqNo(2));
    assert!(SeqNo(2).is_after(SeqNo(65_535)) && !SeqNo(65_535).is_after(SeqNo(2)));
    assert_eq!(RtpTime(10).since(RtpTime(u32::MAX)), 11);
    assert_eq!(RtpTime(u32::MAX).since(RtpTime(10)), -11);
}

#[test]
fn loss_order_and_duplicates_are_counted() {
    use Order::*;
    let mut sequence = Sequence::default();
    let steps = [
        (1, 65_534, Restart),
        (1, 65_535, Ahead),
        (1, 2, Ahead),
        (1, 1, Late),
        (1, 1, Duplicate),
        (1, 2, Duplicate),
        (1, 70, Ahead),
        (1, 3, Duplicate), // too old to tell
        (1, 10_000, Restart),
        (2, 5, Restart),
        (2, 6, Ahead),
    ];
    for (ssrc, seq, order) in steps {
        assert_eq!(sequence.push(Ssrc(ssrc), SeqNo(seq)), order, "{ssrc} {seq}");
    }
    let counters = sequence.counters();
    // 0 is missing before 2 (1 came late), and 67 between 2 and 70.
    assert_eq!((counters.received, counters.lost, counters.duplicates), (8, 1 + 67, 3));
}

#[test]
fn stream_that_begins_again_is_followed_and_a_packet_from_long_ago_is_not() {
    use Order::*;
    for (back, follows) in [(101, Restart), (1_000, Restart), (2_900, Restart), (96, Duplicate), (64, Duplicate)] {
        let mut sequence = Sequence::default();
        let (highest, again) = (5_000, 5_000 - back);
        assert_eq!(sequence.push(Ssrc(1), SeqNo(highest)), Restart);
        assert_eq!(sequence.push(Ssrc(1), SeqNo(again)), Duplicate, "{back}: it may have been on its way for long");
        assert_eq!(sequence.push(Ssrc(1), SeqNo(highest + 1)), Ahead, "{back}");
        assert_eq!(sequence.push(Ssrc(1), SeqNo(again - 3)), Duplicate, "{back}: another one");
        assert_eq!(sequence.push(Ssrc(1), SeqNo(again - 2)), follows, "{back}");
        assert_eq!(
            sequence.push(Ssrc(1), SeqNo(again - 1)),
            if follows == Restart { Ahead } else { follows },
            "{back}"
        );
    }
}

proptest! {
    #[test]
    fn no_datagram_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.payload.len() + Header::LENGTH <= bytes.len());
        }
    }

    #[test]
    fn shuffled_packets_are_counted_once(order in Just((0u16..60).collect::<Vec<_>>()).prop_shuffle(), start: u16) {
        let mut sequence = Sequence::default();
        for &i in order.iter().chain(&order) {
            sequence.push(Ssrc(1), SeqNo(start).plus(i));
        }
        let counters = sequence.counters();
        prop_assert_eq!((counters.received, counters.duplicates, counters.lost), (60, 60, 0));
    }
}
