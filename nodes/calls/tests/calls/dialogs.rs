//! Dialogs of calls: their participants, requests sent by the node, and their end.

use std::{net::SocketAddr, time::Duration};

use tokio::net::UdpSocket;
use twinbox_ids::Pii;
use twinbox_mailstore::MailboxChange;
use twinbox_phone::{CallOptions, Digits, Phone, PhoneConfig, Target, Transport};
use twinbox_rtp::{
    dtmf,
    packet::{Header, RtpTime, SeqNo, Ssrc},
};
use twinbox_sip::{Request, Response, sdp::Sdp, strict::MessageVerdict};

use crate::kit;
use crate::kit::{Node, PATIENCE, Raw, RawDialog, establish, hang_up, offer};

const SDP: &str = "application/sdp";
const DTMF: &str = "application/dtmf";

/// Key `0` leads to number 100: a REFER shows that the conversation goes on.
async fn with_operator(node: &Node) {
    node.mailstore
        .change(node.mailbox, MailboxChange::Operator(Some("100".to_owned())))
        .await
        .expect("an operator");
}

/// The same dialog, from another socket.
fn moved(dialog: &RawDialog, raw: &Raw) -> RawDialog {
    let RawDialog { transport, local, .. } = raw.dialog(&dialog.call_id);
    RawDialog { transport, local, ..dialog.clone() }
}

/// Behind a proxy without Record-Route, or an SBC with several addresses.
#[tokio::test]
async fn requests_in_a_dialog_are_accepted_from_other_addresses() {
    let node = Node::start().await;
    with_operator(&node).await;
    for n in 0..2 {
        let mut raw = node.raw().await;
        let mut other = match n {
            0 => Raw::udp_from("127.0.0.2", node.udp).await,
            _ => Raw::tcp_from("127.0.0.2", node.tcp).await,
        };
        let mut dialog = raw.dialog(&format!("nt{n}"));
        let invite = dialog.invite();
        let cancel = dialog.again("CANCEL", "", "");
        let ok = raw.ask(invite).await;
        assert_eq!(other.ask(cancel).await.code, 200, "too late, and known by its transaction");
        dialog.answered(&ok);
        let mut dialog = moved(&dialog, &other);
        let ack = dialog.again("ACK", "", "");
        other.send(ack.as_bytes()).await;
        assert_eq!(other.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
        let update = offer(9);
        assert_eq!(other.ask(dialog.request("UPDATE", SDP, &update)).await.code, 200);
        // The ACK has started the conversation.
        assert_eq!(other.ask(dialog.request("INFO", DTMF, "0")).await.code, 200);
        let refer = raw.unanswered().await;
        assert_eq!(refer.method.as_str(), "REFER", "it goes to the Contact of the INVITE");
        raw.send(&refer.respond(503).to_bytes()).await;
        let bye = dialog.request("BYE", "", "");
        assert_eq!(other.ask(bye.clone()).await.code, 200);
        node.idle().await;
        if n == 0 {
            assert_eq!(other.ask(bye).await.code, 200, "a copy of the BYE has the same answer");
        }
    }
    assert_eq!(node.counter("strangers"), 0);
}

#[tokio::test]
async fn a_stranger_must_know_call_id_and_both_tags() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("st1");
    establish(&mut raw, &mut dialog).await;
    let mut other = Raw::udp_from("127.0.0.2", node.udp).await;
    let dialog = moved(&dialog, &other);
    let guesses = [
        RawDialog { call_id: "st2".into(), ..dialog.clone() },
        RawDialog { from_tag: "guess".into(), ..dialog.clone() },
        RawDialog { to_tag: Some("guess".into()), ..dialog.clone() },
        RawDialog { to_tag: None, ..dialog.clone() },
    ];
    for mut guess in guesses {
        for method in ["BYE", "INVITE", "OPTIONS", "UPDATE"] {
            assert_eq!(other.ask(guess.request(method, "", "")).await.code, 403, "{method}");
        }
    }
    // OPTIONS that name this incarnation of the node may be a member's probe (rule C3).
    assert_eq!((node.counter("strangers"), node.counter("members_asked"), node.calls.active()), (12, 4, 1));
}

/// Requests of a stranger within a dialog redirect neither media nor the node's own requests to another host.
#[tokio::test]
async fn stranger_in_a_dialog_redirects_nothing() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("el1");
    establish(&mut raw, &mut dialog).await;
    let mut other = Raw::udp_from("127.0.0.2", node.udp).await;
    let mut stranger = moved(&dialog, &other);
    let elsewhere = offer(9).replace("IN IP4 127.0.0.1", "IN IP4 127.0.0.2");
    for method in ["UPDATE", "INVITE"] {
        let refused = other.ask(stranger.request(method, SDP, &elsewhere)).await;
        assert_eq!(refused.code, 488, "{method}");
        assert!(refused.headers.get("Warning").is_some_and(|w| w.contains("trunk")), "{refused:?}");
    }
    let ack = stranger.request("ACK", "", "");
    other.send(ack.as_bytes()).await;
    assert_eq!(other.ask(stranger.request("INVITE", SDP, &offer(11))).await.code, 200, "another port will do");
    let ack = stranger.request("ACK", "", "");
    other.send(ack.as_bytes()).await;
    // Nor by the answer to an offer that the stranger requests.
    assert_eq!(other.ask(stranger.request("INVITE", "", "")).await.code, 200);
    let ack = stranger.again("ACK", SDP, &elsewhere);
    other.send(ack.as_bytes()).await;
    assert_eq!(other.ask(stranger.request("UPDATE", SDP, &elsewhere)).await.code, 488);
    // A trunk may move the media.
    dialog.cseq = stranger.cseq;
    assert_eq!(raw.ask(dialog.request("UPDATE", SDP, &elsewhere)).await.code, 200);
    // The node's own requests go to the same address as before.
    node.calls.end_calls();
    assert_eq!(raw.request().await.method.as_str(), "BYE");
    node.idle().await;
}

#[tokio::test]
async fn subscription_is_refreshed_and_ended_from_another_address() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("su1").with("Event: message-summary").with("Expires: 600");
    let ok = raw.ask(dialog.request("SUBSCRIBE", "", "")).await;
    assert_eq!(ok.code, 200);
    dialog.to_tag = ok.headers.tag("To").map(str::to_owned);
    assert_eq!(raw.request().await.method.as_str(), "NOTIFY");
    let mut other = Raw::udp_from("127.0.0.2", node.udp).await;
    let mut stranger = moved(&dialog, &other);
    assert_eq!(other.ask(stranger.request("SUBSCRIBE", "", "")).await.code, 200);
    assert_eq!(raw.request().await.method.as_str(), "NOTIFY", "it goes to the first Contact");
    assert_eq!(
        other.ask(stranger.request("SUBSCRIBE", "", "").replace("Expires: 600", "Expires: 0")).await.code,
        200
    );
    let last = raw.request().await;
    assert!(last.headers.get("Subscription-State").is_some_and(|s| s.starts_with("terminated")), "{last:?}");
}

/// RFC 3261 section 22.2: a challenged request is repeated with the next number, which is then used.
#[tokio::test]
async fn request_after_a_challenge_has_the_next_cseq() {
    let node = Node::with(|o| {
        o.calls.trunks[0].username = Some("vm".to_owned());
        o.calls.trunks[0].password = Some(Pii::new("secret".to_owned()));
    })
    .await;
    with_operator(&node).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ch1");
    establish(&mut raw, &mut dialog).await;
    assert_eq!(raw.ask(dialog.request("INFO", DTMF, "0")).await.code, 200);
    let refer = raw.unanswered().await;
    let challenge = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
    raw.send(&refer.respond(401).with("WWW-Authenticate", challenge).to_bytes()).await;
    let again = raw.unanswered().await;
    assert!(again.headers.get("Authorization").is_some());
    raw.send(&again.respond(603).to_bytes()).await;
    node.calls.end_calls();
    let bye = raw.request().await;
    assert_eq!((refer.headers.cseq(), again.headers.cseq(), bye.headers.cseq()), (1, 2, 3));
    node.idle().await;
}

/// A call whose session the node must refresh, shortly before the refresh.
async fn to_be_refreshed(node: &Node, raw: &mut Raw, call: &str, allow: Option<&str>) -> (RawDialog, Response) {
    let dialog = raw.dialog(call).with("Supported: timer").with("Session-Expires: 90;refresher=uas");
    let mut dialog = match allow {
        Some(allow) => dialog.with(&format!("Allow: {allow}")),
        None => dialog,
    };
    let ok = establish(raw, &mut dialog).await;
    // The answer to a later request shows that the ACK was handled.
    assert_eq!(raw.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
    node.pass(46).await;
    (dialog, ok)
}

fn session(request: &Request) -> (&str, Option<&str>, Option<&str>) {
    let headers = &request.headers;
    (request.method.as_str(), headers.get("Session-Expires"), headers.get("Min-SE"))
}

/// Answers the node's re-INVITE and receives its ACK.
async fn accept(raw: &mut Raw, invite: &Request) {
    let ok = invite.respond(200).with("Contact", format!("<sip:2001@{}>", raw.local()));
    let ok = ok.with("Session-Expires", "90;refresher=uac").with_body(SDP, offer(9));
    raw.send(&ok.to_bytes()).await;
    let ack = raw.unanswered().await;
    assert_eq!((ack.method.as_str(), ack.headers.cseq()), ("ACK", invite.headers.cseq()));
    // A copy of the answer is acknowledged again.
    raw.send(&ok.to_bytes()).await;
    assert_eq!(raw.unanswered().await.method.as_str(), "ACK");
}

#[tokio::test]
async fn session_is_refreshed_by_update_if_allow_lists_it() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let (mut dialog, _) = to_be_refreshed(&node, &mut raw, "up1", Some("INVITE, ACK, BYE, UPDATE")).await;
    assert_eq!(session(&raw.request().await), ("UPDATE", Some("90;refresher=uac"), None));
    assert_eq!(node.calls.active(), 1);
    hang_up(&mut raw, &mut dialog).await;
}

#[tokio::test]
async fn session_is_refreshed_by_invite_if_allow_lacks_update() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    for (n, allow) in [None, Some("INVITE, ACK, BYE")].into_iter().enumerate() {
        let (mut dialog, ok) = to_be_refreshed(&node, &mut raw, &format!("in{n}"), allow).await;
        let invite = raw.unanswered().await;
        assert_eq!(session(&invite), ("INVITE", Some("90;refresher=uac"), None));
        assert_eq!(invite.body, ok.body, "the description as it was, its version too (RFC 4028 section 7.4)");
        // A re-INVITE of the caller must wait while the node's is unanswered (RFC 3261 section 14.2).
        assert_eq!(raw.ask(dialog.invite()).await.code, 491);
        let ack = dialog.request("ACK", "", "");
        raw.send(ack.as_bytes()).await;
        accept(&mut raw, &invite).await;
        node.pass(46).await;
        assert_eq!(raw.unanswered().await.method.as_str(), "INVITE", "and once more");
        hang_up(&mut raw, &mut dialog).await;
    }
}

#[tokio::test]
async fn refused_refresh_is_retried_as_the_refusal_requires() {
    let node = Node::start().await;
    for (n, code) in [405, 501].into_iter().enumerate() {
        let mut raw = node.raw().await;
        let (mut dialog, _) = to_be_refreshed(&node, &mut raw, &format!("rf{n}"), Some("UPDATE")).await;
        let update = raw.unanswered().await;
        raw.send(&update.respond(code).to_bytes()).await;
        let invite = raw.unanswered().await;
        assert_eq!(session(&invite), ("INVITE", Some("90;refresher=uac"), None), "after {code}");
        accept(&mut raw, &invite).await;
        hang_up(&mut raw, &mut dialog).await;
    }
    let mut raw = node.raw().await;
    let (mut dialog, _) = to_be_refreshed(&node, &mut raw, "rf3", Some("UPDATE")).await;
    let update = raw.unanswered().await;
    raw.send(&update.respond(422).with("Min-SE", "120").to_bytes()).await;
    let longer = raw.unanswered().await;
    assert_eq!(session(&longer), ("UPDATE", Some("120;refresher=uac"), Some("120")));
    raw.send(&longer.respond(491).to_bytes()).await;
    let again = raw.request().await;
    assert_eq!(session(&again), ("UPDATE", Some("120;refresher=uac"), Some("120")), "a moment later");
    hang_up(&mut raw, &mut dialog).await;
}

#[tokio::test]
async fn session_without_refresh_ends_before_it_expires() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    to_be_refreshed(&node, &mut raw, "no1", None).await;
    let mut acknowledged = false;
    let reason = loop {
        let request = raw.unanswered().await;
        match request.method.as_str() {
            // A slow machine sends it once more before the refusal arrives.
            "INVITE" => raw.send(&request.respond(500).to_bytes()).await,
            "ACK" => {
                acknowledged = true;
                node.pass(10).await;
            }
            "BYE" => break request.headers.get("Reason").map(str::to_owned),
            other => panic!("{other}"),
        }
    };
    assert!(acknowledged);
    assert_eq!(reason.as_deref(), Some("SIP;cause=408;text=\"Session not refreshed\""));
}

#[tokio::test]
async fn update_without_sdp_is_answered_while_the_local_offer_is_pending() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ud1");
    let ok = raw.ask(dialog.request("INVITE", "", "")).await;
    dialog.answered(&ok);
    let mut early = dialog.clone();
    assert_eq!(raw.ask(early.request("UPDATE", "", "")).await.code, 200);
    assert_eq!(raw.ask(early.request("UPDATE", SDP, &offer(9))).await.code, 491);
    let ack = dialog.again("ACK", SDP, &offer(9));
    raw.send(ack.as_bytes()).await;
    hang_up(&mut raw, &mut early).await;
    node.idle().await;
}

#[tokio::test]
async fn requests_pending_at_the_bye_are_answered() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ib1");
    establish(&mut raw, &mut dialog).await;
    // All requests arrive before the call reads the first.
    for request in ["BYE", "OPTIONS", "INFO", "BYE"] {
        let text = dialog.request(request, "", "");
        raw.send(text.as_bytes()).await;
    }
    let mut codes = Vec::new();
    for _ in 0..4 {
        let response = raw.response().await;
        codes.push((response.headers.cseq_method().as_str().to_owned(), response.code));
    }
    let expected = [("BYE", 200), ("OPTIONS", 481), ("INFO", 481), ("BYE", 200)];
    codes.sort();
    let mut expected: Vec<_> = expected.map(|(m, c)| (m.to_owned(), c)).to_vec();
    expected.sort();
    assert_eq!(codes, expected);
}

/// RFC 3261 section 15: the callee sends no BYE before the ACK.
#[tokio::test]
async fn shutdown_sends_the_bye_after_the_ack() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ba1");
    let ok = raw.ask(dialog.invite()).await;
    let ack = dialog.answered(&ok);
    let calls = node.calls.clone();
    let shutdown = tokio::spawn(async move { calls.shutdown().await });
    let mut other = raw.dialog("ba2");
    assert_eq!(raw.ask(other.invite()).await.code, 503, "it is shutting down");
    // The call exists, and has sent no BYE.
    assert_eq!(raw.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
    raw.send(ack.as_bytes()).await;
    let bye = raw.request().await;
    assert_eq!(bye.method.as_str(), "BYE");
    assert_eq!(bye.headers.get("Reason"), Some("SIP;cause=503;text=\"Out of service\""));
    shutdown.await.unwrap();
}

/// RFC 3326: a BYE of the node contains its reason.
#[tokio::test]
async fn sent_bye_has_a_reason() {
    let node = Node::with(|o| o.calls.unknown_mailbox = twinbox_calls::UnknownMailbox::Apology).await;
    let mut raw = node.raw().await;
    // End of the apology.
    let mut dialog = raw.dialog("re1");
    dialog.target = "sip:9999@vm.example".into();
    establish(&mut raw, &mut dialog).await;
    let bye = raw.request().await;
    assert_eq!(bye.headers.get("Reason"), Some("Q.850;cause=16;text=\"Normal call clearing\""));
    // No usable answer in the ACK.
    let mut dialog = raw.dialog("re2");
    let ok = raw.ask(dialog.request("INVITE", "", "")).await;
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    let bye = raw.request().await;
    assert_eq!(bye.headers.get("Reason"), Some("SIP;cause=488;text=\"No usable answer in the ACK\""));
    node.idle().await;
}

/// Presses a key by RFC 4733.
async fn press(rtp: &UdpSocket, to: SocketAddr, key: char) {
    let events = dtmf::press(dtmf::code(key).expect("a key"), 800);
    for (seq, event) in (1..).zip(events) {
        let (marker, seq, time) = (seq == 1, SeqNo(seq), RtpTime(8_000));
        let header = Header { marker, payload_type: 101, seq, time, ssrc: Ssrc(7) };
        let packet = [header.to_bytes().as_slice(), event.to_bytes().as_slice()].concat();
        rtp.send_to(&packet, to).await.expect("sent");
    }
}

/// The ACK starts the conversation, and a fast caller presses keys before it arrives.
#[tokio::test]
async fn key_pressed_before_the_ack_reaches_the_conversation() {
    let node = Node::start().await;
    with_operator(&node).await;
    let rtp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = rtp.local_addr().expect("an address").port();
    for counter in ["digits_info", "digits_rtp"] {
        let mut raw = node.raw().await;
        let mut dialog = raw.dialog(counter);
        let ok = raw.ask(dialog.request("INVITE", SDP, &offer(port))).await;
        let ack = dialog.answered(&ok);
        if counter == "digits_info" {
            let info = dialog.request("INFO", DTMF, "0");
            raw.send(info.as_bytes()).await;
        } else {
            let remote = Sdp::parse(&ok.body).unwrap().audio().unwrap().remote;
            press(&rtp, remote.expect("an address"), '0').await;
        }
        node.until_counted(counter, 1).await;
        raw.send(ack.as_bytes()).await;
        let refer = loop {
            match raw.next(PATIENCE).await {
                Some(MessageVerdict::Request(request)) => break request,
                // Copies of the `200` until the ACK has arrived, and the answer to INFO.
                Some(MessageVerdict::Response(_)) => {}
                other => panic!("{counter}: no REFER but {other:?}"),
            }
        };
        assert_eq!(refer.method.as_str(), "REFER", "{counter}: the key leads to the operator");
        raw.send(&refer.respond(603).to_bytes()).await;
        hang_up(&mut raw, &mut dialog).await;
        node.idle().await;
    }
}

/// Some telephones and gateways send each key twice, by RTP and by INFO.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_received_by_rtp_and_info_counts_once() {
    let node = Node::start().await;
    with_operator(&node).await;
    let phone = Phone::bind(PhoneConfig::new([127, 0, 0, 1].into(), Transport::Udp)).await.expect("a phone");
    let from = Some("<sip:1001@pbx.example>".to_owned());
    let options = CallOptions { digits: Digits::Rfc4733, from, ..CallOptions::default() };
    let call = phone.call(Target::user("*97", node.udp), options).await.expect("answered");
    assert!(call.wait_received(4_000, PATIENCE).await, "it asks for the PIN");
    for key in format!("{}#", kit::PIN).chars() {
        call.send_digits(&key.to_string(), Duration::from_millis(60)).await.expect("a digit");
        let headers = [("Content-Type", "application/dtmf-relay")];
        let answer =
            call.request("INFO", &headers, &format!("Signal={key}\r\nDuration=100\r\n")).await.expect("INFO");
        assert_eq!(answer.status, 200);
    }
    let keys = kit::PIN.len() as u64 + 1;
    node.until_counted("digits_rtp", keys).await;
    // The INFO is answered before the call takes its key.
    node.until_counted("digits_repeated", keys).await;
    assert_eq!((node.counter("digits_rtp"), node.counter("digits_info")), (keys, 0));
    assert_eq!(node.counter("digits_repeated"), keys);
    call.bye().await.expect("BYE is answered");
}

/// A refused INVITE over UDP may have a delayed copy: if answered `200`, it would be a call without a caller.
#[tokio::test]
async fn copy_of_a_refused_invite_is_refused_even_if_calls_are_accepted() {
    let node = Node::with(|o| o.calls.max_calls = 1).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("gh1");
    establish(&mut raw, &mut dialog).await;
    let mut late = raw.dialog("gh2");
    let invite = late.invite();
    let refused = raw.ask(invite.clone()).await;
    assert_eq!((refused.code, refused.headers.get("Retry-After")), (503, Some("5")));
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
    let again = raw.ask(invite).await;
    assert_eq!((again.code, again.headers.get("Retry-After")), (503, Some("5")));
    assert_eq!(again.headers.tag("To"), refused.headers.tag("To"));
    // A new attempt is a new transaction.
    let mut next_attempt = RawDialog { call_id: "gh3".into(), cseq: 0, ..late };
    establish(&mut raw, &mut next_attempt).await;
    hang_up(&mut raw, &mut next_attempt).await;
}

/// The transaction of the INVITE has the ACK, so that no copy of it is passed on and nothing says that it is late.
#[tokio::test]
async fn call_whose_ack_found_its_queue_full_ends() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("q1");
    let ok = raw.ask(dialog.invite()).await;
    let ack = dialog.answered(&ok);
    for _ in 0..40 {
        let info = dialog.request("INFO", "", "");
        raw.send(info.as_bytes()).await;
    }
    raw.send(ack.as_bytes()).await;
    while raw.response().await.code != 503 {}
    node.pass(40).await;
    node.until_counted("calls_unacknowledged", 1).await;
    node.idle().await;
}
