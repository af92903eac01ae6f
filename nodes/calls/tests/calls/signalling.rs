//! Signalling on real sockets with raw messages: accepted requests.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use twinbox_sip::{sdp::Sdp, strict::MessageVerdict};

use crate::kit;
use crate::kit::{Node, Raw, establish, hang_up, offer};

#[tokio::test]
async fn contact_of_the_answer_names_node_and_incarnation() {
    let node = Node::start().await;
    for mut raw in [node.raw().await, Raw::tcp(node.tcp).await] {
        let mut dialog = raw.dialog("c1");
        let ok = establish(&mut raw, &mut dialog).await;
        let sdp = Sdp::parse(&ok.body).unwrap().audio().unwrap();
        assert!(sdp.remote.is_some_and(|r| r.ip().is_loopback()), "{sdp:?}");
        let contact = ok.headers.get("Contact").unwrap();
        assert!(contact.contains(";twinbox-node=a;"), "{contact}");
        assert!(contact.contains(&node.incarnation.to_string()), "{contact}");
        assert_eq!(node.calls.active(), 1);
        hang_up(&mut raw, &mut dialog).await;
        node.idle().await;
    }
    let stats = node.calls.stats();
    assert_eq!(stats.answer_time.counts.iter().sum::<u64>(), 2);
    assert_eq!(stats.bye_time.counts.iter().sum::<u64>(), 2);
}

#[tokio::test]
async fn audio_of_either_ip_version_is_answered_from_an_address_of_that_version() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return eprintln!("not run: no IPv6 here");
    }
    let node = Node::with(|options| options.calls.rtp.bind = Ipv6Addr::UNSPECIFIED.into()).await;
    let mut raw = node.raw().await;
    for (family, own) in [("IP4", "127.0.0.1"), ("IP6", "::1")] {
        let mut dialog = raw.dialog(family);
        let offer = format!("v=0\r\nc=IN {family} {own}\r\nm=audio 9 RTP/AVP 0\r\n");
        let ok = raw.ask(dialog.request("INVITE", "application/sdp", &offer)).await;
        raw.send(dialog.answered(&ok).as_bytes()).await;
        let answer = Sdp::parse(&ok.body).unwrap().audio().unwrap();
        assert_eq!(answer.remote.map(|remote| remote.ip()), Some(own.parse().unwrap()));
        // The audio moves to the other IP version and back; one that is on hold has no address.
        for (family, host, own) in [
            ("IP6", "::1", "::1"),
            ("IP4", "0.0.0.0", "::1"),
            ("IP4", "127.0.0.1", "127.0.0.1"),
            ("IP6", "::1", "::1"),
        ] {
            let offer = format!("v=0\r\nc=IN {family} {host}\r\nm=audio 9 RTP/AVP 0\r\n");
            let ok = raw.ask(dialog.request("INVITE", "application/sdp", &offer)).await;
            assert_eq!(ok.code, 200, "{offer}");
            raw.send(dialog.answered(&ok).as_bytes()).await;
            let answer = Sdp::parse(&ok.body).unwrap().audio().unwrap();
            assert_eq!(answer.remote.map(|remote| remote.ip()), Some(own.parse().unwrap()), "{offer}");
        }
        hang_up(&mut raw, &mut dialog).await;
    }
    node.idle().await;
    // SIP over IPv6 does not make the audio's socket one of IPv6.
    let node = Node::with(|options| {
        options.calls.listeners.iter_mut().for_each(|listener| listener.bind = (Ipv6Addr::UNSPECIFIED, 0).into());
        options.calls.trunks = vec![kit::trunk("pbx", "::1")];
        options.calls.rtp.bind = Ipv4Addr::UNSPECIFIED.into();
    })
    .await;
    let mut raw = Raw::udp_from("::1", (Ipv6Addr::LOCALHOST, node.udp.port()).into()).await;
    // The offer to a caller without one has an address, of IPv4.
    let mut dialog = raw.dialog("no-offer");
    let ok = raw.ask(dialog.request("INVITE", "", "")).await;
    let offered = Sdp::parse(&ok.body).map(|offer| offer.audio().unwrap().remote.map(|remote| remote.ip()));
    assert!(ok.code == 488 || offered.is_ok_and(|host| host.is_some_and(|host| host.is_ipv4())), "{}", ok.code);
    if ok.code == 200 {
        raw.send(dialog.answered(&ok).as_bytes()).await;
        assert_eq!(raw.request().await.method.as_str(), "BYE", "no answer");
    }
    let mut dialog = raw.dialog("ipv4-alone");
    let offer = "v=0\r\nc=IN IP6 ::1\r\nm=audio 9 RTP/AVP 0\r\n";
    assert_eq!(raw.ask(dialog.request("INVITE", "application/sdp", offer)).await.code, 488);
}

#[tokio::test]
async fn invite_without_sdp_gets_an_offer_and_the_ack_completes_it() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("l1");
    let ok = raw.ask(dialog.request("INVITE", "", "")).await;
    let body = String::from_utf8(ok.body.to_vec()).unwrap();
    assert!(body.contains(" 0 8 101\r\n") && body.contains("a=sendrecv"), "{body}");
    dialog.answered(&ok);
    let answer = offer(9).replace(" 0 8 101", " 8 101");
    // Until the answer arrives, a second offer is refused.
    let mut early = dialog.clone();
    assert_eq!(raw.ask(early.invite()).await.code, 491);
    let ack = dialog.again("ACK", "application/sdp", &answer);
    raw.send(ack.as_bytes()).await;
    dialog.cseq += 1;
    let again = raw.ask(dialog.invite()).await;
    assert_eq!(again.code, 200);
    let ack = dialog.request("ACK", "", "");
    raw.send(ack.as_bytes()).await;
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;

    // No usable answer in the ACK: the node hangs up.
    let mut dialog = raw.dialog("l2");
    let ok = raw.ask(dialog.request("INVITE", "", "")).await;
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    assert_eq!(raw.request().await.method.as_str(), "BYE");
    node.idle().await;
}

#[tokio::test]
async fn version_of_the_local_sdp_increases_with_each_description() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("v1");
    let origin = |body: &[u8]| {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let line = text.lines().find(|l| l.starts_with("o=")).unwrap().to_owned();
        let mut parts = line.split(' ');
        let id: u64 = parts.nth(1).unwrap().parse().unwrap();
        (id, parts.next().unwrap().parse::<u64>().unwrap())
    };
    let first = origin(&establish(&mut raw, &mut dialog).await.body);
    let second = origin(&establish(&mut raw, &mut dialog).await.body);
    assert_eq!((second.0, second.1), (first.0, first.1 + 1));
    let update = raw.ask(dialog.request("UPDATE", "application/sdp", &offer(9))).await;
    assert_eq!(origin(&update.body).1, first.1 + 2);
    // An UPDATE without a description refreshes the session and changes nothing.
    let refresh = raw.ask(dialog.request("UPDATE", "", "")).await;
    assert_eq!((refresh.code, refresh.body.len()), (200, 0));
    // An offer that the node cannot accept leaves the session unchanged.
    let refused = raw.ask(dialog.request("INVITE", "application/sdp", "v=0\r\nm=video 9 RTP/AVP 31\r\n")).await;
    assert_eq!(refused.code, 488);
    let ack = dialog.request("ACK", "", "");
    raw.send(ack.as_bytes()).await;
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
}

#[tokio::test]
async fn session_timer_is_negotiated() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let cases: [(&[&str], Option<&str>); 3] = [
        (&[], None),
        (&["Supported: timer"], Some("1800;refresher=uas")),
        (&["Supported: timer", "Session-Expires: 600;refresher=uas"], Some("600;refresher=uas")),
    ];
    for (n, (headers, expected)) in cases.into_iter().enumerate() {
        let mut dialog = headers.iter().fold(raw.dialog(&format!("t{n}")), |dialog, h| dialog.with(h));
        let ok = establish(&mut raw, &mut dialog).await;
        assert_eq!(ok.headers.get("Session-Expires"), expected);
        assert_eq!(ok.headers.has_token("Require", "timer"), expected.is_some());
        hang_up(&mut raw, &mut dialog).await;
    }
}

#[tokio::test]
async fn every_request_in_a_dialog_is_answered() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("d1");
    establish(&mut raw, &mut dialog).await;
    let relay = "application/dtmf-relay";
    for (text, code) in [
        (dialog.request("OPTIONS", "", ""), 200),
        (dialog.request("INFO", relay, "Signal=5\r\nDuration=160\r\n"), 200),
        (dialog.request("INFO", "application/dtmf", "7"), 200),
        (dialog.request("INFO", "text/plain", "7"), 415),
        (dialog.request("INFO", "", ""), 200),
        (dialog.request("NOTIFY", "", ""), 489),
        (dialog.request("SUBSCRIBE", "", ""), 405),
    ] {
        assert_eq!(raw.ask(text.clone()).await.code, code, "{text}");
    }
    assert_eq!(node.counter("digits_info"), 2);
    let mut packaged = dialog.clone().with("Info-Package: foo");
    assert_eq!(raw.ask(packaged.request("INFO", "", "")).await.code, 469);
    dialog.cseq = packaged.cseq;
    // A number used before is out of order.
    let mut old = dialog.clone();
    old.cseq = 1;
    let response = raw.ask(old.request("INFO", "", "")).await;
    assert_eq!((response.code, response.reason.as_str()), (500, "CSeq out of order"));
    // A sender that guessed the dialog, but not the peer's tag, is not part of it.
    let mut forged = dialog.clone();
    forged.from_tag = "forged".into();
    assert_eq!(raw.ask(forged.request("BYE", "", "")).await.code, 481);
    assert_eq!(node.calls.active(), 1);
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
}

#[tokio::test]
async fn cancel_of_an_answered_invite_changes_nothing() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("x1");
    assert_eq!(raw.ask(dialog.again("CANCEL", "", "")).await.code, 481);
    let invite = dialog.invite();
    let cancel = dialog.again("CANCEL", "", "");
    let ok = raw.ask(invite).await;
    let late = raw.ask(cancel).await;
    assert_eq!((late.code, late.headers.cseq_method().as_str()), (200, "CANCEL"));
    assert_eq!(late.headers.tag("To"), ok.headers.tag("To"));
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    assert_eq!(node.calls.active(), 1);
    hang_up(&mut raw, &mut dialog).await;
}

#[tokio::test]
async fn a_repeated_invite_is_one_call_and_a_merged_one_is_refused() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("m1");
    let invite = dialog.invite();
    let ok = raw.ask(invite.clone()).await;
    raw.send(invite.as_bytes()).await;
    // The same request by another path (RFC 3261 section 8.2.2.2).
    let merged = raw.ask(invite.replace("z9hG4bK", "z9hG4bK-other-way-")).await;
    assert_eq!(merged.code, 482);
    assert_eq!(node.calls.active(), 1);
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    hang_up(&mut raw, &mut dialog).await;
}

#[tokio::test]
async fn unknown_mailbox_gets_an_apology_if_configured() {
    let node = Node::with(|o| o.calls.unknown_mailbox = twinbox_calls::UnknownMailbox::Apology).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("u1");
    dialog.target = "sip:9999@vm.example".into();
    establish(&mut raw, &mut dialog).await;
    // The apology is played, then the node hangs up.
    assert_eq!(raw.request().await.method.as_str(), "BYE");
    node.idle().await;
}

#[tokio::test]
async fn shutdown_ends_calls_with_bye() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("e1");
    establish(&mut raw, &mut dialog).await;
    let calls = node.calls.clone();
    let shutdown = tokio::spawn(async move { calls.shutdown().await });
    assert_eq!(raw.request().await.method.as_str(), "BYE");
    shutdown.await.unwrap();
    assert_eq!(node.calls.active(), 0);
}

#[tokio::test]
async fn fragmented_stream_is_read_and_a_broken_one_is_closed() {
    let node = Node::start().await;
    let mut raw = Raw::tcp(node.tcp).await;
    let mut dialog = raw.dialog("p1");
    let both = dialog.request("OPTIONS", "", "") + &dialog.request("OPTIONS", "", "");
    let (head, tail) = both.as_bytes().split_at(both.len() / 3);
    raw.send(head).await;
    raw.send(b"").await;
    raw.send(tail).await;
    assert_eq!((raw.response().await.headers.cseq(), raw.response().await.headers.cseq()), (1, 2));
    // Two lengths: the end of the message cannot be known.
    let twice =
        dialog.request("OPTIONS", "", "").replace("Content-Length: 0", "Content-Length: 0\r\nContent-Length: 5");
    assert_eq!(raw.ask(twice).await.code, 400);
    assert!(raw.next(kit::PATIENCE).await.is_none(), "the connection is closed");
    // Without a length and a body there is no doubt; with a body there is (RFC 3261 section 18.3).
    let mut raw = Raw::tcp(node.tcp).await;
    let unsaid = |text: String| text.replace("Content-Length: 0\r\n", "");
    assert_eq!(raw.ask(unsaid(dialog.request("OPTIONS", "", ""))).await.code, 200);
    assert_eq!(raw.ask(unsaid(dialog.request("OPTIONS", "", ""))).await.code, 200, "the connection is kept");
    let body = dialog.request("MESSAGE", "text/plain", "hello").replace("Content-Length: 5\r\n", "");
    assert_eq!(raw.ask(body).await.code, 400);
    assert!(raw.next(kit::PATIENCE).await.is_none(), "the connection is closed");
    // A header without an end is not collected without limit.
    let mut raw = Raw::tcp(node.tcp).await;
    let endless = format!("OPTIONS sip:x SIP/2.0\r\nX: {}", "y".repeat(40_000));
    raw.send(endless.as_bytes()).await;
    assert!(raw.next(kit::PATIENCE).await.is_none(), "the connection is closed");
}

/// RFC 3261 section 13.3.1.4.
#[tokio::test]
async fn call_whose_answer_is_never_acknowledged_ends() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("na1");
    assert_eq!(raw.ask(dialog.invite()).await.code, 200);
    node.pass(33).await;
    let bye = loop {
        match raw.next(kit::PATIENCE).await {
            Some(MessageVerdict::Request(request)) => break request,
            // A copy of the `200`.
            Some(MessageVerdict::Response(_)) => {}
            other => panic!("no BYE but {other:?}"),
        }
    };
    raw.send(&bye.respond(200).to_bytes()).await;
    assert_eq!(bye.headers.get("Reason"), Some("SIP;cause=408;text=\"No ACK\""));
    node.idle().await;
    assert_eq!(node.counter("calls_unacknowledged"), 1);
}

/// RFC 4028: a caller that stops refreshing has vanished.
#[tokio::test]
async fn session_without_refresh_by_the_caller_ends() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("se2").with("Supported: timer").with("Session-Expires: 90;refresher=uac");
    establish(&mut raw, &mut dialog).await;
    node.pass(40).await;
    assert_eq!(raw.ask(dialog.request("UPDATE", "", "")).await.code, 200);
    node.pass(40).await;
    assert_eq!(raw.ask(dialog.request("UPDATE", "", "")).await.code, 200, "still there");
    node.pass(61).await;
    let bye = raw.request().await;
    assert_eq!(bye.method.as_str(), "BYE");
    assert_eq!(bye.headers.get("Reason"), Some("SIP;cause=408;text=\"Session not refreshed\""));
    node.idle().await;
    assert_eq!(node.counter("callers_vanished"), 1);
}

/// A transfer by REFER: the PBX takes over the call, reports it, and hangs up.
#[tokio::test]
async fn completed_transfer_is_reported_by_notify_and_ended_by_the_pbx() {
    let node = Node::with(|o| o.calls.trunks[0].transfer = Some("sip:{number}@operators.example".to_owned())).await;
    let operator = twinbox_mailstore::MailboxChange::Operator(Some("100".to_owned()));
    node.mailstore.change(node.mailbox, operator).await.unwrap();
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("tr1");
    establish(&mut raw, &mut dialog).await;
    let zero = dialog.request("INFO", "application/dtmf", "0");
    assert_eq!(raw.ask(zero).await.code, 200);
    let Some(MessageVerdict::Request(refer)) = raw.next(kit::PATIENCE).await else { panic!("no REFER") };
    assert_eq!(refer.headers.get("Refer-To"), Some("<sip:100@operators.example>"));
    raw.send(&refer.respond(202).to_bytes()).await;
    let mut dialog = dialog.with("Event: refer").with("Subscription-State: active");
    for status in ["SIP/2.0 100 Trying", "SIP/2.0 200 OK"] {
        assert_eq!(raw.ask(dialog.request("NOTIFY", "message/sipfrag", status)).await.code, 200);
    }
    assert_eq!(node.counter("transfers"), 1);
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
}
