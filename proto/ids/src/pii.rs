//! Private data: caller numbers, names, PINs, mail addresses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that prints as `•••` wherever it is formatted. Only [`Pii::reveal`] and [`Pii::into_revealed`] return it,
/// and a reviewer can search the code for these names.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pii<T>(T);

impl<T> Pii<T> {
    /// Marks a value as private.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: for acting on it or showing it to its owner, never for a log.
    pub fn reveal(&self) -> &T {
        &self.0
    }

    /// The value itself, by value.
    pub fn into_revealed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Pii<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

impl<T> fmt::Display for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

#[cfg(test)]
mod tests {
    use super::Pii;

    #[test]
    fn private_values_are_not_printed() {
        let number = Pii::new("+15550100");
        assert_eq!(format!("{number} {number:?} {:#?}", Some(&number)).matches("555").count(), 0);
        assert_eq!(*number.reveal(), "+15550100");
    }
}
