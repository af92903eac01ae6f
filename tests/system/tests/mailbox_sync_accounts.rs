//! Accounts that a class of service names, accounts whose owners gave access themselves (device grant, access tokens
//! that end, an owner who takes the access back), and a service account that acts for the owners.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::{Value, json};
use twinbox_peer_kit::{
    Dovecot, DovecotSettings, TokenEndpoint, need as peer_need,
    office::{ANNA, BERT, FOLDER, Office, SOON, accounts, ids, raised, text, wait_for_mails},
};
use twinbox_system_tests as _;
use twinbox_testkit::{
    Authority, Cluster, DkimKey, NetPlace, Process, Spec, Validity, binary, holds, need, wait_for, wait_until,
};

/// Port of the token endpoint at the phones' place.
const TOKENS: u16 = 8081;
const CLIENT: &str = "twinbox-app";
const SECRET: &str = "s3cret of twinbox";

/// A Dovecot that opens an account to its owner's tokens alone, and the provider of these tokens.
struct Provider {
    office: Office,
    tokens: TokenEndpoint,
    _authority: Authority,
}

impl Provider {
    /// `None` if the servers cannot run here. The mail server is `mail`, without an account; each round signs in again.
    fn start() -> Option<Self> {
        if !need::all(&[need::OPENSSL]) || !peer_need::all(&[peer_need::DOVECOT]) {
            return None;
        }
        let authority = Authority::new();
        let start = |phones: &NetPlace| {
            authority.certify(&format!("imap.test,IP:{}", phones.ip), Validity::Valid);
            let tokens = TokenEndpoint::start(phones, TOKENS, CLIENT, SECRET);
            let introspection = Some(tokens.introspection_url());
            let settings = DovecotSettings { introspection, personal_tokens: true, ..accounts(&[ANNA, BERT]) };
            (tokens, Dovecot::start(phones, &settings.with_tls(&authority)))
        };
        let (cluster, (tokens, dovecot)) = Cluster::start_with(|_| Spec::default(), start);
        let office = Office::of(cluster, dovecot);
        let (url, client) = (format!("token-url={}", tokens.token_url()), format!("client-id={CLIENT}"));
        let secret = format!("client-secret-file={}", office.secret("client", SECRET));
        let oauth = ["auth=refresh-token", "tls=implicit", "insecure=yes", "scope=mail offline_access", "idle=0"];
        let further = [&oauth[..], &[&url, &client, &secret]].concat();
        office.add_server("mail", office.dovecot.imaps(), &further);
        Some(Self { office, tokens, _authority: authority })
    }

    /// The owner of an account confirms the code that `server authorize` shows. Returns the path of the refresh token.
    fn authorize(&self, owner: &str) -> String {
        let (office, tokens) = (&self.office, &self.tokens);
        let file = office.files.path().join(format!("{owner}.token"));
        let log = office.files.path().join(format!("authorize-{}", tokens.issued()));
        let node = office.cluster.member("a");
        let mut command = Command::new(binary());
        command.arg("--socket").arg(node.home.join("admin.sock"));
        command.args([
            "mailbox-sync",
            "server",
            "authorize",
            "mail",
            "--device-url",
            &tokens.device_url(),
            "--file",
        ]);
        command.arg(&file);
        let mut process = Process::start("server authorize", command, &node.place, &log);
        let code = wait_for("the code", SOON, || {
            assert!(!process.is_dead(), "{}", process.tail(20));
            let said = process.log();
            let (code, _) = said.split_once("enter the code ")?.1.split_once(" within ")?;
            Some(code.to_owned())
        });
        let before = tokens.pending();
        wait_until("the command to ask before the code is confirmed", SOON, || tokens.pending() > before);
        tokens.confirm(&code, owner);
        let ended = process.wait(SOON);
        assert!(ended.is_some_and(|status| status.success()), "{}", process.tail(20));
        let mode = fs::metadata(&file).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the refresh token is for its owner alone");
        file.display().to_string()
    }

    /// Keeps a mailbox in the account that this refresh token opens.
    fn add(&self, number: &str, file: &str) {
        self.office.add("mail", &[number, &format!("password-file={file}")]);
    }

    /// Waits until no access token of the owner is valid any more.
    fn wait_for_the_end(&self, owner: &str) {
        wait_until("the last access token to end", SOON, || self.tokens.valid_of(owner) == 0);
    }
}

/// Sends each of the two a message of the other; returns their ids.
fn send_to_both(office: &Office) -> [String; 2] {
    [(BERT, ANNA), (ANNA, BERT)].map(|(from, to)| office.send("b", from, &[to]).remove(to).expect("an id"))
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn failing(office: &Office) -> Vec<Value> {
    let list = office.cli().json(&["mailbox-sync", "list", "--failing"]);
    list["accounts"].as_array().cloned().unwrap_or_default()
}

#[test]
fn confirmed_code_opens_the_account_of_its_owner_and_of_no_other_and_no_token_is_shown() {
    let Some(provider) = Provider::start() else { return };
    let office = &provider.office;
    let [anna, bert] = [ANNA, BERT].map(|owner| provider.authorize(owner));
    provider.add(ANNA, &anna);
    provider.add(BERT, &bert);
    let [to_anna, to_bert] = send_to_both(office);
    for (owner, id) in [(ANNA, &to_anna), (BERT, &to_bert)] {
        wait_for_mails(&mut office.dovecot.sign_in(owner), &[id]);
    }
    wait_until("both accounts", SOON, || {
        [ANNA, BERT].iter().all(|number| office.account(number)["state"] == "synced")
    });

    // The access of one person opens no other account.
    office.cli().json(&["mailbox-sync", "set", ANNA, &format!("password-file={bert}")]);
    office.run_until(ANNA, |outcome| outcome.starts_with("failed"));
    wait_until("the failure", SOON, || office.account(ANNA)["state"] == "failing");
    office.cli().json(&["mailbox-sync", "set", ANNA, &format!("password-file={anna}")]);
    let [more, _] = send_to_both(office);
    wait_for_mails(&mut office.dovecot.sign_in(ANNA), &[&to_anna, &more]);

    let cli = office.cli();
    let mut shown: Vec<String> = office.cluster.members().iter().map(|member| member.log()).collect();
    let lists: [&[&str]; 5] = [
        &["mailbox-sync", "list"],
        &["mailbox-sync", "show", ANNA],
        &["mailbox-sync", "server", "list"],
        &["mailbox-sync", "server", "show", "mail"],
        &["alarm", "list"],
    ];
    shown.extend(lists.iter().map(|command| cli.json(command).to_string()));
    for file in [&anna, &bert] {
        let token = fs::read_to_string(file).expect("the refresh token");
        assert!(shown.iter().all(|text| !text.contains(token.trim())), "the refresh token of {file} is shown");
    }
}

#[test]
fn access_tokens_that_end_are_replaced_and_access_that_is_taken_back_fails_that_account_alone() {
    let Some(provider) = Provider::start() else { return };
    let (office, tokens) = (&provider.office, &provider.tokens);
    tokens.live_for(5);
    for owner in [ANNA, BERT] {
        provider.add(owner, &provider.authorize(owner));
    }
    let (mut anna, mut bert) = (office.dovecot.sign_in(ANNA), office.dovecot.sign_in(BERT));
    let (mut of_anna, mut of_bert) = (Vec::new(), Vec::new());
    for round in 0..3 {
        if round > 0 {
            provider.wait_for_the_end(ANNA);
        }
        let before = tokens.issued();
        let [to_anna, to_bert] = send_to_both(office);
        of_anna.push(to_anna);
        of_bert.push(to_bert);
        wait_for_mails(&mut anna, &refs(&of_anna));
        wait_for_mails(&mut bert, &refs(&of_bert));
        // The first look at the new accounts may have fetched their tokens before the first messages were left.
        assert!(round == 0 || tokens.issued() > before, "round {round}: no new access token");
    }
    assert_eq!(tokens.refused(), 0);
    assert!(failing(office).is_empty(), "{:?}", failing(office));

    tokens.revoke(ANNA);
    provider.wait_for_the_end(ANNA);
    let [waits, to_bert] = send_to_both(office);
    of_bert.push(to_bert);
    wait_for_mails(&mut bert, &refs(&of_bert));
    wait_until("the failure", SOON, || office.account(ANNA)["state"] == "failing");
    let account = office.account(ANNA);
    assert!(text(&account["error"]).contains("invalid_grant"), "{account}");
    wait_until("the alarm", SOON, || raised(&office.cli(), "mailbox-sync-failing", "mail"));
    assert_eq!(failing(office).len(), 1, "{:?}", failing(office));
    let mut known = of_anna.clone();
    known.sort();
    assert_eq!(ids(&anna.mails(FOLDER)), known, "nothing arrives without access");

    // The other account goes on with new tokens meanwhile.
    provider.wait_for_the_end(BERT);
    let [also_waits, to_bert] = send_to_both(office);
    of_bert.push(to_bert);
    wait_for_mails(&mut bert, &refs(&of_bert));
    wait_until("the other account", SOON, || office.account(BERT)["state"] == "synced");

    // The owner gives access again, into the same file.
    provider.authorize(ANNA);
    office.run_until(ANNA, |outcome| outcome == "done");
    of_anna.extend([waits, also_waits]);
    wait_for_mails(&mut anna, &refs(&of_anna));
    wait_until("the end of the alarm", SOON, || !raised(&office.cli(), "mailbox-sync-failing", "mail"));
    wait_until("the end of the failure", SOON, || failing(office).is_empty());
}

#[test]
fn service_account_opens_each_account_for_its_owner_by_its_own_key_alone_and_the_key_is_not_shown() {
    let Some(provider) = Provider::start() else { return };
    let (office, tokens) = (&provider.office, &provider.tokens);
    let (email, keys) = ("voicemail@project.example", [DkimKey::new(), DkimKey::new()]);
    tokens.trust(email, &keys[0].file());
    let url = format!("token-url={}", tokens.token_url());
    for (name, key) in ["google", "stranger"].iter().zip(&keys) {
        let pem = fs::read_to_string(key.file()).expect("the key");
        let file = json!({ "client_email": email, "private_key": pem, "private_key_id": "1" }).to_string();
        let file = format!("key-file={}", office.secret(name, &file));
        let oauth = ["auth=service-account", "tls=implicit", "insecure=yes", "scope=mail", &url, &file];
        office.add_server(name, office.dovecot.imaps(), &oauth);
    }
    office.add("google", &[ANNA]);
    let [to_anna, _] = send_to_both(office);
    wait_for_mails(&mut office.dovecot.sign_in(ANNA), &[&to_anna]);
    assert!(tokens.valid_of(ANNA) > 0 && tokens.refused() == 0, "{tokens:?}");

    // The same name with another key.
    office.add("stranger", &[BERT]);
    let outcome = office.run_until(BERT, |outcome| outcome.starts_with("failed"));
    assert!(outcome.contains("invalid_grant") && tokens.valid_of(BERT) == 0, "{outcome}");
    assert!(office.dovecot.sign_in(BERT).mails(FOLDER).is_empty());

    let mut shown: Vec<String> = office.cluster.members().iter().map(|member| member.log()).collect();
    let lists: [&[&str]; 3] =
        [&["mailbox-sync", "list"], &["mailbox-sync", "server", "show", "google"], &["alarm", "list"]];
    shown.extend(lists.iter().map(|command| office.cli().json(command).to_string()));
    for key in &keys {
        let pem = fs::read_to_string(key.file()).expect("the key");
        let secret = pem.lines().nth(1).expect("a line of the key");
        assert!(shown.iter().all(|text| !text.contains(secret)), "a private key is shown");
    }
}

/// A server with `users=sales` has the accounts of that class, as far as they have a mail address.
#[test]
fn class_of_service_decides_whose_voicemail_is_in_an_account() {
    let Some(office) = Office::start(&accounts(&[ANNA, BERT])) else { return };
    let cli = office.cli();
    cli.json(&["cos", "add", "sales", "messages=50"]);
    for (number, mail) in [(ANNA, "anna@example.org"), (BERT, "bert@example.org")] {
        cli.json(&["user", "set", number, "--mail", mail]);
    }
    cli.json(&["user", "set", ANNA, "--cos", "sales"]);
    // A user of the class whose mail address is not known.
    cli.json(&["user", "add", "1003", "--name", "Carla"]);
    cli.json(&["user", "set", "1003", "--cos", "sales"]);
    office.add_server("mail", office.dovecot.imap(), &["users=sales"]);
    let listed = || {
        let list = office.cli().json(&["mailbox-sync", "list"]);
        let rows = list["accounts"].as_array().cloned().unwrap_or_default();
        let mut numbers: Vec<String> = rows.iter().map(|row| text(&row["number"])).collect();
        numbers.sort();
        numbers
    };
    let (mut anna, mut bert) = (office.dovecot.sign_in(ANNA), office.dovecot.sign_in(BERT));
    assert_eq!(listed(), [ANNA]);
    let [to_anna, to_bert] = send_to_both(&office);
    wait_for_mails(&mut anna, &[&to_anna]);
    office.wait_for_state(ANNA, &to_anna, "new");
    let refused = office.run(BERT);
    assert!(refused.0 != "done" && refused.1.contains("not synchronised"), "{refused:?}");
    assert!(bert.mails(FOLDER).is_empty());

    // A user who comes into the class gets all messages, and a change in the mail program arrives here.
    cli.json(&["user", "set", BERT, "--cos", "sales"]);
    let mail = wait_for_mails(&mut bert, &[&to_bert]).remove(0);
    bert.set(FOLDER, mail.uid, "\\Seen");
    office.wait_for_state(BERT, &to_bert, "heard");
    assert_eq!(listed(), [ANNA, BERT]);

    // Out of the class: the mails stay, and no further ones come.
    cli.json(&["user", "set", ANNA, "--cos", "default"]);
    wait_until("the account to leave", SOON, || listed() == [BERT]);
    let [_, again] = send_to_both(&office);
    wait_for_mails(&mut bert, &[&to_bert, &again]);
    assert_eq!(ids(&anna.mails(FOLDER)), [to_anna.as_str()]);

    // A class that keeps audio in the cluster has no accounts, and the list says why.
    cli.json(&["cos", "set", "sales", "audio-out=no"]);
    wait_until("the reason", SOON, || text(&office.account(BERT)["error"]).contains("audio-out=yes"));
    let [_, kept] = send_to_both(&office);
    let refused = holds(SOON, || Some(office.run(BERT)).filter(|run| run.1.contains("not synchronised")));
    assert!(refused.is_some(), "{:?}", office.run(BERT));
    assert_eq!(ids(&bert.mails(FOLDER)).len(), 2);
    cli.json(&["cos", "set", "sales", "audio-out=yes"]);
    wait_for_mails(&mut bert, &[&to_bert, &again, &kept]);
}
