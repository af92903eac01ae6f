//! The folders and files of the machine.

use std::io;

use twinbox_journal::{Blocks, Medium, MediumFile};

use super::{Content, RUN_FILES, State, World};

/// A folder of the machine.
pub(in super::super) struct SimulatedFolder {
    world: World,
    /// Beginning of the names of its files.
    begin: &'static str,
}

impl SimulatedFolder {
    pub(super) fn new(world: &World, begin: &'static str) -> Self {
        Self { world: world.clone(), begin }
    }

    fn has(&self, name: &str) -> bool {
        name.starts_with(RUN_FILES) != self.begin.is_empty()
    }

    fn file(&self, name: &str) -> SimulatedFile {
        SimulatedFile { world: self.world.clone(), name: self.name(name) }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.begin)
    }
}

impl Medium for SimulatedFolder {
    type File = SimulatedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.world.state();
        let names = state.files.keys().filter(|name| self.has(name));
        let names = names.map(|name| name.strip_prefix(self.begin).unwrap_or(name).to_owned()).collect();
        if state.dead { Err(State::power_failed()) } else { Ok(names) }
    }

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        self.world.state().file(&self.name(name))?;
        Ok(self.file(name))
    }

    fn create(&self, name: &str, length: u64, _: Blocks) -> io::Result<SimulatedFile> {
        let mut state = self.world.state();
        let (opened, name) = (self.file(name), self.name(name));
        if state.full && !state.dead && self.begin.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(!state.files.contains_key(&name), "a file of this name is there");
        let was_dead = state.dead;
        let created = state.step();
        let length = match created {
            Ok(()) => length as usize,
            Err(error) if was_dead || state.random.coin() => return Err(error),
            // The rest of an interrupted creation.
            Err(_) => state.random.index(length as usize),
        };
        let zeros = vec![0; length];
        state.files.insert(name, Content { live: zeros.clone(), durable: zeros, unsynced: Vec::new() });
        created?;
        // The folder was synced.
        state.removed.retain(|(name, _)| !self.has(name));
        Ok(opened)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, name) = (self.world.state(), self.name(name));
        state.file(&name)?;
        if let Some(content) = state.files.remove(&name) {
            state.unlinked.insert(name.clone(), content.live.clone());
            state.removed.push((name, content));
        }
        state.step()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.world.state();
        state.file(&self.name(from))?;
        if let Some(content) = state.files.remove(&self.name(from)) {
            state.files.insert(self.name(to), content);
        }
        state.step()
    }
}

pub(in super::super) struct SimulatedFile {
    world: World,
    name: String,
}

impl MediumFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.world.state().file(&self.name)?.live.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.world.state();
        let live = match state.file(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => state.unlinked.get(&self.name).ok_or(error)?,
            file => &file?.live,
        };
        let rest = live.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let (bytes, offset) = (parts.concat(), offset as usize);
        let mut state = self.world.state();
        let is_run = self.name.starts_with(RUN_FILES);
        assert!(is_run || !state.faults.journal_panics, "the fault that the test asked for");
        let content = state.file(&self.name)?;
        content.live[offset..offset + bytes.len()].copy_from_slice(&bytes);
        content.unsynced.push((offset, bytes));
        state.step()
    }

    fn sync(&self) -> io::Result<()> {
        self.world.syncs.pass();
        let mut state = self.world.state();
        state.step()?;
        let lies = if self.name.starts_with(RUN_FILES) { state.faults.runs_lie } else { state.faults.journal_lies };
        if !lies {
            let content = state.file(&self.name)?;
            content.unsynced.clear();
            content.durable = content.live.clone();
        }
        Ok(())
    }
}
