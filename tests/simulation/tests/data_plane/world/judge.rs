//! The judge of the end: what was lost, came back, or differs.

use std::collections::BTreeMap;

use twinbox_mailbox::uids;
use twinbox_replication_core::Record;

use super::{
    super::{ModelStep, mailbox, member::Row},
    World,
};

impl World {
    /// Lets all members get everything; what is wrong then.
    pub(in super::super) fn heal(mut self) -> Result<(), String> {
        let members = self.seated();
        members.iter().for_each(|at| self.step(ModelStep::Sync(*at)));
        for _ in 0..20 {
            for from in members.iter().copied() {
                for to in members.iter().copied().filter(|to| *to != from) {
                    (0..12).for_each(|_| self.step(ModelStep::Exchange(from, to)));
                    self.step(ModelStep::Compare(from, to));
                    self.step(ModelStep::Fetch(from, to));
                }
            }
            self.step(ModelStep::Renumber(members[0]));
            if self.judge().is_ok() {
                break;
            }
        }
        self.judge()
    }

    /// No UID in force was ever seen as that of another message.
    fn judge_uids(&self) -> Result<(), String> {
        for (row, here) in self.members.iter().flat_map(|member| &member.rows).filter(|(_, here)| !here.is_deleted)
        {
            // Only marks are left of a message whose filing was lost with its disks.
            let Some(uid) = uids::of(&here.message).max() else { continue };
            let binds = |other: u8| {
                let is_lost = self.members.iter().any(|member| member.lost.contains_key(&other));
                !is_lost && !self.unrepaired.contains(&other) && !self.unbound.contains(&(other, uid))
            };
            let mut others = self.shown.iter().chain(&self.earlier).flat_map(|shown| shown.others(uid, *row));
            if let Some(other) = others.find(|other| binds(*other)) {
                return Err(format!("UID {uid} of row {row} was that of row {other}"));
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let mut truth: BTreeMap<u8, Row> = BTreeMap::new();
        for (number, change) in &self.truth {
            truth.entry(change.row).or_default().merge(&change.row_of(*number));
        }
        let members: Vec<_> = self.seated().into_iter().map(|n| (n, &self.members[n])).collect();
        for (n, member) in members.iter().copied() {
            if let Some((_, other)) = members.iter().find(|(_, other)| other.vector != member.vector) {
                return Err(format!("member {n} has {:?}, another {:?}", member.vector, other.vector));
            }
            for (number, change) in &member.log {
                // Two changes with one number: one of them is lost on each side.
                if let Some(made) = self.truth.get(number).filter(|made| *made != change) {
                    return Err(format!("member {n} has {change:?} at {number:?}, which is {made:?}"));
                }
            }
            let lacks_audio =
                |row: u8| self.audio.contains_key(&row) && !member.audio.contains(&mailbox::audio_of(row));
            for (row, truth) in &truth {
                match member.rows.get(row) {
                    None if truth.is_deleted || self.purged.contains(row) => {}
                    None => return Err(format!("member {n} lost row {row}")),
                    Some(here) if truth.is_deleted && !here.is_deleted && !self.is_unsure => {
                        return Err(format!("row {row} came back on member {n}"));
                    }
                    Some(here) if !truth.is_deleted && here != truth => {
                        return Err(format!("member {n} has {here:?} of row {row}, which is {truth:?}"));
                    }
                    Some(_) if !truth.is_deleted && lacks_audio(*row) => {
                        return Err(format!("member {n} has no audio of row {row}"));
                    }
                    Some(_) => {}
                }
            }
            if let Some(row) = member.rows.iter().find(|(row, here)| !truth.contains_key(row) && !here.is_deleted) {
                return Err(format!("member {n} has {row:?} that no member made"));
            }
            let covered = self.truth.iter().filter(|(number, _)| member.covers(**number));
            let mut counters = Record::clone(&member.counters);
            covered.for_each(|(_, change)| counters.merge(Record::clone(&change.counters)));
            if counters != *member.counters {
                return Err(format!("member {n} has {:?}, which should be {counters:?}", member.counters));
            }
            if let Some((other, theirs)) = members.iter().find(|(_, other)| other.counters != member.counters) {
                return Err(format!("member {n} has {:?}, member {other} {:?}", member.counters, theirs.counters));
            }
        }
        self.judge_uids()
    }
}
