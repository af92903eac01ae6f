//! The acting node under network faults: cuts of every shape, delay and loss, a machine that is stopped and continues.
//! Judged by a receiver: the epoch in each MWI NOTIFY, and the time of its arrival.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests::{acts, growing::number};
use twinbox_testkit::{
    Cluster, Deposit, Lab, Link, MwiNotify, Pbx, Spec, http_get, leave_message, metric, need, parameter, wait_for,
    wait_until,
};

/// Port of the PBX for MWI.
const PBX: u16 = 5070;
/// Upper limit of every move: the formulas of `lan` give 1.7 s at most; a busy machine needs more.
const MOVED: Duration = Duration::from_secs(10);

/// Ends the callers when dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A cluster in a lab, a PBX that wants MWI, and callers that leave messages on both nodes all the time.
struct Scene {
    lab: Lab,
    cluster: Cluster,
    pbx: Pbx,
}

impl Scene {
    fn open(lab: Lab, spec: Spec) -> Self {
        let pbx = Pbx::open(&lab.phones(), PBX);
        let cluster = Cluster::start_in(&lab, &Spec { mwi: Some(lab.phones().port(PBX)), ..spec });
        Self { lab, cluster, pbx }
    }

    /// Runs `act` while callers leave one message after the other on both nodes; every call must be answered and every
    /// message acknowledged, whatever `act` changes in the members' network.
    fn under_calls<T>(&self, act: impl FnOnce(&Self) -> T) -> T {
        self.under_calls_to(&["a", "b"], act)
    }

    fn under_calls_to<T>(&self, nodes: &[&str], act: impl FnOnce(&Self) -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let callers: Vec<_> = nodes
                .iter()
                .copied()
                .zip(Cluster::USERS)
                .map(|(node, user)| {
                    let (phones, sip, over) = (self.cluster.phones(), self.cluster.sip(node), &over);
                    scope.spawn(move || {
                        let mut left: Vec<Deposit> = Vec::new();
                        while !over.load(Ordering::Relaxed) {
                            left.push(leave_message(phones, sip, user.number, 0.6));
                        }
                        (node, left)
                    })
                })
                .collect();
            let result = {
                // Also when `act` fails: otherwise the callers would run for ever and hide the failure.
                let _ended = Ends(&over);
                act(self)
            };
            for caller in callers {
                let (node, left) = caller.join().expect("a caller does not panic");
                assert!(!left.is_empty() && left.iter().all(Deposit::acknowledged), "{node}: {left:#?}");
            }
            result
        })
    }

    /// Waits for a NOTIFY that `node` sent after `since`.
    fn act_of(&self, node: &str, since: BootInstant) -> MwiNotify {
        let acted = || self.pbx.notifies().into_iter().find(|l| l.at >= since && acts::epoch(l).node == node);
        wait_for(&format!("an act of {node}"), MOVED, acted)
    }

    /// Number of epochs that have acted; no two at the same time.
    fn judge(&self) -> usize {
        acts::judge(&self.cluster, &self.pbx.notifies())
    }

    /// Waits until NOTIFYs come, so that an epoch has acted before the first fault.
    fn publisher(&self) -> (String, String) {
        let (publisher, other) = self.cluster.publisher_and_other();
        self.act_of(&publisher, BootInstant::from_nanos(0));
        (publisher, other)
    }
}

fn lab() -> Option<Lab> {
    need::all(&[need::NAMESPACES]).then(|| Lab::new(&["a", "b", "w"]))
}

/// A cut that separates the publisher from the majority: the other node acts, the publisher stops before that.
fn the_other_takes_over(cut: impl Fn(&Lab, &str, &str)) {
    let Some(lab) = lab() else { return };
    let scene = Scene::open(lab, Spec::default());
    scene.under_calls(|scene| {
        let (publisher, other) = scene.publisher();
        let cut_at = BootInstant::now();
        cut(&scene.lab, &publisher, &other);
        let first = scene.act_of(&other, cut_at);
        let last =
            scene.pbx.notifies().into_iter().filter(|l| acts::epoch(l).node == publisher).map(|l| l.at).max();
        let last = last.map(|at| at.since(cut_at)).unwrap_or_default();
        println!("last act of {publisher} {last:?} after the cut, first of {other} {:?}", first.at.since(cut_at));
        scene.lab.heal();
    });
    scene.cluster.wait_in_service();
    assert_eq!(scene.judge(), 2);
}

/// A cut that leaves every node with a majority: no duty moves.
fn nothing_moves(cut: impl Fn(&Lab, &str, &str)) {
    let Some(lab) = lab() else { return };
    let scene = Scene::open(lab, Spec::default());
    scene.under_calls(|scene| {
        let (publisher, other) = scene.publisher();
        cut(&scene.lab, &publisher, &other);
        // Four leases: any move would have happened by then.
        thread::sleep(Duration::from_secs(3));
        scene.act_of(&publisher, BootInstant::now());
        scene.lab.heal();
    });
    scene.cluster.wait_in_service();
    assert_eq!(scene.judge(), 1);
}

#[test]
fn a_publisher_cut_from_all_members_is_replaced() {
    the_other_takes_over(|lab, publisher, other| {
        lab.cut(publisher, other);
        lab.cut(publisher, "w");
    });
}

#[test]
fn a_publisher_that_no_member_hears_is_replaced() {
    the_other_takes_over(|lab, publisher, other| {
        lab.cut_one_way(publisher, other);
        lab.cut_one_way(publisher, "w");
    });
}

#[test]
fn a_publisher_that_hears_no_member_is_replaced() {
    the_other_takes_over(|lab, publisher, other| {
        lab.cut_one_way(other, publisher);
        lab.cut_one_way("w", publisher);
    });
}

#[test]
fn the_witness_cut_from_both_nodes_moves_no_duty() {
    nothing_moves(|lab, publisher, other| {
        lab.cut(publisher, "w");
        lab.cut(other, "w");
    });
}

#[test]
fn a_witness_that_refuses_both_nodes_moves_no_duty() {
    nothing_moves(|lab, publisher, other| {
        lab.refuse(publisher, "w");
        lab.refuse(other, "w");
    });
}

/// One cut between two of three: a leader exists that all but one reach, and at most one move follows.
fn at_most_one_move(cut: impl Fn(&Lab, &str, &str)) {
    let Some(lab) = lab() else { return };
    let scene = Scene::open(lab, Spec::default());
    scene.under_calls(|scene| {
        let (publisher, other) = scene.publisher();
        cut(&scene.lab, &publisher, &other);
        thread::sleep(Duration::from_secs(3));
        let later = BootInstant::now();
        wait_until("somebody to act during the cut", MOVED, || scene.pbx.notifies().iter().any(|l| l.at >= later));
        scene.lab.heal();
    });
    scene.cluster.wait_in_service();
    assert!(scene.judge() <= 2);
}

#[test]
fn a_publisher_cut_from_the_other_node_only_moves_at_most_once() {
    at_most_one_move(|lab, publisher, other| lab.cut(publisher, other));
}

#[test]
fn a_publisher_cut_from_the_witness_only() {
    at_most_one_move(|lab, publisher, _| lab.cut(publisher, "w"));
}

/// A machine stops and continues with its old beliefs.
#[test]
fn a_publisher_that_stands_still_for_five_seconds() {
    let Some(lab) = lab() else { return };
    let scene = Scene::open(lab, Spec::default());
    let (publisher, other) = scene.publisher();
    let signal = |signal| {
        let process = scene.cluster.member(&publisher).process.as_ref().expect("it runs");
        process.signal_child(signal);
    };
    scene.under_calls_to(&[&other], |scene| {
        let stopped = BootInstant::now();
        signal(libc::SIGSTOP);
        let first = scene.act_of(&other, stopped);
        println!("{other} acts {:?} after {publisher} stands still", first.at.since(stopped));
        thread::sleep(Duration::from_secs(5).saturating_sub(stopped.elapsed()));
        signal(libc::SIGCONT);
        scene.cluster.wait_in_service();
    });
    assert_eq!(scene.judge(), 2);
}

/// A long round trip, and a line that loses frames: no needless move.
#[test]
fn a_round_trip_of_150_ms_and_one_frame_in_a_hundred_lost() {
    if !need::all(&[need::NAMESPACES, need::TAP]) {
        return;
    }
    let lab = Lab::switched(&["a", "b", "w"], parameter("TWINBOX_SEED", 1));
    for (one, other) in [("a", "b"), ("a", "w"), ("b", "w")] {
        lab.set_link(one, other, Link::round_trip(150, 10));
    }
    let scene = Scene::open(lab, Spec { timing: "wan", ..Spec::default() });
    let seconds = parameter("TWINBOX_WAN_SECONDS", 60);
    scene.under_calls(|scene| {
        scene.publisher();
        thread::sleep(Duration::from_secs(seconds));
    });
    assert_eq!(scene.judge(), 1);
    // The margin by which no move happened.
    let (publisher, _) = scene.cluster.publisher_and_other();
    let address = scene.cluster.member(&publisher).metrics();
    let (_, page) = http_get(scene.cluster.phones(), address, "/metrics").expect("its figures");
    let figure = |name: &str| metric(&page, name, "").expect("a figure");
    let (gap, lease) = (figure("twinbox_lease_longest_gap_seconds"), figure("twinbox_lease_seconds"));
    let timing = scene.cluster.cli(&publisher).json(&["cluster", "timing"]);
    println!("{seconds} s: no grant for {gap:.3} s at most, {:.0} % of a lease of {lease} s", 100.0 * gap / lease);
    assert!(gap > 0.6 && gap < lease, "{gap} of {lease}");
    assert_eq!((number(&timing["lease_ms"]), number(&timing["window_seconds"])), (3_500, 900));
    assert!(number(&timing["longest_gap_ms"]) >= 600, "{timing}");
}
