//! Floods: every request is answered, memory stays bounded, and a proper call is answered without delay.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use twinbox_clock::BootInstant;
use twinbox_sip::strict::MessageVerdict;

use crate::kit::{Node, Raw, establish, hang_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_500_concurrent_invites_gets_200_or_503() {
    let node = Node::with(|o| {
        o.calls.max_calls = 100;
        o.calls.max_calls_per_second = 1_000;
    })
    .await;
    let mut raw = node.raw().await;
    let mut open: HashMap<String, String> = HashMap::new();
    for n in 0..500 {
        let mut dialog = raw.dialog(&format!("b{n}"));
        let invite = dialog.invite();
        raw.send(invite.as_bytes()).await;
        open.insert(dialog.call_id, invite);
    }
    let (mut accepted, mut refused) = (HashSet::new(), HashSet::new());
    while !open.is_empty() {
        match raw.next(Duration::from_millis(500)).await {
            Some(MessageVerdict::Response(response)) => {
                let call = response.headers.call_id().to_owned();
                if response.code == 100 {
                    // Only a provisional answer, after 200 ms (RFC 3261 section 17.2.1).
                    continue;
                }
                open.remove(&call);
                match response.code {
                    200 => accepted.insert(call),
                    503 => refused.insert(call),
                    other => panic!("{other} to {call}"),
                };
            }
            // Sockets drop datagrams that exceed their buffer: retransmit unanswered requests, as every client does.
            None => {
                for invite in open.values() {
                    raw.send(invite.as_bytes()).await;
                }
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted.len() + refused.len(), 500);
    assert!((50..=100).contains(&accepted.len()), "a burst of fifty comes in: {}", accepted.len());
    assert_eq!(node.calls.active(), accepted.len());
    assert!(node.counter("refused_busy") + node.counter("refused_overload") >= refused.len() as u64);
    let stats = node.calls.stats();
    assert!(stats.transactions <= 100, "a refusal keeps no state: {} transactions", stats.transactions);
}

#[tokio::test]
async fn calls_above_the_rate_get_503_and_later_ones_are_accepted() {
    let node = Node::with(|o| o.calls.max_calls_per_second = 5).await;
    let mut raw = node.raw().await;
    let mut codes = Vec::new();
    let mut first = None;
    for n in 0..8 {
        let mut dialog = raw.dialog(&format!("q{n}"));
        let response = raw.ask(dialog.invite()).await;
        codes.push(response.code);
        if response.code == 200 {
            let ack = dialog.answered(&response);
            raw.send(ack.as_bytes()).await;
            first.get_or_insert(dialog);
        }
    }
    assert!(codes.starts_with(&[200; 5]) && codes.contains(&503), "{codes:?}");
    assert!(node.counter("refused_rate") > 0);
    // The bucket fills at five per second.
    node.pass(1).await;
    let mut dialog = raw.dialog("w");
    assert_eq!(raw.ask(dialog.invite()).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_unknown_dialogs_leave_no_state() {
    let node = Node::start().await;
    let mut noise = node.raw().await;
    for n in 0u32..3_000 {
        let text = match n % 4 {
            0 => format!("\u{1}\u{2}{n} garbage\r\n\r\n").into_bytes(),
            1 => format!("INVITE sip:1001@vm SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK{n}\r\n\r\n")
                .into_bytes(),
            2 => noise.dialog(&format!("g{n}")).request("DANCE", "", "").into_bytes(),
            _ => {
                let mut dialog = noise.dialog(&format!("g{n}"));
                dialog.to_tag = Some("none".into());
                dialog.request("BYE", "", "").into_bytes()
            }
        };
        noise.send(&text).await;
        if n % 100 == 0 {
            while noise.next(Duration::from_millis(1)).await.is_some() {}
        }
    }
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("proper");
    establish(&mut raw, &mut dialog).await;
    hang_up(&mut raw, &mut dialog).await;
    node.idle().await;
    let stats = node.calls.stats();
    // Only the proper call's two transactions remain, to absorb late copies.
    assert!(stats.transactions <= 2, "{} transactions are left", stats.transactions);
    assert!(stats.malformed.get("garbage").is_some_and(|n| *n > 0), "{:?}", stats.malformed);
    assert!(stats.malformed.get("missing_header").is_some_and(|n| *n > 0), "{:?}", stats.malformed);
}

/// Retransmissions of one INVITE are one call, and its answer is not multiplied.
#[tokio::test]
async fn many_copies_of_an_invite_are_one_call() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("storm");
    let invite = dialog.invite();
    for _ in 0..500 {
        raw.send(invite.as_bytes()).await;
    }
    let ok = raw.response().await;
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    let mut answers = 0;
    while let Some(MessageVerdict::Response(_)) = raw.next(Duration::from_millis(200)).await {
        answers += 1;
    }
    assert!(answers <= 2, "{answers} more answers");
    assert_eq!(node.calls.active(), 1);
    hang_up(&mut raw, &mut dialog).await;
}

#[tokio::test]
async fn connections_above_the_limit_are_refused_and_others_continue() {
    let node = Node::start().await;
    let mut first = Raw::tcp(node.tcp).await;
    let mut dialog = first.dialog("first");
    assert_eq!(first.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
    let mut crowd = Vec::new();
    for _ in 0..1_100 {
        match tokio::net::TcpStream::connect(node.tcp).await {
            Ok(stream) => crowd.push(stream),
            // The test has no file descriptors left: enough connections are open.
            Err(_) => break,
        }
    }
    assert_eq!(first.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
    drop(crowd);
}

/// The only trunk is 127.0.0.1: other addresses of this machine are strangers.
#[tokio::test]
async fn strangers_of_one_host_use_no_connection_of_trunks_and_half_of_those_of_strangers() {
    let node = Node::start().await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.push(Raw::tcp_from("127.0.0.2", node.tcp).await);
    }
    let begun = BootInstant::now();
    while node.counter("connections_refused") < 200 - 64 {
        assert!(begun.elapsed() < Duration::from_secs(4), "{} refused", node.counter("connections_refused"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut other = Raw::tcp_from("127.0.0.3", node.tcp).await;
    let mut dialog = other.dialog("other");
    assert_eq!(other.ask(dialog.request("OPTIONS", "", "")).await.code, 403);
    let mut trunk = Raw::tcp(node.tcp).await;
    let mut dialog = trunk.dialog("trunk");
    assert_eq!(trunk.ask(dialog.request("OPTIONS", "", "")).await.code, 200);
}

#[tokio::test]
async fn stranger_connection_ends_after_five_seconds_or_one_answer() {
    let node = Node::start().await;
    let mut curious = Raw::tcp_from("127.0.0.2", node.tcp).await;
    let mut dialog = curious.dialog("curious");
    let twice = dialog.request("OPTIONS", "", "") + &dialog.request("OPTIONS", "", "");
    assert_eq!(curious.ask(twice).await.code, 403);
    assert!(curious.next(Duration::from_secs(3)).await.is_none());
    assert_eq!(node.counter("strangers"), 1);

    // A stranger that sends a byte a second is also disconnected.
    let Raw::Tcp(slow) = Raw::tcp_from("127.0.0.2", node.tcp).await else { unreachable!() };
    let (mut stream, _) = *slow;
    for _ in 0..8 {
        // It fails when the node has closed the connection.
        let _ = stream.write_all(b"O").await;
        node.pass(1).await;
    }
    // Less than the time that ends a silent connection.
    let ended = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0])).await;
    assert!(ended.is_ok(), "still listened to");
}
