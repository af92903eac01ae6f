//! Disks that are lost, set back, or lose a row.

use super::{
    super::{
        Mistake,
        member::{Member, Row},
    },
    World, new_watch,
};

impl World {
    /// The disk is lost, and an empty one takes its place.
    pub(super) fn wipe(&mut self, at: usize) {
        self.replace(at, Some(Member::empty()));
    }

    pub(super) fn set_back(&mut self, at: usize) {
        if let Some(copy) = self.copies[at].clone() {
            self.replace(at, Some(copy));
        }
    }

    /// A copy of a whole disk with all records, but for those that it has lost.
    pub(super) fn copy(&mut self, at: usize) {
        if self.members[at].has_records() {
            self.copies[at] = Some(self.members[at].clone());
        }
    }

    /// Puts another disk in the place of a member's, or none: then it is no member any more. Nothing happens if that would take the last
    /// good copy of a row that a disk has lost: no rule promises such a row.
    pub(super) fn replace(&mut self, at: usize, disk: Option<Member>) {
        let is_member = disk.is_some();
        let mut disk = disk.unwrap_or_else(Member::empty);
        disk.origin = self.members[at].origin.filter(|_| is_member && self.mistake == Mistake::ReusedOrigin);
        if !self.leaves_good_copies(at, &disk) {
            return;
        }
        self.members[at] = disk;
        self.disks[at] = None;
        if is_member {
            let disk = self.new_disk();
            self.disks[at] = Some(disk);
        }
        // Data that only the disk before had do not come back with a later copy of it.
        self.copies[at] = None;
        self.watches[at] = new_watch();
        self.earlier.push(std::mem::take(&mut self.shown[at]));
        self.end_streams(at);
        for member in &mut self.members {
            if member.fill.as_ref().is_some_and(|fill| fill.source == at) {
                member.fill = None;
            }
        }
        self.settle();
        // When no member has all records, what is left is all there is, as after an order of the administrator.
        let left = self.seated();
        if left.iter().all(|at| self.members[*at].lacks_records) {
            for at in left {
                self.members[at].lacks_records = false;
                self.show(at);
            }
        }
    }

    /// Whether each row that a disk has lost is on another one, with this disk in the place of a member's.
    fn leaves_good_copies(&self, at: usize, disk: &Member) -> bool {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != at);
        let after: Vec<&Member> = others.map(|(_, member)| member).chain([disk]).collect();
        let is_on_one = |row: &u8, was: &Row| {
            let mut copies = after.iter().filter_map(|member| member.rows.get(row));
            copies.any(|copy| copy.contains(was))
        };
        after.iter().all(|member| member.lost.iter().all(|(row, was)| is_on_one(row, was)))
    }

    /// The disk loses a row that is present there, and of which another disk has all.
    pub(super) fn damage(&mut self, at: usize, row: u8) {
        let Some(here) = self.members[at].rows.get(&row).filter(|here| !here.is_deleted) else { return };
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != at);
        let mut copies = others.filter_map(|(_, other)| other.rows.get(&row));
        if copies.any(|copy| copy.contains(here)) {
            let member = &mut self.members[at];
            let was = member.rows.remove(&row).unwrap_or_default();
            member.lost.entry(row).or_default().merge(&was);
        }
    }

    /// Rows that the disk had lost are repaired when they have all parts again.
    pub(super) fn note_repairs(&mut self, at: usize) {
        let (member, unrepaired) = (&mut self.members[at], &mut self.unrepaired);
        let rows = &member.rows;
        member.lost.retain(|row, was| match rows.get(row) {
            Some(here) if here.contains(was) => false,
            Some(here) if here.is_deleted => {
                unrepaired.insert(*row);
                false
            }
            _ => true,
        });
    }
}
