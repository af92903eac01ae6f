//! Comparison: at equal vectors a row that one side lacks was lost by its disk, and is copied from the other (rule D3).

use twinbox_ids::Origin;

use super::{
    super::{
        Mistake, ROWS,
        mailbox::{self, MAILBOX},
    },
    World,
};

impl World {
    pub(super) fn compare(&mut self, one: usize, other: usize) {
        let (left, right) = (&self.members[one], &self.members[other]);
        if left.vector != right.vector || !left.has_records() || !right.has_records() {
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
                self.members[to].take_row(row, &merged);
                self.watches[to].changed(&mailbox::reported(row, Origin(0), 0, &merged.message));
            }
        }
        for (to, from) in [(one, other), (other, one)] {
            let counters = self.members[from].counters.clone();
            if self.members[to].counters != counters {
                self.members[to].merge_counters(&counters);
                self.watches[to].suspect([MAILBOX]);
            }
        }
    }
}
