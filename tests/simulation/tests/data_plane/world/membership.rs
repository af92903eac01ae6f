//! Members that leave in order, are given up, and join.

use twinbox_ids::Origin;

use super::{super::Mistake, World};

impl World {
    /// A member leaves as soon as others that lack nothing have all its changes (rule D2).
    pub(super) fn leave(&mut self, at: usize) {
        let others = self.others(at);
        let is_taken = |(origin, upto): (Origin, u64)| {
            let mut others = others.iter().map(|other| &self.members[*other]);
            others.any(|other| other.is_complete() && other.vector.covers(origin, upto))
        };
        let is_handed_over = self.members[at].vector.iter().all(is_taken);
        let may_leave = is_handed_over || self.mistake == Mistake::LeaveWithoutHandOver;
        if others.is_empty() || !may_leave {
            return;
        }
        self.leaving = self.disks[at];
        self.replace(at, None);
        if let Some(left) = self.leaving.take().filter(|_| self.disks[at].is_none()) {
            self.hand_over_promises(left);
        }
    }

    /// `remove --lost`: the disk is lost, and its place is free. Nothing waits for it any more.
    pub(super) fn give_up(&mut self, at: usize) {
        if !self.others(at).is_empty() {
            self.replace(at, None);
        }
    }

    /// A new member with an empty disk takes the first free place.
    pub(super) fn join(&mut self) {
        if let Some(at) = self.disks.iter().position(Option::is_none) {
            let disk = self.new_disk();
            self.disks[at] = Some(disk);
        }
    }

    fn others(&self, at: usize) -> Vec<usize> {
        self.seated().into_iter().filter(|other| *other != at).collect()
    }
}
