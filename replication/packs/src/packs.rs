//! The packs of a folder: append, sync, scan, remove.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use twinbox_journal::{Medium, MediumFile};

use crate::{
    BLOCK, Config, Extent, Found, Frame, MAX_PAYLOAD, PackError,
    ahead::{Ahead, Spare},
    folder::{NewPack, PackFolder, file_name, payload_offset},
    format::{FRAME_HEADER, FramePlace, frames, padding, rest_of_page, span},
    group::SyncGroup,
    opening::{Header, header, survey},
    table::{Age, Table},
};

/// The packs of one folder, for one process at a time. All calls block; clones are the same packs.
pub struct Packs<M: Medium>(Arc<Inner<M>>);

struct Inner<M: Medium> {
    folder: Arc<PackFolder<M>>,
    /// Held over a write, never over a sync; `table` may be locked too then.
    appender: Mutex<Option<Active<M::File>>>,
    /// Locked for some instructions.
    table: Mutex<Table<M::File>>,
    group: SyncGroup<M>,
    ahead: Ahead<M>,
}

/// The pack that is appended to.
struct Active<F> {
    pack: NewPack<F>,
    /// Offset after its last frame.
    end: u64,
    /// True when the next pack has been asked for.
    asked: bool,
}

/// Number of frames of an append that go to a pack, and the pack if it is a new one.
struct Run<F> {
    frames: usize,
    pack: Option<NewPack<F>>,
}

impl<M: Medium> Clone for Packs<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Medium> Packs<M> {
    /// Opens the folder. A pack of an earlier process is never written: the first append begins a new one. Numbers only
    /// rise: the next one is above every file found and above `least`, the highest number that the caller's index
    /// names, so that no pack that was lost is taken for a new one. Packs above `least` without content are removed.
    pub fn open(medium: M, config: Config, least: u32) -> Result<Self, PackError> {
        let folder = Arc::new(PackFolder::new(medium, config)?);
        let found = survey(&folder, least)?;
        let table = Table::new(found.packs);
        let group = SyncGroup::new(Arc::clone(&folder));
        let ahead = Ahead::begin(Arc::clone(&folder), found.next)?;
        Ok(Self(Arc::new(Inner { folder, appender: Mutex::new(None), table: Mutex::new(table), group, ahead })))
    }

    fn table(&self) -> MutexGuard<'_, Table<M::File>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the frames in order, with one write per pack, and returns the places of their payloads. [`Self::read`]
    /// sees them as soon as this returns; they are durable after [`Self::sync`]. One append runs at a time. After a
    /// failed write or sync every further append fails (rule A4). [`PackError::Full`] and [`PackError::TooLarge`] mean
    /// that nothing was appended, and later appends may succeed.
    pub fn append(&self, frames: &[Frame<'_>]) -> Result<Vec<Extent>, PackError> {
        if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
            return Err(PackError::TooLarge { length: frame.payload.len(), largest: MAX_PAYLOAD });
        }
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let mut active = self.0.appender.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.folder.check()?;
        let mut extents = Vec::with_capacity(frames.len());
        let mut rest = frames;
        for run in self.plan(active.as_ref(), frames)? {
            let (now, later) = rest.split_at(run.frames);
            rest = later;
            if let Some(pack) = run.pack {
                self.table().activate(pack.number, &pack.file, BLOCK);
                *active = Some(Active { pack, end: BLOCK, asked: false });
            }
            if let Some(active) = active.as_mut() {
                self.write(active, now, &mut extents)?;
            }
        }
        if let Some(active) = active.as_mut()
            && !active.asked
            && active.end >= active.pack.bytes / 8
        {
            active.asked = true;
            self.0.ahead.ask();
        }
        Ok(extents)
    }

    /// The packs that take the frames. All new ones are there before the first frame is written.
    fn plan(&self, active: Option<&Active<M::File>>, frames: &[Frame<'_>]) -> Result<Vec<Run<M::File>>, PackError> {
        // Minimum bytes of a new pack.
        let least = self.0.folder.config.pack_bytes;
        let (mut end, mut length) = active.map_or((least, least), |active| (active.end, active.pack.bytes));
        let mut counts = vec![0_usize];
        for frame in frames {
            let span = span(frame.payload.len()) as u64;
            if end + span > length {
                counts.push(0);
                (end, length) = (BLOCK, least);
            }
            end += span;
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
        }
        let mut new = self.0.ahead.take(counts.len() - 1)?;
        let run =
            |(place, frames): (usize, usize)| Run { frames, pack: if place == 0 { None } else { new.pop_front() } };
        Ok(counts.into_iter().enumerate().map(run).collect())
    }

    /// Writes frames that fit into the pack.
    fn write(
        &self,
        active: &mut Active<M::File>,
        frames: &[Frame<'_>],
        extents: &mut Vec<Extent>,
    ) -> Result<(), PackError> {
        if frames.is_empty() {
            return Ok(());
        }
        let NewPack { number, nonce, file, .. } = &active.pack;
        let mut end = active.end;
        let mut headers: Vec<[u8; FRAME_HEADER]> = Vec::with_capacity(frames.len());
        for frame in frames {
            headers.push(frame.header(FramePlace { pack: *number, nonce: *nonce, at: end }));
            // At most MAX_PAYLOAD.
            let length = frame.payload.len() as u32;
            extents.push(Extent { pack: *number, offset: payload_offset(end), length });
            end += span(frame.payload.len()) as u64;
        }
        let parts = headers.iter().zip(frames);
        let parts = parts.flat_map(|(header, frame)| [&header[..], frame.payload, padding(frame.payload.len())]);
        // Zeros to the end of the page: of a file that was used before, it would be read first.
        let parts = parts.chain([rest_of_page(end)]);
        let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty()).collect();
        let written = file.write_at(&parts, active.end);
        written.map_err(|error| self.0.folder.fail("write", &file_name(*number), &error))?;
        self.0.folder.flow.bytes.fetch_add(end - active.end, Relaxed);
        active.end = end;
        self.0.group.written(*number, file);
        if let Some(listed) = self.table().packs.get_mut(number) {
            listed.used = Some(end);
        }
        Ok(())
    }

    /// Makes everything durable that was appended before the call. Concurrent callers share one `fdatasync` of each
    /// pack with unsynced frames, the older pack first: one caller leads, and those who come meanwhile share the next
    /// one. After a failed write or sync every further call fails (rule A4).
    pub fn sync(&self) -> Result<(), PackError> {
        self.0.group.sync()
    }

    /// The file of a pack, opened if it is not open.
    pub(crate) fn file(&self, pack: u32) -> Result<Arc<M::File>, PackError> {
        let mut table = self.table();
        if !table.packs.contains_key(&pack) {
            return Err(PackError::NoPack { pack });
        }
        if let Some(file) = table.file(pack) {
            return Ok(file);
        }
        drop(table);
        let file = Arc::new(self.0.folder.open(pack)?);
        if self.table().keep(pack, &file) { Ok(file) } else { Err(PackError::NoPack { pack }) }
    }

    /// The valid frames of a pack, in order; damage between them is left out. A pack of an earlier process is synced
    /// first, since that process may have been killed before it did so: the frames are durable when this returns. Of a
    /// pack of this process, those are found whose append had returned.
    pub fn scan(&self, pack: u32) -> Result<Vec<Found>, PackError> {
        let file = self.file(pack)?;
        let listed = self.table().packs.get(&pack).copied().ok_or(PackError::NoPack { pack })?;
        if listed.age == Age::Unsynced {
            self.0.folder.check()?;
            file.sync().map_err(|error| self.0.folder.fail("sync", &file_name(pack), &error))?;
            if let Some(listed) = self.table().packs.get_mut(&pack) {
                listed.age = Age::Synced;
            }
        }
        let limit = listed.used.filter(|_| listed.age == Age::Own).unwrap_or(u64::MAX);
        let bytes = self.0.folder.bytes(pack, &file, limit)?;
        let nonce = match header(pack, &bytes)? {
            Header::Valid { nonce } => Some(nonce),
            Header::OfAnotherPack => {
                let file = file_name(pack);
                tracing::warn!(
                    file,
                    "pack was copied or renamed, and nothing in it is used; give it its name back"
                );
                return Ok(Vec::new());
            }
            Header::Missing => {
                tracing::warn!(file = file_name(pack), "header of the pack is damaged; check the disk");
                None
            }
        };
        Ok(frames(&bytes, pack, nonce))
    }

    /// Numbers of all packs that hold or held frames, ascending. A pack that is only made ahead is none of them.
    pub fn list(&self) -> Vec<u32> {
        self.table().packs.keys().copied().collect()
    }

    /// Number of the pack that is appended to; `None` before the first append.
    pub fn active(&self) -> Option<u32> {
        self.table().active
    }

    /// Bytes of a pack up to the end of its last frame; the length of the file for those of earlier processes, 0 when
    /// there is no such pack, or it cannot be opened.
    pub fn used(&self, pack: u32) -> u64 {
        let Some(listed) = self.table().packs.get(&pack).copied() else { return 0 };
        if let Some(used) = listed.used {
            return used;
        }
        let Some(length) = self.file(pack).ok().and_then(|file| file.length().ok()) else { return 0 };
        if let Some(listed) = self.table().packs.get_mut(&pack) {
            listed.used = Some(length);
        }
        length
    }

    /// Removes a pack; readers that have its file open continue. A power cut may undo it. Refuses the active pack. While audio
    /// comes fast, the file is kept for a while, to become a new pack.
    pub fn remove(&self, pack: u32) -> Result<(), PackError> {
        let table = self.table();
        if table.active == Some(pack) {
            return Err(PackError::Active { pack });
        }
        if !table.packs.contains_key(&pack) {
            return Err(PackError::NoPack { pack });
        }
        drop(table);
        if let Some(spare) = self.spare(pack) {
            self.0.ahead.keep(spare);
            return Ok(());
        }
        let name = file_name(pack);
        match self.0.folder.medium.remove(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(PackError::io("remove", &name, &error)),
        }
        self.table().forget(pack);
        Ok(())
    }

    /// The file of a removed pack, if a new one may need it.
    fn spare(&self, pack: u32) -> Option<Spare<M::File>> {
        let file = self.file(pack).ok()?;
        let bytes = file.length().ok().filter(|bytes| self.0.ahead.wants(*bytes))?;
        let readers = self.table().forget(pack);
        Some(Spare { pack, bytes, file, readers })
    }

    /// The first failed write or sync, after which this process appends no frame.
    pub fn broken(&self) -> Option<String> {
        self.0.folder.broken().map(str::to_owned)
    }
}
