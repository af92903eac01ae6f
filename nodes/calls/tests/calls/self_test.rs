//! Self-test calls of a node: answered with a tone like any call, but not counted.

use twinbox_calls::{SelfTestCall, Transport};
use twinbox_ids::Pii;
use twinbox_phone::{CallError, CallOptions, Phone, PhoneConfig, Target};
use twinbox_rtp::g711;

use crate::kit::{Node, PATIENCE, trunk};

/// Half a second of audio.
const SOME: usize = 4_000;

async fn call(how: &SelfTestCall) -> Result<twinbox_phone::Call, CallError> {
    let transport = match how.transport {
        Transport::Udp => twinbox_phone::Transport::Udp,
        Transport::Tcp => twinbox_phone::Transport::Tcp,
    };
    let phone = Phone::bind(PhoneConfig::new(how.local, transport)).await.expect("a phone");
    let target = Target { uri: how.uri.clone(), address: Some(how.to) };
    let from = Some(how.from.reveal().clone());
    phone.call(target, CallOptions { from, ..CallOptions::default() }).await
}

/// The only trunk is elsewhere, all places are taken, the SIP server drains: the self-test is still answered, over UDP
/// and TCP, and leaves no trace.
#[tokio::test]
async fn self_test_gets_a_tone_and_is_not_counted_as_a_call() {
    for first in [Transport::Udp, Transport::Tcp] {
        let node = Node::with(|o| {
            o.calls.trunks = vec![trunk("elsewhere", "192.0.2.0/24")];
            o.calls.max_calls = 1;
            o.calls.listeners.sort_by_key(|l| l.transport != first);
        })
        .await;
        node.calls.drain();
        let before = node.calls.stats();
        let how = node.calls.self_test().expect("there are listeners");
        assert_eq!(how.transport, first);
        for _ in 0..2 {
            let call = call(&how).await.expect("answered");
            assert!(call.wait_received(SOME, PATIENCE).await, "{:?}", call.stats());
            assert!(g711::mean_magnitude(call.codec(), &call.received()) > 1_000, "it is no silence");
            assert_eq!(node.calls.active(), 0);
            assert_eq!(call.bye().await.map(|(status, _)| status), Ok(200));
        }
        let after = node.calls.stats();
        assert_eq!((after.counters, after.answer_time), (before.counters, before.answer_time));
        let media = node.media.stats();
        assert_eq!((media.received, media.sent, media.lateness.count()), (0, 0, 0));
    }
}

#[tokio::test]
async fn other_callers_cannot_make_a_self_test_call() {
    let node = Node::with(|o| o.calls.trunks = vec![trunk("elsewhere", "192.0.2.0/24")]).await;
    let mut how = node.calls.self_test().expect("there are listeners");
    // The secret of another SIP server, in the correct format.
    let another = Node::start().await;
    how.from = Pii::new(another.calls.self_test().expect("there are listeners").from.into_revealed());
    assert_eq!(call(&how).await.err().map(|e| e.status), Some(403));
    assert_eq!(node.counter("strangers"), 1);
    // For a trunk's caller there is no mailbox with that number.
    how.to = another.udp;
    how.from = Pii::new("<sip:1001@127.0.0.1>".to_owned());
    assert_eq!(call(&how).await.err().map(|e| e.status), Some(404));
}
