//! Placement of packets by the recorder.

use std::time::Duration;

use proptest::prelude::*;
use twinbox_rtp::{
    Codec, FRAME,
    g711::{decode_sample, encode_sample},
    packet::{Header, RtpTime, SeqNo, Ssrc},
    recorder::{EndReason, Recorder, RecorderSettings},
};

/// A recorder and its output.
struct Bench {
    recorder: Option<Recorder>,
    out: Vec<u8>,
    over: Option<EndReason>,
}

const START: Duration = Duration::from_secs(1_000);

fn ms(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

/// A frame of loud audio, different from the other first hundred.
fn frame(n: u16) -> Vec<u8> {
    (0..FRAME).map(|i| encode_sample(Codec::Pcmu, 1_000 + 200 * (n as i16 % 100) + i as i16 % 2)).collect()
}

fn silence(frames: usize) -> Vec<u8> {
    vec![Codec::Pcmu.silence(); frames * FRAME]
}

impl Bench {
    fn new(limit: u64, end_silence: Option<u64>) -> Self {
        let recorder = Recorder::new(RecorderSettings { codec: Codec::Pcmu, limit, end_silence }, START);
        Self { recorder: Some(recorder), out: Vec::new(), over: None }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Recorder, &mut dyn FnMut(u64, &[u8])) -> R) -> R {
        let out = &mut self.out;
        let mut sink = |offset: u64, bytes: &[u8]| {
            assert_eq!(offset, out.len() as u64, "chunks follow each other");
            out.extend_from_slice(bytes);
        };
        f(self.recorder.as_mut().unwrap(), &mut sink)
    }

    /// Packet `n` of stream `ssrc`, arriving at `at` ms, with its timestamp shifted by `off` samples.
    fn packet(&mut self, at: u64, ssrc: u32, n: u16, off: u32, payload: &[u8]) -> &mut Self {
        let header = Header {
            marker: false,
            payload_type: 0,
            seq: SeqNo(65_500).plus(n),
            time: RtpTime(u32::MAX - 500).plus(u32::from(n) * FRAME as u32).plus(off),
            ssrc: Ssrc(ssrc),
        };
        let over = self.with(|recorder, mut sink| recorder.push(ms(at), &header, payload, &mut sink));
        self.over = self.over.or(over);
        self
    }

    fn frames(&mut self, frames: impl IntoIterator<Item = u16>) -> &mut Self {
        for n in frames {
            self.packet(u64::from(n) * 20, 1, n, 0, &frame(n));
        }
        self
    }

    fn tick(&mut self, at: u64) -> Option<EndReason> {
        self.with(|recorder, mut sink| recorder.tick(ms(at), &mut sink))
    }

    /// Finishes; returns the audio and the trailing silence.
    fn finish(&mut self) -> (Vec<u8>, u64) {
        let recorder = self.recorder.take().unwrap();
        let out = &mut self.out;
        let finished = recorder.finish(&mut |offset, bytes: &[u8]| {
            assert_eq!(offset, out.len() as u64);
            out.extend_from_slice(bytes);
        });
        assert_eq!(finished.length, out.len() as u64);
        (std::mem::take(out), finished.trailing_silence)
    }
}

/// Asserts equality and prints the difference only: thousands of bytes would be unreadable.
fn same(recorded: &[u8], expected: &[u8], what: &str) {
    let at = recorded.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((recorded.len(), at), (expected.len(), None), "{what}: length, first difference");
}

fn audio(frames: impl IntoIterator<Item = u16>) -> Vec<u8> {
    frames.into_iter().flat_map(frame).collect()
}

#[test]
fn stream_without_loss_is_recorded_bit_for_bit() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames(0..90);
    assert!(
        bench.out.len() >= 12_000 && bench.out.len().is_multiple_of(2_000),
        "chunks of 250 ms: {}",
        bench.out.len()
    );
    let (recorded, trailing) = bench.finish();
    same(&recorded, &audio(0..90), "recorded");
    assert_eq!(trailing, 0);
}

#[test]
fn gaps_become_silence_late_packets_are_inserted_and_duplicates_ignored() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames([0, 1, 1, 3, 2, 2, 4, 9, 7, 6, 9, 10]);
    same(&bench.finish().0, &[audio(0..5), silence(1), audio(6..8), silence(1), audio(9..11)].concat(), "recorded");
}

#[test]
fn packets_after_the_window_are_dropped() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames([0, 1]).frames(3..40).frames([2]);
    same(&bench.finish().0, &[audio(0..2), silence(1), audio(3..40)].concat(), "recorded");
}

#[test]
fn a_pause_of_the_sender_is_silence_of_the_same_length() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames(0..10);
    for at in (200..4_000).step_by(20) {
        bench.tick(at);
    }
    bench.frames(200..210);
    same(&bench.finish().0, &[audio(0..10), silence(190), audio(200..210)].concat(), "recorded");
}

#[test]
fn new_stream_continues_after_the_old_one() {
    for (what, ssrc, off) in
        [("another SSRC", 2, 0), ("a jump ahead", 1, 1_000_000), ("a jump back", 1, 0xfff0_0000)]
    {
        let mut bench = Bench::new(u64::MAX, None);
        bench.frames(0..20);
        for n in 20..40 {
            bench.packet(u64::from(n) * 20, ssrc, n, off, &frame(n));
        }
        same(&bench.finish().0, &audio(0..40), what);
        let mut bench = Bench::new(u64::MAX, None);
        bench.frames(0..20);
        for n in 20..40 {
            bench.packet(u64::from(n) * 20 + 500, ssrc, n, off, &frame(n));
        }
        let recorded = bench.finish().0;
        assert_eq!(recorded.len(), (40 + 26) * FRAME, "{what} after a pause: the pause is kept");
        same(&recorded[46 * FRAME..], &audio(20..40), what);
    }
}

#[test]
fn sender_that_restarts_its_numbers_is_recorded() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames(0..20);
    for n in 20..40u16 {
        let header = Header {
            marker: false,
            payload_type: 0,
            seq: SeqNo(40_000 + n),
            time: RtpTime(7 + u32::from(n) * 160),
            ssrc: Ssrc(1),
        };
        bench.with(|recorder, mut sink| recorder.push(ms(u64::from(n) * 20), &header, &frame(n), &mut sink));
    }
    same(&bench.finish().0, &audio(0..40), "recorded");
}

#[test]
fn a_burst_after_a_stall_loses_nothing() {
    let mut bench = Bench::new(u64::MAX, None);
    bench.frames(0..10);
    for at in (200..3_000).step_by(20) {
        bench.tick(at);
    }
    for n in 10..150 {
        bench.packet(3_000, 1, n, 0, &frame(n));
    }
    let recorded = bench.finish().0;
    assert!(recorded.ends_with(&audio(10..150)) && recorded.starts_with(&audio(0..10)));
}

#[test]
fn hold_adds_no_audio() {
    let mut bench = Bench::new(u64::MAX, Some(8_000));
    bench.frames(0..20);
    bench.recorder.as_mut().unwrap().pause();
    bench.frames(20..30);
    assert_eq!(bench.tick(60_000), None, "silence on hold ends nothing");
    bench.recorder.as_mut().unwrap().resume(ms(60_000));
    assert_eq!(bench.tick(60_900), None);
    for n in 3_000..3_020 {
        bench.packet(u64::from(n) * 20, 1, n, 0, &frame(n));
    }
    same(&bench.finish().0, &[audio(0..20), audio(3_000..3_020)].concat(), "recorded");
}

#[test]
fn silence_ends_the_recording_and_is_reported() {
    let mut bench = Bench::new(u64::MAX, Some(8_000));
    bench.frames(0..50);
    assert_eq!(bench.over, None);
    let mut n = 50;
    while bench.over.is_none() {
        bench.packet(n * 20, 1, n as u16, 0, &silence(1));
        n += 1;
    }
    assert_eq!(bench.over, Some(EndReason::Silence));
    assert!((100..=108).contains(&n), "a second, and the window of the late: {n}");
    let (recorded, trailing) = bench.finish();
    assert_eq!(trailing, recorded.len() as u64 - 50 * 160);
}

#[test]
fn caller_without_any_audio_counts_as_silent() {
    let mut bench = Bench::new(u64::MAX, Some(16_000));
    let over = (0..10_000).step_by(20).find(|&at| bench.tick(at).is_some());
    assert!(over.is_some_and(|at| (3_000..3_300).contains(&at)), "{over:?}");
    let mut bench = Bench::new(16_000, None);
    assert_eq!(bench.tick(60_000), Some(EndReason::Limit));
    let (recorded, trailing) = bench.finish();
    same(&recorded, &silence(100), "recorded");
    assert_eq!(trailing, 16_000);
}

#[test]
fn limit_cuts_the_recording_to_the_byte() {
    for limit in [1, 159, 160, 1_000, 4_001, 8_000] {
        let mut bench = Bench::new(limit, None);
        bench.frames(0..60);
        assert_eq!(bench.over, Some(EndReason::Limit));
        same(&bench.finish().0, &audio(0..60)[..limit as usize], "recorded");
    }
}

#[test]
fn long_and_odd_packets_fit() {
    let long: Vec<u8> = (0..9_001u32).map(|i| (i % 120) as u8).collect();
    let mut bench = Bench::new(u64::MAX, None);
    bench.packet(0, 1, 0, 0, &long);
    bench.packet(20, 1, 1, 9_001 - 160, &[1, 2, 3]);
    same(&bench.finish().0, &[long, vec![1, 2, 3]].concat(), "recorded");
}

#[test]
fn silence_detection_uses_the_mean_magnitude_of_a_frame() {
    assert!(decode_sample(Codec::Pcmu, frame(0)[0]) > 900);
}

proptest! {
    #[test]
    fn any_packet_order_within_the_window_is_corrected(displace in prop::collection::vec(0u16..5, 120), drop in prop::collection::vec(0u8..10, 120)) {
        let mut order: Vec<u16> = (0..120).collect();
        order.sort_by_key(|&n| (n + displace[usize::from(n)], n));
        // The first received packet is the first audio, so it must be the first sent.
        order.retain(|&n| n != 0);
        let mut bench = Bench::new(u64::MAX, None);
        bench.frames([0]);
        let kept = |n: u16| n == 0 || n == 119 || drop[usize::from(n)] != 0;
        for &n in order.iter().filter(|&&n| kept(n)) {
            bench.frames([n]);
        }
        let expected: Vec<u8> = (0..120).flat_map(|n| if kept(n) { frame(n) } else { silence(1) }).collect();
        same(&bench.finish().0, &expected, "recorded");
    }

    #[test]
    fn recording_stays_within_its_limits_for_any_input(packets in prop::collection::vec((any::<u16>(), any::<u32>(), 0u32..3, 0usize..2_000, 0u64..3_000), 0..60)) {
        let mut bench = Bench::new(200_000, Some(80_000));
        let mut now = 0;
        for (seq, time, ssrc, length, pause) in packets {
            now += pause;
            let header = Header { marker: false, payload_type: 0, seq: SeqNo(seq), time: RtpTime(time), ssrc: Ssrc(ssrc) };
            bench.with(|recorder, mut sink| recorder.push(ms(now), &header, &vec![9; length], &mut sink));
            bench.tick(now);
            prop_assert!(bench.recorder.as_ref().unwrap().pending().len() < 3_000);
        }
        let (recorded, _) = bench.finish();
        // Never longer than the elapsed time plus the sent audio.
        prop_assert!(recorded.len() as u64 <= 200_000);
    }
}
