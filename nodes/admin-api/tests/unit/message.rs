//! Recipients of a message that an administrator sends.

use twinbox_clock::wall;
use twinbox_ids::LocationId;
use twinbox_locations::LocationChange;
use twinbox_mailstore::{Codec, NewMailbox};
use twinbox_store_kit::{Node, audio};

use super::*;

#[test]
fn numbers_lose_separators_and_repeats_and_wrong_ones_are_named() {
    let of = |texts: &[&str]| numbers(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let read = of(&["1001", "+10 01", "7-1002"]).expect("numbers");
    assert_eq!(read.iter().map(Number::as_str).collect::<Vec<_>>(), ["1001", "71002"]);
    for (texts, part) in [(&["1001", "anna"][..], "'anna'"), (&[], "--to")] {
        let error = of(texts).expect_err(part);
        assert!(error.message().contains(part), "{}", error.message());
    }
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    assert!(numbers(&many).expect_err("too many").message().contains("at most 100"));
}

fn number(text: &str) -> Number {
    Number::normalise(text).expect("a number")
}

fn location(dial_id: &str, enabled: &str) -> Location {
    let settings = [dial_id, "domain=vm.example", enabled].map(|s| LocationChange::parse(s).expect(s));
    Location::new(LocationId(1), "berlin", &settings, wall()).expect("a location")
}

#[test]
fn number_of_no_location_is_named() {
    let locations = [location("dial-id=7", "enabled=yes")];
    let found = there(&locations, &number("71001"));
    assert!(matches!(found, Ok(Recipient::There { number, .. }) if number == "1001"));
    for (text, part) in [("9999", "9999 is unknown"), ("7", "7 is unknown")] {
        let problem = there(&locations, &number(text)).err().unwrap_or_default();
        assert!(problem.contains(part), "{text}: {problem}");
    }
}

/// An order that is given again must not be answered with "nothing was sent" when it was.
#[tokio::test]
async fn full_mailbox_and_disabled_location_hinder_only_what_was_not_sent() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let (sender, mailstore) = (node.mailbox().await, &node.mailstore);
    let mut new = NewMailbox::new("1002", "284617");
    new.quota.max_messages = 1;
    mailstore.create(new).await.expect("a mailbox");
    mailstore.add_location(location("dial-id=7", "enabled=yes")).await.expect("a location");
    let numbers = [number("1002"), number("72002")];
    let of = async |order: u128| recipients(mailstore, &numbers, MessageId(order), sender.id).await;
    let to: Vec<_> = of(1).await.expect("recipients").iter().map(|to| to.recipient.target()).collect();
    let order = SendOrder {
        id: 1,
        sender: sender.id,
        audio: Audio { codec: Codec::Pcmu, bytes: audio(1_500).into() },
        subject: Pii::default(),
        urgent: false,
        private: false,
        to,
    };
    mailstore.send_message(order).await.expect("sent");
    let disabled = LocationChange::parse("enabled=no").expect("a change");
    mailstore.change_location(LocationId(1), vec![disabled]).await.expect("changed");
    assert!(of(1).await.expect("all was sent").iter().all(|to| to.is_sent));
    let refused = of(2).await.err().expect("refused").message().to_owned();
    assert!(refused.contains("mailbox 1002 is full") && refused.contains("'berlin' of number 72002"), "{refused}");
}
