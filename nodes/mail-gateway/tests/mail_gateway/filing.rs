//! Filing of mails in a real store.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_ids::EffectId;
use twinbox_mail::Address;
use twinbox_mail_gateway::{
    Delivery, FilingRecipient, Mail, MailFiling, MailHandler, MailIdentity, RecipientError, Sender,
};
use twinbox_mailstore::Returns;
use twinbox_prompts::Prompts;
use twinbox_replication_store::Filled;
use twinbox_store_kit::Node;

const DOMAIN: &str = "vm.example";

/// Names that a test changes.
type Names = Arc<Mutex<Option<Arc<MailIdentity>>>>;

async fn filing_with_names(node: &Node) -> (MailFiling, Names) {
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let prompts = Arc::new(Prompts::load(None, "en").expect("the embedded prompts"));
    let returns = Returns::new(node.mailstore.clone(), prompts);
    let of = |domain: &str| {
        let from = Address::parse(&format!("voicemail@{domain}")).expect("an address");
        Arc::new(MailIdentity { domain: domain.to_owned(), from })
    };
    let now: Names = Arc::new(Mutex::new(Some(of(DOMAIN))));
    let current = now.clone();
    let filing = MailFiling::new(
        node.mailstore.clone(),
        alarms,
        Arc::new(move || current.lock().expect("not poisoned").clone()),
        returns,
    );
    (filing, now)
}

async fn filing(node: &Node) -> MailFiling {
    filing_with_names(node).await.0
}

#[tokio::test]
async fn the_domain_of_the_moment_counts() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    node.store.set_filled(Filled::Complete).await.expect("a mark");
    let (filing, names) = filing_with_names(&node).await;
    let client = bounce(EffectId::random()).trust;
    let at = |domain: &str| format!("{}@{domain}", mailbox.number);
    let found = Ok(FilingRecipient::Mailbox(mailbox.id));
    assert_eq!(filing.recipient(&at(DOMAIN), &client).await, found);
    assert_eq!(filing.recipient(&at("new.example"), &client).await, Err(RecipientError::RelayingDenied));

    let from = Address::parse("voicemail@new.example").expect("an address");
    let new = MailIdentity { domain: "new.example".to_owned(), from };
    *names.lock().expect("not poisoned") = Some(Arc::new(new));
    assert_eq!(filing.recipient(&at("new.example"), &client).await, found);
    assert_eq!(filing.recipient(&at(DOMAIN), &client).await, Err(RecipientError::RelayingDenied));
    let reports = filing.recipient("voicemail@new.example", &client).await;
    assert_eq!(reports, Ok(FilingRecipient::Reports));

    // Not `550`: another node may know the domain already.
    *names.lock().expect("not poisoned") = None;
    assert_eq!(filing.recipient(&at("new.example"), &client).await, Err(RecipientError::NotReady));
}

/// A report of failure (RFC 3464) about the mail of an effect.
fn bounce(effect: EffectId) -> Mail<FilingRecipient> {
    let text = format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: voicemail@vm.example\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
         Final-Recipient: rfc822; anna@else.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <{effect}@{DOMAIN}>\r\n\r\nHello\r\n--b--\r\n"
    );
    Mail {
        sender: None,
        recipients: vec![FilingRecipient::Reports],
        bytes: Bytes::from(text),
        trust: Sender {
            address: Ipv4Addr::LOCALHOST.into(),
            trusted_network: false,
            user: None,
            tls: false,
            helo: "mx.example".to_owned(),
        },
        smtputf8: false,
        envelope_id: None,
        reports: vec![None],
    }
}

#[tokio::test]
async fn report_about_an_unknown_mail_waits_while_a_node_that_may_know_it_is_away() {
    for (nodes, waits) in [(1, false), (2, true)] {
        let dir = TempDir::new().expect("a directory");
        let node = Node::with(dir.path(), "a", nodes, 0, |_| {});
        let deliveries = filing(&node).await.deliver(bounce(EffectId::random())).await;
        let [delivery] = &deliveries[..] else { panic!("one delivery: {deliveries:?}") };
        match delivery {
            Delivery::Later { text } => assert!(waits && text.contains("a node that is away"), "{text}"),
            other => assert!(!waits && matches!(other, Delivery::Accepted { .. }), "{other:?}"),
        }
    }
}
