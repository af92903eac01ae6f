//! Values in registers: big-endian numbers, UTF-8 texts, ids, blobs. Each failure of a read has its own error, because
//! a record may come from a newer node or a damaged disk.

use twinbox_replication_core::{BlobRef, Edit, Record, Tag, Value};

/// A record does not fit its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The key has the wrong shape.
    #[error("a key of {what} has the wrong length; the record is ignored")]
    Key {
        /// Kind of the record.
        what: &'static str,
    },
    /// A field that every such record has is missing (so far).
    #[error("field {tag} of {what} is missing; the record is ignored until the field arrives")]
    Missing {
        /// Kind of the record.
        what: &'static str,
        /// The field.
        tag: Tag,
    },
    /// A field is present but cannot be read.
    #[error("field {tag} of {what} cannot be read by this release; the record is ignored: upgrade this node")]
    Unreadable {
        /// Kind of the record.
        what: &'static str,
        /// The field.
        tag: Tag,
    },
}

/// The fields of one record, read with its kind for error texts.
pub(crate) struct Fields<'a> {
    pub what: &'static str,
    pub record: &'a Record,
}

impl<'a> Fields<'a> {
    pub fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        self.record.bytes(tag)
    }

    pub fn blob(&self, tag: Tag) -> Option<&'a BlobRef> {
        self.record.register(tag)?.0.blob()
    }

    pub fn missing(&self, tag: Tag) -> ViewError {
        ViewError::Missing { what: self.what, tag }
    }

    pub fn unreadable(&self, tag: Tag) -> ViewError {
        ViewError::Unreadable { what: self.what, tag }
    }

    /// A field read by `read`: `None` if absent, an error if `read` refuses it.
    pub fn optional<T>(&self, tag: Tag, read: impl Fn(&'a [u8]) -> Option<T>) -> Result<Option<T>, ViewError> {
        match self.bytes(tag) {
            None => Ok(None),
            Some(bytes) => read(bytes).map(Some).ok_or_else(|| self.unreadable(tag)),
        }
    }

    pub fn required<T>(&self, tag: Tag, read: impl Fn(&'a [u8]) -> Option<T>) -> Result<T, ViewError> {
        self.optional(tag, read)?.ok_or_else(|| self.missing(tag))
    }
}

pub(crate) fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

pub(crate) fn read_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

pub(crate) fn read_byte(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [byte] => Some(*byte),
        _ => None,
    }
}

pub(crate) fn set_u64(tag: Tag, value: u64) -> Edit {
    Edit::Set(tag, Value::Bytes(value.to_be_bytes().to_vec()))
}

pub(crate) fn set_text(tag: Tag, value: &str) -> Edit {
    Edit::Set(tag, Value::Bytes(value.as_bytes().to_vec()))
}

pub(crate) fn set_byte(tag: Tag, value: u8) -> Edit {
    Edit::Set(tag, Value::Bytes(vec![value]))
}

pub(crate) fn set_bytes(tag: Tag, value: Vec<u8>) -> Edit {
    Edit::Set(tag, Value::Bytes(value))
}

pub(crate) fn set_blob(tag: Tag, blob: BlobRef) -> Edit {
    Edit::Set(tag, Value::Blob(blob))
}
