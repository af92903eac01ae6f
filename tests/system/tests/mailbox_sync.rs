//! Voicemail in mail accounts of a Dovecot: changes of both sides, lost connections, full and lost accounts, hostile
//! servers, access tokens.

use std::collections::BTreeSet;

use tempfile::TempDir;
use twinbox_peer_kit::{
    AccountMail, Cut, CuttingProxy, Dovecot, DovecotSettings, HostileImap, Hostility, TokenEndpoint,
    need as peer_need,
    office::{ANNA, BERT, FOLDER, Office, SOON, accounts, ids, mail_of, raised, states, text, wait_for_mails},
    people::holder_of,
};
use twinbox_system_tests::growing::Clock;
use twinbox_testkit::{
    Authority, Call, Cli, Cluster, Endpoint, Invite, Lab, Place, Spec, Transport, User, Validity, begin_to_speak,
    g711::{self, Law},
    hang_up, leave_message, need, resident_bytes, sign_in, wait_for, wait_until,
};

/// Ports at the phones' place.
const PROXY: u16 = 1144;
const TOKENS: u16 = 8081;
const HOSTILE: [(&str, u16, Hostility); 4] = [
    ("silent", 1151, Hostility::Silence),
    ("huge", 1152, Hostility::HugeLiteral),
    ("lying", 1153, Hostility::LyingUids),
    ("changing", 1154, Hostility::ChangingUids),
];

/// The owner of a mailbox at a telephone, at the first new message, or the first old one if none is new.
struct Owner {
    call: Call,
    endpoint: Endpoint,
}

impl Owner {
    fn call(cluster: &Cluster, node: &str, user: User) -> Self {
        let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
        let invite = Invite::new("*97", user.number, endpoint.address());
        let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite);
        let call = call.unwrap_or_else(|refused| panic!("*97 is refused: {}", refused.status));
        endpoint.send_to(call.media);
        sign_in(&endpoint, user);
        Self { call, endpoint }
    }

    /// Presses a key until another message than before has this state; returns its id.
    fn press(&self, key: &str, cli: &Cli, number: &str, state: &str) -> String {
        let of_state = || {
            let all = states(cli, number).into_iter();
            all.filter(|(_, found)| found == state).map(|(id, _)| id).collect::<BTreeSet<_>>()
        };
        let before = of_state();
        self.endpoint.press(key);
        wait_for(&format!("a message to be {state} after {key}"), SOON, || {
            of_state().difference(&before).next().cloned()
        })
    }

    fn hang_up(self) {
        self.call.bye();
    }
}

/// Changes of each side reach the other, and so do changes of both.
fn both_sides_agree(masked: &[&'static str], is_watched: bool) {
    let settings = DovecotSettings { masked: masked.to_vec(), ..accounts(&[ANNA]) };
    let Some(mut office) = Office::start(&settings) else { return };
    office.is_polled = !is_watched;
    let proxy = CuttingProxy::start(office.cluster.phones(), PROXY, office.dovecot.imap());
    office.add_server("mail", proxy.address(), &[]);
    office.add("mail", &[ANNA]);
    let (cluster, cli) = (&office.cluster, office.cli());
    let deposit = leave_message(cluster.phones(), cluster.sip("b"), ANNA, 1.5);
    assert!(deposit.acknowledged(), "{deposit:?}");
    let id = cluster.wait_for_messages("a", ANNA, 1, SOON).remove(0).id;
    let mut anna = office.dovecot.sign_in(ANNA);
    let mail = wait_for_mails(&mut anna, &[&id]).remove(0);
    println!("in the account {:?} after the BYE was answered", deposit.at.elapsed());
    assert!(mail.flags.is_empty() && mail.message_id.ends_with(".twinbox.invalid"), "{mail:?}");
    let audio =
        g711::from_wav(mail.sound.as_deref().expect("a sound file"), Law::Mu).unwrap_or_else(|e| panic!("{e}"));
    let piece = deposit.speech.find_in(&audio, deposit.spoken).expect("it is what was said");
    assert!(piece.length == audio.len() && piece.seconds() > 1.0, "{piece:?}");

    // There: read, flagged, unread.
    for (set, unset, state) in [
        ("\\Seen", "", "heard"),
        ("\\Flagged", "", "saved"),
        ("", "\\Seen", "new"),
        ("\\Seen", "\\Flagged", "heard"),
    ] {
        if !set.is_empty() {
            anna.set(FOLDER, mail.uid, set);
        }
        if !unset.is_empty() {
            anna.unset(FOLDER, mail.uid, unset);
        }
        office.wait_for_state(ANNA, &id, state);
    }
    // There: moved out, and back.
    anna.move_to(FOLDER, mail.uid, "INBOX");
    office.wait_for_state(ANNA, &id, "deleted");
    let uid = anna.mails("INBOX").remove(0).uid;
    anna.move_to("INBOX", uid, FOLDER);
    office.wait_for_state(ANNA, &id, "heard");
    assert_eq!(ids(&anna.mails(FOLDER)), [id.as_str()]);

    // Here: saved, deleted, undeleted.
    let owner = Owner::call(cluster, "b", Cluster::USERS[0]);
    assert_eq!(owner.press("9", &cli, ANNA, "saved"), id);
    wait_until("the flags", SOON, || anna.mails(FOLDER).iter().all(|mail| mail.has_only(&["Seen", "Flagged"])));
    assert_eq!(owner.press("7", &cli, ANNA, "deleted"), id);
    wait_for_mails(&mut anna, &[]);
    assert_eq!(owner.press("7", &cli, ANNA, "saved"), id);
    let again = wait_for_mails(&mut anna, &[&id]).remove(0);
    assert!(again.message_id == mail.message_id && again.has_only(&["Seen", "Flagged"]), "{again:?}");
    owner.hang_up();

    // Both sides while they cannot reach each other.
    let three = [office.send_to_anna(), office.send_to_anna(), office.send_to_anna()];
    let mails = wait_for_mails(&mut anna, &[&id, &three[0], &three[1], &three[2]]);
    office.set_server("mail", &["port=1"]);
    office.run_until(ANNA, |outcome| outcome.contains("cannot reach"));
    let owner = Owner::call(cluster, "a", Cluster::USERS[0]);
    let outlives = owner.press("9", &cli, ANNA, "saved");
    owner.endpoint.press("6");
    let flagged = owner.press("9", &cli, ANNA, "saved");
    owner.endpoint.press("6");
    let deleted = owner.press("7", &cli, ANNA, "deleted");
    owner.hang_up();
    anna.expunge(FOLDER, mail_of(&mails, &outlives).uid);
    anna.set(FOLDER, mail_of(&mails, &flagged).uid, "\\Seen");
    anna.set(FOLDER, mail_of(&mails, &deleted).uid, "\\Flagged");
    office.set_server("mail", &[&format!("port={}", proxy.address().port())]);
    office.run_until(ANNA, |outcome| outcome == "done");
    let mails = wait_for_mails(&mut anna, &[&id, &outlives, &flagged]);
    assert!(mails.iter().all(|mail| mail.has_only(&["Seen", "Flagged"])), "{mails:#?}");
    for (id, state) in [(&id, "saved"), (&outlives, "saved"), (&flagged, "saved"), (&deleted, "deleted")] {
        office.wait_for_state(ANNA, id, state);
    }
    let resumes = !masked.contains(&"QRESYNC");
    assert_eq!(proxy.resumed() > 0, resumes, "{} looks were resumed", proxy.resumed());
    let test = cli.json(&["mailbox-sync", "server", "test", "mail"]).to_string();
    assert_eq!(test.contains("QRESYNC"), resumes, "{test}");
}

#[test]
fn changes_of_both_sides_agree_with_all_extensions() {
    both_sides_agree(&[], true);
}

/// As Exchange.
#[test]
fn changes_of_both_sides_agree_without_condstore_and_qresync() {
    both_sides_agree(&["CONDSTORE", "QRESYNC"], true);
}

#[test]
fn changes_of_both_sides_agree_with_plain_imap() {
    let masked = ["CONDSTORE", "QRESYNC", "ENABLE", "UIDPLUS", "MOVE", "IDLE", "ESEARCH", "LITERAL+", "SASL-IR"];
    both_sides_agree(&masked, false);
}

#[test]
fn lost_folders_other_uids_and_emptied_accounts_delete_nothing_until_an_administrator_accepts_it() {
    let Some(mut office) = Office::with_accounts(&[ANNA]) else { return };
    let three = [office.send_to_anna(), office.send_to_anna(), office.send_to_anna()];
    let three: Vec<&str> = three.iter().map(String::as_str).collect();
    let are = |office: &Office, state: &str| three.iter().for_each(|id| office.wait_for_state(ANNA, id, state));
    let mut anna = office.dovecot.sign_in(ANNA);
    wait_for_mails(&mut anna, &three);
    anna.delete_folder(FOLDER);
    wait_for_mails(&mut anna, &three);
    are(&office, "new");

    let validity = anna.uid_validity(FOLDER);
    office.dovecot.stop();
    office.dovecot.reset_uids(ANNA, FOLDER);
    office.dovecot.resume();
    office.run_until(ANNA, |outcome| outcome == "done");
    let mut anna = office.dovecot.sign_in(ANNA);
    let mails = wait_for_mails(&mut anna, &three);
    assert_ne!(anna.uid_validity(FOLDER), validity);
    are(&office, "new");
    anna.set(FOLDER, mail_of(&mails, three[0]).uid, "\\Seen");
    office.wait_for_state(ANNA, three[0], "heard");
    anna.unset(FOLDER, mail_of(&mails, three[0]).uid, "\\Seen");
    are(&office, "new");

    office.dovecot.stop();
    office.dovecot.empty(ANNA, FOLDER);
    office.dovecot.resume();
    office.run_until(ANNA, |outcome| outcome == "held-back");
    let (_, advice) = office.run(ANNA);
    assert!(advice.contains("--accept-deletions"), "{advice}");
    let account = office.account(ANNA);
    assert!(account["state"] == "held-back" && account["held_back"] == 3, "{account}");
    let users = office.cli().json(&["user", "list"]);
    let user = users["users"].as_array().into_iter().flatten().find(|user| user["number"] == ANNA).cloned();
    let id = user.unwrap_or_else(|| panic!("no {ANNA}: {users}"))["id"].as_str().unwrap_or_default().to_owned();
    wait_until("the alarm", SOON, || raised(&office.cli(), "mailbox-sync-held-back", &id));
    are(&office, "new");
    office.cluster.cli("b").json(&["mailbox-sync", "run", ANNA, "--accept-deletions"]);
    are(&office, "deleted");
    assert_eq!(office.account(ANNA)["held_back"], 0);
    assert!(office.dovecot.sign_in(ANNA).mails(FOLDER).is_empty());
}

#[test]
fn connection_is_cut_at_each_command_in_turn_and_each_message_is_there_once() {
    let Some(office) = Office::start(&accounts(&[ANNA])) else { return };
    let proxy = CuttingProxy::start(office.cluster.phones(), PROXY, office.dovecot.imap());
    office.add_server("mail", proxy.address(), &[]);
    office.add("mail", &[ANNA]);
    let mut anna = office.dovecot.sign_in(ANNA);
    let mut present = office.send_to_anna();
    wait_for_mails(&mut anna, &[&present]);
    // While there is no connection, a message arrives and another is deleted. Returns the command at which it was cut.
    let mut at = |cut: Cut| {
        proxy.refuse();
        let deleted = std::mem::replace(&mut present, office.send_to_anna());
        assert!(office.cli().run(&["message", "delete", ANNA, &deleted]).status.success());
        proxy.cut(cut);
        wait_until("the same on both sides", SOON, || {
            let well = office.run(ANNA).0 == "done";
            let there = ids(&anna.mails(FOLDER));
            assert_eq!(there.iter().collect::<BTreeSet<_>>().len(), there.len(), "{cut:?}: {there:#?}");
            well && there == [present.as_str()]
        });
        let command = proxy.was_cut();
        proxy.pass();
        println!("{cut:?}: {command:?}");
        command
    };
    assert_eq!(at(Cut::InLiteral).as_deref(), Some("APPEND"));
    for side in [Cut::Before, Cut::After] {
        let commands: Vec<String> = (0..40).map_while(|command| at(side(command))).collect();
        let has = |name: &str| commands.iter().any(|command| command.contains(name));
        assert!(has("SELECT") && has("APPEND") && has("STORE"), "{commands:?}");
    }
}

#[test]
fn full_account_is_listed_with_its_reason_holds_up_no_other_and_recovers() {
    let settings = DovecotSettings { quotas: vec![(ANNA.to_owned(), 100_000)], ..accounts(&[ANNA, BERT]) };
    let Some(office) = Office::start(&settings) else { return };
    let (mut anna, mut bert) = (office.dovecot.sign_in(ANNA), office.dovecot.sign_in(BERT));
    anna.append("INBOX", &format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(95_000)));
    office.add_server("mail", office.dovecot.imap(), &[]);
    office.add("mail", &[ANNA, BERT]);
    let (to_anna, to_bert) = (office.send_to_anna(), office.send("b", ANNA, &[BERT]).remove(BERT).expect("an id"));
    wait_for_mails(&mut bert, &[&to_bert]);
    wait_until("the failure", SOON, || office.account(ANNA)["state"] == "failing");
    let account = office.account(ANNA);
    assert!(text(&account["error"]).contains("the mail account is full"), "{account}");
    wait_until("the other account", SOON, || office.account(BERT)["state"] == "synced");
    let failing = office.cli().json(&["mailbox-sync", "list", "--failing"]);
    assert_eq!(failing["accounts"].as_array().map(Vec::len), Some(1), "{failing}");
    wait_until("the alarm", SOON, || raised(&office.cli(), "mailbox-sync-failing", "mail"));
    let more = office.send("b", ANNA, &[BERT]).remove(BERT).expect("an id");
    wait_for_mails(&mut bert, &[&to_bert, &more]);
    assert!(anna.mails(FOLDER).is_empty());

    let large = anna.mails("INBOX").remove(0).uid;
    anna.expunge("INBOX", large);
    office.run_until(ANNA, |outcome| outcome == "done");
    wait_for_mails(&mut anna, &[&to_anna]);
    assert_eq!(office.account(ANNA)["state"], "synced");
    wait_until("the end of the alarm", SOON, || !raised(&office.cli(), "mailbox-sync-failing", "mail"));
}

#[test]
fn hostile_servers_are_bounded_and_alarmed_delete_nothing_and_hold_up_no_other() {
    let Some(office) = Office::with_accounts(&[ANNA]) else { return };
    let (cluster, cli) = (&office.cluster, office.cli());
    let mut anna = office.dovecot.sign_in(ANNA);
    let first = office.send_to_anna();
    wait_for_mails(&mut anna, &[&first]);
    let memory = || ["a", "b"].map(|node| resident_bytes(cluster.member(node).pid()));
    let before = memory();
    let mut servers = Vec::new();
    for (number, (name, port, hostility)) in (2001..).zip(HOSTILE) {
        let (server, number) = (HostileImap::start(cluster.phones(), port, hostility), number.to_string());
        cli.json(&["user", "add", &number, "--name", name]);
        office.add_server(name, server.address(), &["timeout=2"]);
        office.add(name, &[&number]);
        let id = office.send("b", BERT, &[&number]).remove(&number).expect("an id");
        servers.push((name, number, id, server));
    }
    let second = office.send_to_anna();
    wait_for_mails(&mut anna, &[&first, &second]);
    for (name, number, id, server) in &servers {
        for _ in 0..3 {
            println!("{name}: {:?}", office.run(number));
        }
        assert!(server.connections() > 0, "{name}");
        office.wait_for_state(number, id, "new");
    }
    for (name, number, _, server) in &servers {
        if *name == "changing" {
            office.run_until(number, |outcome| outcome.contains("new UIDs at each look"));
        }
        // Three failures in a row raise the alarm: earlier looks may have ended without one.
        if ["changing", "lying"].contains(name) {
            (0..3).for_each(|_| drop(office.run(number)));
        }
        wait_until("the failure", SOON, || office.account(number)["state"] == "failing");
        let account = office.account(number);
        assert!(!text(&account["error"]).is_empty(), "{account}");
        wait_until("the alarm", SOON, || raised(&cli, "mailbox-sync-failing", name));
        assert!(server.mails() <= 3, "{name}: {} copies of one message", server.mails());
    }
    for (name, _, _, server) in &servers {
        let (connections, sent) = (server.connections(), server.sent());
        println!("{name}: {connections} connections, {} mails, {sent} bytes taken", server.mails());
        assert!(sent <= connections * (16 << 20), "{name}: {sent} bytes in {connections} connections");
    }
    let third = office.send_to_anna();
    wait_for_mails(&mut anna, &[&first, &second, &third]);
    for (node, (before, after)) in ["a", "b"].iter().zip(before.into_iter().zip(memory())) {
        println!("{node}: {} MiB before, {} MiB after", before >> 20, after >> 20);
        assert!(after < before + (64 << 20), "{node}: {before} bytes before, {after} after");
        assert!(!cluster.member(node).log().contains("panicked"), "{node}");
    }
}

/// The node that records is reached by no member, and the others file the part that they have. Its own message follows
/// when it is reached again.
#[test]
fn mail_of_a_part_is_replaced_by_that_of_the_whole_message_which_arrives_later() {
    if !need::all(&[need::NAMESPACES, need::FAKETIME]) || !peer_need::all(&[peer_need::DOVECOT]) {
        return;
    }
    let (lab, files) = (Lab::new(&["a", "b", "w"]), TempDir::new().expect("a folder"));
    let clock = Clock::new(files.path());
    let environment = |member: &'static str| clock.environment().map(|(name, value)| (member, name, value));
    let spec = Spec { env: ["a", "b", "w"].into_iter().flat_map(environment).collect(), ..Spec::default() };
    let dovecot = Dovecot::start(&lab.phones(), &accounts(&[ANNA]));
    let office = Office::of(Cluster::start_in(&lab, &spec), dovecot);
    let cluster = &office.cluster;
    let (publisher, other) = cluster.publisher_and_other();
    let cli = cluster.cli(&publisher);
    wait_until("the publisher to hold the duty", SOON, || {
        holder_of(&cli, "mailbox-sync").as_ref() == Some(&publisher)
    });
    office.add_server("mail", office.dovecot.imap(), &[]);
    office.add("mail", &[ANNA]);

    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(ANNA, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(&other), Transport::Udp, &invite);
    let call = call.unwrap_or_else(|refused| panic!("the call is refused: {}", refused.status));
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(3.0);
    lab.cut(&publisher, &other);
    lab.cut("w", &other);
    let part = wait_for("the part of the message", SOON, || {
        cli.try_messages(ANNA).ok()?.into_iter().find(|message| message.partial)
    });
    let mut anna = office.dovecot.sign_in(ANNA);
    let run = || drop(cli.run(&["mailbox-sync", "run", ANNA]));
    run();
    assert!(anna.mails(FOLDER).is_empty(), "a part waits for the rest");
    clock.move_to("+11m");
    let stub = wait_for("the mail of the part", SOON, || {
        run();
        anna.mails(FOLDER).into_iter().next()
    });
    assert!(stub.message_id.starts_with(&format!("{}.part@", part.id)), "{stub:?}");
    let sound = |mail: &AccountMail| {
        let wav = mail.sound.as_deref().expect("a sound file");
        g711::from_wav(wav, Law::Mu).unwrap_or_else(|e| panic!("{e}"))
    };
    let short = sound(&stub);

    // The recording goes on beyond the part that the others have.
    let spoken = short.len() as f64 / 8_000.0;
    endpoint.wait_spoken(spoken + 3.0);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{deposit:?}");
    lab.heal();
    cluster.wait_in_service();
    wait_until("the whole message", SOON, || {
        let messages = cli.try_messages(ANNA).unwrap_or_default();
        messages.len() == 1 && messages.iter().all(|message| message.id == part.id && !message.partial)
    });
    let name = format!("{}@", part.id);
    let whole = wait_for("the mail of the whole message alone", SOON, || {
        run();
        let mails = anna.mails(FOLDER);
        let is_alone = mails.len() == 1 && mails.iter().all(|mail| mail.message_id.starts_with(&name));
        is_alone.then(|| mails.into_iter().next()).flatten()
    });
    let audio = sound(&whole);
    let piece = deposit.speech.find_in(&audio, deposit.spoken).expect("it is what was said");
    assert!(piece.length == audio.len() && audio.len() > short.len() + 8_000, "{piece:?}, {} before", short.len());
    run();
    assert_eq!(ids(&anna.mails(FOLDER)), [part.id.as_str()]);
    for node in ["a", "b"] {
        assert_eq!(states(&cluster.cli(node), ANNA).len(), 1, "{node}");
    }
}

#[test]
fn access_tokens_and_certificates_are_checked_and_no_secret_is_shown() {
    if !need::all(&[need::OPENSSL]) || !peer_need::all(&[peer_need::DOVECOT]) {
        return;
    }
    let (secret, wrong, authority) = ("s3cret of twinbox", "another s3cret", Authority::new());
    let start = |phones: &Place| {
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
    assert!(outcome.contains("TLS"), "{outcome}");
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
