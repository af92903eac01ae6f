//! The packs that exist, and their open files.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// Maximum number of files that are open for reading.
const MAX_OPEN: usize = 64;

/// A pack that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// Bytes up to the end of its last frame; for a pack of an earlier process the length of its file, once it was read.
    pub(crate) used: Option<u64>,
    pub(crate) age: Age,
}

/// The process that wrote a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// An earlier process, which may have been killed before it synced the pack.
    Unsynced,
    /// An earlier process; this process has synced the pack.
    Synced,
    /// This process.
    Own,
}

pub(crate) struct Table<F> {
    pub(crate) packs: BTreeMap<u32, Listed>,
    /// The pack that is appended to.
    pub(crate) active: Option<u32>,
    open: Vec<Open<F>>,
    /// All open handles of each pack, for as long as a reader may use them.
    handles: BTreeMap<u32, Vec<Weak<F>>>,
    /// Number of uses of open files.
    uses: u64,
}

struct Open<F> {
    pack: u32,
    file: Arc<F>,
    /// Number of its last use.
    last: u64,
}

impl<F> Table<F> {
    /// The packs of earlier processes.
    pub(crate) fn new(packs: impl IntoIterator<Item = u32>) -> Self {
        let listed = Listed { used: None, age: Age::Unsynced };
        let packs = packs.into_iter().map(|pack| (pack, listed)).collect();
        Self { packs, active: None, open: Vec::new(), handles: BTreeMap::new(), uses: 0 }
    }

    /// Makes a new pack the one that is appended to.
    pub(crate) fn activate(&mut self, pack: u32, file: &Arc<F>, used: u64) {
        self.packs.insert(pack, Listed { used: Some(used), age: Age::Own });
        self.active = Some(pack);
        let _ = self.keep(pack, file);
    }

    /// The file of a pack, if it is open.
    pub(crate) fn file(&mut self, pack: u32) -> Option<Arc<F>> {
        self.uses += 1;
        let open = self.open.iter_mut().find(|open| open.pack == pack)?;
        open.last = self.uses;
        Some(Arc::clone(&open.file))
    }

    /// Keeps a file open, and closes the one whose last use is the longest ago. False when its pack was removed meanwhile: its
    /// file may be another pack by now.
    pub(crate) fn keep(&mut self, pack: u32, file: &Arc<F>) -> bool {
        if !self.packs.contains_key(&pack) {
            return false;
        }
        let handles = self.handles.entry(pack).or_default();
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(file));
        if self.file(pack).is_some() {
            return true;
        }
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().enumerate().min_by_key(|(_, open)| open.last).map(|(place, _)| place);
            if let Some(oldest) = oldest {
                self.open.swap_remove(oldest);
            }
        }
        self.open.push(Open { pack, file: Arc::clone(file), last: self.uses });
        true
    }

    /// Forgets a removed pack. Returns its handles that a reader may still use.
    pub(crate) fn forget(&mut self, pack: u32) -> Vec<Weak<F>> {
        self.packs.remove(&pack);
        self.open.retain(|open| open.pack != pack);
        self.handles.remove(&pack).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_with_the_oldest_use_is_closed() {
        let mut table = Table::new(0..100);
        let file = Arc::new(());
        (0..64).for_each(|pack| assert!(table.keep(pack, &file)));
        assert!(table.file(0).is_some());
        assert!(table.keep(64, &file));
        assert!(table.file(1).is_none() && table.file(0).is_some() && table.file(64).is_some());
        assert_eq!(table.open.len(), MAX_OPEN);
    }

    #[test]
    fn file_of_a_removed_pack_is_not_kept_open() {
        let mut table = Table::new(0..2);
        let file = Arc::new(());
        assert!(table.keep(0, &file));
        let readers = table.forget(0);
        assert!(table.file(0).is_none());
        assert!(!table.keep(0, &file) && table.file(0).is_none());
        assert_eq!((Arc::strong_count(&file), readers.len()), (1, 1));
        drop(file);
        assert_eq!(readers[0].strong_count(), 0);
    }
}
