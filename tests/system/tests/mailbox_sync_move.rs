//! The duty mailbox sync moves while messages are on their way into accounts: each is there once, and both nodes agree.

use std::{fs, time::Duration};

use twinbox_peer_kit::{
    Dovecot, need as peer_need,
    office::{BERT, FOLDER, Office, SOON, accounts, ids, states, text},
};
use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Lab, Spec, need, parameter, wait_for, wait_until};

/// Accounts with messages arriving while the duty moves.
struct UnderWay {
    office: Office,
    numbers: Vec<String>,
    /// The node that holds the duty, and the other.
    holder: String,
    other: String,
    sent: usize,
}

/// `TWINBOX_SYNC_ACCOUNTS=50` sets the full size.
fn numbers() -> Vec<String> {
    (0..parameter("TWINBOX_SYNC_ACCOUNTS", 20)).map(|n| (20_000 + n).to_string()).collect()
}

impl UnderWay {
    fn begin() -> Option<Self> {
        let numbers = numbers();
        Some(Self::of(Office::start(&accounts(&refs(&numbers)))?, numbers))
    }

    fn of(office: Office, numbers: Vec<String>) -> Self {
        let table: String = numbers.iter().map(|number| format!("{number},User {number}\n")).collect();
        let file = office.files.path().join("users.csv");
        fs::write(&file, format!("number,name\n{table}")).expect("written");
        office.cli().json(&["user", "import", &file.display().to_string()]);
        for (node, number) in ["a", "b"].iter().flat_map(|node| numbers.iter().map(move |number| (node, number))) {
            wait_until("the users", SOON, || office.cluster.cli(node).try_messages(number).is_ok());
        }
        let holder = wait_for("the duty to run", SOON, || {
            let duties = office.cli().try_json(&["duty", "list"]).ok()?;
            let duty = duties["duties"].as_array()?.iter().find(|duty| duty["duty"] == "mailbox-sync")?;
            (duty["state"] == "running").then(|| text(&duty["holder"]))
        });
        let other = if holder == "a" { "b" } else { "a" }.to_owned();
        office.add_server("mail", office.dovecot.imap(), &["timeout=5"]);
        office.add("mail", &refs(&numbers));
        let mut mails = Self { office, numbers, holder, other, sent: 0 };
        mails.send();
        mails.send();
        let arrived = wait_for("the first mails", SOON, || Some(mails.arrived()).filter(|arrived| *arrived > 0));
        println!("{arrived} of {} had arrived before the move", mails.sent * mails.numbers.len());
        mails
    }

    /// Sends a message to all from the other node.
    fn send(&mut self) {
        self.office.send(&self.other, BERT, &refs(&self.numbers));
        self.sent += 1;
    }

    /// Number of mails in all accounts.
    fn arrived(&self) -> usize {
        self.numbers.iter().map(|number| self.office.dovecot.sign_in(number).mails(FOLDER).len()).sum()
    }

    /// Sends once more, waits until each account has each message of these nodes, and checks that none comes twice.
    fn end(&mut self, nodes: &[&str]) {
        self.send();
        let limit = SOON + Duration::from_millis(200) * (self.sent * self.numbers.len()) as u32;
        for again in [false, true] {
            for number in &self.numbers {
                let mut user = self.office.dovecot.sign_in(number);
                if again {
                    self.office.run(number);
                }
                for node in nodes {
                    wait_until(&format!("{number} to be the same on {node}"), limit, || {
                        let here: Vec<_> = states(&self.office.cluster.cli(node), number).into_keys().collect();
                        let there = ids(&user.mails(FOLDER));
                        assert!(there.len() <= self.sent, "a message is there twice: {there:?}");
                        here.len() == self.sent && there == here
                    });
                }
            }
        }
    }
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn holder_is_killed_while_messages_are_on_their_way_and_each_is_in_its_account_once() {
    let Some(mut mails) = UnderWay::begin() else { return };
    let (holder, other) = (mails.holder.clone(), mails.other.clone());
    mails.office.cluster.kill(&holder);
    mails.end(&[&other]);
    mails.office.cluster.start_member(&holder);
    mails.office.cluster.wait_in_service();
    mails.end(&["a", "b"]);
}

#[test]
fn duty_is_moved_while_messages_are_on_their_way_and_each_is_in_its_account_once() {
    let Some(mut mails) = UnderWay::begin() else { return };
    mails.office.cluster.cli(&mails.other).order(&["duty", "move", "mailbox-sync", &mails.other]);
    mails.end(&["a", "b"]);
}

/// The holder still reaches the mail server, but no member.
#[test]
fn holder_is_cut_off_while_messages_are_on_their_way_and_each_is_in_its_account_once() {
    if !need::all(&[need::NAMESPACES]) || !peer_need::all(&[peer_need::DOVECOT]) {
        return;
    }
    let (lab, numbers) = (Lab::new(&["a", "b", "w"]), numbers());
    let dovecot = Dovecot::start(&lab.phones(), &accounts(&refs(&numbers)));
    let office = Office::of(Cluster::start_in(&lab, &Spec::default()), dovecot);
    let mut mails = UnderWay::of(office, numbers);
    lab.cut(&mails.holder, &mails.other);
    lab.cut(&mails.holder, "w");
    let other = mails.other.clone();
    mails.end(&[&other]);
    lab.heal();
    mails.office.cluster.wait_in_service();
    mails.end(&["a", "b"]);
}
