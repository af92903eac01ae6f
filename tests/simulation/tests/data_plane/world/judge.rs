//! The judge of the end: what was lost, came back, or differs.

use std::collections::BTreeMap;

use twinbox_mailbox::uids;
use twinbox_replication_core::Record;

use super::{
    super::{Row, Step},
    World,
};

impl World {
    /// Lets all members get everything; what is wrong then.
    pub(in super::super) fn heal(mut self) -> Result<(), String> {
        let count = self.members.len();
        for _ in 0..20 {
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    (0..12).for_each(|_| self.step(Step::Exchange(from, to)));
                    self.step(Step::Compare(from, to));
                    self.step(Step::Fetch(from, to));
                }
            }
            self.step(Step::Renumber(0));
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
            if let Some(other) = self.shown.iter().chain(&self.earlier).find_map(|shown| shown.other(uid, *row)) {
                return Err(format!("UID {uid} of row {row} was that of row {other}"));
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let mut truth: BTreeMap<u8, Row> = BTreeMap::new();
        for ((origin, seq), change) in &self.truth {
            truth.entry(change.row).or_default().merge(&change.row_of(*origin, *seq));
        }
        for (n, member) in self.members.iter().enumerate() {
            if let Some(other) = self.members.iter().find(|other| other.vector != member.vector) {
                return Err(format!("member {n} has {:?}, another {:?}", member.vector, other.vector));
            }
            for (number, change) in &member.log {
                // Two changes with one number: one of them is lost on each side.
                if let Some(made) = self.truth.get(number).filter(|made| *made != change) {
                    return Err(format!("member {n} has {change:?} at {number:?}, which is {made:?}"));
                }
            }
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
                    Some(_) if !truth.is_deleted && self.audio.contains(row) && !member.audio.contains(row) => {
                        return Err(format!("member {n} has no audio of row {row}"));
                    }
                    Some(_) => {}
                }
            }
            if let Some(row) = member.rows.iter().find(|(row, here)| !truth.contains_key(row) && !here.is_deleted) {
                return Err(format!("member {n} has {row:?} that nobody made"));
            }
            let covered = self.truth.iter().filter(|((origin, seq), _)| member.vector.covers(*origin, *seq));
            let mut counters = Record::clone(&member.counters);
            covered.for_each(|(_, change)| counters.merge(Record::clone(&change.counters)));
            if counters != *member.counters {
                return Err(format!("member {n} has {:?}, which should be {counters:?}", member.counters));
            }
            if member.counters != self.members[0].counters {
                return Err(format!(
                    "member {n} has {:?}, member 0 {:?}",
                    member.counters, self.members[0].counters
                ));
            }
        }
        self.judge_uids()
    }
}
