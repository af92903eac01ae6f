//! Filing of mails in a real store.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_ids::EffectId;
use twinbox_mail::Address;
use twinbox_mail_gateway::{
    Delivery, FilingRecipient, Mail, MailFiling, MailHandler, MailIdentity, PasswordCheck, RecipientError, Sender,
};
use twinbox_mailstore::{Codec, NewMailbox, Returns, UserAddress, UserAddresses};
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

/// Another user's own address that reads like an alias does not take its mail.
#[tokio::test]
async fn alias_comes_before_the_own_address_of_another_user() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    node.store.set_filled(Filled::Complete).await.expect("a mark");
    let user = async |number: &str, addresses: UserAddresses| {
        let new = NewMailbox { addresses, ..NewMailbox::new(number, "284617") };
        node.mailstore.create(new).await.expect("a mailbox").0.id
    };
    let alias = vec![UserAddress::alias("anna").expect("an alias")];
    let anna = user("1001", UserAddresses { mail: None, aliases: alias }).await;
    let own = UserAddress::address("anna@vm.example").expect("an address");
    user("1002", UserAddresses { mail: Some(own), aliases: Vec::new() }).await;
    let filing = filing(&node).await;
    let client = bounce(EffectId::random()).trust;
    assert_eq!(filing.recipient("Anna@vm.example", &client).await, Ok(FilingRecipient::Mailbox(anna)));
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

/// A mail with these attachments, each `audio/wav` or `audio/ogg`, to these mailboxes.
fn with_sounds(sounds: &[(&str, Vec<u8>)], recipients: Vec<FilingRecipient>) -> Mail<FilingRecipient> {
    let part = |(kind, bytes): &(&str, Vec<u8>)| {
        let coded = STANDARD.encode(bytes);
        let lines: Vec<&str> =
            coded.as_bytes().chunks(76).map(|line| str::from_utf8(line).expect("text")).collect();
        format!(
            "--b\r\nContent-Type: {kind}\r\nContent-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n",
            lines.join("\r\n")
        )
    };
    let parts: String = sounds.iter().map(part).collect();
    let head = "From: anna@else.example\r\nMessage-ID: <1@else.example>\r\nMIME-Version: 1.0\r\n\
                Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    Mail {
        sender: Some("anna@else.example".to_owned()),
        reports: vec![None; recipients.len()],
        recipients,
        bytes: Bytes::from(format!("{head}{parts}--b--\r\n")),
        ..bounce(EffectId::random())
    }
}

fn wav(of: u8) -> (&'static str, Vec<u8>) {
    ("audio/wav", twinbox_rtp::wav::write(Codec::Pcmu, &vec![of; 8_000]))
}

fn is_accepted(delivery: &Delivery) -> bool {
    matches!(delivery, Delivery::Accepted { .. })
}

#[tokio::test]
async fn unreadable_attachment_is_left_out_wherever_it_stands_and_a_repetition_adds_nothing() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    let filing = filing(&node).await;
    let ogg = ("audio/ogg", b"OggS no sound".to_vec());
    let to = vec![FilingRecipient::Mailbox(mailbox.id)];
    let mail = with_sounds(&[ogg.clone(), wav(1), ogg.clone(), wav(2)], to.clone());
    for round in 0..2 {
        let deliveries = filing.deliver(mail.clone()).await;
        assert!(deliveries.len() == 1 && deliveries.iter().all(is_accepted), "{round}: {deliveries:?}");
        assert_eq!(node.mailstore.messages(mailbox.id).await.expect("a list").len(), 2, "{round}");
    }
    // Without any that can be read, it is refused with the reason.
    let refused = filing.deliver(with_sounds(&[ogg], to)).await;
    assert!(matches!(&refused[..], [Delivery::Refused { enhanced, .. }] if enhanced == "5.6.1"), "{refused:?}");
}

#[tokio::test]
async fn sound_files_beyond_the_quota_are_left_out() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mut new = NewMailbox::new("1001", "284617");
    new.quota.max_messages = 2;
    let (mailbox, _) = node.mailstore.create(new).await.expect("a mailbox");
    let filing = filing(&node).await;
    let sounds: Vec<_> = (1..=4).map(wav).collect();
    let mail = with_sounds(&sounds, vec![FilingRecipient::Mailbox(mailbox.id)]);
    for round in 0..2 {
        let deliveries = filing.deliver(mail.clone()).await;
        let [Delivery::Accepted { detail }] = &deliveries[..] else { panic!("{round}: {deliveries:?}") };
        assert!(detail.ends_with(", 2 left out: the mailbox is full"), "{round}: {detail}");
        assert_eq!(node.mailstore.messages(mailbox.id).await.expect("a list").len(), 2, "{round}");
    }
}

#[tokio::test]
async fn recipient_named_twice_gets_one_message_and_two_answers() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    let filing = filing(&node).await;
    let mail = with_sounds(&[wav(1)], vec![FilingRecipient::Mailbox(mailbox.id); 3]);
    let deliveries = filing.deliver(mail).await;
    assert!(deliveries.len() == 3 && deliveries.iter().all(is_accepted), "{deliveries:?}");
    assert_eq!(node.mailstore.messages(mailbox.id).await.expect("a list").len(), 1);
}

/// One host's wrong passwords are no reason to refuse another host, nor the telephone.
#[tokio::test]
async fn wrong_passwords_of_one_host_put_off_that_host_only() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::with(dir.path(), "a", 1, 0, |settings| settings.source_attempts.free = 3);
    let pin = "284617";
    let mut new = NewMailbox::new("1001", pin);
    new.must_change = false;
    let (mailbox, _) = node.mailstore.create(new).await.expect("a mailbox");
    let filing = filing(&node).await;
    let (hostile, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    // A number that does not exist is put off as one that exists: after five tries, from whatever hosts.
    let scanned = async |number: &str, net: u8| {
        let mut checks = Vec::new();
        for host in 1..=7 {
            checks.push(filing.check_password(number, "000000", [10, 9, net, host].into()).await);
        }
        checks
    };
    assert_eq!(scanned("9999", 1).await, scanned(&mailbox.number, 2).await);
    node.mailstore.unlock(mailbox.id).await.expect("unlocked");
    // Numbers that do not exist count, too.
    for number in ["8001", "8002", "8003"] {
        assert_eq!(filing.check_password(number, "000000", hostile).await, PasswordCheck::Wrong);
    }
    let again = filing.check_password(&mailbox.number, pin, hostile).await;
    assert_eq!(again, PasswordCheck::Later, "not checked, and no reason to ask for another password");
    assert_eq!(filing.check_password(&mailbox.number, pin, other).await, PasswordCheck::Right);
}
