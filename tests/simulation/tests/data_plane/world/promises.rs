//! Acknowledgements (rule A3): *alone* a change is lost only with the disk of its origin, *on two* it survives the loss of any one
//! disk.

use std::collections::BTreeSet;

use twinbox_mailbox::uids;

use super::{
    super::{Mistake, mailbox, member::Number},
    World,
};

/// One disk. A replaced or older one in the place of a member is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk(u32);

impl World {
    pub(super) fn new_disk(&mut self) -> Disk {
        self.disks_made += 1;
        Disk(self.disks_made)
    }

    /// A change is durable at its origin: it is acknowledged *alone* until another member reports it.
    pub(super) fn acknowledge(&mut self, at: usize, number: Number) {
        self.promises.insert(number, self.disks[at].into_iter().collect());
    }

    /// A follower tells an origin all that it has synced: changes of the present process there are *on two* from now on. A change
    /// whose audio the follower lacks is none of them.
    pub(super) fn report(&mut self, follower: usize, at: usize) {
        let (Some(origin), Some(disk)) = (self.members[at].origin, self.disks[follower]) else { return };
        let follower = &self.members[follower];
        let without_audio = self.mistake == Mistake::AcknowledgedWithoutAudio;
        for (number, promise) in self.promises.range_mut((origin, 0)..=(origin, u64::MAX)) {
            let Some(change) = self.truth.get(number) else { continue };
            if follower.holds(*number, change) || (without_audio && follower.covers(*number)) {
                promise.insert(disk);
            }
        }
    }

    /// A member has left in order, and with it this disk: the others that have its changes stand for them.
    pub(super) fn hand_over_promises(&mut self, left: Disk) {
        for (number, promise) in &mut self.promises {
            let Some(change) = self.truth.get(number).filter(|_| promise.remove(&left)) else { continue };
            let members = self.members.iter().zip(&self.disks);
            promise
                .extend(members.filter(|(member, _)| member.holds(*number, change)).filter_map(|(_, disk)| *disk));
        }
    }

    /// Takes from the truth what no disk has any more. It may be gone only if all disks are that it was acknowledged on.
    pub(super) fn settle(&mut self) {
        // The counters went with the disk, even if an interrupted scan has brought the message.
        let (members, unbound) = (&self.members, &mut self.unbound);
        let uncovered =
            self.truth.iter().filter(|(number, _)| !members.iter().any(|member| member.covers(**number)));
        // A deletion repeats UIDs that it did not give.
        for (_, change) in uncovered.clone().filter(|(_, change)| !change.is_delete) {
            unbound.extend(uids::of(&change.message).map(|uid| (change.row, uid)));
        }
        let gone =
            uncovered.filter(|(number, change)| !members.iter().any(|member| member.shows(**number, change)));
        let gone: Vec<Number> = gone.map(|(number, _)| *number).collect();
        for number in gone {
            let change = self.truth.remove(&number);
            if let Some(promise) = self.promises.remove(&number).filter(|promise| self.is_any_left(promise)) {
                self.fail(format!(
                    "{change:?} is lost, which was acknowledged on {promise:?}, of which one is left"
                ));
            }
        }
        self.settle_audio();
    }

    /// The same for audio.
    pub(super) fn settle_audio(&mut self) {
        let is_here = |row: u8| {
            let audio = mailbox::audio_of(row);
            self.members.iter().any(|member| member.audio.contains(&audio))
        };
        let all = self.audio.iter().map(|(row, number)| (*row, *number));
        let gone = all.filter(|(row, number)| !self.truth.contains_key(number) || !is_here(*row));
        let gone: Vec<(u8, Number)> = gone.collect();
        for (row, number) in gone {
            self.audio.remove(&row);
            let is_deleted = self.truth.values().any(|change| change.row == row && change.is_delete);
            let is_promised = self.promises.get(&number).is_some_and(|promise| self.is_any_left(promise));
            if is_promised && !is_deleted {
                self.fail(format!("the audio of row {row} is lost, which was acknowledged on a disk that is left"));
            }
        }
    }

    /// Whether one of these disks was not lost. One that leaves in order must take nothing with it.
    fn is_any_left(&self, disks: &BTreeSet<Disk>) -> bool {
        self.disks.iter().flatten().chain(&self.leaving).any(|disk| disks.contains(disk))
    }

    fn fail(&mut self, why: String) {
        if self.broken.is_none() {
            self.broken = Some(why);
        }
    }
}
