//! Mails of the system: a report of calls, a warning to the owner of a full mailbox, and the first PIN of a new user from a
//! directory, each sent once.

use std::{fs, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Call, Cli, Cluster, Endpoint, Invite, MailContent, MailReceiver, NetPlace, ReceivedMail, Slapd, SlapdSettings,
    Spec, Transport, User, g711::Law, leave_message, need, sign_in, wait_until,
};

const SOON: Duration = Duration::from_secs(60);
/// Port of the mail server.
const SMTP: u16 = 2525;
/// Due on one day of the year: only an administrator runs such a job.
const YEARLY: [&str; 4] = ["--cron", "0 3 1 1 *", "--zone", "UTC"];
/// Number of the user from the directory.
const NUMBER: &str = "20001";

/// A cluster whose mails go to a receiver.
fn spec(phones: &NetPlace) -> Spec {
    let smarthost = format!("smarthost = \"{}\"", phones.port(SMTP));
    let mail = ["domain = \"voicemail.test\"", &smarthost, "tls = \"off\""].map(str::to_owned).to_vec();
    Spec { mail, ..Spec::default() }
}

fn start() -> (Cluster, MailReceiver) {
    Cluster::start_with(spec, |phones| MailReceiver::start(phones, SMTP))
}

fn add_job(cli: &Cli, name: &str, kind: &str, arguments: &[&str]) {
    cli.json(&[&["timetable", "add", name, "--job", kind][..], &YEARLY, arguments].concat());
}

/// Runs a job; returns its outcome.
fn run(cli: &Cli, name: &str) -> String {
    let ran = cli.json(&["timetable", "run", name]);
    assert_eq!(ran["runs"][0]["state"], "done", "{ran}");
    ran["runs"][0]["outcome"].as_str().unwrap_or_default().to_owned()
}

/// Waits until both nodes see that no mail of the system waits and this many were sent.
fn wait_until_sent(cluster: &Cluster, count: usize) {
    for node in ["a", "b"] {
        wait_until("all mails to be sent", SOON, || {
            let of = |state: &str| {
                let list = cluster.cli(node).try_json(&["outbox", "list", "--channel", "system", "--state", state]);
                list.ok().and_then(|list| list["effects"].as_array().map(Vec::len))
            };
            (of("pending"), of("failed"), of("done")) == (Some(0), Some(0), Some(count))
        });
    }
}

/// The only mail, as Python reads it.
fn only_mail(receiver: &MailReceiver) -> (ReceivedMail, MailContent) {
    let mails = receiver.mails();
    assert_eq!(mails.len(), 1, "{mails:#?}");
    let mail = mails[0].clone();
    let content = receiver.read(&mail, None);
    assert!(content.defects.is_empty(), "{content:?}");
    (mail, content)
}

#[test]
fn report_comes_by_mail_once_to_each_address_with_its_rows_as_a_file() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let (cluster, receiver) = start();
    let (publisher, other) = cluster.publisher_and_other();
    let deposit = leave_message(cluster.phones(), cluster.sip(&other), Cluster::USERS[0].number, 1.2);
    assert!(deposit.acknowledged(), "{deposit:?}");
    let (here, there) = (cluster.cli(&publisher), cluster.cli(&other));
    let traffic = || here.try_json(&["report", "traffic", "--last", "1h"]).unwrap_or_default();
    wait_until("the record of the call", SOON, || traffic()[0]["message_left"] == 1);
    let to = "to=boss@example.test,ops@example.test";
    add_job(&there, "daily", "report", &["report=traffic", "last=24h", to]);
    assert_eq!(run(&there, "daily"), "2 mails queued");
    wait_until_sent(&cluster, 2);

    let mut mails = receiver.mails();
    mails.sort_by(|a, b| a.recipients.cmp(&b.recipients));
    let to: Vec<&[String]> = mails.iter().map(|mail| mail.recipients.as_slice()).collect();
    assert_eq!(to, [&["boss@example.test".to_owned()][..], &["ops@example.test".to_owned()]]);
    assert_ne!(mails[0].message_id, mails[1].message_id);
    let content = receiver.read(&mails[0], None);
    assert!(content.defects.is_empty(), "{content:?}");
    assert_eq!(content.header("auto-submitted"), "auto-generated", "{content:?}");
    assert!(content.header("subject").contains("traffic (daily)"), "{content:?}");
    assert!(content.text.contains("MESSAGE LEFT") && content.text.contains(&other), "{content:?}");
    let file = &content.attachments[0];
    assert_eq!((&file["type"], content.attachments.as_array().map(Vec::len)), (&Value::from("text/csv"), Some(1)));
    let name = file["name"].as_str().unwrap_or_default();
    assert!(name.starts_with("daily-traffic-") && name.ends_with(".csv"), "{file}");

    let refused = there.run(&["timetable", "set", "daily", "to=nobody"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("'nobody'"),
        "{refused:?}"
    );
}

#[test]
fn owner_of_a_full_mailbox_is_warned_once() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let (cluster, receiver) = start();
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let [owner, silent] = Cluster::USERS;
    a.json(&["user", "set", owner.number, "--mail", "anna@example.test"]);
    a.json(&["cos", "set", "default", "messages=1"]);
    for user in [owner, silent] {
        let deposit = leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.2);
        assert!(deposit.acknowledged(), "{deposit:?}");
    }
    for node in ["a", "b"] {
        cluster.wait_for_messages(node, owner.number, 1, SOON);
        cluster.wait_for_messages(node, silent.number, 1, SOON);
    }
    add_job(&b, "warnings", "quota-warnings", &["owners=yes"]);
    let first = run(&b, "warnings");
    assert!(first.contains("1 owners warned, 1 have no mail address"), "{first}");
    let again = run(&a, "warnings");
    assert!(again.contains("0 owners warned, 1 have no mail address"), "{again}");
    wait_until_sent(&cluster, 1);
    let (mail, content) = only_mail(&receiver);
    assert_eq!(mail.recipients, ["anna@example.test"]);
    assert!(content.text.contains(owner.number) && content.text.contains("is full"), "{content:?}");
}

/// A directory with one person.
fn person() -> String {
    let suffix = Slapd::SUFFIX;
    format!(
        "dn: {suffix}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: ou=people,{suffix}\nobjectClass: organizationalUnit\nou: people\n\n\
         dn: uid=anna,ou=people,{suffix}\nobjectClass: inetOrgPerson\nuid: anna\ncn: Anna\nsn: A\n\
         displayName: Anna\nmail: anna@example.test\ntelephoneNumber: {NUMBER}\n\n"
    )
}

/// Calls, signs in and hangs up; true once the record of such a call says that the owner signed in.
fn signs_in(cluster: &Cluster, user: User) -> bool {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new("*97", user.number, endpoint.address());
    let placed = Call::place(cluster.phones(), cluster.sip("b"), Transport::Udp, &invite);
    let Ok(call) = placed else { return false };
    endpoint.send_to(call.media);
    sign_in(&endpoint, user);
    call.bye();
    let rows = cluster.cli("b").try_json(&["report", "users", "--last", "1h"]).unwrap_or_default();
    let signed_in = |row: &Value| row["mailbox"] == user.number && row["signed_in"].as_u64() > Some(0);
    rows.as_array().into_iter().flatten().any(signed_in)
}

/// Whether a text has these digits other than within a longer number, an id or a time.
fn has_word(text: &str, digits: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').any(|word| word == digits)
}

#[test]
fn new_user_from_a_directory_signs_in_with_the_first_pin_that_came_by_mail() {
    if !need::all(&[need::SLAPD, need::AIOSMTPD]) {
        return;
    }
    let (cluster, (receiver, slapd)) = Cluster::start_with(spec, |phones| {
        let [a, b, c, _] = phones.ip.octets();
        let place = phones.at(Ipv4Addr::new(a, b, c, 61));
        (MailReceiver::start(phones, SMTP), Slapd::start(&place, &SlapdSettings::default(), &person()))
    });
    let files = TempDir::new().expect("a folder");
    let password = files.path().join("bind");
    fs::write(&password, Slapd::PASSWORD).expect("written");
    let a = cluster.cli("a");
    a.json(&[
        "directory",
        "add",
        "corp",
        &format!("url=ldap://{}", slapd.ldap()),
        &format!("base=ou=people,{}", Slapd::SUFFIX),
        &format!("bind-dn={}", Slapd::ADMIN),
        &format!("password-file={}", password.display()),
        "start-tls=no",
        "number={telephoneNumber}",
        "first-pin=mail",
    ]);
    for expected in [1, 0] {
        let run = a.json(&["directory", "sync", "corp"]);
        assert_eq!(
            (&run["outcome"], run["counts"]["new"].as_u64()),
            (&Value::from("done"), Some(expected)),
            "{run}"
        );
    }
    wait_until_sent(&cluster, 1);
    let (mail, content) = only_mail(&receiver);
    assert_eq!(mail.recipients, ["anna@example.test"]);
    let pin = content.text.lines().find_map(|line| line.strip_prefix("First PIN: ")).expect("a PIN").trim();
    assert!(pin.len() >= 6 && pin.bytes().all(|byte| byte.is_ascii_digit()), "{pin}");

    // Neither the outbox nor a log shows it.
    let list = a.json(&["outbox", "list", "--channel", "system", "--state", "done"]);
    let id = list["effects"][0]["id"].as_str().expect("an id");
    let shown = a.run(&["--json", "outbox", "show", id]);
    assert!(shown.status.success() && !has_word(&String::from_utf8_lossy(&shown.stdout), pin), "{shown:?}");
    for member in cluster.members() {
        assert!(!has_word(&member.log(), pin), "{} has the PIN in its log", member.name);
    }

    let user = User { number: NUMBER, pin: Box::leak(pin.to_owned().into_boxed_str()) };
    wait_until("the owner to sign in", SOON, || signs_in(&cluster, user));
}
