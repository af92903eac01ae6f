//! Playing over real sockets.

use std::time::Duration;

use crate::peer::{TestCall, engine, same, speech};
use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_media::{Clip, Codec, MediaEvent, Remote};
use twinbox_rtp::packet::{Header, RtpTime, SeqNo};

fn clip(codec: Codec, audio: &[u8]) -> Clip {
    Clip::Audio { codec, data: Bytes::copy_from_slice(audio) }
}

/// Receives this many frames in one spurt; returns their audio and the last header.
fn spurt(call: &TestCall, frames: usize) -> (Vec<u8>, Header) {
    let mut audio = Vec::new();
    let (first, payload) = call.peer.hear();
    assert!(first.marker, "a spurt begins with the marker");
    audio.extend(payload);
    let mut last = first;
    for n in 1..frames {
        let (header, payload) = call.peer.hear();
        let expected = Header {
            marker: false,
            seq: SeqNo(first.seq.0.wrapping_add(n as u16)),
            time: RtpTime(first.time.0.wrapping_add(160 * n as u32)),
            ..first
        };
        assert_eq!(header, expected, "frame {n}");
        audio.extend(payload);
        last = header;
    }
    (audio, last)
}

#[tokio::test]
async fn clips_are_sent_bit_for_bit_and_the_end_is_reported() {
    let engine = engine(22_000..=22_019);
    for codec in Codec::ALL {
        let mut call = TestCall::open(&engine, codec).await;
        let audio = speech(8_010);
        call.session.play(7, vec![clip(codec, &audio[..5_000]), Clip::Silence(5), clip(codec, &audio[5_000..])]);
        let (heard, last) = spurt(&call, 51);
        let silence = |n: usize| vec![codec.silence(); n];
        same(&heard, &[&audio[..5_000], &silence(40), &audio[5_000..], &silence(110)].concat(), codec.name());
        assert_eq!(call.event().await, MediaEvent::PlayFinished(7));
        // The timestamp of the next spurt follows the clock.
        call.session.play(8, vec![clip(codec, &audio[..320])]);
        let (heard, next) = spurt(&call, 2);
        same(&heard, &audio[..320], "second spurt");
        assert_eq!(next.seq.since(last.seq), 2);
        assert!((320..16_000).contains(&next.time.since(last.time)), "{:?} {:?}", last.time, next.time);
        assert_eq!(call.event().await, MediaEvent::PlayFinished(8));
    }
}

#[tokio::test]
async fn clips_of_the_other_law_are_transcoded() {
    let engine = engine(22_020..=22_039);
    let call = TestCall::open(&engine, Codec::Pcma).await;
    call.session.play(1, vec![clip(Codec::Pcmu, &speech(480))]);
    let expected = twinbox_rtp::g711::transcode(Codec::Pcmu, Codec::Pcma, &speech(480));
    same(&spurt(&call, 3).0, &expected, "heard");
}

/// A session takes the place of a closed one in the lists of its thread.
#[tokio::test]
async fn play_after_a_session_that_ended_in_its_play_has_its_own_pace() {
    let engine = engine(22_120..=22_139);
    for _ in 0..4 {
        let call = TestCall::open(&engine, Codec::Pcmu).await;
        call.session.play(1, vec![clip(Codec::Pcmu, &[0x11; 80_000])]);
        call.peer.hear();
    }
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let began = BootInstant::now();
    call.session.play(2, vec![clip(Codec::Pcmu, &[0x22; 25 * 160])]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(2));
    // With a slot of the others beside its own, it would last for half of that.
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
}

#[tokio::test]
async fn replaced_or_stopped_play_sends_no_event() {
    let engine = engine(22_040..=22_059);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    call.session.play(1, vec![clip(Codec::Pcmu, &[0x11; 80_000])]);
    assert_eq!(call.peer.hear().1, [0x11; 160]);
    call.session.play(2, vec![clip(Codec::Pcmu, &[0x22; 160])]);
    while call.peer.hear().1 != [0x22; 160] {}
    assert_eq!(call.event().await, MediaEvent::PlayFinished(2));
    call.session.play(3, vec![clip(Codec::Pcmu, &[0x33; 80_000])]);
    assert_eq!(call.peer.hear().1, [0x33; 160]);
    call.session.stop_play();
    call.session.play(4, vec![]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(4), "nothing of 3");
}

#[tokio::test]
async fn play_waits_during_hold() {
    let engine = engine(22_060..=22_079);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    call.session.set_remote(Remote { send: false, receive: false, ..call.remote() });
    let audio = speech(1_600);
    call.session.play(1, vec![clip(Codec::Pcmu, &audio)]);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), call.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    call.session.set_remote(call.remote());
    same(&spurt(&call, 10).0, &audio, "heard");
    assert_eq!(call.event().await, MediaEvent::PlayFinished(1));
}

/// A caller who offers `sendonly` from the beginning.
#[tokio::test]
async fn play_to_a_caller_who_only_speaks_ends_in_its_time_unheard() {
    let engine = engine(22_080..=22_099);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    call.session.set_remote(Remote { send: false, ..call.remote() });
    let begun = BootInstant::now();
    call.session.play(1, vec![clip(Codec::Pcmu, &speech(1_600))]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(1));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(150), "{:?}", begun.elapsed());
    // It is recorded after the tone.
    call.session.play(2, vec![clip(Codec::Pcmu, &speech(160))]);
    assert_eq!(call.event().await, MediaEvent::PlayFinished(2));
    call.session.set_remote(call.remote());
    call.session.play(3, vec![clip(Codec::Pcmu, &[0x33; 160])]);
    assert_eq!(call.peer.hear().1, [0x33; 160], "nothing of the plays before");
}
