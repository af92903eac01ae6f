//! Transactions on a simulated clock: transmissions, their times, and events for the user.

use twinbox_sip::{
    Request,
    strict::{MessageVerdict, read},
    transaction::{Admission, Event, Flow, Guard, Layer, ServerId},
};

#[derive(Clone, Debug, PartialEq)]
struct To {
    reliable: bool,
}

impl Flow for To {
    fn reliable(&self) -> bool {
        self.reliable
    }
}

const UDP: To = To { reliable: false };
const TCP: To = To { reliable: true };

fn request(method: &str, branch: &str, call: &str, from_tag: &str, to_tag: &str) -> Request {
    let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    let text = format!(
        "{method} sip:1001@vm SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch={branch}\r\nFrom: <sip:2001@pbx>;tag={from_tag}\r\n\
         To: <sip:1001@vm>{to_tag}\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\nContact: <sip:2001@192.0.2.1>\r\n\
         Content-Length: 0\r\n\r\n"
    );
    match read(text.as_bytes()) {
        MessageVerdict::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

fn invite() -> Request {
    request("INVITE", "z9hG4bK1", "c1", "f1", "")
}

fn accept(_: &Request) -> Admission {
    Admission::Accept
}

/// One line per event, for comparison.
fn tell(events: &[Event<To>]) -> Vec<String> {
    let line = |event: &Event<To>| match event {
        Event::Send { bytes, .. } => String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned(),
        Event::Request { request, .. } => format!("request {}", request.method),
        Event::Cancelled(_) => "cancelled".into(),
        Event::Acknowledged { .. } => "acknowledged".into(),
        Event::Unacknowledged(_) => "unacknowledged".into(),
        Event::Response(_, response) => format!("response {}", response.code),
        Event::TimedOut(_) => "timed out".into(),
        Event::Withdrawn(_) => "withdrawn".into(),
    };
    events.iter().map(line).collect()
}

fn opened(events: &[Event<To>]) -> ServerId {
    events
        .iter()
        .find_map(|e| match e {
            Event::Request { id, .. } => Some(id.clone()),
            _ => None,
        })
        .expect("a request was let in")
}

/// Runs the clock from `from` to `to` in steps of 50 ms; returns the events with their times.
fn run(layer: &mut Layer<To>, from: u64, to: u64) -> Vec<(u64, String)> {
    let times = (from..=to).step_by(50);
    times.flat_map(|now| tell(&layer.tick(now)).into_iter().map(move |e| (now, e)).collect::<Vec<_>>()).collect()
}

#[test]
fn answer_to_invite_is_repeated_until_its_ack_and_late_copies_are_absorbed() {
    let mut layer = Layer::new(1, 100);
    let id = opened(&layer.request_received(invite(), UDP, 0, accept));
    let sent = layer.respond(&id, invite().respond(200), 10);
    let Some(Event::Send { bytes, .. }) = sent.first() else { panic!("{sent:?}") };
    let MessageVerdict::Response(ok) = read(bytes) else { panic!("no response") };
    let tag = ok.headers.tag("To").expect("a To tag").to_owned();
    // A copy of the INVITE triggers no answer; the 200 repeats at T1, then doubling.
    assert!(tell(&layer.request_received(invite(), UDP, 100, accept)).is_empty());
    let times: Vec<u64> = run(&mut layer, 150, 4_000).into_iter().map(|(t, _)| t).collect();
    assert_eq!(times, [550, 1550, 3550]);
    // The ACK of a 2xx has its own branch.
    let ack = request("ACK", "z9hG4bK-another", "c1", "f1", &tag);
    assert_eq!(tell(&layer.request_received(ack.clone(), UDP, 4_100, accept)), ["acknowledged"]);
    assert!(tell(&layer.request_received(ack, UDP, 4_150, accept)).is_empty(), "told once");
    assert!(tell(&layer.request_received(invite(), UDP, 4_200, accept)).is_empty(), "a late copy");
    assert!(run(&mut layer, 4_250, 40_000).is_empty());
    assert_eq!(layer.load().servers, 0, "nothing is left");
    assert_eq!(layer.next_due(), None);
}

#[test]
fn an_unacknowledged_2xx_is_reported_after_64_t1() {
    for flow in [UDP, TCP] {
        let mut layer = Layer::new(1, 100);
        let id = opened(&layer.request_received(invite(), flow, 0, accept));
        layer.respond(&id, invite().respond(200), 0);
        let told = run(&mut layer, 0, 40_000);
        assert_eq!(told.last(), Some(&(32_000, "unacknowledged".to_owned())));
        assert_eq!(layer.load().servers, 0);
    }
}

#[test]
fn a_refused_invite_is_repeated_over_udp_only_until_its_ack() {
    for (flow, copies) in [(UDP, vec![500, 1500, 3500]), (TCP, vec![])] {
        let mut layer = Layer::new(1, 100);
        let id = opened(&layer.request_received(invite(), flow.clone(), 0, accept));
        layer.respond(&id, invite().respond(404), 0);
        let times: Vec<u64> = run(&mut layer, 50, 4_000).into_iter().map(|(t, _)| t).collect();
        assert_eq!(times, copies);
        // The ACK of a refusal has the INVITE's branch.
        assert!(
            layer.request_received(request("ACK", "z9hG4bK1", "c1", "f1", "x"), flow, 4_050, accept).is_empty()
        );
        assert!(run(&mut layer, 4_100, 40_000).is_empty());
        assert_eq!(layer.load().servers, 0);
    }
}

#[test]
fn slow_invite_is_answered_with_100() {
    let mut layer = Layer::new(1, 100);
    let id = opened(&layer.request_received(invite(), UDP, 0, accept));
    assert_eq!(run(&mut layer, 0, 1_000), [(200, "SIP/2.0 100 Trying".to_owned())]);
    assert_eq!(tell(&layer.request_received(invite(), UDP, 1_000, accept)), ["SIP/2.0 100 Trying"]);
    assert_eq!(tell(&layer.respond(&id, invite().respond(200), 1_100)), ["SIP/2.0 200 OK"]);
}

#[test]
fn cancel_ends_only_its_waiting_invite() {
    let mut layer = Layer::new(1, 100);
    let cancel = || request("CANCEL", "z9hG4bK1", "c1", "f1", "");
    let nothing = tell(&layer.request_received(cancel(), UDP, 0, accept));
    assert_eq!(nothing, ["SIP/2.0 481 Call/Transaction Does Not Exist"]);
    let id = opened(&layer.request_received(invite(), UDP, 0, accept));
    assert_eq!(tell(&layer.request_received(cancel(), UDP, 10, accept)), ["SIP/2.0 200 OK", "cancelled"]);
    assert_eq!(tell(&layer.respond(&id, invite().respond(487), 20)), ["SIP/2.0 487 Request Terminated"]);
    // Too late: answered, without effect.
    assert_eq!(tell(&layer.request_received(cancel(), UDP, 30, accept)), ["SIP/2.0 200 OK"]);
}

#[test]
fn repeated_request_gets_the_same_answer_and_one_event() {
    let mut layer = Layer::new(1, 100);
    let bye = || request("BYE", "z9hG4bK2", "c1", "f1", "t1");
    let id = opened(&layer.request_received(bye(), UDP, 0, accept));
    assert!(layer.request_received(bye(), UDP, 100, accept).is_empty(), "not answered yet: absorbed");
    layer.respond(&id, bye().respond(200), 200);
    assert_eq!(tell(&layer.request_received(bye(), UDP, 300, accept)), ["SIP/2.0 200 OK"]);
    assert!(layer.respond(&id, bye().respond(500), 400).is_empty(), "one final response");
    run(&mut layer, 400, 33_000);
    assert_eq!(layer.load().servers, 0);
}

#[test]
fn same_call_id_with_other_tags_is_another_call() {
    let mut layer = Layer::new(1, 100);
    let first = opened(&layer.request_received(invite(), UDP, 0, accept));
    let second = opened(&layer.request_received(request("INVITE", "z9hG4bK9", "c1", "f2", ""), UDP, 0, accept));
    assert_ne!(first, second);
    // Even if a broken client gives both the same branch.
    let third = opened(&layer.request_received(request("INVITE", "z9hG4bK1", "c1", "f3", ""), UDP, 0, accept));
    assert!(third != first && third != second);
    assert_ne!(layer.tag(&invite()), layer.tag(&request("INVITE", "z9hG4bK9", "c1", "f2", "")));
}

#[test]
fn stateless_refusal_repeats_its_tag() {
    let mut layer = Layer::new(1, 100);
    let mut refuse = |branch: &str, now| {
        let request = request("INVITE", branch, "c1", "f1", "");
        let events = layer.request_received(request, UDP, now, |r| Admission::Refuse(r.respond(503)));
        match events.as_slice() {
            [Event::Send { bytes, .. }] => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refuse("z9hG4bK1", 0), refuse("z9hG4bK1", 500));
    assert_ne!(refuse("z9hG4bK1", 0), refuse("z9hG4bK2", 0));
    assert_eq!(layer.load().servers, 0);
    assert_eq!(layer.next_due(), None);
}

#[test]
fn full_table_refuses_without_growing() {
    let mut layer = Layer::new(1, 10);
    for n in 0..1_000 {
        let request = request("INVITE", &format!("z9hG4bK{n}"), &format!("c{n}"), "f", "");
        let told = tell(&layer.request_received(request, UDP, 0, accept));
        let expected = if n < 10 { "request INVITE" } else { "SIP/2.0 503 Service Unavailable" };
        assert_eq!(told, [expected], "request {n}");
    }
    assert_eq!(layer.load().servers, 10);
}

/// RFC 3261 section 21.5.4 lets a server refuse new requests; calls in progress must be able to end.
#[test]
fn a_full_table_takes_requests_within_dialogs_in_bounds() {
    let mut layer = Layer::new(1, 10);
    let mut told = |method: &str, n: usize, to_tag: &str| {
        let request = request(method, &format!("z9hG4bK{method}{n}"), &format!("c{n}"), "f", to_tag);
        tell(&layer.request_received(request, UDP, 0, accept)).remove(0)
    };
    (0..10).for_each(|n| assert_eq!(told("OPTIONS", n, ""), "request OPTIONS"));
    assert_eq!(told("INVITE", 0, ""), "SIP/2.0 503 Service Unavailable");
    (0..10).for_each(|n| assert_eq!(told("BYE", n, "ours"), "request BYE"));
    assert_eq!(told("BYE", 10, "ours"), "SIP/2.0 503 Service Unavailable");
    assert_eq!(layer.load().servers, 20);
}

#[test]
fn copies_of_a_refused_request_are_refused() {
    let mut layer = Layer::new(1, 2);
    let mut ask = |method: &str, branch: &str, flow: To, now, admit: fn(&Request) -> Admission| {
        tell(&layer.request_received(request(method, branch, "c", "f", ""), flow, now, admit)).remove(0)
    };
    let refuse = |r: &Request| Admission::Refuse(r.respond(503).with("Retry-After", "7"));
    let refused = "SIP/2.0 503 Service Unavailable";
    assert_eq!(ask("INVITE", "z9hG4bK1", UDP, 0, refuse), refused);
    assert_eq!(ask("INVITE", "z9hG4bK1", UDP, 31_999, accept), refused);
    assert_eq!(ask("INVITE", "z9hG4bK1", UDP, 32_000, accept), "request INVITE", "nobody sends copies any more");
    // Over TCP there are no copies, and other methods may get another answer.
    for (method, flow) in [("INVITE", TCP), ("OPTIONS", UDP)] {
        let branch = format!("z9hG4bK-{method}");
        assert_eq!(ask(method, &branch, flow.clone(), 32_000, refuse), refused);
        let mut other = Layer::new(1, 2);
        let again = request(method, &branch, "c", "f", "");
        assert_eq!(tell(&other.request_received(again, flow, 32_001, accept)), [format!("request {method}")]);
    }
    // No more refusals are stored than the capacity.
    let mut layer = Layer::new(1, 2);
    for n in 0..1_000 {
        let new = request("SUBSCRIBE", &format!("z9hG4bKs{n}"), "c", "f", "");
        assert_eq!(tell(&layer.request_received(new, UDP, 0, refuse)), [refused]);
    }
    for (n, expected) in [(998, refused), (999, refused), (0, "request SUBSCRIBE")] {
        let copy = request("SUBSCRIBE", &format!("z9hG4bKs{n}"), "c", "f", "");
        assert_eq!(tell(&layer.request_received(copy, UDP, 1, accept)), [expected], "{n}");
    }
}

#[test]
fn request_is_matched_by_transaction_whatever_its_source() {
    let mut layer = Layer::new(1, 100);
    let cancel = || request("CANCEL", "z9hG4bK1", "c1", "f1", "");
    assert!(!layer.knows(&invite()) && !layer.knows(&cancel()));
    opened(&layer.request_received(invite(), UDP, 0, accept));
    assert!(layer.knows(&invite()) && layer.knows(&cancel()));
    for other in [
        request("CANCEL", "z9hG4bK2", "c1", "f1", ""),
        request("CANCEL", "z9hG4bK1", "c2", "f1", ""),
        request("CANCEL", "z9hG4bK1", "c1", "f2", ""),
        request("BYE", "z9hG4bK1", "c1", "f1", ""),
    ] {
        assert!(!layer.knows(&other), "{other:?}");
    }
}

fn reinvite() -> Request {
    let mut invite = request("INVITE", "z9hG4bKi1", "n1", "ours", "theirs");
    invite.headers.push("Route", "<sip:p.example;lr>");
    invite
}

/// The first sent message, parsed.
fn sent(events: &[Event<To>]) -> Request {
    let [Event::Send { bytes, .. }, ..] = events else { panic!("{events:?}") };
    match read(bytes) {
        MessageVerdict::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_accepted_invite_has_its_ack_repeated_for_each_copy_of_the_answer() {
    for flow in [UDP, TCP] {
        let mut layer = Layer::new(1, 100);
        let (id, events) = layer.request(&reinvite(), flow.clone(), None, 0).unwrap();
        assert_eq!(tell(&events), ["INVITE sip:1001@vm SIP/2.0"]);
        let times: Vec<u64> = run(&mut layer, 50, 8_000).into_iter().map(|(t, _)| t).collect();
        assert_eq!(times, if flow == UDP { vec![500, 1_500, 3_500, 7_500] } else { vec![] });
        assert_eq!(tell(&layer.response_received(reinvite().respond(180), 8_000)), ["response 180"]);
        assert!(run(&mut layer, 8_050, 60_000).is_empty(), "it rings, and nothing is repeated");
        assert_eq!(tell(&layer.response_received(reinvite().respond(200), 60_000)), ["response 200"]);
        let ack = request("ACK", "z9hG4bKa1", "n1", "ours", "theirs");
        assert_eq!(sent(&layer.acknowledge(id, &ack, flow)).to_bytes(), ack.to_bytes());
        let again = layer.response_received(reinvite().respond(200), 60_500);
        assert_eq!((again.len(), sent(&again).to_bytes()), (1, ack.to_bytes()));
        assert!(run(&mut layer, 60_550, 200_000).is_empty());
        assert_eq!((layer.load().clients, layer.next_due()), (0, None));
    }
}

#[test]
fn our_refused_invite_is_acknowledged_here() {
    for flow in [UDP, TCP] {
        let mut layer = Layer::new(1, 100);
        layer.request(&reinvite(), flow.clone(), None, 0).unwrap();
        let refusal = || reinvite().respond(491).with_to_tag("theirs");
        let events = layer.response_received(refusal(), 100);
        assert_eq!(tell(&events), ["ACK sip:1001@vm SIP/2.0", "response 491"]);
        let ack = sent(&events);
        assert_eq!((ack.headers.cseq(), ack.headers.tag("To")), (1, Some("theirs")));
        for name in ["Via", "Route", "From", "Call-ID"] {
            assert_eq!(ack.headers.get(name), reinvite().headers.get(name), "{name}");
        }
        let copies = tell(&layer.response_received(refusal(), 600));
        assert_eq!(copies, if flow == UDP { vec!["ACK sip:1001@vm SIP/2.0"] } else { vec![] });
        assert!(run(&mut layer, 650, 40_000).is_empty());
        assert_eq!((layer.load().clients, layer.next_due()), (0, None));
    }
}

#[test]
fn outgoing_invite_that_is_not_answered_times_out() {
    let mut layer = Layer::new(1, 100);
    layer.request(&reinvite(), UDP, None, 0).unwrap();
    layer.response_received(reinvite().respond(180), 100);
    assert_eq!(run(&mut layer, 150, 200_000), [(180_100, "timed out".to_owned())]);
    assert_eq!(layer.load().clients, 0);
}

fn notify(branch: &str) -> Request {
    request("NOTIFY", branch, "n1", "ours", "theirs")
}

#[test]
fn our_request_is_repeated_until_answered_and_then_absorbs_copies() {
    let mut layer = Layer::new(1, 100);
    let (id, sent) = layer.request(&notify("z9hG4bKn1"), UDP, None, 0).unwrap();
    assert_eq!(tell(&sent), ["NOTIFY sip:1001@vm SIP/2.0"]);
    let times: Vec<u64> = run(&mut layer, 50, 5_000).into_iter().map(|(t, _)| t).collect();
    assert_eq!(times, [500, 1_500, 3_500]);
    let ok = || notify("z9hG4bKn1").respond(200);
    let told = layer.response_received(ok(), 5_050);
    assert!(matches!(told.as_slice(), [Event::Response(i, _)] if *i == id));
    assert!(layer.response_received(ok(), 5_100).is_empty());
    run(&mut layer, 5_150, 12_000);
    assert_eq!(layer.load().clients, 0);
    assert!(layer.response_received(ok(), 13_000).is_empty(), "a stray answer is nobody's");
}

#[test]
fn our_unanswered_request_times_out() {
    for flow in [UDP, TCP] {
        let mut layer = Layer::new(1, 100);
        layer.request(&notify("z9hG4bKn1"), flow, None, 0).unwrap();
        let told = run(&mut layer, 0, 40_000);
        assert_eq!(told.last(), Some(&(32_000, "timed out".to_owned())));
        assert_eq!(layer.load().clients, 0);
    }
}

/// Rule R6: each transmission checks the guard again, and one refusal ends it.
#[test]
fn guarded_request_checks_its_guard_at_every_write_and_can_be_withdrawn() {
    let mut layer = Layer::new(1, 100);
    let guard = Guard(std::sync::Arc::new(|| false));
    let (id, sent) = layer.request(&notify("z9hG4bKn1"), UDP, Some(guard), 0).unwrap();
    let asks = |events: &[Event<To>]| {
        events.iter().all(|e| matches!(e, Event::Send { guard: Some((guard, i)), .. } if *i == id && !(guard.0)()))
    };
    assert!(asks(&sent));
    let repeated = layer.tick(500);
    assert!(!repeated.is_empty() && asks(&repeated));
    assert_eq!(tell(&layer.withdraw(id)), ["withdrawn"]);
    assert!(run(&mut layer, 550, 40_000).is_empty(), "nothing leaves any more");
    assert_eq!(layer.load().clients, 0);
}

#[test]
fn unanswered_server_transactions_expire() {
    let mut layer = Layer::new(1, 100);
    opened(&layer.request_received(invite(), UDP, 0, accept));
    opened(&layer.request_received(request("BYE", "z9hG4bK2", "c1", "f1", "t1"), TCP, 0, accept));
    run(&mut layer, 0, 33_000);
    assert_eq!(layer.load().servers, 1, "the INVITE may still be answered");
    run(&mut layer, 33_000, 181_000);
    assert_eq!((layer.load().servers, layer.next_due()), (0, None));
}
