//! The phone against a small UAS, over real sockets.

mod common;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use common::{SUMMARY, Uas};
use twinbox_phone::{CallOptions, Codec, Digits, Ended, Offer, Phone, PhoneConfig, Target, Transport};
use twinbox_rtp::dtmf::{Detector, Event};
use twinbox_sip::Method;

const SOON: Duration = Duration::from_secs(10);

async fn phone(transport: Transport) -> Phone {
    Phone::bind(PhoneConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), transport)).await.unwrap()
}

fn speech(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8 & 0xaf).collect()
}

#[tokio::test]
async fn a_call_over_udp_and_tcp_hears_its_echo_bit_for_bit() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let uas = match transport {
            Transport::Udp => Uas::udp().await,
            Transport::Tcp => Uas::tcp().await,
        };
        let phone = phone(transport).await;
        let options = CallOptions::default().header("Diversion", "<sip:1001@pbx>;reason=no-answer");
        let call = phone.call(Target::user("echo", uas.address), options).await.unwrap();
        assert_eq!(call.codec(), Codec::Pcma, "what they chose");
        assert!(call.answer_time() > Duration::ZERO);
        let invite = uas.request(Method::Invite, 1).await;
        assert_eq!(invite.headers.get("Diversion"), Some("<sip:1001@pbx>;reason=no-answer"));
        let audio = speech(4_000);
        assert!(call.send_audio(audio.clone()).await);
        let at = call.wait_for_audio(&audio, 0, SOON).await.expect("the echo");
        assert!(call.wait_silence(at, Duration::from_millis(200), SOON).await);
        assert!(call.wait_received(at + 4_000, SOON).await);
        let stats = call.stats();
        assert!(stats.received >= 25 && stats.lost == 0, "{stats:?}");
        let (status, time) = call.bye().await.unwrap();
        assert!(status == 200 && time < SOON);
        assert_eq!(call.ended().await, Ended::ByUs);
        assert!(!call.send_audio(audio).await, "after the end nothing is sent");
    }
}

#[tokio::test]
async fn refusals_are_reported_and_acknowledged() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let error = phone.call(Target::user("busy", uas.address), CallOptions::default()).await.err().unwrap();
    assert_eq!((error.status, error.header("x-why")), (486, Some("tests")));
    let (invite, ack) = (uas.request(Method::Invite, 1).await, uas.request(Method::Ack, 1).await);
    assert_eq!(invite.headers.get("Via"), ack.headers.get("Via"), "it is of the INVITE's transaction");
    let error = phone.call("http://nowhere", CallOptions::default()).await.err().unwrap();
    assert_eq!(error.status, 400);
    let error = phone.call(Target::user("useless", uas.address), CallOptions::default()).await.err().unwrap();
    assert_eq!(error.status, 488, "an answer without SDP");
    uas.request(Method::Bye, 1).await;
}

#[tokio::test]
async fn a_challenge_is_answered_once() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let auth = |auth: Option<(&str, &str)>| CallOptions {
        auth: auth.map(|(user, password)| (user.to_owned(), password.to_owned())),
        ..CallOptions::default()
    };
    let target = Target::user("auth", uas.address);
    assert_eq!(phone.call(target.clone(), auth(None)).await.err().unwrap().status, 401);
    let call = phone.call(target, auth(Some(("ann", "secret")))).await.unwrap();
    let invite = uas.request(Method::Invite, 3).await;
    assert_eq!(invite.headers.cseq(), 2);
    assert!(invite.headers.get("Authorization").unwrap().contains("username=\"ann\""));
    call.bye().await.unwrap();
    assert_eq!(uas.request(Method::Bye, 1).await.headers.cseq(), 3);
}

#[tokio::test]
async fn a_call_that_rings_can_be_cancelled() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let mut dialing = phone.dial(Target::user("ring", uas.address), CallOptions::default()).await.unwrap();
    assert_eq!(dialing.ringing().await, Some(180));
    assert_eq!(dialing.cancel().await.err().unwrap().status, 487);
    let (invite, cancel) = (uas.request(Method::Invite, 1).await, uas.request(Method::Cancel, 1).await);
    assert_eq!(invite.headers.get("Via"), cancel.headers.get("Via"));
    let options = CallOptions { answer_timeout: Duration::from_millis(50), ..CallOptions::default() };
    let error = phone.call(Target::user("ring", uas.address), options).await.err().unwrap();
    assert_eq!(error.status, 408);
}

#[tokio::test]
async fn lost_requests_are_retransmitted() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let call = phone.call(Target::user("lossy", uas.address), CallOptions::default()).await.unwrap();
    assert!(call.answer_time() >= Duration::from_millis(500), "the first INVITE was lost");
    let (first, second) = (uas.request(Method::Ack, 1).await, uas.request(Method::Ack, 2).await);
    assert_eq!(first, second, "each answer is acknowledged alike");
}

#[tokio::test]
async fn a_late_offer_is_answered_in_the_ack() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let options = CallOptions { offer: Offer::Late, ..CallOptions::default() };
    let call = phone.call(Target::user("echo", uas.address), options).await.unwrap();
    assert!(uas.request(Method::Invite, 1).await.body.is_empty());
    let ack = String::from_utf8(uas.request(Method::Ack, 1).await.body.to_vec()).unwrap();
    assert!(ack.contains("RTP/AVP 8 96\r\n") && ack.contains("a=rtpmap:96 telephone-event/8000"), "{ack}");
    call.send_audio(speech(320)).await;
    assert!(call.wait_for_audio(&speech(320), 0, SOON).await.is_some());
}

#[tokio::test]
async fn keys_are_events_or_info() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let options = CallOptions { send_silence: false, ..CallOptions::default() };
    let call = phone.call(Target::user("echo", uas.address), options).await.unwrap();
    call.send_digits("1#", Duration::from_millis(40)).await.unwrap();
    let events = uas.seen(|seen| (seen.rtp.len() >= 14).then(|| seen.rtp.clone())).await;
    let mut detector = Detector::default();
    let keys: String = events.iter().filter_map(|(header, payload)| detector.push(header, payload)).collect();
    assert_eq!(keys, "1#");
    let ends = events.iter().filter_map(|(_, payload)| Event::parse(payload)).filter(|event| event.end).count();
    assert_eq!((events.len(), ends), (14, 6), "four packets and three ends each");
    assert_eq!(events.iter().filter(|(header, _)| header.marker).count(), 2);
    assert!(events.iter().all(|(header, _)| header.payload_type == 96));
    assert_eq!(call.send_digits("x", Duration::ZERO).await.err().unwrap().status, 400);

    let options = CallOptions { digits: Digits::Info, ..CallOptions::default() };
    let call = phone.call(Target::user("echo", uas.address), options).await.unwrap();
    call.send_digits("5", Duration::ZERO).await.unwrap();
    assert_eq!(&uas.request(Method::Info, 1).await.body[..], b"Signal=5\r\nDuration=100\r\n");
}

#[tokio::test]
async fn hold_and_resume_are_offered() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let call = phone.call(Target::user("echo", uas.address), CallOptions::default()).await.unwrap();
    let body = async |count| String::from_utf8(uas.request(Method::Invite, count).await.body.to_vec()).unwrap();
    call.hold().await.unwrap();
    let held = body(2).await;
    assert!(held.contains("a=sendonly") && held.contains(" 2 IN IP4"), "{held}");
    call.resume().await.unwrap();
    assert!(body(3).await.contains("a=sendrecv"));
    call.renegotiate_late().await.unwrap();
    assert!(uas.request(Method::Invite, 4).await.body.is_empty());
    assert!(!uas.request(Method::Ack, 4).await.body.is_empty(), "the answer is in the ACK");
    let answer = call.request("UPDATE", &[], "").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn requests_of_the_peer_in_the_dialog_are_answered() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let call = phone.call(Target::user("hangup", uas.address), CallOptions::default()).await.unwrap();
    assert_eq!(call.ended().await, Ended::ByThem);
    assert_eq!(uas.response(Method::Bye).await.code, 200);

    let _call = phone.call(Target::user("options", uas.address), CallOptions::default()).await.unwrap();
    assert_eq!(uas.response(Method::Options).await.code, 200);
}

#[tokio::test]
async fn a_re_invite_moves_the_media_and_the_target() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let call = phone.call(Target::user("move", uas.address), CallOptions::default()).await.unwrap();
    let before = call.remote_rtp();
    let ok = uas.response(Method::Invite).await;
    assert!(ok.code == 200 && !ok.body.is_empty());
    assert_ne!(call.remote_rtp(), before);
    call.send_audio(speech(320)).await;
    assert!(call.wait_for_audio(&speech(320), 0, SOON).await.is_some(), "it goes to the new address");
    call.bye().await.unwrap();
    assert!(uas.request(Method::Bye, 1).await.uri.starts_with("sip:moved@"));
}

#[tokio::test]
async fn re_invite_without_sdp_gets_an_offer() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let _call = phone.call(Target::user("ask", uas.address), CallOptions::default()).await.unwrap();
    let ok = uas.response(Method::Invite).await;
    assert!(String::from_utf8_lossy(&ok.body).contains("m=audio"));
}

#[tokio::test]
async fn mwi_arrives_by_subscription_and_unsolicited() {
    let (uas, phone) = (Uas::udp().await, phone(Transport::Udp).await);
    let mut subscription = phone.subscribe(Target::user("1001", uas.address), SOON).await.unwrap();
    let notify = tokio::time::timeout(SOON, subscription.next()).await.unwrap().unwrap();
    assert_eq!((notify.body.as_str(), notify.cseq, notify.state.as_str()), (SUMMARY, 7, "active;expires=60"));
    assert_eq!(notify.summary().map(|s| (s.new, s.old)), Some((2, 1)));
    assert_eq!(uas.response(Method::Notify).await.code, 200);
    assert_eq!(subscription.end().await.unwrap().status, 202);
    assert_eq!(uas.request(Method::Subscribe, 2).await.headers.get("Expires"), Some("0"));

    let mut unsolicited = phone.unsolicited();
    // MESSAGE makes the UAS send NOTIFYs.
    phone.request("MESSAGE", Target::user("1001", uas.address), &[], "").await.unwrap();
    let notify = tokio::time::timeout(SOON, unsolicited.recv()).await.unwrap().unwrap();
    assert_eq!((notify.body.as_str(), notify.cseq), (SUMMARY, 9));
    let answered = |seen: &common::Received| {
        let answers = seen.responses.iter().filter(|r| r.headers.cseq() == 9).count();
        (answers == 2).then_some(())
    };
    uas.seen(answered).await;
    assert!(unsolicited.try_recv().is_err(), "a NOTIFY that comes again is answered again and shown once");
}

#[tokio::test]
async fn requests_outside_of_dialogs_are_sent_and_answered() {
    let (uas, first) = (Uas::udp().await, phone(Transport::Udp).await);
    let answer = first.request("OPTIONS", Target::user("x", uas.address), &[("Accept", "a/b")], "").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(uas.request(Method::Options, 1).await.headers.get("Accept"), Some("a/b"));
    let second = phone(Transport::Udp).await;
    let answer = first.request("OPTIONS", Target::user("x", second.address()), &[], "").await.unwrap();
    assert_eq!((answer.status, answer.header("allow").is_some()), (200, true));
    let error = first.call(Target::user("x", second.address()), CallOptions::default()).await.err().unwrap();
    assert_eq!(error.status, 486, "a phone is not called");
}
