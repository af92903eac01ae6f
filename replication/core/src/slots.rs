//! Values by key and by number.

use std::{collections::HashMap, hash::Hash};

/// Values by key. Each also has the number of its slot while it is here: a holder of the number needs no look at a map. A later
/// value takes the slot of a removed one, so the number must go with the value.
#[derive(Debug)]
pub struct Slots<K, V> {
    slots: Vec<Option<(K, V)>>,
    free: Vec<usize>,
    by_key: HashMap<K, usize>,
}

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_key: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Slots<K, V> {
    /// Adds a value, or replaces the one with this key. Returns its slot.
    pub fn insert(&mut self, key: K, value: V) -> usize {
        let known = self.slot(&key).or_else(|| self.free.pop());
        let slot = known.unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some((key, value)),
            None => self.slots.push(Some((key, value))),
        }
        self.by_key.insert(key, slot);
        slot
    }

    /// Removes a value. Returns it with the slot that it had.
    pub fn remove(&mut self, key: &K) -> Option<(usize, V)> {
        let slot = self.by_key.remove(key)?;
        let (_, value) = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some((slot, value))
    }

    /// The slot of a value.
    pub fn slot(&self, key: &K) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// The value with this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(self.slot(key)?)?.as_ref().map(|(_, value)| value)
    }

    /// The value with this key.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.at_mut(self.slot(key)?)
    }

    /// The value in a slot.
    pub fn at_mut(&mut self, slot: usize) -> Option<&mut V> {
        self.slots.get_mut(slot)?.as_mut().map(|(_, value)| value)
    }

    /// All keys and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().flatten().map(|found| (&found.0, &found.1))
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Mutants: a slot that is given to two values, or is never used again.
        #[test]
        fn value_is_found_by_key_and_by_the_slot_that_it_got(
            changes in prop::collection::vec((0..8_u8, any::<bool>()), 0..60)
        ) {
            let (mut slots, mut expected) = (Slots::default(), BTreeMap::new());
            let mut most = 0;
            for (n, (key, adds)) in changes.into_iter().enumerate() {
                if adds {
                    let slot = slots.insert(key, n);
                    let before = expected.insert(key, (slot, n));
                    prop_assert!(before.is_none_or(|(before, _)| before == slot));
                } else {
                    prop_assert_eq!(slots.remove(&key), expected.remove(&key));
                }
                most = expected.len().max(most);
                for (key, (slot, value)) in &mut expected {
                    prop_assert!(*slot < most, "no more slots than values");
                    prop_assert_eq!((slots.slot(key), slots.get(key)), (Some(*slot), Some(&*value)));
                    prop_assert_eq!(slots.at_mut(*slot), Some(&mut *value));
                    prop_assert_eq!(slots.get_mut(key), Some(value));
                }
                let found: BTreeMap<_, _> = slots.iter().collect();
                prop_assert!(found.into_iter().eq(expected.iter().map(|(key, (_, value))| (key, value))));
                prop_assert_eq!(slots.values().count(), expected.len());
            }
        }
    }
}
