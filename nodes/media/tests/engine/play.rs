//! Playing over real sockets.

use crate::far::{Line, engine, same, speech};
use bytes::Bytes;
use twinbox_media::{Clip, Codec, MediaEvent, Remote};
use twinbox_rtp::packet::{Header, RtpTime, SeqNo};

fn clip(codec: Codec, audio: &[u8]) -> Clip {
    Clip::Audio { codec, data: Bytes::copy_from_slice(audio) }
}

/// Receives this many frames in one spurt; returns their audio and the last header.
fn spurt(line: &Line, frames: usize) -> (Vec<u8>, Header) {
    let mut audio = Vec::new();
    let (first, payload) = line.far.hear();
    assert!(first.marker, "a spurt begins with the marker");
    audio.extend(payload);
    let mut last = first;
    for n in 1..frames {
        let (header, payload) = line.far.hear();
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
async fn clips_are_heard_bit_for_bit_and_the_end_is_told() {
    let engine = engine(22_000..=22_019);
    for codec in Codec::ALL {
        let mut line = Line::open(&engine, codec).await;
        let audio = speech(8_010);
        line.session.play(7, vec![clip(codec, &audio[..5_000]), Clip::Silence(5), clip(codec, &audio[5_000..])]);
        let (heard, last) = spurt(&line, 51);
        let silence = |n: usize| vec![codec.silence(); n];
        same(&heard, &[&audio[..5_000], &silence(40), &audio[5_000..], &silence(110)].concat(), codec.name());
        assert_eq!(line.event().await, MediaEvent::PlayFinished(7));
        // The timestamp of the next spurt follows the clock.
        line.session.play(8, vec![clip(codec, &audio[..320])]);
        let (heard, next) = spurt(&line, 2);
        same(&heard, &audio[..320], "second spurt");
        assert_eq!(next.seq.since(last.seq), 2);
        assert!((320..16_000).contains(&next.time.since(last.time)), "{:?} {:?}", last.time, next.time);
        assert_eq!(line.event().await, MediaEvent::PlayFinished(8));
    }
}

#[tokio::test]
async fn the_other_law_is_heard_in_the_sessions() {
    let engine = engine(22_020..=22_039);
    let line = Line::open(&engine, Codec::Pcma).await;
    line.session.play(1, vec![clip(Codec::Pcmu, &speech(480))]);
    let expected = twinbox_rtp::g711::transcode(Codec::Pcmu, Codec::Pcma, &speech(480));
    same(&spurt(&line, 3).0, &expected, "heard");
}

#[tokio::test]
async fn a_play_is_replaced_or_stopped_without_a_word() {
    let engine = engine(22_040..=22_059);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    line.session.play(1, vec![clip(Codec::Pcmu, &[0x11; 80_000])]);
    assert_eq!(line.far.hear().1, [0x11; 160]);
    line.session.play(2, vec![clip(Codec::Pcmu, &[0x22; 160])]);
    while line.far.hear().1 != [0x22; 160] {}
    assert_eq!(line.event().await, MediaEvent::PlayFinished(2));
    line.session.play(3, vec![clip(Codec::Pcmu, &[0x33; 80_000])]);
    assert_eq!(line.far.hear().1, [0x33; 160]);
    line.session.stop_play();
    line.session.play(4, vec![]);
    assert_eq!(line.event().await, MediaEvent::PlayFinished(4), "nothing of 3");
}

#[tokio::test]
async fn on_hold_it_waits() {
    let engine = engine(22_060..=22_079);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    line.session.set_remote(Remote { send: false, ..line.remote() });
    let audio = speech(1_600);
    line.session.play(1, vec![clip(Codec::Pcmu, &audio)]);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), line.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    line.session.set_remote(line.remote());
    same(&spurt(&line, 10).0, &audio, "heard");
    assert_eq!(line.event().await, MediaEvent::PlayFinished(1));
}
