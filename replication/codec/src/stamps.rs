//! The stamps of a record: each stands once in its message, with its origin as a number, and is named by its place.
//!
//! All edits that a commit makes of a record have one stamp, and few origins ever write to one record.

use std::{cmp::Ordering, collections::BTreeMap};

use twinbox_ids::{Origin, Stamp};

use crate::{
    DecodeError,
    message::{Fields, Writer},
    origin_from_wire,
};

/// The stamps of a record that is written, in the order of their first use.
#[derive(Default)]
pub(crate) struct Used {
    stamps: Numbered<Stamp>,
    origins: Numbered<Origin>,
}

/// Values, each with the number of those before it.
struct Numbered<T> {
    in_order: Vec<T>,
    /// All of them, once they are more than a few.
    numbers: BTreeMap<T, u32>,
}

/// Maximum values that are compared one after the other. Most records have one stamp.
const FEW: usize = 8;

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { in_order: Vec::new(), numbers: BTreeMap::new() }
    }
}

impl<T: Copy + Ord> Numbered<T> {
    fn number(&mut self, value: T) -> u32 {
        let known = match self.in_order.len() <= FEW {
            true => self.in_order.iter().position(|known| *known == value).map(|at| at as u32),
            false => self.numbers.get(&value).copied(),
        };
        if let Some(known) = known {
            return known;
        }
        // A record is smaller than 4 GiB.
        let next = self.in_order.len() as u32;
        self.in_order.push(value);
        match self.in_order.len().cmp(&(FEW + 1)) {
            Ordering::Less => {}
            Ordering::Equal => self.numbers = self.in_order.iter().copied().zip(0..).collect(),
            Ordering::Greater => {
                self.numbers.insert(value, next);
            }
        }
        next
    }
}

impl Used {
    pub(crate) fn stamp(&mut self, stamp: Stamp) -> u32 {
        self.stamps.number(stamp)
    }

    pub(crate) fn origin(&mut self, origin: Origin) -> u32 {
        self.origins.number(origin)
    }

    /// Writes the tables, behind the fields that use them.
    pub(crate) fn write(mut self, (stamps, origins): (u32, u32), writer: &mut Writer) {
        for stamp in std::mem::take(&mut self.stamps.in_order) {
            let origin = self.origin(stamp.origin);
            writer.nested(stamps, |writer| {
                writer.number(1, stamp.wall);
                writer.number(2, stamp.counter.into());
                writer.number(3, origin.into());
            });
        }
        self.origins.in_order.iter().for_each(|origin| writer.present_bytes(origins, &origin.to_bytes()));
    }
}

/// The stamps of a record that is read.
#[derive(Default)]
pub(crate) struct Read {
    stamps: Vec<Stamp>,
    origins: Vec<Origin>,
    /// Number of the other parts of the message.
    pub(crate) others: usize,
}

impl Read {
    /// The tables in a record's message.
    pub(crate) fn of(record: &[u8], (stamps, origins): (u32, u32)) -> Result<Self, DecodeError> {
        let (mut read, mut messages) = (Self::default(), Vec::new());
        for field in Fields(record) {
            let field = field?;
            if field.number == stamps {
                messages.push(field.bytes()?);
            } else if field.number == origins {
                read.origins.push(origin_from_wire(field.bytes()?)?);
            } else {
                read.others += 1;
            }
        }
        for message in messages {
            let (mut wall, mut counter, mut origin) = (0, 0, 0);
            for field in Fields(message) {
                let field = field?;
                match field.number {
                    1 => wall = field.number()?,
                    2 => counter = field.small()?,
                    3 => origin = field.small()?,
                    _ => {}
                }
            }
            read.stamps.push(Stamp { wall, counter, origin: read.origin(origin)? });
        }
        Ok(read)
    }

    pub(crate) fn stamp(&self, number: u32) -> Result<Stamp, DecodeError> {
        self.stamps.get(number as usize).copied().ok_or(DecodeError::Invalid("number of a stamp"))
    }

    pub(crate) fn origin(&self, number: u32) -> Result<Origin, DecodeError> {
        self.origins.get(number as usize).copied().ok_or(DecodeError::Invalid("number of an origin"))
    }
}
