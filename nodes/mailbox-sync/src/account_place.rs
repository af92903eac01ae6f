//! The place of an account's messages: a folder of an account on a host.

/// A place, as a hash of its names. UIDs and flags seen in one place are not valid in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountPlace(pub [u8; 16]);

impl AccountPlace {
    /// Whether a stored state that ends with these bytes is of this place. A state of an earlier release
    /// names no place: the row of the account decides for it.
    pub(crate) fn holds(self, stored: &[u8]) -> bool {
        stored.first_chunk::<16>().is_none_or(|stored| *stored == self.0)
    }
}
