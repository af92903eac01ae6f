//! The disks of the nodes, and the streams between them: durable here, then at a peer that counts.

use std::collections::BTreeSet;

use twinbox_ids::EffectId;
use twinbox_replication_core::Edit;

use super::{Outbox, OutboxEvent};
use crate::{
    clock::{MS, Micros},
    world::World,
};

/// Maximum wait for a second disk (rule A2).
const ACK_TIMEOUT: Micros = 250 * MS;

impl World {
    /// Makes a change durable on a member's disk. Returns its position in the member's log, and its number.
    pub(super) fn write(&mut self, member: usize, id: EffectId, edits: &[Edit]) -> (usize, usize) {
        let at = self.cluster_time();
        let Outbox { disks, changes, .. } = &mut self.outbox;
        let number = disks[member].commit(changes, id, edits, at);
        let position = disks[member].length() - 1;
        self.mark_changed(member, &BTreeSet::from([id]));
        self.tend_streams(member);
        (position, number)
    }

    fn mark_changed(&mut self, member: usize, changed: &BTreeSet<EffectId>) {
        if let Some(process) = self.members[member].process.as_mut() {
            process.outbox.values_mut().for_each(|work| work.changed.extend(changed));
        }
    }

    /// The time until which a write waits for a second disk: not at all while no peer counts.
    pub(super) fn waits_until(&mut self, member: usize) -> Micros {
        let counts = self.outbox.counting.iter().any(|(writer, _)| *writer == member);
        let wait = if counts { ACK_TIMEOUT } else { 0 };
        self.outbox_event(wait, OutboxEvent::Tend(member));
        self.now + wait
    }

    /// Peers that answer count, and get the changes that they lack.
    pub(super) fn tend_streams(&mut self, member: usize) {
        for at in 0..self.outbox.nodes.len() {
            let peer = self.outbox.nodes[at];
            if peer == member || !self.connected(member, peer) || self.awake(peer).is_none() {
                continue;
            }
            let calm = self.calm;
            let outbox = &mut self.outbox;
            outbox.counting.insert((member, peer));
            let sent = outbox.sent.get(&(member, peer)).copied().unwrap_or_default();
            if sent < outbox.disks[member].length() && outbox.streaming.insert((member, peer)) {
                let delay = outbox.delay(calm);
                self.outbox_event(delay, OutboxEvent::Stream { from: member, to: peer });
            }
        }
    }

    /// Changes arrive in the order of the sender's log, and are durable before they are acknowledged.
    pub(super) fn stream(&mut self, from: usize, to: usize) {
        self.outbox.streaming.remove(&(from, to));
        if !self.connected(from, to) || self.awake(from).is_none() || self.awake(to).is_none() {
            return;
        }
        let calm = self.calm;
        let Outbox { disks, changes, sent, .. } = &mut self.outbox;
        let numbers = disks[from].log_from(sent.get(&(from, to)).copied().unwrap_or_default());
        let length = disks[from].length();
        sent.insert((from, to), length);
        // The sender has these: they need not go back.
        let back = sent.get(&(to, from)).copied().unwrap_or_default() == disks[to].length();
        let changed = disks[to].follow(changes, &numbers);
        if back {
            sent.insert((to, from), disks[to].length());
        }
        let own = disks[to].length();
        let delay = self.outbox.delay(calm);
        self.outbox_event(delay, OutboxEvent::Ack { writer: from, peer: to, length, own });
        self.mark_changed(to, &changed);
    }
}
