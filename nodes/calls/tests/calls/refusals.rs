//! Requests that the node refuses, with raw messages on real sockets.

use std::time::Duration;

use twinbox_mailstore::LiveSettings;

use crate::kit::{Node, Raw, establish, hang_up, trunk};

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
    let ipv6 = "v=0\r\nc=IN IP6 2001:db8::1\r\nm=audio 9 RTP/AVP 0\r\n";
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
        (next(&raw).request("INVITE", sdp, g729), 488, "Warning", "305 twinbox \"neither PCMU"),
        (next(&raw).request("INVITE", sdp, ipv6), 488, "Warning", "301 twinbox \"the audio is at"),
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
    // A subscription is not taken over: its telephone begins a new one.
    assert_eq!(raw.ask(stray.request("SUBSCRIBE", "", "")).await.code, 481);
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
    // This may turn out to be a message.
    let mapped = "History-Info: <sip:1001@pbx.example>;index=1, <sip:*97@vm.example>;index=1.1;mp=1";
    let mut mapped = raw.dialog("a5").with(mapped);
    mapped.target = "sip:*97@vm.example".into();
    assert_eq!((raw.ask(mapped.invite()).await.code, node.counter("refused_alone")), (503, 2));
    let mut owner = raw.dialog("a2");
    owner.target = "sip:*97@vm.example".into();
    establish(&mut raw, &mut owner).await;
    hang_up(&mut raw, &mut owner).await;
    // The administrator changes it under a call: new calls are answered, then refused again, and the call goes on.
    let live = |require_two| LiveSettings { require_two, ..LiveSettings::clone(&node.mailstore.live()) };
    node.mailstore.set_live(live(false));
    let mut under = raw.dialog("a3");
    establish(&mut raw, &mut under).await;
    node.mailstore.set_live(live(true));
    let mut refused = raw.dialog("a4");
    assert_eq!((raw.ask(refused.invite()).await.code, node.counter("refused_alone")), (503, 3));
    hang_up(&mut raw, &mut under).await;
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
