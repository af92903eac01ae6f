//! Calls on hold, and calls of which nothing comes.

use crate::kit::{Node, Raw, RawDialog, establish, offer};

const SDP: &str = "application/sdp";

#[tokio::test]
async fn call_held_too_long_ends_and_a_resumed_call_continues() {
    let node = Node::with(|o| o.calls.max_hold_s = 60).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ho1");
    establish(&mut raw, &mut dialog).await;
    let hold = offer(9) + "a=sendonly\r\n";
    let change = async |dialog: &mut RawDialog, raw: &mut Raw, sdp: &str| {
        assert_eq!(raw.ask(dialog.request("UPDATE", SDP, sdp)).await.code, 200);
    };
    change(&mut dialog, &mut raw, &hold).await;
    node.pass(50).await;
    change(&mut dialog, &mut raw, &offer(9)).await;
    node.pass(50).await;
    change(&mut dialog, &mut raw, &hold).await;
    node.pass(50).await;
    // Another hold during a hold does not restart the time.
    change(&mut dialog, &mut raw, &hold).await;
    assert_eq!(node.calls.active(), 1);
    node.pass(11).await;
    let bye = raw.request().await;
    assert_eq!(bye.headers.get("Reason"), Some("Q.850;cause=102;text=\"On hold for too long\""));
    node.idle().await;
    assert_eq!(node.counter("calls_held_too_long"), 1);
}

/// A caller that only speaks from the beginning, as some gateways do, is not on hold when it refreshes its session.
#[tokio::test]
async fn call_that_only_speaks_stays_so_after_a_refresh() {
    let node = Node::with(|o| o.calls.max_hold_s = 60).await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("ho2");
    let speaks = offer(9) + "a=sendonly\r\n";
    let ok = raw.ask(dialog.request("INVITE", SDP, &speaks)).await;
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    assert_eq!(raw.ask(dialog.request("UPDATE", SDP, &speaks)).await.code, 200);
    node.pass(61).await;
    assert_eq!((node.calls.active(), node.counter("calls_held_too_long")), (1, 0));
}

/// A caller of whom nothing comes is on hold, from the beginning too: neither silence nor missing media ends its call.
#[tokio::test]
async fn call_that_sends_nothing_ends_as_one_on_hold() {
    let node = Node::with(|o| o.calls.max_hold_s = 60).await;
    let mut raw = node.raw().await;
    let mut calls = 0;
    for (name, sdp) in [
        ("listens only", offer(9) + "a=recvonly\r\n"),
        ("inactive", offer(9) + "a=inactive\r\n"),
        ("null address", offer(9).replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0")),
    ] {
        let mut dialog = raw.dialog(name.split(' ').next().expect("a word"));
        let ok = raw.ask(dialog.request("INVITE", SDP, &sdp)).await;
        let ack = dialog.answered(&ok);
        raw.send(ack.as_bytes()).await;
        assert_eq!(raw.ask(dialog.request("OPTIONS", "", "")).await.code, 200, "{name}");
        node.pass(61).await;
        let bye = raw.request().await;
        assert_eq!(bye.headers.get("Reason"), Some("Q.850;cause=102;text=\"On hold for too long\""), "{name}");
        node.idle().await;
        calls += 1;
        assert_eq!(node.counter("calls_held_too_long"), calls, "{name}");
    }
}
