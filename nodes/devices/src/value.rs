//! Values in registers: big-endian numbers, UTF-8 texts, ids. A read that fails has its own error, because a record may
//! come from a newer node or a damaged disk.

use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Record, Tag, Value};

use crate::{DeviceId, Repeat};

/// Kind of the records, for error texts.
pub(crate) const WHAT: &str = "a device";

/// The fields of one device's record.
pub(crate) struct Fields<'a>(pub &'a Record);

impl<'a> Fields<'a> {
    /// A field read by `read`: `None` if absent or empty, an error if `read` refuses it.
    pub fn optional<T>(&self, tag: Tag, read: impl Fn(&'a [u8]) -> Option<T>) -> Result<Option<T>, ViewError> {
        match self.0.bytes(tag) {
            None | Some([]) => Ok(None),
            Some(bytes) => read(bytes).map(Some).ok_or(ViewError::Unreadable { what: WHAT, tag }),
        }
    }

    /// A field that every such record has.
    pub fn required<T>(&self, tag: Tag, read: impl Fn(&'a [u8]) -> Option<T>) -> Result<T, ViewError> {
        self.optional(tag, read)?.ok_or(ViewError::Missing { what: WHAT, tag })
    }

    /// A yes-or-no field; `otherwise` if absent.
    pub fn switch(&self, tag: Tag, otherwise: bool) -> Result<bool, ViewError> {
        Ok(self.optional(tag, read_bool)?.unwrap_or(otherwise))
    }

    /// A number; 0 if absent.
    pub fn number(&self, tag: Tag) -> Result<u32, ViewError> {
        Ok(self.optional(tag, read_u32)?.unwrap_or_default())
    }
}

/// A text.
pub(crate) fn read_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A text that is parsed.
pub(crate) fn read_parsed<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// One byte.
pub(crate) fn read_byte(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [byte] => Some(*byte),
        _ => None,
    }
}

fn read_bool(bytes: &[u8]) -> Option<bool> {
    match read_byte(bytes)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    u64::from_be_bytes(bytes.try_into().ok()?).try_into().ok()
}

/// Interval and maximum of repeats.
pub(crate) fn read_repeat(bytes: &[u8]) -> Option<Repeat> {
    let (every, most) = bytes.split_at_checked(8)?;
    Some(Repeat { every_s: read_u32(every)?, most: read_u32(most)? })
}

/// Writes a text.
pub(crate) fn set_text(tag: Tag, value: &str) -> Edit {
    set_bytes(tag, value.as_bytes().to_vec())
}

/// Writes one byte.
pub(crate) fn set_byte(tag: Tag, value: u8) -> Edit {
    set_bytes(tag, vec![value])
}

/// Writes a number as u64.
pub(crate) fn set_number(tag: Tag, value: u32) -> Edit {
    set_bytes(tag, u64::from(value).to_be_bytes().to_vec())
}

/// Writes interval and maximum of repeats, or none.
pub(crate) fn set_repeat(tag: Tag, repeat: Option<Repeat>) -> Edit {
    let numbers = repeat.map(|repeat| [repeat.every_s, repeat.most]);
    set_bytes(tag, numbers.into_iter().flatten().flat_map(|n| u64::from(n).to_be_bytes()).collect())
}

/// Writes the id of a device, or none.
pub(crate) fn set_device(tag: Tag, device: Option<DeviceId>) -> Edit {
    set_bytes(tag, device.map_or_else(Vec::new, |device| device.to_bytes().to_vec()))
}

fn set_bytes(tag: Tag, value: Vec<u8>) -> Edit {
    Edit::Set(tag, Value::Bytes(value))
}
