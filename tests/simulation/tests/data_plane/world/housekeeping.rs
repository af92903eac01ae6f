//! Removal by each member for itself: of changes in its log, of rows that all know to be deleted, and of audio without use.

use std::collections::BTreeSet;

use twinbox_mailbox::{is_purged, uids};
use twinbox_replication_core::Vector;

use super::{
    super::{Mistake, member::Row},
    World,
    streams::InFlight,
};

impl World {
    /// Cuts the log up to what all members have, or with `all` up to its end.
    pub(super) fn cut(&mut self, at: usize, all: bool) {
        let member = &self.members[at];
        // A member that fills keeps its log: it is what tells its rows from purged ones.
        if !member.has_records() {
            return;
        }
        let pins = self.members.iter().filter_map(|m| m.fill.as_ref()).filter(|fill| fill.source == at);
        let mut limits: Vec<Vector> = pins.map(|fill| fill.start.clone()).collect();
        if !all {
            limits.extend(self.seated().iter().map(|other| self.members[*other].vector.clone()));
        }
        let mut upto = member.vector.clone();
        for limit in limits {
            upto = upto.iter().map(|(origin, seq)| (origin, seq.min(limit.get(origin)))).collect();
        }
        let member = &mut self.members[at];
        member.begins.join(&upto);
        member.log.retain(|(origin, seq), _| *seq > upto.get(*origin));
    }

    /// Rows go whose deletion every member has, and of which every member has all that any one made. One that was changed beside its
    /// deletion waits until its content is removed once more: members may still change it.
    pub(super) fn purge(&mut self, at: usize) {
        if !self.members[at].has_records() {
            return;
        }
        let members = self.seated();
        let stable = |row: u8| {
            let mut made = self.truth.iter().filter(|(_, change)| change.row == row);
            let is_covered = made.all(|(number, _)| {
                members.iter().map(|at| &self.members[*at]).all(|m| m.covers(*number) && m.has_records())
            });
            is_covered || self.mistake == Mistake::PurgeBeforeStable
        };
        let is_final = |here: &Row| {
            here.is_deleted && (is_purged(&here.message) || self.mistake == Mistake::PurgeOfChangedRows)
        };
        let here = self.members[at].rows.iter().filter(|(_, here)| is_final(here)).map(|(row, _)| *row);
        let gone: Vec<u8> = here.filter(|row| stable(*row)).collect();
        for row in gone {
            self.forget_clashes(row);
            self.members[at].rows.remove(&row);
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

    /// Audio goes that no row here names, the grace of its last reference being over, and that is not pinned (rule D9).
    pub(super) fn drop_audio(&mut self, at: usize) {
        let named = self.members[at].named_audio();
        let mut pinned: BTreeSet<u8> = self.in_flight[at].iter().filter_map(InFlight::pinned).collect();
        if self.mistake == Mistake::UnpinnedAudio {
            pinned.clear();
        }
        let member = &mut self.members[at];
        member.audio.retain(|audio| named.contains(audio) || pinned.contains(audio));
        member.missing_audio.retain(|audio| named.contains(audio));
        self.settle_audio();
    }
}
