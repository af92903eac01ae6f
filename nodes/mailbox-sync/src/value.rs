//! Values in registers, read with the kind of their record for error texts.

use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Record, Tag, Value};

/// The fields of one record that no delete saw.
pub(crate) struct Fields<'a> {
    pub what: &'static str,
    pub record: &'a Record,
}

impl Fields<'_> {
    /// A field read by `read`: `None` if it is absent, deleted or empty.
    pub fn optional<T>(&self, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, ViewError> {
        match self.record.bytes(tag).filter(|bytes| !bytes.is_empty() && self.record.outlives_delete(tag)) {
            None => Ok(None),
            Some(bytes) => read(bytes).map(Some).ok_or(ViewError::Unreadable { what: self.what, tag }),
        }
    }

    /// A field that every such record has.
    pub fn required<T>(&self, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, ViewError> {
        self.optional(tag, read)?.ok_or(ViewError::Missing { what: self.what, tag })
    }
}

pub(crate) fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

pub(crate) fn read_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A number in big-endian order, and the bytes after it.
pub(crate) fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk::<4>().map(|(number, rest)| (u32::from_be_bytes(*number), rest))
}

/// As [`take_u32`].
pub(crate) fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk::<8>().map(|(number, rest)| (u64::from_be_bytes(*number), rest))
}

pub(crate) fn set(tag: Tag, bytes: &[u8]) -> Edit {
    Edit::Set(tag, Value::Bytes(bytes.to_vec()))
}

pub(crate) fn set_u64(tag: Tag, value: u64) -> Edit {
    set(tag, &value.to_be_bytes())
}

/// Maximum length of a text in a value by epoch, in bytes.
const LONGEST_TEXT: usize = 1_024;

/// Appends a text with its length in bytes (u16); a longer one is cut.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let cut = (0..=text.len().min(LONGEST_TEXT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let text = text.get(..cut).unwrap_or_default();
    // At most `LONGEST_TEXT`, which a u16 holds.
    bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// The text that [`put_text`] wrote, and the bytes after it.
pub(crate) fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}
