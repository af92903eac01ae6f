//! Symmetric RTP over real sockets: accepted sources and the destination of sent packets.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use crate::peer::{SOON, Tape, TestCall, engine, same, silence, speech};
use bytes::Bytes;
use twinbox_media::{Clip, Codec, MediaEvent, RecordSpec, Remote};

/// Sends a packet every few milliseconds until one was accepted.
async fn speak_until_taken(call: &mut TestCall) {
    let wait = async {
        while call.session.counters().received == 0 {
            call.peer.say(&speech(160));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("a packet is taken");
}

/// An address in an SDP that has no socket.
fn unused_port(host: &str) -> Option<std::net::SocketAddr> {
    UdpSocket::bind((host, 0)).unwrap().local_addr().ok()
}

async fn hears_us(call: &mut TestCall) {
    call.session.play(9, vec![Clip::Audio { codec: Codec::Pcmu, data: Bytes::from_static(&[0x11; 320]) }]);
    assert_eq!((call.peer.hear().1, call.peer.hear().1), (vec![0x11; 160], vec![0x11; 160]));
    assert_eq!(call.event().await, MediaEvent::PlayFinished(9));
}

#[tokio::test]
async fn caller_on_another_port_is_latched_in_both_directions() {
    let engine = engine(23_200..=23_219);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    call.negotiate(Remote { address: unused_port("127.0.0.1"), ..call.remote() }).await;
    speak_until_taken(&mut call).await;
    hears_us(&mut call).await;
}

#[tokio::test]
async fn unreachable_caller_is_latched_at_the_signalling_host() {
    let engine = engine(23_220..=23_239);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let signalling = Some(crate::peer::LOCALHOST);
    call.negotiate(Remote { address: unused_port("127.0.0.9"), signalling, ..call.remote() }).await;
    speak_until_taken(&mut call).await;
    hears_us(&mut call).await;
}

#[tokio::test]
async fn other_host_is_latched_only_if_any_host_is_allowed() {
    let engine = engine(23_240..=23_259);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let elsewhere = Remote { address: unused_port("127.0.0.9"), ..call.remote() };
    call.negotiate(elsewhere).await;
    for _ in 0..60 {
        call.peer.say(&speech(160));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    call.negotiate(Remote { any_host: true, ..elsewhere }).await;
    let counters = call.session.counters();
    assert_eq!((counters.received, counters.dropped), (0, 60));
    speak_until_taken(&mut call).await;
    hears_us(&mut call).await;
}

#[tokio::test]
async fn without_a_stated_address_nothing_is_sent_until_a_source_is_latched() {
    let engine = engine(23_260..=23_279);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let signalling = Some(crate::peer::LOCALHOST);
    call.session.set_remote(Remote { address: None, signalling, ..call.remote() });
    // The end of a recording shows that the order before it was executed.
    call.session.record(RecordSpec { max: SOON, end_silence: None, sink: Arc::<Tape>::default() });
    call.session.stop_record();
    call.stopped().await;
    call.session.play(1, vec![Clip::Silence(40)]);
    speak_until_taken(&mut call).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = call.peer.packet(&[0x33; 160]);
    for n in 0..50 {
        forged[3] = n;
        stranger.send_to(&forged, ("127.0.0.1", call.session.local_port())).unwrap();
    }
    same(&call.peer.hear().1, &silence(Codec::Pcmu, 160), "heard");
    assert_eq!(call.event().await, MediaEvent::PlayFinished(1), "what was to be played waited");
    let tape = call.record(SOON, None).await;
    call.peer.say(&speech(320));
    same(&call.stop(&tape).await, &speech(320), "recorded");
}
