//! Mail over encrypted and over many connections: users sign in to mail in, mail out signs in to a smarthost only after it
//! has verified the server, mail out finds the servers of a domain, and silent clients do not keep a mail out.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Authority, Cli, Cluster, Data, MailLogin, MailReceiver, NameServer, NetPlace, Spec, Speech, Swaks, Validity,
    g711::{self, Law},
    leave_message, need, resident_bytes,
};

const SOON: Duration = Duration::from_secs(40);
const SMTP: u16 = 2525;
const DNS: u16 = 5353;
const MAILBOX: &str = Cluster::USERS[0].number;

/// `[mail]` with mail in.
fn mail_in(lines: &[String]) -> Vec<String> {
    let own = ["domain = \"voicemail.test\"".to_owned(), format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]")];
    [&own[..], lines].concat()
}

fn sound_file(dir: &TempDir, speech: &Speech) -> PathBuf {
    let path = dir.path().join("sound.wav");
    fs::write(&path, g711::to_wav(&speech.bytes(0, 12_000), Law::Mu)).expect("written");
    path
}

/// A mail from user 1002 to user 1001 by way of a node.
fn mail(cluster: &Cluster, node: &str) -> Swaks {
    let from = format!("{}@voicemail.test", Cluster::USERS[1].number);
    Swaks::new(cluster.member(node).place.port(SMTP), &from, &format!("{MAILBOX}@voicemail.test"))
}

/// Another address of the block in which the phones are.
fn place(phones: &NetPlace, last: u8) -> NetPlace {
    let [a, b, c, _] = phones.ip.octets();
    phones.at(Ipv4Addr::new(a, b, c, last))
}

fn leave(cluster: &Cluster, node: &str) {
    let deposit = leave_message(cluster.phones(), cluster.sip(node), MAILBOX, 1.2);
    assert!(deposit.acknowledged(), "{deposit:?}");
}

fn add_device(cli: &Cli, name: &str, address: &str) {
    cli.json(&["device", "add", MAILBOX, name, "mail", &format!("address={address}")]);
}

#[test]
fn a_user_sends_a_message_by_mail_only_after_starttls_and_sign_in() {
    if !need::all(&[need::SWAKS_TLS, need::OPENSSL]) {
        return;
    }
    let authority = Authority::new();
    authority.certify("mail.voicemail.test", Validity::Valid);
    let files = [
        format!("certificate_file = {:?}", authority.server_certificate()),
        format!("key_file = {:?}", authority.server_key()),
    ];
    let cluster = Cluster::start(&Spec { mail: mail_in(&files), ..Spec::default() });
    let (dir, speech, user) = (TempDir::new().expect("a folder"), Speech::unique(), Cluster::USERS[1]);
    let sound = sound_file(&dir, &speech);
    for (what, refused, expected) in [
        ("no sign-in", mail(&cluster, "a"), "530 5.7.0"),
        ("no sign-in over TLS", mail(&cluster, "b").starttls(), "530 5.7.0"),
        ("a wrong PIN", mail(&cluster, "a").starttls().sign_in(user.number, "000000"), "535 5.7.8"),
    ] {
        let sent = refused.attach(&sound, "audio/wav").send();
        assert!(!sent.taken && sent.refusal().starts_with(expected), "{what}: {}", sent.transcript);
    }
    // Without TLS no sign-in is offered, and the client sends no PIN.
    let sent = mail(&cluster, "a").sign_in(user.number, user.pin).attach(&sound, "audio/wav").send();
    assert!(!sent.taken && !sent.transcript.contains("-> AUTH"), "{}", sent.transcript);
    for node in ["a", "b"] {
        assert!(cluster.cli(node).messages(MAILBOX).is_empty());
    }

    let sent = mail(&cluster, "b").starttls().sign_in(user.number, user.pin).attach(&sound, "audio/wav").send();
    assert!(sent.taken && sent.transcript.contains("TLS started with cipher TLSv1."), "{}", sent.transcript);
    for node in ["a", "b"] {
        let message = cluster.wait_for_messages(node, MAILBOX, 1, SOON).remove(0);
        assert_eq!(message.caller, user.number, "the sender is the user that signed in");
        let audio = cluster.cli(node).audio(MAILBOX, &message.id, Law::Mu).expect("its audio");
        assert_eq!(audio, speech.bytes(0, 12_000));
    }
}

#[test]
fn the_password_for_a_smarthost_goes_only_to_a_verified_server() {
    if !need::all(&[need::AIOSMTPD, need::OPENSSL]) {
        return;
    }
    let authority = Authority::new();
    authority.certify("other.test", Validity::Valid);
    let (cluster, (receiver, _names)) = Cluster::start_with(
        |phones| Spec {
            mail: vec![
                "domain = \"voicemail.test\"".to_owned(),
                format!(
                    "smarthost = \"mail.sender.test:{SMTP}\"\nuser = \"twinbox\"\npassword = \"correct horse\""
                ),
                format!("ca_file = {:?}", authority.certificate()),
                format!("dns_servers = [\"{}\"]", phones.port(DNS)),
            ],
            ..Spec::default()
        },
        |phones| {
            let names = vec![("mail.sender.test".to_owned(), Data::A(phones.ip))];
            let receiver = MailReceiver::start_with_login(phones, SMTP, &authority);
            (receiver, NameServer::start(phones, DNS, names))
        },
    );
    let cli = cluster.cli("b");
    add_device(&cli, "anna", "anna@example.test");
    leave(&cluster, "a");
    let failed = |part: &'static str| cli.wait_for_effect("failed", SOON, |effect| effect.reason.contains(part));
    let stuck = failed("another name");
    authority.certify("mail.sender.test", Validity::Expired);
    cli.json(&["outbox", "retry", &stuck.id]);
    failed("expired");
    assert!(receiver.logins().is_empty(), "the password left: {:?}", receiver.logins());

    authority.certify("mail.sender.test", Validity::Valid);
    receiver.admit("twinbox", "another password");
    cli.json(&["outbox", "retry", &stuck.id]);
    let refused = failed("535");
    assert_eq!(refused.id, stuck.id, "{refused:?}");
    receiver.admit("twinbox", "correct horse");
    cli.json(&["outbox", "retry", &stuck.id]);
    let mail = receiver.wait_for_mails(1, SOON).remove(0);
    assert_eq!(mail.message_id, format!("{}@voicemail.test", stuck.id));
    cli.wait_for_effect("done", SOON, |effect| effect.id == stuck.id);
    let login = |accepted| MailLogin { user: "twinbox".to_owned(), accepted };
    let logins = receiver.logins();
    assert!(logins.contains(&login(false)) && logins.last() == Some(&login(true)), "{logins:?}");
    for node in ["a", "b"] {
        assert!(!cluster.member(node).log().contains("correct horse"), "{node} has the password in its log");
    }
}

#[test]
fn mail_goes_to_the_servers_of_its_domain_in_their_order() {
    if !need::all(&[need::AIOSMTPD, need::LOW_PORTS]) {
        return;
    }
    let (cluster, (receiver, names)) = Cluster::start_with(
        |phones| Spec {
            mail: vec![
                "domain = \"voicemail.test\"\ndirect = true".to_owned(),
                format!("dns_servers = [\"{}\"]", phones.port(DNS)),
            ],
            ..Spec::default()
        },
        |phones| {
            let (dead, alive) = (place(phones, 61), place(phones, 62));
            let record = |name: &str, data| (name.to_owned(), data);
            let names = vec![
                record("example.test", Data::Mx(10, "dead.example.test".to_owned())),
                record("example.test", Data::Mx(20, "alive.example.test".to_owned())),
                record("dead.example.test", Data::A(dead.ip)),
                record("alive.example.test", Data::A(alive.ip)),
                record("nomail.test", Data::Mx(0, String::new())),
            ];
            (MailReceiver::start(&alive, 25), NameServer::start(phones, DNS, names))
        },
    );
    let cli = cluster.cli("a");
    add_device(&cli, "anna", "anna@example.test");
    add_device(&cli, "null", "anna@nomail.test");
    add_device(&cli, "unknown", "anna@missing.test");
    leave(&cluster, "b");
    let mail = receiver.wait_for_mails(1, SOON).remove(0);
    assert_eq!(mail.recipients, ["anna@example.test"]);
    let done = cli.wait_for_effect("done", SOON, |effect| effect.device == "anna");
    assert!(done.attempts == 1 && done.reason.contains("alive.example.test"), "{done:?}");
    for (device, part) in [("null", "null MX"), ("unknown", "missing.test")] {
        let dead = cli.wait_for_effect("dead", SOON, |effect| effect.device == device);
        assert!(dead.reason.contains(part), "{dead:?}");
    }
    assert_eq!(receiver.mails().len(), 1, "{:#?}", receiver.mails());
    assert!(names.asked() > 0);
}

/// Lets this process open a thousand connections.
fn allow_connections() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get one rlimit that lives across them.
    let raised = unsafe {
        let known = libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0;
        limit.rlim_cur = limit.rlim_max.min(4_096);
        known && libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
    };
    assert!(raised && limit.rlim_cur > 1_200, "1,200 file descriptors are needed: {}", limit.rlim_cur);
}

#[test]
fn a_mail_gets_through_beside_a_thousand_silent_connections() {
    if !need::all(&[need::SWAKS]) {
        return;
    }
    allow_connections();
    // swaks sends from this address; the silent clients are strangers.
    let trusted = ["networks = [\"127.0.0.1/32\"]".to_owned()];
    let cluster = Cluster::start(&Spec { mail: mail_in(&trusted), ..Spec::default() });
    let (dir, node) = (TempDir::new().expect("a folder"), cluster.member("a"));
    let before = resident_bytes(node.pid());
    let mut silent: Vec<TcpStream> = Vec::new();
    for last in 110..160 {
        let from = place(cluster.phones(), last);
        silent.extend((0..20).map(|_| from.tcp(node.place.port(SMTP)).expect("connected")));
    }
    let greeted = silent.iter_mut().filter_map(|stream| {
        let mut code = [0; 3];
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.read_exact(&mut code).ok().map(|()| code)
    });
    let greeted = greeted.filter(|code| code == b"220").count();
    println!("{greeted} of {} connections were greeted", silent.len());
    assert!((500..1_000).contains(&greeted), "some are refused, so that there is room for others: {greeted}");

    let sound = sound_file(&dir, &Speech::unique());
    let sent = mail(&cluster, "a").attach(&sound, "audio/wav").send();
    assert!(sent.taken, "{}", sent.transcript);
    for node in ["a", "b"] {
        cluster.wait_for_messages(node, MAILBOX, 1, SOON);
    }
    let grown = resident_bytes(node.pid()).saturating_sub(before);
    println!("{} KiB more are resident", grown / 1024);
    assert!(grown < 64 << 20, "{grown} bytes for silent connections");
    drop(silent);
}
