//! The folders and files of a simulated node.

use std::{collections::BTreeMap, io};

use twinbox_journal::{Blocks, Medium, MediumFile};

use super::{
    node_platter::{AUDIO, Content, Fault, JOURNAL, NodePlatter, RUNS},
    stale_batches::adopt_stale_batches,
};

/// A folder of the node, as one process has it.
pub(super) struct NodeFolder {
    platter: NodePlatter,
    process: u64,
    /// Beginning of the names of its files.
    begin: &'static str,
}

impl NodeFolder {
    pub(super) fn new(platter: &NodePlatter, process: u64, begin: &'static str) -> Self {
        Self { platter: platter.clone(), process, begin }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.begin)
    }

    fn file(&self, index: usize) -> NodeFile {
        NodeFile { platter: self.platter.clone(), process: self.process, folder: self.begin, index }
    }
}

impl Medium for NodeFolder {
    type File = NodeFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut guard = self.platter.state();
        let state = &mut *guard;
        state.check(self.process)?;
        let own = state.names.iter().filter_map(|(name, index)| Some((name.strip_prefix(self.begin)?, *index)));
        let (names, indexes): (Vec<String>, Vec<usize>) = own.map(|(name, index)| (name.to_owned(), index)).unzip();
        // The first call of a start of the journal.
        if self.begin == JOURNAL && state.fault == Fault::StaleBatches {
            indexes.into_iter().for_each(|index| adopt_stale_batches(&mut state.files[index].bytes));
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<NodeFile> {
        let state = self.platter.state();
        state.check(self.process)?;
        let index = *state.names.get(&self.name(name)).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(index))
    }

    fn create(&self, name: &str, length: u64, _: Blocks) -> io::Result<NodeFile> {
        let (mut state, name) = (self.platter.state(), self.name(name));
        let dies = state.begin(self.process, "create", &name, [0, length as usize])?;
        if state.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = state.files.len();
        let length = if dies { state.random.below(length + 1) } else { length };
        state.files.push(Content { bytes: vec![0; length as usize], written: 0, unsynced: BTreeMap::new() });
        // The name that a power cut would bring back is in use again.
        state.removed.remove(&name);
        state.names.insert(name.clone(), index);
        if dies {
            state.undurable.insert(name);
            return Err(state.die());
        }
        state.folder_synced(self.begin);
        Ok(self.file(index))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, name) = (self.platter.state(), self.name(name));
        let dies = state.begin(self.process, "remove", &name, [0, 0])?;
        if dies && state.random.has_luck(2) {
            return Err(state.die());
        }
        let index = state.names.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        if !state.undurable.remove(&name) {
            state.removed.insert(name, index);
        }
        if dies { Err(state.die()) } else { Ok(()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.platter.state();
        let (from, to) = (self.name(from), self.name(to));
        let dies = state.begin(self.process, "rename", &from, [0, 0])?;
        if dies && state.random.has_luck(2) {
            return Err(state.die());
        }
        let index = state.names.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        state.removed.remove(&to);
        state.names.insert(to, index);
        if dies {
            return Err(state.die());
        }
        state.folder_synced(self.begin);
        Ok(())
    }
}

/// An open file of the node. It stays the same file when it is removed or gets another name.
pub(super) struct NodeFile {
    platter: NodePlatter,
    process: u64,
    folder: &'static str,
    index: usize,
}

impl NodeFile {
    /// Syncs of the file do nothing.
    fn lies(&self, fault: Fault) -> bool {
        matches!(
            (fault, self.folder),
            (Fault::JournalLies, JOURNAL) | (Fault::AudioLies, AUDIO) | (Fault::RunsLie, RUNS)
        )
    }
}

impl MediumFile for NodeFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.platter.state();
        state.check(self.process)?;
        Ok(state.files[self.index].bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.platter.state();
        state.check(self.process)?;
        let rest = state.files[self.index].bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    /// Leaves out the end of a pack that was never written: each start reads whole packs, which have 16 MiB, most of them zeros.
    fn read_new(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        let state = self.platter.state();
        state.check(self.process)?;
        let Content { bytes, written, .. } = &state.files[self.index];
        let end = if self.folder == AUDIO { *written } else { bytes.len() };
        let rest = bytes[..end].get(offset as usize..).unwrap_or_default();
        Ok(rest[..rest.len().min(length)].to_vec())
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let (mut state, mut data) = (self.platter.state(), parts.concat());
        let dies = state.begin(self.process, "write", self.folder, [offset as usize, data.len()])?;
        if dies {
            let length = state.random.below(data.len() as u64 + 1) as usize;
            data.truncate(length);
        }
        state.files[self.index].write(&data, offset as usize);
        if dies { Err(state.die()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.platter.state();
        let dies = state.begin(self.process, "sync", self.folder, [self.index, 0])?;
        let is_done = !self.lies(state.fault) && (!dies || state.random.has_luck(2));
        if is_done {
            state.files[self.index].unsynced.clear();
        }
        if dies { Err(state.die()) } else { Ok(()) }
    }
}
