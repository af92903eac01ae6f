//! MWI subscriptions: their ends, the content of their NOTIFYs, and subscribers that do not answer.

use twinbox_sip::strict::{MessageVerdict, read};
use twinbox_sip_transport::UdpEndpoint;

use super::*;
use crate::self_test::SelfTest;

/// A moment at this second.
fn at(second: u64) -> BootInstant {
    BootInstant::from_nanos(second * 1_000_000_000)
}

/// A subscription to this mailbox with this Call-ID, until this second.
fn entry(call_id: &str, mailbox: MailboxId, until: u64) -> Entry {
    let text = format!(
        "SUBSCRIBE sip:1001@vm.example SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{call_id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:2001@pbx.example>;tag=theirs\r\nTo: <sip:1001@vm.example>\r\n\
         Call-ID: {call_id}\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:2001@127.0.0.1:9>\r\n\
         Event: message-summary\r\nContent-Length: 0\r\n\r\n"
    );
    let MessageVerdict::Request(request) = read(text.as_bytes()) else { panic!("no request: {text}") };
    let endpoint = UdpEndpoint::bind("127.0.0.1:0".parse().expect("an address"), None, 0).expect("bound");
    Entry {
        mailbox,
        number: "1001".to_owned(),
        event: "message-summary".to_owned(),
        dialog: Dialog::accept(&request, "ours").expect("a dialog"),
        flow: Flow::Udp(Arc::new(endpoint), "127.0.0.1:9".parse().expect("an address")),
        trunk: SelfTest::new(&[]).trunk,
        until: at(until),
        notifies: 0,
        last: None,
        wanted: None,
        last_message: at(0),
        unanswered: None,
    }
}

fn counts(new: u32) -> MessageCounts {
    MessageCounts { new, saved: 0 }
}

/// New messages in the body of a NOTIFY.
fn new_messages(notify: &Request) -> u32 {
    Summary::parse(std::str::from_utf8(&notify.body).expect("text")).expect("a summary").new
}

#[test]
fn expired_subscriptions_end_once_in_the_order_of_their_expiry() {
    let (table, mailbox) = (SubscriptionTable::new(4), MailboxId::random());
    for (call_id, until) in [("a", 30), ("b", 10), ("c", 40), ("d", 20)] {
        assert!(table.add(entry(call_id, mailbox, until)).is_some());
    }
    assert!(table.add(entry("e", mailbox, 10)).is_none(), "there are four");
    let ended = |now| table.take_expired(at(now)).into_iter().map(|entry| entry.dialog.call_id).collect::<Vec<_>>();
    assert_eq!(ended(9), [""; 0]);
    assert_eq!(ended(30), ["b", "d", "a"]);
    assert_eq!(ended(30), [""; 0]);
    let has = |call_id: &str| table.has_dialog(&(call_id.to_owned(), "ours".to_owned()));
    assert_eq!((has("a"), has("c"), table.count(), table.of(mailbox).len()), (false, true, 1, 1));
    assert!(table.add(entry("e", mailbox, 10)).is_some());
}

#[test]
fn subscriptions_are_found_by_mailbox_in_their_order_until_they_end() {
    let (table, [one, two]) = (SubscriptionTable::new(4), [MailboxId(2), MailboxId(1)]);
    let add = |call_id, mailbox, until| table.add(entry(call_id, mailbox, until)).expect("added");
    let (first, other, second) = (add("a", one, 30), add("b", two, 10), add("c", one, 20));
    assert_eq!((table.of(one), table.of(two)), (vec![first, second], vec![other]));
    assert_eq!(table.mailboxes(), [two, one], "ascending, each once");
    table.remove(first).expect("removed");
    assert_eq!((table.of(one), table.mailboxes()), (vec![second], vec![two, one]));
    table.take_expired(at(20));
    assert_eq!((table.of(one), table.mailboxes()), (vec![], vec![]));
}

/// The same SUBSCRIBE by TCP again, after its transaction: both entries have one dialog.
#[test]
fn end_of_a_subscription_leaves_a_later_one_its_dialog() {
    let (table, mailbox) = (SubscriptionTable::new(4), MailboxId::random());
    let earlier = table.add(entry("a", mailbox, 10)).expect("added");
    table.add(entry("a", mailbox, 20)).expect("added");
    table.remove(earlier).expect("removed");
    assert!(table.has_dialog(&("a".to_owned(), "ours".to_owned())));
}

#[test]
fn store_that_was_read_before_the_notifiers_notify_repeats_its_content_with_a_higher_number() {
    let mut entry = entry("a", MailboxId::random(), 600);
    let read_early = NotifySource::Store { notifies: 0 };
    let first = entry.notify(counts(7), NotifySource::Notifier, "1.7@a", false, at(0));
    assert_eq!((new_messages(&first), first.headers.get("X-Twinbox-Epoch")), (7, Some("1.7@a")));
    let second = entry.notify(counts(1), read_early, "", false, at(100));
    assert_eq!((new_messages(&second), entry.answer_of_store()), (7, None));
    assert_eq!(second.headers.get("Subscription-State"), Some("active;expires=500"));
    assert!(second.headers.cseq() > first.headers.cseq());
    // Read later, it is the answer to another SUBSCRIBE.
    let third = entry.notify(counts(1), NotifySource::Store { notifies: 2 }, "", true, at(100));
    assert_eq!((new_messages(&third), entry.answer_of_store()), (1, Some(counts(1))));
    assert_eq!(third.headers.get("Subscription-State"), Some("terminated;reason=timeout"));
}

#[test]
fn notify_with_this_content_becomes_the_notifiers_unless_it_failed() {
    for (sent, outcome) in [
        (None, Some(Err(NotifyError::Timeout))),
        (Some(Ok(200)), Some(Ok(()))),
        (Some(Ok(500)), None),
        (Some(Err(SendError::TimedOut)), None),
    ] {
        let mut entry = entry("a", MailboxId::random(), 600);
        entry.notify(counts(1), NotifySource::Store { notifies: 0 }, "", false, at(1));
        if let Some(sent) = &sent {
            entry.settle(1, at(1), true, sent, at(2));
        }
        assert_eq!(entry.adopt(counts(2)), None, "{sent:?}");
        assert_eq!(entry.adopt(counts(1)), outcome, "{sent:?}");
        assert_eq!(entry.answer_of_store().is_none(), outcome.is_some(), "{sent:?}");
    }
}

/// A state may wait for a connection that its subscriber has given up, while the next one leaves over another.
#[test]
fn state_that_the_notifier_has_replaced_while_it_waited_is_not_sent() {
    let mut entry = entry("a", MailboxId::random(), 600);
    let replaced = Some(Err(NotifyError::Timeout));
    assert_eq!((entry.want(counts(1)), entry.want(counts(2))), (None, None), "both are to be sent");
    assert_eq!((entry.adopt(counts(1)), entry.adopt(counts(2))), (replaced.clone(), None));
    entry.notify(counts(2), NotifySource::Notifier, "", false, at(1));
    entry.settle(1, at(1), true, &Ok(200), at(2));
    assert_eq!((entry.adopt(counts(1)), entry.adopt(counts(2))), (replaced.clone(), Some(Ok(()))));
    // The same state again is the latest one.
    assert_eq!((entry.want(counts(1)), entry.adopt(counts(2))), (None, replaced));
    assert_eq!(entry.adopt(counts(1)), None, "it may be the one that has waited since");
}

#[test]
fn subscriber_is_removed_by_its_answer_or_when_its_silences_add_up() {
    let timed_out = || Err(SendError::TimedOut);
    let withdrawn = || Err(SendError::Withdrawn);
    for (outcomes, removed) in [
        // NOTIFYs that began and ended in these seconds: whether they left, and their outcomes.
        (vec![(0, 1, true, Ok(200)), (1, 33, true, timed_out())], true),
        (vec![(0, 1, true, Ok(481))], true),
        (vec![(0, 1, true, Ok(500))], false),
        (vec![(0, 1, true, withdrawn()), (30, 31, true, withdrawn())], true),
        (vec![(0, 1, true, withdrawn()), (29, 30, true, withdrawn())], false),
        (vec![(0, 1, false, withdrawn()), (30, 31, false, withdrawn())], false),
        (vec![(0, 1, true, withdrawn()), (2, 3, true, Ok(200)), (31, 32, true, withdrawn())], false),
    ] {
        let table = SubscriptionTable::new(1);
        let id = table.add(entry("a", MailboxId::random(), 600)).expect("added");
        for (number, (began, ended, left, sent)) in (1..).zip(&outcomes) {
            let source = NotifySource::Notifier;
            table.with(id, |entry| entry.notify(counts(1), source, "", false, at(*began))).expect("present");
            table.settle(id, |entry| entry.settle(number, at(*began), *left, sent, at(*ended)));
        }
        assert_eq!(table.remove(id).is_none(), removed, "{outcomes:?}");
    }
}
