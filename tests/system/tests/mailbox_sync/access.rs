//! Access tokens, certificates and settings.

use twinbox_peer_kit::{
    Dovecot, DovecotSettings, TokenEndpoint, need as peer_need,
    office::{ANNA, BERT, Office, SOON, accounts, raised, text, wait_for_mails},
};
use twinbox_testkit::{Authority, Cluster, NetPlace, Spec, Validity, need, wait_until};

/// Port of the token endpoint at the phones' place.
const TOKENS: u16 = 8081;

#[test]
fn access_tokens_and_certificates_are_checked_and_no_secret_is_shown() {
    if !need::all(&[need::OPENSSL]) || !peer_need::all(&[peer_need::DOVECOT]) {
        return;
    }
    let (secret, wrong, authority) = ("s3cret of twinbox", "another s3cret", Authority::new());
    let start = |phones: &NetPlace| {
        authority.certify(&format!("imap.test,IP:{}", phones.ip), Validity::Valid);
        let tokens = TokenEndpoint::start(phones, TOKENS, "twinbox-app", secret);
        let introspection = Some(tokens.introspection_url());
        let settings = DovecotSettings { introspection, ..accounts(&[ANNA, BERT]) }.with_tls(&authority);
        (tokens, Dovecot::start(phones, &settings))
    };
    let (cluster, (tokens, dovecot)) = Cluster::start_with(|_| Spec::default(), start);
    let office = Office::of(cluster, dovecot);
    let file = |name: &str, secret: &str| format!("client-secret-file={}", office.secret(name, secret));
    let (right, wrong_file) = (file("right", secret), file("wrong", wrong));
    let token_url = format!("token-url={}", tokens.token_url());
    let oauth = ["auth=client-credentials", "tls=implicit", "insecure=yes", &token_url, "client-id=twinbox-app"];
    office.add_server("exchange", office.dovecot.imaps(), &[&oauth[..], &[&wrong_file]].concat());
    office.add("exchange", &[ANNA]);
    let id = office.send_to_anna();
    let outcome = office.run_until(ANNA, |outcome| outcome.starts_with("failed"));
    assert!(outcome.contains("invalid_client"), "{outcome}");
    wait_until("the alarm", SOON, || raised(&office.cli(), "mailbox-sync-failing", "exchange"));
    assert!(text(&office.account(ANNA)["error"]).contains("invalid_client"), "{}", office.account(ANNA));
    (0..5).for_each(|_| drop(office.run(ANNA)));
    assert!((1..=20).contains(&tokens.refused()) && tokens.issued() == 0, "{tokens:?}");

    office.set_server("exchange", &[&right]);
    office.run_until(ANNA, |outcome| outcome == "done");
    wait_for_mails(&mut office.dovecot.sign_in(ANNA), &[&id]);
    assert_eq!(tokens.issued(), 1);
    wait_until("the end of the alarm", SOON, || !raised(&office.cli(), "mailbox-sync-failing", "exchange"));

    // A certificate of an authority that the system does not know.
    let master = format!("master-user={}", Dovecot::MASTER);
    let file = format!("password-file={}", office.secret("master", Dovecot::MASTER_PASSWORD));
    let further = ["auth=master-user", "tls=implicit", &master, &file];
    office.add_server("corp", office.dovecot.imaps(), &further);
    office.add("corp", &[BERT]);
    let id = office.send("b", ANNA, &[BERT]).remove(BERT).expect("an id");
    let outcome = office.run_until(BERT, |outcome| outcome.starts_with("failed"));
    assert!(outcome.contains("unknown authority: set ca-file"), "{outcome}");
    let test = office.cli().run(&["mailbox-sync", "server", "test", "corp"]);
    assert!(!test.status.success(), "{test:?}");
    let ca = format!("ca-file={}", authority.certificate().display());
    for settings in [&[&ca[..]][..], &["tls=starttls", &format!("port={}", office.dovecot.imap().port())]] {
        office.set_server("corp", settings);
        office.run_until(BERT, |outcome| outcome == "done");
        wait_for_mails(&mut office.dovecot.sign_in(BERT), &[&id]);
        office.cli().json(&["mailbox-sync", "server", "test", "corp"]);
    }

    let cli = office.cli();
    let mut shown: Vec<String> = office.cluster.members().iter().map(|member| member.log()).collect();
    let lists: [&[&str]; 5] = [
        &["mailbox-sync", "list"],
        &["mailbox-sync", "show", ANNA],
        &["mailbox-sync", "server", "list"],
        &["mailbox-sync", "server", "show", "corp"],
        &["alarm", "list"],
    ];
    shown.extend(lists.iter().map(|command| cli.json(command).to_string()));
    for secret in [secret, wrong, Dovecot::MASTER_PASSWORD] {
        assert!(shown.iter().all(|text| !text.contains(secret)), "'{secret}' is shown");
    }
}

#[test]
fn mistyped_and_wrong_settings_are_refused_by_name() {
    let cluster = Cluster::start(&Spec::default());
    let cli = cluster.cli("a");
    let host = "host=imap.example.com";
    cli.json(&["mailbox-sync", "server", "add", "mail", host, "password-file=/etc/twinbox/imap"]);
    let server = |settings: &[&'static str]| [&["mailbox-sync", "server", "add", "other"], settings].concat();
    let cases = [
        (server(&["hots=imap.example.com"]), &["'hots'", "host"][..]),
        (server(&[host, "port=99999"]), &["99999", "port"]),
        (server(&[host, "auth=passwd"]), &["passwd", "master-user"]),
        (server(&[host, "auth=master-user"]), &["auth=master-user", "master-user"]),
        (server(&[host, "auth=client-credentials"]), &["client-credentials", "token-url"]),
        (server(&[host, "password=secret"]), &["'password'", "password-file"]),
        (server(&[host, "connections=0"]), &["connections", "1 to 200"]),
        (server(&[host, "tls=ssl"]), &["'ssl'", "implicit"]),
        (server(&["port=993"]), &["host"]),
        (vec!["mailbox-sync", "server", "set", "mial", "port=993"], &["mial"]),
        (vec!["mailbox-sync", "add", ANNA, "--server", "mial"], &["mial"]),
        (vec!["mailbox-sync", "add", "4711", "--server", "mail"], &["4711"]),
        (vec!["mailbox-sync", "add", ANNA, "--server", "mail", "floder=INBOX"], &["'floder'", "folder"]),
        (vec!["mailbox-sync", "run", "4711"], &["4711"]),
        (vec!["mailbox-sync", "run", BERT], &[BERT]),
    ];
    for (command, expected) in cases {
        let output = cli.run(&command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command:?}");
        assert!(expected.iter().all(|part| said.contains(part)), "{command:?}: {said}");
    }
    let list = cli.json(&["mailbox-sync", "server", "list"]);
    assert_eq!(list["servers"].as_array().map(Vec::len), Some(1), "{list}");
    assert!(cli.json(&["mailbox-sync", "list"])["accounts"].as_array().is_none_or(Vec::is_empty));
}
