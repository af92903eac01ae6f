//! Changes of each side reach the other.

use std::collections::BTreeSet;

use tempfile::TempDir;
use twinbox_peer_kit::{
    AccountMail, CuttingProxy, Dovecot, DovecotSettings, need as peer_need,
    office::{ANNA, FOLDER, Office, SOON, accounts, ids, mail_of, states, wait_for_mails},
    people::holder_of,
};
use twinbox_system_tests::growing::Clock;
use twinbox_testkit::{
    Call, Cli, Cluster, Endpoint, Invite, Lab, Spec, Transport, User, begin_to_speak,
    g711::{self, Law},
    hang_up, leave_message, need, sign_in, wait_for, wait_until,
};

use super::PROXY;

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
