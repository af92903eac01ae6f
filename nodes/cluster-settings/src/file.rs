//! The values of a node's file.

use std::collections::BTreeMap;

use crate::{Entries, Key, Register};

/// Keys that a node's file names, each with a checked value. A default that the file leaves out is not among them: it
/// is no wish of the administrator, and never becomes the cluster's value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileValues(BTreeMap<Key, String>);

impl FileValues {
    /// Notes a key; the value must have passed [`Key::check`].
    pub fn set(&mut self, key: Key, value: String) {
        self.0.insert(key, value);
    }

    /// The value of a key, if the file names it.
    pub fn get(&self, key: Key) -> Option<&str> {
        self.0.get(&key).map(String::as_str)
    }

    /// All keys that the file names.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The keys of one register.
    pub fn entries(&self, register: Register) -> Entries {
        let mut entries = Entries::default();
        let own = self.iter().filter(|(key, _)| key.register() == register);
        own.for_each(|(key, value)| entries.set(key, value.to_owned()));
        entries
    }
}
