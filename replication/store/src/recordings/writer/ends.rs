//! The ends of takes, and the packs that a start must scan.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{State, Writer};
use crate::recordings::{
    moving::{Moved, MovedPiece, ending},
    take::{Stage, TakeKey},
};

impl Writer {
    /// Ends a take that is filed or discarded.
    pub(super) fn end(&mut self, key: TakeKey) {
        let ended = self.shared.index().takes.remove(&key);
        self.remember(key);
        let Some((slot, take)) = ended else { return };
        self.end_hash(slot);
        // The pieces of a sealed take are those of a blob.
        if !matches!(take.stage, Stage::Sealed(_)) {
            self.shared.blobs.live_bounds().removed(&take.pieces.places(0..take.pieces.end()));
        }
        self.replace_first(take.first, None);
        // A start finds no take without audio.
        if take.pieces.first_pack().is_some() {
            self.to_note.push(key);
        }
    }

    /// Notes in the packs that the takes have ended that were ended since the last call, with one append.
    pub(super) fn note_ended(&mut self) {
        let ended = std::mem::take(&mut self.to_note);
        self.note_ends(&ended);
    }

    /// Notes in the packs that takes have ended. Not synced: a start that does not find the note finds a take that a
    /// record names, or that the check for orphan recordings ends again.
    pub(super) fn note_ends(&self, keys: &[TakeKey]) {
        let frames: Vec<_> = keys.iter().map(ending).collect();
        match self.shared.blobs.packs().append(&frames) {
            Ok(notes) => {
                let mut index = self.shared.index();
                for (key, note) in keys.iter().zip(notes) {
                    index.endings.entry(note.pack).or_default().push(*key);
                }
            }
            Err(error) => {
                let error = self.shared.blobs.failed(error);
                tracing::warn!(%error, "end of a recording cannot be noted; the next start finds the recording again");
            }
        }
    }

    pub(super) fn remember(&mut self, key: TakeKey) {
        if !matches!(self.takes.insert(key, State::Ended), Some(State::Ended)) {
            self.ended.push_back(key);
        }
        if self.ended.len() > self.remembered
            && let Some(oldest) = self.ended.pop_front()
        {
            self.takes.remove(&oldest);
        }
    }

    /// Takes durable copies into use, in place of the pieces of takes in the pack.
    pub(super) fn moved(&mut self, moved: Moved) {
        let Moved { pack, pieces, endings, appending } = moved;
        let (mut ended, mut firsts) = (BTreeSet::new(), BTreeMap::new());
        {
            let mut index = self.shared.index();
            for MovedPiece { key, offset, from, to } in pieces {
                let Some(take) = index.takes.get_mut(&key) else {
                    // Its note precedes the copies, and may be removed before them.
                    ended.insert(key);
                    continue;
                };
                // Otherwise the pieces stay at the places that the blob names.
                if self.shared.may_move(take) && take.pieces.replace(offset, from, to) {
                    firsts.insert(key, take.pieces.first_pack());
                }
            }
            index.endings.remove(&pack);
            for (key, note) in endings {
                index.endings.entry(note).or_default().push(key);
            }
        }
        for (key, first) in firsts {
            let mut before = None;
            self.shared.change(key, |take| before = std::mem::replace(&mut take.first, first));
            self.replace_first(before, first);
        }
        if !ended.is_empty() {
            self.note_ends(&ended.into_iter().collect::<Vec<_>>());
        }
        drop(appending);
    }

    fn replace_first(&mut self, before: Option<u32>, now: Option<u32>) {
        if let Some(pack) = before
            && let Entry::Occupied(mut count) = self.firsts.entry(pack)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(pack) = now {
            *self.firsts.entry(pack).or_default() += 1;
        }
    }

    /// Sets the first pack that a start must scan: the first with a piece of a take, else the one that is appended to.
    pub(super) fn raise_floor(&mut self) {
        let unreadable = self.shared.index().unreadable.first().copied();
        let first = self.firsts.first_key_value().map(|(pack, _)| *pack).into_iter().chain(unreadable).min();
        let floor = first.or_else(|| self.shared.blobs.packs().active());
        if let Some(pack) = floor.filter(|_| floor != self.floor) {
            self.shared.blobs.set_floor(pack);
            self.floor = floor;
            // By the stored floor, which may be behind: a start would scan from there.
            if let Ok(stored) = self.shared.blobs.stored_floor() {
                let mut index = self.shared.index();
                index.endings = index.endings.split_off(&stored);
            }
        }
    }
}
