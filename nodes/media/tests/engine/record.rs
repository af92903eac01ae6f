//! Recording over real sockets.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use crate::far::{Line, Tape, engine, same, silence, speech};
use twinbox_media::{Codec, MediaEvent, RecordSpec, Remote, StopCause};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn what_is_received_is_recorded_bit_for_bit() {
    let engine = engine(21_000..=21_019);
    for codec in Codec::ALL {
        let mut line = Line::open(&engine, codec).await;
        let tape = line.record(LONG, None).await;
        let audio = speech(30_000 - 7);
        line.far.say(&audio[..20_000]);
        line.taken(125).await;
        assert!(tape.audio().len() >= 18_000, "chunks come while it is recorded");
        line.far.say(&audio[20_000..]);
        same(&line.stop(&tape).await, &audio, codec.name());
        line.session.stop_record();
        let counters = line.session.counters();
        assert_eq!((counters.received, counters.lost, counters.dropped), (188, 0, 0));
    }
}

#[tokio::test]
async fn lost_late_and_doubled_packets_find_their_place() {
    let engine = engine(21_020..=21_039);
    let mut line = Line::open(&engine, Codec::Pcma).await;
    let tape = line.record(LONG, None).await;
    let audio = speech(160 * 50);
    let packets: Vec<_> = audio.chunks(160).map(|payload| line.far.packet(payload)).collect();
    // Packet 3 is lost; 10 and 11 are swapped; 20 is duplicated; 30 comes five packets late.
    let order = (0..50).filter(|&n| n != 3 && n != 30).flat_map(|n| match n {
        10 => vec![11],
        11 => vec![10],
        20 => vec![20, 20],
        35 => vec![35, 30],
        n => vec![n],
    });
    order.for_each(|n: usize| line.far.send(&packets[n]));
    let mut expected = audio;
    expected[3 * 160..4 * 160].fill(Codec::Pcma.silence());
    same(&line.stop(&tape).await, &expected, "recorded");
    let counters = line.session.counters();
    assert_eq!((counters.received, counters.lost, counters.duplicates), (49, 1, 1));
}

#[tokio::test]
async fn strangers_and_other_codecs_are_not_recorded() {
    let engine = engine(21_040..=21_059);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let tape = line.record(LONG, None).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let audio = speech(3_200);
    let packets: Vec<_> = audio.chunks(160).map(|payload| line.far.packet(payload)).collect();
    for packet in &packets {
        line.far.send(packet);
        let mut forged = packet.clone();
        forged[12..].fill(0x11);
        stranger.send_to(&forged, ("127.0.0.1", line.session.local_port())).unwrap();
        forged[1] = 8;
        line.far.send(&forged);
        line.far.send(&forged[..7]);
    }
    same(&line.stop(&tape).await, &audio, "recorded");
    drop(line);
    let stats = wait_for(&engine, |s| s.dropped.malformed == 20).await;
    assert_eq!((stats.dropped.strangers, stats.dropped.codec, stats.received), (20, 20, 20));
}

#[tokio::test]
async fn a_hold_in_the_middle_is_not_recorded_and_its_silence_ends_nothing() {
    let engine = engine(21_080..=21_099);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let tape = line.record(LONG, Some(Duration::from_millis(1_500))).await;
    let audio = speech(6_400);
    line.far.say(&audio[..3_200]);
    line.negotiate(Remote { receive: false, ..line.remote() }).await;
    // Longer than the silence that ends the recording, music on hold included.
    line.far.say(&silence(Codec::Pcmu, 16_000));
    wait_for(&engine, |s| s.dropped.held == 100).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(2_000), line.events.recv()).await.is_err(),
        "nothing ends on hold"
    );
    line.far.skip(40_000);
    line.negotiate(line.remote()).await;
    line.far.say(&audio[3_200..]);
    same(&line.stop(&tape).await, &audio, "recorded");
}

#[tokio::test]
async fn silence_ends_a_recording() {
    let engine = engine(21_100..=21_119);
    let mut line = Line::open(&engine, Codec::Pcma).await;
    let tape = line.record(LONG, Some(Duration::from_secs(2))).await;
    let audio = speech(8_000);
    line.far.say(&audio);
    line.far.say(&silence(Codec::Pcma, 20_000));
    let (cause, length, trailing) = line.stopped().await;
    assert_eq!(cause, StopCause::Silence);
    assert!((2_000..2_200).contains(&trailing), "{trailing} ms");
    let recorded = tape.audio();
    assert_eq!(recorded.len() as u64, length);
    same(&recorded[..8_000], &audio, "recorded");
}

#[tokio::test]
async fn a_caller_who_falls_silent_on_the_wire_is_silent_too() {
    let engine = engine(21_120..=21_139);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let tape = line.record(LONG, Some(Duration::from_millis(300))).await;
    line.far.say(&speech(1_600));
    let (cause, ..) = line.stopped().await;
    assert_eq!(cause, StopCause::Silence);
    same(&tape.audio()[..1_600], &speech(1_600), "recorded");
}

#[tokio::test]
async fn the_limit_ends_it_to_the_sample() {
    let engine = engine(21_140..=21_159);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let tape = line.record(Duration::from_millis(1_234), None).await;
    let audio = speech(16_000);
    line.far.say(&audio);
    assert_eq!(line.stopped().await, (StopCause::Limit, 9_872, 0));
    same(&tape.audio(), &audio[..9_872], "recorded");
}

#[tokio::test]
async fn a_new_recording_or_the_end_of_the_session_ends_one_properly() {
    let engine = engine(21_160..=21_179);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let first = line.record(LONG, None).await;
    line.far.say(&speech(480));
    let second = Arc::new(Tape::default());
    line.session.record(RecordSpec { max: LONG, end_silence: None, sink: second.clone() });
    assert_eq!(line.stopped().await.1, 480);
    line.far.say(&speech(320));
    let Line { session, mut events, .. } = line;
    session.close();
    let stopped = tokio::time::timeout(crate::far::SOON, events.recv()).await.unwrap();
    assert!(matches!(stopped, Some(MediaEvent::RecordStopped { length_bytes: 320, .. })), "{stopped:?}");
    assert_eq!(events.recv().await, None, "the session is gone");
    assert_eq!((first.audio(), second.audio()), (speech(480), speech(320)));
}

#[tokio::test]
async fn a_change_of_codec_keeps_the_recording_in_its_own() {
    let engine = engine(21_180..=21_199);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let tape = line.record(LONG, None).await;
    line.far.say(&speech(1_600));
    line.far.codec = Codec::Pcma;
    line.negotiate(line.remote()).await;
    line.far.say(&speech(1_600));
    line.far.codec = Codec::Pcmu;
    let expected = [speech(1_600), twinbox_rtp::g711::transcode(Codec::Pcma, Codec::Pcmu, &speech(1_600))].concat();
    same(&line.stop(&tape).await, &expected, "recorded");
}

#[tokio::test]
async fn while_nothing_plays_a_packet_of_silence_goes_out_now_and_then() {
    let engine = engine(21_200..=21_219);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let _tape = line.record(LONG, None).await;
    let (first, audio) = line.far.hear();
    let (second, _) = line.far.hear();
    assert_eq!(audio, silence(Codec::Pcmu, 160));
    assert_eq!(second.seq.since(first.seq), 1);
    let apart = second.time.since(first.time);
    assert!((7_900..9_000).contains(&apart), "the timestamp goes with the time: {apart}");
}

async fn wait_for(
    engine: &twinbox_media::Engine,
    condition: impl Fn(&twinbox_media::MediaStats) -> bool,
) -> twinbox_media::MediaStats {
    let wait = async {
        loop {
            let stats = engine.stats();
            if condition(&stats) {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::far::SOON, wait).await.unwrap_or_else(|_| panic!("never: {:?}", engine.stats()))
}
