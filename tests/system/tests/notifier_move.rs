//! The notifier's duty moves while webhooks and text messages are under way: every webhook arrives, a repeat has the same
//! idempotency key, and no text message arrives twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests::growing::words;
use twinbox_testkit::{
    Cluster, HookReceiver, Lab, NetPlace, Spec, StoredEffect, leave_message, need, parameter, wait_until,
};

/// Limit of waits for what takes seconds: the first pause between attempts is 12.5 s at most.
const SOON: Duration = Duration::from_secs(60);
const HOOKS: u16 = 8080;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const MAILBOX: &str = Cluster::USERS[0].number;
/// Messages, each of which all devices are told of.
const MESSAGES: usize = 4;
/// Receivers without an answer until the duty has moved; each has a message under way then.
const HELD: [&str; 3] = ["/sms", "/h0", "/h1"];

/// A cluster with webhooks and text messages under way.
struct UnderWay {
    cluster: Cluster,
    hooks: HookReceiver,
    sender: String,
    other: String,
    /// Paths of the webhooks.
    paths: Vec<String>,
}

fn spec(phones: &NetPlace) -> Spec {
    let gateway = format!("[sms]\nurl = \"http://{}/sms\"\nauthorization = \"Bearer test\"", phones.port(HOOKS));
    Spec { mail: vec![gateway], ..Spec::default() }
}

impl UnderWay {
    /// `None` if the receiver cannot run here.
    fn begin() -> Option<Self> {
        if !need::all(&[need::PYTHON3]) {
            return None;
        }
        let (cluster, hooks) = Cluster::start_with(spec, |phones| HookReceiver::start(phones, HOOKS, SECRET));
        Some(Self::of(cluster, hooks))
    }

    /// `TWINBOX_NOTIFICATIONS=1000` sets the full size.
    fn of(cluster: Cluster, hooks: HookReceiver) -> Self {
        let devices =
            (parameter("TWINBOX_NOTIFICATIONS", 60) as usize / MESSAGES).saturating_sub(1).max(HELD.len());
        let (sender, other) = cluster.publisher_and_other();
        let cli = cluster.cli(&other);
        let paths: Vec<String> = (0..devices).map(|n| format!("/h{n}")).collect();
        // Those on hold first: their effects are the first of each message.
        HELD.iter().for_each(|path| hooks.hold(path));
        cli.json(&["device", "add", MAILBOX, "mobile", "sms-http", "number=+4915550100"]);
        for path in &paths {
            let (url, secret) = (format!("url={}", hooks.url(path)), format!("secret={SECRET}"));
            cli.json(&["device", "add", MAILBOX, &path[1..], "webhook", &url, &secret]);
        }
        thread::scope(|scope| {
            for _ in 0..MESSAGES {
                scope.spawn(|| {
                    let deposit = leave_message(cluster.phones(), cluster.sip(&other), MAILBOX, 1.2);
                    assert!(deposit.acknowledged(), "{deposit:?}");
                });
            }
        });
        let under_way = Self { cluster, hooks, sender, other, paths };
        let is_held = |path: &&str| !under_way.hooks.requests(path).is_empty();
        wait_until("one to be under way", SOON, || HELD.iter().any(is_held));
        under_way
    }

    /// The receivers answer from now on.
    fn answer(&self) {
        HELD.iter().for_each(|path| self.hooks.answer(path, 204));
    }

    fn effects(&self, state: &str) -> Vec<StoredEffect> {
        self.cluster.cli(&self.other).effects(state)
    }

    /// Number of all effects, and the limit of the wait for their end.
    fn total(&self) -> (usize, Duration) {
        let total = (self.paths.len() + 1) * MESSAGES;
        (total, SOON + Duration::from_millis(200) * total as u32)
    }

    /// Waits until every webhook has been taken. Texts wait while the other node is away: it may know of an attempt
    /// that is not here.
    fn end_webhooks(&self) {
        let (total, limit) = self.total();
        wait_until("the webhooks to end", limit, || {
            self.effects("done").iter().filter(|effect| effect.device != "mobile").count() == total - MESSAGES
        });
    }

    /// Waits for the end of every effect, and checks what arrived.
    fn end(&self) {
        let (total, limit) = self.total();
        wait_until("all to end", limit, || self.effects("done").len() + self.effects("dead").len() == total);
        let mut repeated = 0;
        for path in &self.paths {
            let mut keys: BTreeMap<String, usize> = BTreeMap::new();
            for request in self.hooks.requests(path) {
                assert!(request.signed, "{request:?}");
                *keys.entry(request.key().to_owned()).or_default() += 1;
            }
            assert_eq!(keys.len(), MESSAGES, "{path}: {keys:#?}");
            repeated += keys.values().filter(|count| **count > 1).count();
        }
        let texts = self.hooks.requests("/sms");
        let keys: BTreeSet<&str> = texts.iter().map(|text| text.key()).collect();
        assert_eq!(keys.len(), texts.len(), "no text arrives twice: {texts:#?}");
        // A text whose result is unknown is a dead letter; all others are done.
        let dead = self.effects("dead");
        let is_unknown = |reason: &str| reason.contains("unknown") || reason.contains("may have arrived");
        assert!(dead.iter().all(|effect| effect.device == "mobile" && is_unknown(&effect.reason)), "{dead:#?}");
        let done: Vec<_> = self.effects("done").into_iter().filter(|effect| effect.device == "mobile").collect();
        assert_eq!(done.len() + dead.len(), MESSAGES, "{done:#?}");
        assert!(done.iter().all(|effect| keys.contains(effect.id.as_str())), "{done:#?} {texts:#?}");
        println!("{total} effects, {repeated} webhooks repeated, {} texts with an unknown result", dead.len());
    }
}

#[test]
fn the_publisher_dies_while_notifications_are_under_way_and_no_text_arrives_twice() {
    let Some(mut notifications) = UnderWay::begin() else { return };
    let sender = notifications.sender.clone();
    notifications.cluster.kill(&sender);
    notifications.answer();
    notifications.end_webhooks();
    notifications.cluster.start_member(&sender);
    notifications.end();
}

#[test]
fn the_duty_is_moved_while_notifications_are_under_way_and_no_text_arrives_twice() {
    let Some(notifications) = UnderWay::begin() else { return };
    thread::scope(|scope| {
        let cli = notifications.cluster.cli(&notifications.other);
        let order = ["duty", "move", "notifier", &notifications.other];
        let moved = scope.spawn(move || cli.order(&order));
        notifications.answer();
        moved.join().expect("the duty is moved");
    });
    notifications.end();
}

#[test]
fn the_publisher_is_cut_off_while_notifications_are_under_way_and_no_text_arrives_twice() {
    if !need::all(&[need::PYTHON3, need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w"]);
    let hooks = HookReceiver::start(&lab.phones(), HOOKS, SECRET);
    let cluster = Cluster::start_in(&lab, &spec(&lab.phones()));
    let notifications = UnderWay::of(cluster, hooks);
    let cut = BootInstant::now();
    lab.cut(&notifications.sender, &notifications.other);
    lab.cut(&notifications.sender, "w");
    notifications.answer();
    notifications.end_webhooks();
    println!("the webhooks ended {:?} after the cut", cut.elapsed());
    lab.heal();
    notifications.cluster.wait_in_service();
    notifications.end();
    let arrived = notifications.hooks.requests("/sms").len();
    let former = notifications.cluster.cli(&notifications.sender);
    let ended = || former.effects("done").len() + former.effects("dead").len();
    wait_until("the former sender to know all outcomes", SOON, || {
        ended() == notifications.effects("done").len() + notifications.effects("dead").len()
    });
    assert_eq!(notifications.hooks.requests("/sms").len(), arrived, "nothing is sent again after the end");
}

/// A node that stops in order waits for the answer to a text that is under way: to the next holder its result would be unknown.
#[test]
fn an_orderly_stop_waits_for_the_result_of_a_text() {
    if !need::all(&[need::PYTHON3]) {
        return;
    }
    let (mut cluster, hooks) = Cluster::start_with(spec, |phones| HookReceiver::start(phones, HOOKS, SECRET));
    let (sender, other) = cluster.publisher_and_other();
    let cli = cluster.cli(&other);
    cli.json(&["device", "add", MAILBOX, "mobile", "sms-http", "number=+4915550100"]);
    hooks.hold("/sms");
    let deposit = leave_message(cluster.phones(), cluster.sip(&other), MAILBOX, 1.2);
    assert!(deposit.acknowledged(), "{deposit:?}");
    let text = hooks.wait_for_requests("/sms", 1, SOON).remove(0);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| cluster.stop(&sender));
        wait_until("it to stop", SOON, || words(&cli.run(&["events"])).contains("node-stopping"));
        hooks.answer("/sms", 204);
        stopping.join().expect("it ends in order");
    });
    cli.wait_for_effect("done", SOON, |effect| effect.id == text.key());
    assert_eq!(hooks.requests("/sms").len(), 1, "it arrives once");
}

/// The disk of the node that sent a text is lost in the middle of it, and the node comes back with an empty one.
#[test]
fn text_whose_node_loses_its_disk_in_the_middle_is_not_repeated_by_anyone() {
    if !need::all(&[need::PYTHON3]) {
        return;
    }
    let (mut cluster, hooks) = Cluster::start_with(spec, |phones| HookReceiver::start(phones, HOOKS, SECRET));
    let (sender, other) = cluster.publisher_and_other();
    let leave = |cluster: &Cluster| {
        let deposit = leave_message(cluster.phones(), cluster.sip(&other), MAILBOX, 1.2);
        assert!(deposit.acknowledged(), "{deposit:?}");
    };
    let cli = cluster.cli(&other);
    cli.json(&["device", "add", MAILBOX, "mobile", "sms-http", "number=+4915550100"]);
    hooks.hold("/sms");
    leave(&cluster);
    let first = hooks.wait_for_requests("/sms", 1, SOON).remove(0);
    cluster.kill(&sender);
    cluster.wipe(&sender);
    hooks.answer("/sms", 204);

    // Both texts wait until the other node is back. The first is given up then, and the second leaves once.
    leave(&cluster);
    let second = cli.wait_for_effect("pending", SOON, |effect| effect.id != first.key());
    cluster.start_member(&sender);
    cluster.wait_in_service();
    let dead = cli.wait_for_effect("dead", SOON, |effect| effect.id == first.key());
    assert!(dead.reason.contains("unknown"), "{dead:?}");
    cli.wait_for_effect("done", SOON, |effect| effect.id == second.id);
    let keys: Vec<_> = hooks.requests("/sms").iter().map(|text| text.key().to_owned()).collect();
    assert_eq!(keys, [first.key().to_owned(), second.id]);
}
