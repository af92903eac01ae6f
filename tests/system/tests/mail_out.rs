//! Mail out: a message left by a call becomes a mail for each device of its mailbox, with the same Message-ID at every
//! attempt, whatever the mail servers and the nodes do meanwhile.

use std::{collections::BTreeSet, fs, path::Path, process::Command, thread, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_system_tests::leave;
use twinbox_testkit::{
    Authority, Cli, Cluster, Data, DkimKey, MailFault, MailReceiver, NameServer, NetPlace, Postfix, ReceivedMail,
    Spec, Speech, Validity,
    g711::{self, Law},
    listen, need, wait_for, wait_until,
};

/// Limit of waits for what takes seconds: the first pause between attempts is 12.5 s at most.
const SOON: Duration = Duration::from_secs(40);
/// Port of the mail servers.
const SMTP: u16 = 2525;
/// A mailbox.
const MAILBOX: &str = Cluster::USERS[0].number;

/// `[mail]` with a mail server at `smarthost`, without TLS.
fn plain(smarthost: std::net::SocketAddr) -> Vec<String> {
    let mut lines = way(&smarthost.to_string());
    lines.push("tls = \"off\"".to_owned());
    lines
}

/// `[mail]` with the mail server `smarthost`. Each node has its own name in EHLO.
fn way(smarthost: &str) -> Vec<String> {
    vec![
        "domain = \"voicemail.test\"".to_owned(),
        "hello = \"{node}.voicemail.test\"".to_owned(),
        format!("smarthost = \"{smarthost}\""),
    ]
}

/// A cluster whose mails go to a receiver, with these lines more in `[mail]`.
fn with_receiver(more: &[String]) -> (Cluster, MailReceiver) {
    let spec =
        |phones: &NetPlace| Spec { mail: [plain(phones.port(SMTP)), more.to_vec()].concat(), ..Spec::default() };
    Cluster::start_with(spec, |phones| MailReceiver::start(phones, SMTP))
}

fn add_device(cli: &Cli, mailbox: &str, name: &str, settings: &[&str]) {
    let address = format!("address={name}@example.test");
    cli.json(&[&["device", "add", mailbox, name, "mail", &address], settings].concat());
}

/// The alarm `dead-letter` whose detail has this text, as the node sees it.
fn dead_letter_alarm(cli: &Cli, part: &str) -> Option<Value> {
    let list = cli.try_json(&["alarm", "list"]).ok()?;
    let alarms = list["alarms"].as_array()?;
    let fits = |alarm: &&Value| {
        alarm["code"] == "dead-letter" && alarm["detail"].as_str().is_some_and(|detail| detail.contains(part))
    };
    alarms.iter().find(fits).cloned()
}

/// The sound of a WAV file is only a piece of what was said, bit for bit, and at least a second of it.
fn assert_said(wav: &[u8], speech: &Speech, spoken: usize) {
    let audio = g711::from_wav(wav, Law::Mu).unwrap_or_else(|e| panic!("{e}"));
    let piece = speech.find_in(&audio, spoken).expect("it is what was said");
    assert_eq!(piece.length, audio.len(), "all of it is what was said ({piece:?})");
    assert!(piece.seconds() > 1.0, "{piece:?}");
}

/// Mail programs for terminals.
const MAIL_PROGRAMS: need::Need = need::Need {
    name: "neomutt and s-nail (apt-get install neomutt s-nail bsdutils)",
    there: || ["neomutt", "s-nail", "script"].iter().all(|name| runs(name, "--version")),
};

fn runs(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// Mail programs show the mail, and what neomutt saves as its attachment is a sound file for ffprobe.
fn assert_mail_programs_read(mail: &Path) {
    let dir = TempDir::new().expect("a folder");
    let (folder, sound) = (dir.path().join("mbox"), dir.path().join("sound"));
    let mut mbox = b"From voicemail@voicemail.test Sun Nov 22 09:00:00 2026\n".to_vec();
    mbox.extend(fs::read(mail).expect("the mail").into_iter().filter(|byte| *byte != b'\r'));
    mbox.push(b'\n');
    fs::write(&folder, mbox).expect("written");
    let shown = Command::new("s-nail").args(["-n", "-R", "-Y", "type 1", "-Y", "xit", "-f"]).arg(&folder).output();
    let shown = String::from_utf8_lossy(&shown.expect("s-nail runs").stdout).into_owned();
    assert!(shown.contains("Voicemail from 2001") && shown.contains(MAILBOX), "{shown}");

    // Without a folder for mail neomutt asks whether to make one, and takes the keys for the answer.
    let home = dir.path().display();
    let keys =
        format!("push \"<view-attachments><next-entry><pipe-entry>cat >{}<enter><exit><exit>\"", sound.display());
    let neomutt = format!("neomutt -n -F /dev/null -R -f {} -e 'set folder={home}' -e '{keys}'", folder.display());
    let mut command = Command::new("timeout");
    command.args(["60", "script", "-qec", &neomutt, "/dev/null"]).env("TERM", "vt100");
    let output = command.stdin(std::process::Stdio::null()).output().expect("script runs");
    let probed = Command::new("ffprobe").args(["-v", "error", "-show_streams"]).arg(&sound).output();
    let probed = String::from_utf8_lossy(&probed.expect("ffprobe runs").stdout).into_owned();
    for line in ["codec_type=audio", "sample_rate=8000", "channels=1"] {
        assert!(probed.contains(line), "{line}: {probed}{output:?}");
    }
}

/// Message-IDs and outcomes of mails.
fn ids_and_outcomes(mails: &[ReceivedMail]) -> Vec<(&str, &str)> {
    mails.iter().map(|mail| (mail.message_id.as_str(), mail.outcome.as_str())).collect()
}

#[test]
fn a_message_left_by_a_call_becomes_a_signed_mail_with_its_sound() {
    if !need::all(&[need::AIOSMTPD, need::DKIM, need::OPENSSL, need::FFMPEG, MAIL_PROGRAMS]) {
        return;
    }
    let key = DkimKey::new();
    let signed = ["[mail.dkim]\nselector = \"box\"".to_owned(), format!("key_file = {:?}", key.file())];
    let (cluster, receiver) = with_receiver(&signed);
    let (publisher, other) = cluster.publisher_and_other();
    add_device(&cluster.cli(&other), MAILBOX, "anna", &["audio=yes"]);
    let deposit = leave(&cluster, &other, MAILBOX);
    let mail = receiver.wait_for_mails(1, SOON).remove(0);
    println!("the mail arrived {:?} after the BYE was answered", mail.at.since(deposit.at));

    assert_eq!(
        (mail.sender.as_str(), &*mail.recipients),
        ("voicemail@voicemail.test", &["anna@example.test".to_owned()][..])
    );
    assert_eq!(mail.hello, format!("{publisher}.voicemail.test"), "the publisher sends it");
    let content = receiver.read(&mail, Some(("box._domainkey.voicemail.test", &key.record())));
    assert!(content.defects.is_empty(), "{content:?}");
    assert!(content.dkim, "dkimpy verifies it: {content:?}");
    for (name, value) in [
        ("from", "Voicemail <voicemail@voicemail.test>"),
        ("to", "anna@example.test"),
        ("message-id", &*format!("<{}>", mail.message_id)),
        ("auto-submitted", "auto-generated"),
    ] {
        assert_eq!(content.header(name), value, "{name}: {content:?}");
    }
    assert!(content.header("subject").starts_with("Voicemail from 2001"), "{content:?}");
    assert!(content.text.contains("2001") && content.text.contains(MAILBOX), "{content:?}");
    let attached = &content.attachments;
    assert_eq!(
        (attached.as_array().map(Vec::len), &attached[0]["type"]),
        (Some(1), &"audio/wav".into()),
        "{attached}"
    );
    assert!(attached[0]["name"].as_str().is_some_and(|name| name.ends_with(".wav")), "{attached}");
    assert_said(content.sound.as_deref().expect("a sound file"), &deposit.speech, deposit.spoken);
    assert_mail_programs_read(&mail.file);

    for node in [&publisher, &other] {
        let done = cluster.cli(node).wait_for_effect("done", SOON, |effect| effect.device == "anna");
        assert_eq!((done.attempts, done.number.as_str()), (1, MAILBOX), "{done:?}");
        assert_eq!(format!("{}@voicemail.test", done.id), mail.message_id);
        assert!(done.reason.contains("250 2.0.0 taken"), "the receiver's receipt: {done:?}");
        assert_eq!(cluster.cli(node).effect(&done.id[..8]).id, done.id, "the first digits name it");
    }

    // A test of the way ends before the mail; a test of the device is a mail without the sound.
    let tested = cluster.cli(&other).json(&["mail", "test", "anna@example.test"]);
    let steps: Vec<&str> =
        tested["steps"].as_array().into_iter().flatten().filter_map(|s| s["step"].as_str()).collect();
    assert!(tested["ok"] == true && steps.contains(&"recipient"), "{tested}");
    assert_eq!(receiver.mails().len(), 1);
    let tested = cluster.cli(&other).run(&["device", "test", MAILBOX, "anna"]);
    assert!(tested.status.success(), "{tested:?}");
    let mails = receiver.mails();
    assert_eq!(mails.len(), 2, "{mails:#?}");
    assert_eq!(receiver.read(&mails[1], None).attachments, Value::Array(vec![]));

    // An administrator does not wait for the delay of a device.
    cluster.cli(&publisher).json(&["device", "set", MAILBOX, "anna", "delay=3600"]);
    leave(&cluster, &other, MAILBOX);
    let waits = cluster.cli(&other).wait_for_effect("pending", SOON, |effect| effect.device == "anna");
    assert_eq!(waits.attempts, 0, "{waits:?}");
    cluster.cli(&other).json(&["outbox", "retry", &waits.id]);
    assert_eq!(receiver.wait_for_mails(3, SOON)[2].message_id, format!("{}@voicemail.test", waits.id));
}

/// Whether `mail test` succeeds, and its steps as text.
fn test_way(cli: &Cli) -> (bool, String) {
    let output = cli.run(&["--json", "mail", "test", "anna@example.test"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(output.status.success(), report["ok"] == true, "{output:?}");
    (output.status.success(), report["steps"].to_string())
}

#[test]
fn a_certificate_with_a_wrong_name_or_an_expired_one_holds_the_mail_back_until_it_is_mended() {
    if !need::all(&[need::POSTFIX, need::AIOSMTPD, need::OPENSSL]) {
        return;
    }
    let authority = Authority::new();
    authority.certify("other.test", Validity::Valid);
    let (cluster, (receiver, postfix, _names)) = Cluster::start_with(
        |phones| {
            let mut mail = way(&format!("mail.sender.test:{SMTP}"));
            mail.push(format!("ca_file = {:?}", authority.certificate()));
            mail.push(format!("dns_servers = [\"{}\"]", phones.port(5353)));
            Spec { mail, ..Spec::default() }
        },
        |phones| {
            let place = Postfix::place(phones);
            let names = vec![("mail.sender.test".to_owned(), Data::A(place.ip))];
            let receiver = MailReceiver::start(phones, SMTP);
            let settings = [
                format!("relayhost = [{}]:{SMTP}", phones.ip),
                format!("smtpd_tls_cert_file = {}", authority.server_certificate().display()),
                format!("smtpd_tls_key_file = {}", authority.server_key().display()),
                "smtpd_tls_security_level = may\nsmtpd_tls_received_header = yes".to_owned(),
            ];
            (receiver, Postfix::start(&place, SMTP, &settings), NameServer::start(phones, 5353, names))
        },
    );
    let cli = cluster.cli("a");
    add_device(&cli, MAILBOX, "anna", &["audio=yes"]);
    let deposit = leave(&cluster, "a", MAILBOX);
    let stuck = cli.wait_for_effect("failed", SOON, |effect| effect.reason.contains("another name"));
    assert!(stuck.reason.contains("mail.sender.test") && stuck.reason.contains("other.test"), "{stuck:?}");
    let (ok, steps) = test_way(&cli);
    assert!(!ok && steps.contains("another name"), "{steps}");

    authority.certify("mail.sender.test", Validity::Expired);
    cli.json(&["outbox", "retry", &stuck.id]);
    let expired = cli.wait_for_effect("failed", SOON, |effect| effect.reason.contains("expired"));
    assert_eq!(expired.id, stuck.id);
    let (ok, steps) = test_way(&cli);
    assert!(!ok && steps.contains("expired"), "{steps}");
    assert!(!postfix.log().contains("queued as") && receiver.mails().is_empty(), "{}", postfix.log());

    authority.certify("mail.sender.test", Validity::Valid);
    let (ok, steps) = test_way(&cli);
    assert!(ok, "{steps}");
    cli.json(&["outbox", "retry", &stuck.id]);
    let mail = receiver.wait_for_mails(1, SOON).remove(0);
    let content = receiver.read(&mail, None);
    assert_eq!(mail.message_id, format!("{}@voicemail.test", stuck.id));
    assert!(fs::read_to_string(&mail.file).expect("the mail").contains("using TLSv1."), "{content:?}");
    assert_said(content.sound.as_deref().expect("a sound file"), &deposit.speech, deposit.spoken);
    let done = cli.wait_for_effect("done", SOON, |effect| effect.id == stuck.id);
    assert!(done.attempts >= 3 && done.reason.contains("queued as"), "{done:?}");
}

/// Postfix defers one recipient and refuses another; then its table says otherwise.
#[test]
fn a_mail_that_postfix_defers_waits_and_one_that_it_refuses_is_a_dead_letter() {
    if !need::all(&[need::POSTFIX, need::AIOSMTPD]) {
        return;
    }
    let dir = TempDir::new().expect("a folder");
    let access = dir.path().join("access");
    fs::write(&access, "anna@example.test DEFER come later\nbert@example.test REJECT not here\n").expect("written");
    let (cluster, (receiver, _postfix)) = Cluster::start_with(
        |phones| Spec { mail: plain(Postfix::place(phones).port(SMTP)), ..Spec::default() },
        |phones| {
            let settings = [
                format!("relayhost = [{}]:{SMTP}", phones.ip),
                format!("smtpd_recipient_restrictions = check_recipient_access texthash:{}", access.display()),
            ];
            (MailReceiver::start(phones, SMTP), Postfix::start(&Postfix::place(phones), SMTP, &settings))
        },
    );
    let cli = cluster.cli("b");
    for name in ["anna", "bert"] {
        add_device(&cli, MAILBOX, name, &[]);
    }
    leave(&cluster, "a", MAILBOX);
    let dead = cli.wait_for_effect("dead", SOON, |effect| effect.device == "bert");
    assert!(dead.reason.contains("not here"), "{dead:?}");
    let deferred = cli.wait_for_effect("failed", SOON, |effect| effect.device == "anna");
    assert!(deferred.reason.contains("come later"), "{deferred:?}");
    assert!(receiver.mails().is_empty());
    fs::write(&access, "\n").expect("written");
    cli.json(&["outbox", "retry", &deferred.id]);
    let mail = receiver.wait_for_mails(1, SOON).remove(0);
    assert_eq!(mail.message_id, format!("{}@voicemail.test", deferred.id));
    cli.wait_for_effect("done", SOON, |effect| effect.id == deferred.id);
}

#[test]
fn a_deferred_mail_is_sent_again_and_a_refused_one_is_a_dead_letter_until_it_is_retried() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let (cluster, receiver) = with_receiver(&[]);
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    add_device(&a, MAILBOX, "anna", &[]);
    receiver.fail_once(MailFault::Defer);
    leave(&cluster, "a", MAILBOX);
    let deferred = a.wait_for_effect("failed", SOON, |effect| effect.reason.contains("451 4.3.0 come again"));
    assert_eq!(deferred.attempts, 1, "{deferred:?}");
    let mails = receiver.wait_for_mails(2, SOON);
    println!("sent again {:?} after it was deferred", mails[1].at.since(mails[0].at));
    let id = format!("{}@voicemail.test", deferred.id);
    assert_eq!(ids_and_outcomes(&mails), [(&*id, "defer"), (&*id, "accepted")]);
    let pause = mails[1].at.since(mails[0].at);
    assert!(pause > Duration::from_millis(7_400), "{pause:?}");
    let done = b.wait_for_effect("done", SOON, |effect| effect.id == deferred.id);
    assert_eq!(done.attempts, 2, "{done:?}");

    receiver.fail(MailFault::Refuse);
    leave(&cluster, "b", MAILBOX);
    let dead = b.wait_for_effect("dead", SOON, |effect| effect.reason.contains("550 5.7.1 not wanted here"));
    let alarm = wait_for("the dead letter as an alarm", SOON, || dead_letter_alarm(&b, &dead.id));
    assert_eq!((&alarm["subject"], &alarm["severity"]), (&"mail".into(), &"warning".into()), "{alarm}");
    receiver.accept(Duration::ZERO);
    let retried = a.json(&["outbox", "retry", &dead.id]);
    let again = retried["ids"][0].as_str().unwrap_or_else(|| panic!("{retried}"));
    let done = b.wait_for_effect("done", SOON, |effect| effect.id == again);
    assert_eq!((done.retries, done.message.as_str()), (1, dead.message.as_str()), "{done:?}");
    let mails = receiver.mails();
    let id = format!("{}@voicemail.test", dead.id);
    assert_eq!(ids_and_outcomes(&mails[2..]), [(&*id, "refuse"), (&*id, "accepted")]);
    let open = a.json(&["outbox", "list"]);
    assert!(open["effects"].as_array().is_none_or(Vec::is_empty), "nothing is left: {open}");
    assert_a_hold_outlives_a_move(&cluster, &receiver);
}

/// Mails to a destination on hold wait on the node that takes the duty, too, while that node sends the others. They
/// arrive once the destination is flushed.
fn assert_a_hold_outlives_a_move(cluster: &Cluster, receiver: &MailReceiver) {
    let (publisher, other) = cluster.publisher_and_other();
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let bert = Cluster::USERS[1].number;
    b.json(&["outbox", "hold", "Example.Test", "--reason", "rebuilt"]);
    a.json(&["device", "add", bert, "bert", "mail", "address=bert@elsewhere.test"]);
    let before = receiver.mails().len();
    leave(cluster, "a", MAILBOX);
    let held = b.wait_for_effect("held", SOON, |effect| effect.device == "anna");
    let moved = cluster.cli(&publisher).run(&["duty", "move", "mta", &other]);
    assert!(moved.status.success(), "{moved:?}");
    let holder = || {
        let list = cluster.cli(&other).try_json(&["duty", "list"]).ok()?;
        let duties = list["duties"].as_array()?;
        duties.iter().find(|duty| duty["duty"] == "mta" && duty["state"] == "running")?["holder"]
            .as_str()
            .map(str::to_owned)
    };
    wait_until("the duty to move", SOON, || holder().as_ref() == Some(&other));
    leave(cluster, "b", bert);
    let sent = receiver.wait_for_mails(before + 1, SOON).remove(before);
    assert_eq!(sent.recipients, ["bert@elsewhere.test"], "{sent:?}");
    assert_eq!(sent.hello, format!("{other}.voicemail.test"), "the new holder sends it");
    let still = cluster.cli(&other).effect(&held.id);
    assert_eq!((still.state.as_str(), still.attempts), ("held", 0), "{still:?}");
    let holds = a.json(&["outbox", "holds"]);
    let hold = &holds["holds"][0];
    assert_eq!((&hold["destination"], &hold["waiting"]), (&"example.test".into(), &1.into()), "{holds}");

    let flushed = a.json(&["outbox", "flush", "example.test"]);
    assert_eq!((&flushed["released"], &flushed["waiting"]), (&true.into(), &1.into()), "{flushed}");
    let mail = receiver.wait_for_mails(before + 2, SOON).remove(before + 1);
    assert_eq!(mail.message_id, format!("{}@voicemail.test", held.id));
    assert_eq!(mail.hello, format!("{other}.voicemail.test"), "{mail:?}");
    b.wait_for_effect("done", SOON, |effect| effect.id == held.id);
}

#[test]
fn a_mail_is_sent_again_under_the_same_id_wherever_the_server_breaks() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    // A later key of the same name would be a mistake.
    let opportunistic =
        |lines: Vec<String>| lines.into_iter().map(|l| l.replace("\"off\"", "\"opportunistic\"")).collect();
    let (cluster, receiver) = Cluster::start_with(
        |phones| Spec { mail: opportunistic(plain(phones.port(SMTP))), ..Spec::default() },
        |phones| MailReceiver::start(phones, SMTP),
    );
    let cli = cluster.cli("b");
    add_device(&cli, MAILBOX, "anna", &["audio=yes"]);
    receiver.fail(MailFault::Greeting);
    leave(&cluster, "a", MAILBOX);
    let mut effect = cli.wait_for_effect("failed", SOON, |effect| effect.attempts == 1);
    for fault in [MailFault::StartTls, MailFault::Data, MailFault::Reply] {
        println!("attempt {}: {}", effect.attempts, effect.reason);
        assert!(!effect.reason.is_empty(), "{effect:?}");
        receiver.fail(fault);
        cli.json(&["outbox", "retry", &effect.id]);
        let before = effect.attempts;
        let retried = |effect: &str| {
            cli.effects("failed").into_iter().find(|e| e.id == effect && !e.reason.contains("retried by"))
        };
        effect = wait_for("the next failure", SOON, || retried(&effect.id).filter(|e| e.attempts > before));
    }
    println!("attempt {}: {}", effect.attempts, effect.reason);
    receiver.accept(Duration::ZERO);
    cli.json(&["outbox", "retry", &effect.id]);
    let done = cli.wait_for_effect("done", SOON, |done| done.id == effect.id);
    assert!(done.attempts > 4, "{done:?}");
    // The servers that had the mail, the last of which answered: equal in every byte.
    let mails = receiver.mails();
    let id = format!("{}@voicemail.test", effect.id);
    let (last, broken) =
        ids_and_outcomes(&mails).split_last().map(|(last, rest)| (*last, rest.to_vec())).expect("mails");
    assert_eq!(last, (&*id, "accepted"));
    assert!(!broken.is_empty() && broken.iter().all(|mail| *mail == (&*id, "reply")), "{mails:#?}");
    let bytes: BTreeSet<Vec<u8>> = mails.iter().map(|mail| fs::read(&mail.file).expect("the mail")).collect();
    assert_eq!(bytes.len(), 1, "{mails:#?}");
}

#[test]
fn no_mail_is_sent_of_a_message_that_was_heard_or_deleted_before_the_delay_is_over() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let (cluster, receiver) = with_receiver(&[]);
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let [anna, bert] = Cluster::USERS;
    add_device(&a, anna.number, "anna", &["delay=20"]);
    add_device(&b, bert.number, "bert", &["delay=20"]);
    let (heard, _) = thread::scope(|scope| {
        let deleted = scope.spawn(|| leave(&cluster, "b", bert.number));
        (leave(&cluster, "a", anna.number), deleted.join())
    });
    let message = cluster.wait_for_messages("a", bert.number, 1, SOON).remove(0);
    assert!(a.run(&["message", "delete", bert.number, &message.id]).status.success());
    let left = heard.at;
    let pieces = listen(cluster.phones(), cluster.sip("b"), anna, &[heard], 0.8, Duration::from_secs(30));
    assert!(pieces[0].is_some(), "it is heard");
    wait_until("it to count as heard", SOON, || b.messages(anna.number)[0].state == "heard");
    println!("heard {:?} after it was left", left.elapsed());

    let reason = |device: &str| a.wait_for_effect("done", SOON, |effect| effect.device == device);
    for (device, expected) in [("anna", "the message was heard"), ("bert", "the message was deleted")] {
        let done = reason(device);
        assert_eq!((done.attempts, done.reason.as_str()), (0, expected), "{done:?}");
    }
    assert!(receiver.mails().is_empty(), "{:#?}", receiver.mails());
    assert!(receiver.sessions().is_empty(), "{:#?}", receiver.sessions());
}
