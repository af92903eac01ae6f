//! Converts between the values of `twinbox-replication-core` and the protobuf messages of `twinbox-wire`: the disk and
//! the peers get the same messages. On disk a format-version byte stands before each.
//!
//! Decoding takes bytes from anywhere: a part that is incomplete, or of an unknown kind, is an error, never a panic. Fields of
//! messages that this release does not know are kept. Nothing is dropped silently, since a record that lost a field would
//! forget a write. Records and changes are read and written field by field (`read.rs`, `write.rs`), since each is a part of every
//! commit: one pass, without a copy for each stamp. A test holds them against the messages as `prost` has them. Rows are hashed by these
//! bytes (`hashes.rs`).

pub mod hashes;
pub mod keys;
mod message;
mod read;
mod stamps;
mod write;

use bytes::{Buf, Bytes};
use prost::Message;
use twinbox_ids::{BlobHash, Origin, Stamp};
use twinbox_replication_core::{BlobRef, Change, Record, Vector};
use twinbox_wire::replication as wire;

use message::Writer;

/// The version of the disk format, before each value.
pub const FORMAT: u8 = 3;

/// The numbers of a record's tables, of stamps and of origins, in its message.
const STAMPS: u32 = 3;
const ORIGINS: u32 = 4;

/// Bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a release with another format.
    #[error("format version {found} is not that of this release, {FORMAT}: {}", remedy(*found))]
    Version {
        /// The version.
        found: u8,
    },
    /// There are no bytes.
    #[error("no data")]
    Empty,
    /// The bytes are no protobuf message.
    #[error("not a protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A required part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A part has an invalid value.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

fn remedy(found: u8) -> &'static str {
    match found < FORMAT {
        true => {
            "use the release that wrote it, or move the data folder to another place and start with an empty one, \
             which the other nodes fill"
        }
        false => "use the release that wrote it",
    }
}

/// A record as it lies on disk.
pub fn encode_record(record: &Record) -> Vec<u8> {
    written(&[FORMAT], |writer| write::record(record, writer))
}

/// The inverse of [`encode_record`].
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    read::record(message(bytes)?)
}

/// The message in a readable record as it lies on disk, which [`record_from_bytes`] reads: without its format version, not copied.
pub fn stored_message(record: Vec<u8>) -> Bytes {
    let mut message = Bytes::from(record);
    message.advance(message.len().min(1));
    message
}

/// A change as it lies on disk.
pub fn encode_change(change: &Change) -> Vec<u8> {
    written(&[FORMAT], |writer| write::change(change, writer))
}

/// The inverse of [`encode_change`].
pub fn decode_change(bytes: &[u8]) -> Result<Change, DecodeError> {
    read::change(message(bytes)?)
}

/// The name of a blob as it lies on disk.
pub fn encode_blob(blob: &BlobRef) -> Vec<u8> {
    written(&[FORMAT], |writer| write::blob(blob, writer))
}

/// The inverse of [`encode_blob`].
pub fn decode_blob(bytes: &[u8]) -> Result<BlobRef, DecodeError> {
    Ok(read::blob(message(bytes)?)?.0)
}

/// The reading of the clock as it lies on disk.
pub fn encode_stamp(stamp: Stamp) -> Vec<u8> {
    let Stamp { wall, counter, origin } = stamp;
    let reading = wire::ClockReading { wall, counter, origin: origin_to_wire(origin) };
    written(&[FORMAT], |writer| reading.encode_raw(&mut writer.0))
}

/// The inverse of [`encode_stamp`].
pub fn decode_stamp(bytes: &[u8]) -> Result<Stamp, DecodeError> {
    let wire::ClockReading { wall, counter, origin } = Message::decode(message(bytes)?)?;
    Ok(Stamp { wall, counter, origin: origin_from_wire(&origin)? })
}

/// Encodes the number up to which changes of an origin are present, for storage.
pub fn encode_upto(upto: u64) -> Vec<u8> {
    [&[FORMAT][..], &upto.to_be_bytes()].concat()
}

/// Decodes what [`encode_upto`] made; 0 when nothing is stored.
pub fn decode_upto(bytes: Option<&[u8]>) -> Result<u64, DecodeError> {
    match bytes {
        None => Ok(0),
        Some([FORMAT, upto @ ..]) => {
            Ok(u64::from_be_bytes(upto.try_into().map_err(|_| DecodeError::Invalid("length"))?))
        }
        Some([found, ..]) => Err(DecodeError::Version { found: *found }),
        Some([]) => Err(DecodeError::Empty),
    }
}

/// Bytes of a usual record or change: a buffer that grows to them from nothing is copied seven times.
const USUAL: usize = 256;

fn written(before: &[u8], write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer(Vec::with_capacity(USUAL));
    writer.0.extend_from_slice(before);
    write(&mut writer);
    writer.0
}

/// The message behind the format version.
fn message(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, message)) => Ok(message),
        Some((&found, _)) => Err(DecodeError::Version { found }),
    }
}

/// A change for the wire, with the parts that this release does not know.
pub fn change_to_bytes(change: &Change) -> Vec<u8> {
    written(&[], |writer| write::change(change, writer))
}

/// A change from the wire, with the parts that this release does not know.
pub fn change_from_bytes(bytes: &[u8]) -> Result<Change, DecodeError> {
    read::change(bytes)
}

/// A record for the wire, with the parts that this release does not know.
pub fn record_to_bytes(record: &Record) -> Vec<u8> {
    written(&[], |writer| write::record(record, writer))
}

/// A record from the wire, with the parts that this release does not know.
pub fn record_from_bytes(bytes: &[u8]) -> Result<Record, DecodeError> {
    read::record(bytes)
}

/// A vector for the wire.
pub fn vector_to_wire(vector: &Vector) -> wire::Vector {
    let prefix = |(origin, upto)| wire::Prefix { origin: origin_to_wire(origin), upto };
    wire::Vector { prefix: vector.iter().map(prefix).collect() }
}

/// A vector from the wire.
pub fn vector_from_wire(vector: &wire::Vector) -> Result<Vector, DecodeError> {
    vector.prefix.iter().map(|prefix| Ok((origin_from_wire(&prefix.origin)?, prefix.upto))).collect()
}

/// A blob's hash from the wire.
pub fn hash_from_wire(hash: &[u8]) -> Result<BlobHash, DecodeError> {
    hash.try_into().map(BlobHash).map_err(|_| DecodeError::Invalid("blob hash"))
}

/// An origin for the wire.
pub fn origin_to_wire(origin: Origin) -> Bytes {
    Bytes::copy_from_slice(&origin.to_bytes())
}

/// An origin from the wire.
pub fn origin_from_wire(origin: &[u8]) -> Result<Origin, DecodeError> {
    Origin::from_slice(origin).ok_or(DecodeError::Invalid("origin"))
}
