//! Opens a journal: finds the segments that are needed, judges where the journal ends, and passes on every batch.
//!
//! DESIGN.md lists the states that a crash can leave, and the reason why each check here refuses none of them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    BLOCK, Config, Medium, MediumFile, OpenError, Position, Recycler, Writer,
    format::{BatchHeader, FirstBlock, SEGMENT_HEADER, SegmentHeader, batch_at, first_block, span},
    segments::{Contents, SegmentFile, Segments, file_number},
};

/// Opens the journal in a folder that no other process has open, or begins one. Calls `replay` once per batch, in
/// order, with the whole batch. Before the first call, everything that it will be given is durable.
pub fn open<M: Medium, E>(
    medium: M,
    config: Config,
    mut replay: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(Writer<M>, Recycler<M>), OpenError<E>> {
    let segment_bytes = config.segment_bytes;
    if segment_bytes < 2 * BLOCK || !segment_bytes.is_multiple_of(BLOCK) {
        return Err(OpenError::Config { segment_bytes });
    }
    let folder = Folder::read(&medium)?;
    let floor = folder.floor();
    folder.check_complete(floor)?;
    let last = folder.last_with_batches(&medium, floor)?;
    folder.sync_from(&medium, last.unwrap_or(floor))?;
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let mut next: Option<u64> = None;
    for (id, found) in last.into_iter().flat_map(|last| folder.files.range(floor..=last)) {
        let bytes = found.content(&medium)?;
        let batches = found.batches(&bytes)?;
        if batches.is_empty() {
            return Err(found.damaged(BLOCK, "it holds no valid batch, although a later segment does"));
        }
        for (header, content) in batches {
            let Position { offset, .. } = header.position;
            if next.is_some_and(|next| next != header.number) {
                return Err(found.damaged(offset, "batches before this one are missing"));
            }
            next = Some(header.number + 1);
            ends.insert(*id, offset + span(header.length).unwrap_or(0));
            replay(content).map_err(OpenError::Refused)?;
        }
    }
    folder.remove_strays(&medium)?;
    let end = match last.and_then(|last| ends.get(&last).map(|offset| (last, *offset))) {
        Some((segment, offset)) => Position { segment, offset },
        None => Position { segment: floor, offset: BLOCK },
    };
    let segment_bytes = folder.segment_bytes().unwrap_or(segment_bytes);
    let next_file = folder.next_file;
    let end_of = |id: u64| ends.get(&id).copied().unwrap_or(BLOCK);
    let held = |(id, Found { name, .. }): (u64, Found)| (id, SegmentFile { name, end: end_of(id) });
    let files = folder.files.into_iter().map(held).collect();
    let segments = Arc::new(Segments::new(medium, Contents { files, floor, end, next_file, segment_bytes }));
    Ok((Writer::new(Arc::clone(&segments), next.unwrap_or(1)), Recycler::new(segments)))
}

/// A file that begins with a valid header.
struct Found {
    name: String,
    header: SegmentHeader,
}

/// A file that begins with none.
struct Stray {
    name: String,
    /// Segment that its first batch names, if that batch is valid.
    segment: Option<u64>,
}

/// The files in the folder of a journal.
struct Folder {
    /// By number of the segment.
    files: BTreeMap<u64, Found>,
    strays: Vec<Stray>,
    next_file: u64,
}

impl Folder {
    fn read<M: Medium, E>(medium: &M) -> Result<Self, OpenError<E>> {
        let mut folder = Self { files: BTreeMap::new(), strays: Vec::new(), next_file: 1 };
        for name in medium.list().map_err(|error| OpenError::io("list", "", &error))? {
            let Some(number) = file_number(&name) else { continue };
            folder.next_file = folder.next_file.max(number.saturating_add(1));
            let file = medium.open(&name).map_err(|error| OpenError::io("open", &name, &error))?;
            match first_block(&read(&file, &name, SEGMENT_HEADER as u64)?) {
                FirstBlock::Header(header) => {
                    let id = header.id;
                    if let Some(other) = folder.files.insert(id, Found { name, header }) {
                        return Err(other.damaged(0, "another file has the same number of segment"));
                    }
                }
                FirstBlock::Foreign { version } => return Err(OpenError::Version { file: name, version }),
                FirstBlock::Invalid => {
                    let length = file.length().map_err(|error| OpenError::io("measure", &name, &error))?;
                    let bytes = read(&file, &name, length)?;
                    let segment = batch_at(&bytes, BLOCK, |_| true).map(|(header, _)| header.position.segment);
                    folder.strays.push(Stray { name, segment });
                }
            }
        }
        Ok(folder)
    }

    /// First segment that is needed: the newest header states it.
    fn floor(&self) -> u64 {
        self.files.values().map(|found| found.header.floor).max().unwrap_or(1)
    }

    /// Length of the files in bytes, if there is any.
    fn segment_bytes(&self) -> Option<u64> {
        self.files.last_key_value().map(|(_, found)| found.header.bytes)
    }

    /// Refuses when a segment from the first needed one to the newest is in no file.
    fn check_complete<E>(&self, floor: u64) -> Result<(), OpenError<E>> {
        if let Some(stray) = self.strays.iter().find(|stray| stray.segment >= Some(floor)) {
            return Err(OpenError::damaged(&stray.name, 0, "its header is invalid, its batches are needed"));
        }
        let Some((&newest, _)) = self.files.last_key_value() else { return Ok(()) };
        match (floor..=newest).find(|id| !self.files.contains_key(id)) {
            Some(segment) => Err(OpenError::Missing { segment }),
            None => Ok(()),
        }
    }

    /// The last segment with a batch. Those after it were prepared and not used, or a batch was torn in the first of
    /// them.
    fn last_with_batches<M: Medium, E>(&self, medium: &M, floor: u64) -> Result<Option<u64>, OpenError<E>> {
        for (id, found) in self.files.range(floor..).rev() {
            if !found.batches(&found.content(medium)?)?.is_empty() {
                return Ok(Some(*id));
            }
        }
        // A floor above the first segment was stated by a later one, when the floor's segment held batches.
        match self.files.get(&floor).filter(|_| floor > 1) {
            Some(found) => Err(found.damaged(BLOCK, "it holds no valid batch, although a later segment needs it")),
            None => Ok(None),
        }
    }

    /// Makes durable what a killed process may have written without a sync: its last batch and the headers after it.
    fn sync_from<M: Medium, E>(&self, medium: &M, first: u64) -> Result<(), OpenError<E>> {
        for Found { name, .. } in self.files.range(first..).map(|(_, found)| found) {
            let synced = medium.open(name).and_then(|file| file.sync());
            synced.map_err(|error| OpenError::io("sync", name, &error))?;
        }
        Ok(())
    }

    /// Removes the rest of interrupted creations. They are not recycled: their names may not be durable.
    fn remove_strays<M: Medium, E>(&self, medium: &M) -> Result<(), OpenError<E>> {
        for Stray { name, .. } in &self.strays {
            tracing::info!(file = name, "remove the journal file: it has no header, its creation was interrupted");
            medium.remove(name).map_err(|error| OpenError::io("remove", name, &error))?;
        }
        Ok(())
    }
}

impl Found {
    fn damaged<E>(&self, offset: u64, finding: &'static str) -> OpenError<E> {
        OpenError::damaged(&self.name, offset, finding)
    }

    /// All bytes of the segment.
    fn content<M: Medium, E>(&self, medium: &M) -> Result<Vec<u8>, OpenError<E>> {
        let file = medium.open(&self.name).map_err(|error| OpenError::io("open", &self.name, &error))?;
        let length = file.length().map_err(|error| OpenError::io("measure", &self.name, &error))?;
        let bytes = read(&file, &self.name, self.header.bytes.min(length))?;
        let length = bytes.len() as u64;
        if length < self.header.bytes { Err(self.damaged(length, "the file ends here")) } else { Ok(bytes) }
    }

    /// The batches from the beginning of the segment on, up to the first place without one. Refuses when there is one after
    /// that place: a batch is written when all before it are durable.
    fn batches<'a, E>(&self, bytes: &'a [u8]) -> Result<Vec<(BatchHeader, &'a [u8])>, OpenError<E>> {
        let SegmentHeader { id, nonce, .. } = self.header;
        let ours = |batch: &BatchHeader| batch.nonce == nonce && batch.position.segment == id;
        let mut batches = Vec::new();
        let mut end = BLOCK;
        while let Some((header, content)) = batch_at(bytes, end, ours) {
            end = end.saturating_add(span(header.length).unwrap_or(BLOCK));
            batches.push((header, content));
        }
        let mut later = (end..bytes.len() as u64).step_by(BLOCK as usize);
        match later.any(|offset| batch_at(bytes, offset, ours).is_some()) {
            true => Err(self.damaged(end, "a batch that was made durable is invalid, valid ones follow it")),
            false => Ok(batches),
        }
    }
}

/// The first `length` bytes of a file, fewer if it is shorter.
pub(crate) fn read<E>(file: &impl MediumFile, name: &str, length: u64) -> Result<Vec<u8>, OpenError<E>> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    file.read_new(length, 0).map_err(|error| OpenError::io("read", name, &error))
}
