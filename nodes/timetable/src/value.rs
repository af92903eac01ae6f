//! Values in registers, read with the kind of their record for error texts.

use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Record, Tag, Value};

/// The fields of one record.
pub(crate) struct Fields<'a> {
    pub what: &'static str,
    pub record: &'a Record,
}

impl Fields<'_> {
    /// A field read by `read`: `None` if it is absent.
    pub fn optional<T>(&self, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, ViewError> {
        match self.record.bytes(tag) {
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

pub(crate) fn set(tag: Tag, bytes: &[u8]) -> Edit {
    Edit::Set(tag, Value::Bytes(bytes.to_vec()))
}

pub(crate) fn set_u64(tag: Tag, value: u64) -> Edit {
    set(tag, &value.to_be_bytes())
}
