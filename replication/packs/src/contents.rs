//! The contents of each pack, by labels of the caller.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A label: a few bytes by which the caller finds the object, and whether its bytes are still in the pack.
pub type Label = [u8; 8];

/// The labels of each pack, in memory: 8 bytes each. A label stays until its pack is forgotten.
#[derive(Debug, Default)]
pub struct Contents(Mutex<HashMap<u32, Vec<Label>>>);

impl Contents {
    /// Adds the label of an object that has bytes in these packs, or is about to.
    pub fn add(&self, label: Label, packs: impl IntoIterator<Item = u32>) {
        let mut contents = self.contents();
        packs.into_iter().for_each(|pack| contents.entry(pack).or_default().push(label));
    }

    /// Adds the labels of one pack.
    pub fn add_all(&self, pack: u32, labels: Vec<Label>) {
        let mut contents = self.contents();
        let known = contents.entry(pack).or_default();
        known.extend(labels);
        known.sort_unstable();
        known.dedup();
        known.shrink_to_fit();
    }

    /// The labels of a pack, each once. Some may stand for bytes that were moved out of it.
    pub fn of(&self, pack: u32) -> Vec<Label> {
        let mut contents = self.contents();
        let Some(labels) = contents.get_mut(&pack) else { return Vec::new() };
        labels.sort_unstable();
        labels.dedup();
        labels.clone()
    }

    /// Forgets a removed pack, in which no object gets bytes again.
    pub fn forget(&self, pack: u32) {
        self.contents().remove(&pack);
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<u32, Vec<Label>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_has_each_label_once_until_it_is_forgotten() {
        let contents = Contents::default();
        let [a, b] = [*b"aaaaaaaa", *b"bbbbbbbb"];
        contents.add(b, [1, 2]);
        contents.add(a, [1]);
        contents.add(b, [1]);
        assert_eq!((contents.of(1), contents.of(2), contents.of(3)), (vec![a, b], vec![b], vec![]));
        contents.add_all(2, vec![b, a, b]);
        contents.forget(1);
        assert_eq!((contents.of(1), contents.of(2)), (vec![], vec![a, b]));
    }
}
