//! The node's side of its leases, and its solo work: the real decisions ([`NodeStep`](twinbox_roles_member::NodeStep)),
//! carried out with the gates, disks and messages of this cluster.

use std::time::Duration;

use twinbox_ids::Incarnation;
use twinbox_roles_core::{CallHeir, Grant, MemberKind, Report, ServiceHealth, Status, Timing, Voters};
use twinbox_roles_member::{
    Contacts, HolderAction, KeepAliveExtras, LeaderEvent, LeaseDenied, NodeAction, NodeEvent, NodeFacts,
    ReportedFacts, SoloAction,
};

use crate::{
    Mutant,
    heirs::with_calls,
    member::{Member, Process},
    world::{Message, World},
};

/// The answer to the keep-alive that an incarnation sent at this time of its own clock.
#[derive(Clone)]
pub(crate) struct LeaseAnswer {
    pub(crate) sent: Duration,
    pub(crate) incarnation: Incarnation,
    pub(crate) result: Result<Box<Grant>, LeaseDenied>,
}

impl World {
    /// A turn of a member.
    pub(crate) fn turn(&mut self, member: usize) {
        let voters = self.known_voters(member);
        let leader = self.awake(member).and_then(|process| process.leader);
        while let Some(action) = self.next_action(member, leader, &voters) {
            match action {
                NodeAction::Leases(actions) => self.carry_out(member, actions),
                NodeAction::Solo(SoloAction::Store(record)) => self.store_solo_record(member, record),
                NodeAction::Solo(SoloAction::Wait(_)) => {}
                NodeAction::Solo(SoloAction::Close) => {
                    if let Some(process) = self.awake(member) {
                        process.gates.clear();
                    }
                }
            }
            self.finish_releases(member);
        }
    }

    /// The next action of its present turn.
    fn next_action(&mut self, member: usize, leader: Option<usize>, voters: &Voters) -> Option<NodeAction> {
        let now = self.local(member);
        let wall_ms = self.members[member].clock.wall_ms(self.now);
        let raft_id = self.members[member].raft_id;
        let leader = leader.map(|leader| self.members[leader].name.clone());
        let Timing { election_max, margin, .. } = self.timing;
        let early = self.is(Mutant::SoloTooSoon).then_some(election_max + margin);
        let process = self.awake(member)?;
        let in_flight = process.node.solo().report().is_some_and(|report| process.flies_in(&report.epoch));
        let Process { node, state, exits, contacts, arbiter, .. } = process;
        let earlier = early.map(|early| {
            let mut earlier = Contacts::default();
            for name in state.members.keys() {
                contacts.last(name).into_iter().for_each(|at| earlier.note(at.saturating_sub(early), name, None));
            }
            earlier
        });
        node.turn(&NodeFacts {
            now,
            wall_ms,
            state,
            leader: leader.as_ref(),
            raft_id,
            voters,
            exits,
            may_take_part: true,
            is_held: false,
            contacts: earlier.as_ref().unwrap_or(contacts),
            arbiter: *arbiter,
            in_flight,
        })
    }

    /// An answer of the leader arrives.
    pub(crate) fn take_lease_answer(&mut self, from: usize, to: usize, answer: LeaseAnswer) {
        let LeaseAnswer { sent, incarnation, result } = answer;
        let now = self.local(to);
        let counted = if self.is(Mutant::LeaseFromReceipt) { now } else { sent };
        let leader = self.members[from].name.clone();
        let as_sent =
            self.is(Mutant::InheritedReturns).then(|| result.as_ref().ok().map(|g| g.call_counts.clone()));
        let Some(process) = self.awake(to).filter(|process| process.incarnation == incarnation) else { return };
        if counted != sent {
            let unanswered =
                NodeEvent::Answered { sent, leader: leader.clone(), result: Err(LeaseDenied::NoLeader) };
            process.node.step(now, unanswered);
        }
        let actions = process.node.step(now, NodeEvent::Answered { sent: counted, leader, result });
        self.carry_out(to, actions);
        if let (Some(Some(counts)), Some(process)) = (as_sent, self.awake(to)) {
            process.leadership.step(now, LeaderEvent::CallCounts(counts));
        }
    }

    pub(crate) fn carry_out(&mut self, member: usize, actions: Vec<HolderAction>) {
        let now = self.local(member);
        let is_brought_back = self.is(Mutant::InheritedReturns);
        for action in actions {
            let Some(process) = self.awake(member) else { return };
            match action {
                HolderAction::Release { duty, epoch } => {
                    process.gates.remove(&duty);
                    process.releases.push((duty, epoch));
                }
                HolderAction::Ask { leader, sent } => {
                    if let Some(leader) = self.members.iter().position(|other| other.name == leader) {
                        self.send_keep_alive(member, leader, sent);
                    }
                }
                HolderAction::Open { duty, epoch, until } => drop(process.gates.insert(duty, (epoch, until))),
                HolderAction::Close(duty) => drop(process.gates.remove(&duty)),
                HolderAction::KeepCallCounts(counts) => {
                    process.leadership.step(now, LeaderEvent::CallCounts(counts));
                }
                HolderAction::Inherit(CallHeir { node, incarnation, .. }) => {
                    if is_brought_back {
                        continue;
                    }
                    process.leadership.step(now, LeaderEvent::Inherited { node: &node, incarnation });
                }
                HolderAction::AbandonWrites => {}
                HolderAction::Left { .. } => {
                    let reported = self.chance(75);
                    self.exit(member, reported);
                }
            }
        }
    }

    /// A write has ended: a release or the end of solo work may have waited for it.
    pub(crate) fn write_ended(&mut self, member: usize) {
        let waits = |process: &mut Process| !process.releases.is_empty() || process.acts_alone();
        if self.awake(member).is_some_and(waits) {
            self.turn(member);
        }
    }

    /// Gates that were closed for release, and have nothing in flight any more.
    fn finish_releases(&mut self, member: usize) {
        let now = self.local(member);
        let in_flight_too = self.is(Mutant::ReleaseInFlight);
        let Some(process) = self.awake(member) else { return };
        for (duty, epoch) in std::mem::take(&mut process.releases) {
            if !in_flight_too && process.flies_under(duty, &epoch) {
                process.releases.push((duty, epoch));
                continue;
            }
            process.node.step(now, NodeEvent::Released { duty, epoch });
        }
    }

    fn send_keep_alive(&mut self, member: usize, leader: usize, sent: Duration) {
        let Member { name, raft_id, kind, .. } = &self.members[member];
        let (name, raft_id, kind) = (name.clone(), *raft_id, *kind);
        let Some(process) = self.awake(member) else { return };
        let request = Box::new(process.node.holder().request(process.reported_facts(raft_id, kind)));
        // Here a leaving node has no data that no other node has.
        let is_leaving = process.state.members.get(&name).is_some_and(|member| member.status == Status::Leaving);
        let extras = KeepAliveExtras { handed_over: is_leaving, ..KeepAliveExtras::default() };
        // A request to itself is answered in the same moment.
        if leader == member {
            return self.take_keep_alive(member, member, sent, *request, &extras);
        }
        self.send(member, leader, Message::KeepAlive { sent, request, extras });
    }
}

impl Process {
    fn reported_facts(&self, raft_id: u64, kind: MemberKind) -> ReportedFacts {
        let failed = || ServiceHealth { name: "store".to_owned(), ok: false, detail: String::new() };
        let (persisted, solo) = (self.node.solo().persisted(), self.node.solo().report().cloned());
        let measures = with_calls(self.measures, kind, self.incarnation);
        ReportedFacts {
            raft_id,
            run: self.run,
            failing: Some(if self.failing { vec![failed()] } else { Vec::new() }),
            report: Report { measures, persisted, solo, ..Report::default() },
        }
    }
}
