//! The packs that exist, and their open files.

use std::{collections::BTreeMap, sync::Arc};

/// Maximum number of files that are open for reading.
const MAX_OPEN: usize = 64;

/// A pack that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// Bytes up to the end of its last frame. Of a pack of an earlier process, the length of its file once that was asked for.
    pub(crate) used: Option<u64>,
    pub(crate) age: Age,
}

/// The process that wrote a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// An earlier one, which may have been killed before it synced the pack.
    Unsynced,
    /// An earlier one; this process has synced the pack.
    Synced,
    /// This one.
    Own,
}

pub(crate) struct Table<F> {
    pub(crate) packs: BTreeMap<u32, Listed>,
    /// The pack that is appended to.
    pub(crate) active: Option<u32>,
    open: Vec<Open<F>>,
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
        Self { packs, active: None, open: Vec::new(), uses: 0 }
    }

    /// A new pack is appended to from now on.
    pub(crate) fn activate(&mut self, pack: u32, file: &Arc<F>, used: u64) {
        self.packs.insert(pack, Listed { used: Some(used), age: Age::Own });
        self.active = Some(pack);
        self.keep(pack, file);
    }

    /// The file of a pack, if it is open.
    pub(crate) fn file(&mut self, pack: u32) -> Option<Arc<F>> {
        self.uses += 1;
        let open = self.open.iter_mut().find(|open| open.pack == pack)?;
        open.last = self.uses;
        Some(Arc::clone(&open.file))
    }

    /// Keeps a file open, unless its pack was removed meanwhile, and closes the one whose last use is the longest ago.
    pub(crate) fn keep(&mut self, pack: u32, file: &Arc<F>) {
        if !self.packs.contains_key(&pack) || self.file(pack).is_some() {
            return;
        }
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().enumerate().min_by_key(|(_, open)| open.last).map(|(place, _)| place);
            if let Some(oldest) = oldest {
                self.open.swap_remove(oldest);
            }
        }
        self.open.push(Open { pack, file: Arc::clone(file), last: self.uses });
    }

    /// The pack was removed.
    pub(crate) fn forget(&mut self, pack: u32) {
        self.packs.remove(&pack);
        self.open.retain(|open| open.pack != pack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_with_the_oldest_use_is_closed() {
        let mut table = Table::new(0..100);
        let file = Arc::new(());
        (0..64).for_each(|pack| table.keep(pack, &file));
        assert!(table.file(0).is_some());
        table.keep(64, &file);
        assert!(table.file(1).is_none() && table.file(0).is_some() && table.file(64).is_some());
        assert_eq!(table.open.len(), MAX_OPEN);
    }

    #[test]
    fn file_of_a_removed_pack_is_not_kept_open() {
        let mut table = Table::new(0..2);
        let file = Arc::new(());
        table.keep(0, &file);
        table.forget(0);
        assert!(table.file(0).is_none());
        table.keep(0, &file);
        assert!(table.file(0).is_none());
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
