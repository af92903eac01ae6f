//! Signalling on real sockets with raw messages: accepted requests, and refusals.

mod kit;

use std::time::Duration;

use kit::{Node, Raw, establish, hang_up, offer, pass, trunk};
use twinbox_sip::{sdp::Sdp, strict::Verdict};

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
async fn strangers_get_403_and_are_counted() {
    let node = Node::with(|o| o.calls.trunks = vec![trunk("elsewhere", "192.0.2.0/24")]).await;
    for method in ["INVITE", "OPTIONS", "SUBSCRIBE"] {
        // Over a connection a stranger gets one answer.
        for mut raw in [node.raw().await, Raw::tcp(node.tcp).await] {
            let text = raw.dialog("s1").request(method, "", "");
            assert_eq!(raw.ask(text).await.code, 403);
        }
    }
    assert_eq!(node.counter("strangers"), 6);
    // A flood is not answered without limit: the node must not be a reflector.
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("s2");
    for _ in 0..400 {
        let text = dialog.request("OPTIONS", "", "");
        raw.send(text.as_bytes()).await;
    }
    let mut answers = 0;
    while raw.next(Duration::from_millis(300)).await.is_some() {
        answers += 1;
    }
    assert!(answers < 200, "{answers} of 400 were answered");
    assert!(node.counter("strangers_unanswered") >= 200);
}

/// Rule C3: members probe a silent node, and need not be in its trunk list.
#[tokio::test]
async fn probe_of_this_incarnation_is_answered_with_the_node_name_despite_strangers() {
    let stranger = Node::with(|o| o.calls.trunks = vec![trunk("elsewhere", "192.0.2.0/24")]).await;
    let asks = |raw: &Raw, name: &str, incarnation: &str| {
        let mut dialog = raw.dialog("m");
        dialog.target = format!("sip:vm.example;twinbox-node={name};twinbox-incarnation={incarnation}");
        dialog.request("OPTIONS", "", "")
    };
    for (node, code) in [(&stranger, 403), (&Node::start().await, 200)] {
        let (incarnation, mut raw) = (node.incarnation.to_string(), node.raw().await);
        for (name, incarnation) in
            [("a", incarnation.as_str()), ("a", "0123456789abcdef0123456789abcdef"), ("b", &incarnation)]
        {
            let answer = raw.ask(asks(&raw, name, incarnation)).await;
            assert_eq!(
                (answer.code, answer.headers.get("Server")),
                (code, Some("twinbox-node/a")),
                "{name} {incarnation}"
            );
        }
        let plain = raw.dialog("p").request("OPTIONS", "", "");
        assert_eq!(
            raw.ask(plain).await.headers.get("Server"),
            None,
            "only a probe that names a node gets its name"
        );
    }
    assert_eq!((stranger.counter("members_asked"), stranger.counter("strangers")), (1, 3));
    let (mut flood, mut raw) = (stranger.raw().await, stranger.raw().await);
    let mut dialog = flood.dialog("f");
    for _ in 0..400 {
        let text = dialog.request("OPTIONS", "", "");
        flood.send(text.as_bytes()).await;
    }
    let asked = asks(&raw, "a", &stranger.incarnation.to_string());
    assert_eq!(raw.ask(asked).await.code, 403);
    assert!(stranger.counter("strangers_unanswered") > 0, "it was no flood");
}

#[tokio::test]
async fn unsupported_requests_are_refused_with_the_specific_status() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let fresh = |raw: &Raw, n: usize| raw.dialog(&format!("r{n}"));
    let sdp = "application/sdp";
    let video = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 31\r\n";
    let g729 = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 18\r\n";
    let mut n = 0;
    let mut next = |raw: &Raw| {
        n += 1;
        fresh(raw, n)
    };
    // (request, code, required header, its content)
    let cases: Vec<(String, u16, &str, &str)> = vec![
        (next(&raw).request("OPTIONS", "", ""), 200, "Allow", "INVITE"),
        (next(&raw).request("DANCE", "", ""), 501, "Allow", "INVITE"),
        (next(&raw).request("REGISTER", "", ""), 405, "Allow", "INVITE"),
        (next(&raw).request("MESSAGE", "text/plain", "hello"), 405, "Allow", "INVITE"),
        (next(&raw).request("BYE", "", ""), 481, "Call-ID", ""),
        (next(&raw).request("NOTIFY", "", ""), 481, "Call-ID", ""),
        (next(&raw).with("Require: timer, foo, 100rel").invite(), 420, "Unsupported", "foo, 100rel"),
        (next(&raw).request("INVITE", sdp, video), 488, "Warning", "no audio"),
        (next(&raw).request("INVITE", sdp, g729), 488, "Warning", "PCMU"),
        (next(&raw).request("INVITE", sdp, "hello"), 400, "Warning", "no session description"),
        (next(&raw).request("INVITE", "text/plain", "hello"), 415, "Accept", sdp),
        (next(&raw).with("Content-Encoding: gzip").invite(), 415, "Accept-Encoding", "identity"),
        (next(&raw).with("Supported: timer").with("Session-Expires: 30").invite(), 422, "Min-SE", "90"),
        (next(&raw).invite().replace("sip:1001@", "sip:9999@"), 404, "Call-ID", ""),
        (
            next(&raw).invite().replace("INVITE sip:1001@vm.example", "INVITE http://vm.example/"),
            416,
            "Call-ID",
            "",
        ),
        (next(&raw).invite().replace(" SIP/2.0\r\n", " SIP/3.0\r\n"), 505, "Call-ID", ""),
        (next(&raw).invite().replace("Contact: ", "X: "), 400, "Via", ""),
        (next(&raw).invite().replace("Max-Forwards: ", "Max-Forwards : "), 400, "Via", ""),
        (next(&raw).invite().replace("CSeq: 1 INVITE", "CSeq: 1 BYE"), 400, "Call-ID", ""),
    ];
    for (text, code, header, contains) in cases {
        let response = raw.ask(text.clone()).await;
        assert_eq!(response.code, code, "to {text}");
        let value = response.headers.get(header).unwrap_or_else(|| panic!("no {header} in the {code} to {text}"));
        assert!(value.contains(contains), "{header}: {value}");
        assert!(response.headers.tag("To").is_some(), "no To tag in the {code}");
        if (300..).contains(&code) && text.starts_with("INVITE") && code != 505 {
            let ack = text.replace("INVITE", "ACK");
            raw.send(ack.as_bytes()).await;
        }
    }
    node.idle().await;
    assert_eq!(node.counter("calls_answered"), 0);
}

/// Rule C4: the dialog of another incarnation, or of another node, may yet be taken over.
#[tokio::test]
async fn request_for_a_dialog_of_another_incarnation_gets_500() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("o1");
    establish(&mut raw, &mut dialog).await;
    let mut stray = dialog.clone();
    stray.to_tag = Some("unknown".into());
    assert_eq!(raw.ask(stray.request("BYE", "", "")).await.code, 481, "this incarnation knows all its dialogs");
    stray.target = stray.target.replace(&node.incarnation.to_string(), "0123456789abcdef0123456789abcdef");
    let put_off = raw.ask(stray.request("BYE", "", "")).await;
    assert_eq!(put_off.code, 500);
    assert!(put_off.headers.get("Retry-After").is_some());
    stray.target = dialog.target.replace("twinbox-node=a", "twinbox-node=b");
    assert_eq!(raw.ask(stray.request("BYE", "", "")).await.code, 500);
    hang_up(&mut raw, &mut dialog).await;
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
        (&["Supported: timer"], Some("1800;refresher=uac")),
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
async fn draining_and_full_nodes_refuse_options_and_calls() {
    let node = Node::with(|o| o.calls.max_calls = 1).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("f1");
    establish(&mut raw, &mut dialog).await;
    let mut other = raw.dialog("f2");
    let refused = raw.ask(other.invite()).await;
    assert_eq!((refused.code, node.counter("refused_busy")), (503, 1));
    assert!(refused.headers.get("Retry-After").is_some());
    assert_eq!(raw.ask(other.request("OPTIONS", "", "")).await.code, 503);
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
    assert_eq!(raw.ask(other.request("OPTIONS", "", "")).await.code, 200);
    node.calls.drain();
    assert_eq!(raw.ask(other.request("OPTIONS", "", "")).await.code, 503);
    assert_eq!(raw.ask(other.invite()).await.code, 503);
    assert_eq!(node.counter("refused_draining"), 1);
    node.calls.undrain();
    establish(&mut raw, &mut other).await;
    hang_up(&mut raw, &mut other).await;
}

/// Rule D13: the node does not deny a mailbox or message before it has all records.
#[tokio::test]
async fn node_without_all_records_answers_503_until_they_arrive() {
    let node = Node::with(|o| o.fills = true).await;
    let refused = |response: &twinbox_sip::Response| {
        assert!(response.headers.get("Retry-After").is_some());
        response.code
    };
    for number in ["1001", "1002", "*97", "*98"] {
        let mut raw = node.raw().await;
        let mut dialog = raw.dialog(&format!("fills-{number}"));
        dialog.target = format!("sip:{number}@vm.example");
        assert_eq!(refused(&raw.ask(dialog.invite()).await), 503, "{number}");
        assert_eq!(refused(&raw.ask(dialog.request("OPTIONS", "", "")).await), 503, "{number}");
        let mut dialog = dialog.with("Event: message-summary");
        assert_eq!(refused(&raw.ask(dialog.request("SUBSCRIBE", "", "")).await), 503, "{number}");
    }
    // No other node serves: messages are taken for the mailboxes that are here; other requests get 503.
    node.calls.set_sole(true);
    for (number, code) in [("1001", 200), ("1002", 503), ("*97", 503), ("*98", 503)] {
        let mut raw = node.raw().await;
        let mut dialog = raw.dialog(&format!("sole-{number}"));
        dialog.target = format!("sip:{number}@vm.example");
        let answer = raw.ask(dialog.invite()).await;
        assert_eq!(answer.code, code, "{number}");
        if code == 200 {
            let ack = dialog.answered(&answer);
            raw.send(ack.as_bytes()).await;
            hang_up(&mut raw, &mut dialog).await;
        } else {
            refused(&answer);
        }
    }
    node.store.set_filled(twinbox_replication_store::Filled::Records).await.unwrap();
    for (number, code) in [("1001", 200), ("1002", 404)] {
        let mut raw = node.raw().await;
        let mut dialog = raw.dialog(&format!("all-{number}"));
        dialog.target = format!("sip:{number}@vm.example");
        let answer = raw.ask(dialog.invite()).await;
        assert_eq!(answer.code, code, "{number}");
        if code == 200 {
            let ack = dialog.answered(&answer);
            raw.send(ack.as_bytes()).await;
            hang_up(&mut raw, &mut dialog).await;
        }
    }
}

/// Rule A3: an administrator may prefer no message to one on a single disk.
#[tokio::test]
async fn with_require_two_and_no_peer_only_message_calls_are_refused() {
    let node = Node::with(|o| o.require_two = true).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("a1");
    assert_eq!((raw.ask(dialog.invite()).await.code, node.counter("refused_alone")), (503, 1));
    let mut owner = raw.dialog("a2");
    owner.target = "sip:*97@vm.example".into();
    establish(&mut raw, &mut owner).await;
    hang_up(&mut raw, &mut owner).await;
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

/// RFC 4028: a caller that stops refreshing has vanished.
#[tokio::test]
async fn session_without_refresh_by_the_caller_ends() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("se2").with("Supported: timer").with("Session-Expires: 90;refresher=uac");
    establish(&mut raw, &mut dialog).await;
    pass(40).await;
    assert_eq!(raw.ask(dialog.request("UPDATE", "", "")).await.code, 200);
    pass(40).await;
    assert_eq!(raw.ask(dialog.request("UPDATE", "", "")).await.code, 200, "still there");
    pass(61).await;
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
    let Some(Verdict::Request(refer)) = raw.next(kit::PATIENCE).await else { panic!("no REFER") };
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

/// Rule A4: no message could be stored. Calls in progress end normally.
#[tokio::test]
async fn node_with_a_broken_store_refuses_calls_and_options() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut before = raw.dialog("before");
    establish(&mut raw, &mut before).await;
    node.store.mark_broken("a sync failed");
    for (n, user) in ["1001", "*97"].iter().enumerate() {
        let mut dialog = raw.dialog(&format!("later{n}"));
        dialog.target = format!("sip:{user}@vm.example");
        for request in [dialog.invite(), dialog.request("OPTIONS", "", "")] {
            let refused = raw.ask(request).await;
            assert_eq!((refused.code, refused.headers.get("Retry-After")), (503, Some("30")), "{user}");
        }
    }
    assert_eq!(node.counter("refused_store"), 2);
    hang_up(&mut raw, &mut before).await;
}
