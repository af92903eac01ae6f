//! Verdicts of the parser on `tests/torture`; no input makes it panic.

use std::{fs, path::Path};

use proptest::prelude::*;
use twinbox_sip::{
    framing::{Frame, Framer},
    sdp::Sdp,
    strict::{Fault, MessageVerdict, read, read_framed},
};

fn files() -> Vec<(String, Vec<u8>, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture");
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sip") {
            let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            files.push((name, fs::read(&path).unwrap(), expected.trim().to_owned()));
        }
    }
    files
}

fn outcome(data: &[u8]) -> String {
    match read(data) {
        MessageVerdict::Request(_) => "request".to_owned(),
        MessageVerdict::Response(_) => "response".to_owned(),
        MessageVerdict::Refuse(response, _) => format!("{} {}", response.code, response.reason),
        MessageVerdict::Drop(fault) => format!("drop {}", fault.name()),
    }
}

#[test]
fn every_torture_message_has_its_expected_verdict() {
    let files = files();
    assert!(files.len() > 60, "only {} messages: is the folder complete?", files.len());
    let wrong: Vec<_> = files
        .iter()
        .filter_map(|(name, data, expected)| {
            let found = outcome(data);
            (found != *expected).then(|| format!("{name}: expected {expected}, found {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An accepted message is unchanged after writing and parsing it again.
#[test]
fn accepted_messages_survive_a_round_trip() {
    for (name, data, _) in files() {
        match read(&data) {
            MessageVerdict::Request(request) => {
                let MessageVerdict::Request(again) = read(&request.to_bytes()) else {
                    panic!("{name}: not read again")
                };
                assert!(again.method == request.method && again.uri == request.uri, "{name}");
                assert_eq!(again.body, request.body, "{name}");
                let response = request.respond(200).with_to_tag("x").to_bytes();
                assert!(
                    matches!(read(&response), MessageVerdict::Response(_)),
                    "{name}: our response is not readable"
                );
            }
            MessageVerdict::Response(response) => {
                let MessageVerdict::Response(again) = read(&response.to_bytes()) else {
                    panic!("{name}: not read again")
                };
                assert_eq!((again.code, again.body), (response.code, response.body), "{name}");
            }
            // A refusal repeats received headers, faults included: it need not be valid.
            MessageVerdict::Refuse(..) | MessageVerdict::Drop(_) => {}
        }
    }
}

/// A message with a second one hidden in its body is one message; octets after its length are ignored.
#[test]
fn stream_is_split_only_at_content_length() {
    let options = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/ok-plain.sip")).unwrap();
    let mut stream = b"\r\n\r\n".to_vec();
    stream.extend_from_slice(&options);
    stream.extend_from_slice(&options);
    stream.extend_from_slice(b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 1\r\nl: 2\r\n\r\nab");
    // However the stream is split, the frames are the same.
    for step in [1, 7, 64, stream.len()] {
        let mut framer = Framer::default();
        let mut frames = Vec::new();
        for chunk in stream.chunks(step) {
            framer.push(chunk);
            while let Some(frame) = framer.next_frame() {
                frames.push(frame);
            }
        }
        assert_eq!(frames.first(), Some(&Frame::Ping), "step {step}");
        assert_eq!(frames.get(1), Some(&Frame::Message(options.clone())), "step {step}");
        assert_eq!(frames.get(2), Some(&Frame::Message(options.clone())), "step {step}");
        assert!(matches!(frames.get(3), Some(Frame::Lost(_))), "step {step}: {frames:?}");
    }
}

#[test]
fn stream_needs_no_content_length_without_a_body() {
    let message = |more: &str| {
        format!(
            "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x>\r\n\
             Call-ID: c\r\nCSeq: 1 OPTIONS\r\n{more}\r\n"
        )
        .into_bytes()
    };
    let mut framer = Framer::default();
    framer.push(&message(""));
    framer.push(&message("Content-Length: 0\r\n"));
    for expected in [message(""), message("Content-Length: 0\r\n")] {
        let Some(Frame::Message(data)) = framer.next_frame() else { panic!("no message") };
        assert_eq!(data, expected);
        assert!(matches!(read_framed(&data), MessageVerdict::Request(r) if r.body.is_empty()));
    }
    // With a body, its end cannot be known.
    for name in ["Content-Type", "c"] {
        let mut data = message(&format!("{name}: text/plain\r\n"));
        data.extend_from_slice(b"hello");
        framer.push(&data);
        assert_eq!(framer.next_frame(), Some(Frame::Lost(data.clone())));
        let refused = |v: MessageVerdict| matches!(v, MessageVerdict::Refuse(_, Fault::Missing("Content-Length")));
        assert!(refused(read_framed(&data)), "{name}");
        assert!(matches!(read(&data), MessageVerdict::Request(_)), "a datagram has an end");
    }
}

/// With the octets before the body, such a length would wrap to a small one, to a message of no octets without end.
#[test]
fn stream_with_a_length_near_the_largest_number_is_closed() {
    for below in [0, 1, 2, 3, 4, 40, 53, 54, 55, 56, 57, 60, 100, 1_000] {
        let data = format!("OPTIONS sip:x SIP/2.0\r\nContent-Length: {}\r\n\r\n", u64::MAX - below).into_bytes();
        let mut framer = Framer::default();
        framer.push(&data);
        assert_eq!(framer.next_frame(), Some(Frame::Lost(data)), "{below}");
        assert_eq!(framer.next_frame(), None, "{below}");
    }
}

#[test]
fn stream_with_an_endless_header_is_closed_at_the_limit() {
    let mut framer = Framer::default();
    for n in 0..100 {
        framer.push(&[b'x'; 1024]);
        if let Some(frame) = framer.next_frame() {
            assert!(matches!(frame, Frame::Lost(_)));
            assert!(n < 40, "held {n} KiB");
            return;
        }
    }
    panic!("100 KiB without an end were held");
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = files().into_iter().map(|(_, data, _)| data).collect();
    let edit = (any::<prop::sample::Index>(), 0..4u8, any::<u8>());
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..12)).prop_map(|(mut data, edits)| {
        for (at, kind, byte) in edits {
            if data.is_empty() {
                break;
            }
            let at = at.index(data.len());
            match kind {
                0 => data[at] = byte,
                1 => data.insert(at, byte),
                2 => drop(data.remove(at)),
                _ => data.truncate(at),
            }
        }
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_datagram_panics_the_reader(data in mutated()) {
        match read(&data) {
            MessageVerdict::Request(request) => {
                // Code that reads accepted requests must not panic either.
                let _ = twinbox_sip::identity::caller(&request);
                let _ = twinbox_sip::dialog::Dialog::accept(&request, "tag");
                let policy = twinbox_sip::session::TimerPolicy { interval: 1800, min_se: 90 };
                let _ = twinbox_sip::session::negotiate(&request, policy);
                prop_assert!(matches!(read(&request.to_bytes()), MessageVerdict::Request(_)), "let in, but not once more");
            }
            MessageVerdict::Refuse(response, _) => {
                prop_assert!((400..600).contains(&response.code));
                // One start line, one end: a refusal does not smuggle headers back.
                let bytes = response.with_to_tag("t").to_bytes();
                prop_assert!(bytes.ends_with(b"\r\n\r\n"));
                prop_assert_eq!(bytes.windows(4).filter(|w| w == b"\r\n\r\n").count(), 1);
            }
            _ => {}
        }
    }

    #[test]
    fn no_bytes_panic_the_framer_or_sdp(data in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut framer = Framer::default();
        framer.push(&data);
        while framer.next_frame().is_some() {}
        let _ = Sdp::parse(&data);
    }

    #[test]
    fn no_sdp_line_panics(lines in prop::collection::vec("[a-z]=[ -~]{0,40}", 0..20)) {
        let text = format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0 8 101\r\n{}\r\n", lines.join("\r\n"));
        if let Ok(sdp) = Sdp::parse(text.as_bytes()) {
            let _ = sdp.audio();
        }
    }
}
