//! Protobuf messages, field by field, over borrowed bytes: what this release does not know is seen, and can be kept.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use twinbox_replication_core::Part;

use crate::DecodeError;

/// A field of a message.
pub(crate) struct Raw<'a> {
    pub(crate) number: u32,
    content: Content<'a>,
    /// Number and content.
    bytes: &'a [u8],
}

enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Raw<'a> {
    /// The content of a message, of bytes or of a list of numbers.
    pub(crate) fn bytes(&self) -> Result<&'a [u8], DecodeError> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Number(_) | Content::Other => Err(DecodeError::Invalid("kind of a field")),
        }
    }

    /// A number of 64 bits.
    pub(crate) fn number(&self) -> Result<u64, DecodeError> {
        match self.content {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) | Content::Other => Err(DecodeError::Invalid("kind of a field")),
        }
    }

    /// A number of 32 bits.
    pub(crate) fn small(&self) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(|_| DecodeError::Invalid("number"))
    }

    /// The field as it came.
    pub(crate) fn part(&self) -> Part {
        Part { number: self.number, bytes: self.bytes.to_vec() }
    }
}

/// The fields of a message, in their order.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<Raw<'a>, DecodeError> {
        let mut rest = self.0;
        let (number, kind) = key(&mut rest)?;
        let content = match kind {
            WireType::Varint => Content::Number(varint(&mut rest)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(varint(&mut rest)?).ok();
                let payload = length.and_then(|length| rest.get(..length)).ok_or(DecodeError::Invalid("length"))?;
                rest.advance(payload.len());
                Content::Bytes(payload)
            }
            _ => {
                skip_field(kind, number, &mut rest, DecodeContext::default())?;
                Content::Other
            }
        };
        let bytes = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok(Raw { number, content, bytes })
    }
}

/// A number; most have one byte.
fn varint(bytes: &mut &[u8]) -> Result<u64, prost::DecodeError> {
    let [byte @ ..0x80, rest @ ..] = *bytes else { return decode_varint(bytes) };
    *bytes = rest;
    Ok(u64::from(*byte))
}

/// Number and kind of a field; most have one byte.
fn key(bytes: &mut &[u8]) -> Result<(u32, WireType), prost::DecodeError> {
    let [byte @ 8..0x80, rest @ ..] = *bytes else { return decode_key(bytes) };
    let kind = WireType::try_from(u64::from(byte & 7))?;
    *bytes = rest;
    Ok((u32::from(byte >> 3), kind))
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Raw<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The numbers of a packed list.
pub(crate) fn packed(mut list: &[u8]) -> impl Iterator<Item = Result<u32, DecodeError>> {
    std::iter::from_fn(move || {
        let number = (!list.is_empty()).then(|| varint(&mut list))?;
        if number.is_err() {
            list = &[];
        }
        let number = number.map_err(DecodeError::from);
        Some(number.and_then(|number| u32::try_from(number).map_err(|_| DecodeError::Invalid("number"))))
    })
}

/// Writes a message as protobuf's canonical encoding has it: what has its default value is left out.
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, field: u32, number: u64) {
        if number != 0 {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(number, &mut self.0);
        }
    }

    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.present_bytes(field, bytes);
        }
    }

    /// As [`Self::bytes`], for a field whose presence says something.
    pub(crate) fn present_bytes(&mut self, field: u32, bytes: &[u8]) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    /// A list of numbers.
    pub(crate) fn packed(&mut self, field: u32, numbers: impl Iterator<Item = u32>) {
        let mut numbers = numbers.peekable();
        if numbers.peek().is_some() {
            self.nested(field, |writer| numbers.for_each(|number| encode_varint(number.into(), &mut writer.0)));
        }
    }

    /// A message within the message.
    pub(crate) fn nested(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        let at = self.0.len();
        // Most are shorter than 128 bytes.
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = length as u8;
        } else {
            let mut varint = Vec::with_capacity(10);
            encode_varint(length as u64, &mut varint);
            self.0.splice(at..=at, varint);
        }
    }

    /// Fields as they came.
    pub(crate) fn parts<'a>(&mut self, parts: impl Iterator<Item = &'a Part>) {
        parts.for_each(|part| self.0.extend_from_slice(&part.bytes));
    }
}
