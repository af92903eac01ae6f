//! Lost folders, cut connections, full accounts and hostile servers.

use std::collections::BTreeSet;

use twinbox_peer_kit::{
    Cut, CuttingProxy, DovecotSettings, HostileImap, Hostility,
    office::{ANNA, BERT, FOLDER, Office, SOON, accounts, ids, mail_of, raised, text, wait_for_mails},
};
use twinbox_testkit::{resident_bytes, wait_until};

use super::PROXY;

/// Hostile servers with their ports at the phones' place.
const HOSTILE: [(&str, u16, Hostility); 4] = [
    ("silent", 1151, Hostility::Silence),
    ("huge", 1152, Hostility::HugeLiteral),
    ("lying", 1153, Hostility::LyingUids),
    ("changing", 1154, Hostility::ChangingUids),
];

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
