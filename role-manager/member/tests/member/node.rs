//! Turns of a node: in which order it ends solo work, asks, and opens gates.

use std::time::Duration;

use twinbox_ids::Incarnation;
use twinbox_roles_core::{CallCounts, Exits, Grant, SoloRecord, State, Timing};
use twinbox_roles_member::{Contacts, HolderAction, NodeAction, NodeEvent, NodeFacts, NodeStep, SoloAction};

use crate::common::{START, assuming, epoch, grant, ms, name, pair, voters};

/// Facts of a node at this time. By default it is `b`, knows of no leader, and last heard the other at the start.
struct TurnInput {
    now: Duration,
    raft_id: u64,
    state: State,
    leader: Option<&'static str>,
    is_held: bool,
    last_contact: Duration,
    in_flight: bool,
    /// Whether its disk takes records.
    stores: bool,
    exits: Exits,
    /// Call counts of the grants.
    counts: CallCounts,
}

impl TurnInput {
    fn new(now: Duration, state: &State) -> Self {
        let (state, leader, last_contact) = (state.clone(), None, START);
        Self {
            now,
            raft_id: 2,
            state,
            leader,
            is_held: false,
            last_contact,
            in_flight: false,
            stores: true,
            exits: Exits::default(),
            counts: CallCounts::default(),
        }
    }

    /// Lets the node have one turn. Returns what it does, in order, without closed gates and call counts; a keep-alive is
    /// answered with a grant if `is_leader`.
    fn turn(&self, node: &mut NodeStep, is_leader: bool) -> Vec<String> {
        let (leader, voters) = (self.leader.map(name), voters());
        let mut contacts = Contacts::default();
        contacts.note(self.last_contact, &name(if self.raft_id == 1 { "b" } else { "a" }), None);
        let facts = NodeFacts {
            now: self.now,
            wall_ms: 1_000,
            state: &self.state,
            leader: leader.as_ref(),
            raft_id: self.raft_id,
            voters: &voters,
            exits: &self.exits,
            may_take_part: true,
            is_held: self.is_held,
            contacts: &contacts,
            arbiter: None,
            in_flight: self.in_flight,
        };
        let mut done = Vec::new();
        while let Some(action) = node.turn(&facts) {
            assert!(done.len() < 20, "it comes to an end: {done:?}");
            match action {
                NodeAction::Solo(SoloAction::Close) => done.push("close all".to_owned()),
                NodeAction::Solo(SoloAction::Wait(_)) => done.push("wait".to_owned()),
                NodeAction::Solo(SoloAction::Store(record)) => {
                    done.push(stored(&record).to_owned());
                    let event = if self.stores { NodeEvent::Stored(record) } else { NodeEvent::NotStored };
                    assert_eq!(node.step(self.now, event), []);
                }
                NodeAction::Leases(actions) => {
                    for action in actions {
                        match action {
                            HolderAction::Ask { leader: asked, sent } => {
                                done.push("ask".to_owned());
                                let call_counts = self.counts.clone();
                                let result = Ok(Box::new(Grant { call_counts, ..*grant(&self.state) }));
                                if is_leader {
                                    node.step(sent, NodeEvent::Answered { sent, leader: asked, result });
                                }
                            }
                            HolderAction::Open { duty, epoch, .. } => done.push(format!("open {duty} {epoch}")),
                            HolderAction::Release { duty, .. } => done.push(format!("release {duty}")),
                            HolderAction::Close(_) | HolderAction::KeepCallCounts(_) => {}
                            other => done.push(format!("{other:?}")),
                        }
                    }
                }
            }
        }
        done
    }
}

fn stored(record: &SoloRecord) -> &'static str {
    match record.report.as_ref().map(|report| report.is_acting()) {
        None => "store",
        Some(true) => "store the epoch",
        Some(false) => "store the end",
    }
}

fn node(text: &str) -> NodeStep {
    NodeStep::new((name(text), Incarnation(1)), Timing::lan(), None, (START, 900))
}

fn late(state: &State) -> Duration {
    START + Timing::lan().silence_limit(state) + ms(1)
}

/// Node `b`, which acts solo at this time, and what its gates show.
fn solo(at: Duration) -> (NodeStep, Vec<String>) {
    let mut node = node("b");
    let mut done = TurnInput::new(at, &assuming()).turn(&mut node, false);
    assert_eq!(done.drain(..2).collect::<Vec<_>>(), ["store", "store the epoch"]);
    assert!(!done.is_empty() && done.iter().all(|text| text.starts_with("open ")), "{done:?}");
    (node, done)
}

#[test]
fn a_node_ends_solo_work_before_it_asks_and_opens_nothing_after_that() {
    let state = assuming();
    let (mut node, _) = solo(late(&state));
    let now = late(&state) + ms(150);
    let heard = TurnInput { leader: Some("a"), last_contact: now, ..TurnInput::new(now, &state) };
    let busy = TurnInput { leader: Some("a"), last_contact: now, in_flight: true, ..TurnInput::new(now, &state) };
    assert_eq!(busy.turn(&mut node, false), ["close all", "ask"], "a write is in flight: its end is not reported");
    assert!(node.solo().report().is_some_and(|report| report.is_acting()));
    assert_eq!(node.holder().next(), now + Timing::lan().keep_alive);
    assert_eq!(busy.turn(&mut node, false), [""; 0]);
    assert_eq!(node.holder().next(), now + ms(10), "it looks again soon");
    assert_eq!(heard.turn(&mut node, false), ["store the end", "wait"]);
    assert!(node.solo().report().is_some_and(|report| !report.is_acting()));
}

#[test]
fn a_node_whose_disk_fails_asks_and_opens_nothing() {
    let state = assuming();
    let mut node = node("b");
    let now = late(&state);
    let input = TurnInput { leader: Some("a"), stores: false, ..TurnInput::new(now, &state) };
    assert_eq!(input.turn(&mut node, false), ["store", "ask"]);
    let input = TurnInput { stores: true, ..input };
    let done = input.turn(&mut node, false);
    assert_eq!(done[..2], ["store", "store the epoch"], "the next turn tries again: {done:?}");
}

#[test]
fn a_gate_opens_in_the_turn_in_which_the_node_grants_a_lease_to_itself() {
    let state = pair();
    let mut node = node("a");
    let input = TurnInput { raft_id: 1, leader: Some("a"), ..TurnInput::new(START, &state) };
    let done = input.turn(&mut node, true);
    let opened = format!("open {} {}", crate::common::DUTY, epoch(&state));
    assert_eq!(done, ["store", "wait", "ask", opened.as_str()]);
    let held = TurnInput { is_held: true, ..input };
    assert_eq!(held.turn(&mut node, true), [""; 0], "it is about to leave its group");
}

#[test]
fn after_a_panic_a_node_has_no_lease_and_goes_on_in_its_solo_epoch() {
    let state = assuming();
    let (mut node, opened) = solo(late(&state));
    node.restart(late(&state) + ms(1));
    let input = TurnInput { in_flight: true, ..TurnInput::new(late(&state) + ms(2), &state) };
    assert_eq!(input.turn(&mut node, false), opened, "writes of that epoch are in flight");

    let state = pair();
    let mut node = self::node("a");
    let input = TurnInput { raft_id: 1, leader: Some("a"), ..TurnInput::new(START, &state) };
    assert_eq!(input.turn(&mut node, true).len(), 4);
    node.restart(START + ms(1));
    let input = TurnInput { raft_id: 1, ..TurnInput::new(START + ms(2), &state) };
    assert_eq!(input.turn(&mut node, true), [""; 0], "its lease ran, and it knows of none");
}

#[test]
fn a_leaving_node_takes_no_other_step_of_a_turn() {
    let state = assuming();
    let (mut node, _) = solo(late(&state));
    let now = late(&state) + ms(1);
    assert_eq!(node.step(now, NodeEvent::Leave), []);
    let input = TurnInput { leader: Some("a"), last_contact: now, ..TurnInput::new(now, &state) };
    assert_eq!(input.turn(&mut node, true), ["ask"]);
    assert!(node.holder().has_left());
}

/// Rule C4: another node, which joins later, must not get them when this one leads.
#[test]
fn after_a_panic_a_node_still_knows_which_calls_it_has_inherited_by_proof() {
    let state = pair();
    let mut node = node("a");
    let mut input = TurnInput { raft_id: 1, leader: Some("b"), ..TurnInput::new(START, &state) };
    input.exits.note(&name("b"), Incarnation(1), true);
    input.counts.note(&name("b"), Incarnation(1), 4);
    let inherits = |done: &[String]| done.iter().filter(|text| text.starts_with("Inherit")).count();
    assert_eq!(inherits(&input.turn(&mut node, true)), 1);
    node.restart(START + ms(1));
    let again = TurnInput { now: START + ms(2), ..input };
    assert_eq!(inherits(&again.turn(&mut node, true)), 0, "once is enough");
    let heirs: Vec<_> = node.holder().inherited().iter().map(|item| (&item.node, item.incarnation)).collect();
    assert_eq!(heirs, [(&name("b"), Incarnation(1))]);
}

/// A leader that knows of the release may have given the duty to another node.
#[test]
fn after_a_panic_a_leaving_node_goes_on_leaving_and_opens_nothing() {
    let state = pair();
    let mut node = node("a");
    let input = |at| TurnInput { raft_id: 1, leader: Some("b"), ..TurnInput::new(START + ms(at), &state) };
    assert_eq!(input(0).turn(&mut node, false), ["store", "wait", "ask"]);
    let (duty, epoch) = (crate::common::DUTY, epoch(&state));
    let release = HolderAction::Release { duty, epoch: epoch.clone() };
    assert_eq!(node.step(START + ms(1), NodeEvent::Leave), [release]);
    assert_eq!(node.step(START + ms(2), NodeEvent::Released { duty, epoch }), []);
    assert_eq!(input(2).turn(&mut node, false), ["ask"], "it reports the release");
    node.restart(START + ms(3));
    let late = NodeEvent::Answered { sent: START, leader: name("b"), result: Ok(grant(&state)) };
    assert_eq!(node.step(START + ms(4), late), []);
    assert_eq!(input(5).turn(&mut node, true), ["ask"]);
    assert!(node.holder().has_left());
}
