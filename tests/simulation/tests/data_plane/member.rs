//! The disk of a member: rows of messages, audio, the log of changes, and the scan that its process does.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use twinbox_ids::Origin;
use twinbox_replication_core::{Record, Vector, state_fill::Cover};

use super::mailbox;

/// Name of a change: its origin, and its number there.
pub(super) type Number = (Origin, u64);

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// The highest number of each origin that it shows.
    pub(super) shows: BTreeMap<Origin, u64>,
    pub(super) is_deleted: bool,
    pub(super) message: Rc<Record>,
}

impl Row {
    pub(super) fn merge(&mut self, other: &Self) {
        for (origin, seq) in &other.shows {
            let shown = self.shows.entry(*origin).or_default();
            *shown = (*shown).max(*seq);
        }
        self.is_deleted |= other.is_deleted;
        Rc::make_mut(&mut self.message).merge(Record::clone(&other.message));
    }

    /// Whether it has all parts of another copy.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let mut both = self.clone();
        both.merge(other);
        both == *self
    }
}

/// A change of a message, and of the counters of its mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) row: u8,
    pub(super) is_delete: bool,
    /// It can be told from another one that has its number by mistake.
    pub(super) id: u64,
    pub(super) message: Rc<Record>,
    pub(super) counters: Rc<Record>,
}

impl Change {
    /// The row that this change alone makes.
    pub(super) fn row_of(&self, (origin, seq): Number) -> Row {
        Row { shows: [(origin, seq)].into(), is_deleted: self.is_delete, message: self.message.clone() }
    }

    /// The audio that it names.
    pub(super) fn audio(&self) -> Option<u8> {
        mailbox::named_audio(&self.message)
    }
}

/// A scan of the rows of another member.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    pub(super) source: usize,
    pub(super) start: Vector,
    pub(super) cover: Cover,
    pub(super) next: u8,
    /// The changes that were here when it began.
    pub(super) before: Vector,
    /// Rows that the source's disk had lost when their page came, as they were.
    pub(super) lost: BTreeMap<u8, Row>,
}

/// Content of a disk, and the scan of the process.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) rows: BTreeMap<u8, Row>,
    /// Rows that the disk has lost, as they were; until they are repaired or deleted.
    pub(super) lost: BTreeMap<u8, Row>,
    /// The counters of the mailbox.
    pub(super) counters: Rc<Record>,
    /// Audio that is here.
    pub(super) audio: BTreeSet<u8>,
    /// Audio that a row names and that was not here when the row came, nor since.
    pub(super) missing_audio: BTreeSet<u8>,
    pub(super) log: BTreeMap<Number, Change>,
    pub(super) begins: Vector,
    pub(super) vector: Vector,
    pub(super) seen: Vector,
    /// Records may be missing: it is no source.
    pub(super) lacks_records: bool,
    pub(super) origin: Option<Origin>,
    pub(super) fill: Option<Fill>,
}

impl Member {
    /// An empty disk in a cluster that has data.
    pub(super) fn empty() -> Self {
        Self { lacks_records: true, ..Self::default() }
    }

    /// Whether all records are here: it is a source.
    pub(super) fn has_records(&self) -> bool {
        !self.lacks_records && self.fill.is_none()
    }

    pub(super) fn present(&self, row: u8) -> bool {
        self.rows.get(&row).is_some_and(|row| !row.is_deleted)
    }

    pub(super) fn covers(&self, (origin, seq): Number) -> bool {
        self.vector.covers(origin, seq)
    }

    /// Whether a change is here: also without its number, by a row of an interrupted scan.
    pub(super) fn shows(&self, number: Number, change: &Change) -> bool {
        let shows = |row: &Row| row.contains(&change.row_of(number));
        self.covers(number) || self.rows.get(&change.row).is_some_and(shows)
    }

    /// Whether a change is on this disk with the audio that it names.
    pub(super) fn holds(&self, number: Number, change: &Change) -> bool {
        let lacks_audio = change.audio().is_some_and(|audio| self.missing_audio.contains(&audio));
        self.covers(number) && !lacks_audio && !self.lost.contains_key(&change.row)
    }

    /// The audio that its rows name, those that the disk has lost included: the index of references still has them.
    pub(super) fn named_audio(&self) -> BTreeSet<u8> {
        let rows = self.rows.values().chain(self.lost.values());
        rows.filter_map(|row| mailbox::named_audio(&row.message)).collect()
    }

    /// Whether all records are here, and the audio that they name.
    pub(super) fn is_complete(&self) -> bool {
        let present = self.rows.values().chain(self.lost.values()).filter(|row| !row.is_deleted);
        let mut audio = present.filter_map(|row| mailbox::named_audio(&row.message));
        self.has_records() && audio.all(|audio| self.audio.contains(&audio))
    }

    /// Applies the next change of an origin; false for another one.
    pub(super) fn apply(&mut self, number: Number, change: &Change) -> bool {
        let (origin, seq) = number;
        if seq != self.vector.get(origin) + 1 {
            return false;
        }
        self.vector.raise(origin, seq);
        self.log.insert(number, change.clone());
        self.rows.entry(change.row).or_default().merge(&change.row_of(number));
        self.merge_counters(&change.counters);
        true
    }

    /// Takes a row of another member as it is there, without its audio.
    pub(super) fn take_row(&mut self, row: u8, theirs: &Row) {
        self.rows.entry(row).or_default().merge(theirs);
        if let Some(audio) = mailbox::named_audio(&theirs.message) {
            self.note_audio(audio);
        }
    }

    pub(super) fn merge_counters(&mut self, counters: &Record) {
        Rc::make_mut(&mut self.counters).merge(counters.clone());
    }

    pub(super) fn store_audio(&mut self, audio: u8) {
        self.audio.insert(audio);
        self.missing_audio.remove(&audio);
    }

    /// A row came that names this audio.
    pub(super) fn note_audio(&mut self, audio: u8) {
        if !self.audio.contains(&audio) {
            self.missing_audio.insert(audio);
        }
    }

    /// All rows of a scan are here: this member has what its source had at the start.
    pub(super) fn end_fill(&mut self, fill: Fill) {
        for (origin, upto) in fill.start.iter() {
            if upto > self.vector.get(origin) {
                self.vector.raise(origin, upto);
                self.begins.raise(origin, upto);
                self.log.retain(|(of, seq), _| *of != origin || *seq > upto);
            }
        }
        let vector = &self.vector;
        self.seen = self.seen.iter().filter(|(origin, upto)| !vector.covers(*origin, *upto)).collect();
        self.lacks_records = false;
        // By its vector it has them, as the source did.
        for (row, was) in fill.lost {
            let is_here = |here: &Row| here.is_deleted || here.contains(&was);
            if !self.rows.get(&row).is_some_and(is_here) {
                self.lost.entry(row).or_default().merge(&was);
            }
        }
    }
}
