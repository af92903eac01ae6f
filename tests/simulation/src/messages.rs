//! Handling of received messages by members.

use std::time::Duration;

use twinbox_roles_core::KeepAlive;
use twinbox_roles_member::KeepAliveExtras;

use crate::{
    clock::MS,
    holder::LeaseAnswer,
    world::{Event, Message, World},
};

impl World {
    pub(crate) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if from != to {
            let (now, name) = (self.local(to), self.members[from].name.clone());
            let incarnation = match &message {
                Message::KeepAlive { request, .. } => Some(request.incarnation),
                _ => None,
            };
            let Some(process) = self.awake(to) else { return };
            process.contacts.note(now, &name, incarnation);
        }
        match message {
            Message::Heartbeat { term, sent, commit } => self.take_heartbeat(from, to, term, sent, commit),
            Message::Answer { term, sent } => self.take_answer(from, to, term, sent),
            Message::KeepAlive { sent, request, extras } => {
                self.take_keep_alive(from, to, sent, *request, &extras);
            }
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

    pub(crate) fn take_keep_alive(
        &mut self,
        from: usize,
        to: usize,
        sent: Duration,
        request: KeepAlive,
        extras: &KeepAliveExtras,
    ) {
        let incarnation = request.incarnation;
        let released = !request.released.is_empty();
        let result = self.grant(to, request, extras).map(Box::new);
        if released && result.is_ok() {
            self.after(MS, Event::LeaderWork(to));
        }
        let answer = LeaseAnswer { sent, incarnation, result };
        match from == to {
            true => self.take_lease_answer(to, to, answer),
            false => self.send(to, from, Message::LeaseAnswer(answer)),
        }
    }
}
