//! Recording over real sockets.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use crate::peer::{Tape, TestCall, engine, same, silence, speech};
use twinbox_media::{Codec, MediaEvent, RecordSpec, Remote, StopCause};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn received_audio_is_recorded_bit_for_bit() {
    let engine = engine(21_000..=21_019);
    for codec in Codec::ALL {
        let mut call = TestCall::open(&engine, codec).await;
        let tape = call.record(LONG, None).await;
        let audio = speech(30_000 - 7);
        call.peer.say(&audio[..20_000]);
        call.taken(125).await;
        assert!(tape.audio().len() >= 18_000, "chunks come while it is recorded");
        call.peer.say(&audio[20_000..]);
        same(&call.stop(&tape).await, &audio, codec.name());
        call.session.stop_record();
        let counters = call.session.counters();
        assert_eq!((counters.received, counters.lost, counters.dropped), (188, 0, 0));
    }
}

#[tokio::test]
async fn lost_late_and_duplicate_packets_are_recorded_in_order() {
    let engine = engine(21_020..=21_039);
    let mut call = TestCall::open(&engine, Codec::Pcma).await;
    let tape = call.record(LONG, None).await;
    let audio = speech(160 * 50);
    let packets: Vec<_> = audio.chunks(160).map(|payload| call.peer.packet(payload)).collect();
    // Packet 3 is lost; 10 and 11 are swapped; 20 is duplicated; 30 comes five packets late.
    let order = (0..50).filter(|&n| n != 3 && n != 30).flat_map(|n| match n {
        10 => vec![11],
        11 => vec![10],
        20 => vec![20, 20],
        35 => vec![35, 30],
        n => vec![n],
    });
    order.for_each(|n: usize| call.peer.send(&packets[n]));
    let mut expected = audio;
    expected[3 * 160..4 * 160].fill(Codec::Pcma.silence());
    same(&call.stop(&tape).await, &expected, "recorded");
    let counters = call.session.counters();
    assert_eq!((counters.received, counters.lost, counters.duplicates), (49, 1, 1));
}

#[tokio::test]
async fn strangers_and_other_codecs_are_not_recorded() {
    let engine = engine(21_040..=21_059);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let tape = call.record(LONG, None).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let audio = speech(3_200);
    let packets: Vec<_> = audio.chunks(160).map(|payload| call.peer.packet(payload)).collect();
    for packet in &packets {
        call.peer.send(packet);
        let mut forged = packet.clone();
        forged[12..].fill(0x11);
        stranger.send_to(&forged, ("127.0.0.1", call.session.local_port())).unwrap();
        forged[1] = 8;
        call.peer.send(&forged);
        call.peer.send(&forged[..7]);
    }
    same(&call.stop(&tape).await, &audio, "recorded");
    drop(call);
    let stats = wait_for(&engine, |s| s.dropped.malformed == 20).await;
    assert_eq!((stats.dropped.strangers, stats.dropped.codec, stats.received), (20, 20, 20));
}

#[tokio::test]
async fn hold_is_not_recorded_and_does_not_end_a_recording() {
    let engine = engine(21_080..=21_099);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let tape = call.record(LONG, Some(Duration::from_millis(1_500))).await;
    let audio = speech(6_400);
    call.peer.say(&audio[..3_200]);
    call.negotiate(Remote { receive: false, ..call.remote() }).await;
    // Longer than the silence that ends the recording, music on hold included.
    call.peer.say(&silence(Codec::Pcmu, 16_000));
    wait_for(&engine, |s| s.dropped.held == 100).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(2_000), call.events.recv()).await.is_err(),
        "nothing ends on hold"
    );
    call.peer.skip(40_000);
    call.negotiate(call.remote()).await;
    call.peer.say(&audio[3_200..]);
    same(&call.stop(&tape).await, &audio, "recorded");
}

#[tokio::test]
async fn silence_ends_a_recording() {
    let engine = engine(21_100..=21_119);
    let mut call = TestCall::open(&engine, Codec::Pcma).await;
    let tape = call.record(LONG, Some(Duration::from_secs(2))).await;
    let audio = speech(8_000);
    call.peer.say(&audio);
    call.peer.say(&silence(Codec::Pcma, 20_000));
    let (cause, length, trailing) = call.stopped().await;
    assert_eq!(cause, StopCause::Silence);
    assert!((2_000..2_200).contains(&trailing), "{trailing} ms");
    let recorded = tape.audio();
    assert_eq!(recorded.len() as u64, length);
    same(&recorded[..8_000], &audio, "recorded");
}

#[tokio::test]
async fn missing_packets_count_as_silence() {
    let engine = engine(21_120..=21_139);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let tape = call.record(LONG, Some(Duration::from_millis(300))).await;
    call.peer.say(&speech(1_600));
    let (cause, ..) = call.stopped().await;
    assert_eq!(cause, StopCause::Silence);
    same(&tape.audio()[..1_600], &speech(1_600), "recorded");
}

#[tokio::test]
async fn recording_ends_exactly_at_its_limit() {
    let engine = engine(21_140..=21_159);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let tape = call.record(Duration::from_millis(1_234), None).await;
    let audio = speech(16_000);
    call.peer.say(&audio);
    assert_eq!(call.stopped().await, (StopCause::Limit, 9_872, 0));
    same(&tape.audio(), &audio[..9_872], "recorded");
}

#[tokio::test]
async fn new_recording_or_session_end_finishes_a_recording() {
    let engine = engine(21_160..=21_179);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let first = call.record(LONG, None).await;
    call.peer.say(&speech(480));
    let second = Arc::new(Tape::default());
    call.session.record(RecordSpec { max: LONG, end_silence: None, sink: second.clone() });
    assert_eq!(call.stopped().await.1, 480);
    call.peer.say(&speech(320));
    let TestCall { session, mut events, .. } = call;
    session.close();
    let stopped = tokio::time::timeout(crate::peer::SOON, events.recv()).await.unwrap();
    assert!(matches!(stopped, Some(MediaEvent::RecordStopped { length_bytes: 320, .. })), "{stopped:?}");
    assert_eq!(events.recv().await, None, "the session has ended");
    assert_eq!((first.audio(), second.audio()), (speech(480), speech(320)));
}

#[tokio::test]
async fn recording_keeps_its_codec_when_the_call_changes_it() {
    let engine = engine(21_180..=21_199);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let tape = call.record(LONG, None).await;
    call.peer.say(&speech(1_600));
    call.peer.codec = Codec::Pcma;
    call.negotiate(call.remote()).await;
    call.peer.say(&speech(1_600));
    call.peer.codec = Codec::Pcmu;
    let expected = [speech(1_600), twinbox_rtp::g711::transcode(Codec::Pcma, Codec::Pcmu, &speech(1_600))].concat();
    same(&call.stop(&tape).await, &expected, "recorded");
}

#[tokio::test]
async fn silence_packets_are_sent_while_nothing_plays() {
    let engine = engine(21_200..=21_219);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let _tape = call.record(LONG, None).await;
    let (first, audio) = call.peer.hear();
    let (second, _) = call.peer.hear();
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
    tokio::time::timeout(crate::peer::SOON, wait).await.unwrap_or_else(|_| panic!("never: {:?}", engine.stats()))
}
