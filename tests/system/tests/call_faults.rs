//! Faults of callers and their networks: foreign media, vanishing, hold, keys sent three times.

use std::{thread::sleep, time::Duration};

use twinbox_system_tests::{assert_kept, wait_for_no_calls};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Speech, Transport, begin_to_speak, g711::Law, hang_up, holds, sdp,
};

fn recording(cluster: &Cluster, mailbox: &str) -> (Endpoint, Call, Speech) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call =
        Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    (endpoint, call, speech)
}

/// Media sent to the port by another host is dropped: the message holds only the caller's voice.
#[test]
fn strangers_are_not_recorded() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, call, speech) = recording(&cluster, mailbox);
    endpoint.wait_spoken(1.5);
    let strangers: Vec<Endpoint> = (101..104)
        .map(|n| {
            let place = cluster.phones().at(std::net::Ipv4Addr::from(u32::from(cluster.phones().ip) + n - 100));
            let stranger = Endpoint::open(&place, Law::Mu);
            stranger.send_to(call.media);
            stranger.speak(Speech::unique());
            stranger
        })
        .collect();
    // Garbage, a wrong version, a lone header, and the largest possible datagram.
    let spray = cluster.phones().udp(0);
    for junk in [&b""[..], b"\x00", b"\x80\x00", &[0x80; 12], &[0xff; 1400], &[0x80; 60_000]] {
        let _ = spray.send_to(junk, call.media);
    }
    endpoint.wait_spoken(4.0);
    let deposit = hang_up(call, &endpoint, speech);
    drop(strangers);
    assert!(deposit.acknowledged());
    assert_kept(&cluster, "a", mailbox, &deposit, 2.5, Duration::from_secs(2));
    assert_kept(&cluster, "b", mailbox, &deposit, 2.5, Duration::from_secs(2));
}

/// A caller vanishes without BYE: the call ends automatically, and the message is stored.
#[test]
fn a_vanished_caller_leaves_a_message_and_no_call() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, call, speech) = recording(&cluster, mailbox);
    endpoint.wait_spoken(3.0);
    let spoken = endpoint.spoken();
    drop((endpoint, call));
    let found = holds(Duration::from_secs(30), || cluster.find("b", mailbox, &speech, spoken));
    let (_, piece, _) = found.expect("the message is kept on both nodes");
    assert!(piece.seconds() >= 1.5, "{piece:?}");
    wait_for_no_calls(&cluster, "a", Duration::from_secs(60));
}

/// `#` comes as three end packets (RFC 4733) and is one key: the tone after the greeting is not skipped, the recording
/// is ended once, and the caller hears so.
#[test]
fn a_key_sent_with_three_end_packets_is_one_key() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, mut call, speech) = recording(&cluster, mailbox);
    endpoint.wait_spoken(3.0);
    let spoken = endpoint.spoken();
    endpoint.press("#");
    endpoint.stop_speaking();
    let before = endpoint.packets();
    assert!(call.ends(Duration::from_secs(20)), "the node says so and hangs up");
    assert!(endpoint.packets() > before + 25, "something was said after the key");
    let messages = cluster.wait_for_messages("b", mailbox, 1, Duration::from_secs(2));
    assert!((1500..4000).contains(&messages[0].length_ms), "{messages:?}");
    let (_, piece, _) = cluster.find("b", mailbox, &speech, spoken).expect("what was said before the key");
    assert!(piece.seconds() >= 1.5, "{piece:?}");
}

/// Hold during a recording does not count as silence of the caller: it does not end the recording.
#[test]
fn hold_does_not_end_a_recording() {
    let cluster = Cluster::start(&Spec { voicemail: vec!["silence_seconds = 2".to_owned()], ..Spec::default() });
    let mailbox = Cluster::USERS[0].number;
    let (endpoint, mut call, speech) = recording(&cluster, mailbox);
    endpoint.wait_spoken(3.0);
    endpoint.mute();
    let status = |m: Option<twinbox_testkit::Message>| m.and_then(|m| m.status());
    let hold = sdp(endpoint.address(), "sendonly", "0");
    let answer = call.reinvite(Some(&hold));
    let answer = answer.expect("a re-INVITE is answered");
    assert_eq!(answer.status(), Some(200));
    assert!(answer.body.contains("a=recvonly") || answer.body.contains("a=inactive"), "{}", answer.body);
    let at_hold = endpoint.spoken();
    // Longer than the silence that ends a recording, and than the media timeout of this cluster.
    sleep(Duration::from_secs(8));
    assert_eq!(status(call.reinvite(Some(&sdp(endpoint.address(), "sendrecv", "0")))), Some(200), "resumed");
    endpoint.speak(speech);
    endpoint.wait_spoken(at_hold as f64 / 8000.0 + 2.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    let messages = cluster.wait_for_messages("a", mailbox, 1, Duration::from_secs(2));
    let audio = cluster.cli("a").audio(mailbox, &messages[0].id, Law::Mu).expect("bit-exact audio");
    let contains = |from: usize, length: usize| audio.windows(length).any(|w| w == speech.bytes(from, length));
    assert!(contains(at_hold - 8000, 7000), "what was said before the hold");
    assert!(contains(at_hold + 2000, 12_000), "what was said after it");
    assert!(audio.len() < 8 * 8000, "the hold itself is not in it: {} samples", audio.len());
}

/// Unusable session descriptions get `488`; an INVITE without SDP gets an offer (tested by SIPp); INFO digits work.
#[test]
fn sdp_without_our_audio_is_refused_and_info_digits_are_keys() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let mut invite = Invite::new(mailbox, "2001", endpoint.address());
    let good = invite.sdp.clone();
    for (what, sdp) in [
        ("video alone", good.replace("m=audio", "m=video")),
        ("an unknown codec", good.replace("RTP/AVP 0 8 101", "RTP/AVP 18").replace("a=rtpmap:0 PCMU/8000\r\n", "")),
        ("no media at all", good.split("m=audio").next().unwrap_or_default().to_owned()),
        ("garbage", "this is no session description".to_owned()),
    ] {
        invite.sdp = sdp;
        let refused =
            Call::place_within(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite, Duration::from_secs(5));
        let status = refused.err().map(|r| r.status);
        assert!(matches!(status, Some(488 | 400 | 415)), "{what}: {status:?}");
    }
    invite.sdp = good;
    let mut call =
        Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite).expect("still answered");
    endpoint.send_to(call.media);
    endpoint.wait_heard(Duration::from_secs(5));
    let body = "Signal=#\r\nDuration=160\r\n";
    assert_eq!(call.ask("INFO", &[], "application/dtmf-relay", body), 200);
    let speech = Speech::unique();
    endpoint.speak(speech);
    endpoint.wait_spoken(3.0);
    let deposit = hang_up(call, &endpoint, speech);
    // Without the key the greeting would still be playing.
    assert_kept(&cluster, "a", mailbox, &deposit, 1.0, Duration::from_secs(2));
}

/// Two callers with one Call-ID are two calls and two messages.
#[test]
fn two_invites_with_one_call_id_are_two_messages() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let call_id = twinbox_testkit::token();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
            let mut invite = Invite::new(mailbox, "2001", endpoint.address());
            invite.call_id = Some(call_id.clone());
            let call = Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite).expect("answered");
            let speech = begin_to_speak(&endpoint, &call);
            (endpoint, call, speech)
        })
        .collect();
    calls.iter().for_each(|(endpoint, _, _)| endpoint.wait_spoken(3.0));
    for (endpoint, call, speech) in calls {
        let deposit = hang_up(call, &endpoint, speech);
        assert!(deposit.acknowledged(), "{:?}", deposit.bye);
        assert_kept(&cluster, "b", mailbox, &deposit, 1.5, Duration::from_secs(2));
    }
    cluster.wait_for_messages("a", mailbox, 2, Duration::from_secs(2));
}
