//! The index of a simulated machine: the product's blocks over a map that loses the end of its writes.

use std::{
    io,
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Map, State, Unflushed, World, apply};
use crate::{
    DiskError, Pair,
    block::{Malformed, Write},
    block_cache::BlockCache,
    blocks::{self, Bounds, Entries, Found},
    index::{Index, Note},
    range::KeyRange,
    runs::Extent,
};

/// The index of a machine, its rows in blocks.
pub(in super::super) struct SimulatedIndex {
    world: World,
    /// Of a process. A copy that takes the place of the index has one of its own.
    cache: Mutex<Arc<BlockCache<Vec<u8>>>>,
}

/// Bytes of blocks in memory: of a few, so that most are looked for.
const IN_MEMORY: usize = 4096;

impl SimulatedIndex {
    pub(super) fn new(world: &World) -> Self {
        Self { world: world.clone(), cache: Mutex::new(Arc::new(BlockCache::new(IN_MEMORY))) }
    }

    fn cache(&self) -> MutexGuard<'_, Arc<BlockCache<Vec<u8>>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocks(&self) -> SimulatedBlocks {
        SimulatedBlocks { world: self.world.clone(), which: Which::Index, cache: self.cache().clone() }
    }
}

/// Writes a row past everything.
pub(super) fn write_durably(world: &World, key: &[u8], value: Option<&[u8]>) {
    blocks::write(&world.blocks(Which::Durable), &[(key, value)], |_, _, _| {}).expect("a write");
}

fn failed(error: &io::Error) -> DiskError {
    DiskError::io("use the index of", Path::new("simulated"), error)
}

/// The blocks of an index. Clones are the same ones.
#[derive(Clone)]
struct SimulatedBlocks {
    world: World,
    which: Which,
    cache: Arc<BlockCache<Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Index,
    Durable,
    Copy,
}

impl World {
    /// Blocks that are written and not read again.
    fn blocks(&self, which: Which) -> SimulatedBlocks {
        SimulatedBlocks { world: self.clone(), which, cache: Arc::new(BlockCache::new(0)) }
    }
}

impl SimulatedBlocks {
    /// The entries in these bounds; nothing in bounds that have no key.
    fn within<R>(
        &self,
        (from, to): Bounds<'_>,
        read: impl FnOnce(&mut dyn DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)>) -> R,
    ) -> Result<R, DiskError> {
        let state = self.world.state();
        if state.dead {
            return Err(failed(&State::power_failed()));
        }
        let map = match self.which {
            Which::Index => &state.index,
            Which::Durable => &state.durable_index,
            Which::Copy => state.copy.as_ref().expect("a copy"),
        };
        match (from, to) {
            (Bound::Excluded(from), Bound::Excluded(to)) if from == to => Ok(read(&mut std::iter::empty())),
            bounds => {
                let entries = map.range::<[u8], _>(bounds);
                Ok(read(&mut entries.map(|(key, value)| (key.clone(), value.clone()))))
            }
        }
    }
}

impl Entries for SimulatedBlocks {
    type Bytes = Vec<u8>;

    fn cache(&self) -> &BlockCache<Vec<u8>> {
        &self.cache
    }

    fn ascending(&self, (from, to): Bounds<'_>) -> impl Iterator<Item = Found<Vec<u8>>> + use<> {
        let (blocks, to) = (self.clone(), to.map(<[u8]>::to_vec));
        let mut from = Some(from.map(<[u8]>::to_vec));
        // Each entry as it is when it is asked for.
        std::iter::from_fn(move || {
            let begin = from.take()?;
            let bounds = (begin.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
            let found = blocks.within(bounds, |entries| entries.next()).transpose()?;
            if let Ok((key, _)) = &found {
                from = Some(Bound::Excluded(key.clone()));
            }
            Some(found)
        })
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        self.within(bounds, |entries| entries.next_back())
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let mut state = self.world.state();
        match self.which {
            Which::Index => {
                if !state.faults.index_delays {
                    apply(&mut state.index, key, value);
                }
                state.unflushed.push(Unflushed::Block(key.to_vec(), value.map(<[u8]>::to_vec)));
            }
            Which::Durable => {
                apply(&mut state.durable_index, key, value);
                return Ok(());
            }
            Which::Copy => {
                if let Some(copy) = &mut state.copy {
                    apply(copy, key, value);
                }
            }
        }
        state.step().map_err(|error| failed(&error))
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        DiskError::Index { dir: "/simulated".into(), detail: reason.to_string(), damaged: true }
    }
}

impl Index for SimulatedIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        blocks::get(&self.blocks(), key)
    }

    fn ascending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::ascending(&self.blocks(), range)
    }

    fn descending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::descending(&self.blocks(), range)
    }

    fn write(&self, rows: &[Write<'_>]) -> Result<(), DiskError> {
        blocks::write(&self.blocks(), rows, |_, _, _| {})
    }

    fn note(&self, note: &Note) -> Result<(), DiskError> {
        let mut state = self.world.state();
        if let Some(extent) = note.runs.filter(|_| !state.faults.notes_nothing || state.note.is_none()) {
            state.note = Some(extent);
            state.unflushed.push(Unflushed::Note(extent));
        }
        state.step().map_err(|error| failed(&error))
    }

    fn noted_runs(&self) -> Result<Option<Extent>, DiskError> {
        Ok(self.world.state().note)
    }

    fn begin_copy(&self) -> Result<(), String> {
        let mut state = self.world.state();
        state.step().map_err(|error| error.to_string())?;
        state.copy = Some(Map::new());
        Ok(())
    }

    fn write_copy(&self, rows: &[Write<'_>]) -> Result<(), DiskError> {
        if self.world.state().copy.is_none() {
            return Ok(());
        }
        blocks::write(&self.world.blocks(Which::Copy), rows, |_, _, _| {})
    }

    fn drop_copy(&self) {
        self.world.state().copy = None;
    }

    fn replace(&self, note: &Note) -> Result<(), DiskError> {
        let mut state = self.world.state();
        state.step().map_err(|error| failed(&error))?;
        let Some(copy) = state.copy.take() else { return Ok(()) };
        if !state.faults.copy_lies {
            state.durable_index = copy.clone();
            state.durable_note = note.runs.or(state.durable_note);
        }
        state.note = note.runs.or(state.note);
        state.index = copy;
        state.unflushed.clear();
        state.replaced += 1;
        *self.cache() = Arc::new(BlockCache::new(IN_MEMORY));
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.world.flushes.pass();
        let mut state = self.world.state();
        state.step().map_err(|error| failed(&error))?;
        if state.faults.index_fails {
            return Err(failed(&io::Error::other("the index cannot be flushed")));
        }
        if state.faults.index_lies {
            return Ok(());
        }
        for write in std::mem::take(&mut state.unflushed) {
            match write {
                Unflushed::Block(key, value) => {
                    apply(&mut state.durable_index, &key, value.as_deref());
                    apply(&mut state.index, &key, value.as_deref());
                }
                Unflushed::Note(note) => state.durable_note = Some(note),
            }
        }
        Ok(())
    }
}
