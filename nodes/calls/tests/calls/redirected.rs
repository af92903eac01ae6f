//! Calls that a PBX redirected or mapped: a message for the party, or the caller's sign-in.

use std::time::Duration;

use twinbox_phone::{CallOptions, Transport};

use crate::{
    kit::Node,
    messages::{GAP, hears_the_tone, phone, speech, target, to_the_tone},
};

/// A call that was mapped to the pilot from this number.
fn mapped_from(number: &str) -> String {
    format!("<sip:{number}@pbx.example>;index=1, <sip:*97@vm.example>;index=1.1;mp=1")
}

/// A redirected call leaves its message for the first redirecting party with a mailbox, and the busy greeting differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirected_call_to_the_pilot_leaves_a_message() {
    let (node, phone) = (Node::start().await, phone(Transport::Udp).await);
    let parties = "<sip:1001@pbx.example>;reason=user-busy, <sip:+15550100@carrier.example>";
    let headers = [("Diversion", parties.to_owned()), ("History-Info", mapped_from("1001"))];
    for (n, (name, value)) in headers.into_iter().enumerate() {
        let options = CallOptions::default().header(name, &value);
        let call = phone.call(target(&node, "*97", Transport::Udp), options).await.expect("answered");
        to_the_tone(&call, "#").await;
        call.send_audio(speech(8, 1_000)).await;
        assert_eq!(call.bye().await.expect("answered").0, 200);
        assert_eq!(node.mailstore.messages(node.mailbox).await.unwrap().len(), n + 1, "{name}");
    }
}

/// A translated service number has no mailbox, and a user whose own number leads to the pilot wants to sign in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_mapped_to_the_pilot_for_its_user_signs_in() {
    let (node, phone) = (Node::start().await, phone(Transport::Udp).await);
    for (from, number) in [("2001", "+15550100"), ("1001", "1001")] {
        let from = Some(format!("<sip:{from}@pbx.example>"));
        let options = CallOptions { from, ..CallOptions::default() }.header("History-Info", &mapped_from(number));
        let call = phone.call(target(&node, "*97", Transport::Udp), options).await.expect("answered");
        call.send_digits("#", GAP).await.expect("digits");
        assert!(!hears_the_tone(&call, Duration::from_secs(3)).await, "{number}: a message is recorded");
        assert_eq!(call.bye().await.expect("answered").0, 200);
    }
    node.idle().await;
    assert!(node.mailstore.messages(node.mailbox).await.unwrap().is_empty());
}
