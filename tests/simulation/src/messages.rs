//! Handling of received messages by members.

use std::time::Duration;

use twinbox_roles_core::{KeepAlive, PersistedBounds};

use crate::{
    Mutant,
    clock::MS,
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
            Message::Grant { sent, incarnation, grant } => {
                let counted = if self.is(Mutant::LeaseFromReceipt) { self.local(to) } else { sent };
                let Some(process) = self.awake(to).filter(|process| process.incarnation == incarnation) else {
                    return;
                };
                if process.echo.is_none_or(|echo| (echo.term, echo.at) < (grant.term, grant.at)) {
                    process.echo = Some(grant.echo());
                    process.call_counts.clone_from(&grant.call_counts);
                }
                process.granted = process.granted.max(Some(sent));
                process.holders.values_mut().for_each(|holder| holder.granted(counted, &grant));
                self.decide_solo(to);
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
            self.send_keep_alive(to);
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

    fn take_keep_alive(&mut self, from: usize, to: usize, sent: Duration, mut request: KeepAlive) {
        let now = self.local(to);
        let blind = self.is(Mutant::NoQuorumNeeded);
        let unseen = self.is(Mutant::SoloUnseen);
        let unlearned = self.is(Mutant::SoloUnlearned);
        let voters: Vec<u64> = self.voters.iter().map(|m| self.members[*m].raft_id).collect();
        let Some(process) = self.awake(to) else { return };
        let Some(leader) = process.leads.as_mut() else { return };
        let (Some(ledger), Some(last_contact)) = (leader.ledger.as_mut(), leader.quorum_contact) else { return };
        let last_contact = if blind { now } else { last_contact };
        let released = !request.released.is_empty();
        let incarnation = request.incarnation;
        if unseen {
            request.report.solo = None;
        }
        if unlearned {
            request.report.persisted = PersistedBounds { generation: u64::MAX, longest_lease_ms: u64::MAX };
        }
        ledger.voters(voters);
        let Ok(grant) = ledger.keep_alive(now, last_contact, &process.state, &request) else { return };
        if released {
            self.after(MS, Event::LeaderWork(to));
        }
        let answer = Message::Grant { sent, incarnation, grant: Box::new(grant) };
        match from == to {
            true => self.deliver(to, to, answer),
            false => self.send(to, from, answer),
        }
    }
}
