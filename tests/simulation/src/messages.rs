//! Handling of received messages by members.

use std::time::Duration;

use twinbox_roles_core::{Grant, KeepAlive, NoGrant, PersistedBounds};
use twinbox_roles_member::LeaseDenied;

use crate::{
    Mutant,
    clock::MS,
    holder::LeaseAnswer,
    world::{Event, Message, World},
};

impl World {
    pub(crate) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if from != to {
            let last_contact = self.local(to);
            let Some(process) = self.awake(to) else { return };
            process.last_contact = last_contact;
            self.decide_solo(to);
        }
        match message {
            Message::Heartbeat { term, sent, commit } => self.take_heartbeat(from, to, term, sent, commit),
            Message::Answer { term, sent } => self.take_answer(from, to, term, sent),
            Message::KeepAlive { sent, request } => self.take_keep_alive(from, to, sent, *request),
            Message::LeaseAnswer(answer) => {
                self.take_lease_answer(from, to, answer);
                self.turn(to);
            }
        }
    }

    fn take_heartbeat(&mut self, from: usize, to: usize, term: u64, sent: Duration, commit: usize) {
        let known = &mut self.members[to].term;
        if term < *known {
            return;
        }
        *known = term;
        self.learn_voters(to);
        let lazy = self.is_sluggish(to);
        let Some(process) = self.awake(to) else { return };
        if process.leads.as_ref().is_some_and(|leader| leader.term < term) {
            process.leads = None;
        }
        let news = (process.applied < commit && !lazy) || process.leader != Some(from);
        process.leader = Some(from);
        if !lazy {
            self.apply(to, commit);
        }
        self.send(to, from, Message::Answer { term, sent });
        if news {
            self.turn(to);
        }
    }

    fn take_answer(&mut self, from: usize, to: usize, term: u64, sent: Duration) {
        let process = self.members[to].process.as_mut().filter(|process| process.hangs_until <= self.now);
        let Some(leader) = process.and_then(|process| process.leads.as_mut()) else { return };
        if leader.term != term {
            return;
        }
        let answered = leader.heartbeats.entry(sent).or_default();
        if !answered.contains(&from) {
            answered.push(from);
        }
        if answered.iter().filter(|m| self.voters.contains(m)).count() > self.voters.len() / 2 {
            leader.quorum_contact = leader.quorum_contact.max(Some(sent));
        }
    }

    pub(crate) fn take_keep_alive(&mut self, from: usize, to: usize, sent: Duration, request: KeepAlive) {
        let incarnation = request.incarnation;
        let released = !request.released.is_empty();
        let result = self.grant(to, request).map(Box::new);
        if released && result.is_ok() {
            self.after(MS, Event::LeaderWork(to));
        }
        let answer = LeaseAnswer { sent, incarnation, result };
        match from == to {
            true => self.take_lease_answer(to, to, answer),
            false => self.send(to, from, Message::LeaseAnswer(answer)),
        }
    }

    /// The answer of a member to a keep-alive.
    fn grant(&mut self, to: usize, mut request: KeepAlive) -> Result<Grant, LeaseDenied> {
        let now = self.local(to);
        let blind = self.is(Mutant::NoQuorumNeeded);
        if self.is(Mutant::SoloUnseen) {
            request.report.solo = None;
        }
        if self.is(Mutant::SoloUnlearned) {
            request.report.persisted = PersistedBounds { generation: u64::MAX, longest_lease_ms: u64::MAX };
        }
        let voters: Vec<u64> = self.voters.iter().map(|m| self.members[*m].raft_id).collect();
        let process = self.awake(to).ok_or(LeaseDenied::NoLeader)?;
        let leader = process.leads.as_mut().ok_or(LeaseDenied::NoLeader)?;
        let (Some(ledger), Some(last_contact)) = (leader.ledger.as_mut(), leader.quorum_contact) else {
            return Err(LeaseDenied::NoLeader);
        };
        let last_contact = if blind { now } else { last_contact };
        ledger.voters(voters);
        ledger.keep_alive(now, last_contact, &process.state, &request).map_err(|no| match no {
            NoGrant::NoQuorum { .. } => LeaseDenied::NoLeader,
            reason => LeaseDenied::Refused(reason.to_string()),
        })
    }
}
