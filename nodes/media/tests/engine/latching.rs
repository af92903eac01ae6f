//! Symmetric RTP over real sockets: accepted sources and the destination of sent packets.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use crate::far::{Line, SOON, Tape, engine, same, silence, speech};
use bytes::Bytes;
use twinbox_media::{Clip, Codec, MediaEvent, RecordSpec, Remote};

/// Sends a packet every few milliseconds until one was accepted.
async fn speak_until_taken(line: &mut Line) {
    let wait = async {
        while line.session.counters().received == 0 {
            line.far.say(&speech(160));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("a packet is taken");
}

/// An address in an SDP that has no socket.
fn nobody(host: &str) -> Option<std::net::SocketAddr> {
    UdpSocket::bind((host, 0)).unwrap().local_addr().ok()
}

async fn hears_us(line: &mut Line) {
    line.session.play(9, vec![Clip::Audio { codec: Codec::Pcmu, data: Bytes::from_static(&[0x11; 320]) }]);
    assert_eq!((line.far.hear().1, line.far.hear().1), (vec![0x11; 160], vec![0x11; 160]));
    assert_eq!(line.event().await, MediaEvent::PlayFinished(9));
}

#[tokio::test]
async fn caller_who_sends_from_another_port_is_heard_and_hears_us() {
    let engine = engine(23_200..=23_219);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    line.negotiate(Remote { address: nobody("127.0.0.1"), ..line.remote() }).await;
    speak_until_taken(&mut line).await;
    hears_us(&mut line).await;
}

#[tokio::test]
async fn caller_whose_address_is_unreachable_is_reached_where_the_signalling_comes_from() {
    let engine = engine(23_220..=23_239);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let signalling = Some(crate::far::LOCALHOST);
    line.negotiate(Remote { address: nobody("127.0.0.9"), signalling, ..line.remote() }).await;
    speak_until_taken(&mut line).await;
    hears_us(&mut line).await;
}

#[tokio::test]
async fn another_host_is_heard_only_where_any_host_is_allowed() {
    let engine = engine(23_240..=23_259);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let elsewhere = Remote { address: nobody("127.0.0.9"), ..line.remote() };
    line.negotiate(elsewhere).await;
    for _ in 0..60 {
        line.far.say(&speech(160));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    line.negotiate(Remote { any_host: true, ..elsewhere }).await;
    let counters = line.session.counters();
    assert_eq!((counters.received, counters.dropped), (0, 60));
    speak_until_taken(&mut line).await;
    hears_us(&mut line).await;
}

#[tokio::test]
async fn without_a_stated_address_nothing_is_sent_until_a_source_is_latched() {
    let engine = engine(23_260..=23_279);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let signalling = Some(crate::far::LOCALHOST);
    line.session.set_remote(Remote { address: None, signalling, ..line.remote() });
    // The end of a recording shows that the order before it was executed.
    line.session.record(RecordSpec { max: SOON, end_silence: None, sink: Arc::<Tape>::default() });
    line.session.stop_record();
    line.stopped().await;
    line.session.play(1, vec![Clip::Silence(40)]);
    speak_until_taken(&mut line).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = line.far.packet(&[0x33; 160]);
    for n in 0..50 {
        forged[3] = n;
        stranger.send_to(&forged, ("127.0.0.1", line.session.local_port())).unwrap();
    }
    same(&line.far.hear().1, &silence(Codec::Pcmu, 160), "heard");
    assert_eq!(line.event().await, MediaEvent::PlayFinished(1), "what was to be played waited");
    let tape = line.record(SOON, None).await;
    line.far.say(&speech(320));
    same(&line.stop(&tape).await, &speech(320), "recorded");
}
