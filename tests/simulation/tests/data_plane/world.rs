//! The steps of the model: what a member does with a change, a disk, and a page of rows.

mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use twinbox_ids::{NodeName, Origin, Stamp};
use twinbox_mailbox::{
    Numbers,
    uids::{self, MailboxUids, UidWatch, give_again},
};
use twinbox_replication_core::{
    Key, Table, Vector,
    state_fill::{AbsentRow, Cover, ScanFacts, Way},
};

use super::{
    Change, Fill, Member, Mistake, PAGE, ROWS, Row, Step,
    mailbox::{self, MAILBOX, Shown},
};

/// The members, and what they are to have in the end.
pub(super) struct World {
    members: Vec<Member>,
    copies: Vec<Option<Member>>,
    /// The mailboxes of each member whose UIDs may clash.
    watches: Vec<UidWatch>,
    /// The UIDs that mail programs saw on each member, and those that they saw on its earlier disks.
    shown: Vec<Shown>,
    earlier: Vec<Shown>,
    mistake: Mistake,
    /// All changes that a disk has, or had when it was in order: what is to be there in the end.
    truth: BTreeMap<(Origin, u64), Change>,
    /// Rows whose audio is to be there.
    audio: BTreeSet<u8>,
    /// Rows that were created once: an id is never used again.
    created: BTreeSet<u8>,
    /// The row that a disk has lost, until it is repaired: a scan of that disk, or the loss of another, could lose it for good.
    damaged: Option<(usize, u8)>,
    /// Rows that went after every member had their deletion: it may be lost later with the disks.
    purged: BTreeSet<u8>,
    /// Changes that rows of an interrupted scan may show were lost with its source: no row is removed then, and one that was purged
    /// may come back.
    is_unsure: bool,
    changes: u64,
    starts: u128,
}

impl World {
    pub(super) fn new(members: usize, mistake: Mistake) -> Self {
        let copies = (0..members).map(|_| None).collect();
        let (watches, shown) = (0..members).map(|_| (new_watch(), Shown::default())).unzip();
        let members = (0..members).map(|_| Member::default()).collect();
        let (truth, audio, created, purged) = Default::default();
        let (damaged, is_unsure, changes, starts) = (None, false, 0, 0);
        let earlier = Vec::new();
        Self {
            members,
            copies,
            watches,
            shown,
            earlier,
            mistake,
            truth,
            audio,
            created,
            damaged,
            purged,
            is_unsure,
            changes,
            starts,
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            // A member that lacks records refuses callers, owners and administrators (rule D13).
            Step::Write(at, _) | Step::Delete(at, _) | Step::Renumber(at) if self.members[at].lacks_records => {}
            Step::Write(at, row) => self.write(at, row),
            Step::Delete(at, row) if self.members[at].present(row) => self.delete(at, row),
            Step::Renumber(at) => self.renumber(at),
            Step::Exchange(from, to) if from != to => self.exchange(from, to),
            Step::Fetch(from, to) if from != to => self.fetch(from, to),
            Step::Compare(one, other) if one != other => self.compare(one, other),
            Step::Cut(at, all) => self.cut(at, all),
            Step::Purge(at) => self.purge(at),
            Step::Wipe(at) => self.lose(at, Member { lacks_records: true, ..Member::default() }),
            Step::Copy(at) => self.copy(at),
            Step::SetBack(at) => {
                if let Some(copy) = self.copies[at].take() {
                    self.lose(at, copy);
                }
            }
            Step::Damage(at, row) => self.damage(at, row),
            _ => {}
        }
        // Mail programs look at all that is there; a member that lacks records refuses them.
        for (member, shown) in self.members.iter().zip(&mut self.shown).filter(|(member, _)| !member.lacks_records)
        {
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
            member.audio.insert(row);
            self.audio.insert(row);
            let edits = mailbox::file(row, &member.counters);
            self.change(at, row, false, edits);
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

    fn change(&mut self, at: usize, row: u8, is_delete: bool, (message, counters): mailbox::Edits) {
        let origin = self.origin(at);
        self.changes += 1;
        let (stamp, node) = (Stamp { wall: self.changes, counter: 0, origin }, name(at));
        let member = &self.members[at];
        let before = member.rows.get(&row).map(|row| row.message.clone()).unwrap_or_default();
        let message = Rc::new(mailbox::delta(&before, (stamp, &node), message));
        let counters = Rc::new(mailbox::delta(&member.counters, (stamp, &node), counters));
        let change = Change { row, is_delete, id: self.changes, message, counters };
        let seq = member.vector.get(origin) + 1;
        self.apply(at, origin, seq, &change);
        self.truth.insert((origin, seq), change);
    }

    fn apply(&mut self, at: usize, origin: Origin, seq: u64, change: &Change) {
        if self.members[at].apply(origin, seq, change) {
            self.watches[at].changed(&mailbox::reported(change.row, origin, seq, &change.message));
        }
    }

    /// The disk of a member is replaced. What is on no other disk goes with it: it was acknowledged *alone*, or its other copy was
    /// lost before.
    fn lose(&mut self, at: usize, disk: Member) {
        if self.damaged.is_some() {
            return;
        }
        // What only the disk before had does not come back with a later copy of it.
        self.copies[at] = None;
        let origin = self.members[at].origin;
        self.members[at] = disk;
        self.watches[at] = new_watch();
        self.earlier.push(std::mem::take(&mut self.shown[at]));
        if self.mistake == Mistake::ReusedOrigin {
            self.members[at].origin = origin;
        } else {
            self.members[at].origin = None;
        }
        let members = &self.members;
        // A scan that was interrupted has rows of changes that the vector does not cover.
        let shown = |change: &Change, origin: Origin, seq: u64| {
            let shows = |row: &Row| row.shows.get(&origin).is_some_and(|shown| *shown >= seq);
            members
                .iter()
                .any(|member| member.vector.covers(origin, seq) || member.rows.get(&change.row).is_some_and(shows))
        };
        // The counters went with the disk, even if an interrupted scan has brought the message.
        let lost =
            self.truth.iter().filter(|((origin, seq), _)| !members.iter().any(|m| m.vector.covers(*origin, *seq)));
        // A deletion repeats UIDs that it did not give.
        for (_, change) in lost.filter(|(_, change)| !change.is_delete) {
            let all = self.earlier.iter_mut().chain(&mut self.shown);
            all.for_each(|shown| uids::of(&change.message).for_each(|uid| shown.forget(change.row, uid)));
        }
        self.truth.retain(|(origin, seq), change| shown(change, *origin, *seq));
        self.audio.retain(|row| members.iter().any(|member| member.audio.contains(row)));
        let sources: Vec<usize> =
            self.members.iter().enumerate().filter(|(_, m)| !m.lacks_records).map(|(n, _)| n).collect();
        // When no member has all records, what is left is all there is, as after an order of the administrator.
        if sources.is_empty() {
            self.members.iter_mut().for_each(|member| member.lacks_records = false);
        }
        for member in &mut self.members {
            if member.fill.as_ref().is_some_and(|fill| fill.source == at) {
                member.fill = None;
            }
        }
    }

    /// A copy of a whole disk that lacks nothing.
    fn copy(&mut self, at: usize) {
        let member = &self.members[at];
        if !member.lacks_records && member.fill.is_none() && self.damaged.is_none_or(|(damaged, _)| damaged != at) {
            self.copies[at] = Some(member.clone());
        }
    }

    /// Only a row that is equal on another disk is lost here, and one at a time.
    fn damage(&mut self, at: usize, row: u8) {
        let here = &self.members[at];
        let is_elsewhere = |other: &Member| {
            !other.lacks_records && other.fill.is_none() && other.rows.get(&row) == here.rows.get(&row)
        };
        let others = self.members.iter().enumerate().filter(|(n, _)| *n != at);
        let idle = self.members.iter().all(|member| member.fill.is_none() && !member.lacks_records);
        if self.damaged.is_none() && idle && here.present(row) && others.clone().all(|(_, m)| is_elsewhere(m)) {
            self.members[at].rows.remove(&row);
            self.damaged = Some((at, row));
        }
    }

    fn compare(&mut self, one: usize, other: usize) {
        let (left, right) = (&self.members[one], &self.members[other]);
        let ready = |member: &Member| !member.lacks_records && member.fill.is_none();
        if left.vector != right.vector || !ready(left) || !ready(right) {
            return;
        }
        for row in 0..ROWS {
            let (left, right) = (self.members[one].rows.get(&row), self.members[other].rows.get(&row));
            let is_lost = matches!((left, right), (None, Some(good)) | (Some(good), None) if !good.is_deleted);
            let differs = left.is_some() && right.is_some() && left != right;
            if !is_lost && !differs {
                continue;
            }
            if is_lost && self.mistake == Mistake::DamageDeletesTheGoodCopy {
                self.members[one].rows.remove(&row);
                self.members[other].rows.remove(&row);
                continue;
            }
            let mut merged = left.cloned().unwrap_or_default();
            right.into_iter().for_each(|right| merged.merge(right));
            // The rows of one may show more than the vectors: those of an interrupted scan.
            for (to, from) in [(one, other), (other, one)] {
                if self.mistake != Mistake::UnmarkedRepair {
                    let seen = self.members[from].seen.clone();
                    self.members[to].seen.join(&seen);
                }
                self.members[to].rows.insert(row, merged.clone());
                self.watches[to].changed(&mailbox::reported(row, Origin(0), 0, &merged.message));
            }
            self.damaged = self.damaged.filter(|(at, damaged)| *damaged != row || ![one, other].contains(at));
        }
        for (to, from) in [(one, other), (other, one)] {
            let counters = self.members[from].counters.clone();
            if self.members[to].counters != counters {
                self.members[to].merge_counters(&counters);
                self.watches[to].suspect([MAILBOX]);
            }
        }
    }

    fn cut(&mut self, at: usize, all: bool) {
        let member = &self.members[at];
        // A member that fills keeps its log: it is what tells its rows from purged ones.
        if member.fill.is_some() || member.lacks_records {
            return;
        }
        let pins = self.members.iter().filter_map(|m| m.fill.as_ref()).filter(|fill| fill.source == at);
        let mut limits: Vec<Vector> = pins.map(|fill| fill.start.clone()).collect();
        if !all {
            limits.extend(self.members.iter().map(|other| other.vector.clone()));
        }
        let mut upto = member.vector.clone();
        for limit in limits {
            upto = upto.iter().map(|(origin, seq)| (origin, seq.min(limit.get(origin)))).collect();
        }
        let member = &mut self.members[at];
        member.begins.join(&upto);
        member.log.retain(|(origin, seq), _| *seq > upto.get(*origin));
    }

    /// Rows whose deletion every member has, and of which every member has all that any one made, go with their audio.
    fn purge(&mut self, at: usize) {
        let members = &self.members;
        if members[at].fill.is_some() || members[at].lacks_records || self.damaged.is_some() {
            return;
        }
        let stable = |row: u8| {
            let mut made = self.truth.iter().filter(|(_, change)| change.row == row);
            let is_covered = made.all(|((origin, seq), _)| {
                members.iter().all(|m| m.vector.covers(*origin, *seq) && m.fill.is_none() && !m.lacks_records)
            });
            is_covered || self.mistake == Mistake::PurgeBeforeStable
        };
        let here = members[at].rows.iter().filter(|(_, here)| here.is_deleted).map(|(row, _)| *row);
        let gone: Vec<u8> = here.filter(|row| stable(*row)).collect();
        for row in gone {
            self.forget_clashes(row);
            self.members[at].rows.remove(&row);
            self.members[at].audio.remove(&row);
            self.purged.insert(row);
            // A disk that is older than the grace must not be put back.
            self.copies.iter_mut().for_each(|copy| *copy = None);
        }
    }

    /// Nothing remembers the UIDs of a row that goes. The grace is longer than it takes to give a new UID to another message that has
    /// one of them; the model has no time, so a clash that is left then does not count. Histories without a purge find it.
    fn forget_clashes(&mut self, row: u8) {
        let in_force = |here: &Row| uids::of(&here.message).max();
        let others = self.members.iter().flat_map(|member| &member.rows).filter(|(other, _)| **other != row);
        let others: BTreeSet<u64> = others.filter_map(|(_, here)| in_force(here)).collect();
        let all = self.earlier.iter_mut().chain(&mut self.shown);
        all.for_each(|shown| others.iter().for_each(|uid| shown.forget(row, *uid)));
    }

    fn fetch(&mut self, from: usize, to: usize) {
        let wanted: Vec<u8> = self.members[to].rows.keys().copied().collect();
        for row in wanted {
            if self.members[to].present(row) && self.members[from].audio.contains(&row) {
                self.members[to].audio.insert(row);
            }
        }
    }

    fn exchange(&mut self, from: usize, to: usize) {
        let (source, own) = (self.members[from].clone(), &self.members[to]);
        if source.fill.is_some() || source.lacks_records {
            // What it made itself goes on all the same: it is no source of what it lacks.
            return self.stream(&source, to);
        }
        match Way::between(&own.vector, &own.begins, &source.vector, &source.begins) {
            Way::History => {
                if own.fill.as_ref().is_some_and(|fill| fill.source == from) {
                    self.members[to].fill = None;
                }
                self.stream(&source, to);
                let own = &mut self.members[to];
                own.lacks_records &= !covers(&own.vector, &source.vector);
            }
            way => self.page(&source, from, to, way),
        }
    }

    /// Some changes of the log, each with its audio if the source has it.
    fn stream(&mut self, source: &Member, to: usize) {
        let lacks = |(origin, seq): &&(Origin, u64)| !self.members[to].vector.covers(*origin, *seq);
        let changes: Vec<_> = source.log.keys().filter(lacks).take(4).copied().collect();
        for (origin, seq) in changes {
            let change = &source.log[&(origin, seq)];
            self.apply(to, origin, seq, change);
            if source.audio.contains(&change.row) && self.members[to].vector.covers(origin, seq) {
                self.members[to].audio.insert(change.row);
            }
        }
    }

    /// One page of the rows of a source, after the start of the scan if there is none with this source.
    fn page(&mut self, source: &Member, from: usize, to: usize, way: Way) {
        let goes_on = |fill: &Fill| fill.source == from || self.mistake == Mistake::ScanFromTwoSources;
        let own = &self.members[to];
        if !own.fill.as_ref().is_some_and(goes_on) {
            let handed_over = covers(&source.vector, &own.vector);
            let careless = self.mistake == Mistake::RefillWithoutSalvage;
            if way == Way::State && !handed_over && !careless {
                // The source takes it from the log first.
                let own = own.clone();
                return self.stream(&own, from);
            }
            let (seen, start) = (own.seen.clone(), source.vector.clone());
            if way == Way::State && !covers(&start, &seen) {
                let waits = self.mistake != Mistake::MarksNotWaitedFor;
                let is_left = |(origin, upto)| self.members.iter().any(|member| member.vector.covers(origin, upto));
                if waits && seen.iter().all(is_left) {
                    // The source gets them first, too.
                    return;
                }
                self.is_unsure = waits;
            }
            let facts = ScanFacts { way, handed_over: handed_over || careless, start: &start, seen: &seen };
            let cover = Cover::new(facts);
            if careless {
                // The disk is taken for an empty one.
                self.members[to].log.clear();
            }
            let before = self.members[to].vector.clone();
            self.members[to].fill = Some(Fill { source: from, start, cover, next: 0, before });
        }
        let Some(mut fill) = self.members[to].fill.take() else { return };
        let own = &mut self.members[to];
        // The source's rows may show more than its vector, too: those of its own interrupted scans.
        own.seen.join(&source.vector);
        own.seen.join(&source.seen);
        let later = own.log.iter().filter(|((origin, seq), _)| !fill.start.covers(*origin, *seq));
        later.for_each(|(_, change)| fill.cover.note(key(change.row)));
        let page = fill.next..(fill.next + PAGE).min(ROWS);
        let mut rows: BTreeSet<u8> = page.clone().collect();
        if page.end == ROWS && self.mistake != Mistake::ScanBlindToStreams {
            // What another member sent of the changes before the start, maybe behind the page of its row.
            let sent = own.log.iter().filter(|((origin, seq), _)| {
                fill.start.covers(*origin, *seq) && !fill.before.covers(*origin, *seq)
            });
            rows.extend(sent.map(|(_, change)| change.row));
        }
        let eager = self.mistake == Mistake::ScanRemovesDeletions;
        for row in rows {
            match source.rows.get(&row) {
                Some(theirs) => {
                    own.rows.entry(row).or_default().merge(theirs);
                    self.watches[to].changed(&mailbox::reported(row, Origin(0), 0, &theirs.message));
                }
                // The row that a disk has lost is of a table whose rows are never purged.
                None if self.damaged.is_some_and(|(_, damaged)| damaged == row) => {}
                // Its deletion is here. It goes when that is stable; if the scan is interrupted, its creation may still come.
                None if own.rows.get(&row).is_some_and(|here| here.is_deleted) && !eager => {}
                None if fill.cover.judge(&key(row)) == AbsentRow::Purged => {
                    own.rows.remove(&row);
                    own.audio.remove(&row);
                }
                None => {}
            }
        }
        fill.next = page.end;
        if fill.next < ROWS {
            own.fill = Some(fill);
            return;
        }
        // The table of the counters comes behind that of the messages.
        if self.mistake != Mistake::ScanWithoutCounters {
            own.merge_counters(&source.counters);
            self.watches[to].suspect([MAILBOX]);
        }
        for (origin, upto) in fill.start.iter() {
            if upto > own.vector.get(origin) {
                own.vector.raise(origin, upto);
                own.begins.raise(origin, upto);
                own.log.retain(|(of, seq), _| *of != origin || *seq > upto);
            }
        }
        own.seen = own.seen.iter().filter(|(origin, upto)| !own.vector.covers(*origin, *upto)).collect();
        own.lacks_records = false;
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

fn key(row: u8) -> Key {
    Key::new(Table(1), vec![row])
}

/// Whether `vector` covers all that `other` covers.
fn covers(vector: &Vector, other: &Vector) -> bool {
    other.iter().all(|(origin, upto)| vector.covers(origin, upto))
}
