//! Mail in: a mail with a sound file becomes a message on either node, once; everything else is refused with its reason.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Cli, Cluster, MailFault, MailReceiver, NetPlace, Postfix, SentMail, Spec, Speech, StoredMessage, Swaks,
    g711::{self, Law},
    leave_message, need, peak_bytes, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(40);
/// Ports on which nodes take mail, and of the mail servers.
const SMTP: u16 = 2525;
const LMTP: u16 = 2424;
const ANNA: &str = Cluster::USERS[0].number;

/// `[mail]` with mail in of at most 1 MiB by SMTP and LMTP.
fn mail_in() -> Vec<String> {
    vec![
        "domain = \"voicemail.test\"".to_owned(),
        format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]\nlmtp = [\"{{ip}}:{LMTP}\"]"),
        "networks = [\"127.0.0.0/8\"]\nmail_mb = 1".to_owned(),
    ]
}

fn cluster() -> Cluster {
    Cluster::start(&Spec { mail: mail_in(), ..Spec::default() })
}

fn smtp(cluster: &Cluster, node: &str) -> SocketAddr {
    cluster.member(node).place.port(SMTP)
}

/// A mail to `to` at the domain of the mailboxes.
fn mail_to(cluster: &Cluster, node: &str, to: &str) -> Swaks {
    Swaks::new(smtp(cluster, node), "carol@sender.test", &format!("{to}@voicemail.test"))
}

fn sound_file(dir: &Path, name: &str, speech: &Speech) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, g711::to_wav(&speech.bytes(0, 12_000), Law::Mu)).expect("written");
    path
}

/// The one message of the mailbox on a node that was not deleted.
fn only(cluster: &Cluster, node: &str) -> StoredMessage {
    let present = || cluster.cli(node).messages(ANNA).into_iter().filter(|message| message.state != "deleted");
    let messages =
        wait_for("a message", SOON, || Some(present().collect::<Vec<_>>()).filter(|all| !all.is_empty()));
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages[0].clone()
}

fn assert_refused(sent: &SentMail, expected: &str) {
    assert!(!sent.taken && sent.refusal().starts_with(expected), "expected {expected}: {}", sent.transcript);
}

fn assert_taken(sent: &SentMail) {
    assert!(sent.taken && sent.receipt().starts_with("250 2.0.0 "), "{}", sent.transcript);
}

/// Subject of the notification of a message.
fn subject(cli: &Cli, message: &str) -> String {
    let preview = cli.json(&["notify", "preview", ANNA, "office", "--message", message]);
    preview["subject"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_mail_with_a_sound_file_becomes_a_message_once_on_whichever_node_it_arrives() {
    if !need::all(&[need::SWAKS]) {
        return;
    }
    let (cluster, dir) = (cluster(), TempDir::new().expect("a folder"));
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    a.json(&["device", "add", ANNA, "office", "mail", "address=anna@example.test", "enabled=no"]);
    let speech = [Speech::unique(), Speech::unique()];
    let first = sound_file(dir.path(), "first.wav", &speech[0]);
    let urgent = |node: &str| {
        let mail = mail_to(&cluster, node, ANNA).header("From", "Carol <carol@sender.test>");
        let mail = mail.header("Message-Id", "<urgent@sender.test>").header("Importance", "high");
        mail.attach(&first, "audio/wav").send()
    };
    assert_taken(&urgent("a"));
    let message = only(&cluster, "b");
    assert_eq!((message.state.as_str(), message.caller.as_str(), message.length_ms), ("new", "", 1_500));
    for cli in [&a, &b] {
        assert_eq!(cli.audio(ANNA, &message.id, Law::Mu).expect("its audio"), speech[0].bytes(0, 12_000));
    }
    assert!(subject(&b, &message.id).starts_with("Urgent voicemail from Carol"), "{}", subject(&b, &message.id));

    // The same mail again, at the other node and at the same one; then after its message was deleted.
    for node in ["b", "a"] {
        let again = urgent(node);
        assert_taken(&again);
        assert!(again.receipt().contains(&message.id), "{}", again.receipt());
        assert_eq!(only(&cluster, node).id, message.id);
    }
    assert!(a.run(&["message", "delete", ANNA, &message.id]).status.success());
    for node in ["b", "a"] {
        assert_taken(&urgent(node));
    }
    // A user's mail to two mailboxes, of which one is unknown; the other is named by an alias with a suffix.
    let second = sound_file(dir.path(), "second.wav", &speech[1]);
    let [_, bert] = Cluster::USERS;
    a.json(&["user", "set", ANNA, "--alias", "anna.l", "--mail", "anna@example.test"]);
    a.json(&["user", "set", bert.number, "--mail", "bert@example.test"]);
    let to = "Anna.L+work@voicemail.test,9999@voicemail.test";
    let from = format!("{}@voicemail.test", bert.number);
    let sent = Swaks::new(smtp(&cluster, "b"), &from, to).attach(&second, "audio/x-wav").send();
    assert!(sent.refusal().starts_with("550 5.1.1") && sent.receipt().starts_with("250"), "{}", sent.transcript);
    for node in ["a", "b"] {
        let message = only(&cluster, node);
        assert_eq!(message.caller, bert.number, "the sender is a user");
        assert_eq!(a.audio(ANNA, &message.id, Law::Mu).expect("its audio"), speech[1].bytes(0, 12_000));
        assert!(subject(&a, &message.id).starts_with("Voicemail from"), "{}", subject(&a, &message.id));
    }
    // From a user's own address to another's.
    assert!(a.run(&["message", "delete", ANNA, &only(&cluster, "a").id]).status.success());
    let own = Swaks::new(smtp(&cluster, "a"), "Bert@example.test", "Anna@Example.test");
    assert_taken(&own.attach(&second, "audio/x-wav").send());
    assert_eq!(only(&cluster, "a").caller, bert.number);
}

/// Sends lines, each after the reply to the one before; returns the last reply.
struct Dialogue(BufReader<std::net::TcpStream>);

impl Dialogue {
    fn begin(place: &NetPlace, to: SocketAddr) -> Self {
        let stream = place.tcp(to).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut dialogue = Self(BufReader::new(stream));
        assert!(dialogue.reply().starts_with("220 "));
        dialogue
    }

    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a reply");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("sent");
        self.reply()
    }
}

#[test]
fn mail_for_others_without_a_sound_or_too_large_is_refused_with_its_reason() {
    if !need::all(&[need::SWAKS, need::FFMPEG]) {
        return;
    }
    let (cluster, dir) = (cluster(), TempDir::new().expect("a folder"));
    let sound = sound_file(dir.path(), "sound.wav", &Speech::unique());
    let unknown = mail_to(&cluster, "a", "9999").attach(&sound, "audio/wav").send();
    assert_refused(&unknown, "550 5.1.1");
    for to in ["anna@elsewhere.test", "1001@sub.voicemail.test"] {
        let other = Swaks::new(smtp(&cluster, "b"), "carol@sender.test", to).attach(&sound, "audio/wav").send();
        assert_refused(&other, "550 5.7.1");
    }
    assert_refused(&mail_to(&cluster, "a", ANNA).send(), "554 5.6.1");
    let broken = dir.path().join("broken.wav");
    fs::write(&broken, b"RIFF, but no sound").expect("written");
    assert_refused(&mail_to(&cluster, "b", ANNA).attach(&broken, "audio/wav").send(), "554 5.6.1");

    // Too large: refused when it is announced, at its end, and while it arrives.
    let mut large = Dialogue::begin(cluster.phones(), smtp(&cluster, "a"));
    assert!(large.say("EHLO client.test").starts_with("250 "));
    assert!(large.say("MAIL FROM:<carol@sender.test> SIZE=1048577").starts_with("552 5.3.4"));
    let line = [b'x'; 76];
    let line = [&line[..], b"\r\n"].concat();
    let begin = |dialogue: &mut Dialogue| {
        assert!(dialogue.say("MAIL FROM:<carol@sender.test>").starts_with("250 "));
        assert!(dialogue.say(&format!("RCPT TO:<{ANNA}@voicemail.test>")).starts_with("250 "));
        assert!(dialogue.say("DATA").starts_with("354 "));
    };
    begin(&mut large);
    let slightly = line.repeat((1 << 20) / line.len() + 100);
    large.0.get_mut().write_all(&slightly).expect("sent");
    assert!(large.say(".").starts_with("552 5.3.4"));
    // The session goes on after that, and ends within one that never ends.
    begin(&mut large);
    let endless = (0..2_000).map_while(|_| large.0.get_mut().write_all(&line.repeat(100)).ok()).count();
    println!("{} kB were read of a mail that does not end", endless * line.len() / 10);
    assert!(endless < 2_000, "the node closes the connection");

    // Music is no speech, but a message.
    let music = dir.path().join("music.mp3");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args([
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:duration=2:sample_rate=44100",
        "-ac",
        "2",
    ]);
    let made = ffmpeg.arg(&music).output().expect("ffmpeg runs");
    assert!(made.status.success(), "{made:?}");
    assert_taken(&mail_to(&cluster, "b", ANNA).attach(&music, "audio/mpeg").send());
    for node in ["a", "b"] {
        let message = only(&cluster, node);
        assert!((1_900..=2_200).contains(&message.length_ms), "{message:?}");
        let audio = cluster.cli(node).audio(ANNA, &message.id, Law::Mu).expect("its audio");
        let samples: Vec<i16> = audio[2_000..10_000].iter().map(|byte| Law::Mu.decode(*byte)).collect();
        let crossings = samples.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
        assert!((870..=890).contains(&crossings), "440 Hz cross zero 880 times in a second: {crossings}");
    }
}

#[test]
fn a_mail_of_a_gigabyte_is_refused_while_it_comes_and_memory_stays_bounded() {
    const GIGABYTE: usize = 1 << 30;
    /// Mails at a time, and bytes that a node may read of each: the limit of 25 MiB, what comes beyond it before the
    /// connection is closed, and the buffers of both kernels.
    const MAILS: usize = 4;
    const READ_AT_MOST: usize = 64 << 20;
    if !need::all(&[need::SWAKS]) {
        return;
    }
    let lines = [&mail_in()[..2], &["networks = [\"127.0.0.0/8\"]".to_owned()]].concat();
    let (cluster, dir) =
        (Cluster::start(&Spec { mail: lines, ..Spec::default() }), TempDir::new().expect("a folder"));
    let (to, pid) = (smtp(&cluster, "a"), cluster.member("a").pid());
    let before = peak_bytes(pid);
    let block = [&[b'x'; 76][..], b"\r\n"].concat().repeat(1_000);
    let send = || {
        let mut dialogue = Dialogue::begin(cluster.phones(), to);
        assert!(dialogue.say("EHLO client.test").starts_with("250 "));
        let announced = dialogue.say(&format!("MAIL FROM:<carol@sender.test> SIZE={GIGABYTE}"));
        assert!(announced.starts_with("552 5.3.4"), "{announced}");
        assert!(dialogue.say("MAIL FROM:<carol@sender.test>").starts_with("250 "));
        assert!(dialogue.say(&format!("RCPT TO:<{ANNA}@voicemail.test>")).starts_with("250 "));
        assert!(dialogue.say("DATA").starts_with("354 "));
        let blocks = GIGABYTE / block.len();
        let sent = (0..blocks).map_while(|_| dialogue.0.get_mut().write_all(&block).ok()).count() * block.len();
        // The reply that came before the connection was closed can still be read.
        (sent, dialogue.reply())
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let senders: Vec<_> = (0..MAILS).map(|_| scope.spawn(send)).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
    });
    for (sent, reply) in ended {
        assert!(reply.starts_with("552 5.3.4"), "{reply}");
        assert!(sent < READ_AT_MOST, "{sent} bytes were read before the refusal");
    }
    let grown = peak_bytes(pid).saturating_sub(before);
    println!("{} MiB more at the peak", grown >> 20);
    // 256 MiB are the limit for the mails of all connections; these four have 25 MiB each, in buffers that grow by half.
    assert!(grown < 256 << 20, "{grown} bytes more");
    let sound = sound_file(dir.path(), "sound.wav", &Speech::unique());
    assert_taken(&mail_to(&cluster, "a", ANNA).attach(&sound, "audio/wav").send());
}

#[test]
fn a_sender_gets_one_report_of_success_and_none_that_it_did_not_want() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let spec = |phones: &NetPlace| {
        let mut mail = mail_in();
        mail.insert(1, format!("smarthost = \"{}\"\ntls = \"off\"", phones.port(SMTP)));
        Spec { mail, ..Spec::default() }
    };
    let (cluster, receiver) = Cluster::start_with(spec, |phones| MailReceiver::start(phones, SMTP));
    let wav = g711::to_wav(&Speech::unique().bytes(0, 12_000), Law::Mu);
    let text = |id: &str| {
        let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("={byte:02X}")).collect::<String>();
        let body: Vec<String> = wav.chunks(24).map(line).collect();
        format!(
            "From: carol@sender.test\r\nMessage-ID: <{id}@sender.test>\r\nMIME-Version: 1.0\r\n\
             Content-Type: audio/wav\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{}\r\n.",
            body.join("=\r\n")
        )
    };
    let send = |node: &str, id: &str, sender: &str, notify: &str| {
        let mut dialogue = Dialogue::begin(cluster.phones(), smtp(&cluster, node));
        assert!(dialogue.say("EHLO client.test").starts_with("250 "));
        assert!(dialogue.say(&format!("MAIL FROM:<{sender}> RET=HDRS ENVID=env-{id}")).starts_with("250 "));
        let recipient = format!("RCPT TO:<{ANNA}@voicemail.test> NOTIFY={notify} ORCPT=rfc822;old@sender.test");
        assert!(dialogue.say(&recipient).starts_with("250 "));
        assert!(dialogue.say("DATA").starts_with("354 "));
        let reply = dialogue.say(&text(id));
        assert!(reply.starts_with("250 2.0.0"), "{reply}");
    };
    send("a", "never", "carol@sender.test", "NEVER");
    send("b", "failure", "carol@sender.test", "FAILURE,DELAY");
    send("a", "empty", "", "SUCCESS");
    send("b", "wanted", "carol@sender.test", "SUCCESS");
    // Delivered again at the other node, as after a lost reply.
    send("a", "wanted", "carol@sender.test", "SUCCESS");
    send("a", "last", "carol@sender.test", "SUCCESS,FAILURE");
    let reports = receiver.wait_for_mails(2, SOON);
    let read: Vec<String> =
        reports.iter().map(|mail| fs::read_to_string(&mail.file).expect("the report")).collect();
    wait_until("both to be done", SOON, || cluster.cli("a").effects("done").len() == 2);
    assert_eq!(receiver.mails().len(), 2, "{read:#?}");
    for id in ["wanted", "last"] {
        let report = read.iter().find(|text| text.contains(&format!("<{id}@sender.test>"))).expect("a report");
        for part in [
            "report-type=delivery-status",
            &format!("Original-Envelope-Id: env-{id}"),
            "Original-Recipient: rfc822; old@sender.test",
            &format!("Final-Recipient: rfc822; {ANNA}@voicemail.test"),
            "Action: delivered",
        ] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
    for mail in &reports {
        assert_eq!(mail.recipients, ["carol@sender.test"]);
    }
}

/// The address of a node, before there is one.
fn node_ip(phones: &NetPlace, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = phones.ip.octets();
    Ipv4Addr::new(a, b, c, last)
}

#[test]
fn postfix_hands_mail_in_by_lmtp_and_reports_an_unknown_number_to_the_sender() {
    if !need::all(&[need::SWAKS, need::POSTFIX, need::AIOSMTPD]) {
        return;
    }
    let (cluster, (receiver, postfix)) = Cluster::start_with(
        |_| Spec { mail: mail_in(), ..Spec::default() },
        |phones| {
            let to_node = format!("lmtp:inet:{}:{LMTP}", node_ip(phones, 2));
            let settings = [
                format!("relayhost = [{}]:{SMTP}", phones.ip),
                format!("transport_maps = inline:{{ voicemail.test={to_node} }}"),
            ];
            (MailReceiver::start(phones, SMTP), Postfix::start(&Postfix::place(phones), SMTP, &settings))
        },
    );
    let dir = TempDir::new().expect("a folder");
    let speech = Speech::unique();
    let sound = sound_file(dir.path(), "sound.wav", &speech);
    let to = format!("{ANNA}@voicemail.test,9999@voicemail.test");
    let sent = Swaks::new(postfix.address(), "carol@sender.test", &to).attach(&sound, "audio/wav").send();
    assert!(sent.taken, "{}", sent.transcript);
    let message = only(&cluster, "a");
    assert_eq!(cluster.cli("a").audio(ANNA, &message.id, Law::Mu).expect("its audio"), speech.bytes(0, 12_000));
    let report = receiver.wait_for_mails(1, SOON).remove(0);
    assert_eq!((report.sender.as_str(), &*report.recipients), ("<>", &["carol@sender.test".to_owned()][..]));
    let text = fs::read_to_string(&report.file).expect("the report");
    for part in ["9999@voicemail.test", "Action: failed", "Status: 5.1.1", "550 5.1.1 mailbox unknown"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(!text.contains(&format!("rfc822; {ANNA}@")), "{text}");
}

#[test]
fn a_notification_that_comes_back_raises_an_alarm_that_names_it() {
    if !need::all(&[need::POSTFIX, need::AIOSMTPD]) {
        return;
    }
    let (cluster, (receiver, postfix)) = Cluster::start_with(
        |phones| {
            let smarthost = Postfix::place(phones).port(SMTP);
            let mut mail = mail_in();
            mail.insert(1, format!("smarthost = \"{smarthost}\"\ntls = \"off\""));
            Spec { mail, ..Spec::default() }
        },
        |phones| {
            let to_node = format!("smtp:[{}]:{SMTP}", node_ip(phones, 1));
            let settings = [
                format!("relayhost = [{}]:{SMTP}", phones.ip),
                format!("transport_maps = inline:{{ voicemail.test={to_node} }}"),
            ];
            (MailReceiver::start(phones, SMTP), Postfix::start(&Postfix::place(phones), SMTP, &settings))
        },
    );
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    a.json(&["device", "add", ANNA, "office", "mail", "address=anna@example.test", "audio=yes"]);
    receiver.fail(MailFault::Refuse);
    assert!(leave_message(cluster.phones(), cluster.sip("b"), ANNA, 1.2).acknowledged());
    let done = b.wait_for_effect("done", SOON, |effect| effect.device == "office");
    let alarm = wait_for(&format!("the alarm\n{}", postfix.log()), SOON, || {
        let list = b.try_json(&["alarm", "list"]).ok()?;
        let fits = |alarm: &&Value| {
            alarm["code"] == "dead-letter"
                && alarm["detail"].as_str().is_some_and(|detail| detail.contains(&done.id))
        };
        list["alarms"].as_array()?.iter().find(fits).cloned()
    });
    assert!(alarm["detail"].as_str().is_some_and(|detail| detail.contains("550 5.7.1 not wanted here")), "{alarm}");
    assert_eq!(alarm["subject"], "mail", "{alarm}");
    // Refused for good by the next server, it is not sent again; other mail to that address is taken and thrown away.
    let mails = receiver.mails();
    assert_eq!(mails.len(), 1, "{mails:#?}");
    if need::all(&[need::SWAKS]) {
        assert_taken(&mail_to(&cluster, "a", "voicemail").header("Subject", "I am on holiday").send());
    }
    let list = a.json(&["alarm", "list"]);
    let letters = list["alarms"].as_array().into_iter().flatten().filter(|alarm| alarm["code"] == "dead-letter");
    assert_eq!(letters.count(), 1, "{list}");
}
