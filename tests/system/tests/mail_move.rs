//! The duty moves while mails are under way: each arrives, under one Message-ID, and no two nodes send at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Cluster, Lab, MailReceiver, MailSession, NetPlace, ReceivedMail, Spec, leave_message, need, parameter,
    wait_until,
};

/// Limit of waits for what takes seconds: the first pause between attempts is 12.5 s at most.
const SOON: Duration = Duration::from_secs(40);
/// Port of the mail server.
const SMTP: u16 = 2525;
const MAILBOX: &str = Cluster::USERS[0].number;
/// Callers who leave messages at the same time.
const CALLERS: usize = 4;
/// Most devices that are told of one message: their mails are written in the commit that the caller waits for.
const DEVICES: usize = 50;

/// A cluster with mails under way to a receiver that takes a while for each.
struct UnderWay {
    cluster: Cluster,
    receiver: MailReceiver,
    /// The node that sends, and the other.
    sender: String,
    other: String,
    devices: usize,
    messages: usize,
    total: usize,
}

/// Outcome of a move.
struct Moved {
    /// Mails by the first sender.
    first: Vec<ReceivedMail>,
    /// Mails by the other node.
    rest: Vec<ReceivedMail>,
    /// Number of mails that arrived more than once.
    twice: usize,
    /// Connections of the first sender.
    sessions: Vec<MailSession>,
    /// Begin of the other's first connection.
    taken_over: BootInstant,
}

fn hello(node: &str) -> String {
    format!("{node}.voicemail.test")
}

/// Nodes that send mail to a server at the phones' place.
fn spec(phones: &NetPlace) -> Spec {
    let mail = vec![
        "domain = \"voicemail.test\"".to_owned(),
        "hello = \"{node}.voicemail.test\"".to_owned(),
        format!("smarthost = \"{}\"", phones.port(SMTP)),
        "tls = \"off\"".to_owned(),
    ];
    Spec { mail, ..Spec::default() }
}

impl UnderWay {
    /// `None` if the receiver cannot run here.
    fn begin() -> Option<Self> {
        if !need::all(&[need::AIOSMTPD]) {
            return None;
        }
        let (cluster, receiver) = Cluster::start_with(spec, |phones| MailReceiver::start(phones, SMTP));
        Some(Self::of(cluster, receiver))
    }

    /// `TWINBOX_NOTIFICATIONS=1000` sets the full size.
    fn of(cluster: Cluster, receiver: MailReceiver) -> Self {
        let mails = parameter("TWINBOX_NOTIFICATIONS", 60) as usize;
        let devices = (mails / CALLERS).min(DEVICES);
        let each = mails / (devices * CALLERS);
        let messages = each * CALLERS;
        let total = devices * messages;
        let (sender, other) = cluster.publisher_and_other();
        let cli = cluster.cli(&other);
        for n in 0..devices {
            let address = format!("address=d{n}@example.test");
            cli.json(&["device", "add", MAILBOX, &format!("d{n}"), "mail", &address, "audio=yes"]);
        }
        receiver.accept(Duration::from_millis(300));
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    for _ in 0..each {
                        let deposit = leave_message(cluster.phones(), cluster.sip(&other), MAILBOX, 1.2);
                        assert!(deposit.acknowledged(), "{deposit:?}");
                    }
                });
            }
        });
        receiver.wait_for_mails(total / 5, SOON);
        let before = receiver.mails().len();
        assert!(before < total, "{before} mails had arrived already");
        Self { cluster, receiver, sender, other, devices, messages, total }
    }

    /// Waits until everything has arrived and is done, and checks that each device got each message under one id, and
    /// that equal ids are equal mails.
    fn end(&self) -> Moved {
        let cli = self.cluster.cli(&self.other);
        let limit = SOON + Duration::from_millis(200) * self.total as u32;
        let arrived =
            || self.receiver.mails().into_iter().map(|mail| mail.message_id).collect::<BTreeSet<_>>().len();
        wait_until("all to arrive", limit, || arrived() == self.total);
        wait_until("all to be done", SOON, || cli.effects("done").len() == self.total);
        assert!(cli.effects("done").iter().all(|effect| effect.attempts > 0), "none is left out");
        assert!(cli.effects("dead").is_empty());
        let mails = self.receiver.mails();
        let mut copies: BTreeMap<&str, Vec<&ReceivedMail>> = BTreeMap::new();
        let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for mail in &mails {
            copies.entry(&mail.message_id).or_default().push(mail);
            ids.entry(&mail.recipients[0]).or_default().insert(&mail.message_id);
        }
        assert_eq!((copies.len(), ids.len()), (self.total, self.devices));
        assert!(ids.values().all(|ids| ids.len() == self.messages), "{ids:#?}");
        let twice: Vec<_> = copies.values().filter(|copies| copies.len() > 1).collect();
        for copies in &twice {
            let read = |mail: &&ReceivedMail| fs::read(&mail.file).expect("the mail");
            assert_eq!(copies.iter().map(read).collect::<BTreeSet<_>>().len(), 1, "{copies:#?}");
        }
        let twice = twice.len();
        let (first, rest): (Vec<_>, Vec<_>) = mails.into_iter().partition(|mail| mail.hello == hello(&self.sender));
        assert!(rest.iter().all(|mail| mail.hello == hello(&self.other)), "{rest:#?}");
        let (sessions, others): (Vec<_>, Vec<_>) = self
            .receiver
            .sessions()
            .into_iter()
            .filter(|session| session.hello.is_some())
            .partition(|session| session.hello == Some(hello(&self.sender)));
        let taken_over = others.iter().map(|session| session.begun).min().expect("the other sends");
        println!("{} mails by {}, {} by {}, {twice} twice", first.len(), self.sender, rest.len(), self.other);
        Moved { first, rest, twice, sessions, taken_over }
    }
}

impl Moved {
    /// The first sender's connections had ended before the other's first one began.
    fn assert_one_after_the_other(&self) {
        for session in &self.sessions {
            assert!(
                session.ended.is_some_and(|ended| ended < self.taken_over),
                "{session:?}, {:?}",
                self.taken_over
            );
        }
    }
}

#[test]
fn the_publisher_dies_while_mails_are_under_way_and_each_arrives_under_one_id() {
    let Some(mut mails) = UnderWay::begin() else { return };
    let killed = BootInstant::now();
    let sender = mails.sender.clone();
    mails.cluster.kill(&sender);
    let moved = mails.end();
    println!("first after the kill {:?}", moved.rest.iter().map(|mail| mail.at.since(killed)).min());
    println!("all after the kill {:?}", moved.rest.iter().map(|mail| mail.at.since(killed)).max());
    assert!(moved.taken_over > killed);
    moved.assert_one_after_the_other();
}

/// A planned move waits for the attempts under way: nothing arrives twice.
#[test]
fn the_duty_is_moved_while_mails_are_under_way_and_each_arrives_once() {
    let Some(mails) = UnderWay::begin() else { return };
    mails.cluster.cli(&mails.other).order(&["duty", "move", "mta", &mails.other]);
    let moved = mails.end();
    moved.assert_one_after_the_other();
    assert_eq!(moved.twice, 0);
    assert!(!moved.rest.is_empty());
}

/// A machine that stands still and goes on with its old beliefs sends nothing more.
#[test]
fn the_publisher_stands_still_while_mails_are_under_way_and_sends_nothing_more_when_it_goes_on() {
    let Some(mails) = UnderWay::begin() else { return };
    let signal = |signal| {
        let process = mails.cluster.member(&mails.sender).process.as_ref().expect("it runs");
        process.signal_child(signal);
    };
    signal(libc::SIGSTOP);
    let by_other = || mails.receiver.mails().iter().any(|mail| mail.hello == hello(&mails.other));
    wait_until("the other to send", SOON, by_other);
    signal(libc::SIGCONT);
    let moved = mails.end();
    let last = moved.first.iter().map(|mail| mail.at).max().expect("some were sent before");
    assert!(last < moved.taken_over, "{last:?}, {:?}", moved.taken_over);
}

/// The publisher still reaches the mail server, but no member: it stops before the other begins, and sends nothing more
/// after the heal.
#[test]
fn the_publisher_is_cut_off_while_mails_are_under_way_and_stops_before_the_other_sends() {
    if !need::all(&[need::AIOSMTPD, need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let receiver = MailReceiver::start(&lab.phones(), SMTP);
    let cluster = Cluster::start_in(&lab, &spec(&lab.phones()));
    let mails = UnderWay::of(cluster, receiver);
    let cut = BootInstant::now();
    lab.cut(&mails.sender, &mails.other);
    lab.cut(&mails.sender, "w");
    let moved = mails.end();
    println!("first by the other after the cut {:?}", moved.taken_over.since(cut));
    assert!(!moved.rest.is_empty() && moved.taken_over > cut);
    moved.assert_one_after_the_other();
    let last = moved.first.iter().map(|mail| mail.at).max().expect("some were sent before");
    assert!(last < moved.taken_over, "{last:?}, {:?}", moved.taken_over);

    let arrived = mails.receiver.mails().len();
    lab.heal();
    mails.cluster.wait_in_service();
    let former = mails.cluster.cli(&mails.sender);
    wait_until("the former sender to know all outcomes", SOON, || former.effects("done").len() == mails.total);
    assert_eq!(mails.receiver.mails().len(), arrived, "nothing is sent again after the heal");
}
