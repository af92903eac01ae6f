//! Power cuts under a pair of nodes: the disk of one node forgets what was not flushed, or the disks of both nodes at
//! once, while callers leave messages and while nodes start. All acknowledged messages are there afterwards. With the
//! syncs of both nodes taken out, the same test finds a loss.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use twinbox_power_cut::{NEEDS, PowerDisk, no_sync, possible};
use twinbox_system_tests::assert_all_kept;
use twinbox_testkit::{
    Cluster, Deposit, NetPlace, Spec, holds,
    need::{self, Need},
    parameter, try_leave_message, wait_until,
};

const POWER: Need = Need { name: NEEDS, there: possible };
const MAILBOX: &str = Cluster::USERS[0].number;
const LIMIT: Duration = Duration::from_secs(60);
/// Size of a node's disk.
const MEGABYTES: u64 = 512;
/// Callers of a round, half of them at each node.
const CALLERS: u8 = 6;

/// A pair whose nodes have disks that lose power; the witness has the disk of the machine.
struct Powered {
    cluster: Cluster,
    // After the cluster, whose processes use them.
    disks: [(&'static str, PowerDisk); 2],
}

impl Powered {
    fn new(seed: u64, env: Vec<(&'static str, &'static str, String)>) -> Self {
        // Each disk has seeds of its own.
        let disks = [("a", seed), ("b", seed.wrapping_add(1_000))];
        let disks = disks.map(|(node, seed)| (node, PowerDisk::new(MEGABYTES, seed)));
        let data_dirs = disks.iter().map(|(node, disk)| ((*node).to_owned(), disk.folder().join("data"))).collect();
        let voicemail = vec!["max_messages = 10000".to_owned()];
        let spec = Spec { data_dirs, voicemail, env, ack_timeout_ms: 5_000, ..Spec::default() };
        Self { cluster: Cluster::start(&spec), disks }
    }

    fn disk(&mut self, node: &str) -> &mut PowerDisk {
        let found = self.disks.iter_mut().find(|(name, _)| *name == node);
        found.map(|(_, disk)| disk).unwrap_or_else(|| panic!("{node} has no such disk"))
    }

    /// Cuts the power of these nodes, one disk right after the other, and ends their processes.
    fn cut(&mut self, nodes: &[&str]) {
        for node in nodes {
            let cut = self.disk(node).cut();
            println!("{node}: seed {}: {} of {} unflushed sectors kept", cut.seed, cut.kept, cut.unflushed);
        }
        nodes.iter().for_each(|node| self.cluster.kill(node));
    }

    /// Starts a node again: first its power fails during the start, before the given number of writes and flushes.
    fn start(&mut self, node: &str, operations: u64) {
        self.disk(node).restart();
        self.disk(node).cut_after(operations);
        self.cluster.start_member(node);
        self.disk(node).wait_cut(LIMIT);
        self.cut(&[node]);
        println!("{node}: the power failed {operations} operations after the start");
        self.disk(node).restart();
        self.cluster.start_member(node);
    }

    /// Callers at both nodes, who end one after the other.
    fn callers(&self) -> Callers {
        let (sender, deposits) = mpsc::channel();
        for n in 0..CALLERS {
            let node = if n % 2 == 0 { "a" } else { "b" };
            let (phones, sip, seconds) =
                (self.cluster.phones().clone(), self.cluster.sip(node), 1.0 + f64::from(n) * 0.2);
            let sender = sender.clone();
            thread::spawn(move || call(&phones, sip, seconds, &sender));
        }
        Callers { deposits, acknowledged: Vec::new() }
    }
}

fn call(phones: &NetPlace, sip: std::net::SocketAddr, seconds: f64, deposits: &Sender<Deposit>) {
    // A node without power sends no refusal: its callers get no answer.
    if let Ok(deposit) = try_leave_message(phones, sip, MAILBOX, seconds) {
        let _ended = deposits.send(deposit);
    }
}

/// Callers of a round; the messages of those whose BYE was answered by `200`.
struct Callers {
    deposits: Receiver<Deposit>,
    acknowledged: Vec<Deposit>,
}

impl Callers {
    fn wait_acknowledged(&mut self, count: usize) {
        while self.acknowledged.len() < count {
            let deposit = self.deposits.recv_timeout(LIMIT).expect("a caller leaves a message");
            self.acknowledged.extend(Some(deposit).filter(Deposit::acknowledged));
        }
    }

    /// Those that were acknowledged until now.
    fn take(&mut self) -> Vec<Deposit> {
        self.acknowledged.extend(self.deposits.try_iter().filter(Deposit::acknowledged));
        std::mem::take(&mut self.acknowledged)
    }

    /// Those that are acknowledged until the last caller has ended.
    fn finish(self) -> Vec<Deposit> {
        self.acknowledged.into_iter().chain(self.deposits.into_iter().filter(Deposit::acknowledged)).collect()
    }
}

#[test]
fn all_acknowledged_messages_are_there_after_power_cuts_of_one_node_and_of_both() {
    if !need::all(&[POWER]) {
        return;
    }
    let (rounds, seed) = (parameter("TWINBOX_POWER_PAIR_ROUNDS", 2), parameter("TWINBOX_POWER_SEED", 0));
    println!("TWINBOX_POWER_SEED={seed}, {rounds} rounds");
    let mut pair = Powered::new(seed, Vec::new());
    let mut deposits: Vec<Deposit> = Vec::new();
    for round in 1..=rounds {
        let both = round % 2 == 0;
        let victim = if round % 4 < 2 { "a" } else { "b" };
        let survivor = if victim == "a" { "b" } else { "a" };
        let operations = (seed.wrapping_mul(31) + round * 47) % 150;
        let mut callers = pair.callers();
        callers.wait_acknowledged(1 + (round as usize / 2) % 3);
        if both {
            pair.cut(&["a", "b"]);
            deposits.extend(callers.take());
            // One disk is enough for what was acknowledged on two.
            pair.start(victim, operations);
            let cli = pair.cluster.cli(victim);
            wait_until("a node to answer alone", LIMIT, || cli.try_messages(MAILBOX).is_ok());
            assert_all_kept(&pair.cluster, victim, MAILBOX, &deposits, 0.9, Duration::from_secs(20));
            pair.start(survivor, operations / 2);
        } else {
            pair.cut(&[victim]);
            deposits.extend(callers.take());
            // Rule P1: on the survivor while the victim has no power.
            assert_all_kept(&pair.cluster, survivor, MAILBOX, &deposits, 0.9, Duration::from_secs(20));
            pair.start(victim, operations);
        }
        let back = pair.cluster.wait_in_service();
        println!("round {round}: all in service again after {:.2} s", back.as_secs_f64());
        deposits.extend(callers.finish());
        for node in ["a", "b"] {
            assert_all_kept(&pair.cluster, node, MAILBOX, &deposits, 0.9, Duration::from_secs(20));
        }
    }
    println!("{} acknowledged messages, all on both nodes", deposits.len());
}

/// Any program of the machine may call `sync`, which makes everything durable: right before the cut nothing can be lost then. So one
/// of five pairs must lose something.
#[test]
fn loss_is_found_with_the_syncs_of_both_nodes_taken_out() {
    if !need::all(&[POWER]) {
        return;
    }
    let first = parameter("TWINBOX_POWER_SEED", 0);
    assert!((first..first + 5).any(loses_without_syncs));
}

/// Whether a pair whose syncs do nothing loses acknowledged messages in a power cut.
fn loses_without_syncs(seed: u64) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let library = no_sync(folder.path(), None);
    let both = library.iter().flat_map(|(name, value)| ["a", "b"].map(|node| (node, *name, value.clone())));
    let mut pair = Powered::new(seed, both.collect());
    let mut callers = pair.callers();
    callers.wait_acknowledged(usize::from(CALLERS) / 2);
    pair.cut(&["a", "b"]);
    let deposits = callers.take();
    for node in ["a", "b"] {
        pair.disk(node).restart();
        pair.cluster.start_member(node);
    }
    // A node that refuses the data on its disk answers no request.
    let answers = |node: &&str| pair.cluster.cli(node).try_messages(MAILBOX).is_ok();
    let answered = holds(Duration::from_secs(10), || ["a", "b"].iter().any(answers).then_some(()));
    let kept = |deposit: &&Deposit| {
        let on = |node: &&str| pair.cluster.find(node, MAILBOX, &deposit.speech, deposit.spoken).is_some();
        ["a", "b"].iter().filter(|node| answers(node)).any(on)
    };
    let lost = deposits.iter().filter(|deposit| !kept(deposit)).count();
    println!("{lost} of {} acknowledged messages are lost; a node answers: {}", deposits.len(), answered.is_some());
    lost > 0
}
