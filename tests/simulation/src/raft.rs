//! Raft as the role manager relies on it, without its messages: one leader per term, elected by a majority; an entry
//! accepted by a majority is never lost; a replaced leader commits nothing more, but some of its proposals may survive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twinbox_roles_core::Command;

use crate::{
    clock::MS,
    member::Leader,
    world::{Event, Message, World},
};

/// An entry of the log. `None` is the first entry of a leader.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) command: Option<Command>,
}

/// The entries that a majority has accepted.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
}

impl Log {
    /// Number of entries that a member with this term may read: later entries were accepted under leaders that it does
    /// not know yet.
    pub(crate) fn known_in(&self, term: u64) -> usize {
        self.entries.partition_point(|entry| entry.term <= term)
    }
}

/// Proposals of a leader that no majority has accepted yet.
pub(crate) type Pending = VecDeque<Option<Command>>;

impl World {
    pub(crate) fn heartbeat(&mut self, member: usize) {
        let sent = self.local(member);
        let Some(process) = self.awake(member) else { return };
        let Some(leader) = process.leads.as_mut() else { return };
        leader.heartbeats.insert(sent, vec![member]);
        while leader.heartbeats.len() > 16 {
            leader.heartbeats.pop_first();
        }
        if self.voters.len() == 1
            && self.voters.contains(&member)
            && let Some(leader) = self.awake(member).and_then(|process| process.leads.as_mut())
        {
            leader.quorum_contact = Some(sent);
        }
        let term = self.members[member].process.as_ref().and_then(|p| p.leads.as_ref()).map_or(0, |l| l.term);
        let commit = self.log.known_in(term);
        for other in (0..self.members.len()).filter(|other| *other != member) {
            if self.belongs(other) {
                self.send(member, other, Message::Heartbeat { term, sent, commit });
            }
        }
    }

    /// Whether a member is in Raft's group, as a voter or while joining or leaving.
    fn belongs(&self, member: usize) -> bool {
        self.voters.contains(&member) || self.joining == Some(member) || self.learners.contains(&member)
    }

    /// Entries of a leader are agreed as soon as a majority without a later leader has them.
    pub(crate) fn commit(&mut self, member: usize, term: u64) {
        if !self.has_majority(member, term) {
            return;
        }
        let most = self.random_up_to(4);
        let before = self.log.entries.len();
        if let Some(leader) = self.awake(member).and_then(|process| process.leads.as_mut()) {
            let accepted: Vec<_> = (0..most).map_while(|_| leader.pending.pop_front()).collect();
            self.log.entries.extend(accepted.into_iter().map(|command| Entry { term, command }));
        }
        if self.log.entries.len() > before {
            // Followers learn of it immediately, and there may be more to do.
            self.heartbeat(member);
            self.after(2 * MS, Event::LeaderWork(member));
        }
    }

    pub(crate) fn has_majority(&self, member: usize, term: u64) -> bool {
        let follows = |other: &&usize| {
            let there = self.members[**other].process.as_ref().is_some_and(|p| p.hangs_until <= self.now);
            there && self.members[**other].term <= term && (**other == member || self.connected(member, **other))
        };
        self.voters.iter().filter(follows).count() > self.voters.len() / 2
    }

    /// The voters change by one: a majority of both the old and the new ones must have the entry in their logs.
    pub(crate) fn change_voters(
        &mut self,
        leader: usize,
        term: u64,
        change: impl FnOnce(&mut BTreeSet<usize>),
    ) -> bool {
        let before = self.voters.clone();
        if !self.has_majority(leader, term) {
            return false;
        }
        change(&mut self.voters);
        if !self.has_majority(leader, term) {
            self.voters = before;
            return false;
        }
        self.voters_at = self.log.entries.len();
        for member in 0..self.members.len() {
            let there = self.members[member].process.as_ref().is_some_and(|p| p.hangs_until <= self.now);
            if there && (member == leader || self.connected(leader, member)) && self.members[member].term <= term {
                self.learn_voters(member);
            }
        }
        true
    }

    /// The entry with the present voters is in this member's log.
    pub(crate) fn learn_voters(&mut self, member: usize) {
        self.members[member].voter_ids = self.voter_ids();
        self.members[member].voters_at = self.voters_at;
    }

    pub(crate) fn election(&mut self) {
        let pause = match self.calm {
            true => 900 * MS,
            false => self.random_between(40 * MS, 900 * MS),
        };
        self.after(pause, Event::Election);
        let highest = self.highest_term();
        let leader = (0..self.members.len()).find(|m| {
            let process = self.members[*m].process.as_ref();
            process.is_some_and(|p| p.leads.as_ref().is_some_and(|leader| leader.term == highest))
        });
        let healthy = leader.is_some_and(|leader| {
            let awake = self.members[leader].process.as_ref().is_some_and(|p| p.hangs_until <= self.now);
            awake && self.voters.contains(&leader) && self.has_majority(leader, highest)
        });
        // Mostly because the leader has failed; now and then for no reason.
        if healthy && (self.calm || !self.chance(25)) {
            return;
        }
        let voters: Vec<_> = self.voters.iter().copied().collect();
        let first = self.random_up_to(voters.len() as u64) as usize;
        // Without faults, a candidate that cannot win is soon followed by one that can.
        let tries = if self.calm { voters.len() } else { 1 };
        for candidate in voters.iter().cycle().skip(first).take(tries) {
            if self.stand(*candidate) {
                return;
            }
        }
    }

    fn highest_term(&self) -> u64 {
        self.members.iter().map(|member| member.term).max().unwrap_or(0)
    }

    /// Stands for election. Returns whether it leads.
    pub(crate) fn stand(&mut self, candidate: usize) -> bool {
        if self.awake(candidate).is_none() {
            return false;
        }
        let voters: Vec<usize> = self
            .voters
            .iter()
            .copied()
            .filter(|m| *m == candidate || self.connected(candidate, *m))
            .filter(|m| self.members[*m].process.as_ref().is_some_and(|p| p.hangs_until <= self.now))
            .collect();
        if voters.len() <= self.voters.len() / 2 {
            return false;
        }
        let before = self.highest_term();
        let term = before + 1;
        self.terms += 1;
        self.keep_proposals(before, candidate);
        for voter in &voters {
            self.members[*voter].term = term;
            let now = self.local(*voter);
            // A request for votes and its answer are also contacts with other members.
            let others = voters.iter().filter(|other| *other != voter && [*voter, **other].contains(&candidate));
            let others: Vec<_> = others.map(|other| self.members[*other].name.clone()).collect();
            if self.voters.len() > 1
                && let Some(process) = self.members[*voter].process.as_mut()
            {
                others.iter().for_each(|other| process.contacts.note(now, other, None));
                process.leads = process.leads.take().filter(|_| *voter == candidate);
            }
        }
        let name = self.members[candidate].name.clone();
        self.note(|| format!("{name} leads term {term}"));
        if let Some(process) = self.awake(candidate) {
            process.leader = Some(candidate);
            process.leads = Some(Leader {
                term,
                pending: [None].into(),
                proposed_at: None,
                quorum_contact: None,
                heartbeats: BTreeMap::new(),
            });
        }
        true
    }

    /// Proposals of the former leader may have reached the next one, from the beginning up to some entry.
    fn keep_proposals(&mut self, before: u64, candidate: usize) {
        let old = (0..self.members.len()).find(|m| {
            let leads = self.members[*m].process.as_ref().and_then(|p| p.leads.as_ref());
            leads.is_some_and(|leader| leader.term == before)
        });
        let Some(old) = old else { return };
        let pending = self.members[old].process.as_mut().and_then(|p| p.leads.as_mut()).map(|l| l.pending.clone());
        let mut pending = pending.unwrap_or_default();
        let most = self.random_up_to(pending.len() as u64 + 1) as usize;
        pending.truncate(most);
        for command in pending {
            self.log.entries.push(Entry { term: before, command });
        }
        if old == candidate {
            // Its own entries survive in its log; none is proposed twice.
            if let Some(process) = self.members[old].process.as_mut() {
                process.leads = None;
            }
        }
    }
}
