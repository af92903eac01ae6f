//! RTCP: written packets can be parsed, hostile input is refused, loss and jitter follow RFC 3550.

use std::time::Duration;

use proptest::prelude::*;
use twinbox_rtp::{
    packet::{RtpTime, SeqNo, Ssrc},
    rtcp::{
        Block, Cname, Compound, Interval, Jitter, LONGEST, Ntp, Part, Reception, Report, RtcpError, SenderInfo,
        ShortNtp, Transmission, interval, is_rtcp,
    },
    sequence::Sequence,
};

fn info() -> SenderInfo {
    SenderInfo { ntp: Ntp(0x0102_0304_0506_0708), time: RtpTime(9), packets: 10, octets: 1_600 }
}

fn block() -> Block {
    Block {
        ssrc: 7,
        fraction_lost: 64,
        lost: -2,
        highest: 0x1_0005,
        jitter: 40,
        last_report: ShortNtp(11),
        since_last_report: ShortNtp(12),
    }
}

fn report() -> Report {
    let cname = Cname::from_random([0; Cname::LENGTH]);
    Report { from: Ssrc(0xaabb_ccdd), sender: Some(info()), block: Some(block()), cname, bye: true }
}

fn written(report: &Report) -> Vec<u8> {
    let mut out = [0; LONGEST];
    let length = report.write(&mut out);
    out[..length].to_vec()
}

#[test]
fn report_has_the_bytes_of_the_rfc() {
    #[rustfmt::skip]
    let expected = [
        // SR with one block, 12 words after the header.
        0x81, 200, 0, 12, 0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 6, 64,
        0, 0, 0, 7, 64, 0xff, 0xff, 0xfe, 0, 1, 0, 5, 0, 0, 0, 40, 0, 0, 0, 11, 0, 0, 0, 12,
        // SDES with one chunk.
        0x81, 202, 0, 6, 0xaa, 0xbb, 0xcc, 0xdd, 1, 16, b'A', b'A', b'A', b'A', b'A', b'A', b'A', b'A', b'A', b'A', b'A', b'A',
        b'A', b'A', b'A', b'A', 0, 0,
        // BYE.
        0x81, 203, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd,
    ];
    assert_eq!(written(&report()), expected);
    assert_eq!(expected.len(), LONGEST);
    let receiver = written(&Report { sender: None, block: None, bye: false, ..report() });
    assert_eq!(receiver[..8], [0x80, 201, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd]);
}

#[test]
fn compound_packets_of_others_are_read() {
    let mut bytes = written(&Report { bye: false, ..report() });
    // A packet of an unknown type, and a BYE of two sources with a reason and padding.
    bytes.extend([0x80, 207, 0, 1, 1, 2, 3, 4]);
    bytes.extend([0xa2, 203, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 2, b'o', b'k', 0, 0, 0, 0, 4]);
    let parts: Vec<_> = Compound::parse(&bytes).unwrap().parts().collect();
    let Part::Report { from, sender, blocks } = parts[0] else { panic!("{parts:?}") };
    assert_eq!((from, sender), (Ssrc(0xaabb_ccdd), Some(info())));
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [block()]);
    assert_eq!(parts[1..], [Part::Other(202), Part::Other(207), Part::Bye(Some(Ssrc(5)))]);
}

#[test]
fn invalid_compound_packets_are_refused() {
    let good = written(&report());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (vec![], RtcpError::Length),
        (vec![0x80, 201, 0], RtcpError::Length),
        (with(0, 0x41), RtcpError::Version),
        (with(1, 202), RtcpError::First),
        // Padding before the last packet.
        (with(0, 0xa1), RtcpError::Length),
        // More blocks than there is room for, a length beyond the datagram, a length that leaves a rest.
        (with(0, 0x82), RtcpError::Length),
        (with(2, 0xff), RtcpError::Length),
        (with(3, 13), RtcpError::Length),
        // A BYE with more sources than it contains.
        (with(80, 0x82), RtcpError::Length),
        ([&good[..], &[0x80]].concat(), RtcpError::Length),
        // Padding of length zero, longer than the packet, and not a multiple of 4 bytes.
        ([&good[..], &[0xa0, 204, 0, 0]].concat(), RtcpError::Length),
        ([&good[..], &[0xa0, 204, 0, 1, 0, 0, 0, 8]].concat(), RtcpError::Length),
        ([&good[..], &[0xa0, 204, 0, 1, 0, 0, 0, 2]].concat(), RtcpError::Length),
    ];
    for (bytes, error) in cases {
        assert_eq!(Compound::parse(&bytes), Err(error), "{bytes:?}");
    }
    for length in (0..good.len()).filter(|length| ![52, 80].contains(length)) {
        assert!(Compound::parse(&good[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn rtp_and_rtcp_are_distinguished_on_one_port() {
    for (bytes, rtcp) in [
        (&[0x80, 200][..], true),
        (&[0x81, 207], true),
        (&[0x80, 0], false),
        (&[0x80, 0x80 | 8], false),
        (&[0x80, 0x80 | 101], false),
        (&[0, 200], false),
        (&[0x80], false),
    ] {
        assert_eq!(is_rtcp(bytes), rtcp, "{bytes:?}");
    }
}

#[test]
fn timestamps_are_ntp_times() {
    let unix = Duration::from_millis(1_500);
    assert_eq!(Ntp::from_unix(unix), Ntp(2_208_988_801 << 32 | 1 << 31));
    assert_eq!(Ntp::from_unix(unix).middle(), ShortNtp((2_208_988_801 % 65_536) << 16 | 0x8000));
    assert_eq!(ShortNtp::from_duration(Duration::from_millis(250)), ShortNtp(0x4000));
    assert_eq!(ShortNtp::from_duration(Duration::MAX), ShortNtp(u32::MAX));
    let since_1900 = |units: u32| Ntp(u64::from(units) << 16);
    let block = |last, since| Block { last_report: ShortNtp(last), since_last_report: ShortNtp(since), ..block() };
    for (arrived, last, since, millis) in [
        (0x0002_0000, 0x0001_0000, 0x8000, Some(500)),
        // The middle bits of NTP time wrap.
        (0x0000_8000, 0xffff_8000, 0x8000, Some(500)),
        (0x0002_0000, 0, 0, None),
        // Delay longer than the total time; a clock that was set.
        (0x0002_0000, 0x0001_0000, 0x0002_0000, None),
        (0x0fff_0000, 0x0001_0000, 0, None),
    ] {
        let round_trip = block(last, since).round_trip(since_1900(arrived));
        assert_eq!(round_trip, millis.map(Duration::from_millis), "{arrived:x} {last:x} {since:x}");
    }
}

#[test]
fn intervals_are_randomized_as_in_rfc_3550() {
    let millis = |first, random| interval(first, random).as_millis();
    assert_eq!((millis(true, 0.0), millis(true, 1.0)), (1_026, 3_078));
    assert_eq!((millis(false, 0.0), millis(false, 0.5), millis(false, 1.0)), (2_052, 4_104, 6_156));
}

/// The algorithm of RFC 3550 appendix A.8 in floating point.
fn jitter_of(arrivals_ms: &[u64]) -> f64 {
    let transit = |n: usize| arrivals_ms[n] as f64 * 8.0 - n as f64 * 160.0;
    (1..arrivals_ms.len()).fold(0.0, |jitter, n| jitter + ((transit(n) - transit(n - 1)).abs() - jitter) / 16.0)
}

#[test]
fn jitter_follows_the_arrivals() {
    let steady: Vec<u64> = (0..200).map(|n| n * 20).collect();
    let shaky: Vec<u64> = (0..200).map(|n| n * 20 + n % 2 * 5).collect();
    let spike: Vec<u64> = (0..200).map(|n| n * 20 + u64::from(n == 190) * 50).collect();
    for arrivals in [steady, shaky, spike] {
        let mut jitter = Jitter::default();
        for (n, &ms) in arrivals.iter().enumerate() {
            // Both the clock and the timestamps wrap.
            let time = RtpTime((u32::MAX - 800).wrapping_add(n as u32 * 160));
            jitter.packet(Duration::from_millis(500_000_000 + ms), time);
        }
        let exact = jitter_of(&arrivals);
        assert!((f64::from(jitter.units()) - exact).abs() <= 1.0, "{} and {exact}", jitter.units());
    }
    let mut jumped = Jitter::default();
    for time in [0, 160, 900_000_000, 900_000_160] {
        jumped.packet(Duration::from_secs(5), RtpTime(time));
    }
    assert!(jumped.duration() < Duration::from_millis(5), "a jump is no jitter: {:?}", jumped.duration());
}

#[test]
fn loss_is_counted_per_interval_and_in_total() {
    let (mut sequence, mut reception) = (Sequence::default(), Reception::default());
    let mut take = |reception: &mut Reception, seqs: &[u16]| {
        for &seq in seqs {
            sequence.push(Ssrc(5), SeqNo(seq));
            reception.packet(Duration::from_secs(1), Ssrc(5), RtpTime(0));
        }
        sequence.extent()
    };
    assert_eq!(reception.report(Duration::ZERO, None), None, "nothing has come");
    // Two of eight are missing, across the wrap.
    let extent = take(&mut reception, &[65_533, 65_534, 65_535, 1, 3, 4]);
    let (block, interval) = reception.report(Duration::from_secs(2), extent).unwrap();
    assert_eq!((block.fraction_lost, block.lost, block.highest), (64, 2, 0x1_0004));
    assert_eq!(interval, Interval { expected: 8, lost: 2 });
    assert_eq!((block.last_report, block.since_last_report), Default::default());
    assert_eq!(reception.report(Duration::from_secs(7), extent), None, "nothing since");
    // Both arrive late: fewer lost in total, none in this interval.
    reception.sender_report(Duration::from_secs(8), Ssrc(5), Ntp(0xabcd_0000_0000));
    reception.sender_report(Duration::from_secs(8), Ssrc(6), Ntp(1));
    let extent = take(&mut reception, &[0, 2, 5]);
    let (block, interval) = reception.report(Duration::from_millis(8_500), extent).unwrap();
    assert_eq!((block.fraction_lost, block.lost, interval), (0, 0, Interval { expected: 1, lost: 0 }));
    assert_eq!((block.last_report, block.since_last_report), (ShortNtp(0xabcd_0000), ShortNtp(0x8000)));
    // Duplicates make the total negative.
    let extent = take(&mut reception, &[6, 6, 6]);
    let (block, _) = reception.report(Duration::from_secs(12), extent).unwrap();
    assert_eq!(block.lost, -2);
    // A jump restarts the stream.
    let extent = take(&mut reception, &[40_000, 40_001]);
    let (block, interval) = reception.report(Duration::from_secs(17), extent).unwrap();
    assert_eq!((block.lost, block.highest, interval), (0, 40_001, Interval { expected: 2, lost: 0 }));
}

#[test]
fn peer_report_gives_the_loss_of_each_interval() {
    let block = |highest, lost| Block { highest, lost, ..block() };
    let mut transmission = Transmission::default();
    let first = SeqNo(65_530);
    // (highest, total lost, packets sent), and the resulting interval.
    for (highest, lost, sent, interval) in [
        (65_529_u32, 0, 0, Some((0, 0))), // before anything was sent
        (65_533, 1, 10, Some((4, 1))),
        (0x1_0004, 3, 20, Some((7, 2))),
        (0x1_0004, 2, 20, Some((0, 0))), // a late packet arrived
        (0x1_0002, 2, 20, None),         // the highest number goes back
        (0x9_0000, 2, 40, None),         // beyond the sent packets
        (0x1_0009, 0x7f_ffff, 40, Some((5, 5))),
        (0x1_000a, -5, 40, Some((1, 0))),
    ] {
        let got = transmission.report(&block(highest, lost), first, sent);
        assert_eq!(got, interval.map(|(expected, lost)| Interval { expected, lost }), "{highest:x}");
    }
}

proptest! {
    #[test]
    fn written_packets_are_readable(
        from: u32, sender: bool, has_block: bool, bye: bool, numbers: [u32; 8], fraction_lost: u8, lost in -0x80_0000..0x80_0000,
        random: [u8; Cname::LENGTH],
    ) {
        let [ntp, time, packets, octets, highest, jitter, last, since] = numbers;
        let sender = sender.then_some(SenderInfo { ntp: Ntp(u64::from(ntp) << 20), time: RtpTime(time), packets, octets });
        let (last_report, since_last_report) = (ShortNtp(last), ShortNtp(since));
        let block = Block { ssrc: time, fraction_lost, lost, highest, jitter, last_report, since_last_report };
        let cname = Cname::from_random(random);
        let report = Report { from: Ssrc(from), sender, block: has_block.then_some(block), cname, bye };
        let bytes = written(&report);
        prop_assert!(is_rtcp(&bytes));
        let parts: Vec<_> = Compound::parse(&bytes).unwrap().parts().collect();
        prop_assert_eq!(parts.len(), 2 + usize::from(bye));
        let Part::Report { from: read_from, sender: read_sender, blocks } = parts[0] else { panic!("{parts:?}") };
        prop_assert_eq!((read_from, read_sender, blocks.iter().next()), (report.from, sender, report.block));
        prop_assert_eq!(parts.get(2).copied(), bye.then_some(Part::Bye(Some(Ssrc(from)))));
    }

    #[test]
    fn no_datagram_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), plausible: bool) {
        if plausible && bytes.len() >= 4 {
            let words = (bytes.len() / 4 - 1) as u8;
            let head = [0x80 | bytes[0] & 0x3f, 200 + bytes[1] % 4, 0, words.saturating_sub(bytes[3] % 8)];
            bytes[..4].copy_from_slice(&head);
        }
        if let Ok(compound) = Compound::parse(&bytes) {
            let blocks: usize = compound.parts().map(|part| match part {
                Part::Report { blocks, .. } => blocks.iter().count(),
                _ => 0,
            }).sum();
            prop_assert!(blocks * 24 <= bytes.len());
        }
    }

    #[test]
    fn changed_bytes_do_not_panic(at in 0..LONGEST, byte: u8, cut in 0..=LONGEST) {
        let mut bytes = written(&report());
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Ok(compound) = Compound::parse(&bytes) {
            prop_assert!(compound.parts().count() >= 1);
        }
    }

    #[test]
    fn jitter_never_overflows(packets in prop::collection::vec((any::<u64>(), any::<u32>()), 0..100)) {
        let mut jitter = Jitter::default();
        for (arrived, time) in packets {
            jitter.packet(Duration::from_nanos(arrived), RtpTime(time));
            prop_assert!(jitter.duration() <= Duration::from_secs(10));
        }
    }
}
