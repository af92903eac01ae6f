//! The members with their disks, and the steps of writers: what callers, owners and the publisher change.

mod compare;
mod disks;
mod fill;
mod housekeeping;
mod judge;
mod membership;
mod promises;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use twinbox_ids::{NodeName, Origin, Stamp};
use twinbox_mailbox::{
    Numbers,
    uids::{MailboxUids, UidWatch, give_again},
};
use twinbox_replication_core::Vector;

use self::{promises::Disk, streams::InFlight};
use super::{
    Mistake, ModelStep,
    mailbox::{self, MAILBOX, Shown},
    member::{Change, Member, Number},
};

/// The members, and the data that they must have in the end.
#[derive(Default)]
pub(super) struct World {
    /// By place; that of a free place is an empty disk.
    members: Vec<Member>,
    /// The disk of each member; `None` for a free place.
    disks: Vec<Option<Disk>>,
    /// An older copy of each disk.
    copies: Vec<Option<Member>>,
    /// The changes that each member was sent and has not synced.
    in_flight: Vec<Vec<InFlight>>,
    /// The mailboxes of each member whose UIDs may clash.
    watches: Vec<UidWatch>,
    /// The UIDs that mail programs saw on each member, and those that they saw on earlier disks.
    shown: Vec<Shown>,
    earlier: Vec<Shown>,
    mistake: Mistake,
    /// All changes that a disk has, or had when it was in order: these must be there in the end.
    truth: BTreeMap<Number, Change>,
    /// The disks on which each of these changes was acknowledged: one of them is *alone*, more are *on two*.
    promises: BTreeMap<Number, BTreeSet<Disk>>,
    /// Rows whose audio is to be there, each with the change that names it.
    audio: BTreeMap<u8, Number>,
    /// Rows that were created once: an id is never used again.
    created: BTreeSet<u8>,
    /// Rows that went after every member had their deletion: it may be lost later with the disks.
    purged: BTreeSet<u8>,
    /// Rows that were deleted before a disk that had lost them was repaired. A comparison copies no deleted row, so the UIDs that they
    /// had may be unknown there.
    unrepaired: BTreeSet<u8>,
    /// UIDs that bind a message no more: the change that gave it was lost with its disks.
    unbound: BTreeSet<(u8, u64)>,
    /// Changes that rows of an interrupted scan may show were lost with its source: no row is removed then, and one that was purged
    /// may come back.
    is_unsure: bool,
    /// The disk of a member that leaves in order, while it does: nothing may go with it.
    leaving: Option<Disk>,
    /// The first acknowledged change that was lost although a disk of its acknowledgement was not.
    broken: Option<String>,
    changes: u64,
    starts: u128,
    disks_made: u32,
}

impl World {
    pub(super) fn new(members: usize, mistake: Mistake) -> Self {
        let mut world = Self {
            members: vec![Member::default(); members],
            disks: vec![None; members],
            copies: vec![None; members],
            in_flight: (0..members).map(|_| Vec::new()).collect(),
            watches: (0..members).map(|_| new_watch()).collect(),
            shown: vec![Shown::default(); members],
            mistake,
            ..Self::default()
        };
        (0..members).for_each(|_| world.join());
        world
    }

    pub(super) fn step(&mut self, step: ModelStep) {
        let Some((one, other)) = step.members() else { return self.join() };
        if self.disks[one].is_none() || self.disks[other].is_none() {
            return;
        }
        match step {
            // A member that lacks records refuses callers, owners and administrators (rule D13).
            ModelStep::Write(at, _) | ModelStep::Delete(at, _) | ModelStep::Renumber(at)
                if self.members[at].lacks_records => {}
            ModelStep::Write(at, row) => self.write(at, row),
            ModelStep::Delete(at, row) if self.members[at].present(row) => self.delete(at, row),
            ModelStep::Renumber(at) => self.renumber(at),
            ModelStep::Exchange(from, to) if from != to => self.exchange(from, to),
            ModelStep::Send(from, to) if from != to => self.send(from, to),
            ModelStep::Sync(at) => self.sync(at),
            ModelStep::Report(from, to) if from != to => self.report(from, to),
            ModelStep::Fetch(from, to) if from != to => self.fetch(from, to),
            ModelStep::Compare(one, other) if one != other => self.compare(one, other),
            ModelStep::Cut(at, all) => self.cut(at, all),
            ModelStep::Purge(at) => self.purge(at),
            ModelStep::DropAudio(at) => self.drop_audio(at),
            ModelStep::Wipe(at) => self.wipe(at),
            ModelStep::Copy(at) => self.copy(at),
            ModelStep::SetBack(at) => self.set_back(at),
            ModelStep::Damage(at, row) => self.damage(at, row),
            ModelStep::Leave(at) => self.leave(at),
            ModelStep::GiveUp(at) => self.give_up(at),
            _ => {}
        }
        for at in BTreeSet::from([one, other]) {
            self.note_repairs(at);
            self.show(at);
        }
    }

    /// The places that are taken.
    fn seated(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| self.disks[*at].is_some()).collect()
    }

    /// Mail programs look at all that is there; a member that lacks records refuses them.
    fn show(&mut self, at: usize) {
        let (member, shown) = (&self.members[at], &mut self.shown[at]);
        if !member.lacks_records {
            let there = member.rows.iter().filter(|(_, here)| !here.is_deleted);
            there.for_each(|(row, here)| shown.see(*row, &here.message));
        }
    }

    fn write(&mut self, at: usize, row: u8) {
        let member = &mut self.members[at];
        if member.present(row) {
            let edits = mailbox::hear(&member.rows[&row].message, &member.counters);
            self.change(at, row, false, edits);
        } else if self.created.insert(row) {
            member.store_audio(mailbox::audio_of(row));
            let edits = mailbox::file(row, &member.counters);
            let number = self.change(at, row, false, edits);
            self.audio.insert(row, number);
        }
    }

    fn delete(&mut self, at: usize, row: u8) {
        let stamp = Stamp { wall: self.changes + 1, counter: 0, origin: self.origin(at) };
        let member = &self.members[at];
        let edits = mailbox::delete(&member.rows[&row].message, &member.counters, (stamp, &name(at)));
        self.change(at, row, true, edits);
    }

    /// A round of the publisher; two members may take themselves for it.
    fn renumber(&mut self, at: usize) {
        if self.watches[at].take(usize::MAX).is_empty() {
            return;
        }
        let mut found = MailboxUids::default();
        self.members[at].rows.iter().for_each(|(row, here)| found.add(mailbox::id(*row), &here.message));
        let mut clashing = found.clashing();
        if self.mistake == Mistake::OneNewUidOfTwo {
            let both = clashing.clone();
            let has_a_later_one = |uid, id| both.iter().any(|(other, later)| *other == uid && *later > id);
            clashing.retain(|(uid, id)| !has_a_later_one(*uid, *id));
        }
        for (uid, id) in clashing {
            let row = u8::try_from(id.0).expect("a row");
            let member = &self.members[at];
            let numbers = Numbers::after(&member.counters).above(found.highest());
            let edits = give_again(&member.rows[&row].message, uid, numbers);
            if !edits.is_empty() {
                self.change(at, row, false, (edits, numbers.take_both()));
            }
        }
        self.watches[at].checked(MAILBOX, found.highest());
    }

    /// The origin of a member's changes. Each start of a process is a new one.
    fn origin(&mut self, at: usize) -> Origin {
        *self.members[at].origin.get_or_insert_with(|| {
            self.starts += 1;
            Origin(self.starts)
        })
    }

    fn change(&mut self, at: usize, row: u8, is_delete: bool, (message, counters): mailbox::Edits) -> Number {
        let origin = self.origin(at);
        self.changes += 1;
        let (stamp, node) = (Stamp { wall: self.changes, counter: 0, origin }, name(at));
        let member = &self.members[at];
        let before = member.rows.get(&row).map(|row| row.message.clone()).unwrap_or_default();
        let message = Rc::new(mailbox::delta(&before, (stamp, &node), message));
        let counters = Rc::new(mailbox::delta(&member.counters, (stamp, &node), counters));
        let change = Change { row, is_delete, id: self.changes, message, counters };
        let number = (origin, member.vector.get(origin) + 1);
        self.apply(at, number, &change);
        self.truth.insert(number, change);
        self.acknowledge(at, number);
        number
    }

    fn apply(&mut self, at: usize, number: Number, change: &Change) {
        if self.members[at].apply(number, change) {
            let (origin, seq) = number;
            self.watches[at].changed(&mailbox::reported(change.row, origin, seq, &change.message));
        }
    }
}

/// The watch of a new process: nothing is checked yet.
fn new_watch() -> UidWatch {
    let watch = UidWatch::default();
    watch.suspect([MAILBOX]);
    watch
}

fn name(at: usize) -> NodeName {
    ["a", "b", "c", "d", "e"][at].parse().expect("a name")
}

/// Whether `vector` covers all that `other` covers.
fn covers(vector: &Vector, other: &Vector) -> bool {
    other.iter().all(|(origin, upto)| vector.covers(origin, upto))
}
