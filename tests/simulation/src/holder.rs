//! The node's side of its leases: the real decisions ([`HolderStep`](twinbox_roles_member::HolderStep)), carried out
//! with the gates and messages of this cluster.

use std::time::Duration;

use twinbox_ids::Incarnation;
use twinbox_roles_core::{CallHeir, Grant, MemberKind, Report, ServiceHealth};
use twinbox_roles_member::{HolderAction, HolderEvent, LeaderEvent, LeaseDenied, ReportedFacts};

use crate::{
    Mutant,
    heirs::with_calls,
    member::Process,
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
    /// A turn of a member, in the order of the service: it stops solo work before it reports that, and reports it
    /// before it gets a grant.
    pub(crate) fn turn(&mut self, member: usize) {
        let (now, limit) = (self.local(member), self.timing.lease);
        let leader = self.awake(member).and_then(|process| process.leader);
        let leader = leader.map(|leader| self.members[leader].name.clone());
        let Some(Process { holder, state, .. }) = self.awake(member) else { return };
        let actions = holder.step(now, HolderEvent::Applied { state, leader });
        self.carry_out(member, actions);
        self.finish_releases(member);
        self.decide_solo(member);
        let Some(Process { holder, state, requests, .. }) = self.awake(member) else { return };
        requests.retain(|sent| now.saturating_sub(*sent) < limit);
        let turn = HolderEvent::Turn { state, unanswered: requests.len(), may_take_part: true };
        let actions = holder.step(now, turn);
        self.carry_out(member, actions);
        let Some(process) = self.awake(member) else { return };
        let solo = process.solo.leases(now);
        let actions = process.holder.step(now, HolderEvent::Gates { is_held: false, solo });
        self.carry_out(member, actions);
    }

    /// Exit proofs may make a member the heir of calls.
    pub(crate) fn inherit_by_proof(&mut self, member: usize) {
        let now = self.local(member);
        let wall_ms = self.members[member].clock.wall_ms(self.now);
        let voters = self.known_voters(member);
        let Some(Process { holder, state, exits, .. }) = self.awake(member) else { return };
        let actions = holder.step(now, HolderEvent::Exits { state, voters: &voters, exits, wall_ms });
        self.carry_out(member, actions);
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
        process.requests.retain(|request| *request != sent);
        let actions = process.holder.step(now, HolderEvent::Answered { sent: counted, leader, result });
        self.carry_out(to, actions);
        if let (Some(Some(counts)), Some(process)) = (as_sent, self.awake(to)) {
            process.leadership.step(now, LeaderEvent::CallCounts(counts));
        }
    }

    fn carry_out(&mut self, member: usize, actions: Vec<HolderAction>) {
        let now = self.local(member);
        let is_brought_back = self.is(Mutant::InheritedReturns);
        for action in actions {
            let Some(process) = self.awake(member) else { return };
            match action {
                HolderAction::Release { duty, epoch } => {
                    process.gates.remove(&duty);
                    process.releases.push((duty, epoch));
                }
                HolderAction::Ask(leader) => {
                    if let Some(leader) = self.members.iter().position(|other| other.name == leader) {
                        self.send_keep_alive(member, leader);
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
            process.holder.step(now, HolderEvent::Released { duty, epoch });
        }
    }

    fn send_keep_alive(&mut self, member: usize, leader: usize) {
        let sent = self.local(member);
        let (raft_id, kind) = (self.members[member].raft_id, self.members[member].kind);
        let Some(process) = self.awake(member) else { return };
        let request = Box::new(process.holder.request(process.reported_facts(raft_id, kind)));
        // A request to itself is answered in the same moment.
        if leader == member {
            return self.take_keep_alive(member, member, sent, *request);
        }
        process.requests.push(sent);
        self.send(member, leader, Message::KeepAlive { sent, request });
    }
}

impl Process {
    fn reported_facts(&self, raft_id: u64, kind: MemberKind) -> ReportedFacts {
        let failed = || ServiceHealth { name: "store".to_owned(), ok: false, detail: String::new() };
        let (persisted, solo) = (self.solo.persisted(), self.solo.report().cloned());
        let measures = with_calls(self.measures, kind, self.incarnation);
        ReportedFacts {
            raft_id,
            run: self.run,
            failing: Some(if self.failing { vec![failed()] } else { Vec::new() }),
            report: Report { measures, persisted, solo, ..Report::default() },
        }
    }
}
