//! Values of all settings.

use std::{collections::BTreeMap, time::Duration};

use crate::Key;

/// A value of every setting: those that are set, else the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    set: BTreeMap<Key, String>,
    wan: bool,
}

impl Values {
    /// The defaults with these values; each must have passed [`Key::check`]. `wan`: the cluster has the timing of that
    /// profile.
    pub fn of<'a>(set: impl IntoIterator<Item = (Key, &'a str)>, wan: bool) -> Self {
        Self { set: set.into_iter().map(|(key, value)| (key, value.to_owned())).collect(), wan }
    }

    /// The value of a key; empty: none.
    pub fn text(&self, key: Key) -> &str {
        self.set.get(&key).map_or(key.default(self.wan), String::as_str)
    }

    /// The value of a key, if it has one.
    pub fn given(&self, key: Key) -> Option<&str> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// True when the key has a value that is set, not its default.
    pub fn is_set(&self, key: Key) -> bool {
        self.set.contains_key(&key)
    }

    /// The value of a key that is a number.
    pub fn number(&self, key: Key) -> u64 {
        self.text(key).parse().unwrap_or_default()
    }

    /// The value of a key that is a number below 2^32.
    pub fn small(&self, key: Key) -> u32 {
        u32::try_from(self.number(key)).unwrap_or(u32::MAX)
    }

    /// The value of a key that is a number below 256.
    pub fn tiny(&self, key: Key) -> u8 {
        u8::try_from(self.number(key)).unwrap_or(u8::MAX)
    }

    /// The value of a key that is a number of seconds.
    pub fn seconds(&self, key: Key) -> Duration {
        Duration::from_secs(self.number(key))
    }

    /// The value of a key that is a flag.
    pub fn flag(&self, key: Key) -> bool {
        self.text(key) == "true"
    }

    /// The items of a key that is a list.
    pub fn list(&self, key: Key) -> Vec<String> {
        self.text(key).split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }
}
