//! Both synchronisations move while both are under way: users from a directory, and voicemail in mail accounts.
//! Afterwards both nodes have exactly the people of the server, once each, and each account has each message once.
//!
//! `TWINBOX_SYNC_USERS=5000 TWINBOX_SYNC_ACCOUNTS=50` sets the full size.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    time::Duration,
};

use twinbox_peer_kit::{
    Dovecot, HoldingRelay, need as peer_need,
    office::{BERT, FOLDER, Office, SOON, accounts, ids, states},
    people::{add_directory, holder_of, listed_users, name_of, people},
};
use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Lab, NetPlace, Slapd, SlapdSettings, Spec, need, parameter, wait_for, wait_until};

/// Ports at the phones' place.
const IMAP: u16 = 1144;
const LDAP: u16 = 3390;
/// Number of the first mailbox with an account, and of the first person of the directory.
const FIRST_ACCOUNT: usize = 20_000;
const FIRST_PERSON: usize = 30_000;
/// Number of people whose writing takes so long that the first of them are seen before the last are written.
const MANY: usize = 2_000;
/// Answers of the directory server that come through where its search is held, in bytes: some ten people.
const SOME_PEOPLE: usize = 6_000;

/// Point at which the directory sync is when the duties move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The search is half read.
    Reading,
    /// The first users are on the other node.
    Writing,
}

/// Servers, and networks in front of them that can be held.
struct Servers {
    slapd: Slapd,
    ldap: HoldingRelay,
    dovecot: Dovecot,
    imap: HoldingRelay,
}

/// Both duties under way at the publisher.
struct UnderWay {
    office: Office,
    imap: HoldingRelay,
    ldap: HoldingRelay,
    _slapd: Slapd,
    people: Range<usize>,
    /// Numbers of the mailboxes with accounts.
    numbers: Vec<String>,
    publisher: String,
    other: String,
    /// Ids of all messages by mailbox.
    sent: BTreeMap<String, BTreeSet<String>>,
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn sizes() -> (Range<usize>, Vec<String>) {
    let people = parameter("TWINBOX_SYNC_USERS", 300) as usize;
    let accounts = parameter("TWINBOX_SYNC_ACCOUNTS", 10) as usize;
    let numbers = (0..accounts).map(|n| (FIRST_ACCOUNT + n).to_string()).collect();
    (FIRST_PERSON..FIRST_PERSON + people, numbers)
}

fn can_run() -> bool {
    need::all(&[need::SLAPD]) && peer_need::all(&[peer_need::DOVECOT])
}

impl Servers {
    fn start(phones: &NetPlace, listed: Range<usize>, numbers: &[String]) -> Self {
        let settings = SlapdSettings { syncprov: true, session_log: Some(10_000), ..SlapdSettings::default() };
        let slapd = Slapd::start(phones, &settings, &people(listed));
        let dovecot = Dovecot::start(phones, &accounts(&refs(numbers)));
        let ldap = HoldingRelay::start(phones, LDAP, slapd.ldap());
        let imap = HoldingRelay::start(phones, IMAP, dovecot.imap());
        Self { slapd, ldap, dovecot, imap }
    }
}

impl UnderWay {
    /// `None` if the servers cannot run here.
    fn begin(point: Point) -> Option<Self> {
        if !can_run() {
            return None;
        }
        let (people, numbers) = sizes();
        let start = |phones: &NetPlace| Servers::start(phones, people.clone(), &numbers);
        let (cluster, servers) = Cluster::start_with(|_| Spec::default(), start);
        Some(Self::of(cluster, servers, point))
    }

    fn of(cluster: Cluster, servers: Servers, point: Point) -> Self {
        let (people, numbers) = sizes();
        let Servers { slapd, ldap, dovecot, imap } = servers;
        let (publisher, other) = cluster.publisher_and_other();
        let office = Office::of(cluster, dovecot);
        let lines: String = numbers.iter().map(|number| format!("{number},User {number}\n")).collect();
        let file = office.files.path().join("users.csv");
        fs::write(&file, format!("number,name\n{lines}")).expect("written");
        office.cli().json(&["user", "import", &file.display().to_string()]);
        for (node, number) in ["a", "b"].iter().flat_map(|node| numbers.iter().map(move |number| (node, number))) {
            wait_until("the users", SOON, || office.cluster.cli(node).try_messages(number).is_ok());
        }
        for duty in ["directory-sync", "mailbox-sync"] {
            let runs_there = || holder_of(&office.cluster.cli(&other), duty).as_ref() == Some(&publisher);
            wait_until("the publisher to hold the duties", SOON, runs_there);
        }
        let file = office.secret("corp", Slapd::PASSWORD);
        let further = ["timeout=30", "interval=10"];
        add_directory(&office.cli(), &format!("ldap://{}", ldap.address()), &file, &further);
        office.add_server("mail", imap.address(), &["timeout=30"]);
        office.add("mail", &refs(&numbers));
        let sent = BTreeMap::new();
        let mut both = Self { office, imap, ldap, _slapd: slapd, people, numbers, publisher, other, sent };

        // A first lot is in the accounts. Of the second one, mails are taken and their answers never arrive.
        both.send(&both.other.clone());
        both.wait_for_mails(&[&both.publisher]);
        both.imap.hold_at("APPENDUID");
        both.send(&both.other.clone());
        wait_until("a mail whose answer is held", SOON, || both.imap.held() > 0);
        if point == Point::Reading {
            both.ldap.hold_after(SOME_PEOPLE);
        }
        both.office.cluster.cli(&both.other).json(&["directory", "set", "corp", "enabled=yes"]);
        let made = match point {
            Point::Reading => {
                wait_until("a search that is half read", SOON, || both.ldap.held() > 0);
                0
            }
            Point::Writing => wait_for("the first users", SOON, || Some(both.made(&both.other)).filter(|n| *n > 0)),
        };
        let (held, accounts) = (both.imap.held(), both.numbers.len());
        println!("{made} of {} users, {held} of {accounts} accounts in an APPEND", both.people.len());
        match point {
            Point::Reading => assert_eq!(both.made(&both.publisher), 0, "no user before the search has ended"),
            Point::Writing if both.people.len() >= MANY => {
                assert!(made < both.people.len(), "all users were written before the duties move");
            }
            // Few people are written in one commit or two.
            Point::Writing => {}
        }
        both
    }

    /// Sends a message to all mailboxes from this node.
    fn send(&mut self, node: &str) {
        for (number, id) in self.office.send(node, BERT, &refs(&self.numbers)) {
            self.sent.entry(number).or_default().insert(id);
        }
    }

    /// Number of the directory's users on a node.
    fn made(&self, node: &str) -> usize {
        let is_one = |number: &str| number.parse().is_ok_and(|number: usize| self.people.contains(&number));
        listed_users(&self.office.cluster.cli(node)).iter().filter(|user| is_one(&user.number)).count()
    }

    /// Lets all held answers pass.
    fn go_on(&self) {
        self.imap.pass();
        self.ldap.pass();
    }

    fn limit(&self) -> Duration {
        SOON + Duration::from_millis(20) * self.people.len() as u32
    }

    /// Waits until these nodes list exactly the people of the server and the users that were here before, once each.
    fn wait_for_users(&self, nodes: &[&str]) {
        let here = Cluster::USERS.iter().map(|user| (user.number.to_owned(), "Test".to_owned()));
        let imported = self.numbers.iter().map(|number| (number.clone(), format!("User {number}")));
        let of_directory = self.people.clone().map(|number| (number.to_string(), name_of(number)));
        let mut expected: Vec<(String, String)> = here.chain(imported).chain(of_directory).collect();
        expected.sort();
        let mut lists = Vec::new();
        for node in nodes {
            let list = wait_for(&format!("all users on {node}"), self.limit(), || {
                let users = listed_users(&self.office.cluster.cli(node));
                assert!(users.len() <= expected.len(), "a user is on {node} twice: {users:#?}");
                (users.len() == expected.len()).then_some(users)
            });
            let found: Vec<_> = list.iter().map(|user| (user.number.clone(), user.name.clone())).collect();
            assert_eq!(found, expected, "on {node}");
            lists.push(list);
        }
        assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "the nodes have users of other ids: {lists:#?}");
    }

    /// Waits until each account has exactly the messages of its mailbox on these nodes.
    fn wait_for_mails(&self, nodes: &[&str]) {
        let limit = SOON + Duration::from_millis(400) * self.numbers.len() as u32;
        for (number, sent) in &self.sent {
            let mut user = self.office.dovecot.sign_in(number);
            for node in nodes {
                wait_until(&format!("the account {number} to have all messages of {node}"), limit, || {
                    let here: BTreeSet<_> = states(&self.office.cluster.cli(node), number).into_keys().collect();
                    let there = once_each(ids(&user.mails(FOLDER)));
                    here == *sent && there == *sent
                });
            }
        }
    }

    /// Both synchronisations have caught up, and once more find nothing to do.
    fn end(&mut self, nodes: &[&str]) {
        self.wait_for_users(nodes);
        self.wait_for_mails(nodes);
        for number in &self.numbers {
            self.office.run(number);
        }
        self.wait_for_mails(nodes);
        let run = self.office.cluster.cli(&self.other).json(&["directory", "sync", "corp"]);
        let counts = &run["counts"];
        assert!(counts["new"] == 0 && counts["changed"] == 0 && counts["unchanged"] == self.people.len(), "{run}");
        self.wait_for_users(nodes);
    }

    /// Sends a last message to all, after everything is in order again.
    fn end_on_both(&mut self) {
        self.office.cluster.wait_in_service();
        let publisher = self.publisher.clone();
        self.send(&publisher);
        self.end(&["a", "b"]);
    }
}

/// The ids as a set; fails if one is there twice.
fn once_each(ids: Vec<String>) -> BTreeSet<String> {
    let (count, set) = (ids.len(), ids.iter().cloned().collect::<BTreeSet<_>>());
    assert_eq!(set.len(), count, "a message is there twice: {ids:#?}");
    set
}

#[test]
fn publisher_is_killed_while_both_are_under_way_and_each_user_and_each_mail_is_there_once() {
    let Some(mut both) = UnderWay::begin(Point::Writing) else { return };
    let (publisher, other) = (both.publisher.clone(), both.other.clone());
    both.office.cluster.kill(&publisher);
    both.go_on();
    both.wait_for_users(&[&other]);
    both.wait_for_mails(&[&other]);
    both.office.cluster.start_member(&publisher);
    both.end_on_both();
}

#[test]
fn duties_are_moved_by_hand_while_both_are_under_way_and_each_user_and_each_mail_is_there_once() {
    let Some(mut both) = UnderWay::begin(Point::Reading) else { return };
    let cli = both.office.cluster.cli(&both.other);
    for duty in ["directory-sync", "mailbox-sync"] {
        cli.order(&["duty", "move", duty, &both.other]);
    }
    for duty in ["directory-sync", "mailbox-sync"] {
        wait_until("the duty to run there", SOON, || holder_of(&cli, duty).as_ref() == Some(&both.other));
    }
    assert_eq!(both.made(&both.publisher), 0, "a search that was not read to its end makes no user");
    both.go_on();
    both.end_on_both();
}

/// The publisher still reaches both servers, but no member. Callers leave messages on its side too.
#[test]
fn publisher_is_cut_off_while_both_are_under_way_and_each_user_and_each_mail_is_there_once() {
    if !need::all(&[need::NAMESPACES]) || !can_run() {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let (people, numbers) = sizes();
    let servers = Servers::start(&lab.phones(), people, &numbers);
    let mut both = UnderWay::of(Cluster::start_in(&lab, &Spec::default()), servers, Point::Writing);
    let (publisher, other) = (both.publisher.clone(), both.other.clone());
    lab.cut(&publisher, &other);
    lab.cut(&publisher, "w");
    let before = both.sent.clone();
    both.send(&publisher);
    let cli = both.office.cluster.cli(&other);
    for duty in ["directory-sync", "mailbox-sync"] {
        wait_until("the other node to take over", SOON, || holder_of(&cli, duty).as_ref() == Some(&other));
    }
    both.go_on();
    both.wait_for_users(&[&other]);
    // The former holder may have appended some of its own messages before its lease ended.
    for (number, sent) in &before {
        let mut user = both.office.dovecot.sign_in(number);
        wait_until(&format!("the messages of {number} that are known here"), both.limit(), || {
            let there = once_each(ids(&user.mails(FOLDER)));
            sent.is_subset(&there) && there.is_subset(&both.sent[number])
        });
    }
    lab.heal();
    both.end_on_both();
}
