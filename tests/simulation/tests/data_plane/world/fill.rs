//! A member takes what it lacks from the log of another, or by a scan of its rows, page by page.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::Origin;
use twinbox_replication_core::{
    Key, Table,
    state_fill::{AbsentRow, Cover, ScanFacts, Way},
};

use super::{
    super::{
        Mistake, PAGE, ROWS,
        mailbox::{self, MAILBOX},
        member::Fill,
    },
    World, covers,
};

impl World {
    pub(super) fn exchange(&mut self, from: usize, to: usize) {
        let (source, own) = (&self.members[from], &self.members[to]);
        if !source.has_records() {
            // Its own changes are streamed all the same: it is no source of those that it lacks.
            return self.stream(from, to);
        }
        match Way::between(&own.vector, &own.begins, &source.vector, &source.begins) {
            Way::History => {
                if own.fill.as_ref().is_some_and(|fill| fill.source == from) {
                    self.members[to].fill = None;
                }
                self.stream(from, to);
                let has_all = covers(&self.members[to].vector, &self.members[from].vector);
                self.members[to].lacks_records &= !has_all;
            }
            way => self.page(from, to, way),
        }
    }

    /// One page of the rows of a source, after the start of the scan if there is none with this source.
    fn page(&mut self, from: usize, to: usize, way: Way) {
        let goes_on = |fill: &Fill| fill.source == from || self.mistake == Mistake::ScanFromTwoSources;
        let is_begun = self.members[to].fill.as_ref().is_some_and(goes_on) || self.begin_scan(from, to, way);
        if is_begun && let Some(fill) = self.members[to].fill.take() {
            self.take_page(from, to, fill);
        }
    }

    /// False while the source is to get something first.
    fn begin_scan(&mut self, from: usize, to: usize, way: Way) -> bool {
        let (source, own) = (&self.members[from], &self.members[to]);
        let handed_over = covers(&source.vector, &own.vector);
        let careless = self.mistake == Mistake::RefillWithoutSalvage;
        if way == Way::State && !handed_over && !careless {
            // The source takes it from the log first.
            self.stream(to, from);
            return false;
        }
        let (seen, start) = (own.seen.clone(), source.vector.clone());
        if way == Way::State && !covers(&start, &seen) {
            let waits = self.mistake != Mistake::MarksNotWaitedFor;
            let is_left = |number| self.members.iter().any(|member| member.covers(number));
            if waits && seen.iter().all(is_left) {
                // The source gets them first, too.
                return false;
            }
            self.is_unsure = waits;
        }
        let facts = ScanFacts { way, handed_over: handed_over || careless, start: &start, seen: &seen };
        let cover = Cover::new(facts);
        let own = &mut self.members[to];
        if careless {
            // The disk is taken for an empty one.
            own.log.clear();
        }
        let before = own.vector.clone();
        own.fill = Some(Fill { source: from, start, cover, next: 0, before, lost: BTreeMap::new() });
        true
    }

    fn take_page(&mut self, from: usize, to: usize, mut fill: Fill) {
        let Ok([source, own]) = self.members.get_disjoint_mut([from, to]) else { return };
        // The source's rows may show more than its vector, too: those of its own interrupted scans.
        own.seen.join(&source.vector);
        own.seen.join(&source.seen);
        let later = own.log.iter().filter(|((origin, seq), _)| !fill.start.covers(*origin, *seq));
        later.for_each(|(_, change)| fill.cover.note(key(change.row)));
        let page = fill.next..(fill.next + PAGE).min(ROWS);
        let mut rows: BTreeSet<u8> = page.clone().collect();
        if page.end == ROWS && self.mistake != Mistake::ScanBlindToStreams {
            // Changes of before the start that another member sent, maybe behind the page of their row.
            let sent = own.log.iter().filter(|((origin, seq), _)| {
                fill.start.covers(*origin, *seq) && !fill.before.covers(*origin, *seq)
            });
            rows.extend(sent.map(|(_, change)| change.row));
        }
        let eager = self.mistake == Mistake::ScanRemovesDeletions;
        for row in rows {
            let lost = source.lost.get(&row);
            fill.lost.extend(lost.map(|was| (row, was.clone())));
            match source.rows.get(&row) {
                Some(theirs) => {
                    own.take_row(row, theirs);
                    self.watches[to].changed(&mailbox::reported(row, Origin(0), 0, &theirs.message));
                }
                // A row that the source's disk has lost is of a table whose rows are never purged.
                None if lost.is_some() => {}
                // Its deletion is here. It goes when that is stable; if the scan is interrupted, its creation may still come.
                None if own.rows.get(&row).is_some_and(|here| here.is_deleted) && !eager => {}
                None if fill.cover.judge(&key(row)) == AbsentRow::Purged => {
                    own.rows.remove(&row);
                    own.lost.remove(&row);
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
        own.end_fill(fill);
    }
}

fn key(row: u8) -> Key {
    Key::new(Table(1), vec![row])
}
