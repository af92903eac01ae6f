//! SDP, session timers, dialogs, summaries, digest, addresses: tables.

use std::net::IpAddr;

use twinbox_rtp::Codec;
use twinbox_sip::{
    Method, Request,
    addr::{self, NameAddr},
    dialog::Dialog,
    digest::{self, Credentials},
    identity::caller,
    mwi::Summary,
    sdp::{Direction, Local, Sdp, SdpError, in_body},
    session::{Refresher, Timer, TimerOutcome, TimerPolicy, negotiate},
    strict::{MessageVerdict, read},
    uri::{HostPort, Uri},
    via::{Via, received},
};

fn request(method: &str, headers: &[&str]) -> Request {
    let headers: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    let text = format!(
        "{method} sip:1001@vm SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nCall-ID: c\r\nCSeq: 7 {method}\r\n\
         To: <sip:1001@vm>\r\nContact: <sip:u%40x@192.0.2.1:5070;transport=udp>\r\n{headers}{}Content-Length: 0\r\n\r\n",
        if headers.contains("From:") { "" } else { "From: \"Alice\" <sip:2001@pbx>;tag=f\r\n" },
    );
    match read(text.as_bytes()) {
        MessageVerdict::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

fn local() -> Local {
    Local { address: IpAddr::from([198, 51, 100, 1]), port: 16_384, session: 42, version: 1 }
}

fn offer(media: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{media}")
}

#[test]
fn offer_is_answered_with_the_first_common_codec() {
    let cases = [
        ("m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n", Codec::Pcmu, 0, Some(101)),
        ("m=audio 4000 RTP/AVP 8 0\r\n", Codec::Pcma, 8, None),
        ("m=audio 4000 RTP/AVP 18 9 8 96\r\na=rtpmap:96 telephone-event/8000\r\n", Codec::Pcma, 8, Some(96)),
        ("m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 PCMA/8000/1\r\n", Codec::Pcma, 97, None),
        // A telephone-event with another clock rate belongs to another codec.
        (
            "m=audio 4000 RTP/AVP 0 100 101\r\na=rtpmap:100 telephone-event/48000\r\na=rtpmap:101 telephone-event/8000\r\n",
            Codec::Pcmu,
            0,
            Some(101),
        ),
        ("m=video 5000 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0\r\n", Codec::Pcmu, 0, None),
        ("m=audio 0 RTP/AVP 0\r\nm=audio 4000 RTP/AVP 8\r\n", Codec::Pcma, 8, None),
    ];
    for (media, codec, payload_type, dtmf) in cases {
        let sdp = Sdp::parse(offer(media).as_bytes()).unwrap();
        let (stream, answer) = sdp.answer(&local()).unwrap();
        assert_eq!((stream.codec, stream.payload_type, stream.dtmf), (codec, payload_type, dtmf), "{media}");
        assert_eq!(stream.remote, Some("192.0.2.1:4000".parse().unwrap()), "{media}");
        // The answer has as many streams as the offer, and the other side can parse it.
        let count = |t: &str| t.lines().filter(|l| l.starts_with("m=")).count();
        assert_eq!(count(&answer), count(media), "{media}");
        let seen = Sdp::parse(answer.as_bytes()).unwrap().audio().unwrap();
        assert_eq!((seen.codec, seen.payload_type, seen.dtmf), (codec, payload_type, dtmf), "{media}");
        assert_eq!(seen.remote, Some("198.51.100.1:16384".parse().unwrap()), "{media}");
    }
}

#[test]
fn an_offer_within_a_session_keeps_its_streams_and_payload_types() {
    let first = "m=video 5000 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 97 101 96\r\na=rtpmap:97 PCMA/8000\r\n\
                 a=rtpmap:101 opus/48000/2\r\na=rtpmap:96 telephone-event/8000\r\na=rtcp-mux\r\na=sendonly\r\n";
    let (_, answer) = Sdp::parse(offer(first).as_bytes()).unwrap().answer(&local()).unwrap();
    let again = local().offer_again(&answer);
    let media: Vec<_> = again.lines().filter(|line| line.starts_with("m=")).collect();
    assert_eq!(media, ["m=video 0 RTP/AVP 31", "m=audio 16384 RTP/AVP 97 0 96"], "{again}");
    for line in ["a=rtpmap:97 PCMA/8000", "a=rtpmap:96 telephone-event/8000", "a=sendrecv", "a=rtcp-mux"] {
        assert!(again.contains(line), "{line}: {again}");
    }
    // The usual number of events is that of a codec here.
    let taken = "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 PCMA/8000\r\n";
    let (_, answer) = Sdp::parse(offer(taken).as_bytes()).unwrap().answer(&local()).unwrap();
    let again = local().offer_again(&answer);
    assert!(again.contains("RTP/AVP 101 0\r\n") && !again.contains("telephone-event"), "{again}");
    // Nothing was described before.
    assert_eq!(local().offer_again(""), local().offer());
}

/// RFC 3264 section 6.1: who answers with a number of its own sends events with that of the offer.
#[test]
fn an_answer_keeps_what_the_offer_has() {
    let ours = local().offer();
    let answer = |more: &str| {
        let text = offer(&format!("m=audio 4000 RTP/AVP 8 {more}"));
        Sdp::parse(text.as_bytes()).unwrap().answers(&ours).unwrap()
    };
    let events = answer("96\r\na=rtpmap:96 telephone-event/8000\r\na=rtcp-mux\r\n");
    assert_eq!((events.dtmf, events.own_dtmf, events.rtcp_mux), (Some(96), Some(101), false));
    assert_eq!(answer("\r\n").own_dtmf, None);
    // A refresh repeats an answer to an offer with rtcp-mux.
    let shared = "m=audio 4000 RTP/AVP 8\r\na=rtcp-mux\r\n";
    let theirs = Sdp::parse(offer(shared).as_bytes()).unwrap();
    let (stream, described) = theirs.answer(&local()).unwrap();
    assert_eq!(theirs.answers(&described), Ok(stream));
}

#[test]
fn offers_without_a_common_audio_stream_are_refused_by_name() {
    let cases = [
        ("", SdpError::NoAudio),
        ("m=video 5000 RTP/AVP 31\r\n", SdpError::NoAudio),
        ("m=audio 4000 RTP/SAVP 0\r\n", SdpError::NoAudio),
        ("m=audio 0 RTP/AVP 0\r\n", SdpError::NoAudio),
        ("m=audio 4000 RTP/AVP 18 9\r\na=rtpmap:18 G729/8000\r\n", SdpError::NoCommonCodec),
        ("m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 G729/8000\r\n", SdpError::NoCommonCodec),
        ("m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n", SdpError::NoCommonCodec),
    ];
    for (media, error) in cases {
        assert_eq!(Sdp::parse(offer(media).as_bytes()).unwrap().audio(), Err(error), "{media}");
    }
    for text in ["", "hello", "m=audio 1 RTP/AVP 0\r\n", "v=0\r\nm=audio x RTP/AVP 0\r\n", "v=0\r\nm=audio\r\n"] {
        assert_eq!(Sdp::parse(text.as_bytes()), Err(SdpError::Unreadable), "{text}");
    }
}

#[test]
fn both_sides_have_addresses_of_one_ip_version() {
    let described = |address: &str| {
        let family = if address.contains(':') { "IP6" } else { "IP4" };
        format!("v=0\r\nc=IN {family} {address}\r\nm=audio 4000 RTP/AVP 0\r\n")
    };
    let cases = [
        ("192.0.2.1", "198.51.100.7", true),
        ("2001:db8::1", "2001:db8::2", true),
        ("192.0.2.1", "::ffff:198.51.100.7", true),
        ("192.0.2.1", "2001:db8::2", false),
        ("2001:db8::1", "198.51.100.7", false),
        ("192.0.2.1", "::", true),
        ("2001:db8::1", "0.0.0.0", true),
    ];
    for (own, peer, fits) in cases {
        let local = Local { address: own.parse().unwrap(), ..local() };
        let theirs = Sdp::parse(described(peer).as_bytes()).unwrap();
        let (answered, taken) = (theirs.answer(&local), theirs.answers(&local.offer()));
        assert_eq!((answered.is_ok(), taken.is_ok()), (fits, fits), "{own} {peer}");
        if !fits {
            assert_eq!((answered.err(), taken.err()), (Some(SdpError::IpVersion), Some(SdpError::IpVersion)));
        }
    }
}

#[test]
fn all_forms_of_hold_are_answered_with_the_reverse_direction() {
    let cases = [
        ("", Direction::SendRecv, "a=sendrecv"),
        ("a=sendonly\r\n", Direction::SendOnly, "a=recvonly"),
        ("a=recvonly\r\n", Direction::RecvOnly, "a=sendonly"),
        ("a=inactive\r\n", Direction::Inactive, "a=inactive"),
        ("c=IN IP4 0.0.0.0\r\n", Direction::SendOnly, "a=recvonly"),
        ("c=IN IP4 0.0.0.0\r\na=inactive\r\n", Direction::Inactive, "a=inactive"),
    ];
    for (lines, direction, answered) in cases {
        let sdp = Sdp::parse(offer(&format!("m=audio 4000 RTP/AVP 0\r\n{lines}")).as_bytes()).unwrap();
        let (stream, answer) = sdp.answer(&local()).unwrap();
        assert_eq!(stream.direction, direction, "{lines}");
        assert!(answer.contains(answered), "{lines}: {answer}");
    }
    // The direction also applies from the session level, unless the stream overrides it.
    let text = "v=0\r\nc=IN IP4 192.0.2.1\r\na=inactive\r\nm=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n";
    assert_eq!(Sdp::parse(text.as_bytes()).unwrap().audio().unwrap().direction, Direction::SendRecv);
    // A host name is not resolved: the first packet shows the address.
    let text = "v=0\r\nc=IN IP4 phone.example\r\nm=audio 4000 RTP/AVP 0\r\n";
    assert_eq!(Sdp::parse(text.as_bytes()).unwrap().audio().unwrap().remote, None);
}

#[test]
fn rtcp_uses_the_offered_address_and_multiplexing() {
    let port = |text: &str| Some(text.parse::<std::net::SocketAddr>().unwrap());
    for (lines, rtcp, mux) in [
        ("", None, false),
        ("a=rtcp:4009\r\n", port("192.0.2.1:4009"), false),
        ("a=rtcp:4009 IN IP4 192.0.2.9\r\n", port("192.0.2.9:4009"), false),
        ("a=rtcp-mux\r\na=rtcp:4000\r\n", port("192.0.2.1:4000"), true),
        ("a=rtcp:4009 IN IP4 phone.example\r\n", None, false),
        ("a=rtcp:4009 IN IP4 0.0.0.0\r\n", None, false),
        ("a=rtcp:0\r\na=rtcp:x\r\na=rtcp:\r\na=rtcp-muxed\r\n", None, false),
    ] {
        let sdp = Sdp::parse(offer(&format!("m=audio 4000 RTP/AVP 0\r\n{lines}")).as_bytes()).unwrap();
        let (stream, answer) = sdp.answer(&local()).unwrap();
        assert_eq!((stream.rtcp, stream.rtcp_mux), (rtcp, mux), "{lines}");
        assert_eq!(answer.contains("a=rtcp-mux\r\n"), mux, "{lines}: {answer}");
        // A local offer never has rtcp-mux, so no answer can have accepted it.
        assert!(!sdp.audio().unwrap().rtcp_mux && !local().offer().contains("rtcp"), "{lines}");
    }
}

#[test]
fn our_offer_has_both_codecs_and_digits() {
    let text = local().offer();
    assert!(text.contains("o=twinbox 42 1 IN IP4 198.51.100.1\r\n"), "{text}");
    assert!(text.contains("m=audio 16384 RTP/AVP 0 8 101\r\n"), "{text}");
    assert!(text.contains("a=rtpmap:101 telephone-event/8000\r\n"), "{text}");
}

#[test]
fn description_is_found_in_a_multipart_body() {
    let body = b"--b\r\nContent-Type: application/isup\r\n\r\nxx\r\n--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--\r\n";
    assert_eq!(in_body("multipart/mixed;boundary=b", body), Some(&b"v=0\r\n"[..]));
    assert_eq!(in_body("multipart/mixed;boundary=\"b\"", body), Some(&b"v=0\r\n"[..]));
    assert_eq!(in_body("application/SDP; charset=utf-8", b"v=0"), Some(&b"v=0"[..]));
    for (kind, body) in [
        ("multipart/mixed", &body[..]),
        ("multipart/mixed;boundary=", body),
        ("multipart/mixed;boundary=zz", body),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0"),
        ("text/plain", b"v=0"),
    ] {
        assert_eq!(in_body(kind, body), None, "{kind}");
    }
}

#[test]
fn session_timers_follow_rfc_4028() {
    let policy = TimerPolicy { interval: 1800, min_se: 90 };
    let cases: [(&[&str], TimerOutcome); 7] = [
        (&[], TimerOutcome::None),
        (&["Supported: timer"], timer(1800, Refresher::Us, true)),
        (&["Supported: timer", "Min-SE: 3600"], timer(3600, Refresher::Us, true)),
        (&["Supported: timer", "Session-Expires: 600"], timer(600, Refresher::Caller, true)),
        (&["Supported: timer", "Session-Expires: 600;refresher=uas"], timer(600, Refresher::Us, true)),
        (&["Supported: timer", "Session-Expires: 60"], TimerOutcome::TooSmall(90)),
        // A proxy requested the timer and the caller does not support it: this side refreshes, without a 422.
        (&["Session-Expires: 60"], timer(90, Refresher::Us, false)),
    ];
    for (headers, expected) in cases {
        assert_eq!(negotiate(&request("INVITE", headers), policy), expected, "{headers:?}");
    }
}

fn timer(interval: u32, refresher: Refresher, required: bool) -> TimerOutcome {
    TimerOutcome::Timer(twinbox_sip::session::Timer { interval, refresher, required })
}

#[test]
fn a_dialog_sends_to_the_contact_as_it_was_written_through_the_recorded_route() {
    let invite = request("INVITE", &["Record-Route: <sip:p1.example;lr>, <sip:p2.example;lr>"]);
    let mut dialog = Dialog::accept(&invite, "ours").unwrap();
    let bye = dialog.request(Method::Bye);
    assert_eq!(bye.uri, "sip:u%40x@192.0.2.1:5070;transport=udp");
    assert_eq!(bye.headers.all("Route").collect::<Vec<_>>(), ["<sip:p1.example;lr>", "<sip:p2.example;lr>"]);
    assert_eq!(dialog.next_hop(), "sip:p1.example;lr");
    assert_eq!(bye.headers.get("From"), Some("<sip:1001@vm>;tag=ours"));
    assert_eq!(bye.headers.get("To"), Some("\"Alice\" <sip:2001@pbx>;tag=f"));
    assert_eq!(bye.headers.get("CSeq"), Some("1 BYE"));
    assert_eq!(dialog.request(Method::Notify).headers.cseq(), 2);
    // A strict router becomes the Request-URI.
    let invite = request("INVITE", &["Record-Route: <sip:old.example>, <sip:p2.example;lr>"]);
    let bye = Dialog::accept(&invite, "ours").unwrap().request(Method::Bye);
    assert_eq!(bye.uri, "sip:old.example");
    assert_eq!(
        bye.headers.all("Route").collect::<Vec<_>>(),
        ["<sip:p2.example;lr>", "<sip:u%40x@192.0.2.1:5070;transport=udp>"]
    );
}

#[test]
fn a_dialog_takes_no_old_request_and_follows_a_moved_contact() {
    let mut dialog = Dialog::accept(&request("INVITE", &[]), "ours").unwrap();
    assert!(!dialog.received(&request("INFO", &[])), "the number of the INVITE again");
    let mut update = request("UPDATE", &[]);
    update.headers.set("CSeq", "8 UPDATE");
    update.headers.set("Contact", "<sip:2001@192.0.2.99>");
    assert!(dialog.received(&update));
    dialog.retarget(&update.method, &update.headers, true);
    assert_eq!(dialog.request(Method::Bye).uri, "sip:2001@192.0.2.99");
    // An untrusted sender cannot redirect requests to another host.
    for (contact, method, target) in [
        ("<sip:2001@192.0.2.66>", Method::Update, "sip:2001@192.0.2.99"),
        ("<sip:2001@192.0.2.99:5080>", Method::Info, "sip:2001@192.0.2.99"),
        ("<sip:2001@192.0.2.99:5080>", Method::Update, "sip:2001@192.0.2.99:5080"),
    ] {
        update.headers.set("Contact", contact);
        dialog.retarget(&method, &update.headers, false);
        assert_eq!(dialog.remote_target, target);
    }
    let stored: Dialog = postcard::from_bytes(&postcard::to_stdvec(&dialog).unwrap()).unwrap();
    assert!(stored == dialog, "a dialog goes on elsewhere");
}

#[test]
fn the_ack_of_our_invite_has_its_number_and_its_credentials() {
    let mut dialog = Dialog::accept(&request("INVITE", &["Record-Route: <sip:p.example;lr>"]), "ours").unwrap();
    let mut invite = dialog.request(Method::Invite);
    invite.headers.push("Proxy-Authorization", "Digest response=\"x\"");
    dialog.request(Method::Bye);
    let ack = dialog.acknowledge(&invite);
    assert_eq!((ack.method.as_str(), ack.headers.get("CSeq")), ("ACK", Some("1 ACK")));
    for name in ["Route", "From", "To", "Call-ID", "Proxy-Authorization"] {
        assert_eq!(ack.headers.get(name), invite.headers.get(name), "{name}");
    }
    assert_eq!(dialog.request(Method::Bye).headers.cseq(), 3, "an ACK takes no number");
}

#[test]
fn the_answer_to_a_refresh_of_ours_may_change_the_session_timer() {
    let ours = Timer { interval: 600, refresher: Refresher::Us, required: true };
    let confirmed = |value: Option<&str>| {
        let response = request("UPDATE", &[]).respond(200);
        let timer = ours.confirmed(&match value {
            Some(value) => response.with("Session-Expires", value),
            None => response,
        });
        (timer.interval, timer.refresher)
    };
    assert_eq!(confirmed(None), (600, Refresher::Us));
    assert_eq!(confirmed(Some("300")), (300, Refresher::Us));
    assert_eq!(confirmed(Some("300;refresher=UAS")), (300, Refresher::Caller));
    assert_eq!(confirmed(Some("1;refresher=uac")), (90, Refresher::Us), "never less than RFC 4028 allows");
    let lengthened = |min: &str| ours.lengthened(&request("UPDATE", &[]).respond(422).with("Min-SE", min));
    assert_eq!(lengthened("900").map(|t| t.interval), Some(900));
    assert_eq!((lengthened("600"), lengthened("x")), (None, None));
    assert_eq!(ours.last(), 568);
}

#[test]
fn message_summaries_are_written_and_read() {
    let summary = Summary { account: Some("sip:1001@vm".into()), new: 2, old: 8 };
    let body = summary.body();
    assert_eq!(body, "Messages-Waiting: yes\r\nMessage-Account: sip:1001@vm\r\nVoice-Message: 2/8 (0/0)\r\n");
    assert_eq!(Summary::parse(&body), Some(summary));
    assert_eq!(Summary::default().body(), "Messages-Waiting: no\r\nVoice-Message: 0/0 (0/0)\r\n");
    assert_eq!(Summary::parse("Messages-Waiting: yes\r\n").map(|s| s.new), Some(1));
    for body in ["", "hello", "Voice-Message: 1/2\r\n", "Messages-Waiting: yes\r\nVoice-Message: x/y\r\n"] {
        assert_eq!(Summary::parse(body), None, "{body:?}");
    }
}

#[test]
fn caller_is_taken_from_the_asserted_identity_of_the_trunk() {
    let number = |headers: &[&str]| caller(&request("INVITE", headers)).number.map(|n| n.into_revealed());
    assert_eq!(number(&[]).as_deref(), Some("2001"));
    assert_eq!(number(&["P-Asserted-Identity: \"Bob\" <sip:3001@pbx>"]).as_deref(), Some("3001"));
    assert_eq!(number(&["P-Asserted-Identity: <tel:+1-555-0100>"]).as_deref(), Some("+15550100"));
    assert_eq!(number(&["P-Asserted-Identity: <sip:pbx>"]).as_deref(), Some("2001"), "names nobody: From counts");
    assert_eq!(number(&["Privacy: id", "P-Asserted-Identity: <sip:3001@pbx>"]), None);
    assert_eq!(number(&["From: \"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=f"]), None);
    let found = caller(&request("INVITE", &["P-Asserted-Identity: \"Bob \\\"B\\\" Doe\" <sip:3001@pbx>"]));
    assert_eq!(found.name.map(|n| n.into_revealed()).as_deref(), Some("Bob \"B\" Doe"));
}

/// Parameter `response` of the request's answer to a challenge.
fn digest_response(request: &twinbox_sip::Request) -> &str {
    let value = request.headers.get("Authorization").expect("an Authorization header");
    value.split_once("response=\"").and_then(|(_, rest)| rest.split_once('"')).expect("a response").0
}

/// The examples of RFC 2617 section 3.5 and RFC 7616 section 3.9.1. The RFCs have no example without qop or for
/// `-sess`: those values were computed with Python's hashlib.
#[test]
fn digests_match_the_rfc_examples() {
    let rfc2617 = "realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
    let rfc7616 = "realm=\"http-auth@example.org\", nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", qop=\"auth, auth-int\"";
    let (short, long) = ("0a4f113b", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ");
    for (challenge, password, cnonce, expected) in [
        (format!("{rfc2617}, qop=auth"), "Circle Of Life", short, "6629fae49393a05397450978507c4ef1"),
        (rfc2617.to_owned(), "Circle Of Life", short, "670fd8c2df070c60b045671b8b24ff02"),
        (format!("{rfc7616}, algorithm=MD5"), "Circle of Life", long, "8ca523f5e9506fed4657c9700eebdbec"),
        (format!("{rfc7616}, algorithm=MD5-sess"), "Circle of Life", long, "e783283f46242139c486a698fec7211d"),
        (
            format!("{rfc7616}, algorithm=SHA-256"),
            "Circle of Life",
            long,
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        (
            format!("{rfc7616}, algorithm=sha-256-SESS"),
            "Circle of Life",
            long,
            "2fd51b3a77ad75bad6afad6003e818d767133c46d9e2749e7f5232ae1ea3efd7",
        ),
    ] {
        let mut get = request("NOTIFY", &[]);
        get.method = Method::parse("GET");
        get.uri = "/dir/index.html".to_owned();
        let asked = get.respond(401).with("WWW-Authenticate", format!("Digest {challenge}"));
        let credentials = Credentials { username: "Mufasa".into(), password: password.to_owned().into() };
        assert!(digest::answer(&mut get, &asked, &credentials, cnonce), "{challenge}");
        assert_eq!(digest_response(&get), expected, "{challenge}");
    }
}

#[test]
fn challenge_is_answered_once_with_the_strongest_common_hash() {
    let credentials = Credentials { username: "vm".into(), password: "s3cret".to_owned().into() };
    for (code, asks, answers) in
        [(401, "WWW-Authenticate", "Authorization"), (407, "Proxy-Authenticate", "Proxy-Authorization")]
    {
        let mut notify = request("NOTIFY", &[]);
        let offers = |algorithm: &str| {
            format!("Digest realm=\"p\\\"bx\", nonce=\"n1\", algorithm={algorithm}, qop=\"auth\", opaque=\"o\"")
        };
        let challenge = notify
            .respond(code)
            .with(asks, offers("SHA-512-256"))
            .with(asks, offers("SHA-256"))
            .with(asks, offers("MD5"));
        assert!(digest::answer(&mut notify, &challenge, &credentials, "cn"));
        let value = notify.headers.get(answers).unwrap();
        for part in [
            "username=\"vm\"",
            "realm=\"p\\\"bx\"",
            "algorithm=SHA-256,",
            "qop=auth, nc=00000001, cnonce=\"cn\", opaque=\"o\"",
        ] {
            assert!(value.contains(part), "{part} in {value}");
        }
        assert!(!digest::answer(&mut notify, &challenge, &credentials, "cn"), "a second challenge: wrong password");
    }
    for unknown in ["algorithm=ROT13", "algorithm=MD5-sess", "qop=\"auth-int\""] {
        let mut notify = request("NOTIFY", &[]);
        let strange = format!("Digest realm=\"pbx\", nonce=\"n\", {unknown}");
        let challenge = notify.respond(401).with("WWW-Authenticate", strange);
        assert!(!digest::answer(&mut notify, &challenge, &credentials, "cn"), "{unknown}");
    }
}

#[test]
fn responses_follow_rfc_3581() {
    let source = "203.0.113.9:40000".parse().unwrap();
    let cases = [
        ("SIP/2.0/UDP 10.0.0.1:5066;branch=z9hG4bKa", "203.0.113.9:5066", ";received=203.0.113.9"),
        ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa", "203.0.113.9:5060", ";received=203.0.113.9"),
        ("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKa", "203.0.113.9:40000", ";rport=40000"),
        ("SIP/2.0/UDP 203.0.113.9:40000;branch=z9hG4bKa", "203.0.113.9:40000", "branch=z9hG4bKa"),
        ("SIP / 2.0 / UDP 10.0.0.1:5066 ;branch=z9hG4bKa;maddr=192.0.2.66", "203.0.113.9:5066", "maddr=192.0.2.66"),
    ];
    for (via, to, contains) in cases {
        assert_eq!(Via::parse(via).unwrap().reply_to(source), to.parse().unwrap(), "{via}");
        let line = received(&format!("{via}, SIP/2.0/TCP next.example;branch=z9hG4bKb"), source);
        assert!(line.contains(contains), "{line}");
        assert!(line.ends_with(", SIP/2.0/TCP next.example;branch=z9hG4bKb"), "{line}");
        assert_eq!(Via::parse(addr::split_list(&line).next().unwrap()).unwrap().branch(), Some("z9hG4bKa"));
    }
}

#[test]
fn uris_and_addresses_are_parsed_unchanged() {
    let uri =
        Uri::parse("sip:+1555;phone-context=x:pw@[2001:db8::1]:5070;transport=tcp;twinbox?Subject=a").unwrap();
    assert_eq!((uri.user, uri.host, uri.port), (Some("+1555;phone-context=x"), "2001:db8::1", Some(5070)));
    assert_eq!((uri.param("TRANSPORT"), uri.param("twinbox"), uri.param("lr")), (Some("tcp"), Some(""), None));
    for bad in
        ["", "sip:", "sip:@host", "sip:a@", "sip:a b@c", "1001", "sip:a@host:99999", "sip:a@host:", "sip:a@[::1"]
    {
        assert!(Uri::parse(bad).is_none(), "{bad:?}");
    }
    for bad in ["", ":5060", "a:b:c", "[::1]x", "host:0"] {
        assert!(HostPort::parse(bad).is_none(), "{bad:?}");
    }
    let address = NameAddr::parse("\"Doe, \\\"J\\\"\" <sip:a@b;x=1>;tag=t;q=\"a;b\"").unwrap();
    assert_eq!(address.display.as_deref(), Some("Doe, \"J\""));
    assert_eq!((address.uri, address.param("tag"), address.param("x")), ("sip:a@b;x=1", Some(Some("t")), None));
    // Without angle brackets the parameters belong to the header.
    let address = NameAddr::parse("sip:a@b;tag=t").unwrap();
    assert_eq!((address.uri, address.param("tag")), ("sip:a@b", Some(Some("t"))));
    assert_eq!(
        addr::split_list("\"a,b\" <sip:x,y@z>, c,,d").collect::<Vec<_>>(),
        ["\"a,b\" <sip:x,y@z>", "c", "d"]
    );
}
