//! Filing of mails in a real store.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_ids::EffectId;
use twinbox_mail::Address;
use twinbox_mail_gateway::{Delivery, FilingRecipient, Mail, MailFiling, MailHandler, Sender};
use twinbox_mailstore::Returns;
use twinbox_prompts::Prompts;
use twinbox_store_kit::Node;

const DOMAIN: &str = "vm.example";

async fn filing(node: &Node) -> MailFiling {
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let prompts = Arc::new(Prompts::load(None, "en").expect("the embedded prompts"));
    let reports = Address::parse("voicemail@vm.example").expect("an address");
    let returns = Returns::new(node.mailstore.clone(), prompts);
    MailFiling::new(node.mailstore.clone(), alarms, DOMAIN, reports, returns)
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
