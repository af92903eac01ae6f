//! MWI: SUBSCRIBE answered immediately with the full state, NOTIFY in the dialog and unsolicited, guarded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use twinbox_calls::NotifyError;
use twinbox_clock::BootInstant;
use twinbox_ids::CallId;
use twinbox_mailstore::{Codec, MessageCounts, RecordingMeta};
use twinbox_sip::{Request, mwi::Summary, strict::MessageVerdict};

use crate::kit;
use crate::kit::{Node, Raw, RawDialog, trunk};

fn subscribe(dialog: &mut RawDialog, expires: u32) -> String {
    dialog.headers = vec![
        "Event: message-summary".to_owned(),
        "Accept: application/simple-message-summary".to_owned(),
        format!("Expires: {expires}"),
    ];
    dialog.request("SUBSCRIBE", "", "")
}

fn summary(notify: &Request) -> (u32, u32) {
    assert_eq!(notify.method.as_str(), "NOTIFY");
    assert_eq!(notify.headers.get("Event"), Some("message-summary"));
    let body = String::from_utf8(notify.body.to_vec()).unwrap();
    let summary = Summary::parse(&body).unwrap_or_else(|| panic!("no summary: {body}"));
    (summary.new, summary.old)
}

/// Sends the notifier's state: `new` messages, one saved.
fn send_state(
    node: &Node,
    new: u32,
    guard: impl Fn() -> bool + Send + Sync + 'static,
) -> JoinHandle<Result<(), NotifyError>> {
    let (calls, mailbox) = (node.calls.clone(), node.mailbox);
    tokio::spawn(
        async move { calls.notify_subscribers(mailbox, MessageCounts { new, saved: 1 }, "1.7@a", guard).await },
    )
}

/// Leaves a message.
async fn leave(node: &Node) {
    let meta = RecordingMeta {
        mailbox: node.mailbox,
        caller: None,
        caller_name: None,
        codec: Codec::Pcmu,
        call: CallId::random(),
    };
    let live = node.mailstore.begin_recording(meta).await.expect("a recording");
    live.append(0, bytes::Bytes::from(vec![7; 12_000])).expect("kept");
    live.file().await.expect("filed");
}

/// Subscribes; returns the dialog and the first NOTIFY.
async fn subscribed(raw: &mut Raw, call_id: &str) -> (RawDialog, Request) {
    let mut dialog = raw.dialog(call_id);
    let ok = raw.ask(subscribe(&mut dialog, 600)).await;
    assert_eq!((ok.code, ok.headers.get("Expires")), (200, Some("600")));
    dialog.answered(&ok);
    (dialog, raw.request().await)
}

/// The next NOTIFY while time passes, answered with `200`. It is not the end of the subscription, which comes if too much passes.
async fn notified_in_time(node: &Node, raw: &mut Raw) -> Request {
    let notify = async {
        loop {
            if let Some(MessageVerdict::Request(notify)) = raw.next(kit::PATIENCE).await {
                break notify;
            }
        }
    };
    let notify = node.hurry(notify).await;
    assert!(notify.headers.get("Subscription-State").is_some_and(|s| s.starts_with("active")), "{notify:?}");
    raw.send(&notify.respond(200).with_to_tag("theirs").to_bytes()).await;
    notify
}

#[tokio::test]
async fn subscription_gets_the_full_state_immediately_and_after_every_refresh() {
    let node = Node::start().await;
    for mut raw in [node.raw().await, Raw::tcp(node.tcp).await] {
        let (mut dialog, first) = subscribed(&mut raw, "s1").await;
        assert_eq!(summary(&first), (0, 0));
        assert!(first.headers.get("Subscription-State").is_some_and(|s| s.starts_with("active;expires=")));
        assert_eq!((node.calls.stats().subscriptions, node.calls.subscribed_mailboxes()), (1, vec![node.mailbox]));
        assert_eq!(raw.ask(subscribe(&mut dialog, 900)).await.headers.get("Expires"), Some("900"));
        let second = raw.request().await;
        assert_eq!(summary(&second), (0, 0));
        assert!(second.headers.cseq() > first.headers.cseq());
        // End of the subscription: a last NOTIFY with the state.
        assert_eq!(raw.ask(subscribe(&mut dialog, 0)).await.code, 200);
        let last = raw.request().await;
        assert!(last.headers.get("Subscription-State").is_some_and(|s| s.starts_with("terminated")));
        assert_eq!((node.calls.stats().subscriptions, node.calls.subscribed_mailboxes()), (0, vec![]));
        assert_eq!(raw.ask(subscribe(&mut dialog, 600)).await.code, 481, "the subscription has ended");
    }
}

/// RFC 6665 section 8.2.1 (`id`), RFC 3261 section 22.2 (number of a challenged request).
#[tokio::test]
async fn notify_has_the_id_of_the_subscription_and_a_challenged_last_one_has_the_next_cseq() {
    let node = Node::with(|o| {
        o.calls.trunks[0].username = Some("vm".to_owned());
        o.calls.trunks[0].password = Some("secret".to_owned().into());
    })
    .await;
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("s1");
    let text = subscribe(&mut dialog, 600).replace("Event: message-summary", "Event: message-summary;p=1; id=a7");
    let ok = raw.ask(text).await;
    dialog.answered(&ok);
    assert_eq!(raw.request().await.headers.get("Event"), Some("message-summary;id=a7"));
    assert_eq!(raw.ask(subscribe(&mut dialog, 0)).await.code, 200);
    let last = raw.unanswered().await;
    assert_eq!(last.headers.get("Event"), Some("message-summary;id=a7"));
    let challenge = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
    raw.send(&last.respond(401).with("WWW-Authenticate", challenge).to_bytes()).await;
    let again = raw.request().await;
    assert!(again.headers.get("Authorization").is_some());
    assert_eq!(again.headers.cseq(), last.headers.cseq() + 1);
    assert_eq!(node.calls.stats().subscriptions, 0);
}

#[tokio::test]
async fn invalid_subscriptions_are_refused() {
    let node = Node::with(|o| o.calls.max_subscriptions = 1).await;
    let mut raw = node.raw().await;
    let mut n = 0;
    let mut ask = |raw: &Raw, headers: &[&str], target: &str| {
        n += 1;
        let mut dialog = raw.dialog(&format!("r{n}"));
        dialog.target = target.to_owned();
        dialog.headers = headers.iter().map(|h| (*h).to_owned()).collect();
        dialog.request("SUBSCRIBE", "", "")
    };
    let mailbox = "sip:1001@vm.example";
    let accepts = format!("Accept: {}", "text/plain, ".repeat(600));
    for (headers, target, code) in [
        (&["Event: presence"][..], mailbox, 489),
        (&[], mailbox, 489),
        (&["Event: message-summary;id=\"1\""], mailbox, 489),
        (&["Event: message-summary", "Accept: text/plain"], mailbox, 406),
        (&["Event: message-summary", accepts.trim_end_matches(", ")], mailbox, 406),
        (&["Event: message-summary", "Expires: 5"], mailbox, 423),
        (&["Event: message-summary"], "sip:9999@vm.example", 404),
    ] {
        let text = ask(&raw, headers, target);
        assert_eq!(raw.ask(text).await.code, code, "{headers:?}");
    }
    subscribed(&mut raw, "s1").await;
    let one_more = ask(&raw, &["Event: message-summary"], mailbox);
    assert_eq!(raw.ask(one_more).await.code, 503);
    assert_eq!(node.calls.stats().subscriptions, 1);
}

/// Rules E2 and R6: the notifier decides, the node with the dialog sends, and the guard is checked at the write.
#[tokio::test]
async fn notify_is_sent_in_the_dialog_while_the_guard_allows_it() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    let (_, first) = subscribed(&mut raw, "s1").await;
    let sent = send_state(&node, 3, || true);
    let notify = raw.request().await;
    assert_eq!(sent.await.unwrap(), Ok(()));
    assert_eq!(summary(&notify), (3, 1));
    assert_eq!(notify.headers.get("X-Twinbox-Epoch"), Some("1.7@a"));
    assert!(notify.headers.cseq() > first.headers.cseq());

    assert_eq!(send_state(&node, 4, || false).await.unwrap(), Err(NotifyError::NotHolder));
    node.pass(1).await;
    assert!(raw.next(Duration::from_millis(100)).await.is_none(), "nothing left");

    // The lease expires between two transmissions: there is no retransmission.
    let holds = Arc::new(AtomicBool::new(true));
    let guard = holds.clone();
    let sent = send_state(&node, 4, move || guard.load(Ordering::SeqCst));
    assert!(matches!(raw.next(kit::PATIENCE).await, Some(MessageVerdict::Request(_))), "sent once");
    holds.store(false, Ordering::SeqCst);
    node.pass(1).await;
    assert_eq!(sent.await.unwrap(), Err(NotifyError::NotHolder));
    node.pass(1).await;
    assert!(raw.next(Duration::from_millis(100)).await.is_none(), "and not again");
}

/// The right to send lasts some milliseconds on a node that does not hold the duty: too short for sequential sending.
#[tokio::test]
async fn silent_subscriber_delays_no_other_and_no_state_is_sent_twice() {
    let node = Node::start().await;
    let (mut silent, mut alert) = (Vec::new(), Vec::new());
    for n in 0..4 {
        for (kind, phones) in [("silent", &mut silent), ("alert", &mut alert)] {
            let mut raw = node.raw().await;
            subscribed(&mut raw, &format!("{kind}{n}")).await;
            phones.push(raw);
        }
    }
    let brief = || {
        let began = BootInstant::now();
        move || began.elapsed() < Duration::from_millis(300)
    };
    let sent = send_state(&node, 3, brief());
    for raw in &mut alert {
        assert_eq!(summary(&raw.request().await), (3, 1));
    }
    assert_eq!(sent.await.unwrap(), Err(NotifyError::NotHolder), "not all have answered");
    for raw in &mut silent {
        assert!(
            matches!(raw.next(kit::PATIENCE).await, Some(MessageVerdict::Request(_))),
            "all were sent concurrently"
        );
    }
    assert!(send_state(&node, 3, brief()).await.unwrap().is_err());
    for raw in &mut alert {
        assert!(raw.next(Duration::from_millis(50)).await.is_none(), "it has this state already");
    }
    // They answer again: none has missed the state.
    let sent = send_state(&node, 3, || true);
    for raw in &mut silent {
        raw.request().await;
        raw.request().await;
    }
    assert_eq!(sent.await.unwrap(), Ok(()));
}

/// Subscribers of a proxy: many behind one connection, whose queue takes 256 messages.
const BEHIND_A_PROXY: usize = 600;

/// Makes these subscriptions over one connection, and refreshes them all at the same moment, for ten minutes.
async fn subscribe_together(raw: &mut Raw) {
    let mut refreshes = String::new();
    for n in 0..BEHIND_A_PROXY {
        let (mut dialog, _) = subscribed(raw, &format!("s{n}")).await;
        refreshes += &subscribe(&mut dialog, 600);
    }
    raw.send(refreshes.as_bytes()).await;
    let (mut answers, mut notifies) = (0, 0);
    while (answers, notifies) != (BEHIND_A_PROXY, BEHIND_A_PROXY) {
        match raw.next(kit::PATIENCE).await {
            Some(MessageVerdict::Response(response)) if response.code == 200 => answers += 1,
            Some(MessageVerdict::Request(notify)) => {
                raw.send(&notify.respond(200).with_to_tag("theirs").to_bytes()).await;
                notifies += 1;
            }
            other => panic!("{answers} answers, {notifies} NOTIFYs, and {other:?}"),
        }
    }
}

/// Answers a NOTIFY of each of these subscriptions, which come in their order. An OPTIONS that is sent after the first one is
/// answered on the same connection.
async fn notified_in_turn(raw: &mut Raw, check: impl Fn(&Request)) {
    let options = raw.dialog("options").request("OPTIONS", "", "");
    let (mut notified, mut answered) = (0, false);
    while notified < BEHIND_A_PROXY || !answered {
        match raw.next(kit::PATIENCE).await {
            Some(MessageVerdict::Request(notify)) => {
                if notified == 0 {
                    raw.send(options.as_bytes()).await;
                }
                assert_eq!(notify.headers.call_id(), format!("s{notified}"));
                check(&notify);
                raw.send(&notify.respond(200).with_to_tag("theirs").to_bytes()).await;
                notified += 1;
            }
            Some(MessageVerdict::Response(response)) if response.code == 200 => answered = true,
            other => panic!("{notified} NOTIFYs, and {other:?}"),
        }
    }
}

#[tokio::test]
async fn one_change_reaches_many_subscribers_behind_one_connection_in_turn() {
    let node = Node::start().await;
    let mut raw = Raw::tcp(node.tcp).await;
    subscribe_together(&mut raw).await;
    let first = send_state(&node, 3, || true);
    notified_in_turn(&mut raw, |notify| assert_eq!(summary(notify), (3, 1))).await;
    let _ = first.await.unwrap();
    // All have accepted it, if not in the time of the first attempt.
    let began = BootInstant::now();
    while send_state(&node, 3, || true).await.unwrap().is_err() {
        assert!(began.elapsed() < kit::PATIENCE, "not all have accepted it");
    }
    assert!(raw.next(Duration::from_millis(50)).await.is_none(), "none gets it twice");
    assert_eq!((node.counter("send_failures"), node.calls.stats().subscriptions), (0, BEHIND_A_PROXY));
}

#[tokio::test]
async fn subscriptions_behind_one_connection_that_expire_together_end_in_turn() {
    let node = Node::start().await;
    let mut raw = Raw::tcp(node.tcp).await;
    subscribe_together(&mut raw).await;
    // The node has all answers to the two NOTIFYs of each: none can time out when time passes.
    node.until_counted("notifies_sent", 2 * BEHIND_A_PROXY as u64).await;
    // In one step past the end of the last one: the node ends them in one pass, and promises an order within a pass only.
    node.pass(601).await;
    let terminated = |notify: &Request| {
        assert_eq!(notify.headers.get("Subscription-State"), Some("terminated;reason=timeout"));
        assert_eq!(summary(notify), (0, 0));
    };
    notified_in_turn(&mut raw, terminated).await;
    assert_eq!((node.counter("send_failures"), node.calls.stats().subscriptions), (0, 0));
}

/// RFC 6665 section 4.2.2.
#[tokio::test]
async fn silent_subscriber_is_removed_when_its_notify_times_out() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    subscribed(&mut raw, "s1").await;
    let sent = send_state(&node, 3, || true);
    raw.unanswered().await;
    node.pass(33).await;
    node.until_counted("notifies_failed", 1).await;
    assert_eq!((sent.await.unwrap(), node.calls.stats().subscriptions), (Err(NotifyError::Timeout), 0));
}

/// The same, although the right to send always ends before the timeout of a transaction.
#[tokio::test]
async fn silent_subscriber_is_removed_even_if_each_guard_ends_early() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    subscribed(&mut raw, "s1").await;
    let began = node.deps.clock.now();
    let lasts = || node.deps.clock.now().since(began);
    while node.calls.stats().subscriptions == 1 {
        assert!(lasts() < Duration::from_secs(50), "the subscription still exists");
        let may = AtomicBool::new(true);
        let sent = send_state(&node, 3, move || may.swap(false, Ordering::SeqCst));
        assert_eq!(summary(&raw.unanswered().await), (3, 1));
        node.pass(1).await;
        assert!(sent.await.unwrap().is_err());
    }
    assert!(lasts() > Duration::from_secs(30), "it had time to answer");
}

/// A SUBSCRIBE to a node that lags behind gets the old state, and the notifier has already sent the new one.
#[tokio::test]
async fn answer_from_a_lagging_store_is_repeated_when_it_has_caught_up() {
    let node = Node::start().await;
    // Over TCP no NOTIFY is repeated while time passes.
    let mut raw = Raw::tcp(node.tcp).await;
    let (_, first) = subscribed(&mut raw, "s1").await;
    assert_eq!(summary(&first), (0, 0));
    leave(&node).await;
    let second = notified_in_time(&node, &mut raw).await;
    assert_eq!(summary(&second), (1, 0));
    assert!(second.headers.cseq() > first.headers.cseq());
    assert!(second.headers.get("X-Twinbox-Epoch").is_none(), "not sent by the notifier");

    // The notifier's last NOTIFY is not corrected: the notifier may know more than this store. A later answer is.
    let sent = send_state(&node, 7, || true);
    assert_eq!(summary(&raw.request().await), (7, 1));
    assert_eq!(sent.await.unwrap(), Ok(()));
    let mut later = Raw::tcp(node.tcp).await;
    subscribed(&mut later, "s2").await;
    leave(&node).await;
    assert_eq!(summary(&notified_in_time(&node, &mut later).await), (2, 0));
    assert!(raw.next(Duration::from_millis(100)).await.is_none());
}

#[tokio::test]
async fn subscription_ends_when_the_subscriber_answers_481() {
    let node = Node::start().await;
    let mut raw = node.raw().await;
    subscribed(&mut raw, "s1").await;
    let sent = send_state(&node, 1, || true);
    let Some(MessageVerdict::Request(notify)) = raw.next(kit::PATIENCE).await else { panic!("no NOTIFY") };
    raw.send(&notify.respond(481).with_to_tag("x").to_bytes()).await;
    assert_eq!(sent.await.unwrap(), Ok(()), "no subscriber is left");
    assert_eq!(node.calls.stats().subscriptions, 0);
}

#[tokio::test]
async fn trunk_gets_unsolicited_notify_and_one_answer_to_its_challenge() {
    let pbx = Raw::udp("127.0.0.1:9".parse().unwrap()).await;
    let proxy = pbx.local();
    let node = Node::with(|o| {
        let mut pbx = trunk("pbx", "127.0.0.1");
        pbx.proxy = Some(proxy.to_string());
        pbx.mwi = Some("sip:{mailbox}@pbx.example".to_owned());
        pbx.username = Some("twinbox".to_owned());
        pbx.password = Some("s3cret".to_owned().into());
        o.calls.trunks = vec![pbx, trunk("mute", "192.0.2.1")];
    })
    .await;
    let Raw::Udp(socket, _) = pbx else { unreachable!() };
    let mut pbx = Raw::Udp(socket, node.udp);
    let body = Summary { account: None, new: 1, old: 0 }.body();
    let send = |body: String| {
        let calls = node.calls.clone();
        tokio::spawn(async move { calls.send_unsolicited_notify("pbx", "1001", &body, "1.1@a", || true).await })
    };
    let sent = send(body.clone());
    let Some(MessageVerdict::Request(first)) = pbx.next(kit::PATIENCE).await else { panic!("no NOTIFY") };
    assert_eq!((first.uri.as_str(), summary(&first)), ("sip:1001@pbx.example", (1, 0)));
    assert!(first.headers.get("Authorization").is_none(), "nothing is given away unasked");
    let challenge = first
        .respond(401)
        .with_to_tag("x")
        .with("WWW-Authenticate", "Digest realm=\"pbx\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"");
    pbx.send(&challenge.to_bytes()).await;
    let second = pbx.request().await;
    assert!(second.headers.get("Authorization").is_some_and(|a| a.contains("username=\"twinbox\"")));
    assert_eq!(second.headers.cseq(), first.headers.cseq() + 1);
    assert_eq!(sent.await.unwrap(), Ok(()));

    // A peer that always challenges is not answered without end.
    let sent = send(body);
    for _ in 0..2 {
        let Some(MessageVerdict::Request(notify)) = pbx.next(kit::PATIENCE).await else { panic!("no NOTIFY") };
        let nonce = format!("Digest realm=\"pbx\", nonce=\"{}\"", notify.headers.cseq());
        pbx.send(&notify.respond(401).with_to_tag("x").with("WWW-Authenticate", nonce).to_bytes()).await;
    }
    assert_eq!(sent.await.unwrap(), Err(NotifyError::Refused(401)));

    let none = node.calls.send_unsolicited_notify("mute", "1001", "", "", || true).await;
    assert_eq!(none, Err(NotifyError::NoTrunk("mute".to_owned())));
}
