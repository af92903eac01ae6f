//! Filing of mails in a real store.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_clock::wall;
use twinbox_devices::{Device, DeviceChange, KindName};
use twinbox_ids::{DeviceId, EffectId, LocationId, Pii};
use twinbox_locations::{Location, LocationChange};
use twinbox_mail::Address;
use twinbox_mail_gateway::{
    CurrentIdentity, Delivery, FilingRecipient, Mail, MailFiling, MailHandler, MailIdentity, PasswordCheck,
    RecipientError, Sender,
};
use twinbox_mailstore::{Codec, NewMailbox, Returns, Rule, UserAddress, UserAddresses};
use twinbox_prompts::Prompts;
use twinbox_replication_store::Filled;
use twinbox_store_kit::Node;

const DOMAIN: &str = "vm.example";

/// Names that a test changes.
type Names = Arc<Mutex<Option<Arc<MailIdentity>>>>;

/// The identity with the domain of the tests and this sender of notifications.
fn identity(from: &str) -> Arc<MailIdentity> {
    Arc::new(MailIdentity { domain: DOMAIN.to_owned(), from: Address::parse(from).expect("an address") })
}

async fn filing_as(node: &Node, identity: CurrentIdentity) -> MailFiling {
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let prompts = Arc::new(Prompts::load(None, "en").expect("the embedded prompts"));
    MailFiling::new(node.mailstore.clone(), alarms, identity, Returns::new(node.mailstore.clone(), prompts))
}

async fn filing_with_names(node: &Node) -> (MailFiling, Names) {
    let now: Names = Arc::new(Mutex::new(Some(identity("voicemail@vm.example"))));
    let current = now.clone();
    (filing_as(node, Arc::new(move || current.lock().expect("not poisoned").clone())).await, now)
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

#[tokio::test]
async fn alias_that_reads_like_a_sender_of_another_domain_gets_its_mail() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    node.store.set_filled(Filled::Complete).await.expect("a mark");
    let aliases = vec![UserAddress::alias("voicemail").expect("an alias")];
    let addresses = UserAddresses { mail: None, aliases };
    let new = NewMailbox { addresses, ..NewMailbox::new("1001", "284617") };
    let mailbox = node.mailstore.create(new).await.expect("a mailbox").0.id;
    let (filing, names) = filing_with_names(&node).await;
    let client = bounce(EffectId::random()).trust;
    let cases = [
        ("voicemail@else.example", FilingRecipient::Mailbox(mailbox)),
        ("VoiceMail@VM.Example", FilingRecipient::Reports),
    ];
    for (from, expected) in cases {
        *names.lock().expect("not poisoned") = Some(identity(from));
        assert_eq!(filing.recipient("voicemail@vm.example", &client).await, Ok(expected), "{from}");
    }
}

#[tokio::test]
async fn postmaster_is_the_mailbox_with_that_alias_and_without_one_the_refusal_names_it() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    node.store.set_filled(Filled::Complete).await.expect("a mark");
    let (filing, names) = filing_with_names(&node).await;
    let client = bounce(EffectId::random()).trust;
    let ours = ["postmaster", "PostMaster", "postmaster@vm.example", "POSTMASTER@VM.Example"];
    let foreign = "Postmaster@else.example";
    let at_from = |from: &str| *names.lock().expect("not poisoned") = Some(identity(from));
    for address in ours {
        assert_eq!(filing.recipient(address, &client).await, Err(RecipientError::NoPostmaster), "{address}");
    }
    assert_eq!(filing.recipient(foreign, &client).await, Err(RecipientError::RelayingDenied));
    let text = RecipientError::NoPostmaster.to_string();
    assert!(text.ends_with("twinbox user set NUMBER --alias postmaster"), "{text}");
    // Reports of failure do not wait for a mailbox.
    at_from("postmaster@vm.example");
    assert_eq!(filing.recipient("Postmaster", &client).await, Ok(FilingRecipient::Reports));

    let aliases = vec![UserAddress::alias("postmaster").expect("an alias")];
    let addresses = UserAddresses { mail: None, aliases };
    let new = NewMailbox { addresses, ..NewMailbox::new("1001", "284617") };
    let mailbox = node.mailstore.create(new).await.expect("a mailbox").0.id;
    let found = Ok(FilingRecipient::Mailbox(mailbox));
    for from in ["postmaster@vm.example", "voicemail@vm.example"] {
        at_from(from);
        for address in ours {
            assert_eq!(filing.recipient(address, &client).await, found, "{address}, reports to {from}");
        }
    }
    assert_eq!(filing.recipient(foreign, &client).await, Err(RecipientError::RelayingDenied));
    let filed = filing.deliver(with_sounds(&[wav(1)], vec![FilingRecipient::Mailbox(mailbox)])).await;
    assert!(filed.iter().all(is_accepted), "{filed:?}");
    assert_eq!(node.mailstore.messages(mailbox).await.expect("a list").len(), 1);
    *names.lock().expect("not poisoned") = None;
    assert_eq!(filing.recipient("postmaster", &client).await, Err(RecipientError::NotReady));
}

/// A report of failure (RFC 3464) about the mail of an effect.
fn bounce(effect: EffectId) -> Mail<FilingRecipient> {
    bounce_of(&effect.to_string())
}

/// A report of failure about the mail of this name.
fn bounce_of(name: &str) -> Mail<FilingRecipient> {
    let text = format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: voicemail@vm.example\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
         Final-Recipient: rfc822; anna@else.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <{name}@{DOMAIN}>\r\n\r\nHello\r\n--b--\r\n"
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
    // The mail with a part of a recording is named after its effect, too.
    for (nodes, waits, part) in [(1, false, ""), (2, true, ""), (2, true, ".part-0123456789abcdef")] {
        let dir = TempDir::new().expect("a directory");
        let node = Node::with(dir.path(), "a", nodes, 0, |_| {});
        let name = format!("{}{part}", EffectId::random());
        let deliveries = filing(&node).await.deliver(bounce_of(&name)).await;
        let [delivery] = &deliveries[..] else { panic!("one delivery: {deliveries:?}") };
        match delivery {
            Delivery::Later { text } => assert!(waits && text.contains("a node that is away"), "{text}"),
            other => assert!(!waits && matches!(other, Delivery::Accepted { .. }), "{other:?}"),
        }
    }
}

#[tokio::test]
async fn report_to_many_recipients_is_noted_once_and_answered_for_each() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    // Each note of a report asks for the identity.
    let notes = Arc::new(AtomicUsize::new(0));
    let counted = notes.clone();
    let current = move || {
        counted.fetch_add(1, Relaxed);
        Some(identity("voicemail@vm.example"))
    };
    let filing = filing_as(&node, Arc::new(current)).await;
    let recipients = [FilingRecipient::Reports, FilingRecipient::Mailbox(mailbox.id)].repeat(50);
    let mail = Mail { reports: vec![None; recipients.len()], recipients, ..bounce(EffectId::random()) };
    let deliveries = filing.deliver(mail).await;
    assert!(deliveries.len() == 100 && deliveries.iter().all(is_accepted), "{deliveries:?}");
    assert_eq!(notes.load(Relaxed), 1);
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

/// A voice message from another system is a person's, even if that system calls all its mails automatic.
#[tokio::test]
async fn only_mail_of_a_person_causes_a_notification() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("1002@vm.example".to_owned()));
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &[address]).expect("a device");
    node.mailstore.add_device(device).await.expect("added");
    let settings = ["dial-id=7", "domain=vm.berlin.example"].map(|text| LocationChange::parse(text).expect(text));
    let berlin = Location::new(LocationId::random(), "berlin", &settings, wall()).expect("a location");
    node.mailstore.add_location(berlin).await.expect("added");
    let filing = filing(&node).await;
    let (anna, berlin) = ("anna@else.example", "2002@vm.berlin.example");
    let (mixed, voice) = ("mixed", "voice-message");
    let mut expected = 0;
    for (sound, automatic, from, kind, notified) in [
        (1, "no", anna, mixed, true),
        (2, "auto-generated", anna, mixed, false),
        (3, "auto-generated", anna, voice, false),
        (4, "auto-generated", berlin, mixed, false),
        (5, "auto-generated", berlin, voice, true),
    ] {
        let mut mail = with_sounds(&[wav(sound)], vec![FilingRecipient::Mailbox(mailbox)]);
        let text = String::from_utf8(mail.bytes.to_vec()).expect("text");
        let text = text.replace(anna, from).replace("multipart/mixed", &format!("multipart/{kind}"));
        mail.bytes = Bytes::from(format!("Auto-Submitted: {automatic}\r\n{text}"));
        mail.trust.trusted_network = true;
        let deliveries = filing.deliver(mail).await;
        assert!(deliveries.iter().all(is_accepted), "{sound}: {deliveries:?}");
        let counts = node.mailstore.message_counts(mailbox).await.expect("counts");
        assert_eq!(u64::from(counts.new), u64::from(sound), "the MWI shows it");
        expected += usize::from(notified);
        assert_eq!(node.mailstore.effects().await.expect("readable").len(), expected, "{sound}");
    }
}

/// The text of the refusal of a mail's sound for its only recipient.
fn refusal(deliveries: &[Delivery]) -> &str {
    match deliveries {
        [Delivery::Refused { code: 554, enhanced, text }] if enhanced == "5.6.1" => text,
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn mail_with_a_sound_beyond_the_class_is_refused_whole() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    node.mailstore.change_class("default", vec![(Rule::MessageSeconds, Some(1))]).await.expect("changed");
    let filing = filing(&node).await;
    let to = vec![FilingRecipient::Mailbox(mailbox.id)];
    let long = ("audio/wav", twinbox_rtp::wav::write(Codec::Pcmu, &[2; 8_008]));
    let adpcm = ("audio/32kadpcm", vec![0; 4_004]);
    let mut voice = with_sounds(&[wav(1), wav(2)], to.clone());
    let text = String::from_utf8(voice.bytes.to_vec()).expect("text");
    voice.bytes = Bytes::from(text.replace("multipart/mixed", "multipart/voice-message"));
    let mails = [
        with_sounds(std::slice::from_ref(&long), to.clone()),
        with_sounds(&[wav(1), long], to.clone()),
        with_sounds(&[adpcm], to.clone()),
        voice,
    ];
    for (index, mail) in mails.into_iter().enumerate() {
        let deliveries = filing.deliver(mail).await;
        assert!(refusal(&deliveries).ends_with("at most 1 s"), "{index}: {deliveries:?}");
        assert!(node.mailstore.messages(mailbox.id).await.expect("a list").is_empty(), "{index}");
    }
    let fitting = filing.deliver(with_sounds(&[wav(1), wav(2)], to)).await;
    assert!(fitting.iter().all(is_accepted), "{fitting:?}");
    assert_eq!(node.mailstore.messages(mailbox.id).await.expect("a list").len(), 2);
}

#[tokio::test]
async fn sound_is_measured_by_the_class_of_each_recipient() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let (class, _) =
        node.mailstore.add_class("short", vec![(Rule::MessageSeconds, Some(1))]).await.expect("a class");
    let new = NewMailbox { class: Some(class), ..NewMailbox::new("1001", "284617") };
    let short = node.mailstore.create(new).await.expect("a mailbox").0.id;
    let long = node.mailstore.create(NewMailbox::new("1002", "284617")).await.expect("a mailbox").0.id;
    let filing = filing(&node).await;
    let sound = ("audio/wav", twinbox_rtp::wav::write(Codec::Pcmu, &[2; 16_000]));
    let to = vec![FilingRecipient::Mailbox(short), FilingRecipient::Mailbox(long)];
    let deliveries = filing.deliver(with_sounds(&[sound], to)).await;
    assert!(refusal(&deliveries[..1]).ends_with("at most 1 s") && is_accepted(&deliveries[1]), "{deliveries:?}");
    let messages = node.mailstore.messages(long).await.expect("a list");
    assert_eq!(messages.len(), 1);
}

#[tokio::test]
async fn mail_with_too_many_sound_files_is_refused_whole() {
    let dir = TempDir::new().expect("a directory");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await;
    let filing = filing(&node).await;
    let sounds: Vec<_> = (1..=21).map(wav).collect();
    let deliveries = filing.deliver(with_sounds(&sounds, vec![FilingRecipient::Mailbox(mailbox.id)])).await;
    assert!(refusal(&deliveries).contains("21 sound files, more than 20"), "{deliveries:?}");
    assert!(node.mailstore.messages(mailbox.id).await.expect("a list").is_empty());
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
